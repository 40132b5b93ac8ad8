package nkv

import (
	"context"
	"errors"
)

// An EventKind is what a subscription tells.
type EventKind string

const (
	EventPut    EventKind = "put"    // the key has this value
	EventDelete EventKind = "delete" // the key is gone
	EventSync   EventKind = "sync"   // all that was told so far is exactly the state at this revision
	EventReset  EventKind = "reset"  // forget all that was told: all current entries follow, then a sync
)

// An Event is something that a subscription tells.
type Event struct {
	Kind  EventKind
	Key   string
	Value Value
	Rev   uint64
	// Position is where another subscription can go on, after this event. It is the zero Position while the
	// current entries are told.
	Position Position
	epoch    string // of a reset: the history of what follows, where that may be another one
}

// epochAfter tells which history the next events belong to, if it has been this one so far.
func (e *Event) epochAfter(epoch string) string {
	if e.Kind == EventReset && e.epoch != "" {
		return e.epoch
	}
	return epoch
}

// A Position is a point in the daemon's history. It may be kept over a restart of the program.
type Position struct {
	Epoch string `json:"epoch"`
	Rev   uint64 `json:"rev"`
}

// A SubscribeOption changes what a subscription tells: [Exact], [ChangesOnly], [Cuts] or [Since].
type SubscribeOption interface{ addToSubscription(*wanted) }

// A MirrorOption changes what a mirror holds: [Exact].
type MirrorOption interface {
	SubscribeOption
	isForMirrors()
}

type subscribeOption func(*wanted)

func (option subscribeOption) addToSubscription(w *wanted) { option(w) }

type mirrorOption struct{ subscribeOption }

func (mirrorOption) isForMirrors() {}

var (
	// Exact keeps to the keys that match the pattern, without what lies below them.
	Exact MirrorOption = mirrorOption{func(w *wanted) { w.exact = true }}
	// ChangesOnly leaves out the current entries.
	ChangesOnly SubscribeOption = subscribeOption(func(w *wanted) { w.changesOnly = true })
	// Cuts tells EventSync whenever all has been told, and not only the first time. Between two of them lies
	// a whole number of batches.
	Cuts SubscribeOption = subscribeOption(func(w *wanted) { w.cuts = true })
)

// Since goes on at a position: only what has changed after it comes before the first EventSync. Where the daemon
// can't tell that any more, EventReset comes first.
func Since(position Position) SubscribeOption {
	return subscribeOption(func(w *wanted) { w.since = &position })
}

// A wanted is what is to be subscribed to.
type wanted struct {
	pattern                  string
	exact, changesOnly, cuts bool
	since                    *Position // nil: from the start
}

func (w wanted) request() request {
	r := keyRequest("subscribe", w.pattern)
	r.flag("exact", w.exact)
	if w.changesOnly {
		r.fields = append(r.fields, `,"initial":false`...)
	}
	r.flag("cuts", w.cuts)
	if w.since != nil {
		r.number("since", w.since.Rev)
		r.text("epoch", w.since.Epoch)
	}
	return r
}

// A Subscription tells the events of a key or pattern and of all that lies below it, over lost connections and
// restarts of the daemon. Nothing is told twice, and what was overwritten while there was no connection is
// told once, with the newest value. Every subscriber has to be ready for [EventReset].
//
// A subscriber that is slow delays nobody, and is told the newest value of each key.
type Subscription struct {
	events chan Event
	cancel context.CancelFunc
	err    error // before events is closed
}

// Subscribe begins a subscription, to be read from [Subscription.Events]. It ends with the context. It does
// not wait for the daemon: what that refuses is told by [Subscription.Err].
func (c *Client) Subscribe(ctx context.Context, pattern string, options ...SubscribeOption) *Subscription {
	s := &Subscription{events: make(chan Event)}
	ctx, s.cancel, s.err = c.begin(ctx)
	if s.err != nil {
		close(s.events)
		s.cancel = func() {}
		return s
	}
	go func() {
		defer c.tasks.Done()
		defer s.cancel()
		defer close(s.events)
		s.err = c.Follow(ctx, pattern, func(event Event) error {
			select {
			case s.events <- event:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			case <-c.closing.Done():
				return errClientClosed
			}
		}, options...)
	}()
	return s
}

