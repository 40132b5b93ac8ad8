package nkv

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

// standsBack asks one thing after the other until the reader leaves the reading to callers. It may take it back at
// any time.
func standsBack(t *testing.T, conn *Conn) {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		check(t, conn.Ping(patient(t)))
		conn.mu.Lock()
		turn := conn.turn
		conn.mu.Unlock()
		if turn == nobodysTurn {
			return
		}
	}
	t.Fatal("the reader never stands back")
}

// dialed gives a connection to a fake that answers pings until it is told to cease, and then gives its side.
func dialed(t *testing.T) (conn *Conn, ceased func() *peer) {
	f := newFake(t)
	var p *peer
	done := make(chan struct{})
	go func() {
		defer close(done)
		p = f.greet()
		for {
			id, op := p.receive()
			p.answer(id, `"ok":true,"rev":1`)
			if op != `"op":"ping"` {
				return
			}
		}
	}()
	conn, err := Dial(patient(t), f.address())
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	standsBack(t, conn)
	return conn, func() *peer {
		check(t, err2(conn.Put(patient(t), "a", 1)))
		<-done
		return p
	}
}

func TestTheEndIsNoticedWhileNobodyReads(t *testing.T) {
	conn, ceased := dialed(t)
	ceased().cut()
	<-conn.Done()
	wantError(t, conn.Err(), ErrClosed)
	wantError(t, conn.Ping(patient(t)), ErrClosed)
}

func TestTheEndIsNoticedWhileACallerReads(t *testing.T) {
	conn, ceased := dialed(t)
	p := ceased()
	told := make(chan error)
	go func() { told <- err2(conn.Put(patient(t), "a", 1)) }()
	p.receive()
	p.cut()
	wantError(t, <-told, ErrUnanswered)
	<-conn.Done()
	wantError(t, conn.Err(), ErrClosed)
}

func TestACallerThatReadsGivesUpWithItsContext(t *testing.T) {
	conn, ceased := dialed(t)
	p := ceased()
	ctx, cancel := context.WithCancel(patient(t))
	told := make(chan error)
	go func() { told <- err2(conn.Put(ctx, "a", 1)) }()
	late, _ := p.receive()
	cancel()
	wantError(t, <-told, ErrUnanswered, context.Canceled)
	// The late answer is nobody's, and what is asked next gets its own.
	go func() { told <- err2(conn.Put(patient(t), "b", 2)) }()
	id, _ := p.receive()
	p.answer(late, `"ok":true,"rev":1`)
	p.answer(id, `"ok":false,"error":"denied","message":""`)
	wantError(t, <-told, ErrDenied)
}

func TestClosingEndsACallerThatReads(t *testing.T) {
	conn, ceased := dialed(t)
	p := ceased()
	told := make(chan error)
	go func() { told <- err2(conn.Put(patient(t), "a", 1)) }()
	p.receive()
	conn.Close()
	wantError(t, <-told, ErrUnanswered, ErrClosed)
	p.expectEnd()
}

func TestEventsComeWhileNobodyAsks(t *testing.T) {
	d := startDaemon(t, "--in-memory")
	client, other := newClient(t, d.socket), newClient(t, d.socket)
	ctx := patient(t)
	conn, err := client.Conn(ctx)
	check(t, err)
	for round := 0; round < 5; round++ {
		standsBack(t, conn)
		subscription := client.Subscribe(ctx, "a", ChangesOnly)
		equal(t, (<-subscription.Events()).Kind, EventSync)
		check(t, err2(other.Put(ctx, "a", round)))
		equal(t, (<-subscription.Events()).Kind, EventPut)
		subscription.Close()
	}
}

// Requests one by one and many at a time, with pauses, so that the turn goes around. Each gets its own answer.
func TestTurnsAreTakenByAll(t *testing.T) {
	d := startDaemon(t, "--in-memory")
	client := newClient(t, d.socket)
	ctx := patient(t)
	for round := 0; round < 30; round++ {
		var all sync.WaitGroup
		for number := 0; number <= round%4; number++ {
			all.Add(1)
			go func(number int) {
				defer all.Done()
				key := Key("n", string(rune('a'+number)))
				for i := 0; i < 50; i++ {
					check(t, err2(client.Put(ctx, key, i)))
					found, err := Get[int](ctx, client, key)
					check(t, err)
					equal(t, found.Value, i)
				}
				// One that gives up at any moment.
				short, cancel := context.WithTimeout(ctx, time.Duration(round)*20*time.Microsecond)
				defer cancel()
				if err := err2(client.Put(short, key, -1)); err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			}(number)
		}
		all.Wait()
		time.Sleep(time.Duration(round%3) * turnTime)
	}
}
