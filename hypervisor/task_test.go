package hypervisor_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

func open(t *testing.T, s *stub, o *hypervisor.Options) *hypervisor.Client {
	t.Helper()
	c, err := hypervisor.New(t.Context(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWaitDetaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stub{}
		s.start = s.slow("job-1", time.Hour)
		c := open(t, s, nil)
		defer c.Close()
		task := c.VM("1").Start(t.Context())
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		_, err := task.Wait(ctx)
		var d *hypervisor.DetachedError
		if !errors.As(err, &d) || d.Task != "job-1" || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Wait: %v, want a DetachedError of job-1 with the deadline", err)
		}
		again, err := c.Task(t.Context(), d.Task)
		if err != nil {
			t.Fatal(err)
		}
		if ref, err := again.Wait(t.Context()); err != nil || ref.ID != "1" {
			t.Errorf("the task found again: %v, %v", ref, err)
		}
		if _, err := task.Wait(t.Context()); err != nil {
			t.Errorf("Wait after the detached one: %v", err)
		}
		if n := task.Notes(); len(n) != 0 {
			t.Errorf("the last state has no notes, Notes reports %v", n)
		}
	})
}

func TestRunTellsTheTrueOutcome(t *testing.T) {
	for name, tc := range map[string]struct {
		work  time.Duration
		limit time.Duration
		want  error
	}{
		"cancelled":    {time.Hour, time.Minute, hypervisor.ErrCanceled},
		"done in time": {time.Second, time.Minute, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &stub{}
				s.start = s.slow("job", tc.work)
				c := open(t, s, nil)
				defer c.Close()
				ctx, stop := context.WithTimeout(t.Context(), tc.limit)
				defer stop()
				_, err := c.VM("1").Start(ctx).Run(ctx, time.Minute)
				if !errors.Is(err, tc.want) {
					t.Fatalf("Run: %v, want %v", err, tc.want)
				}
				var e *hypervisor.Error
				if tc.want != nil && (!errors.As(err, &e) || len(e.Leftover) != 1 || e.Task != "job" || e.Op != op.VMStart) {
					t.Errorf("the error is %+v, want the leftover, the task and the operation", e)
				}
			})
		})
	}
}

// racing ignores its cancellation, as work does that is past the point of no
// return.
func TestRunReturnsTheWinner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stub{}
		s.start = func(ctx context.Context) (hypervisor.DriverTask, error) {
			return s.group.Go(ctx, "job", func(context.Context, func(hypervisor.TaskState)) hypervisor.TaskState {
				time.Sleep(2 * time.Minute)
				return hypervisor.TaskState{Result: hypervisor.VMID("1").Ref()}
			})
		}
		c := open(t, s, nil)
		defer c.Close()
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		if _, err := c.VM("1").Start(ctx).Run(ctx, time.Hour); err != nil {
			t.Errorf("Run: %v, want the result that won the race", err)
		}
	})
}

func TestManyWatchOneTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stub{}
		s.start = s.slow("job", time.Minute)
		c := open(t, s, nil)
		defer c.Close()
		task := c.VM("1").Start(t.Context())
		var wg sync.WaitGroup
		for i := range 8 {
			ctx := t.Context()
			if i%2 == 1 { // some give up in the middle
				var stop context.CancelFunc
				ctx, stop = context.WithTimeout(ctx, time.Second)
				defer stop()
			}
			wg.Go(func() {
				_, err := task.Wait(ctx)
				if (err != nil) != (i%2 == 1) {
					t.Errorf("watcher %d: %v", i, err)
				}
			})
		}
		wg.Wait()
	})
}

