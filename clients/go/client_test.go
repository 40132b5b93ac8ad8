package nkv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A put is repeated where that does no harm, and nowhere else. Each word is what becomes of an attempt, in the
// history after the @; the last is what the caller is told.
func TestThePutsFate(t *testing.T) {
	for _, test := range []struct {
		name    string
		options []PutOption
		script  string
		want    error
	}{
		{"plain", nil, "unsent unsent done", nil},
		{"plain lost", nil, "lost", ErrUnanswered},
		{"plain refused", nil, "limit", ErrLimit},
		{"plain unsent and refused", nil, "unsent limit", ErrLimit},
		{"if changed", []PutOption{IfChanged}, "lost unsent lost@f done@g", nil},
		{"if changed, then refused", []PutOption{IfChanged}, "lost read_only", ErrUnanswered},
		{"if rev", []PutOption{IfRev(3)}, "conflict", ErrConflict},
		{"if rev lost", []PutOption{IfRev(3)}, "lost done", nil},
		{"if rev lost and changed", []PutOption{IfRev(3)}, "lost conflict", ErrUnanswered},
		{"if rev unsent", []PutOption{IfRev(3)}, "unsent conflict", ErrConflict},
		{"if rev long lost", []PutOption{IfRev(3)}, "lost lost unsent conflict", ErrUnanswered},
		{"if rev in another history", []PutOption{IfRev(3)}, "lost hello@f", ErrUnanswered},
		{"if rev unsent in another history", []PutOption{IfRev(3)}, "unsent done@f", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t)
			attempts := strings.Fields(test.script)
			// Of a connection that is to fail before the request was sent the greeting gets through.
			dialed := 0
			dial := func(ctx context.Context) (net.Conn, error) {
				stream, err := net.Dial("unix", f.address())
				if dialed < len(attempts) && strings.HasPrefix(attempts[dialed], "unsent") {
					stream = &mute{Conn: stream}
				}
				dialed++
				return stream, err
			}
			client := newClient(t, "", WithDialer(dial))
			told := make(chan error, 1)
			go func() {
				_, err := client.Put(patient(t), "a", 1, test.options...)
				told <- err
			}()
			for _, attempt := range attempts {
				what, epoch, isOther := strings.Cut(attempt, "@")
				if f.epoch = "e"; isOther {
					f.epoch = epoch
				}
				p := f.greet()
				if what == "unsent" {
					p.expectEnd()
					continue
				}
				if what == "hello" {
					// It is not sent again.
					err := <-told
					client.Close()
					p.expectEnd()
					told <- err
					break
				}
				id, _ := p.receive()
				switch what {
				case "lost":
					p.cut()
				case "done":
					p.answer(id, `"ok":true,"rev":4`)
				default:
					p.answer(id, fmt.Sprintf(`"ok":false,"error":%q,"message":"","rev":4`, what))
				}
			}
			err := <-told
			if test.want == nil {
				check(t, err)
			} else {
				wantError(t, err, test.want)
			}
			if test.want != ErrUnanswered && errors.Is(err, ErrUnanswered) {
				t.Fatalf("it is known what became of it: %v", err)
			}
		})
	}
}

// A mute connection sends its greeting and nothing more.
type mute struct {
	net.Conn
	hasGreeted bool
}

func (m *mute) Write(bytes []byte) (int, error) {
	if m.hasGreeted {
		m.Close()
		return 0, errors.New("it is broken")
	}
	m.hasGreeted = true
	return m.Conn.Write(bytes)
}

