package nkv

import (
	"context"
	"fmt"
	"sync/atomic"
)

// What lasts as long as its connection, a session entry or a claim, a client keeps up over connections: it is
// asked for anew on each of them, before anybody can use that. The order of requests is what makes it
// sound. A new value is noted and sent under the client's lock, so what is noted last is sent last; and a
// connection that was made meanwhile is told of what has changed since, before it is handed out.
type kept struct {
	client *Client
	key    string
	undo   request
	isHeld atomic.Bool
	rev    atomic.Uint64

	// Under the client's lock.
	request request
	version uint64
}

// keep keeps something up from now on.
func (c *Client) keep(ctx context.Context, k *kept) error {
	if k.request.err != nil {
		return k.request.err
	}
	if _, err := c.Conn(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	c.kept[k] = struct{}{}
	c.mu.Unlock()
	err := k.now(ctx)
	if err != nil {
		// What was refused is not there, or is somebody else's.
		k.end(!isRefusal(err))
	}
	return err
}

// now asks for what is to be kept on the connection that there is, or the next.
func (k *kept) now(ctx context.Context) error {
	for {
		conn, err := k.client.Conn(ctx)
		if err != nil {
			return err
		}
		k.client.mu.Lock()
		call, err := conn.send(k.request, nil)
		k.client.mu.Unlock()
		if err == nil {
			err = k.settle(conn.await(ctx, call))
		}
		if err == nil || isRefusal(err) || ctx.Err() != nil {
			return err
		}
	}
}

// settle notes what the daemon said.
func (k *kept) settle(line string, err error) error {
	if err == nil {
		var a answer
		if a, err = readAnswer(line); err == nil {
			k.rev.Store(a.rev)
			k.isHeld.Store(true)
			return nil
		}
	}
	k.isHeld.Store(false)
	if isRefusal(err) {
		signal(k.client.redo)
	}
	return err
}

// change keeps something else up instead.
func (k *kept) change(request request) {
	k.client.mu.Lock()
	defer k.client.mu.Unlock()
	k.request = request
	k.version++
}

// end keeps it up no more, and takes it back. Without a connection the daemon lets it go by itself.
func (k *kept) end(isThere bool) {
	c := k.client
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, isKept := c.kept[k]; !isKept {
		return
	}
	delete(c.kept, k)
	k.isHeld.Store(false)
	if isThere && c.conn != nil && !c.isKept(k.key) {
		c.conn.send(k.undo, nil)
	}
}

// isKept tells whether anything is kept up for a key. Called under the lock.
func (c *Client) isKept(key string) bool {
	for k := range c.kept {
		if k.key == key {
			return true
		}
	}
	return false
}

// keepUp asks for everything that is to be kept up, and gives what it has asked for.
func (c *Client) keepUp(conn *Conn) (map[*kept]uint64, error) {
	c.mu.Lock()
	told := make(map[*kept]uint64, len(c.kept))
	calls := make(map[*kept]*call, len(c.kept))
	var failed error
	for k := range c.kept {
		told[k] = k.version
		if calls[k], failed = conn.send(k.request, nil); failed != nil {
			break
		}
	}
	c.mu.Unlock()
	for k, call := range calls {
		if failed == nil {
			if err := k.settle(conn.await(c.closing, call)); err != nil && !isRefusal(err) {
				failed = err
			}
		}
	}
	return told, failed
}

// publish lets everybody use a connection on which this has been asked for.
func (c *Client) publish(conn *Conn, told map[*kept]uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.kept {
		if version, isTold := told[k]; !isTold || version != k.version {
			conn.send(k.request, nil)
			signal(c.redo) // which finds out what has come of it
		}
	}
	for k := range told {
		if _, isKept := c.kept[k]; !isKept && !c.isKept(k.key) {
			conn.send(k.undo, nil)
		}
	}
	c.settleLocked(conn, nil)
}

// An Announcement is a [Session] entry that is there as long as the client has a connection.
type Announcement struct{ kept }

// Announce puts a [Session] entry and keeps it there: it is put again on each new connection, until the
// announcement is closed. While there is no connection the daemon lets the entry go; over a restart of the
// daemon it stays for 10 s, which a client uses to come back.
func (c *Client) Announce(ctx context.Context, key string, value any) (*Announcement, error) {
	a := &Announcement{kept{client: c, key: key, undo: deleteRequest(key, nil)}}
	a.request = announcement(key, value)
	if err := c.keep(ctx, &a.kept); err != nil {
		return nil, err
	}
	return a, nil
}

// Where the very entry is there still, after a restart of the daemon, it becomes this connection's, and nobody
// is told of a change that is none.
func announcement(key string, value any) request {
	return putRequest(key, value, []PutOption{Session, IfChanged})
}

// Key gives the key.
func (a *Announcement) Key() string { return a.key }

// Set gives the entry another value, now and on each new connection: also where the error says that it could
// not be told now.
func (a *Announcement) Set(ctx context.Context, value any) error {
	request := announcement(a.key, value)
	if request.err != nil {
		return request.err
	}
	a.change(request)
	return a.now(ctx)
}

// Close deletes the entry. It does not wait: what the client asks afterwards is carried out afterwards.
func (a *Announcement) Close() error {
	a.end(true)
	return nil
}

// A Claim is a part of the keyspace in which nobody else can write.
type Claim struct{ kept }

// Claim takes a key and all that lies below it for this client: nobody else can put or delete anything
// there until the claim is closed or the client's connection ends. It is claimed again on each new
// connection, before anything else is asked there. Where another one has claimed it, the error is
// [ErrConflict].
func (c *Client) Claim(ctx context.Context, key string) (*Claim, error) {
	claim := &Claim{kept{client: c, key: key, undo: keyRequest("release", key)}}
	claim.request = keyRequest("claim", key)
	if err := c.keep(ctx, &claim.kept); err != nil {
		return nil, fmt.Errorf("claim of %q: %w", key, err)
	}
	return claim, nil
}

// Key gives the key.
func (claim *Claim) Key() string { return claim.key }

// Rev is the revision of the claim, which grows from claim to claim of the same key.
func (claim *Claim) Rev() uint64 { return claim.rev.Load() }

// IsHeld tells whether the daemon has confirmed the claim on the connection that there is, as far as this
// client knows. Where the connection was lost and somebody else was faster, it is asked for again until it
// is free.
func (claim *Claim) IsHeld() bool {
	claim.client.mu.Lock()
	defer claim.client.mu.Unlock()
	conn := claim.client.conn
	return conn != nil && conn.Err() == nil && claim.isHeld.Load()
}

// Close lets go. It does not wait: what the client asks afterwards is carried out afterwards.
func (claim *Claim) Close() error {
	claim.end(true)
	return nil
}
