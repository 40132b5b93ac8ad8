package nkv

import (
	"context"
	"math"
	"sync"
)

// How many events an inbox holds before it is compacted for the first time.
const inboxEventsMax = 1024

// All the events that there are.
const inboxAll = math.MaxInt

// An inbox holds the events of one subscription that have been received and not yet taken, oldest first.
//
// Whoever reads the connection reads for everyone, so it never waits for the owner of an inbox: events pile
// up here while that is busy. What is kept must not grow with the number of changes. Beyond
// inboxEventsMax the inbox is compacted to what a slow subscriber would have been told by the daemon:
//
//   - Of one key's events only the newest stays, where it stood.
//   - Of syncs only the last stays, and the rule above is applied to what is before it and to what is after
//     it apart: so what was told up to that sync is still exactly the state at its revision.
//   - A reset drops what is before it, at any length: it tells the owner to do just that.
//
// So what an inbox holds grows with the number of keys and no more. It is compacted only when it has
// doubled since the last time, which makes the cost of an event constant on average.
type inbox struct {
	id    uint64
	ready chan struct{} // has room for one notice that there is something

	mu            sync.Mutex
	events        []Event
	compactBeyond int
	end           error // why nothing more will come
}

func newInbox(id uint64) *inbox {
	return &inbox{id: id, ready: make(chan struct{}, 1), compactBeyond: inboxEventsMax}
}

func (in *inbox) push(event Event) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if event.Kind == EventReset {
		in.events = in.events[:0]
	}
	in.events = append(in.events, event)
	if len(in.events) > in.compactBeyond {
		in.events = compact(in.events)
		in.compactBeyond = inboxEventsMax + 2*len(in.events)
	}
	in.notice()
}

// close says that nothing more will come.
func (in *inbox) close(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.end == nil {
		in.end = err
	}
	in.notice()
}

func (in *inbox) notice() {
	select {
	case in.ready <- struct{}{}:
	default:
	}
}

// take gives at most so many events as soon as there is one, and why there will be none.
func (in *inbox) take(ctx context.Context, max int) ([]Event, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		in.mu.Lock()
		events, end := in.events, in.end
		switch {
		case len(events) > max:
			in.events = events[max:]
			in.notice()
			events = events[:max:max]
		default:
			in.events = nil
		}
		in.mu.Unlock()
		if len(events) > 0 {
			return events, nil
		}
		if end != nil {
			return nil, end
		}
		select {
		case <-in.ready:
		case <-ctx.Done():
		}
	}
}

// compact leaves out what a slow subscriber need not be told.
func compact(events []Event) []Event {
	newest := make(map[string]bool)
	hasSync := false
	kept := make([]Event, 0, len(events))
	// Judged from the back.
	for i := len(events) - 1; i >= 0; i-- {
		event := events[i]
		switch event.Kind {
		case EventSync:
			if hasSync {
				continue
			}
			hasSync = true
			newest = make(map[string]bool)
		case EventPut, EventDelete:
			if newest[event.Key] {
				continue
			}
			newest[event.Key] = true
		}
		kept = append(kept, event)
	}
	for i, j := 0, len(kept)-1; i < j; i, j = i+1, j-1 {
		kept[i], kept[j] = kept[j], kept[i]
	}
	return kept
}