// The answers' bytes stop coming, at each place there is.
func TestCutAtEachByte(t *testing.T) {
	f := newFake(t)
	ctx := patient(t)
	for _, test := range []struct {
		name     string
		ask      func(*Client) error
		answer   string
		isAsked2 bool // whether it is asked again where the answer was lost
	}{
		{"get", func(c *Client) error {
			entry, err := Get[string](ctx, c, "a")
			if err == nil && entry.Value != "x" {
				err = fmt.Errorf("it is %v", entry)
			}
			return err
		}, `"ok":true,"key":"a","value":"x","rev":1`, true},
		{"put", func(c *Client) error {
			_, err := c.Put(ctx, "a", 1)
			return err
		}, `"ok":true,"rev":1`, false},
		{"put if changed", func(c *Client) error {
			_, err := c.Put(ctx, "a", 1, IfChanged)
			return err
		}, `"ok":true,"rev":1`, true},
		{"batch", func(c *Client) error {
			_, err := c.Commit(ctx, new(Batch).Put("a", 1))
			return err
		}, `"ok":true,"rev":1`, false},
		{"delete", func(c *Client) error {
			_, err := c.Delete(ctx, "a")
			return err
		}, `"ok":true,"deleted":1,"rev":1`, false},
	} {
		hello := fmt.Sprintf("{\"id\":1,%s}\n", f.hello())
		answer := fmt.Sprintf("{\"id\":2,%s}\n", test.answer)
		for cut := 0; cut <= len(hello)+len(answer); cut++ {
			client := newClient(t, f.address())
			told := make(chan error, 1)
			go func() { told <- test.ask(client) }()
			p := f.meet()
			p.receive()
			isGreeted := cut >= len(hello)
			if !isGreeted {
				p.send(hello[:cut])
			} else {
				p.send(hello)
				p.receive()
				p.send(answer[:cut-len(hello)])
			}
			p.cut()
			if cut == len(hello)+len(answer) || isGreeted && !test.isAsked2 {
				err := <-told
				if isLost := cut < len(hello)+len(answer); isLost {
					wantError(t, err, ErrUnanswered)
				} else {
					check(t, err)
				}
			} else {
				p := f.greet()
				id, _ := p.receive()
				p.answer(id, test.answer)
				if err := <-told; err != nil {
					t.Fatalf("%s, cut after %d bytes: %v", test.name, cut, err)
				}
			}
			client.Close()
		}
	}
}

func TestAContextEndsTheWaiting(t *testing.T) {
	f := newFake(t)
	client := newClient(t, f.address())
	ended := make(chan *peer)
	go func() { ended <- f.greet() }()
	_, err := client.Conn(patient(t))
	check(t, err)
	p := <-ended

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = client.Put(ctx, "a", 0)
	wantError(t, err, context.Canceled)
	if errors.Is(err, ErrUnanswered) {
		t.Fatal("what was not sent has no fate")
	}
	// What was sent may be carried out, unless it only reads.
	for _, ask := range []func(context.Context) error{
		func(ctx context.Context) error { _, err := client.Put(ctx, "a", 1); return err },
		func(ctx context.Context) error { _, err := client.Get(ctx, "a"); return err },
	} {
		ctx, cancel := context.WithCancel(context.Background())
		told := make(chan error, 1)
		go func() { told <- ask(ctx) }()
		id, op := p.receive()
		cancel()
		err := <-told
		wantError(t, err, context.Canceled)
		equal(t, errors.Is(err, ErrUnanswered), strings.Contains(op, "put"))
		// The late answer is nobody else's.
		p.answer(id, `"ok":true,"rev":1,"key":"a","value":1`)
	}
	told := make(chan error, 1)
	go func() { told <- client.Ping(context.Background()) }()
	p.answer(p.expect(`"op":"ping"`), `"ok":true`)
	check(t, <-told)
}

func TestWithoutADaemonTheReasonIsTold(t *testing.T) {
	client := newClient(t, t.TempDir()+"/nothing.sock")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := client.Get(ctx, "a")
	wantError(t, err, ErrUnreachable, context.DeadlineExceeded)
	if !strings.Contains(err.Error(), "nothing.sock") {
		t.Fatalf("%v does not say what was tried", err)
	}
	client.Close()
	_, err = client.Get(patient(t), "a")
	wantError(t, err, ErrClosed)
	_, err = New("nowhere")
	wantError(t, err, ErrAddress)
}

