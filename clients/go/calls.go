package nkv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Requests are what can be asked over a [Conn] and over a [Client], which have all of these methods.
//
// A context that ends ends the waiting. Where a change was sent by then, the error is [ErrUnanswered] too,
// because it may be carried out all the same.
type requests struct {
	do func(context.Context, request) (string, error)
}

// An Entry is a key with its value, revision, lifetime, and what is left of its time to live, 0 where
// that has no end.
type Entry[T any] struct {
	Key      string
	Value    T
	Rev      uint64
	Lifetime Lifetime
	TTL      time.Duration
}

// Written is what came of a put.
type Written struct {
	Rev uint64
	// Unchanged: with [IfChanged], the very value was there.
	Unchanged bool
}

// A Deletion is what came of deleting: how many keys were there, and the revision of the last deletion.
type Deletion struct {
	Count, Rev uint64
}

// Put gives a key a value, see [Of].
func (r requests) Put(ctx context.Context, key string, value any, options ...PutOption) (Written, error) {
	a, err := r.ask(ctx, putRequest(key, value, options))
	return Written{Rev: a.rev, Unchanged: a.unchanged}, err
}

// Get reads a key as it is; [Get] reads it as a type. Where there is no such key the error is
// [ErrNotFound].
func (r requests) Get(ctx context.Context, key string) (Entry[Value], error) {
	if strings.Contains(key, "*") {
		return Entry[Value]{}, refused(ErrBadKey, fmt.Sprintf("%q is a pattern, not a key", key))
	}
	request := keyRequest("get", key)
	request.isRead = true
	a, err := r.ask(ctx, request)
	return a.entry(), err
}

// Delete deletes a key, or each key of a pattern. That there is none is no error. A deletion by pattern is
// not atomic: see [Batch] for that.
func (r requests) Delete(ctx context.Context, pattern string, options ...DeleteOption) (Deletion, error) {
	a, err := r.ask(ctx, deleteRequest(pattern, options))
	return Deletion{Count: a.deleted, Rev: a.rev}, err
}

// List reads all entries that match a pattern, in byte order of their keys. It is no snapshot: what changes
// meanwhile is seen before or after its change. A [Mirror] is one.
func (r requests) List(ctx context.Context, pattern string) ([]Entry[Value], error) {
	return r.list(ctx, pattern, PageOptions{})
}

// Keys reads all keys that match a pattern, in byte order.
func (r requests) Keys(ctx context.Context, pattern string) ([]string, error) {
	entries, err := r.list(ctx, pattern, PageOptions{KeysOnly: true})
	keys := make([]string, len(entries))
	for i, entry := range entries {
		keys[i] = entry.Key
	}
	return keys, err
}

func (r requests) list(ctx context.Context, pattern string, options PageOptions) ([]Entry[Value], error) {
	if !strings.Contains(pattern, "*") {
		entry, err := r.Get(ctx, pattern)
		if errors.Is(err, ErrNotFound) {
			return nil, nil
		}
		return []Entry[Value]{entry}, err
	}
	var entries []Entry[Value]
	for {
		page, err := r.Page(ctx, pattern, options)
		if err != nil {
			return nil, err
		}
		entries = append(entries, page.Entries...)
		if !page.More || len(page.Entries) == 0 {
			return entries, nil
		}
		options.After = entries[len(entries)-1].Key
	}
}

// PageOptions say which part of a list is wanted.
type PageOptions struct {
	// After: only entries whose keys come after this one.
	After string
	// Limit: at most so many, and not more than the daemon gives in any case.
	Limit int
	// KeysOnly: without values.
	KeysOnly bool
}

// A Page is a part of a list.
type Page struct {
	Entries []Entry[Value]
	// Rev is the keyspace's revision when the page was begun.
	Rev uint64
	// More: ask again, with the last key in PageOptions.After.
	More bool
}

// Page reads a part of what matches a pattern, for lists that are too long to be read at once.
func (r requests) Page(ctx context.Context, pattern string, options PageOptions) (Page, error) {
	request := keyRequest("get", pattern)
	request.isRead = true
	if options.Limit > 0 {
		request.number("limit", uint64(options.Limit))
	}
	if options.After != "" {
		request.text("after", options.After)
	}
	request.flag("keys_only", options.KeysOnly)
	a, err := r.ask(ctx, request)
	if err != nil {
		return Page{}, err
	}
	page := Page{Rev: a.rev, More: a.more}
	err = eachElement(a.entries, func(raw string) error {
		// A clone, or each entry would hold on to the whole line.
		element, err := readAnswer(strings.Clone(raw))
		page.Entries = append(page.Entries, element.entry())
		return err
	})
	if err != nil {
		return Page{}, because(ErrProtocol, err)
	}
	return page, nil
}

// Commit carries out a batch, all of it or nothing, and gives the keyspace's revision after it. Where it is
// refused, [Error.At] is the index of the operation at fault.
func (r requests) Commit(ctx context.Context, batch *Batch) (rev uint64, err error) {
	a, err := r.ask(ctx, batch.request())
	return a.rev, err
}

