package session

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	// memory is the time for which a refused login is not tried again.
	// Accounts lock after some five refusals in half an hour.
	memory = 15 * time.Minute
	// turnLimit is the time that a login waits for its turn, which a silent
	// server may hold. Then one login at each server is made beside it.
	turnLimit = time.Second
)

// RefusedError is the error of a login that was not tried, because the last
// one with the same password was refused.
type RefusedError struct {
	Err   error // of the refusal
	Until time.Time
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the password was refused, and is not tried again before %s, so that the account is not locked: %v", e.Until.Format(time.TimeOnly), e.Err)
}
func (e *RefusedError) Unwrap() error { return e.Err }

// Refusals remembers which servers refused a password; a nil one remembers
// nothing. Logins at one server are made one at a time, or two where an answer
// is late.
type Refusals struct {
	shared bool
	turns  map[string]chan struct{} // by server; "" for all if shared
	beside map[string]chan struct{} // by server: a login that did not wait for its turn any longer

	mu   sync.Mutex // guards turns and the following fields
	by   map[string]*RefusedError
	last *RefusedError // of several servers, none of which accepted a login since
	seen string        // the server that refused last
}

// NewRefusals makes an empty memory of one user's password. shared means that
// all servers know the user from one place, a domain. They then take turns,
// and after refusals by two of them the others are not tried.
func NewRefusals(shared bool) *Refusals {
	return &Refusals{shared: shared, turns: map[string]chan struct{}{}, beside: map[string]chan struct{}{}, by: map[string]*RefusedError{}}
}

// Enter begins a login. It fails if the password was refused. Otherwise the
// caller logs in and calls done: with the error if the server refused the
// user or the password, with nil and true if it accepted them, and with nil
// and false if neither is known.
func (r *Refusals) Enter(ctx context.Context, server string) (done func(refusal error, accepted bool), err error) {
	if err := r.Check(server); err != nil {
		return nil, err
	}
	r.mu.Lock()
	whose := server
	if r.shared {
		whose = ""
	}
	if r.turns[whose] == nil {
		r.turns[whose] = make(chan struct{}, 1)
	}
	if r.beside[server] == nil {
		r.beside[server] = make(chan struct{}, 1)
	}
	turn, beside := r.turns[whose], r.beside[server]
	r.mu.Unlock()
	wait := time.NewTimer(turnLimit)
	defer wait.Stop()
	taken := turn
	select {
	case turn <- struct{}{}:
	case <-wait.C:
		select {
		case turn <- struct{}{}:
		case beside <- struct{}{}:
			taken = beside
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	leave := func() { <-taken }
	if err := r.Check(server); err != nil {
		leave()
		return nil, err
	}
	return func(refusal error, accepted bool) {
		r.Note(server, refusal, accepted)
		leave()
	}, nil
}

// Check returns the error of a login that would not be tried, or nil.
func (r *Refusals) Check(server string) error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if e := r.by[server]; e != nil {
		if now.Before(e.Until) {
			return e
		}
		delete(r.by, server)
	}
	if r.last != nil && now.Before(r.last.Until) {
		return r.last
	}
	return nil
}

// Note records the outcome of a login that did not begin with Enter.
func (r *Refusals) Note(server string, refusal error, accepted bool) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case refusal != nil:
		e := &RefusedError{refusal, time.Now().Add(memory)}
		if r.by[server] = e; r.shared && r.seen != "" && r.seen != server {
			r.last = e
		}
		r.seen = server
	case accepted:
		delete(r.by, server)
		r.last, r.seen = nil, ""
	}
}