func TestARefusedGreetingIsToldAtOnce(t *testing.T) {
	f := newFake(t)
	client := newClient(t, f.address(), WithToken("mellon"), WithName("test"))
	told := make(chan error, 1)
	go func() { told <- client.Ping(patient(t)) }()
	p := f.meet()
	p.answer(p.expect(`"op":"hello","client":"test","token":"mellon"`), `"ok":false,"error":"unauthenticated","message":"no"`)
	wantError(t, <-told, ErrUnauthenticated)
	// One that is full is asked again, and says so without being asked.
	go func() { told <- client.Ping(patient(t)) }()
	p = f.meet()
	p.send("{\"ok\":false,\"error\":\"limit\",\"message\":\"full\"}\n")
	p.cut()
	p = f.greet()
	p.answer(p.expect(`"op":"ping"`), `"ok":true`)
	check(t, <-told)
}

func TestAPeerThatIsNoDaemonIsLeft(t *testing.T) {
	f := newFake(t)
	for _, line := range []string{"hello\n", "{\"id\":9,\"ok\":true}\n", "{\"ok\":true}\n", "{}\n", "{\"id\":1,\"ok\":true}\n"} {
		told := make(chan error, 1)
		go func() {
			_, err := Dial(patient(t), f.address())
			told <- err
		}()
		p := f.meet()
		p.receive()
		p.send(line)
		wantError(t, <-told, ErrProtocol)
	}
}

func TestAnAnswerToAnotherRequestEndsTheConnection(t *testing.T) {
	f := newFake(t)
	client := newClient(t, f.address())
	told := make(chan error, 1)
	go func() { told <- err2(client.Put(patient(t), "a", 1)) }()
	p := f.greet()
	p.receive()
	p.answer("9", `"ok":true,"rev":1`)
	wantError(t, <-told, ErrUnanswered, ErrProtocol)
	p.expectEnd()
}

func TestASilentPeerIsGivenUp(t *testing.T) {
	f := newFake(t)
	client := newClient(t, f.address())
	client.options.silence = 10 * time.Millisecond
	told := make(chan error, 1)
	go func() { told <- client.Ping(patient(t)) }()
	p := f.greet()
	p.expect(`"op":"ping"`)
	p.expect(`"op":"ping"`) // the connection's own
	p = f.greet()
	p.answer(p.expect(`"op":"ping"`), `"ok":true`)
	check(t, <-told)
}

func TestManyGoroutinesShareAConnection(t *testing.T) {
	d := startDaemon(t, "--in-memory")
	client := newClient(t, d.socket, WithName("many"))
	ctx := patient(t)
	mirror, err := NewMirror(ctx, client, "many", Handlers[int]{})
	check(t, err)
	var all sync.WaitGroup
	for number := 0; number < 50; number++ {
		all.Add(1)
		go func(key string) {
			defer all.Done()
			for value := 0; value < 40; value++ {
				if _, err := client.Put(ctx, key, value); err != nil {
					t.Error(err)
				}
				entry, err := Get[int](ctx, client, key)
				if err != nil || entry.Value != value {
					t.Errorf("%d, %v", entry.Value, err)
				}
				if _, err := Update(ctx, client, "count", func(n int, _ bool) (int, error) { return n + 1, nil }); value < 4 && err != nil {
					t.Error(err)
				} else if value == 3 {
					break
				}
			}
		}(fmt.Sprintf("many.%d", number))
	}
	all.Wait()
	count, err := Get[int](ctx, client, "count")
	check(t, err)
	equal(t, count.Value, 200)
	until(t, "the mirror has it all", func() bool {
		for _, value := range mirror.Snapshot() {
			if value != 3 {
				return false
			}
		}
		return len(mirror.Snapshot()) == 50
	})
	peers, err := client.Clients(ctx)
	check(t, err)
	equal(t, len(peers), 1)
	equal(t, peers[0].Name, "many")
	stats, err := client.Stats(ctx)
	check(t, err)
	equal(t, stats["keys"], 51)
}

