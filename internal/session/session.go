// Package session keeps one session with a server for many callers. A driver
// provides the function that logs in or dials. The Keeper calls that function
// when a session is needed, one call at a time, in a goroutine of its own. No
// lock is held meanwhile: each caller waits with its own context.
package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrClosed is the error of Get after Close.
var ErrClosed = errors.New("session: closed")

// LimitError is the error of an attempt that took too long.
type LimitError struct{ Limit time.Duration }

func (e *LimitError) Error() string {
	return fmt.Sprintf("the server accepted no session within %v", e.Limit)
}

// Timeout reports true, as net.Error wants it.
func (e *LimitError) Timeout() bool { return true }

// Keeper holds a session of type S. Sessions are compared to distinguish an
// old one from its replacement.
type Keeper[S comparable] struct {
	limit   time.Duration
	dial    func(context.Context) (S, error)
	discard func(S)
	refused func(error) bool // nil: nothing is remembered
	past    *Refusals

	mu     sync.Mutex // guards the fields below; never held during dial
	now    S
	up     bool // whether now is a session
	try    *attempt[S]
	closed bool
}

// attempt is one call of dial.
type attempt[S any] struct {
	cancel   context.CancelFunc
	known    chan struct{} // closed when s and err are set
	s        S
	err      error
	returned chan struct{} // closed when dial has returned
}

// New makes a Keeper without a session. The context of dial ends after limit
// and with Close, and carries the values of the first caller. A dial that
// ignores its context makes nobody wait: if it returns after limit its
// session is used, and if it returns after Close its session is passed to
// discard.
func New[S comparable](limit time.Duration, dial func(context.Context) (S, error), discard func(S)) *Keeper[S] {
	return &Keeper[S]{limit: limit, dial: dial, discard: discard}
}

// Remember makes the Keeper remember refusals of the user or the password:
// Get then fails with a RefusedError for some time. It must be called before
// Get.
func (k *Keeper[S]) Remember(refused func(error) bool) {
	k.refused, k.past = refused, NewRefusals(false)
}

// Get returns the session, and makes one if there is none. It returns ctx's
// error as soon as ctx ends; the attempt continues for later callers. A
// failed attempt returns its error to all who wait for it, and the next Get
// starts another one.
func (k *Keeper[S]) Get(ctx context.Context) (S, error) {
	var none S
	if err := ctx.Err(); err != nil {
		return none, err
	}
	k.mu.Lock()
	if k.up || k.closed {
		defer k.mu.Unlock()
		if k.closed {
			return none, ErrClosed
		}
		return k.now, nil
	}
	if k.try == nil {
		if k.past != nil {
			if err := k.past.Check(""); err != nil {
				k.mu.Unlock()
				return none, err
			}
		}
		k.begin(ctx)
	}
	try := k.try
	k.mu.Unlock()
	select {
	case <-try.known:
		return try.s, try.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// begin starts an attempt. The caller holds mu.
func (k *Keeper[S]) begin(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.limit)
	try := &attempt[S]{cancel: cancel, known: make(chan struct{}), returned: make(chan struct{})}
	k.try = try
	stop := context.AfterFunc(ctx, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		try.tell(*new(S), k.broken(ctx))
	})
	go func() {
		defer close(try.returned)
		s, err := k.dial(ctx)
		stop()
		if err != nil && ctx.Err() != nil {
			err = k.broken(ctx)
		}
		if k.past != nil && err != nil && k.refused(err) {
			k.past.Note("", err, false)
		}
		k.mu.Lock()
		k.try = nil
		late := k.closed
		if err == nil && !late {
			k.now, k.up = s, true
		}
		try.tell(s, err)
		k.mu.Unlock()
		cancel()
		if err == nil && late {
			k.discard(s)
		}
	}()
}

// tell sets the outcome, if there is none yet. The caller holds the Keeper's
// mu.
func (t *attempt[S]) tell(s S, err error) {
	select {
	case <-t.known:
	default:
		t.s, t.err = s, err
		close(t.known)
	}
}

// broken returns the error of an attempt whose context ended.
func (k *Keeper[S]) broken(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &LimitError{k.limit}
	}
	return ErrClosed
}

// Peek returns the session if there is one. It never waits.
func (k *Keeper[S]) Peek() (s S, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now, k.up
}

// Invalidate drops a session that was found broken, so that the next Get
// makes another one. It returns false if old is not the present session any
// more.
func (k *Keeper[S]) Invalidate(old S) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.up || k.now != old {
		return false
	}
	var none S
	k.now, k.up = none, false
	return true
}

// Close ends the attempt under way, waits for it until ctx ends, and returns
// the session, if there is one, for logout. A second Close does nothing.
func (k *Keeper[S]) Close(ctx context.Context) (s S, ok bool) {
	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		return s, false
	}
	var none S
	s, ok = k.now, k.up
	k.now, k.up, k.closed = none, false, true
	try := k.try
	k.mu.Unlock()
	if try != nil {
		try.cancel()
		select {
		case <-try.returned:
		case <-ctx.Done():
		}
	}
	return s, ok
}
