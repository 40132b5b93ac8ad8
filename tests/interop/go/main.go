// A party of the tests in tests/interop: it is told commands by lines of JSON, carries them out with the Go
// client, and answers with what that said. party.rs has the types.
//
//	nkv-interop-go ADDRESS [TOKEN]
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"reflect"
	"time"

	"nkv"
)

const patience = time.Minute

type held struct {
	JSON   *string `json:"json,omitempty"`
	Base64 *string `json:"base64,omitempty"`
}

type operation struct {
	Op, Key, Pattern string
	Value            held
	Rev              uint64
}

type command struct {
	Do           string
	Key, Pattern string
	Segments     []string
	Value        held
	Lifetime     *nkv.Lifetime
	TTL          *int64  `json:"ttl_ms"`
	IfRev        *uint64 `json:"if_rev"`
	IfChanged    bool    `json:"if_changed"`
	JSON, Kind   string
	Operations   []operation
}

type entry struct {
	Key      string       `json:"key"`
	Value    held         `json:"value"`
	Rev      uint64       `json:"rev"`
	Lifetime nkv.Lifetime `json:"lifetime,omitempty"`
	TTL      *int64       `json:"ttl_ms"`
}

type change struct {
	Kind  string `json:"kind"`
	Key   string `json:"key"`
	Value *held  `json:"value"`
}

type answer struct {
	Refused     nkv.Code `json:"refused,omitempty"`
	Failed      string   `json:"failed,omitempty"`
	Rev         uint64   `json:"rev"`
	At          *int     `json:"at,omitempty"`
	IsUnchanged bool     `json:"is_unchanged"`
	Count       uint64   `json:"count"`
	Key         string   `json:"key,omitempty"`
	Segments    []string `json:"segments,omitempty"`
	IsSame      bool     `json:"is_same"`
	Instead     string   `json:"instead"`
	Entries     []entry  `json:"entries,omitempty"`
	Changes     []change `json:"changes,omitempty"`
}

// A device is a structure such as a service has.
type device struct {
	Name      string            `json:"name"`
	MTU       uint16            `json:"mtu"`
	Up        bool              `json:"up"`
	Serial    uint64            `json:"serial"`
	Load      float64           `json:"load"`
	Gateway   *string           `json:"gateway"`
	Addresses []string          `json:"addresses"`
	Labels    map[string]string `json:"labels"`
}

type party struct {
	client       *nkv.Client
	claim        *nkv.Claim
	subscription *nkv.Subscription
	// What the mirror has been told, a state after the other.
	states chan answer
}

func main() {
	var options []nkv.ClientOption
	if len(os.Args) > 2 {
		options = append(options, nkv.WithToken(os.Args[2]))
	}
	client, err := nkv.New(os.Args[1], options...)
	if err != nil {
		log.Fatal(err)
	}
	p := party{client: client, states: make(chan answer, 1<<16)}
	commands, answers := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var c command
		if err := commands.Decode(&c); err == io.EOF {
			return
		} else if err != nil {
			log.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		a, err := p.carryOut(ctx, c)
		cancel()
		if err := answers.Encode(withError(a, err)); err != nil {
			log.Fatal(err)
		}
	}
}

func withError(a answer, err error) answer {
	var refusal *nkv.Error
	switch {
	case errors.As(err, &refusal):
		a.Refused, a.Rev = refusal.Code, refusal.Rev
		if refusal.At >= 0 {
			a.At = &refusal.At
		}
	case err != nil:
		a.Failed = err.Error()
	}
	return a
}

func (p *party) carryOut(ctx context.Context, c command) (a answer, err error) {
	switch c.Do {
	case "key":
		a.Key = nkv.Key(c.Segments...)
		a.Segments = nkv.Segments(a.Key)
	case "put":
		var written nkv.Written
		written, err = p.client.Put(ctx, c.Key, native(c.Value), terms(c)...)
		a.Rev, a.IsUnchanged = written.Rev, written.Unchanged
	case "put_typed":
		return putTyped(ctx, p.client, c)
	case "is_typed":
		return isTyped(ctx, p.client, c)
	case "get":
		var found nkv.Entry[nkv.Value]
		found, err = p.client.Get(ctx, c.Key)
		if errors.Is(err, nkv.ErrNotFound) {
			return a, nil
		} else if err == nil {
			a.Entries = entries(found)
		}
	case "list":
		var found []nkv.Entry[nkv.Value]
		found, err = p.client.List(ctx, c.Pattern)
		a.Entries = entries(found...)
	case "delete":
		var options []nkv.DeleteOption
		if c.IfRev != nil {
			options = append(options, nkv.IfRev(*c.IfRev))
		}
		var deletion nkv.Deletion
		deletion, err = p.client.Delete(ctx, c.Pattern, options...)
		a.Count = deletion.Count
	case "batch":
		a.Rev, err = p.client.Commit(ctx, batch(c.Operations))
	case "claim":
		p.claim, err = p.client.Claim(ctx, c.Key)
	case "release":
		// It does not wait, but what is asked afterwards is carried out afterwards.
		if err = p.claim.Close(); err == nil {
			err = p.client.Ping(ctx)
		}
	case "announce":
		_, err = p.client.Announce(ctx, c.Key, json.RawMessage(c.JSON))
	case "subscribe":
		p.subscription = p.client.Subscribe(context.Background(), c.Pattern, nkv.Cuts)
	case "told":
		return told(ctx, p.subscription)
	case "mirror":
		handlers := nkv.Handlers[nkv.Value]{Cut: p.note}
		_, err = nkv.NewMirror(context.Background(), p.client, c.Pattern, handlers)
	case "state":
		select {
		case a = <-p.states:
		case <-ctx.Done():
			err = ctx.Err()
		}
	default:
		err = fmt.Errorf("what is %q?", c.Do)
	}
	return a, err
}