func TestEachKindOfRequest(t *testing.T) {
	client := newClient(t, startDaemon(t, "--in-memory").socket)
	ctx := patient(t)
	for number := 0; number < 1500; number++ {
		check(t, err2(client.Put(ctx, fmt.Sprintf("list.%04d", number), number)))
	}
	entries, err := List[int](ctx, client, "list.*")
	check(t, err)
	equal(t, len(entries), 1500)
	equal(t, entries[1234].Value, 1234)
	keys, err := client.Keys(ctx, "list.*")
	check(t, err)
	equal(t, keys[1499], "list.1499")
	keys, err = client.Keys(ctx, "list.0007")
	check(t, err)
	equal(t, len(keys), 1)
	none, err := client.List(ctx, "nothing")
	check(t, err)
	equal(t, len(none), 0)

	written, err := client.Put(ctx, "a", 1, Boot)
	check(t, err)
	again, err := client.Put(ctx, "a", 1, Boot, IfChanged)
	check(t, err)
	equal(t, again, Written{written.Rev, true})
	_, err = client.Put(ctx, "a", 2, IfRev(0))
	wantError(t, err, ErrConflict)
	var refusal *Error
	equal(t, errors.As(err, &refusal), true)
	equal(t, refusal.Rev, written.Rev)
	entry, err := Get[int](ctx, client, "a")
	check(t, err)
	equal(t, entry, Entry[int]{"a", 1, written.Rev, Boot, 0})
	_, err = Get[string](ctx, client, "a")
	wantError(t, err, ErrValue)
	_, err = client.Get(ctx, "missing")
	wantError(t, err, ErrNotFound)
	_, err = client.Get(ctx, "a.*")
	wantError(t, err, ErrBadKey)
	_, err = client.Put(ctx, "a..b", 1)
	wantError(t, err, ErrBadKey)
	_, err = client.Put(ctx, "a", strings.Repeat("x", 2<<20))
	wantError(t, err, ErrTooLarge)

	// An update keeps the terms of the entry.
	check(t, err2(client.Put(ctx, "t", 1, TTL(time.Hour))))
	check(t, err2(Update(ctx, client, "t", func(old int, _ bool) (int, error) { return old + 1, nil })))
	entry, err = Get[int](ctx, client, "t")
	check(t, err)
	if entry.Value != 2 || entry.Lifetime != Boot || entry.TTL < time.Minute {
		t.Fatal(entry)
	}
	no := errors.New("no")
	_, err = Update(ctx, client, "t", func(int, bool) (int, error) { return 0, no })
	wantError(t, err, no)

	_, err = client.Commit(ctx, new(Batch).Put("b", 1).Check("a", 99))
	wantError(t, err, ErrConflict)
	errors.As(err, &refusal)
	equal(t, refusal.At, 1)
	rev, err := client.Commit(ctx, new(Batch).Put("b", []byte{1}).Delete("list.*").Check("a", written.Rev))
	check(t, err)
	deleted, err := client.Delete(ctx, "b", IfRev(rev-1500))
	check(t, err)
	equal(t, deleted.Count, 1)
}

func err2[T any](_ T, err error) error { return err }

func TestAnAnnouncementIsKeptUp(t *testing.T) {
	f := newFake(t)
	client := newClient(t, f.address())
	ctx := patient(t)
	begun := make(chan *Announcement)
	go func() {
		a, err := client.Announce(ctx, "here", 1)
		check(t, err)
		begun <- a
	}()
	p := f.greet()
	const fields = `"op":"put","key":"here","value":%d,"if_changed":true,"lifetime":"session"`
	p.answer(p.expect(fmt.Sprintf(fields, 1)), `"ok":true,"rev":1`)
	here := <-begun
	// Nobody asks anything, and it is announced again, before anything else.
	p.cut()
	p = f.greet()
	told := make(chan error, 2)
	go func() { told <- client.Ping(ctx) }()
	id := p.expect(fmt.Sprintf(fields, 1))
	// What is set while that goes on is told before the connection is handed out.
	here.change(announcement("here", 2))
	p.answer(id, `"ok":true,"rev":2`)
	p.answer(p.expect(fmt.Sprintf(fields, 2)), `"ok":true,"rev":3`)
	p.answer(p.expect(`"op":"ping"`), `"ok":true`)
	check(t, <-told)
	// A refusal is not the end: it is announced again.
	p.cut()
	p = f.greet()
	p.answer(p.expect(fmt.Sprintf(fields, 2)), `"ok":false,"error":"limit","message":""`)
	go func() { told <- client.Ping(ctx) }()
	p.answer(p.expect(`"op":"ping"`), `"ok":true`)
	check(t, <-told)
	p.answer(p.expect(fmt.Sprintf(fields, 2)), `"ok":true,"rev":3`)
	// Once more while the connection is made, and then no more.
	p.cut()
	p = f.greet()
	id = p.expect(fmt.Sprintf(fields, 2))
	here.Close()
	p.answer(id, `"ok":true,"rev":4`)
	p.answer(p.expect(`"op":"delete","key":"here"`), `"ok":true,"deleted":1,"rev":5`)
	p.cut()
	go func() { told <- client.Ping(ctx) }()
	p = f.greet()
	p.answer(p.expect(`"op":"ping"`), `"ok":true`)
	check(t, <-told)
}

