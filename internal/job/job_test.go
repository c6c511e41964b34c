package job

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

var (
	errNative = errors.New("native failure")
	errGone   = errors.New("native: no such thing")
	errLost   = errors.New("native: connection broken")
)

func kind(err error) hypervisor.Kind {
	switch {
	case errors.Is(err, errGone):
		return hypervisor.ErrNotFound
	case errors.Is(err, errLost):
		return hypervisor.ErrUnavailable
	}
	return hypervisor.ErrUnknown
}

func spec() Spec { return Spec{ID: "t1", Op: "create", Object: vm, Kind: kind} }

var vm = hypervisor.VMID("vm1").Ref()

func disk(name string) hypervisor.Ref {
	return hypervisor.Ref{Kind: hypervisor.ObjectVolume, Name: name}
}

// ended waits for the final state of a task.
func ended(t *testing.T, w hypervisor.DriverTask) hypervisor.TaskState {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	for {
		s, err := w.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if s.Done {
			return s
		}
	}
}

func run(t *testing.T, work func(context.Context, *Job) (hypervisor.Ref, error)) hypervisor.TaskState {
	t.Helper()
	var g hypervisor.TaskGroup
	defer g.Close()
	w, err := Go(context.Background(), &g, spec(), work)
	if err != nil {
		t.Fatal(err)
	}
	return ended(t, w)
}

func TestUndoRunsBackwards(t *testing.T) {
	var order []string
	step := func(name string, err error) func(context.Context) error {
		return func(context.Context) error { order = append(order, name); return err }
	}
	own := disk("part of d")
	s := run(t, func(_ context.Context, j *Job) (hypervisor.Ref, error) {
		u := j.Remove(disk("a"), step("a", errNative))
		u.Made.ID = "id-a"
		j.SetBack("the notes", step("b", errNative))
		j.Remove(disk("c"), step("c", fmt.Errorf("wrapped: %w", errGone)))
		j.Remove(disk("d"), step("d", &hypervisor.Error{Err: errNative, Leftover: []hypervisor.Ref{own}}))
		j.Remove(disk("e"), step("e", nil))
		j.Note("first")
		j.Note("second")
		j.Note("first")
		return vm, &hypervisor.Error{Kind: hypervisor.ErrExhausted, Unsent: true, Err: errLost, Leftover: []hypervisor.Ref{disk("z")}}
	})
	if want := []string{"e", "d", "c", "b", "a"}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	a := disk("a")
	a.ID = "id-a"
	if want := []hypervisor.Ref{disk("z"), own, a}; !slices.Equal(s.Leftover, want) {
		t.Errorf("leftovers %v, want %v", s.Leftover, want)
	}
	if want := []string{"first", "second"}; !slices.Equal(s.Notes, want) {
		t.Errorf("notes %v, want %v", s.Notes, want)
	}
	var e *hypervisor.Error
	if !errors.As(s.Err, &e) || e.Kind != hypervisor.ErrExhausted || e.Unsent || !errors.Is(s.Err, errLost) {
		t.Errorf("error %#v: its kind must stay, and it is no call that did nothing", s.Err)
	}
	for _, text := range []string{"the notes could not be set back", `volume id-a ("a") could not be removed`} {
		if !strings.Contains(s.Err.Error(), text) {
			t.Errorf("error %q lacks %q", s.Err, text)
		}
	}
}

// An undo that fails with a typed error does not lend its kind to a native one.
func TestUndoKeepsKind(t *testing.T) {
	s := run(t, func(_ context.Context, j *Job) (hypervisor.Ref, error) {
		j.SetBack("x", func(context.Context) error { return hypervisor.Errorf(hypervisor.ErrBusy, vm, "busy") })
		return vm, errLost
	})
	if k := hypervisor.KindOf(s.Err); k != hypervisor.ErrUnavailable {
		t.Errorf("kind %v, want unavailable", k)
	}
}

func TestWholeStays(t *testing.T) {
	s := run(t, func(_ context.Context, j *Job) (hypervisor.Ref, error) {
		j.Remove(vm, func(context.Context) error { t.Error("undone"); return nil })
		j.Whole()
		j.Left(vm, vm)
		return vm, errNative
	})
	if !slices.Equal(s.Leftover, []hypervisor.Ref{vm}) || s.Err == nil {
		t.Errorf("%+v", s)
	}
}

