package nkv

import (
	"math/rand"
	"time"
)

// A backoff gives pauses between attempts: they double up to a longest one, and each is cut short at random,
// or all clients of a daemon that has gone would come back at the same moments.
type backoff struct {
	first, longest time.Duration
	next           time.Duration
}

// pause tells how long to wait before the next attempt: between a half and the whole of what it has come to.
func (b *backoff) pause() time.Duration {
	if b.next == 0 {
		b.next = b.first
	}
	whole := b.next
	if b.next *= 2; b.next > b.longest {
		b.next = b.longest
	}
	return whole/2 + time.Duration(rand.Float64()*float64(whole/2))
}

// pauseAfter tells how long to wait after a connection that has lasted so long: not at all where that was
// long. So a daemon that takes in whoever comes and hangs up is not asked without pause.
func (b *backoff) pauseAfter(lasted time.Duration) time.Duration {
	if lasted < b.longest {
		return b.pause()
	}
	b.next = b.first
	return 0
}

// sleep waits for so long, or until the channel is closed, and tells whether it was not.
func sleep(pause time.Duration, done <-chan struct{}) bool {
	if pause > 0 {
		timer := time.NewTimer(pause)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-done:
		}
	}
	select {
	case <-done:
		return false
	default:
		return true
	}
}