func TestARefusedAnnouncementTakesNothingBack(t *testing.T) {
	f := newFake(t)
	client := newClient(t, f.address())
	told := make(chan error)
	go func() {
		_, err := client.Announce(patient(t), "here", 1)
		told <- err
		told <- client.Ping(patient(t))
	}()
	p := f.greet()
	id, _ := p.receive()
	p.answer(id, `"ok":false,"error":"denied","message":""`)
	wantError(t, <-told, ErrDenied)
	p.answer(p.expect(`"op":"ping"`), `"ok":true`)
	check(t, <-told)
}

// Each answer is what the next connection's daemon says to the claim, in the history after the @: a revision, or no.
func TestAClaimIsKeptUpOrLost(t *testing.T) {
	for _, c := range []struct {
		answer string
		loss   []error // none: it is held
	}{
		{"3@e", nil},
		{"9@e", []error{ErrLost}},
		{"3@f", []error{ErrLost}}, // the same revision by chance
		{"no@e", []error{ErrLost, ErrConflict}},
	} {
		t.Run(c.answer, func(t *testing.T) {
			f := newFake(t)
			client := newClient(t, f.address())
			ctx := patient(t)
			begun := make(chan *Claim)
			go func() {
				claim, err := client.Claim(ctx, "net")
				check(t, err)
				begun <- claim
				check(t, err2(client.Announce(ctx, "net.a", 1)))
				begun <- nil
			}()
			const announce = `"op":"put","key":"net.a","value":1,"if_changed":true,"lifetime":"session"`
			p := f.greet()
			p.answer(p.expect(`"op":"claim","key":"net"`), `"ok":true,"rev":3`)
			claim := <-begun
			p.answer(p.expect(announce), `"ok":true,"rev":4`)
			<-begun
			equal(t, claim.Rev(), 3)
			equal(t, claim.IsHeld(), true)
			check(t, claim.Err())

			p.cut()
			said, epoch, _ := strings.Cut(c.answer, "@")
			f.epoch = epoch
			p = f.greet()
			// Before the announcement, which may lie in what is claimed.
			id := p.expect(`"op":"claim","key":"net"`)
			equal(t, claim.IsHeld(), false)
			if said == "no" {
				p.answer(id, `"ok":false,"error":"conflict","message":""`)
			} else {
				p.answer(id, `"ok":true,"rev":`+said)
			}
			p.answer(p.expect(announce), `"ok":true,"rev":10`)
			if len(c.loss) == 0 {
				until(t, "it is held again", claim.IsHeld)
				claim.Close()
				p.expect(`"op":"release","key":"net"`)
			} else {
				<-claim.Lost()
				wantError(t, claim.Err(), c.loss...)
				// What is lost is not claimed again.
				p.cut()
				p = f.greet()
				p.answer(p.expect(announce), `"ok":true,"rev":11`)
				go client.Ping(ctx)
				p.answer(p.expect(`"op":"ping"`), `"ok":true`)
			}
			equal(t, claim.Rev(), 3)
			claim.Close()
			<-claim.Lost()
			equal(t, claim.IsHeld(), false)
			equal(t, claim.Err() != nil, true)
		})
	}
}