// Events gives what is told. The channel is closed when the subscription has ended.
func (s *Subscription) Events() <-chan Event { return s.events }

// Err tells why the subscription has ended, after its channel was closed: the context's error, [ErrClosed] where
// the client was closed, or the daemon's refusal.
func (s *Subscription) Err() error { return s.err }

// Close ends the subscription. Its channel is closed.
func (s *Subscription) Close() error {
	s.cancel()
	return nil
}

// Follow calls a function with each event of a subscription, until that or the daemon refuses, or the
// context ends; it returns why.
func (c *Client) Follow(
	ctx context.Context, pattern string, handle func(Event) error, options ...SubscribeOption,
) error {
	f := follower{wanted: wanted{pattern: pattern}, handle: handle}
	for _, option := range options {
		option.addToSubscription(&f.wanted)
	}
	if err := checkPattern(pattern); err != nil {
		return err
	}
	if f.since != nil {
		f.position, f.hasPosition = *f.since, true
	}
	for {
		conn, err := c.Conn(ctx)
		if err == nil {
			err = f.follow(ctx, conn)
		}
		if err = c.ending(ctx, err); err != nil {
			return err
		}
	}
}

// ending tells why to subscribe no more, and nothing where it was but a connection that was lost.
func (c *Client) ending(ctx context.Context, err error) error {
	var refused stop
	switch {
	case errors.As(err, &refused):
		return refused.reason
	case ctx.Err() != nil:
		return ctx.Err()
	case c.closing.Err() != nil:
		return errClientClosed
	case isRefusal(err):
		return err
	}
	return nil
}

// A stop is what the function that is called with events says to end it.
type stop struct{ reason error }

func (s stop) Error() string { return s.reason.Error() }

// A follower is a subscription apart from its connections.
type follower struct {
	wanted
	handle      func(Event) error
	position    Position // where to go on, where there is something to go on from
	hasPosition bool
	hasTold     bool // any entry since the beginning or the last reset
}

// follow subscribes where it was, and hands out events until the connection ends.
func (f *follower) follow(ctx context.Context, conn *Conn) error {
	if !f.hasPosition && f.hasTold {
		// Before the first sync there is nothing to go on from: all entries come again.
		if err := f.tell(Event{Kind: EventReset, Rev: conn.hello.Rev}); err != nil {
			return err
		}
	}
	f.since = nil
	if f.hasPosition {
		f.since = &f.position
	}
	in, answer, err := conn.subscribe(ctx, f.request())
	if err != nil {
		return err
	}
	defer conn.unsubscribe(in)
	if f.changesOnly && !f.hasPosition {
		f.position, f.hasPosition = Position{answer.epoch, answer.rev}, true
	}
	for epoch := answer.epoch; ; {
		events, err := in.take(ctx, 1)
		if err != nil {
			return err
		}
		event := events[0]
		epoch = event.epochAfter(epoch)
		if event.Kind == EventSync {
			f.position, f.hasPosition = Position{epoch, event.Rev}, true
		} else if f.hasPosition {
			f.position.Rev = event.Rev
		}
		if err := f.tell(event); err != nil {
			return err
		}
	}
}

// tell hands out an event.
func (f *follower) tell(event Event) error {
	f.hasTold = true
	if event.Kind == EventReset {
		// From here on the current entries come, also where they were not wanted in the beginning.
		f.hasPosition, f.changesOnly, f.hasTold = false, false, false
	}
	if f.hasPosition {
		event.Position = f.position
	}
	if err := f.handle(event); err != nil {
		return stop{err}
	}
	return nil
}
