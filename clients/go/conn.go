package nkv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"
)

const (
	// The longest line that is taken from a peer. Far above what a daemon with sensible limits sends.
	lineBytesMax = 256 << 20
	// How much of a buffer is kept when it is empty.
	bufferBytesKept = 64 << 10
	// How much surely fits into what the system holds for a peer that has answered everything.
	atOnceBytesMax = 4 << 10
	// How long a TCP peer may be silent before it is asked for a sign of life, and then again until it is
	// given up.
	silenceMax = 15 * time.Second
	// How long a daemon that takes nothing more may be read from.
	lastWordsMax = time.Second
)

// A Conn is one connection. It ends once, and repeats nothing: for what depends on the very connection, as
// a session entry of somebody who leads. Everything else is better off with a [Client], from which
// [Client.Conn] gets one.
//
// Requests of many goroutines are under way at the same time. They are carried out in the order in which
// they were made.
type Conn struct {
	requests
	net    net.Conn
	silent time.Duration // how long the peer may be so; 0: for ever
	hello  Hello

	wake chan struct{} // has room for one notice that there is something to write
	done chan struct{} // closed when nothing more can be asked
	gone chan struct{} // closed when all who waited have been told

	mu      sync.Mutex
	out     []byte // what the writer has not taken yet
	started uint64 // how many bytes were ever in out
	written uint64 // how many of them the system has taken
	waiting []*call
	next    int // the first of waiting that is not answered
	lastID  uint64
	inboxes map[uint64]*inbox
	err     error // why nothing more can be asked
	// What is handed to the system at the moment, without the lock.
	isWriting bool

	reading
}

// Hello is what the daemon says of itself.
type Hello struct {
	Server   string            `json:"server"`
	Protocol int               `json:"protocol"`
	Epoch    string            `json:"epoch"`
	Rev      uint64            `json:"rev"`
	Limits   map[string]uint64 `json:"limits"`
}

// A call is a request whose answer is waited for.
type call struct {
	id    uint64
	start uint64 // where it stands among all bytes
	reply chan reply
}

type reply struct {
	line string
	isOK bool
	err  error
}

