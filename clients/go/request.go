package nkv

import (
	"fmt"
	"time"
	"unicode/utf8"
)

// A request is a line without its id and end: what can be sent on one connection and on the next.
type request struct {
	fields []byte
	err    error // why it can't be made
	// What may be done when its answer is lost.
	isRead      bool // it only reads: ask again
	isIfChanged bool // what it does twice is done once: ask again
	isIfRev     bool // it is refused the second time: ask again in the same history
}

func newRequest(op string) request {
	return request{fields: append(append(make([]byte, 0, 128), `,"op":"`...), op+`"`...)}
}

// text adds a field. What is not UTF-8 would arrive as something else, so it is not sent.
func (r *request) text(name, text string) {
	if r.err == nil && !utf8.ValidString(text) {
		r.err = refused(ErrBadKey, fmt.Sprintf("%q is not UTF-8", text))
	}
	r.fields = append(append(append(r.fields, `,"`...), name...), `":`...)
	r.fields = appendString(r.fields, text)
}

func (r *request) number(name string, number uint64) {
	r.fields = appendNumber(r.fields, name, number)
}

func (r *request) flag(name string, isSet bool) {
	if isSet {
		r.fields = append(append(append(r.fields, `,"`...), name...), `":true`...)
	}
}

func (r *request) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

var pingRequest = newRequest("ping")

func helloRequest(name, token string) request {
	r := newRequest("hello")
	if name != "" {
		r.text("client", name)
	}
	if token != "" {
		r.text("token", token)
	}
	return r
}

func unsubscribeRequest(id uint64) request {
	r := newRequest("unsubscribe")
	r.number("sub", id)
	return r
}

func keyRequest(op, key string) request {
	r := newRequest(op)
	r.text("key", key)
	return r
}

// A PutOption is a term of a put: [IfRev], [IfChanged], [TTL] or a [Lifetime].
type PutOption interface{ addToPut(*putTerms) }

// A DeleteOption is a term of a deletion: [IfRev].
type DeleteOption interface{ addToDelete(*putTerms) }

type putTerms struct {
	ifRev     *uint64
	ifChanged bool
	lifetime  Lifetime
	ttl       time.Duration
	hasTTL    bool
}

// IfRev is the condition that the key's revision is this one; 0: that there is no such key. Otherwise the
// request is refused with [ErrConflict], and [Error.Rev] tells the revision.
type IfRev uint64

func (rev IfRev) addToPut(terms *putTerms)    { terms.ifRev = (*uint64)(&rev) }
func (rev IfRev) addToDelete(terms *putTerms) { terms.ifRev = (*uint64)(&rev) }

type ifChanged struct{}

// IfChanged puts only where another value is there: the very value changes nothing and tells nobody.
// A [TTL] given with it starts anew.
var IfChanged PutOption = ifChanged{}

func (ifChanged) addToPut(terms *putTerms) { terms.ifChanged = true }

// A Lifetime says how long an entry lives if nobody deletes it.
type Lifetime string

const (
	// Durable entries are kept on the disk. It is the default.
	Durable Lifetime = "durable"
	// Boot entries outlive the daemon but not the machine's reboot, and are never on the disk.
	Boot Lifetime = "boot"
	// Session entries end with the connection that put them. See [Client.Announce] for keeping one up.
	Session Lifetime = "session"
)

func (lifetime Lifetime) addToPut(terms *putTerms) { terms.lifetime = lifetime }

// TTL deletes the entry after this time unless it is put again. The entry's lifetime is then [Boot], or
// [Session] where that is given.
type TTL time.Duration

func (ttl TTL) addToPut(terms *putTerms) { terms.ttl, terms.hasTTL = time.Duration(ttl), true }

func putRequest(key string, value any, options []PutOption) request {
	r := keyRequest("put", key)
	v, err := Of(value)
	if err != nil {
		r.fail(fmt.Errorf("put of %q: %w", key, err))
		return r
	}
	r.fields = v.appendTo(r.fields)
	var terms putTerms
	for _, option := range options {
		option.addToPut(&terms)
	}
	r.terms(terms)
	return r
}

func (r *request) terms(terms putTerms) {
	if terms.ifRev != nil {
		r.number("if_rev", *terms.ifRev)
		r.isIfRev = true
	}
	r.flag("if_changed", terms.ifChanged)
	r.isIfChanged = terms.ifChanged
	if terms.lifetime != "" {
		r.text("lifetime", string(terms.lifetime))
	}
	if terms.hasTTL {
		ms := uint64(0)
		if terms.ttl > 0 {
			// Not shorter than what was asked for.
			ms = uint64((terms.ttl + time.Millisecond - 1) / time.Millisecond)
		}
		r.number("ttl_ms", ms)
	}
}

func deleteRequest(pattern string, options []DeleteOption) request {
	r := keyRequest("delete", pattern)
	var terms putTerms
	for _, option := range options {
		option.addToDelete(&terms)
	}
	r.terms(terms)
	// Deleting twice would take away what somebody else has put meanwhile.
	r.isIfRev = false
	return r
}

// A Batch is carried out all or not at all. Its conditions are judged first, against the state before it.
// The zero Batch is empty and ready to use; [Client.Commit] carries it out.
//
//	batch := new(nkv.Batch).Check("config.locked", 0).Put("config.dns.1", "9.9.9.9")
//	rev, err := client.Commit(ctx, batch)
type Batch struct {
	operations request
	count      int
}

// Put adds a put.
func (b *Batch) Put(key string, value any, options ...PutOption) *Batch {
	return b.add(putRequest(key, value, options))
}

// Delete adds the deletion of a key, or of all keys of a pattern.
func (b *Batch) Delete(pattern string, options ...DeleteOption) *Batch {
	return b.add(deleteRequest(pattern, options))
}

// Check adds the condition that the key's revision is this one; 0: that there is no such key.
func (b *Batch) Check(key string, rev uint64) *Batch {
	r := keyRequest("check", key)
	r.number("if_rev", rev)
	return b.add(r)
}

// Len tells how many operations there are.
func (b *Batch) Len() int { return b.count }

func (b *Batch) add(operation request) *Batch {
	all := &b.operations
	if operation.err != nil && all.err == nil {
		all.err = fmt.Errorf("operation %d of the batch: %w", b.count, operation.err)
	}
	if b.count > 0 {
		all.fields = append(all.fields, ',')
	}
	// An operation begins with the comma that would follow its id.
	all.fields = append(append(append(all.fields, '{'), operation.fields[1:]...), '}')
	b.count++
	return b
}

func (b *Batch) request() request {
	r := newRequest("batch")
	r.err = b.operations.err
	r.fields = append(append(append(r.fields, `,"ops":[`...), b.operations.fields...), ']')
	return r
}
