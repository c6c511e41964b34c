package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// Kind is a portable class of errors, and an error itself: errors.Is(err,
// ErrNotFound) reports whether err is of that class. The numbers are stable,
// so programs may put them into metrics. In JSON and text a Kind is its short
// name, such as "not-found".
type Kind uint8

const (
	ErrUnknown         Kind = iota // the platform's own error, in no class
	ErrNotFound                    // the object does not exist (any more)
	ErrExists                      // the name, ID or address is taken
	ErrAmbiguous                   // a name matches several objects
	ErrInvalidArgument             // wrong whatever the state of the system
	ErrInvalidState                // valid once the object is in another state
	ErrUnsupported                 // this driver, edition, host or machine can't do it; is errors.ErrUnsupported too
	ErrBusy                        // another task or a dependant holds the object
	ErrIncompatible                // source and target are not compatible
	ErrUnauthenticated             // login refused, or the session can't be renewed
	ErrPermission                  // the account may not do this
	ErrExhausted                   // no memory, space, device or quota left
	ErrLicense                     // the licence or edition forbids it
	ErrUnavailable                 // the server can't be reached or gave up
	ErrCanceled                    // the task was cancelled
	ErrTimeout                     // a time limit given in the call ran out
	ErrClosed                      // the Client was closed
)

var kinds = [...]struct{ name, text string }{
	ErrUnknown:         {"unknown", "unknown error"},
	ErrNotFound:        {"not-found", "not found"},
	ErrExists:          {"exists", "exists already"},
	ErrAmbiguous:       {"ambiguous", "ambiguous"},
	ErrInvalidArgument: {"invalid-argument", "invalid argument"},
	ErrInvalidState:    {"invalid-state", "invalid state"},
	ErrUnsupported:     {"unsupported", "unsupported operation"},
	ErrBusy:            {"busy", "busy"},
	ErrIncompatible:    {"incompatible", "incompatible"},
	ErrUnauthenticated: {"unauthenticated", "unauthenticated"},
	ErrPermission:      {"permission", "permission denied"},
	ErrExhausted:       {"exhausted", "exhausted"},
	ErrLicense:         {"license", "licence forbids it"},
	ErrUnavailable:     {"unavailable", "unavailable"},
	ErrCanceled:        {"canceled", "canceled"},
	ErrTimeout:         {"timeout", "time limit reached"},
	ErrClosed:          {"closed", "client closed"},
}

