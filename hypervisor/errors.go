package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Kind is a portable class of errors. The numbers are stable: programs may
// put them into metrics. The names are those of the Err values.
type Kind uint8

const (
	KindUnknown         Kind = iota // the platform's own error, in no class
	KindNotFound                    // the object is not there (any more)
	KindExists                      // the name, ID or address is taken
	KindAmbiguous                   // a name matches several objects
	KindInvalidArgument             // wrong whatever the state of the system
	KindInvalidState                // right once the object is in another state
	KindUnsupported                 // this driver, edition, host or machine can't
	KindBusy                        // another task or a dependant holds the object
	KindIncompatible                // source and target don't fit each other
	KindUnauthenticated             // login refused, or the session can't be renewed
	KindPermission                  // the account may not do this
	KindExhausted                   // no memory, space, device or quota left
	KindLicense                     // the licence or edition forbids it
	KindUnavailable                 // the server can't be reached or gave up
	KindCanceled                    // the task was cancelled
	KindTimeout                     // a time limit given in the call ran out
	KindClosed                      // the Client was closed
)

var (
	ErrNotFound        = errors.New("not found")
	ErrExists          = errors.New("exists already")
	ErrAmbiguous       = errors.New("ambiguous")
	ErrInvalidArgument = errors.New("invalid argument")
	ErrInvalidState    = errors.New("invalid state")
	// ErrUnsupported is errors.ErrUnsupported too. The error that wraps it
	// usually holds an *UnsupportedError with the reason.
	ErrUnsupported     = fmt.Errorf("hypervisor: %w", errors.ErrUnsupported)
	ErrBusy            = errors.New("busy")
	ErrIncompatible    = errors.New("incompatible")
	ErrUnauthenticated = errors.New("unauthenticated")
	ErrPermission      = errors.New("permission denied")
	ErrExhausted       = errors.New("exhausted")
	ErrLicense         = errors.New("licence forbids it")
	ErrUnavailable     = errors.New("unavailable")
	ErrCanceled        = errors.New("canceled")
	ErrTimeout         = errors.New("time limit reached")
	ErrClosed          = errors.New("client closed")
)

var kinds = [...]struct {
	name string
	err  error
}{
	KindUnknown:         {"unknown", nil},
	KindNotFound:        {"not-found", ErrNotFound},
	KindExists:          {"exists", ErrExists},
	KindAmbiguous:       {"ambiguous", ErrAmbiguous},
	KindInvalidArgument: {"invalid-argument", ErrInvalidArgument},
	KindInvalidState:    {"invalid-state", ErrInvalidState},
	KindUnsupported:     {"unsupported", ErrUnsupported},
	KindBusy:            {"busy", ErrBusy},
	KindIncompatible:    {"incompatible", ErrIncompatible},
	KindUnauthenticated: {"unauthenticated", ErrUnauthenticated},
	KindPermission:      {"permission", ErrPermission},
	KindExhausted:       {"exhausted", ErrExhausted},
	KindLicense:         {"license", ErrLicense},
	KindUnavailable:     {"unavailable", ErrUnavailable},
	KindCanceled:        {"canceled", ErrCanceled},
	KindTimeout:         {"timeout", ErrTimeout},
	KindClosed:          {"closed", ErrClosed},
}

// String returns a short, stable name such as "not-found".
func (k Kind) String() string {
	if int(k) < len(kinds) {
		return kinds[k].name
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Error is what every call returns when it fails. It unwraps to the Err value
// of its Kind and to the platform's own error, so errors.Is and errors.As
// reach both.
type Error struct {
	Op     string // what was tried: "clone", "snapshot.create", …
	Object Ref    // on what
	Kind   Kind
	Task   TaskID // the platform's task, if one was started
	// Leftover names what a half-done call left on the platform and what the
	// caller may want to remove or keep. Empty means that nothing is left.
	Leftover []Ref
	// Unsent is true where the server cannot have acted: the call never
	// reached it, or it was refused before anything was touched.
	Unsent bool
	Err    error
}

// Errorf makes an *Error for drivers: a kind, the object it is about, and a
// text that names the remedy. A %w in the format keeps the native error.
func Errorf(k Kind, object Ref, format string, args ...any) *Error {
	return &Error{Kind: k, Object: object, Err: fmt.Errorf(format, args...)}
}

// Error formats as "op kind id (name): text".
func (e *Error) Error() string {
	var b strings.Builder
	if e.Op != "" {
		b.WriteString(e.Op)
		b.WriteByte(' ')
	}
	if e.Object != (Ref{}) {
		b.WriteString(e.Object.String())
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	switch s := kinds[min(int(e.Kind), len(kinds)-1)].err; {
	case e.Err == nil && s == nil:
		b.WriteString("unknown error")
	case e.Err == nil:
		b.WriteString(s.Error())
	default:
		b.WriteString(e.Err.Error())
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
	if int(e.Kind) < len(kinds) && kinds[e.Kind].err != nil {
		out = append(out, kinds[e.Kind].err)
	}
	if e.Err != nil {
		out = append(out, e.Err)
	}
	return out
}

// Retryable reports whether the same call may be sent again with no change
// and no risk of doing the work twice: the server refused it as busy, or
// cannot have acted.
func (e *Error) Retryable() bool { return e.Kind == KindBusy || e.Unsent }

// UnsupportedError says what is not supported here and why. It is found with
// errors.As inside an *Error of KindUnsupported or KindLicense.
type UnsupportedError struct {
	Capability Capability
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
// capability and scope. ReasonEdition makes it KindLicense, which still is
// ErrUnsupported as well.
func Unsupported(object Ref, c Capability, reason ReasonCode, detail string) *Error {
	k := KindUnsupported
	if reason == ReasonEdition {
		k = KindLicense
	}
	return &Error{Kind: k, Object: object, Unsent: true,
		Err: &UnsupportedError{Capability: c, Support: Support{Level: No, Reason: reason, Detail: detail}}}
}

// DetachedError says that the caller stopped watching a task while the
// hypervisor goes on with it. Client.Task finds the task again by its ID.
type DetachedError struct {
	Task TaskID
	Err  error // why watching ended: the context's error, or a lost connection
}

func (e *DetachedError) Error() string {
	return fmt.Sprintf("stopped watching task %s, which goes on: %v", e.Task, e.Err)
}

// Unwrap returns why watching ended.
func (e *DetachedError) Unwrap() error { return e.Err }

// KindOf returns the class of an error returned by this package, and
// KindUnknown for nil and for others.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindUnknown
}

// wrap makes any driver error an *Error that names operation and object.
func (c *Client) wrap(op string, on Ref, err error) error {
	if err == nil {
		return nil
	}
	var d *DetachedError
	if errors.As(err, &d) {
		return err
	}
	out := &Error{Op: op, Object: on, Err: err}
	var e *Error
	if errors.As(err, &e) {
		*out = *e
		out.Op = op
		if out.Object == (Ref{}) {
			out.Object = on
		}
		if out.Kind != KindUnknown {
			return out
		}
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		// A read that the caller gave up: not the server's failure.
		out.Kind = KindUnknown
	default:
		out.Kind = c.d.ErrorKind(err)
	}
	return out
}

// invalid makes the error for a bad argument, found before any call is sent.
func invalid(op string, on Ref, format string, args ...any) *Error {
	return &Error{Op: op, Object: on, Kind: KindInvalidArgument, Unsent: true, Err: fmt.Errorf(format, args...)}
}
