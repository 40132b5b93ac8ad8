package nkv

import (
	"context"
	"errors"
	"math/rand"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	// How long it may take to connect, greeting included.
	connectTimeout = 10 * time.Second
	// The longest name that a daemon takes.
	nameBytesMax = 128
	// How long what was refused is not asked again by those who keep something up.
	refusedPause = time.Second
)

// A Client stands for a daemon that is reached whenever it can be. It connects when something is asked, and
// again after the connection is lost, with pauses that grow and differ from client to client. Its methods
// may be called by any number of goroutines, whose requests share one connection without waiting for each
// other.
//
// A call waits for a connection as long as its context lasts; so give it one that ends. It is made again
// on the next connection where the first attempt surely changed nothing: where the request was not sent, and
// whatever only reads. A change that was sent and not answered may have been carried out. It is made again
// only where that does no harm, and else reported as [ErrUnanswered]:
//
//   - a Put with [IfChanged], because putting a value that is there already does nothing;
//   - a Put with [IfRev], as long as the daemon's history is the same, because a put that was carried out
//     has changed the revision. Where the repetition is refused for that, it may have been this very put
//     that changed it, or somebody else's: the error is ErrUnanswered.
type Client struct {
	requests
	options clientOptions
	closing context.Context
	close   context.CancelFunc
	tasks   sync.WaitGroup // goroutines that end with the client

	demand chan struct{} // has room for one notice that a connection is wanted
	redo   chan struct{} // has room for one notice that something kept was refused

	mu       sync.Mutex
	isClosed bool
	hasLoop  bool
	conn     *Conn         // nil where there is none
	changed  chan struct{} // closed, and replaced, when an attempt to connect has come to its end
	attempts uint64        // how many have
	wanting  int           // how many wait for a connection
	failed   error         // why the last attempt failed, nil where it did not
	kept     map[*kept]struct{}
}

type clientOptions struct {
	address address
	name    string
	token   string
	backoff backoff
	dial    func(context.Context) (net.Conn, error)
	notice  func(error)
	silence time.Duration
}

// A ClientOption is what a client is made with besides an address.
type ClientOption func(*clientOptions)

// WithName gives the client a name, which the daemon shows among its clients. It is the program's
// where nothing else is said. Of a long one the first 128 bytes count.
func WithName(name string) ClientOption { return func(o *clientOptions) { o.name = name } }

// WithToken is for daemons that ask for one over TCP.
func WithToken(token string) ClientOption { return func(o *clientOptions) { o.token = token } }

// WithPauses sets the first and the longest pause between attempts to connect: 20 ms and 2 s where nothing
// else is said.
func WithPauses(first, longest time.Duration) ClientOption {
	return func(o *clientOptions) { o.backoff = backoff{first: first, longest: longest} }
}

// WithDialer connects in another way, as through TLS.
func WithDialer(dial func(context.Context) (net.Conn, error)) ClientOption {
	return func(o *clientOptions) { o.dial = dial }
}

// WithNotice has a function called with the reason each time the connection is lost or can't be made, and
// with nil when there is one. It is for logs, and should not take long.
func WithNotice(notice func(error)) ClientOption {
	return func(o *clientOptions) { o.notice = notice }
}

// New makes a client of the daemon at an address: a path (anything with a /, or unix:PATH) is a Unix
// socket; HOST:PORT, tcp:HOST:PORT or a port on localhost is TCP. An empty address stands for
// $NKV_ADDRESS, or else the default places. Nothing is connected before something is asked.
//
// A client must be closed when it is of no more use.
func New(address string, options ...ClientOption) (*Client, error) {
	made, err := makeOptions(address, options)
	if err != nil {
		return nil, err
	}
	c := &Client{
		options: made,
		demand:  make(chan struct{}, 1),
		redo:    make(chan struct{}, 1),
		changed: make(chan struct{}),
		kept:    make(map[*kept]struct{}),
	}
	c.closing, c.close = context.WithCancel(context.Background())
	c.requests.do = c.do
	return c, nil
}

// Dial makes one connection, which ends once. Most programs want [New].
func Dial(ctx context.Context, address string, options ...ClientOption) (*Conn, error) {
	made, err := makeOptions(address, options)
	if err != nil {
		return nil, err
	}
	return made.connect(ctx)
}

func makeOptions(text string, options []ClientOption) (clientOptions, error) {
	made := clientOptions{
		name:    filepath.Base(os.Args[0]),
		backoff: backoff{first: 20 * time.Millisecond, longest: 2 * time.Second},
	}
	for _, option := range options {
		option(&made)
	}
	made.name = fittingName(made.name)
	if made.dial == nil {
		address, err := parseAddress(text)
		if err != nil {
			return made, err
		}
		made.address, made.dial = address, address.dial
	}
	return made, nil
}

// fittingName makes a name that the daemon takes: a program may have any, which is no reason to be refused.
func fittingName(name string) string {
	name = strings.ToValidUTF8(name, "?")
	if len(name) > nameBytesMax {
		name = strings.ToValidUTF8(name[:nameBytesMax], "")
	}
	return name
}

func (o *clientOptions) connect(ctx context.Context) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	stream, err := o.dial(ctx)
	if err != nil {
		return nil, because(ErrUnreachable, err)
	}
	silence := o.silence
	if silence == 0 && stream.RemoteAddr().Network() != "unix" {
		silence = silenceMax
	}
	return newConn(ctx, stream, o.name, o.token, silence)
}