// What was granted on one connection and was lost on the next is taken back on that, where it has been granted again.
func TestALostClaimIsLetGo(t *testing.T) {
	f := newFake(t)
	client := newClient(t, f.address())
	begun := make(chan *Claim)
	go func() {
		claim, err := client.Claim(patient(t), "net")
		check(t, err)
		begun <- claim
	}()
	p := f.greet()
	p.answer(p.expect(`"op":"claim","key":"net"`), `"ok":true,"rev":3`)
	claim := <-begun
	p.cut()
	p = f.greet()
	p.answer(p.expect(`"op":"claim","key":"net"`), `"ok":true,"rev":5`)
	<-claim.Lost()
	check(t, err2(client.Conn(patient(t))))
	claim.Close()
	p.expect(`"op":"release","key":"net"`)
}

// A claim's answer that was lost is no claim that was free: the next connection's is the first.
func TestAClaimThatWasNotAnsweredIsNotLost(t *testing.T) {
	f := newFake(t)
	client := newClient(t, f.address())
	begun := make(chan *Claim)
	go func() {
		claim, err := client.Claim(patient(t), "net")
		check(t, err)
		begun <- claim
	}()
	p := f.greet()
	p.expect(`"op":"claim","key":"net"`)
	p.cut()
	p = f.greet()
	p.answer(p.expect(`"op":"claim","key":"net"`), `"ok":true,"rev":5`)
	// The one who called asks again, and is answered the same.
	p.answer(p.expect(`"op":"claim","key":"net"`), `"ok":true,"rev":5`)
	claim := <-begun
	equal(t, claim.IsHeld(), true)
	equal(t, claim.Rev(), 5)
	client.Close()
	<-claim.Lost()
	wantError(t, claim.Err(), ErrClosed)
}

func TestAClaimIsTheSameAfterARestart(t *testing.T) {
	directory := t.TempDir()
	d := startDaemon(t, "--data-dir", directory+"/data", "--runtime-dir", directory+"/run")
	client, other := newClient(t, d.socket), newClient(t, d.socket)
	ctx := patient(t)
	claim, err := client.Claim(ctx, "net")
	check(t, err)
	rev := claim.Rev()
	d.end(9)
	check(t, d.run())
	until(t, "it is held again", func() bool {
		_, err := other.Put(ctx, "net.a", 1)
		return errors.Is(err, ErrDenied) && claim.IsHeld()
	})
	equal(t, claim.Rev(), rev)
	check(t, claim.Err())
	// A daemon that keeps nothing has let it go.
	d.end(9)
	d.options = []string{"--in-memory"}
	check(t, d.run())
	<-claim.Lost()
	wantError(t, claim.Err(), ErrLost)
}

func TestAClaimIsWaitedFor(t *testing.T) {
	d := startDaemon(t, "--in-memory")
	client, other := newClient(t, d.socket), newClient(t, d.socket)
	ctx := patient(t)
	first, err := other.Claim(ctx, "net.eth0")
	check(t, err)
	short, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
	defer cancel()
	_, err = client.ClaimWhenFree(short, "net")
	wantError(t, err, ErrConflict, context.DeadlineExceeded)
	claims := make(chan *Claim)
	go func() {
		claim, err := client.ClaimWhenFree(ctx, "net")
		check(t, err)
		claims <- claim
	}()
	until(t, "it waits", func() bool {
		stats, err := other.Stats(ctx)
		check(t, err)
		return stats["subscriptions"] > 0
	})
	first.Close()
	claim := <-claims
	_, err = other.Put(ctx, "net.eth0", 1)
	wantError(t, err, ErrDenied)
	claim.Close()
}

func TestClaimsAboveAndBelowAreInTheWay(t *testing.T) {
	equal(t, claimsAbout("net.eth0"), "$claims.net")
	equal(t, claimsAbout("net"), "$claims.net")
	for entry, want := range map[string]bool{
		"$claims.net.eth0":     true,
		"$claims.net":          true,
		"$claims.net.eth0.mtu": true,
		"$claims.net.eth1":     false,
		"$claims.net.eth00":    false,
		"$claims.ne":           false,
		"net.eth0":             false,
	} {
		equal(t, isClaimInTheWay(entry, "net.eth0"), want)
	}
}

