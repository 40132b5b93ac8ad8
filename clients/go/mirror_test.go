package nkv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"
)

// A witness holds what a mirror tells against its own account of what it was told before.
type witness[T comparable] struct {
	mu      sync.Mutex
	entries map[string]T
	invalid map[string]bool
	rev     uint64
	cuts    int
	resets  int
	wrong   string
	log     []string
}

func newWitness[T comparable]() *witness[T] {
	return &witness[T]{entries: make(map[string]T), invalid: make(map[string]bool)}
}

func (w *witness[T]) take(cut Cut[T]) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cuts++
	if cut.IsReset {
		w.resets++
	} else if cut.Rev < w.rev {
		w.say("a cut at %d after %d", cut.Rev, w.rev)
	}
	w.rev = cut.Rev
	var rev uint64
	for _, change := range cut.Changes {
		if change.Rev < rev || change.Rev > cut.Rev {
			w.say("%s changed at %d, after %d and before %d", change.Key, change.Rev, rev, cut.Rev)
		}
		rev = change.Rev
		w.change(change)
	}
}

func (w *witness[T]) change(change Change[T]) {
	old, wasValid := w.entries[change.Key]
	wasThere := wasValid || w.invalid[change.Key]
	if (change.Old != nil) != wasValid || wasValid && *change.Old != old {
		w.say("%s was %v, they say %v", change.Key, old, change.Old)
	}
	if (change.Kind == Created && wasThere) || ((change.Kind == Modified || change.Kind == Deleted) && !wasThere) {
		w.say("%s can't be %s", change.Key, change.Kind)
	}
	delete(w.entries, change.Key)
	delete(w.invalid, change.Key)
	text := string(change.Kind) + " " + change.Key
	switch change.Kind {
	case Invalid:
		w.invalid[change.Key] = true
	case Created, Modified:
		if wasValid && *change.Value == old {
			w.say("%s has not changed", change.Key)
		}
		w.entries[change.Key] = *change.Value
		text += fmt.Sprintf("=%v", *change.Value)
	}
	w.log = append(w.log, text)
}

func (w *witness[T]) say(format string, arguments ...any) {
	if w.wrong == "" {
		w.wrong = fmt.Sprintf(format, arguments...)
	}
}

// told gives what was told so far, and forgets it.
func (w *witness[T]) told(t testing.TB) string {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wrong != "" {
		t.Fatal(w.wrong)
	}
	log := strings.Join(w.log, ", ")
	w.log = nil
	return log
}

// isAt tells whether the witness was told of this revision.
func (w *witness[T]) isAt(rev uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cuts > 0 && w.rev == rev
}

func shown[T any](all map[string]T) string {
	var lines []string
	for key, value := range all {
		lines = append(lines, fmt.Sprintf("%s=%v", key, value))
	}
	sort.Strings(lines)
	return strings.Join(lines, " ")
}

func (p *peer) events(sub, script string) {
	p.t.Helper()
	p.send(lines(p.t, sub, script))
}

// lines are the events of a script as the daemon writes them.
func lines(t testing.TB, sub, script string) string {
	var text strings.Builder
	for _, event := range events(t, script) {
		fmt.Fprintf(&text, `{"sub":%s,"event":%q`, sub, event.Kind)
		if event.Key != "" {
			fmt.Fprintf(&text, `,"key":%q`, event.Key)
		}
		if event.Kind == EventPut {
			fmt.Fprintf(&text, `,"value":%s`, event.Value.text)
		}
		fmt.Fprintf(&text, ",\"rev\":%d}\n", event.Rev)
	}
	return text.String()
}

const wholeOfMirror = `"op":"subscribe","key":"x","cuts":true`

