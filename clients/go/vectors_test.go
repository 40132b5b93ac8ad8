package nkv

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The conformance stories of tests/vectors, in which this test plays the daemon: for each line of a client
// it makes the call that should lead to it and compares what was written; it answers with the story's
// lines, and compares what the call says of them. Steps that no user of this client can take are left out.
func TestVectors(t *testing.T) {
	stories, err := filepath.Glob("../../tests/vectors/*.jsonl")
	check(t, err)
	if len(stories) == 0 {
		t.Fatal("there are no stories")
	}
	for _, path := range stories {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".jsonl"), func(t *testing.T) {
			file, err := os.Open(path)
			check(t, err)
			defer file.Close()
			s := &story{t: t, actors: make(map[string]*actor), bound: make(map[string]string)}
			steps := bufio.NewScanner(file)
			steps.Buffer(nil, 8<<20)
			for steps.Scan() {
				s.step(steps.Text())
			}
			check(t, steps.Err())
		})
	}
}

type story struct {
	t      *testing.T
	actors map[string]*actor
	bound  map[string]string
}

// An actor is a client of a story, and the daemon's end of its connection.
type actor struct {
	client        *Client
	peer          *peer
	subscriptions map[string]*Subscription // by id
	claims        map[string][]*Claim      // by key
	answered      func(line string)        // compares what a call says of its answer
	id            string                   // of the request that is not answered
}

func (s *story) step(text string) {
	s.t.Helper()
	var step struct {
		Needs         []string
		Open, In, Out string
		Close, End    string
		Line          json.RawMessage
		Any_order     []json.RawMessage
		Raw           bool
	}
	check(s.t, json.Unmarshal([]byte(text), &step))
	for _, need := range step.Needs {
		if need == "end" {
			s.t.Skip("no user of this client closes the sending half alone")
		}
	}
	switch {
	case step.Raw:
	case step.Open != "":
		s.open(step.Open)
	case step.Close != "":
		s.actors[step.Close].client.Close()
	case step.In != "":
		s.in(s.actors[step.In], s.fill(string(step.Line)))
	case step.Out != "":
		s.out(s.actors[step.Out], string(step.Line))
	}
	for _, out := range step.Any_order {
		s.step(string(out))
	}
}

func (s *story) open(name string) {
	f := newFake(s.t)
	a := &actor{client: newClient(s.t, f.address()), subscriptions: make(map[string]*Subscription), claims: make(map[string][]*Claim)}
	go a.client.Conn(patient(s.t))
	a.peer = f.greet()
	s.actors[name] = a
}

var placeholder = regexp.MustCompile(`"\$([^"\\]*)"`)

// fill puts in what placeholders stand for, and invents what is not bound.
func (s *story) fill(line string) string {
	line = strings.ReplaceAll(line, `,"...":"..."`, "")
	return placeholder.ReplaceAllStringFunc(line, func(text string) string {
		name := text[2 : len(text)-1]
		if strings.HasPrefix(name, "$") {
			return `"` + name + `"`
		}
		if bound, isBound := s.bound[name]; isBound {
			return bound
		}
		invented := strconv.Quote(name)
		if name[0] == 'n' {
			invented = "7"
		} else if name[0] == 'r' {
			invented = strings.TrimLeft(name, "abcdefghijklmnopqrstuvwxyz")
		}
		if !strings.HasPrefix(name, "id") && name != "_" {
			s.bound[name] = invented
		}
		return invented
	})
}

// in makes the call that leads to a line, and compares the two.
func (s *story) in(a *actor, line string) {
	s.t.Helper()
	var wanted struct{ ID string }
	json.Unmarshal([]byte(line), &wanted)
	a.call(s.t, line)
	id, rest := a.peer.receive()
	s.bound[wanted.ID] = id
	a.id = id
	if strings.HasPrefix(rest, `"op":"subscribe"`) {
		a.subscriptions[id] = a.subscriptions[""]
	}
	_, line, _ = strings.Cut(line, ",")
	equal(s.t, canonical(s.t, "{"+rest+"}"), canonical(s.t, "{"+line))
}

// out sends a line, and compares what the client says of it.
func (s *story) out(a *actor, line string) {
	s.t.Helper()
	line = s.fill(line)
	a.peer.send(line + "\n")
	head, err := readHead(line)
	check(s.t, err)
	if !head.isSub {
		a.answered(line)
		return
	}
	event := <-a.subscriptions[head.id].Events()
	want := answerOf(s.t, line)
	event.Position = Position{}
	equal(s.t, event, Event{Kind: EventKind(want.event), Key: want.key, Value: want.value, Rev: want.rev, epoch: want.epoch})
}

