package nkv

import (
	"context"
	"errors"
	"sort"
	"sync"
	"time"
)

// A ChangeKind is how a mirror's entry differs from before.
type ChangeKind string

const (
	Created  ChangeKind = "created"  // there is an entry that was not there
	Modified ChangeKind = "modified" // an entry has another value
	Deleted  ChangeKind = "deleted"  // an entry is gone
	Invalid  ChangeKind = "invalid"  // an entry has a value that is not of the mirror's type
)

// A Change is a difference between two states of a mirror.
type Change[T any] struct {
	Kind ChangeKind
	Key  string
	// Value is the value now; nil where the key is gone or the value is not of the type.
	Value *T
	// Old is the value before; nil where there was none or it was not of the type.
	Old *T
	// Raw is the value as it is, also where it is not of the type. Err then says why.
	Raw Value
	Err error
	// Rev is the revision of the change; of a deletion that was found by comparing, one at which the
	// key was gone.
	Rev uint64
}

// A Cut is what is different between two moments at which a mirror had been told everything.
type Cut[T any] struct {
	// Rev: the copy is exactly the keyspace at this revision.
	Rev uint64
	// Changes are the differences, in the order of their revisions. There may be none.
	Changes []Change[T]
	// IsReset: all entries were told anew, for the first time or because the history was lost, and compared with
	// the copy. What changed and changed back meanwhile is not among the changes.
	IsReset bool
	// View is the copy, which stands still until the handler returns. It must not be used afterwards.
	View *View[T]
}

// Handlers are the functions that a mirror calls, one after the other, after the copy has moved on and before
// it moves on again. Each may be nil. One that is slow delays its own mirror and nothing else: what happens
// meanwhile is not queued, and it is told afterwards what is different.
type Handlers[T any] struct {
	Created func(key string, value T)
	// Modified is told the value before; the zero value where that was not of the type.
	Modified func(key string, old, value T)
	Deleted  func(key string, old T)
	// Invalid is told of values that are not of the type, and why. It hinders nothing else.
	Invalid func(key string, value Value, err error)
	// Synced is called once, after the first state was told.
	Synced func()
	// Cut is called after those before it, with all changes between two consistent states at once: for the
	// first state and for each one after it, also where nothing has changed.
	Cut func(Cut[T])
}

// A Mirror is a copy of a part of the keyspace, which keeps itself up to date. To read it asks nobody and waits
// for nothing.
//
// The copy goes from one state that the keyspace was in to the next, so a batch is never half visible. After a
// lost connection it goes on from where it was; where the daemon can't tell any more what has changed,
// everything comes again and is compared with the copy, and only true differences are reported. Until then
// the copy stays as it was.
type Mirror[T any] struct {
	client   *Client
	wanted   wanted
	handlers Handlers[T]
	cancel   context.CancelFunc
	ended    chan struct{}
	synced   chan struct{}

	mu   sync.RWMutex
	view View[T]
	err  error
}

// A View is one state of a mirror.
type View[T any] struct {
	entries  map[string]held[T]
	position Position
}

type held[T any] struct {
	raw   Value
	value *T // nil where the raw value is not of the type
	rev   uint64
}

// NewMirror begins to mirror a key or pattern and all that lies below it. It returns at once;
// [Mirror.WaitSynced] waits for the first state. The mirror ends with its context, and with its client.
//
// Values are read as [Get] does. A mirror of [Value] takes all as they are.
func NewMirror[T any](
	ctx context.Context, client *Client, pattern string, handlers Handlers[T], options ...MirrorOption,
) (*Mirror[T], error) {
	if err := checkPattern(pattern); err != nil {
		return nil, err
	}
	m := &Mirror[T]{
		client:   client,
		wanted:   wanted{pattern: pattern, cuts: true},
		handlers: handlers,
		ended:    make(chan struct{}),
		synced:   make(chan struct{}),
		view:     View[T]{entries: make(map[string]held[T])},
		err:      errNotYet,
	}
	for _, option := range options {
		option.addToSubscription(&m.wanted)
	}
	ctx, cancel, err := client.begin(ctx)
	if err != nil {
		return nil, err
	}
	m.cancel = cancel
	go func() {
		defer client.tasks.Done()
		defer cancel()
		defer close(m.ended)
		m.run(ctx)
	}()
	return m, nil
}