func TestAMirrorTellsOnlyTrueDifferences(t *testing.T) {
	f := newFake(t)
	client := newClient(t, f.address())
	w := newWitness[int]()
	mirror, err := NewMirror(patient(t), client, "x", Handlers[int]{Cut: w.take})
	check(t, err)
	p := f.greet()
	id := p.expect(wholeOfMirror)
	p.answer(id, `"ok":true,"epoch":"e","rev":0`)
	step := func(script string, rev uint64, want string) {
		t.Helper()
		p.events(id, script)
		until(t, "it is told", func() bool { return w.isAt(rev) })
		equal(t, w.told(t), want)
	}
	step("s1", 1, "")
	step("a2 s2", 2, "created a=2")
	step("a3 s3", 3, "modified a=3")
	step("-a4 s4", 4, "deleted a")
	// Of one key the last event counts.
	step("a5 a6 s6", 6, "created a=6")
	step("-a7 a8 s8", 8, "modified a=8")
	step("b9 -b10 s10", 10, "")
	step("-c11 s11", 11, "")
	// What is told anew is compared. The revision says nothing of another history.
	step("r12 b12 a8 s12", 12, "created b=12")
	step("r2 b1 s2", 2, "modified b=1, deleted a")
	step("r3 b1 a2 r4 b1 s4", 4, "")
	// A value of another type hinders nothing.
	p.event(id, `"event":"put","key":"b","value":"x","rev":5`)
	step("a6 s6", 6, "invalid b, created a=6")
	step("b7 s7", 7, "modified b=7")
	p.event(id, `"event":"put","key":"b","base64":"AA==","rev":8`)
	step("s8", 8, "invalid b")
	mirror.View(func(view *View[int]) {
		raw, rev, ok := view.Raw("b")
		equal(t, fmt.Sprint(raw, rev, ok), `"\x00" 8 true`)
		equal(t, fmt.Sprint(view.Keys("*"), view.Len(), view.Position()), "[a b] 2 {e 8}")
	})
	step("-b9 s9", 9, "deleted b")
	// An event that this client does not know is skipped.
	p.event(id, `"event":"dance","rev":9`)
	step("a10 s10", 10, "modified a=10")
	equal(t, shown(mirror.Snapshot()), "a=10")
}

// The bytes of a mirror's first connection end at each place there is. It goes on at the last cut that it
// has been told, and in the end has told every difference once.
func TestAMirrorGoesOnAfterACutAtEachByte(t *testing.T) {
	f := newFake(t)
	const first = "a1 b2 s2 a3 -b4 s4 c5 s5"
	whole := lines(t, "2", first)
	for cut := 0; cut <= len(whole); cut++ {
		client := newClient(t, f.address())
		w := newWitness[int]()
		mirror, err := NewMirror(patient(t), client, "x", Handlers[int]{Cut: w.take})
		check(t, err)
		p := f.greet()
		p.answer(p.expect(wholeOfMirror), `"ok":true,"epoch":"e","rev":2`)
		p.send(whole[:cut])
		p.cut()

		var since uint64
		for _, line := range strings.SplitAfter(whole[:cut], "\n") {
			if strings.Contains(line, "sync") && strings.HasSuffix(line, "\n") {
				fmt.Sscanf(line, `{"sub":2,"event":"sync","rev":%d}`, &since)
			}
		}
		p = f.greet()
		rest := map[uint64]string{
			0: "a3 c5 d6 s6", 2: "a3 -b4 c5 d6 s6", 4: "c5 d6 s6", 5: "d6 s6",
		}[since]
		request := wholeOfMirror
		if since > 0 {
			request += fmt.Sprintf(`,"since":%d,"epoch":"e"`, since)
		}
		id := p.expect(request)
		p.answer(id, `"ok":true,"epoch":"e","rev":6`)
		p.events(id, rest)
		until(t, "it has it all", func() bool { return w.isAt(6) })
		equal(t, shown(mirror.Snapshot()), "a=3 c=5 d=6")
		equal(t, shown(w.entries), "a=3 c=5 d=6")
		w.told(t)
		client.Close()
	}
}

