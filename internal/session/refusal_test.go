package session

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var errPassword = errors.New("wrong password")

func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		try := func(r *Refusals, server string, refusal error, accepted bool) error {
			done, err := r.Enter(t.Context(), server)
			if err == nil {
				done(refusal, accepted)
			}
			return err
		}
		local, domain := NewRefusals(false), NewRefusals(true)
		for _, r := range []*Refusals{local, domain} {
			if err := try(r, "a", errPassword, false); err != nil {
				t.Fatal(err)
			}
			var re *RefusedError
			if err := try(r, "a", nil, true); !errors.As(err, &re) || !errors.Is(err, errPassword) {
				t.Errorf("the second login: %v", err)
			}
			if err := try(r, "b", errPassword, false); err != nil { // one server's refusal may be its own fault
				t.Errorf("another server: %v", err)
			}
		}
		if err := try(local, "c", nil, false); err != nil {
			t.Errorf("a third server has users of its own: %v", err)
		}
		if err := try(domain, "c", nil, false); !errors.Is(err, errPassword) {
			t.Errorf("a third server of the domain: %v", err)
		}
		time.Sleep(memory)
		for _, server := range []string{"a", "c"} {
			if err := try(domain, server, nil, true); err != nil {
				t.Errorf("later: %v", err)
			}
		}
		if err := try(domain, "b", errPassword, false); err != nil || try(domain, "c", nil, true) != nil {
			t.Errorf("a refusal after logins that were accepted is no second one: %v", err)
		}
	})
}

// TestTurns: one login at a time, but nobody waits for a silent server for long.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRefusals(true)
		done, err := r.Enter(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithTimeout(t.Context(), turnLimit/2)
		defer stop()
		if _, err := r.Enter(ctx, "b"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a short context: %v", err)
		}
		if late, err := r.Enter(t.Context(), "b"); err != nil {
			t.Error(err)
		} else {
			late(nil, true)
		}
		got := make(chan error)
		go func() {
			_, err := r.Enter(t.Context(), "a")
			got <- err
		}()
		synctest.Wait()
		done(errPassword, false)
		if err := <-got; !errors.Is(err, errPassword) {
			t.Errorf("who waited for a login that was refused: %v", err)
		}
	})
}

func TestKeeperRemembersRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{err: errPassword}
		k := s.keeper()
		k.Remember(func(err error) bool { return errors.Is(err, errPassword) })
		for range 3 {
			if _, err := k.Get(t.Context()); !errors.Is(err, errPassword) {
				t.Errorf("Get: %v", err)
			}
		}
		if n := s.logins.Load(); n != 1 {
			t.Errorf("%d logins", n)
		}
		time.Sleep(memory)
		s.err = nil
		if _, err := k.Get(t.Context()); err != nil {
			t.Errorf("later: %v", err)
		}
		s.err = errors.New("no network")
		k.Invalidate(2)
		for range 2 {
			_, _ = k.Get(t.Context())
		}
		if n := s.logins.Load(); n != 4 {
			t.Errorf("%d logins: other errors are no refusals", n)
		}
	})
}

// TestSlowRefusal: while the server takes long to refuse a password, many
// callers send it twice at most.
func TestSlowRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRefusals(false)
		var sent, failed atomic.Int32
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				done, err := r.Enter(t.Context(), "a")
				if err != nil {
					failed.Add(1)
					return
				}
				sent.Add(1)
				time.Sleep(10 * turnLimit)
				done(errPassword, false)
			})
		}
		wg.Wait()
		if sent.Load() != 2 || failed.Load() != 62 {
			t.Errorf("the password was sent %d times, and %d calls failed without", sent.Load(), failed.Load())
		}
	})
}