// newConn begins to speak over a connection, and greets the daemon.
func newConn(ctx context.Context, stream net.Conn, name, token string, silence time.Duration) (*Conn, error) {
	c := &Conn{
		net:     stream,
		silent:  silence,
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
		gone:    make(chan struct{}),
		inboxes: make(map[uint64]*inbox),
	}
	c.reading = newReading(stream)
	c.requests.do = c.do
	// Registered before anything is read: a daemon that is full says so without being asked.
	greeting, err := c.send(helloRequest(name, token), nil)
	if err != nil {
		stream.Close()
		return nil, err
	}
	writing := make(chan struct{})
	go func() {
		defer close(writing)
		c.write()
	}()
	go func() {
		err := c.read()
		c.fail(err)
		if errors.Is(err, net.ErrClosed) {
			err = c.Err() // it was closed here, for a reason
		}
		<-writing
		c.tellAll(err)
	}()
	line, err := c.await(ctx, greeting)
	if cause := causeOf(ErrUnanswered, err); cause != nil {
		// Nobody has asked anything yet, so nothing is unknown.
		err = because(ErrUnreachable, cause)
	} else if err != nil && err == ctx.Err() {
		err = because(ErrUnreachable, err)
	}
	if err == nil {
		err = unmarshal(line, &c.hello)
		if err != nil || c.hello.Protocol != 1 {
			err = because(ErrProtocol, fmt.Errorf("it answers %q", line))
		}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Hello gives what the daemon said when the connection was made.
func (c *Conn) Hello() Hello { return c.hello }

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err tells why the connection has ended, and is nil while it has not.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection. Whoever waits for an answer is told that there won't be one.
func (c *Conn) Close() error {
	c.fail(because(ErrClosed, errors.New("by this program")))
	<-c.gone
	return nil
}

// do makes a request and waits for its answer.
func (c *Conn) do(ctx context.Context, request request) (string, error) {
	if err := request.err; err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	call, err := c.send(request, nil)
	if err != nil {
		return "", err
	}
	line, err := c.await(ctx, call)
	if cause := causeOf(ErrUnanswered, err); cause != nil && request.isRead {
		// What only reads has no fate to be unsure about.
		err = cause
	}
	return line, err
}

// send makes a request, whose answer may be waited for. Requests are carried out in the order of these
// calls. With an inbox it is a subscription, which has its events put there.
func (c *Conn) send(request request, in *inbox) (*call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	c.lastID++
	if in != nil {
		in.id = c.lastID
		c.inboxes[in.id] = in
	}
	call := &call{id: c.lastID, start: c.started, reply: make(chan reply, 1)}
	before := len(c.out)
	c.out = strconv.AppendUint(append(c.out, `{"id":`...), call.id, 10)
	c.out = append(append(c.out, request.fields...), "}\n"...)
	c.started += uint64(len(c.out) - before)
	c.waiting = append(c.waiting, call)
	isAlone := before == 0 && len(c.waiting) == c.next+1 && !c.isWriting
	if c.turn == nobodysTurn && isAlone && c.isSocket && len(c.out) <= atOnceBytesMax {
		// Everything before has been answered, so the system has room for this. What fails here fails in the
		// writer, too.
		n, _ := c.net.Write(c.out)
		c.written += uint64(n)
		c.out = c.out[:copy(c.out, c.out[n:])]
	}
	if len(c.out) > 0 {
		c.notice()
	}
	return call, nil
}

func (c *Conn) notice() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// await waits for an answer.
func (c *Conn) await(ctx context.Context, call *call) (string, error) {
	c.readFor(call)
	var reply reply
	select {
	case reply = <-call.reply:
	case <-ctx.Done():
		select {
		case reply = <-call.reply:
		default:
			if c.takeBack(call) {
				return "", ctx.Err()
			}
			return "", because(ErrUnanswered, ctx.Err())
		}
	}
	if reply.err != nil {
		return "", reply.err
	}
	if !reply.isOK {
		return "", readRefusal(reply.line)
	}
	return reply.line, nil
}

// takeBack takes back a request of which nothing was handed to the system, and tells whether it could. So what waits
// for a peer that reads nothing does not grow with those who have given up.
func (c *Conn) takeBack(call *call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := c.started - uint64(len(c.out)) // where what is left in out begins
	if call.start < first {
		return false
	}
	for i := len(c.waiting) - 1; i >= c.next; i-- {
		if c.waiting[i] != call {
			continue
		}
		end := c.started
		if i+1 < len(c.waiting) {
			end = c.waiting[i+1].start
		}
		c.out = append(c.out[:call.start-first], c.out[end-first:]...)
		c.started -= end - call.start
		c.waiting = append(c.waiting[:i], c.waiting[i+1:]...)
		for _, later := range c.waiting[i:] {
			later.start -= end - call.start
		}
		return true
	}
	return false
}

// subscribe begins a subscription.
func (c *Conn) subscribe(ctx context.Context, request request) (*inbox, answer, error) {
	in := newInbox(0)
	call, err := c.send(request, in)
	if err != nil {
		return nil, answer{}, err
	}
	line, err := c.await(ctx, call)
	if err == nil {
		var a answer
		if a, err = readAnswer(line); err == nil {
			return in, a, nil
		}
	}
	if isRefusal(err) {
		c.mu.Lock()
		delete(c.inboxes, in.id)
		c.mu.Unlock()
	} else {
		c.unsubscribe(in)
	}
	return nil, answer{}, err
}

// unsubscribe ends a subscription, without waiting for the daemon to know.
func (c *Conn) unsubscribe(in *inbox) {
	c.mu.Lock()
	_, isLive := c.inboxes[in.id]
	delete(c.inboxes, in.id)
	c.mu.Unlock()
	if isLive {
		c.send(unsubscribeRequest(in.id), nil) // in vain where the connection has ended, which is as good
	}
}

// fail ends the connection.
func (c *Conn) fail(err error) {
	c.refuse(err)
	c.net.Close()
}

// refuse lets nobody ask anything more.
func (c *Conn) refuse(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		close(c.done)
	}
}

// write hands requests to the system, as many at a time as there are.
func (c *Conn) write() {
	var buffer []byte
	for {
		select {
		case <-c.wake:
		case <-c.done:
			return
		}
		c.mu.Lock()
		buffer, c.out = c.out, buffer[:0]
		c.isWriting = true
		c.mu.Unlock()
		n, err := c.net.Write(buffer)
		c.mu.Lock()
		c.written += uint64(n)
		c.isWriting = false
		c.mu.Unlock()
		if err != nil {
			c.refuse(because(ErrClosed, err))
			// The reason may be waiting to be read.
			c.net.SetReadDeadline(time.Now().Add(lastWordsMax))
			return
		}
		if cap(buffer) > bufferBytesKept {
			buffer = nil
		}
	}
}

// take gives a line to whom it is for.
func (c *Conn) take(line string) error {
	if skipSpace(line, 0) == len(line) {
		return nil
	}
	head, err := readHead(line)
	if err != nil {
		return err
	}
	if head.isSub {
		return c.takeEvent(head.id, line)
	}
	c.mu.Lock()
	if c.next == len(c.waiting) {
		c.mu.Unlock()
		return errors.New("an answer to no request")
	}
	call := c.waiting[c.next]
	c.waiting[c.next] = nil
	if c.next++; c.next == len(c.waiting) {
		c.waiting, c.next = c.waiting[:0], 0
	} else if c.next > 1024 {
		c.waiting, c.next = append(c.waiting[:0], c.waiting[c.next:]...), 0
	}
	c.mu.Unlock()
	// What could not be read as a request is answered without an id, in its place in the order.
	if head.id != "" && head.id != strconv.FormatUint(call.id, 10) || head.id == "" && head.isOK {
		call.reply <- reply{err: because(ErrUnanswered, ErrProtocol)}
		return fmt.Errorf("an answer to %s in the place of %d", head.id, call.id)
	}
	call.reply <- reply{line: line, isOK: head.isOK}
	return nil
}

func (c *Conn) takeEvent(id, line string) error {
	number, err := readNumber(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	in := c.inboxes[number]
	c.mu.Unlock()
	if in == nil {
		return nil // it has been ended meanwhile
	}
	a, err := readAnswer(line)
	if err != nil {
		return err
	}
	switch kind := EventKind(a.event); kind {
	case EventPut, EventDelete, EventSync, EventReset:
		in.push(Event{Kind: kind, Key: a.key, Value: a.value, Rev: a.rev, epoch: a.epoch})
	}
	return nil
}

// tellAll tells whoever waits that nothing more will come.
func (c *Conn) tellAll(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, call := range c.waiting[c.next:] {
		if call.start < c.written {
			call.reply <- reply{err: because(ErrUnanswered, err)}
		} else {
			call.reply <- reply{err: err}
		}
	}
	c.waiting, c.next = nil, 0
	for _, in := range c.inboxes {
		in.close(err)
	}
	close(c.gone)
}
