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

// server counts logins. hold, if set, keeps the next ones waiting; deaf ones
// ignore their context.
type server struct {
	logins  atomic.Int64
	running atomic.Int64
	hold    chan struct{}
	deaf    bool
	err     error
	gone    []int64 // sessions that were discarded
}

func (s *server) dial(ctx context.Context) (int64, error) {
	if s.running.Add(1) > 1 {
		panic("two attempts at a time")
	}
	defer s.running.Add(-1)
	n := s.logins.Add(1)
	if s.hold != nil {
		if s.deaf {
			<-s.hold
			return n, s.err
		}
		select {
		case <-s.hold:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return n, s.err
}

const limit = time.Minute

func (s *server) keeper() *Keeper[int64] {
	return New(limit, s.dial, func(n int64) { s.gone = append(s.gone, n) })
}

func within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

func TestOneLoginForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{hold: make(chan struct{})}
		k := s.keeper()
		if _, ok := k.Peek(); ok {
			t.Error("a session before the first Get")
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if v, err := k.Get(t.Context()); v != 1 || err != nil {
					t.Errorf("Get: %d, %v", v, err)
				}
			})
		}
		synctest.Wait()
		close(s.hold)
		wg.Wait()
		if v, ok := k.Peek(); v != 1 || !ok {
			t.Errorf("Peek: %d, %v", v, ok)
		}
		if n := s.logins.Load(); n != 1 {
			t.Errorf("%d logins", n)
		}
	})
}

func TestEveryWaiterHasItsOwnContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{hold: make(chan struct{})}
		k := s.keeper()
		start := time.Now()
		for _, d := range []time.Duration{time.Second, 2 * time.Second} { // the first begins, the second joins
			ctx, stop := within(d)
			if _, err := k.Get(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Get: %v", err)
			}
			stop()
		}
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("two Gets of 1 s and 2 s took %v", d)
		}
		if _, ok := k.Peek(); ok {
			t.Error("Peek finds a session")
		}
		close(s.hold) // the attempt outlived the callers: the next has its session
		synctest.Wait()
		if v, err := k.Get(t.Context()); v != 1 || err != nil {
			t.Errorf("Get: %d, %v", v, err)
		}
		ended, stop := context.WithCancel(t.Context())
		stop()
		if _, err := k.Get(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("Get with a context that has ended: %v", err)
		}
	})
}

type key struct{}

func TestValuesOfTheFirstCaller(t *testing.T) {
	k := New(limit, func(ctx context.Context) (string, error) { return ctx.Value(key{}).(string), nil }, func(string) {})
	if v, err := k.Get(context.WithValue(t.Context(), key{}, "first")); v != "first" || err != nil {
		t.Errorf("Get: %q, %v", v, err)
	}
}

func TestFailureIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("wrong password")
		s := &server{hold: make(chan struct{}), err: refused}
		k := s.keeper()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if _, err := k.Get(t.Context()); !errors.Is(err, refused) {
					t.Errorf("Get: %v", err)
				}
			})
		}
		synctest.Wait()
		close(s.hold)
		wg.Wait()
		if n := s.logins.Load(); n != 1 {
			t.Errorf("%d logins for one refusal", n)
		}
		s.err = nil
		if v, err := k.Get(t.Context()); v != 2 || err != nil {
			t.Errorf("the next Get: %d, %v", v, err)
		}
	})
}

func TestReplacedOnce(t *testing.T) {
	s := &server{}
	k := s.keeper()
	old, err := k.Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var dropped atomic.Int64
	for range 50 {
		wg.Go(func() {
			if k.Invalidate(old) {
				dropped.Add(1)
			}
			if v, err := k.Get(t.Context()); v != 2 || err != nil {
				t.Errorf("Get: %d, %v", v, err)
			}
		})
	}
	wg.Wait()
	if n := s.logins.Load(); n != 2 || dropped.Load() != 1 {
		t.Errorf("%d logins, dropped %d times", n, dropped.Load())
	}
}

func TestLimit(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := &server{hold: make(chan struct{}), deaf: deaf}
			k := s.keeper()
			start := time.Now()
			var le *LimitError
			if _, err := k.Get(t.Context()); !errors.As(err, &le) || errors.Is(err, context.DeadlineExceeded) || !le.Timeout() {
				t.Errorf("deaf %v: %v", deaf, err)
			}
			if d := time.Since(start); d != limit {
				t.Errorf("deaf %v: took %v", deaf, d)
			}
			if deaf {
				// While that one hangs no second is begun; nobody waits either.
				if _, err := k.Get(t.Context()); !errors.As(err, &le) || time.Since(start) != limit {
					t.Errorf("after the limit: %v, after %v", err, time.Since(start))
				}
			}
			close(s.hold)
			synctest.Wait()
			want := int64(2)
			if deaf { // the late session is a session
				want = 1
			}
			if v, err := k.Get(t.Context()); v != want || err != nil {
				t.Errorf("deaf %v: the next Get: %d, %v", deaf, v, err)
			}
		})
	}
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		k := s.keeper()
		if _, err := k.Get(t.Context()); err != nil {
			t.Fatal(err)
		}
		if v, ok := k.Close(t.Context()); v != 1 || !ok {
			t.Errorf("Close: %d, %v", v, ok)
		}
		if _, ok := k.Close(t.Context()); ok {
			t.Error("a second Close has a session too")
		}
		if _, ok := k.Peek(); ok || k.Invalidate(1) {
			t.Error("a session after Close")
		}
		if _, err := k.Get(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("Get after Close: %v", err)
		}
	})
}

func TestCloseEndsTheAttempt(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := &server{hold: make(chan struct{}), deaf: deaf}
			k := s.keeper()
			start := time.Now()
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					if _, err := k.Get(t.Context()); !errors.Is(err, ErrClosed) || time.Since(start) != 0 {
						t.Errorf("deaf %v: Get ended with %v after %v", deaf, err, time.Since(start))
					}
				})
			}
			synctest.Wait()
			ctx, stop := within(time.Second)
			defer stop()
			if _, ok := k.Close(ctx); ok {
				t.Error("Close has a session")
			}
			wg.Wait()
			want := time.Duration(0)
			if deaf {
				want = time.Second
			}
			if d := time.Since(start); d != want {
				t.Errorf("deaf %v: Close took %v", deaf, d)
			}
			close(s.hold)
			synctest.Wait()
			if deaf != (len(s.gone) == 1) {
				t.Errorf("deaf %v: discarded %v", deaf, s.gone)
			}
		})
	}
}

// TestManyAtOnce is for the race detector.
func TestManyAtOnce(t *testing.T) {
	s := &server{}
	k := s.keeper()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 300 {
				ctx, stop := context.WithCancel(t.Context())
				if i%7 == 0 {
					go stop()
				}
				v, err := k.Get(ctx)
				if err == nil && i%5 == 0 {
					k.Invalidate(v)
				}
				k.Peek()
				stop()
				if errors.Is(err, ErrClosed) {
					return
				}
			}
		})
	}
	wg.Wait()
	k.Close(t.Context())
}