func TestNobodyElseWritesWhatIsClaimed(t *testing.T) {
	d := startDaemon(t, "--in-memory")
	client, other := newClient(t, d.socket), newClient(t, d.socket)
	ctx := patient(t)
	claim, err := client.Claim(ctx, "net")
	check(t, err)
	_, err = other.Claim(ctx, "net.eth0")
	wantError(t, err, ErrConflict)
	_, err = other.Put(ctx, "net.eth0", 1)
	wantError(t, err, ErrDenied)
	check(t, err2(client.Put(ctx, "net.eth0", 1)))
	peers, err := client.Clients(ctx)
	check(t, err)
	equal(t, len(peers[0].Claims)+len(peers[1].Claims), 1)
	// To announce the very key is another thing.
	here, err := client.Announce(ctx, "net", 1)
	check(t, err)
	defer here.Close()
	claim.Close()
	check(t, client.Ping(ctx))
	claim, err = other.Claim(ctx, "net.eth0")
	check(t, err)
	_, err = client.Put(ctx, "net.eth0", 1)
	wantError(t, err, ErrDenied)
	claim.Close()
}

func TestSessionEntriesComeBackWithTheDaemon(t *testing.T) {
	directory := t.TempDir()
	d := startDaemon(t, "--data-dir", directory+"/data", "--runtime-dir", directory+"/run")
	client, other := newClient(t, d.socket), newClient(t, d.socket)
	ctx := patient(t)
	here, err := client.Announce(ctx, "present.a", "on")
	check(t, err)
	var lost atomic.Int64
	mirror, err := NewMirror(ctx, other, "present", Handlers[string]{
		Deleted: func(string, string) { lost.Add(1) },
	})
	check(t, err)
	check(t, mirror.WaitSynced(ctx))
	d.end(9)
	check(t, d.run())
	check(t, here.Set(ctx, "back"))
	until(t, "it is seen", func() bool { value, _ := mirror.Get("present.a"); return value == "back" })
	equal(t, lost.Load(), 0)
	here.Close()
	until(t, "it is gone", func() bool { return lost.Load() == 1 })
}

func TestCloseLeavesNothing(t *testing.T) {
	d := startDaemon(t, "--in-memory")
	for round := 0; round < 3; round++ {
		client, err := New(d.socket)
		check(t, err)
		ctx := patient(t)
		_, err = client.Announce(ctx, "here", 1)
		check(t, err)
		mirror, err := NewMirror(context.Background(), client, "*", Handlers[Value]{})
		check(t, err)
		check(t, mirror.WaitSynced(ctx))
		// Nobody reads this one.
		unread := client.Subscribe(context.Background(), "*")
		read := client.Subscribe(context.Background(), "*")
		<-read.Events()
		followed := make(chan error)
		go func() { followed <- client.Follow(context.Background(), "*", func(Event) error { return nil }) }()
		waiting := make(chan error)
		d.process.Process.Signal(stopSignal)
		go func() { _, err := client.Put(context.Background(), "a", 1); waiting <- err }()
		until(t, "it is sent", func() bool {
			conn, _ := client.Conn(ctx)
			conn.mu.Lock()
			defer conn.mu.Unlock()
			return conn.written == conn.started
		})
		if round > 0 {
			check(t, client.Close())
			check(t, client.Close())
			d.process.Process.Signal(continueSignal)
		} else {
			d.end(9)
			check(t, d.run())
			<-waiting
			close(waiting)
			client.Close()
		}
		<-waiting
		wantError(t, <-followed, ErrClosed)
		for range unread.Events() {
		}
		for range read.Events() {
		}
		wantError(t, unread.Err(), ErrClosed)
		wantError(t, mirror.Err(), ErrClosed)
		_, err = NewMirror(ctx, client, "*", Handlers[Value]{})
		wantError(t, err, ErrClosed)
		wantError(t, client.Subscribe(ctx, "*").Err(), ErrClosed)
		if left := leftGoroutines(); left != "" {
			t.Fatal(left)
		}
	}
}

