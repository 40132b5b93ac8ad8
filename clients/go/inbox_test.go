package nkv

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
)

// events reads words: a5 is a put of a at revision 5, -a5 a deletion, s5 a sync and r5 a reset.
func events(t testing.TB, words string) []Event {
	var all []Event
	for _, word := range strings.Fields(words) {
		at := strings.IndexAny(word, "0123456789")
		rev, err := strconv.ParseUint(word[at:], 10, 64)
		check(t, err)
		event := Event{Kind: EventPut, Key: word[:at], Rev: rev}
		switch {
		case word[:at] == "s":
			event = Event{Kind: EventSync, Rev: rev}
		case word[:at] == "r":
			event = Event{Kind: EventReset, Rev: rev}
		case word[0] == '-':
			event = Event{Kind: EventDelete, Key: word[1:at], Rev: rev}
		default:
			event.Value = Value{text: strconv.FormatUint(rev, 10)}
		}
		all = append(all, event)
	}
	return all
}

func words(events []Event) string {
	var all []string
	for _, event := range events {
		switch event.Kind {
		case EventSync:
			all = append(all, fmt.Sprintf("s%d", event.Rev))
		case EventReset:
			all = append(all, fmt.Sprintf("r%d", event.Rev))
		case EventDelete:
			all = append(all, fmt.Sprintf("-%s%d", event.Key, event.Rev))
		default:
			all = append(all, fmt.Sprintf("%s%d", event.Key, event.Rev))
		}
	}
	return strings.Join(all, " ")
}

func TestCompactionKeepsWhatMatters(t *testing.T) {
	for _, test := range []struct{ events, want string }{
		{"", ""},
		{"a1 b2 a3", "b2 a3"},
		{"a1 -a2 b3", "-a2 b3"},
		{"-a1 a2", "a2"},
		// The state at the last sync is told before it, however often it changed since.
		{"a1 s1 a2 s2 a3 a4", "a2 s2 a4"},
		{"a1 b2 s2 b3", "a1 b2 s2 b3"},
		{"s1 s2 s3", "s3"},
		{"a1 s1 r5 a1 b4", "r5 a1 b4"},
		{"r5 a1 a6 s6 a7", "r5 a6 s6 a7"},
	} {
		in := newInbox(1)
		for _, event := range events(t, test.events) {
			in.push(event)
		}
		equal(t, words(compact(in.events)), test.want)
	}
}

func TestAnUnreadInboxIsBounded(t *testing.T) {
	in := newInbox(1)
	for rev := uint64(1); rev < 100_000; rev++ {
		in.push(Event{Kind: EventPut, Key: fmt.Sprintf("k%d", rev%700), Rev: rev})
		in.push(Event{Kind: EventSync, Rev: rev})
		if len(in.events) > inboxEventsMax+2*2*701 {
			t.Fatalf("it holds %d", len(in.events))
		}
	}
	all, err := in.take(context.Background(), math.MaxInt)
	check(t, err)
	equal(t, all[len(all)-1].Rev, 99_999)
}

func TestAnInboxIsTakenBeforeItsEndIsTold(t *testing.T) {
	in := newInbox(1)
	for _, event := range events(t, "a1 s1") {
		in.push(event)
	}
	in.close(ErrClosed)
	for _, want := range []string{"a1", "s1"} {
		got, err := in.take(context.Background(), 1)
		check(t, err)
		equal(t, words(got), want)
	}
	_, err := in.take(context.Background(), 1)
	wantError(t, err, ErrClosed)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = newInbox(2).take(ctx, 1)
	wantError(t, err, context.Canceled)
}
