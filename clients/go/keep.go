package nkv

import "context"

// What lasts as long as its connection, a session entry or a claim, a client keeps up over connections: it is
// asked for anew on each of them, before anybody can use that; claims first, for the entries may lie in what is
// claimed. The order of requests is what makes it sound. A new value is noted and sent under the client's lock,
// so what is noted last is sent last; and a connection that was made meanwhile is told of what has changed since,
// before it is handed out. A claim that is refused, or was free for a while, is lost and not asked for again.
type kept struct {
	client *Client
	key    string
	undo   request
	claim  *Claim // which this is part of; nil for an announcement

	// Under the client's lock.
	request request
	version uint64
	isLost  bool
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
	c := k.client
	for {
		conn, err := c.Conn(ctx)
		if err != nil {
			return err
		}
		c.mu.Lock()
		if k.isLost {
			defer c.mu.Unlock()
			return k.claim.loss
		}
		call, err := conn.send(k.request, nil)
		c.mu.Unlock()
		if err != nil {
			continue
		}
		line, err := conn.await(ctx, call)
		c.mu.Lock()
		isUsed := c.conn == conn // else the next connection knows better
		if isUsed {
			err = k.settle(conn, line, err)
		}
		c.mu.Unlock()
		if isUsed && (err == nil || isRefusal(err)) || err != nil && ctx.Err() != nil {
			return err
		}
	}
}

// settle notes what the daemon has said. Called under the lock.
func (k *kept) settle(conn *Conn, line string, err error) error {
	var a answer
	if err == nil {
		a, err = readAnswer(line)
	}
	switch {
	case err != nil && !isRefusal(err):
	case k.claim != nil:
		k.claim.settle(Position{conn.hello.Epoch, a.rev}, err)
	case err != nil:
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
	if k.claim != nil {
		isThere = isThere && !isRefusal(k.claim.loss)
		k.claim.lose(errClaimClosed)
	}
	if isThere && c.conn != nil && !c.isKept(k) {
		c.conn.send(k.undo, nil)
	}
}

// isKept tells whether the same is kept up for somebody else. Called under the lock.
func (c *Client) isKept(k *kept) bool {
	for other := range c.kept {
		if other.key == k.key && (other.claim != nil) == (k.claim != nil) && !other.isLost {
			return true
		}
	}
	return false
}

// keepUp asks for everything that is to be kept up, on a connection that is to be handed out, and gives what
// it has asked for.
func (c *Client) keepUp(conn *Conn) (map[*kept]uint64, error) {
	c.mu.Lock()
	told := make(map[*kept]uint64, len(c.kept))
	calls := make(map[*kept]*call, len(c.kept))
	var failed error
	for _, isClaim := range []bool{true, false} {
		for k := range c.kept {
			if (k.claim != nil) == isClaim && !k.isLost && failed == nil {
				told[k] = k.version
				calls[k], failed = conn.send(k.request, nil)
			}
		}
	}
	c.mu.Unlock()
	if failed == nil {
		failed = c.settleAll(conn, calls)
	}
	return told, failed
}

// announceAgain asks once more for all announcements, because one was refused. (What is claimed is claimed,
// and claims that were refused are lost.)
func (c *Client) announceAgain(conn *Conn) {
	c.mu.Lock()
	calls := make(map[*kept]*call, len(c.kept))
	for k := range c.kept {
		if k.claim == nil {
			if call, err := conn.send(k.request, nil); err == nil {
				calls[k] = call
			}
		}
	}
	c.mu.Unlock()
	c.settleAll(conn, calls)
}

// settleAll notes what the daemon says to each request. What it refuses is no failure.
func (c *Client) settleAll(conn *Conn, calls map[*kept]*call) error {
	for k, call := range calls {
		line, err := conn.await(c.closing, call)
		c.mu.Lock()
		err = k.settle(conn, line, err)
		c.mu.Unlock()
		if err != nil && !isRefusal(err) {
			return err
		}
	}
	return nil
}

// publish lets everybody use a connection on which this has been asked for. A claim that has come meanwhile asks
// for itself.
func (c *Client) publish(conn *Conn, told map[*kept]uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.kept {
		if version, isTold := told[k]; k.claim == nil && (!isTold || version != k.version) {
			conn.send(k.request, nil)
			signal(c.redo) // which finds out what has come of it
		}
	}
	for k := range told {
		if _, isKept := c.kept[k]; !isKept && !c.isKept(k) {
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