func TestPausesDoubleUpToTheLongest(t *testing.T) {
	pauses := backoff{first: 20, longest: 100}
	for round := 0; round < 2; round++ {
		for _, whole := range []time.Duration{20, 40, 80, 100, 100} {
			if pause := pauses.pause(); pause < whole/2 || pause > whole {
				t.Fatalf("%d of %d", pause, whole)
			}
		}
		equal(t, pauses.pauseAfter(100), 0)
	}
	if pauses.pauseAfter(99) < 10 || pauses.pauseAfter(99) < 20 {
		t.Fatal("a connection that is soon lost is followed by pauses that grow")
	}
}

// An error is one sentence: it names the package once, and each reason once.
func TestErrorsSayEachThingOnce(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "nkv.sock")
	client := newClient(t, absent)
	short, cancel := context.WithTimeout(patient(t), 50*time.Millisecond)
	defer cancel()
	equal(t, client.Ping(short).Error(), "nkv: the daemon can't be reached: dial unix "+absent+
		": connect: no such file or directory (context deadline exceeded)")

	// Who closes a connection is not told of the system's words for it.
	f := newFake(t)
	conn := make(chan *Conn, 1)
	go func() {
		dialed, err := Dial(patient(t), f.address())
		if err != nil {
			t.Error(err)
		}
		conn <- dialed
	}()
	p := f.greet()
	c, told := <-conn, make(chan error, 1)
	go func() {
		_, err := c.Put(patient(t), "a", 1)
		told <- err
	}()
	p.receive()
	c.Close()
	equal(t, (<-told).Error(), "nkv: sent and not answered: it may have been carried out: the connection is closed: by this program")
}

// Any name that a program has is one to connect with.
func TestNamesAreMadeToFit(t *testing.T) {
	socket := startDaemon(t, "--in-memory").socket
	for name, want := range map[string]string{
		strings.Repeat("n", 200):       strings.Repeat("n", 128),
		"x" + strings.Repeat("é", 100): "x" + strings.Repeat("é", 63),
		"n\xff\xfem":                   "n?m",
	} {
		client := newClient(t, socket, WithName(name))
		peers, err := client.Clients(patient(t))
		check(t, err)
		equal(t, len(peers), 1)
		equal(t, peers[0].Name, want)
		client.Close()
		until(t, "it is gone", func() bool {
			other := newClient(t, socket, WithName(""))
			defer other.Close()
			peers, err := other.Clients(patient(t))
			return err == nil && len(peers) == 1
		})
	}
}

// What a peer that reads nothing has not been handed is not kept for it when its caller has given up, and is known
// not to be carried out.
func TestWhatIsGivenUpBeforeItIsSentIsNotSent(t *testing.T) {
	f := newFake(t)
	client := newClient(t, f.address())
	told := make(chan error, 2)
	put := func(key string, value any) {
		_, err := client.Put(patient(t), key, value)
		told <- err
	}
	large := strings.Repeat("x", 1<<20)
	go put("first", large)
	p := f.greet()
	conn, err := client.Conn(patient(t))
	check(t, err)
	isWriting := func() bool {
		conn.mu.Lock()
		defer conn.mu.Unlock()
		return conn.isWriting && len(conn.out) == 0
	}
	until(t, "it is being written", isWriting)
	for i := 0; i < 10; i++ {
		short, cancel := context.WithTimeout(patient(t), time.Millisecond)
		if i == 5 {
			go put("between", 1)
			until(t, "it waits", func() bool { return !isWriting() })
		}
		_, err := client.Put(short, "given up", large)
		cancel()
		wantError(t, err, context.DeadlineExceeded)
		equal(t, errors.Is(err, ErrUnanswered), false)
		conn.mu.Lock()
		equal(t, len(conn.out) < 100, true)
		conn.mu.Unlock()
	}
	id, rest := p.receive()
	equal(t, strings.HasPrefix(rest, `"op":"put","key":"first"`), true)
	p.answer(id, `"ok":true,"rev":1`)
	p.answer(p.expect(`"op":"put","key":"between","value":1`), `"ok":true,"rev":2`)
	check(t, <-told)
	check(t, <-told)
	go put("last", 1)
	p.answer(p.expect(`"op":"put","key":"last","value":1`), `"ok":true,"rev":3`)
	check(t, <-told)
}