// Close ends the connection, and with it the client's session entries, subscriptions and mirrors, and returns
// when all goroutines of the client have ended. So it must not be called by a mirror's handler.
func (c *Client) Close() error {
	c.mu.Lock()
	c.isClosed = true
	for k := range c.kept {
		if k.claim != nil {
			k.claim.lose(errClientClosed)
		}
	}
	c.mu.Unlock()
	c.close()
	c.tasks.Wait()
	return nil
}

// Conn gives the connection that the client uses now, or waits for one.
func (c *Client) Conn(ctx context.Context) (*Conn, error) {
	c.mu.Lock()
	before := c.attempts
	c.wanting++
	defer func() {
		c.wanting--
		c.mu.Unlock()
	}()
	for {
		if c.isClosed {
			return nil, errClientClosed
		}
		if c.conn != nil && c.conn.Err() == nil {
			return c.conn, nil
		}
		if c.attempts > before && c.failed != nil && !isPassing(c.failed) {
			return nil, c.failed
		}
		if err := ctx.Err(); err != nil {
			return nil, &unreachable{err, c.failed}
		}
		if !c.hasLoop {
			c.hasLoop = true
			c.tasks.Add(1)
			go c.keepConnected()
		}
		signal(c.demand)
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		case <-c.closing.Done():
		}
		c.mu.Lock()
	}
}

var errClientClosed = because(ErrClosed, errors.New("the client is"))

// failure tells why the last attempt to connect failed, and is nil where it did not.
func (c *Client) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

// isPassing tells whether another attempt to connect may succeed.
func isPassing(err error) bool {
	return errors.Is(err, ErrLimit) || !isRefusal(err)
}

func signal(notice chan<- struct{}) {
	select {
	case notice <- struct{}{}:
	default:
	}
}

// do makes a request, on one connection after the other where need be.
func (c *Client) do(ctx context.Context, request request) (string, error) {
	var lost error // the first answer that was lost: from then on what hinders a repetition is not the fate
	var epoch string
	for {
		conn, err := c.Conn(ctx)
		if err != nil {
			if lost != nil {
				err = lost
			}
			return "", err
		}
		// Revisions of another history say nothing about this request.
		if lost != nil && request.isIfRev && conn.hello.Epoch != epoch {
			return "", lost
		}
		line, err := conn.do(ctx, request)
		isUnanswered := errors.Is(err, ErrUnanswered)
		switch {
		case err == nil:
			return line, nil
		case ctx.Err() == nil && isUnsent(err):
		case ctx.Err() == nil && isUnanswered && (request.isIfChanged || request.isIfRev):
			if lost == nil {
				lost, epoch = err, conn.hello.Epoch
			}
		default:
			if lost != nil {
				err = lost
			}
			return "", err
		}
	}
}

// keepConnected makes a connection whenever one is wanted, one attempt at a time.
func (c *Client) keepConnected() {
	defer c.tasks.Done()
	defer c.settle(nil, errClientClosed)
	pauses := c.options.backoff
	done := c.closing.Done()
	for next := time.Now(); ; {
		if !c.isWanted() {
			select {
			case <-c.demand:
				continue
			case <-done:
				return
			}
		}
		if !sleep(time.Until(next), done) {
			return
		}
		conn, err := c.connect()
		if c.options.notice != nil && c.closing.Err() == nil {
			c.options.notice(err)
		}
		if err != nil {
			next = time.Now().Add(pauses.pause())
			continue
		}
		since := time.Now()
		c.watch(conn)
		conn.Close()
		c.mu.Lock()
		c.conn = nil
		c.mu.Unlock()
		if c.closing.Err() != nil {
			return
		}
		if c.options.notice != nil {
			c.options.notice(conn.Err())
		}
		next = time.Now().Add(pauses.pauseAfter(time.Since(since)))
	}
}

// isWanted tells whether somebody wants a connection.
func (c *Client) isWanted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wanting > 0 || len(c.kept) > 0
}

// connect makes a connection on which everything that is to be kept up is there, but for what the daemon
// refuses: that is no reason to be without one.
func (c *Client) connect() (*Conn, error) {
	conn, err := c.options.connect(c.closing)
	if err == nil {
		var told map[*kept]uint64
		if told, err = c.keepUp(conn); err == nil {
			c.publish(conn, told)
			return conn, nil
		}
		conn.Close()
	}
	c.settle(nil, err)
	return nil, err
}

// settle tells those who wait what has come of an attempt.
func (c *Client) settle(conn *Conn, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settleLocked(conn, err)
}

func (c *Client) settleLocked(conn *Conn, err error) {
	c.conn, c.failed = conn, err
	c.attempts++
	close(c.changed)
	c.changed = make(chan struct{})
}

// watch waits for the end of a connection, and keeps asking for what was refused.
func (c *Client) watch(conn *Conn) {
	var again <-chan time.Time
	for {
		select {
		case <-conn.Done():
			return
		case <-c.closing.Done():
			return
		case <-c.redo:
			if again == nil {
				timer := time.NewTimer(refusedPause + time.Duration(rand.Int63n(int64(refusedPause/4))))
				defer timer.Stop()
				again = timer.C
			}
		case <-again:
			again = nil
			c.announceAgain(conn)
		}
	}
}

// begin counts a goroutine that ends with the client, and gives a context that does so too. No goroutine
// may be started where the client is closed.
func (c *Client) begin(ctx context.Context) (context.Context, context.CancelFunc, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isClosed {
		return nil, nil, errClientClosed
	}
	c.tasks.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	return ctx, cancel, nil
}
