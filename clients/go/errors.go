package nkv

import (
	"errors"
	"fmt"
	"strings"
)

// A Code says why the daemon refused a request. Codes are errors, to be looked for with [errors.Is]:
//
//	if errors.Is(err, nkv.ErrConflict) { ... }
//
// A code that this package does not know is a refusal like any other.
type Code string

// The protocol's codes. A request that was refused has changed nothing.
const (
	ErrBadRequest      Code = "bad_request"     // an unknown field, a value that is too deep, fields that don't go together
	ErrBadKey          Code = "bad_key"         // not a key or pattern, or a pattern where a key is needed
	ErrNotFound        Code = "not_found"       // no such key
	ErrConflict        Code = "conflict"        // a precondition did not hold
	ErrTooLarge        Code = "too_large"       // the request or the key is over its limit
	ErrLimit           Code = "limit"           // a quota is used up
	ErrDenied          Code = "denied"          // the daemon's rules don't let this client do that
	ErrUnauthenticated Code = "unauthenticated" // the daemon wants a token over TCP, and this is not it
	ErrReadOnly        Code = "read_only"       // storage has failed
	ErrInternal        Code = "internal"        // a fault of the daemon's own
)

func (code Code) Error() string { return string(code) }

var (
	// ErrUnanswered: the request was sent, and its answer did not come. Nobody here can know whether it
	// was carried out. [errors.Is] finds the cause too, as [context.DeadlineExceeded].
	ErrUnanswered = errors.New("sent and not answered: it may have been carried out")
	// ErrUnreachable: there was no connection until the context ended. Nothing was sent.
	ErrUnreachable = errors.New("the daemon can't be reached")
	// ErrClosed: the connection has ended, or the client is closed. The request was not sent.
	ErrClosed = errors.New("the connection is closed")
	// ErrLost: a claim is somebody else's, or was free for a while, so somebody else may have written there.
	ErrLost = errors.New("the claim is lost")
	// ErrProtocol: the peer does not keep to the protocol.
	ErrProtocol = errors.New("the peer does not speak the nkv protocol")
	// ErrValue: a value is not of the type that was asked for, or can't be made into JSON.
	ErrValue = errors.New("the value does not fit")
	// ErrAddress: the text is no address.
	ErrAddress = errors.New("not an address")
)

// An Error is a refusal, with what the daemon said about it. [errors.As] finds it.
type Error struct {
	Code    Code
	Message string
	// Rev is the key's revision where the code is ErrConflict; 0 where there is no such key.
	Rev uint64
	// At is the index of the operation at fault where a batch was refused, and -1 where none was named.
	At int
}

func (e *Error) Error() string { return fmt.Sprintf("nkv: %s: %s", e.Code, e.Message) }

// Unwrap gives the code.
func (e *Error) Unwrap() error { return e.Code }

func refused(code Code, message string) error { return &Error{Code: code, Message: message, At: -1} }

// A failure is one of the package's own errors, because of another one.
type failure struct {
	what  error
	cause error
}

func because(what, cause error) error { return &failure{what, cause} }

func (f *failure) Error() string        { return fmt.Sprintf("nkv: %v: %s", f.what, within(f.cause)) }
func (f *failure) Is(target error) bool { return target == f.what }
func (f *failure) Unwrap() error        { return f.cause }

// within gives an error's text as a part of another one's, which has the package's name already.
func within(err error) string { return strings.TrimPrefix(err.Error(), "nkv: ") }

// causeOf gives the cause of such a failure, and nil where it is another one.
func causeOf(what, err error) error {
	if f, ok := err.(*failure); ok && f.what == what {
		return f.cause
	}
	return nil
}

// An unreachable tells of two things: that the context has ended, and why there was no connection.
type unreachable struct {
	context error
	last    error
}

func (u *unreachable) Error() string {
	if u.last == nil {
		return fmt.Sprintf("nkv: %v: %v", ErrUnreachable, u.context)
	}
	last := u.last
	if cause := causeOf(ErrUnreachable, last); cause != nil {
		last = cause
	}
	return fmt.Sprintf("nkv: %v: %s (%v)", ErrUnreachable, within(last), u.context)
}

func (u *unreachable) Is(target error) bool {
	return target == ErrUnreachable || errors.Is(u.context, target)
}

func (u *unreachable) Unwrap() error { return u.last }

// isUnsent tells whether a request has surely not been carried out and may be sent on another connection.
func isUnsent(err error) bool {
	return errors.Is(err, ErrClosed) && !errors.Is(err, ErrUnanswered)
}

// isRefusal tells whether it was the daemon that said no.
func isRefusal(err error) bool {
	var refusal *Error
	return errors.As(err, &refusal)
}