// native makes of a value what the client takes for it: JSON text as it is, or bytes.
func native(v held) any {
	if v.JSON != nil {
		return json.RawMessage(*v.JSON)
	}
	raw, err := base64.StdEncoding.DecodeString(*v.Base64)
	if err != nil {
		log.Fatal(err)
	}
	return raw
}

func heldOf(v nkv.Value) held {
	if text, ok := v.JSON(); ok {
		return held{JSON: &text}
	}
	raw, _ := v.Bytes()
	text := base64.StdEncoding.EncodeToString(raw)
	return held{Base64: &text}
}

func terms(c command) (terms []nkv.PutOption) {
	if c.Lifetime != nil {
		terms = append(terms, *c.Lifetime)
	}
	if c.TTL != nil {
		terms = append(terms, nkv.TTL(time.Duration(*c.TTL)*time.Millisecond))
	}
	if c.IfRev != nil {
		terms = append(terms, nkv.IfRev(*c.IfRev))
	}
	if c.IfChanged {
		terms = append(terms, nkv.IfChanged)
	}
	return terms
}

// decode reads JSON as the client does: numbers that go into an interface stay as they are.
func decode[T any](text string) (value T, err error) {
	v, err := nkv.Of(json.RawMessage(text))
	if err != nil {
		return value, err
	}
	return nkv.As[T](v)
}

func putTyped(ctx context.Context, client *nkv.Client, c command) (a answer, err error) {
	var value any
	if c.Kind == "device" {
		value, err = decode[device](c.JSON)
	} else {
		value, err = decode[any](c.JSON)
	}
	if err != nil {
		return a, err
	}
	written, err := client.Put(ctx, c.Key, value)
	a.Rev = written.Rev
	return a, err
}

func isTyped(ctx context.Context, client *nkv.Client, c command) (answer, error) {
	if c.Kind == "device" {
		return isThere[device](ctx, client, c)
	}
	return isThere[any](ctx, client, c)
}

func isThere[T any](ctx context.Context, client *nkv.Client, c command) (a answer, err error) {
	wanted, err := decode[T](c.JSON)
	if err != nil {
		return a, err
	}
	found, err := nkv.Get[T](ctx, client, c.Key)
	a.IsSame = reflect.DeepEqual(wanted, found.Value)
	a.Instead = fmt.Sprintf("%+v", found.Value)
	return a, err
}

func entries(found ...nkv.Entry[nkv.Value]) (made []entry) {
	for _, one := range found {
		e := entry{Key: one.Key, Value: heldOf(one.Value), Rev: one.Rev, Lifetime: one.Lifetime}
		if one.TTL != 0 {
			ttl := one.TTL.Milliseconds()
			e.TTL = &ttl
		}
		made = append(made, e)
	}
	return made
}

func batch(operations []operation) *nkv.Batch {
	made := new(nkv.Batch)
	for _, one := range operations {
		switch one.Op {
		case "put":
			made.Put(one.Key, native(one.Value))
		case "delete":
			made.Delete(one.Pattern)
		case "check":
			made.Check(one.Key, one.Rev)
		}
	}
	return made
}

// told reads a subscription up to its next cut.
func told(ctx context.Context, subscription *nkv.Subscription) (a answer, err error) {
	for {
		select {
		case event, ok := <-subscription.Events():
			if !ok {
				return a, subscription.Err()
			}
			if event.Kind == nkv.EventSync {
				a.Rev = event.Rev
				return a, nil
			}
			c := change{Kind: string(event.Kind), Key: event.Key}
			if event.Kind == nkv.EventPut {
				value := heldOf(event.Value)
				c.Value = &value
			}
			a.Changes = append(a.Changes, c)
		case <-ctx.Done():
			return a, ctx.Err()
		}
	}
}

// note is the mirror's handler.
func (p *party) note(cut nkv.Cut[nkv.Value]) {
	a := answer{Rev: cut.Rev}
	for _, one := range cut.Changes {
		a.Changes = append(a.Changes, change{Kind: string(one.Kind), Key: one.Key})
	}
	for _, key := range cut.View.Keys("*") {
		value, rev, _ := cut.View.Raw(key)
		a.Entries = append(a.Entries, entry{Key: key, Value: heldOf(value), Rev: rev})
	}
	p.states <- a
}