// The same for a subscription: nothing is told twice, and before there is anything to go on from it says
// that all comes again.
func TestASubscriptionGoesOnAfterACutAtEachByte(t *testing.T) {
	f := newFake(t)
	const first = "a1 b2 s2 a3 -b4 c5"
	all := strings.Fields(first)
	whole := lines(t, "2", first)
	const request = `"op":"subscribe","key":"x"`
	for cut := 0; cut <= len(whole); cut++ {
		client := newClient(t, f.address())
		subscription := client.Subscribe(patient(t), "x")
		p := f.greet()
		p.answer(p.expect(request), `"ok":true,"epoch":"e","rev":2`)
		p.send(whole[:cut])
		p.cut()
		whole := strings.Count(whole[:cut], "\n")
		want := append([]string(nil), all[:whole]...)
		p = nil
		wait := make(chan *peer)
		go func() { wait <- f.greet() }()
		var got []Event
		for len(got) < whole {
			got = append(got, <-subscription.Events())
		}
		if whole < 3 {
			if whole > 0 {
				got = append(got, <-subscription.Events())
				want = append(want, "r0")
			}
			p = <-wait
			id := p.expect(request)
			p.answer(id, `"ok":true,"epoch":"e","rev":6`)
			p.events(id, "a3 c5 s5")
			want = append(want, "a3", "c5", "s5")
		} else {
			p = <-wait
			since := []int{2, 3, 4, 5}[whole-3]
			equal(t, got[len(got)-1].Position, Position{"e", uint64(since)})
			id := p.expect(fmt.Sprintf(`%s,"since":%d,"epoch":"e"`, request, since))
			p.answer(id, `"ok":true,"epoch":"e","rev":5`)
			rest := []string{"a3 -b4 c5 s5", "-b4 c5 s5", "c5 s5", "s5"}[whole-3]
			p.events(id, rest)
			want = append(want, strings.Fields(rest)...)
		}
		for len(got) < len(want) {
			got = append(got, <-subscription.Events())
		}
		equal(t, words(got), strings.Join(want, " "))
		client.Close()
	}
}

// A reset may say that what follows belongs to another history. A place to go on from is one in that.
func TestAResetMayTellAnotherHistory(t *testing.T) {
	for _, c := range []struct{ epoch, want string }{{"", "e"}, {`,"epoch":"f"`, "f"}} {
		f := newFake(t)
		play := func() {
			p := f.greet()
			id := p.expect(wholeOfMirror)
			p.answer(id, `"ok":true,"epoch":"e","rev":2`)
			p.events(id, "a1 b2 s2")
			p.event(id, `"event":"reset","rev":1`+c.epoch)
			p.events(id, "a1 s3")
			p.cut()
			f.greet().expect(wholeOfMirror + fmt.Sprintf(`,"since":3,"epoch":%q`, c.want))
		}
		mirror, err := NewMirror(patient(t), newClient(t, f.address()), "x", Handlers[int]{})
		check(t, err)
		play()
		mirror.View(func(view *View[int]) { equal(t, view.Position(), Position{c.want, 3}) })
		equal(t, shown(mirror.Snapshot()), "a=1")

		subscription := newClient(t, f.address()).Subscribe(patient(t), "x", Cuts)
		told := make(chan Position)
		go func() {
			for event := range subscription.Events() {
				if event.Kind == EventSync && event.Rev == 3 {
					told <- event.Position
				}
			}
		}()
		play()
		equal(t, <-told, Position{c.want, 3})
	}
}