// Ping asks for nothing but an answer.
func (r requests) Ping(ctx context.Context) error {
	request := pingRequest
	request.isRead = true
	_, err := r.do(ctx, request)
	return err
}

// Stats reads the daemon's counters, with their names in the protocol.
func (r requests) Stats(ctx context.Context) (map[string]uint64, error) {
	request := newRequest("stats")
	request.isRead = true
	line, err := r.do(ctx, request)
	if err != nil {
		return nil, err
	}
	stats := make(map[string]uint64)
	err = eachField(line, func(name, raw string) bool {
		if number, err := readNumber(raw); err == nil && name != "id" {
			stats[name] = number
		}
		return true
	})
	return stats, err
}

// A Peer is a connection that the daemon has.
type Peer struct {
	Name          string   `json:"name"`
	PID           int      `json:"pid"`
	UID           int      `json:"uid"`
	GID           int      `json:"gid"`
	Address       string   `json:"address"`
	Subscriptions uint64   `json:"subscriptions"`
	Lag           uint64   `json:"lag"`
	Claims        []string `json:"claims"`
}

// Clients tells who is connected.
func (r requests) Clients(ctx context.Context) ([]Peer, error) {
	request := newRequest("clients")
	request.isRead = true
	line, err := r.do(ctx, request)
	if err != nil {
		return nil, err
	}
	var answer struct{ Clients []Peer }
	if err := json.Unmarshal([]byte(line), &answer); err != nil {
		return nil, because(ErrProtocol, err)
	}
	return answer.Clients, nil
}

func (r requests) ask(ctx context.Context, request request) (answer, error) {
	line, err := r.do(ctx, request)
	if err != nil {
		return answer{}, err
	}
	return readAnswer(line)
}

func (a answer) entry() Entry[Value] {
	entry := Entry[Value]{Key: a.key, Value: a.value, Rev: a.rev, Lifetime: a.lifetime}
	if a.lifetime == "" && a.key != "" {
		entry.Lifetime = Durable
	}
	entry.TTL = time.Duration(a.ttlMS) * time.Millisecond
	return entry
}

// A Getter reads keys: a [Client] or a [Conn].
type Getter interface {
	Get(ctx context.Context, key string) (Entry[Value], error)
}

// A Lister reads patterns: a [Client] or a [Conn].
type Lister interface {
	List(ctx context.Context, pattern string) ([]Entry[Value], error)
}

// A Writer reads and writes keys: a [Client] or a [Conn].
type Writer interface {
	Getter
	Put(ctx context.Context, key string, value any, options ...PutOption) (Written, error)
}

// Get reads a key as a type. A []byte is raw bytes, a [json.RawMessage] the JSON text; everything else is
// read by encoding/json. Where there is no such key the error is [ErrNotFound], and where the value is not
// of the type it is [ErrValue].
func Get[T any](ctx context.Context, from Getter, key string) (Entry[T], error) {
	entry, err := from.Get(ctx, key)
	if err != nil {
		return Entry[T]{}, err
	}
	return typed[T](entry)
}

// List reads all entries of a pattern as a type. It is no snapshot: what changes
// meanwhile is seen before or after its change.
func List[T any](ctx context.Context, from Lister, pattern string) ([]Entry[T], error) {
	entries, err := from.List(ctx, pattern)
	if err != nil {
		return nil, err
	}
	all := make([]Entry[T], len(entries))
	for i, entry := range entries {
		if all[i], err = typed[T](entry); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func typed[T any](entry Entry[Value]) (Entry[T], error) {
	value, err := As[T](entry.Value)
	if err != nil {
		return Entry[T]{}, fmt.Errorf("value of %q: %w", entry.Key, err)
	}
	return Entry[T]{entry.Key, value, entry.Rev, entry.Lifetime, entry.TTL}, nil
}

// Update reads a key, makes a new value of what it holds, and puts that if nobody else was faster; otherwise
// it begins again with what is there then. An error of the function leaves the key as it is, and is
// returned. The entry keeps its lifetime, and what is left of its time to live.
//
//	rev, err := nkv.Update(ctx, client, "jobs.done", func(done int, exists bool) (int, error) {
//		return done + 1, nil
//	})
func Update[T any](
	ctx context.Context, at Writer, key string, change func(old T, exists bool) (T, error),
) (rev uint64, err error) {
	for {
		old, err := Get[T](ctx, at, key)
		exists := !errors.Is(err, ErrNotFound)
		if err != nil && exists {
			return 0, err
		}
		value, err := change(old.Value, exists)
		if err != nil {
			return 0, err
		}
		terms := []PutOption{IfRev(old.Rev)}
		if old.Lifetime != "" && old.Lifetime != Durable {
			terms = append(terms, old.Lifetime)
		}
		if old.TTL > 0 {
			terms = append(terms, TTL(old.TTL))
		}
		written, err := at.Put(ctx, key, value, terms...)
		if !errors.Is(err, ErrConflict) || errors.Is(err, ErrUnanswered) {
			return written.Rev, err
		}
	}
}