// call makes the call whose request a line is.
func (a *actor) call(t *testing.T, line string) {
	t.Helper()
	fields := make(map[string]string)
	check(t, eachField(line, func(name, raw string) bool {
		fields[name] = raw
		return true
	}))
	ctx := patient(t)
	key := unquoted(t, fields["key"])
	op := unquoted(t, fields["op"])
	c := a.client
	ask := func(call func() (any, error), want func(answer, string) any) {
		told := make(chan error, 1)
		var got any
		go func() {
			var err error
			got, err = call()
			told <- err
		}()
		a.answered = func(line string) {
			t.Helper()
			err := <-told
			head, _ := readHead(line)
			if !head.isOK {
				var refusal *Error
				if !errors.As(err, &refusal) {
					t.Fatalf("%v is no refusal", err)
				}
				equal(t, *refusal, refusalOf(t, line))
				return
			}
			check(t, err)
			equal(t, fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want(answerOf(t, line), line)))
		}
	}
	switch {
	case op == "put":
		ask(func() (any, error) { return c.Put(ctx, key, valueOf(t, fields), putOptions(t, fields)...) },
			func(a answer, _ string) any { return Written{a.rev, a.unchanged} })
	case op == "delete":
		ask(func() (any, error) { return c.Delete(ctx, key, deleteOptions(t, fields)...) },
			func(a answer, _ string) any { return Deletion{a.deleted, a.rev} })
	case op == "get" && !strings.Contains(key, "*"):
		ask(func() (any, error) { return c.Get(ctx, key) },
			func(a answer, _ string) any { return entryOf(a) })
	case op == "get":
		options := PageOptions{Limit: int(number(fields["limit"])), After: unquoted(t, fields["after"]), KeysOnly: fields["keys_only"] == "true"}
		ask(func() (any, error) { return c.Page(ctx, key, options) }, func(a answer, line string) any {
			page := Page{Rev: a.rev, More: a.more}
			eachElement(a.entries, func(raw string) error {
				page.Entries = append(page.Entries, entryOf(answerOf(t, raw)))
				return nil
			})
			return page
		})
	case op == "batch":
		batch := new(Batch)
		check(t, eachElement(fields["ops"], func(raw string) error {
			operation := make(map[string]string)
			eachField(raw, func(name, raw string) bool { operation[name] = raw; return true })
			key := unquoted(t, operation["key"])
			switch unquoted(t, operation["op"]) {
			case "put":
				batch.Put(key, valueOf(t, operation), putOptions(t, operation)...)
			case "delete":
				batch.Delete(key, deleteOptions(t, operation)...)
			case "check":
				batch.Check(key, number(operation["if_rev"]))
			}
			return nil
		}))
		ask(func() (any, error) { return c.Commit(ctx, batch) }, func(a answer, _ string) any { return a.rev })
	case op == "subscribe":
		a.subscribe(t, ctx, key, fields)
	case op == "unsubscribe":
		a.subscriptions[fields["sub"]].Close()
		a.answered = func(string) {}
	case op == "ping":
		ask(func() (any, error) { return nil, c.Ping(ctx) }, func(answer, string) any { return nil })
	case op == "hello":
		// It is the client's own affair, so this is its lowest layer.
		ask(func() (any, error) {
			conn, err := c.Conn(ctx)
			check(t, err)
			_, err = conn.do(ctx, helloRequest(unquoted(t, fields["client"]), unquoted(t, fields["token"])))
			return nil, err
		}, func(answer, string) any { return nil })
	case op == "stats":
		ask(func() (any, error) { return c.Stats(ctx) }, func(_ answer, line string) any {
			want := make(map[string]uint64)
			eachField(line, func(name, raw string) bool {
				if number, err := readNumber(raw); err == nil && name != "id" {
					want[name] = number
				}
				return true
			})
			return want
		})
	case op == "clients":
		ask(func() (any, error) { return c.Clients(ctx) }, func(_ answer, line string) any {
			var want struct{ Clients []Peer }
			check(t, json.Unmarshal([]byte(line), &want))
			return want.Clients
		})
	case op == "claim":
		ask(func() (any, error) {
			claim, err := c.Claim(ctx, key)
			if err != nil {
				return nil, err
			}
			a.claims[key] = append(a.claims[key], claim)
			return claim.Rev(), nil
		}, func(a answer, _ string) any { return a.rev })
	case op == "release" && len(a.claims[key]) > 0:
		for _, claim := range a.claims[key] {
			claim.Close()
		}
		delete(a.claims, key)
		a.answered = func(string) {}
	case op == "release":
		// What is not claimed can't be released, but by the lowest layer.
		ask(func() (any, error) { return c.do(ctx, keyRequest("release", key)) }, nil)
	default:
		t.Fatalf("this test does not know %s", op)
	}
}

