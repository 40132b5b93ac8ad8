package nkv

import (
	"bufio"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A fake plays the daemon, in the order that a test says.
type fake struct {
	t        testing.TB
	listener net.Listener
	epoch    string
}

func newFake(t testing.TB) *fake {
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "fake.sock"))
	check(t, err)
	t.Cleanup(func() { listener.Close() })
	return &fake{t: t, listener: listener, epoch: "e"}
}

func (f *fake) address() string { return f.listener.Addr().String() }

// A peer is a client, as the daemon sees it.
type peer struct {
	t      testing.TB
	stream net.Conn
	lines  *bufio.Reader
}

// meet takes the next client that connects.
func (f *fake) meet() *peer {
	f.t.Helper()
	f.listener.(*net.UnixListener).SetDeadline(time.Now().Add(patience))
	stream, err := f.listener.Accept()
	check(f.t, err)
	f.t.Cleanup(func() { stream.Close() })
	return &peer{f.t, stream, bufio.NewReader(stream)}
}

// greet takes the next client that connects, and answers its greeting.
func (f *fake) greet() *peer {
	f.t.Helper()
	p := f.meet()
	id, op := p.receive()
	if !strings.HasPrefix(op, `"op":"hello"`) {
		f.t.Fatalf("the greeting is %s", op)
	}
	p.answer(id, f.hello())
	return p
}

func (f *fake) hello() string {
	return fmt.Sprintf(`"ok":true,"server":"fake","protocol":1,"epoch":%q,"rev":0,"limits":{}`, f.epoch)
}

// receive gives the id of a request, and the rest of its line.
func (p *peer) receive() (id, rest string) {
	p.t.Helper()
	line := p.line()
	if _, err := fmt.Sscanf(line, `{"id":%s`, &id); err != nil {
		p.t.Fatalf("%q has no id in the front", line)
	}
	id, _, _ = strings.Cut(id, ",")
	return id, strings.TrimSuffix(strings.TrimPrefix(line, `{"id":`+id+","), "}")
}

func (p *peer) line() string {
	p.t.Helper()
	p.stream.SetReadDeadline(time.Now().Add(patience))
	line, err := p.lines.ReadString('\n')
	check(p.t, err)
	return strings.TrimSuffix(line, "\n")
}

// expect receives just this request.
func (p *peer) expect(want string) (id string) {
	p.t.Helper()
	id, got := p.receive()
	equal(p.t, got, want)
	return id
}

// expectEnd sees the client hang up without another word.
func (p *peer) expectEnd() {
	p.t.Helper()
	p.stream.SetReadDeadline(time.Now().Add(patience))
	line, err := p.lines.ReadString('\n')
	if err == nil {
		p.t.Fatalf("there is another request: %s", line)
	}
}

func (p *peer) answer(id, fields string) { p.send(fmt.Sprintf("{\"id\":%s,%s}\n", id, fields)) }

func (p *peer) event(sub, fields string) { p.send(fmt.Sprintf("{\"sub\":%s,%s}\n", sub, fields)) }

func (p *peer) send(text string) {
	p.t.Helper()
	if _, err := p.stream.Write([]byte(text)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) cut() { p.stream.Close() }
