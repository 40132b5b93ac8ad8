package nkv_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"sync"
	"time"

	"nkv"
)

// The examples stand in docs/go.md, too. They run against a daemon that the tests start.

var ctx = context.Background()

func dial() *nkv.Client {
	client, err := nkv.New("")
	if err != nil {
		log.Fatal(err)
	}
	return client
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func ExampleGet() {
	client := dial()
	defer client.Close()

	written, err := client.Put(ctx, "net.eth0.mtu", 1500)
	must(err)
	mtu, err := nkv.Get[int](ctx, client, "net.eth0.mtu")
	must(err)
	fmt.Println(mtu.Value, mtu.Rev == written.Rev)

	_, err = nkv.Get[int](ctx, client, "net.eth1.mtu")
	fmt.Println(errors.Is(err, nkv.ErrNotFound))
	// Output:
	// 1500 true
	// true
}

func ExampleOf() {
	client := dial()
	defer client.Close()

	_, err := client.Put(ctx, "value.json", json.RawMessage(`{"b": 1.00, "a": 12345678901234567890123}`))
	must(err)
	_, err = client.Put(ctx, "value.bytes", []byte{0, 255})
	must(err)
	entry, err := client.Get(ctx, "value.json")
	must(err)
	fmt.Println(entry.Value)
	raw, err := nkv.Get[[]byte](ctx, client, "value.bytes")
	must(err)
	fmt.Println(raw.Value)
	// Output:
	// {"b": 1.00, "a": 12345678901234567890123}
	// [0 255]
}

func ExampleKey() {
	key := nkv.Key("hosts", "edge-7.example.org", "up")
	fmt.Println(key)
	fmt.Println(nkv.Segments(key)[1])
	// Output:
	// hosts.edge-7%2Eexample%2Eorg.up
	// edge-7.example.org
}

func ExampleList() {
	client := dial()
	defer client.Close()
	must(put(client, "disk.sda", 512))
	must(put(client, "disk.sdb", 1024))

	disks, err := nkv.List[int](ctx, client, "disk.*")
	must(err)
	for _, disk := range disks {
		fmt.Println(disk.Key, disk.Value)
	}
	// Output:
	// disk.sda 512
	// disk.sdb 1024
}

func put(client *nkv.Client, key string, value any) error {
	_, err := client.Put(ctx, key, value)
	return err
}

func ExampleNewMirror() {
	client := dial()
	defer client.Close()
	must(put(client, "config.web.port", 80))

	ports, err := nkv.NewMirror(ctx, client, "config.*.port", nkv.Handlers[uint16]{
		Created:  func(key string, port uint16) { fmt.Println(key, "is", port) },
		Modified: func(key string, old, port uint16) { fmt.Println(key, "was", old, "and is", port) },
		Deleted:  func(key string, old uint16) { fmt.Println(key, "is gone") },
		Invalid:  func(key string, value nkv.Value, err error) { fmt.Println(key, "is no port:", value) },
	})
	must(err)
	must(ports.WaitSynced(ctx))
	port, ok := ports.Get("config.web.port")
	fmt.Println(port, ok)
	ports.Close()
	// Output:
	// config.web.port is 80
	// 80 true
}

func ExampleMirror_View() {
	client := dial()
	defer client.Close()
	_, err := client.Commit(ctx, new(nkv.Batch).Put("pair.a", 1).Put("pair.b", 1))
	must(err)
	mirror, err := nkv.NewMirror(ctx, client, "pair", nkv.Handlers[int]{})
	must(err)
	must(mirror.WaitSynced(ctx))

	mirror.View(func(view *nkv.View[int]) {
		a, _ := view.Get("pair.a")
		b, _ := view.Get("pair.b")
		fmt.Println(a == b, view.Keys("*"))
	})
	// Output: true [pair.a pair.b]
}

func ExampleHandlers() {
	client := dial()
	defer client.Close()
	must(put(client, "dns.1", "9.9.9.9"))
	written := make(chan struct{})
	var once sync.Once
	write := func(path string, servers map[string]string) {
		once.Do(func() { fmt.Println(path, servers); close(written) })
	}

	_, err := nkv.NewMirror(ctx, client, "dns", nkv.Handlers[string]{
		Cut: func(cut nkv.Cut[string]) {
			if len(cut.Changes) > 0 {
				write("/run/resolv.conf", cut.View.Snapshot())
			}
		},
	})
	must(err)
	<-written
	// Output: /run/resolv.conf map[dns.1:9.9.9.9]
}

func ExampleClient_Announce() {
	client, other := dial(), dial()
	defer client.Close()
	defer other.Close()

	here, err := client.Announce(ctx, "present.thermostat", "starting")
	must(err)
	must(here.Set(ctx, "heating"))
	seen, err := nkv.Get[string](ctx, other, "present.thermostat")
	must(err)
	fmt.Println(seen.Value)
	here.Close()
	// Output: heating
}

func ExampleClient_Claim() {
	client, other := dial(), dial()
	defer client.Close()
	defer other.Close()

	claim, err := client.Claim(ctx, "state.modem")
	must(err)
	defer claim.Close()
	_, err = client.Put(ctx, "state.modem.signal", -71, nkv.Boot)
	must(err)

	_, err = other.Claim(ctx, "state.modem")
	fmt.Println(errors.Is(err, nkv.ErrConflict))
	_, err = other.Put(ctx, "state.modem.signal", 0, nkv.Boot)
	fmt.Println(errors.Is(err, nkv.ErrDenied))
	// Output:
	// true
	// true
}

func ExampleClient_ClaimWhenFree() {
	client := dial()
	defer client.Close()
	ctx, stop := context.WithCancel(ctx)
	publish := func() { fmt.Println("published"); stop() }

	for ctx.Err() == nil {
		claim, err := client.ClaimWhenFree(ctx, "state.gps")
		must(err)
		publish() // all of it: somebody else may have written before
		select {
		case <-claim.Lost():
		case <-ctx.Done():
		}
		claim.Close()
	}
	// Output: published
}

func ExampleIfChanged() {
	client := dial()
	defer client.Close()

	_, err := client.Put(ctx, "state.thermostat", "heating", nkv.Boot, nkv.IfChanged)
	must(err)
	// Output:
}

func ExampleIfRev() {
	client := dial()
	defer client.Close()

	_, err := client.Put(ctx, "owner", "edge-1", nkv.Session, nkv.IfRev(0))
	must(err)
	_, err = client.Put(ctx, "owner", "edge-2", nkv.Session, nkv.IfRev(0))
	var refusal *nkv.Error
	if errors.Is(err, nkv.ErrConflict) && errors.As(err, &refusal) {
		fmt.Println("somebody was faster", refusal.Rev > 0)
	}
	// Output: somebody was faster true
}

func ExampleTTL() {
	client := dial()
	defer client.Close()

	// Again and again, from the loop that must not hang.
	_, err := client.Put(ctx, "alive.thermostat", true, nkv.TTL(30*time.Second), nkv.IfChanged)
	must(err)
	// Output:
}

func ExampleUpdate() {
	client := dial()
	defer client.Close()

	_, err := nkv.Update(ctx, client, "jobs.done", func(done int, exists bool) (int, error) {
		return done + 1, nil
	})
	must(err)
	// Output:
}

func ExampleBatch() {
	client := dial()
	defer client.Close()

	var batch nkv.Batch
	batch.Check("servers.locked", 0)
	batch.Delete("servers.dns.*")
	batch.Put("servers.dns.1", "9.9.9.9")
	_, err := client.Commit(ctx, &batch)
	must(err)
	// Output:
}

func ExampleClient_Subscribe() {
	client := dial()
	defer client.Close()
	must(put(client, "lamp.hall", true))

	subscription := client.Subscribe(ctx, "lamp")
	defer subscription.Close()
	for event := range subscription.Events() {
		switch event.Kind {
		case nkv.EventPut:
			fmt.Println(event.Key, "=", event.Value)
		case nkv.EventDelete:
			fmt.Println(event.Key, "is gone")
		case nkv.EventReset:
			fmt.Println("forget all that was told")
		case nkv.EventSync:
			fmt.Println("that is all for now")
			return // a program that follows goes on
		}
	}
	fmt.Println(subscription.Err())
	// Output:
	// lamp.hall = true
	// that is all for now
}

func ExampleClient_Follow() {
	client := dial()
	defer client.Close()
	must(put(client, "door.front", "open"))

	enough := errors.New("enough")
	err := client.Follow(ctx, "door", func(event nkv.Event) error {
		if event.Kind == nkv.EventPut && event.Value.String() == `"open"` {
			return enough
		}
		return nil
	})
	fmt.Println(err)
	// Output: enough
}

func ExampleSince() {
	client := dial()
	defer client.Close()
	_, err := client.Delete(ctx, "log.*")
	must(err)
	var kept nkv.Position
	follow := func(options ...nkv.SubscribeOption) {
		client.Follow(ctx, "log", func(event nkv.Event) error {
			if event.Kind == nkv.EventSync {
				kept = event.Position
				return errors.New("later")
			}
			fmt.Println(event.Kind, event.Key)
			return nil
		}, options...)
	}
	must(put(client, "log.1", 1))

	follow()
	must(put(client, "log.2", 2))
	follow(nkv.Since(kept))
	// Output:
	// put log.1
	// put log.2
}

func Example_timeouts() {
	client, err := nkv.New("/nowhere/nkv.sock", nkv.WithName("thermostat"))
	must(err)
	defer client.Close()

	ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	_, err = client.Put(ctx, "a", 1)
	switch {
	case errors.Is(err, nkv.ErrUnanswered):
		fmt.Println("it may have been carried out")
	case errors.Is(err, context.DeadlineExceeded):
		fmt.Println("it was not sent")
	}
	// Output: it was not sent
}

func ExampleDial() {
	dialing, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := nkv.Dial(dialing, "")
	must(err)
	defer conn.Close()
	fmt.Println(conn.Hello().Protocol)
	select {
	case <-conn.Done():
		fmt.Println(conn.Err())
	default:
	}
	// Output: 1
}