// Undo outlives the cancel, and is bounded. Close leaves what is kept.
func TestUndoAfterTheEnd(t *testing.T) {
	for _, c := range []struct{ close, keep, undone bool }{{false, false, true}, {false, true, true}, {true, false, true}, {true, true, false}} {
		synctest.Test(t, func(t *testing.T) {
			var g hypervisor.TaskGroup
			defer g.Close()
			var undone atomic.Bool
			w, err := Go(context.Background(), &g, spec(), func(ctx context.Context, j *Job) (hypervisor.Ref, error) {
				j.Keep = c.keep
				j.Remove(vm, func(ctx context.Context) error {
					undone.Store(ctx.Err() == nil)
					<-ctx.Done() // a platform that does not answer
					return ctx.Err()
				})
				<-ctx.Done()
				return vm, ctx.Err()
			})
			if err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			if c.close {
				go g.Close()
			} else if err := w.Cancel(context.Background()); err != nil {
				t.Fatal(err)
			}
			s, err := w.Next(context.Background())
			for err == nil && !s.Done {
				s, err = w.Next(context.Background())
			}
			want := hypervisor.ErrCanceled
			if c.close {
				want = hypervisor.ErrClosed
			}
			if undone.Load() != c.undone || hypervisor.KindOf(s.Err) != want {
				t.Errorf("%+v: undone %v, error %v", c, undone.Load(), s.Err)
			}
			limit := lateLimit
			if c.close { // Close waits for its group no longer than this
				limit = 5 * time.Second
			}
			if took := time.Since(begin); took > limit || !c.close && took < limit {
				t.Errorf("%+v: took %v", c, took)
			}
			time.Sleep(2 * lateLimit) // the undo ends by itself
		})
	}
}

func TestCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed, stop := context.WithCancel(context.Background())
		j := &Job{Spec: Spec{Closed: closed}}
		ctx, cancel := context.WithCancelCause(context.Background())
		rest := j.Commit(ctx)
		cancel(hypervisor.ErrCanceled)
		synctest.Wait()
		if rest.Err() != nil {
			t.Error("Cancel ended it")
		}
		stop()
		synctest.Wait()
		if !Closed(rest) {
			t.Error("Close did not end it")
		}
		other := (&Job{}).Commit(ctx)
		if other.Err() != nil {
			t.Error("Cancel ended it")
		}
	})
}

// platform is a task of a platform that goes through states, one per message.
type platform struct {
	states   chan hypervisor.TaskState
	canceled chan struct{}
}

func (p *platform) ID() hypervisor.TaskID { return "p" }
func (p *platform) Next(ctx context.Context) (hypervisor.TaskState, error) {
	select {
	case s := <-p.states:
		return s, nil
	case <-ctx.Done():
		return hypervisor.TaskState{}, ctx.Err()
	}
}
func (p *platform) Cancel(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	close(p.canceled)
	return errNative
}

func TestFollowProgress(t *testing.T) {
	var seen []hypervisor.TaskState
	j := &Job{Spec: spec(), report: func(s hypervisor.TaskState) { seen = append(seen, s) }}
	j.Phase("copying", 0.1)
	p := &platform{states: make(chan hypervisor.TaskState, 4)}
	p.states <- hypervisor.TaskState{Fraction: 0.5, Notes: []string{"n"}}
	p.states <- hypervisor.TaskState{Fraction: -1, Phase: "own"}
	p.states <- hypervisor.TaskState{Done: true, Result: vm, Notes: []string{"n", "m"}}
	s, err := j.Follow(context.Background(), p, 0.2, 0.6)
	if err != nil || s.Result != vm {
		t.Error(s, err)
	}
	want := []hypervisor.TaskState{{Fraction: 0.1, Phase: "copying"}, {Fraction: 0.4, Phase: "copying", Notes: []string{"n"}}, {Fraction: -1, Phase: "own", Notes: []string{"n"}}}
	if !reflect.DeepEqual(seen, want) {
		t.Errorf("progress %+v, want %+v", seen, want)
	}
	if end := j.End(context.Background(), vm, nil); !slices.Equal(end.Notes, []string{"n", "m"}) {
		t.Error(end.Notes)
	}
}