// Close ends the mirror, and returns when no handler is running. So it must not be called by a handler:
// that cancels the mirror's context instead. The copy stays readable.
func (m *Mirror[T]) Close() error {
	m.cancel()
	<-m.ended
	return nil
}

// Synced is closed when the mirror has had its first state, and its handlers have been told.
func (m *Mirror[T]) Synced() <-chan struct{} { return m.synced }

// WaitSynced waits for the first state. Where there is none yet, the error tells why, too.
func (m *Mirror[T]) WaitSynced(ctx context.Context) error {
	select {
	case <-m.synced:
		return nil
	case <-ctx.Done():
		switch err := m.Err(); {
		case err == nil:
			return ctx.Err()
		case isRefusal(err):
			return because(ctx.Err(), err)
		case err == errNotYet:
			return &unreachable{ctx.Err(), nil}
		default:
			return &unreachable{ctx.Err(), err}
		}
	case <-m.ended:
	}
	select {
	case <-m.synced:
		return nil
	default:
		return m.Err()
	}
}

// Err tells why the copy is not kept up to date, and is nil while it is.
func (m *Mirror[T]) Err() error {
	m.mu.RLock()
	err := m.err
	m.mu.RUnlock()
	if err == errNotYet || errors.Is(err, ErrClosed) && err != errClientClosed {
		// Why there is no connection now says more than why the last one ended.
		if failure := m.client.failure(); failure != nil {
			return failure
		}
	}
	return err
}

var errNotYet = because(ErrUnreachable, errors.New("there was no connection yet"))

// Get reads a key's value. It tells whether there is one of the type.
func (m *Mirror[T]) Get(key string) (value T, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.view.Get(key)
}

// View calls a function with the copy, which stands still meanwhile. The view must not be used afterwards, and
// the mirror's other methods not within.
func (m *Mirror[T]) View(look func(*View[T])) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	look(&m.view)
}

// Snapshot gives all values of the type by key: one state, the caller's to keep.
func (m *Mirror[T]) Snapshot() map[string]T {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.view.Snapshot()
}

// Get reads a key's value. It tells whether there is one of the type.
func (v *View[T]) Get(key string) (value T, ok bool) {
	held := v.entries[key]
	if held.value == nil {
		return value, false
	}
	return *held.value, true
}

// Snapshot gives all values of the type by key, the caller's to keep.
func (v *View[T]) Snapshot() map[string]T {
	all := make(map[string]T, len(v.entries))
	for key, held := range v.entries {
		if held.value != nil {
			all[key] = *held.value
		}
	}
	return all
}

// Raw reads a key's value as it is, and its revision.
func (v *View[T]) Raw(key string) (value Value, rev uint64, ok bool) {
	held, ok := v.entries[key]
	return held.raw, held.rev, ok
}

// Keys gives the keys that match a pattern, in byte order, also those whose values are not of the type.
func (v *View[T]) Keys(pattern string) []string {
	var keys []string
	for key := range v.entries {
		if Matches(pattern, key) {
			keys = append(keys, key)
		}
	}
	sort.Strings(keys)
	return keys
}

// Len tells how many keys there are.
func (v *View[T]) Len() int { return len(v.entries) }

// Position tells at which revision the keyspace was exactly this; the zero Position before the first state.
func (v *View[T]) Position() Position { return v.position }

// run follows the daemon until the context ends.
func (m *Mirror[T]) run(ctx context.Context) {
	for {
		conn, err := m.client.Conn(ctx)
		if err == nil {
			err = m.follow(ctx, conn)
		}
		if ctx.Err() != nil || m.client.closing.Err() != nil {
			m.lost(m.client.ending(ctx, nil))
			return
		}
		m.lost(err)
		if isRefusal(err) {
			// It may be let in later.
			select {
			case <-time.After(refusedPause):
			case <-ctx.Done():
			case <-m.client.closing.Done():
			}
		}
	}
}