func (a *actor) subscribe(t *testing.T, ctx context.Context, key string, fields map[string]string) {
	var options []SubscribeOption
	if fields["exact"] == "true" {
		options = append(options, Exact)
	}
	if fields["initial"] == "false" {
		options = append(options, ChangesOnly)
	}
	if fields["cuts"] == "true" {
		options = append(options, Cuts)
	}
	if since, isThere := fields["since"]; isThere {
		options = append(options, Since(Position{unquoted(t, fields["epoch"]), number(since)}))
	}
	subscription := a.client.Subscribe(ctx, key, options...)
	a.subscriptions[""] = subscription
	a.answered = func(line string) {
		if head, _ := readHead(line); !head.isOK {
			for range subscription.Events() {
			}
			var refusal *Error
			equal(t, errors.As(subscription.Err(), &refusal), true)
			equal(t, *refusal, refusalOf(t, line))
		}
	}
}

// answerOf reads a line of a story as encoding/json does: what this package itself reads of it is what is
// to be tested.
func answerOf(t *testing.T, line string) answer {
	t.Helper()
	var said struct {
		Key, Event, Epoch string
		Value, Entries    json.RawMessage
		Base64            *[]byte
		Rev, Deleted      uint64
		Lifetime          Lifetime
		TTL               uint64 `json:"ttl_ms"`
		Unchanged, More   bool
	}
	check(t, json.Unmarshal([]byte(line), &said))
	a := answer{
		key: said.Key, event: said.Event, epoch: said.Epoch, value: Value{text: string(said.Value)}, entries: string(said.Entries),
		rev: said.Rev, deleted: said.Deleted, lifetime: said.Lifetime, ttlMS: said.TTL, unchanged: said.Unchanged, more: said.More,
	}
	if said.Base64 != nil {
		a.value = Value{text: string(*said.Base64), isBytes: true}
	}
	return a
}

func refusalOf(t *testing.T, line string) Error {
	t.Helper()
	said := struct {
		Error, Message string
		Rev            uint64
		At             int
	}{At: -1}
	check(t, json.Unmarshal([]byte(line), &said))
	return Error{Code(said.Error), said.Message, said.Rev, said.At}
}

func entryOf(a answer) Entry[Value] {
	entry := Entry[Value]{a.key, a.value, a.rev, a.lifetime, time.Duration(a.ttlMS) * time.Millisecond}
	if entry.Lifetime == "" {
		entry.Lifetime = Durable
	}
	return entry
}

func valueOf(t *testing.T, fields map[string]string) any {
	if raw, isThere := fields["value"]; isThere {
		return json.RawMessage(raw)
	}
	raw, err := base64.StdEncoding.DecodeString(unquoted(t, fields["base64"]))
	check(t, err)
	return raw
}

func putOptions(t *testing.T, fields map[string]string) []PutOption {
	var options []PutOption
	for name, raw := range fields {
		switch name {
		case "if_rev":
			options = append(options, IfRev(number(raw)))
		case "if_changed":
			options = append(options, IfChanged)
		case "lifetime":
			options = append(options, Lifetime(unquoted(t, raw)))
		case "ttl_ms":
			options = append(options, TTL(time.Duration(number(raw))*time.Millisecond))
		}
	}
	return options
}

func deleteOptions(t *testing.T, fields map[string]string) []DeleteOption {
	if raw, isThere := fields["if_rev"]; isThere {
		return []DeleteOption{IfRev(number(raw))}
	}
	return nil
}

func unquoted(t *testing.T, raw string) string {
	t.Helper()
	if raw == "" {
		return ""
	}
	text, err := readString(raw)
	check(t, err)
	return text
}

func number(raw string) uint64 {
	number, _ := readNumber(raw)
	return number
}

// canonical writes an object in one way: fields by name, strings without escapes, values as they are.
func canonical(t *testing.T, raw string) string {
	t.Helper()
	switch {
	case strings.HasPrefix(raw, "{"):
		var fields []string
		check(t, eachField(raw, func(name, raw string) bool {
			if name != "value" && name != "id" {
				raw = canonical(t, raw)
			}
			fields = append(fields, name+":"+raw)
			return true
		}))
		sort.Strings(fields)
		return "{" + strings.Join(fields, ",") + "}"
	case strings.HasPrefix(raw, "["):
		var elements []string
		check(t, eachElement(raw, func(raw string) error {
			elements = append(elements, canonical(t, raw))
			return nil
		}))
		return "[" + strings.Join(elements, ",") + "]"
	case strings.HasPrefix(raw, `"`):
		return strconv.Quote(unquoted(t, raw))
	}
	return raw
}