func TestASubscriptionThatWantsChangesOnly(t *testing.T) {
	f := newFake(t)
	client := newClient(t, f.address())
	subscription := client.Subscribe(patient(t), "x", ChangesOnly, Exact, Cuts)
	p := f.greet()
	const request = `"op":"subscribe","key":"x","exact":true`
	// What changes before its first sync is not lost.
	p.answer(p.expect(request+`,"initial":false,"cuts":true`), `"ok":true,"epoch":"e","rev":7`)
	p.cut()
	p = f.greet()
	id := p.expect(request + `,"initial":false,"cuts":true,"since":7,"epoch":"e"`)
	p.answer(id, `"ok":true,"epoch":"e","rev":8`)
	var got []Event
	// A step at a time: a reset drops what has not been taken.
	for _, script := range []string{"a8 s8", "r9 b3"} {
		p.events(id, script)
		got = append(got, <-subscription.Events(), <-subscription.Events())
	}
	// A reset that was cut short needs all entries, also from who wanted changes only.
	p.cut()
	p = f.greet()
	got = append(got, <-subscription.Events())
	id = p.expect(request + `,"cuts":true`)
	p.answer(id, `"ok":true,"epoch":"f","rev":9`)
	p.events(id, "b3 s9 c10 s10")
	for len(got) < 9 {
		got = append(got, <-subscription.Events())
	}
	equal(t, words(got), "a8 s8 r9 b3 r0 b3 s9 c10 s10")
	equal(t, got[8].Position, Position{"f", 10})
	subscription.Close()
	p.expect(`"op":"unsubscribe","sub":2`)
	for range subscription.Events() {
	}
	wantError(t, subscription.Err(), context.Canceled)
	// At a position that was kept.
	client.Subscribe(patient(t), "x", Since(got[8].Position))
	p.expect(`"op":"subscribe","key":"x","since":10,"epoch":"f"`)
}

func TestARefusedSubscriptionSaysWhy(t *testing.T) {
	client := newClient(t, startDaemon(t, "--in-memory", "--max-subscriptions", "1").socket)
	ctx := patient(t)
	for pattern, want := range map[string]error{"a..b": ErrBadKey, strings.Repeat("a", 600): ErrTooLarge} {
		subscription := client.Subscribe(ctx, pattern)
		for range subscription.Events() {
		}
		wantError(t, subscription.Err(), want)
		_, err := NewMirror(ctx, client, pattern, Handlers[int]{})
		wantError(t, err, want)
	}
	first := client.Subscribe(ctx, "*")
	<-first.Events()
	wantError(t, client.Follow(ctx, "*", func(Event) error { return nil }), ErrLimit)
	// A mirror goes on trying, and says why it has nothing.
	mirror, err := NewMirror(ctx, client, "*", Handlers[int]{})
	check(t, err)
	until(t, "it knows", func() bool { return errors.Is(mirror.Err(), ErrLimit) })
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	wantError(t, mirror.WaitSynced(short), context.DeadlineExceeded, ErrLimit)
	first.Close()
	check(t, mirror.WaitSynced(ctx))
	check(t, mirror.Err())
	// The function's own error comes back, whatever it is.
	wantError(t, newClient(t, "").Follow(ctx, "*", func(Event) error { return ErrClosed }), ErrClosed)
}

// A handler that is slow delays its own mirror and nothing else, and is told the newest when it comes back.
func TestASlowHandlerDelaysItsOwnMirrorOnly(t *testing.T) {
	client := newClient(t, startDaemon(t, "--in-memory").socket)
	ctx := patient(t)
	entered, leave := make(chan struct{}), make(chan struct{})
	slow := newWitness[int]()
	_, err := NewMirror(ctx, client, "slow", Handlers[int]{
		Created: func(string, int) { close(entered); <-leave },
		Cut:     slow.take,
	})
	check(t, err)
	unread := client.Subscribe(ctx, "slow")
	quick := newWitness[int]()
	quickMirror, err := NewMirror(ctx, client, "slow", Handlers[int]{Cut: quick.take})
	check(t, err)
	check(t, err2(client.Put(ctx, "slow.a", 0)))
	<-entered
	var last Written
	const count = 5000
	for value := 1; value <= count; value++ {
		last, err = client.Put(ctx, "slow.a", value)
		check(t, err)
	}
	until(t, "the quick one has seen it all", func() bool { return quick.isAt(last.Rev) })
	value, _ := quickMirror.Get("slow.a")
	equal(t, value, count)
	// What has arrived is known to have been kept small.
	conn, err := client.Conn(ctx)
	check(t, err)
	conn.mu.Lock()
	for _, in := range conn.inboxes {
		in.mu.Lock()
		if len(in.events) > inboxEventsMax+10 {
			t.Errorf("%d events wait for who is slow", len(in.events))
		}
		in.mu.Unlock()
	}
	conn.mu.Unlock()
	close(leave)
	until(t, "the slow one has, too", func() bool { return slow.isAt(last.Rev) })
	equal(t, slow.told(t), fmt.Sprintf("created slow.a=0, modified slow.a=%d", count))
	// And so is who does not read his channel.
	var newest Event
	for told := 0; newest.Rev < last.Rev; told++ {
		newest = <-unread.Events()
		if told > inboxEventsMax+2 {
			t.Fatal("it is told more than is kept")
		}
	}
	equal(t, newest.Value.String(), fmt.Sprint(count))
}

