package nkv

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// A Claim is a part of the keyspace in which nobody else can write, as long as this is not closed and the client
// has a connection.
//
// On each new connection it is claimed again, before anything else is asked there. Over a restart of the daemon
// it stays for 10 s, which a client uses to come back: it is the same claim then, and nobody else had it in
// between. After a connection that was lost for another reason, or for longer, it has been free. Then it is lost,
// whether somebody else has it or the client was quicker: somebody else may have written there. What is lost stays
// so: to go on, make another one.
type Claim struct {
	kept
	lost chan struct{}

	// Under the client's lock.
	granted Position // the zero Position before
	loss    error
}

var (
	errClaimClosed = because(ErrClosed, errors.New("the claim is"))
	errWasFree     = because(ErrLost, errors.New("it was free for a while"))
)

// The pauses between attempts to claim what somebody else has, where nothing tells that it is free.
var claimPauses = backoff{first: 100 * time.Millisecond, longest: 5 * time.Second}

// Claim takes a key and all that lies below it for this client: nobody else can put or delete anything there until
// the claim is closed or [Claim.Lost]. Where another one has claimed it, or something above or below it, the error
// is [ErrConflict].
func (c *Client) Claim(ctx context.Context, key string) (*Claim, error) {
	claim := &Claim{lost: make(chan struct{})}
	claim.kept = kept{client: c, key: key, undo: keyRequest("release", key), claim: claim}
	claim.request = keyRequest("claim", key)
	if err := c.keep(ctx, &claim.kept); err != nil {
		return nil, fmt.Errorf("claim of %q: %w", key, err)
	}
	return claim, nil
}

// ClaimWhenFree is as [Client.Claim], but where somebody else is in the way it waits until the key is free. Of
// several that wait one gets it. Where the context ends before, the error is [ErrConflict] as well as the context's.
func (c *Client) ClaimWhenFree(ctx context.Context, key string) (*Claim, error) {
	claim, err := c.Claim(ctx, key)
	if !errors.Is(err, ErrConflict) {
		return claim, err
	}
	refused := err
	news := c.Subscribe(ctx, claimsAbout(key))
	defer news.Close()
	events, pauses := news.Events(), claimPauses
	for {
		timer := time.NewTimer(pauses.pause())
		// What has become free before is found by looking once more, after the sync.
		for isInTheWay := true; isInTheWay; {
			select {
			case event, isOpen := <-events:
				if !isOpen {
					events = nil // the rules may hide who claims what
				}
				isNews := event.Kind == EventSync || event.Kind == EventReset
				isEnd := event.Kind == EventDelete && isClaimInTheWay(event.Key, key)
				isInTheWay = !isNews && !isEnd
			case <-timer.C:
				isInTheWay = false
			case <-ctx.Done():
				isInTheWay = false
			}
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil, because(ctx.Err(), refused)
		}
		if claim, err = c.Claim(ctx, key); !errors.Is(err, ErrConflict) {
			return claim, err
		}
	}
}

// settle notes that it was granted there, or was refused. Called under the lock.
func (claim *Claim) settle(granted Position, refusal error) {
	switch {
	case refusal != nil:
		claim.lose(because(ErrLost, refusal))
	case claim.granted == Position{}:
		claim.granted = granted
	case claim.granted != granted:
		// Another claim: nobody had this one for a while, or somebody else had.
		claim.lose(errWasFree)
	}
}

// lose says so, the first time. Called under the lock.
func (claim *Claim) lose(loss error) {
	if claim.isLost {
		return
	}
	claim.isLost, claim.loss = true, loss
	close(claim.lost)
}

// Key gives the key.
func (claim *Claim) Key() string { return claim.key }

// Rev is the revision of the claim. In one history it grows from claim to claim of the key, whoever makes them, so
// it tells of two who have done something in the name of the claim who is the later.
func (claim *Claim) Rev() uint64 {
	claim.client.mu.Lock()
	defer claim.client.mu.Unlock()
	return claim.granted.Rev
}

// IsHeld tells whether the client has the claim now, on a connection that is not known to be lost, and nobody
// else has had it since this was made.
func (claim *Claim) IsHeld() bool {
	claim.client.mu.Lock()
	defer claim.client.mu.Unlock()
	conn := claim.client.conn
	return !claim.isLost && conn != nil && conn.Err() == nil
}

// Lost is closed when somebody else has the claim, or may have had it, since this was made; and when this or the
// client is closed. While there is no connection nobody here can know, and it stays open until there is one.
func (claim *Claim) Lost() <-chan struct{} { return claim.lost }

// Err tells why the claim is lost, and is nil while it is not: [ErrLost], with the daemon's refusal where that
// has refused to give it back, or [ErrClosed].
func (claim *Claim) Err() error {
	claim.client.mu.Lock()
	defer claim.client.mu.Unlock()
	return claim.loss
}

// Close lets go. It does not wait: what the client asks afterwards is carried out afterwards.
func (claim *Claim) Close() error {
	claim.end(true)
	return nil
}

// What stands before a claimed key in the daemon's own entry for the claim.
const claimPrefix = "$claims."

// claimsAbout gives the entry that stands for all claims which can be in the way of one: those of the keys above
// it and below it lie below this one too.
func claimsAbout(key string) string {
	first, _, _ := strings.Cut(key, ".")
	return claimPrefix + first
}

// isClaimInTheWay tells whether the end of this entry may make it possible to claim that key.
func isClaimInTheWay(entry, key string) bool {
	claimed := strings.TrimPrefix(entry, claimPrefix) + "."
	key += "."
	return claimed != entry+"." && (strings.HasPrefix(claimed, key) || strings.HasPrefix(key, claimed))
}