// A cancelled job cancels the platform's task and waits for its true end; a
// closed one leaves it alone, unless it is bound.
func TestFollowEnd(t *testing.T) {
	for _, c := range []struct {
		name        string
		cause       error
		bound, asks bool
	}{{"cancel", hypervisor.ErrCanceled, false, true}, {"timeout", hypervisor.ErrTimeout, false, true}, {"close", hypervisor.ErrClosed, false, false}, {"close bound", hypervisor.ErrClosed, true, true}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(context.Background())
				closed, stop := context.WithCancel(context.Background())
				defer stop()
				j := New(Spec{Closed: closed}, nil)
				j.Bound = c.bound
				p := &platform{states: make(chan hypervisor.TaskState), canceled: make(chan struct{})}
				cancel(c.cause)
				if c.asks { // the work wins the race
					go func() { <-p.canceled; p.states <- hypervisor.TaskState{Done: true, Result: vm} }()
				}
				s, err := j.Follow(ctx, p, 0, 1)
				if c.asks != (err == nil && s.Result == vm) {
					t.Errorf("state %+v, error %v", s, err)
				}
			})
		})
	}
}

// A task that does not end is waited for until the Client waits no longer.
func TestFollowClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(context.Background())
		closed, stop := context.WithTimeout(context.Background(), time.Hour)
		defer stop()
		cancel(hypervisor.ErrCanceled)
		begin := time.Now()
		_, err := New(Spec{Closed: closed}, nil).Follow(ctx, &platform{canceled: make(chan struct{})}, 0, 1)
		if !errors.Is(err, context.Canceled) || time.Since(begin) != time.Hour {
			t.Error(err, time.Since(begin))
		}
	})
}

func TestCall(t *testing.T) {
	for _, c := range []struct {
		name    string
		answers []error // of the calls sent
		goal    []any   // what Goal returns: an answer, nil, or an error
		again   bool
		want    string
		text    string
	}{
		{name: "answered", answers: []error{nil}, want: "sent 1"},
		{name: "refused", answers: []error{errNative}, again: true, text: "native failure"},
		{name: "lost and done", answers: []error{errLost}, goal: []any{"found"}, want: "found"},
		{name: "lost, no trace", answers: []error{errLost}, goal: make([]any, 6), text: "shows no trace"},
		{name: "lost and done late", answers: []error{errLost}, goal: []any{nil, nil, "found"}, want: "found"},
		{name: "sent again", answers: []error{errLost, nil}, goal: []any{nil}, again: true, want: "sent 2"},
		{name: "lost twice", answers: []error{errLost, errLost}, goal: []any{nil, "found"}, again: true, want: "found"},
		{name: "not thrice", answers: []error{errLost, errLost}, goal: make([]any, 7), again: true, text: "shows no trace"},
		{name: "nobody knows", answers: []error{errLost}, goal: []any{errGone}, again: true, text: "not known"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sent, looked := 0, 0
			got, err := Call[string]{
				Send: func(context.Context) (string, error) {
					sent++
					return fmt.Sprint("sent ", sent), c.answers[sent-1]
				},
				Lost: func(err error) bool { return errors.Is(err, errLost) },
				Goal: func(context.Context) (string, bool, error) {
					looked++
					switch g := c.goal[looked-1].(type) {
					case error:
						return "", false, g
					case string:
						return g, true, nil
					}
					return "", false, nil
				},
				Again: c.again,
			}.Do(context.Background())
			if sent != len(c.answers) || looked != len(c.goal) {
				t.Errorf("%d calls, %d looks", sent, looked)
			}
			if c.text == "" && (err != nil || got != c.want) || c.text != "" && (err == nil || !strings.Contains(err.Error(), c.text)) {
				t.Errorf("%q, %v", got, err)
			}
			if c.name == "nobody knows" && kind(err) != hypervisor.ErrUnavailable {
				t.Errorf("%v has the class of the look", err)
			}
		})
	}
}