// String returns a short, stable name such as "not-found".
func (k Kind) String() string {
	if int(k) < len(kinds) {
		return kinds[k].name
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Error returns the class in words, such as "not found".
func (k Kind) Error() string {
	if int(k) < len(kinds) {
		return kinds[k].text
	}
	return k.String()
}

// Is makes ErrUnsupported match errors.ErrUnsupported.
func (k Kind) Is(target error) bool {
	return k == ErrUnsupported && target == errors.ErrUnsupported
}

// MarshalText returns the short name.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText accepts a short name.
func (k *Kind) UnmarshalText(text []byte) error {
	for i, s := range kinds {
		if s.name == string(text) {
			*k = Kind(i)
			return nil
		}
	}
	return fmt.Errorf("hypervisor: no kind of error is named %q", text)
}

// Error is what every call returns when it fails. It unwraps to its Kind and
// to the platform's own error, so errors.Is and errors.As reach both.
type Error struct {
	Op     op.Name // the operation: op.VMClone, "vm.clone"
	Object Ref     // the object of the operation
	Kind   Kind
	Task   TaskID // the platform's task, if one was started
	// Leftover names what a half-done call left on the platform, which the
	// caller may want to remove or keep. Empty means that nothing is left.
	Leftover []Ref
	// Unsent is true where the server cannot have acted: the call never
	// reached it, or was refused before anything was touched.
	Unsent bool
	Err    error
}

// Errorf makes an *Error for drivers from a kind, the object it is about, and
// a text that names the remedy. A %w in the format keeps the native error.
func Errorf(k Kind, object Ref, format string, args ...any) *Error {
	return &Error{Kind: k, Object: object, Err: fmt.Errorf(format, args...)}
}

// Error formats as "op kind id (name): text".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(string(e.Op))
	if on := e.Object.String(); on != "" {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(on)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	if e.Err != nil {
		b.WriteString(e.Err.Error())
	} else {
		b.WriteString(e.Kind.Error())
	}
	if len(e.Leftover) > 0 {
		b.WriteString(" (left behind:")
		for _, r := range e.Leftover {
			b.WriteByte(' ')
			b.WriteString(r.String())
		}
		b.WriteByte(')')
	}
	return b.String()
}

// Unwrap returns the sentinel of the Kind and the underlying error.
func (e *Error) Unwrap() []error {
	var out []error
	if e.Kind != ErrUnknown {
		out = append(out, e.Kind)
	}
	if e.Err != nil {
		out = append(out, e.Err)
	}
	return out
}

// Retryable reports whether the same call may be sent again unchanged, with
// no risk of doing the work twice: the server refused it as busy, or cannot
// have acted.
func (e *Error) Retryable() bool { return e.Kind == ErrBusy || e.Unsent }

// UnsupportedError describes what is not supported here and why. It is found
// with errors.As inside an *Error of ErrUnsupported or ErrLicense.
type UnsupportedError struct {
	Capability capability.Name
	Support    Support
}

func (u *UnsupportedError) Error() string {
	s := fmt.Sprintf("%s is not supported here (%s)", u.Capability, u.Support.Reason)
	if u.Support.Detail != "" {
		s += ": " + u.Support.Detail
	}
	return s
}

// Is makes every UnsupportedError match ErrUnsupported and
// errors.ErrUnsupported.
func (u *UnsupportedError) Is(target error) bool {
	return target == ErrUnsupported || target == errors.ErrUnsupported
}

// Unsupported makes the error that a driver returns for a call it can't
// honour. The reason must be the one that Supports gives for the same
// capability and scope. ReasonEdition makes it ErrLicense, which is still
// ErrUnsupported as well.
func Unsupported(object Ref, c capability.Name, reason ReasonCode, detail string) *Error {
	k := ErrUnsupported
	if reason == ReasonEdition {
		k = ErrLicense
	}
	return &Error{Kind: k, Object: object, Unsent: true,
		Err: &UnsupportedError{Capability: c, Support: Support{Level: LevelNo, Reason: reason, Detail: detail}}}
}

// DetachedError reports that the caller stopped watching a task while the
// hypervisor continues the work. Client.Task finds the task again by its ID.
type DetachedError struct {
	Task TaskID
	Err  error // why watching ended: the context's error, or a lost connection
}

func (e *DetachedError) Error() string {
	return fmt.Sprintf("stopped watching task %s, which continues: %v", e.Task, e.Err)
}

// Unwrap returns why watching ended.
func (e *DetachedError) Unwrap() error { return e.Err }

// KindOf returns the class of an error returned by this package, and
// ErrUnknown for nil and for other errors.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ErrUnknown
}

// wrap turns any driver error into an *Error that names operation and object.
func (c *Client) wrap(op op.Name, on Ref, err error) error {
	if err == nil {
		return nil
	}
	var d *DetachedError
	if errors.As(err, &d) {
		return err
	}
	if (on.Kind == "" || on.Kind == ObjectClient) && on.ID == "" && on.Name == "" { // a listing, for one
		on = Ref{Kind: ObjectClient, ID: c.d.Describe().Endpoint}
	}
	out := &Error{Op: op, Object: on, Err: err}
	var e *Error
	if errors.As(err, &e) {
		*out = *e
		out.Op = op
		if out.Object == (Ref{}) {
			out.Object = on
		}
		if out.Kind != ErrUnknown {
			return out
		}
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		// The caller gave up on a read, so this is not the server's failure.
		out.Kind = ErrUnknown
	default:
		out.Kind = c.d.ErrorKind(err)
	}
	return out
}

// invalid makes the error for a bad argument that is found before any call is
// sent.
func invalid(op op.Name, on Ref, format string, args ...any) *Error {
	return &Error{Op: op, Object: on, Kind: ErrInvalidArgument, Unsent: true, Err: fmt.Errorf(format, args...)}
}