func TestEarlyErrorsStayInTheTask(t *testing.T) {
	s := &stub{start: func(context.Context) (hypervisor.DriverTask, error) {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, hypervisor.VMID("1").Ref(), "it is off")
	}}
	c := open(t, s, nil)
	defer c.Close()
	task := c.VM("1").Resume(t.Context())
	if task.ID() != "" || !errors.Is(task.Err(), hypervisor.ErrInvalidState) {
		t.Errorf("ID %q, Err %v", task.ID(), task.Err())
	}
	if err := task.Cancel(t.Context()); err != nil {
		t.Errorf("Cancel of what never began: %v", err)
	}
	for _, err := range task.Progress(t.Context()) {
		if !errors.Is(err, hypervisor.ErrInvalidState) {
			t.Errorf("Progress: %v", err)
		}
	}
	if _, err := task.Wait(t.Context()); !errors.Is(err, hypervisor.ErrInvalidState) {
		t.Errorf("Wait: %v", err)
	}
}

func TestStartsAreRepeatedOnlyIfNeverSent(t *testing.T) {
	for _, unsent := range []bool{true, false} {
		s := &stub{}
		s.start = func(context.Context) (hypervisor.DriverTask, error) {
			if s.starts == 1 {
				return nil, &hypervisor.Error{Kind: hypervisor.ErrUnavailable, Unsent: unsent, Err: errNative}
			}
			return hypervisor.DoneTask("x", hypervisor.TaskState{}), nil
		}
		c := open(t, s, nil)
		_, err := c.VM("1").Start(t.Context()).Wait(t.Context())
		if (err == nil) != unsent {
			t.Errorf("unsent %v: %v after %d starts", unsent, err, s.starts)
		}
		var e *hypervisor.Error
		if err != nil && (!errors.As(err, &e) || e.Retryable()) {
			t.Errorf("a call that may have been sent is said to be retryable: %+v", e)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestTaskGroup(t *testing.T) {
	var g hypervisor.TaskGroup
	for n := range 9000 {
		if _, err := g.Go(t.Context(), hypervisor.TaskID(fmt.Sprint(n)), func(context.Context, func(hypervisor.TaskState)) hypervisor.TaskState {
			return hypervisor.TaskState{}
		}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.Go(t.Context(), "stays", func(ctx context.Context, _ func(hypervisor.TaskState)) hypervisor.TaskState {
		<-ctx.Done()
		return hypervisor.TaskState{Err: ctx.Err()}
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Go(t.Context(), "stays", nil); err == nil {
		t.Error("an ID could be taken twice")
	}
	task, ok := g.Find("stays")
	if !ok {
		t.Fatal("a running task is not found")
	}
	g.Close()
	if s, err := task.Next(t.Context()); err != nil || !errors.Is(s.Err, hypervisor.ErrClosed) || hypervisor.KindOf(s.Err) != hypervisor.ErrClosed {
		t.Errorf("after Close the task ended with %v, %v", s.Err, err)
	}
	found := 0
	for n := range 9000 {
		if _, ok := g.Find(hypervisor.TaskID(fmt.Sprint(n))); ok {
			found++
		}
	}
	if found == 0 || found > 4096 {
		t.Errorf("%d ended tasks are kept, want some and at most 4096", found)
	}
	if _, err := g.Go(t.Context(), "late", nil); !errors.Is(err, hypervisor.ErrClosed) {
		t.Errorf("Go after Close: %v", err)
	}
}

// TestTaskGroupCloseAfterTheEnd closes a group as soon as its work is done:
// the error of the work has named what it left, and Close has nothing to add.
func TestTaskGroupCloseAfterTheEnd(t *testing.T) {
	for range 2000 {
		var g hypervisor.TaskGroup
		task, err := g.Go(t.Context(), "a", func(context.Context, func(hypervisor.TaskState)) hypervisor.TaskState {
			return hypervisor.TaskState{Err: errNative, Leftover: []hypervisor.Ref{{Kind: "volume", ID: "v-1"}}}
		})
		if err != nil {
			t.Fatal(err)
		}
		for done := false; !done; {
			s, err := task.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			done = s.Done
		}
		if err := g.Close(); err != nil {
			t.Fatalf("Close after the end: %v", err)
		}
	}
}