func (m *Mirror[T]) lost(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

// follow goes on from where the copy stands, until the connection ends.
func (m *Mirror[T]) follow(ctx context.Context, conn *Conn) error {
	wanted := m.wanted
	position := m.view.position // nobody else writes it
	isWhole := position == Position{}
	if !isWhole {
		wanted.since = &position
	}
	in, answer, err := conn.subscribe(ctx, wanted.request())
	if err != nil {
		return err
	}
	defer conn.unsubscribe(in)
	m.lost(nil)
	// What was told since the last cut, which may be a whole state, from nothing on.
	var told []Event
	compactBeyond := inboxEventsMax
	for epoch := answer.epoch; ; {
		// All that is there at once: who was slow is told the newest.
		events, err := in.take(ctx, inboxAll)
		if err != nil {
			return err
		}
		for _, event := range events {
			told = append(told, event)
			epoch = event.epochAfter(epoch)
			if event.Kind == EventReset {
				told, isWhole = told[:0], true
			}
		}
		last := len(told) - 1
		for last >= 0 && told[last].Kind != EventSync {
			last--
		}
		if last < 0 {
			// While the keyspace is never caught up with, what waits grows with the keys and no more.
			if len(told) > compactBeyond {
				told = compact(told)
				compactBeyond = inboxEventsMax + 2*len(told)
			}
			continue
		}
		cut := m.apply(told[:last], isWhole, Position{epoch, told[last].Rev})
		told, isWhole = append([]Event(nil), told[last+1:]...), false
		m.tell(cut)
	}
}

// apply takes in what was told up to a cut.
func (m *Mirror[T]) apply(events []Event, isWhole bool, position Position) Cut[T] {
	newest := make(map[string]int, len(events))
	for i, event := range events {
		newest[event.Key] = i
	}
	cut := Cut[T]{Rev: position.Rev, IsReset: isWhole, View: &m.view}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, event := range events {
		switch {
		case newest[event.Key] != i:
		case event.Kind == EventPut:
			m.view.put(&cut, event)
		case event.Kind == EventDelete:
			m.view.remove(&cut, event.Key, event.Rev)
		}
	}
	if isWhole {
		for key := range m.view.entries {
			if at, isTold := newest[key]; !isTold || events[at].Kind != EventPut {
				m.view.remove(&cut, key, position.Rev)
			}
		}
	}
	sort.Slice(cut.Changes, func(i, j int) bool {
		a, b := &cut.Changes[i], &cut.Changes[j]
		return a.Rev < b.Rev || a.Rev == b.Rev && a.Key < b.Key
	})
	m.view.position = position
	return cut
}

func (v *View[T]) put(cut *Cut[T], event Event) {
	before, wasThere := v.entries[event.Key]
	now := held[T]{raw: event.Value, rev: event.Rev}
	if wasThere && before.raw == event.Value {
		now.value = before.value
		v.entries[event.Key] = now
		return
	}
	change := Change[T]{Kind: Created, Key: event.Key, Old: before.value, Raw: event.Value, Rev: event.Rev}
	if wasThere {
		change.Kind = Modified
	}
	if value, err := As[T](event.Value); err == nil {
		now.value, change.Value = &value, &value
	} else {
		change.Kind, change.Err = Invalid, err
	}
	v.entries[event.Key] = now
	cut.Changes = append(cut.Changes, change)
}

func (v *View[T]) remove(cut *Cut[T], key string, rev uint64) {
	if before, wasThere := v.entries[key]; wasThere {
		delete(v.entries, key)
		cut.Changes = append(cut.Changes, Change[T]{Kind: Deleted, Key: key, Old: before.value, Rev: rev})
	}
}

// tell calls the handlers.
func (m *Mirror[T]) tell(cut Cut[T]) {
	for _, change := range cut.Changes {
		m.handlers.change(change)
	}
	select {
	case <-m.synced:
	default:
		if m.handlers.Synced != nil {
			m.handlers.Synced()
		}
		defer close(m.synced)
	}
	if m.handlers.Cut != nil {
		m.handlers.Cut(cut)
	}
}

func (h *Handlers[T]) change(change Change[T]) {
	var old T
	if change.Old != nil {
		old = *change.Old
	}
	switch {
	case change.Kind == Created && h.Created != nil:
		h.Created(change.Key, *change.Value)
	case change.Kind == Modified && h.Modified != nil:
		h.Modified(change.Key, old, *change.Value)
	case change.Kind == Deleted && h.Deleted != nil:
		h.Deleted(change.Key, old)
	case change.Kind == Invalid && h.Invalid != nil:
		h.Invalid(change.Key, change.Raw, change.Err)
	}
}