func TestABatchIsNeverHalfVisible(t *testing.T) {
	client := newClient(t, startDaemon(t, "--in-memory").socket)
	ctx := patient(t)
	var half string
	mirror, err := NewMirror(ctx, client, "sum", Handlers[int]{Cut: func(cut Cut[int]) {
		if len(cut.Changes)%3 != 0 {
			half = fmt.Sprint(cut)
		}
	}})
	check(t, err)
	done := make(chan uint64)
	go func() {
		var rev uint64
		for value := 1; value <= 300; value++ {
			rev, err = client.Commit(ctx, new(Batch).Put("sum.a", value).Put("sum.b", value).Put("sum.c", value))
			if err != nil {
				t.Error(err)
			}
		}
		done <- rev
	}()
	for finished := false; !finished; {
		select {
		case rev := <-done:
			until(t, "it has the last", func() bool {
				var at uint64
				mirror.View(func(view *View[int]) { at = view.Position().Rev })
				return at == rev
			})
			finished = true
		default:
		}
		mirror.View(func(view *View[int]) {
			a, _ := view.Get("sum.a")
			c, _ := view.Get("sum.c")
			equal(t, a, c)
		})
	}
	mirror.Close()
	equal(t, half, "")
}

func TestAMirrorEndsWithItsContext(t *testing.T) {
	client := newClient(t, "")
	ctx, cancel := context.WithCancel(context.Background())
	mirror, err := NewMirror(ctx, client, "*", Handlers[Value]{Synced: cancel})
	check(t, err)
	check(t, mirror.WaitSynced(patient(t)))
	<-mirror.ended
	wantError(t, mirror.Err(), context.Canceled)
	check(t, mirror.Close())
}

// A mirror that never had a connection is not up to date either.
func TestAMirrorWithoutADaemonSaysWhy(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "nkv.sock")
	mirror, err := NewMirror(patient(t), newClient(t, absent), "a", Handlers[int]{})
	check(t, err)
	wantError(t, mirror.Err(), ErrUnreachable)
	until(t, "it knows", func() bool { return errors.Is(mirror.Err(), fs.ErrNotExist) })
	short, cancel := context.WithTimeout(patient(t), time.Millisecond)
	defer cancel()
	wantError(t, mirror.WaitSynced(short), context.DeadlineExceeded, ErrUnreachable, fs.ErrNotExist)
}

// A mirror that has its connection and waits for the first state is told nothing of an unreachable daemon.
func TestAMirrorThatWaitsSaysNoMore(t *testing.T) {
	f := newFake(t)
	mirror, err := NewMirror(patient(t), newClient(t, f.address()), "a", Handlers[int]{})
	check(t, err)
	p := f.greet()
	p.answer(p.expect(`"op":"subscribe","key":"a","cuts":true`), `"ok":true,"epoch":"e","rev":1`)
	until(t, "it is connected", func() bool { return mirror.Err() == nil })
	short, cancel := context.WithTimeout(patient(t), time.Millisecond)
	defer cancel()
	err = mirror.WaitSynced(short)
	wantError(t, err, context.DeadlineExceeded)
	equal(t, errors.Is(err, ErrUnreachable), false)
}
