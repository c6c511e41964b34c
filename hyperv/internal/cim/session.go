// Package cim is the part of CIM that the Hyper-V driver uses: queries, typed
// values, references, embedded instances, method calls and jobs. Two
// transports implement [Session]: WS-Management (any OS) and COM (Windows).
package cim

import (
	"context"
	"errors"
	"iter"
)

// Namespaces that the driver uses, in the form with forward slashes.
const (
	Virtualization = "root/virtualization/v2"
	CIMV2          = "root/cimv2"
	MSCluster      = "root/MSCluster"
)

// ErrNoSubscribe is the error that Subscribe yields on a transport without
// event queries. The caller polls instead.
var ErrNoSubscribe = errors.New("cim: this transport has no event queries")

// ErrClosed is the error of a call on a closed session.
var ErrClosed = errors.New("cim: session is closed")

// Session is a connection to the CIM server of one host. All methods are safe
// for concurrent use. Errors of the server are of type *[Error].
type Session interface {
	// Host is the name by which the server was addressed.
	Host() string
	// Query runs a WQL statement in a namespace and yields the rows as they
	// arrive. After an error the sequence ends.
	Query(ctx context.Context, ns, wql string) iter.Seq2[*Instance, error]
	// Get reads one instance.
	Get(ctx context.Context, ref Ref) (*Instance, error)
	// Invoke calls a method. Arguments are given in the order of the method's
	// declaration; those with a nil value are left out. A return value other
	// than 0 is not an error here, see [Result.Err].
	Invoke(ctx context.Context, ref Ref, method string, args ...Arg) (*Result, error)
	// Put changes properties of an existing instance.
	Put(ctx context.Context, ref Ref, props ...Prop) error
	// Subscribe runs a WQL event query and yields events until ctx ends, or
	// yields ErrNoSubscribe at once.
	Subscribe(ctx context.Context, ns, wql string) iter.Seq2[*Instance, error]
	// Calls returns the number of requests sent so far.
	Calls() int64
	// Close ends the session. Calls in progress fail.
	Close() error
}

// Arg is one input parameter of a method. Value is nil, a bool, a string, a
// fixed-size integer, a slice of these, a Ref, a []Ref, an *Embedded or a
// []*Embedded.
type Arg struct {
	Name  string
	Value any
}

// Result is the result of a method.
type Result struct {
	Method string
	// Return is the method's return value: 0, 4096 (job started) or an error
	// code of one of the two ranges that Err knows.
	Return uint32
	// Out holds the output parameters.
	Out Instance
}

// Job returns the reference of the job that the call started.
func (r *Result) Job() (Ref, bool) {
	if r.Return != ReturnJobStarted {
		return Ref{}, false
	}
	return r.Out.Ref("Job")
}

// Err returns nil for 0 and 4096 and an *Error for everything else.
func (r *Result) Err() error {
	if r.Return == 0 || r.Return == ReturnJobStarted {
		return nil
	}
	return &Error{Op: r.Method, Return: r.Return}
}

// Again repeats f, which changes nothing, once if the connection broke.
func Again[T any](f func() (T, error)) (T, error) {
	v, err := f()
	if errors.Is(err, ErrLost) {
		return f()
	}
	return v, err
}

// Collect reads a query to its end. If the connection broke, it starts again
// once.
func Collect(rows iter.Seq2[*Instance, error]) ([]*Instance, error) {
	return Again(func() (out []*Instance, _ error) {
		for i, err := range rows {
			if err != nil {
				return nil, err
			}
			out = append(out, i)
		}
		return out, nil
	})
}

// First returns the first row of a query, or an error of kind NotFound that
// names the missing object.
func First(rows iter.Seq2[*Instance, error], what string) (*Instance, error) {
	return Again(func() (*Instance, error) {
		for i, err := range rows {
			return i, err
		}
		return nil, &Error{Op: "query", HResult: WBEMNotFound, Detail: what}
	})
}

// Read is Get, repeated once if the connection broke.
func Read(ctx context.Context, s Session, ref Ref) (*Instance, error) {
	return Again(func() (*Instance, error) { return s.Get(ctx, ref) })
}

// Call is Invoke followed by Result.Err.
func Call(ctx context.Context, s Session, ref Ref, method string, args ...Arg) (*Result, error) {
	r, err := s.Invoke(ctx, ref, method, args...)
	if err != nil {
		return nil, err
	}
	return r, r.Err()
}
