package nkv

import (
	"bytes"
	"errors"
	"net"
	"os"
	"time"
)

const (
	// How long the reader leaves the reading to callers before it looks what they do.
	turnTime = time.Millisecond
	// After how many answers that came one by one, no further apart than that, it does.
	quickMin = 8
)

// Whose turn it is to read.
type turn int

const (
	readersTurn turn = iota // the connection's reader's, a goroutine of its own
	callersTurn             // a caller's, until that has its answer
	nobodysTurn             // the next caller's
)

// A reading is what a connection has to know to be read. A goroutine of its own reads it, so that events are taken in
// and its end is noticed while nobody asks anything. But to be woken by another goroutine costs more than all the rest
// of a request. So where one request quickly follows the other, one at a time, and nobody waits for events, the reader
// stands back: who asks writes the request and reads the answer itself. The reader looks every millisecond what has
// become of that. It reads again where nothing has been asked since, or where a caller still reads that did so the last
// time: an answer that takes long is awaited together with the end of the caller's context.
type reading struct {
	// Whoever's turn it is.
	buffer           []byte
	start, end, seen int  // lines begin at start, and up to seen there is no end of one
	isPinged         bool // whether a silent peer has been asked for a sign of life

	isSocket bool          // the system holds what is written
	back     chan struct{} // has room for one notice that it is the reader's turn again

	// Under the connection's lock.
	turn     turn
	caller   uint64 // the call whose caller's turn it is or was
	isWanted bool   // the reader wants its turn back
	failed   error  // why a caller could not read on
}

func newReading(stream net.Conn) reading {
	r := reading{buffer: make([]byte, 16<<10), back: make(chan struct{}, 1)}
	switch stream.(type) {
	case *net.UnixConn, *net.TCPConn:
		r.isSocket = true
	}
	return r
}

// read takes in lines until there are no more, and tells why.
func (c *Conn) read() error {
	quick, last := 0, time.Now()
	for {
		n, err := c.readSome()
		lines, err := c.takeIn(n, err)
		if err != nil {
			return err
		}
		now := time.Now()
		if quick++; lines != 1 || now.Sub(last) > turnTime || !c.mayStandBack(quick) {
			quick = 0
		}
		last = now
		if quick == quickMin {
			if err := c.waitForTurn(); err != nil {
				return err
			}
			quick = 0
		}
	}
}

// readSome reads, and asks a peer that is silent for a sign of life.
func (c *Conn) readSome() (int, error) {
	for {
		if c.silent > 0 && c.Err() == nil {
			c.net.SetReadDeadline(time.Now().Add(c.silent))
		}
		n, err := c.net.Read(c.room())
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || c.isPinged || c.Err() != nil {
			return n, err
		}
		c.isPinged = true
		c.send(pingRequest, nil)
	}
}

// room gives where there is room for what is read.
func (c *Conn) room() []byte {
	switch {
	case c.end == len(c.buffer):
		c.buffer = append(c.buffer, make([]byte, len(c.buffer))...)
	case c.end == 0 && len(c.buffer) > 16*bufferBytesKept:
		c.buffer = make([]byte, bufferBytesKept)
	}
	return c.buffer[c.end:]
}

// takeIn gives the lines that have been read to whom they are for, and tells how many.
func (c *Conn) takeIn(n int, err error) (lines int, _ error) {
	if n == 0 && err != nil {
		return 0, because(ErrClosed, err)
	}
	c.isPinged = false
	c.end += n
	for c.seen < c.end {
		length := bytes.IndexByte(c.buffer[c.seen:c.end], '\n')
		if length < 0 {
			c.seen = c.end
			break
		}
		line := string(c.buffer[c.start : c.seen+length])
		c.seen += length + 1
		c.start = c.seen
		if err := c.take(line); err != nil {
			return lines, because(ErrClosed, because(ErrProtocol, err))
		}
		lines++
	}
	if c.start > 0 {
		c.end = copy(c.buffer, c.buffer[c.start:c.end])
		c.seen -= c.start
		c.start = 0
	}
	if c.end > lineBytesMax {
		return lines, because(ErrClosed, because(ErrProtocol, errors.New("a line has no end")))
	}
	return lines, nil
}

// isQuiet tells whether nothing is to come that has not been asked for. Called under the lock.
func (c *Conn) isQuiet() bool {
	return c.err == nil && c.next == len(c.waiting) && len(c.inboxes) == 0
}

// mayStandBack tells whether nobody waits for anything, after so many quick answers. When there are enough it leaves
// the reading to callers.
func (c *Conn) mayStandBack(quick int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isQuiet() {
		return false
	}
	if quick == quickMin {
		c.turn = nobodysTurn
	}
	return true
}

// waitForTurn waits until it is the reader's turn again. It tells why a caller could not read on.
func (c *Conn) waitForTurn() error {
	ticks := time.NewTicker(turnTime)
	defer ticks.Stop()
	var asked, caller uint64
	for isOver := false; ; {
		select {
		case <-c.back:
			return c.failed
		case <-ticks.C:
		case <-c.done:
			isOver = true
		}
		c.mu.Lock()
		switch {
		case c.turn == nobodysTurn && (isOver || c.lastID == asked || !c.isQuiet()):
			c.turn = readersTurn
			c.mu.Unlock()
			return nil
		case c.turn == callersTurn && (isOver || c.caller == caller):
			c.isWanted = true
			c.mu.Unlock()
			return c.wakeCaller()
		}
		asked, caller = c.lastID, c.caller
		c.mu.Unlock()
	}
}

// wakeCaller takes the turn from a caller.
func (c *Conn) wakeCaller() error {
	c.net.SetReadDeadline(time.Unix(1, 0))
	<-c.back
	c.net.SetReadDeadline(time.Time{})
	if c.Err() != nil {
		c.net.SetReadDeadline(time.Now().Add(lastWordsMax))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.isWanted = false
	return c.failed
}

// readFor reads until a call is answered, if it is nobody else's turn, and until the reader wants its turn back.
func (c *Conn) readFor(call *call) {
	c.mu.Lock()
	if c.turn != nobodysTurn {
		c.mu.Unlock()
		return
	}
	c.turn, c.caller = callersTurn, call.id
	c.mu.Unlock()
	var failed error
	for failed == nil && len(call.reply) == 0 {
		n, err := c.net.Read(c.room())
		if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		_, failed = c.takeIn(n, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if failed == nil && len(call.reply) > 0 && !c.isWanted && c.isQuiet() {
		c.turn = nobodysTurn
		return
	}
	c.turn, c.failed = readersTurn, failed
	c.back <- struct{}{}
}
