package hypervisor_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

func TestShutdownWaitsForAllWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stub{vms: []hypervisor.VMInfo{{ID: "1", Name: "one"}}}
		c := open(t, s, nil)
		began := time.Now()
		for i := range 5 { // that nobody waits for
			s.start = s.slow(hypervisor.TaskID(fmt.Sprint(i)), time.Duration(i)*time.Hour)
			if err := c.VM("1").Start(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
		}
		s.start = s.slow("watched", 2*time.Hour)
		watched := c.VM("1").Start(t.Context())
		down := make(chan error, 1)
		go func() { down <- c.Shutdown(t.Context()) }()
		time.Sleep(time.Minute)
		if err := c.VM("1").Start(t.Context()).Err(); !errors.Is(err, hypervisor.ErrClosed) {
			t.Errorf("a start while the Client shuts down: %v", err)
		}
		if _, err := c.VM("1").Info(t.Context()); err != nil {
			t.Errorf("a read: %v", err)
		}
		if _, err := watched.Wait(t.Context()); err != nil || time.Since(began) != 2*time.Hour {
			t.Errorf("Wait: %v after %v", err, time.Since(began))
		}
		if s.closed.Load() != 0 {
			t.Error("closed before the work has ended")
		}
		if err := <-down; err != nil || time.Since(began) != 4*time.Hour || s.closed.Load() != 1 {
			t.Errorf("Shutdown: %v after %v, closed %d times", err, time.Since(began), s.closed.Load())
		}
		if err := c.Shutdown(t.Context()); err != nil || s.closed.Load() != 1 {
			t.Errorf("a second Shutdown: %v, closed %d times", err, s.closed.Load())
		}
	})
}

func TestShutdownEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stub{}
		c := open(t, s, nil)
		s.start = s.slow("long", time.Hour)
		task := c.VM("1").Start(t.Context())
		began := time.Now()
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		err := c.Shutdown(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Minute || s.closed.Load() != 1 {
			t.Errorf("Shutdown: %v after %v, closed %d times", err, time.Since(began), s.closed.Load())
		}
		var e *hypervisor.Error
		if !errors.As(err, &e) || len(e.Leftover) != 1 || e.Leftover[0].ID != "half" {
			t.Errorf("the error does not name what the cancelled work left: %v", err)
		}
		if _, err := task.Wait(t.Context()); !errors.Is(err, hypervisor.ErrClosed) {
			t.Errorf("Wait: %v", err)
		}
	})
}

// TestShutdownWaitsForStarts: a start that has not returned is work too.
func TestShutdownWaitsForStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stub{}
		c := open(t, s, nil)
		slow := s.slow("late", time.Hour)
		s.start = func(ctx context.Context) (hypervisor.DriverTask, error) {
			time.Sleep(time.Minute)
			return slow(ctx)
		}
		go c.VM("1").Start(t.Context())
		synctest.Wait()
		began := time.Now()
		if err := c.Shutdown(t.Context()); err != nil || time.Since(began) != time.Hour+time.Minute {
			t.Errorf("Shutdown: %v after %v", err, time.Since(began))
		}
	})
}

// TestShutdownOfTheUnknowable: the end of one task can't be learned, the others
// are waited for.
func TestShutdownOfTheUnknowable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stub{}
		c := open(t, s, nil)
		s.start = func(context.Context) (hypervisor.DriverTask, error) { return lost{}, nil }
		_ = c.VM("1").Start(t.Context())
		s.start = s.slow("known", time.Hour)
		_ = c.VM("1").Start(t.Context())
		began := time.Now()
		if err := c.Shutdown(t.Context()); !errors.Is(err, errNative) || time.Since(began) != time.Hour {
			t.Errorf("Shutdown: %v after %v", err, time.Since(began))
		}
	})
}

type lost struct{}

func (lost) ID() hypervisor.TaskID        { return "lost" }
func (lost) Cancel(context.Context) error { return nil }
func (lost) Next(context.Context) (hypervisor.TaskState, error) {
	return hypervisor.TaskState{}, errNative
}

// TestTasksAreForgotten: a Client keeps nothing of work whose end was seen, and
// a bounded number of the rest.
func TestTasksAreForgotten(t *testing.T) {
	s := &stub{}
	c := open(t, s, nil)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	s.start = func(context.Context) (hypervisor.DriverTask, error) { return &endless{}, nil }
	var grown [2]uint64
	for round := range grown {
		before := heap()
		for range 70_000 {
			if err := c.VM("1").Start(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
		}
		if after := heap(); after > before {
			grown[round] = after - before
		}
	}
	// The first round fills the memory, the second may not add to it much.
	if grown[1] > grown[0]/2 {
		t.Errorf("140,000 tasks that nobody waits for hold %d and %d more bytes", grown[0], grown[1])
	}
	ended, stop := context.WithCancel(t.Context())
	stop()
	if err := c.Shutdown(ended); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

type endless struct{ _ [64]byte }

func (*endless) ID() hypervisor.TaskID        { return "endless" }
func (*endless) Cancel(context.Context) error { return nil }
func (*endless) Next(ctx context.Context) (hypervisor.TaskState, error) {
	<-ctx.Done()
	return hypervisor.TaskState{}, ctx.Err()
}

// TestCloseIsBounded: work that does not end, and a driver that does not.
func TestCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stub{hang: make(chan struct{})}
		c := open(t, s, nil)
		s.start = s.slow("quick", time.Hour)
		_ = c.VM("1").Start(t.Context())
		deaf := make(chan struct{})
		s.start = func(ctx context.Context) (hypervisor.DriverTask, error) {
			return s.group.Go(ctx, "deaf", func(context.Context, func(hypervisor.TaskState)) hypervisor.TaskState {
				<-deaf
				return hypervisor.TaskState{}
			})
		}
		task := c.VM("2").Start(t.Context())
		s.start = func(context.Context) (hypervisor.DriverTask, error) { return &endless{}, nil }
		_ = c.VM("3").Start(t.Context())
		began := time.Now()
		go func() { time.Sleep(4 * time.Second); close(s.hang) }()
		err := c.Close()
		var e *hypervisor.Error
		if !errors.As(err, &e) || e.Kind != hypervisor.ErrTimeout || time.Since(began) != 4*time.Second {
			t.Fatalf("Close: %v after %v", err, time.Since(began))
		}
		ids := []string{}
		for _, r := range e.Leftover {
			ids = append(ids, r.ID)
		}
		if !slices.Equal(slices.Sorted(slices.Values(ids)), []string{"deaf", "half"}) {
			t.Errorf("Leftover names %v", e.Leftover)
		}
		if _, err := task.Wait(t.Context()); !errors.Is(err, hypervisor.ErrClosed) {
			t.Errorf("Wait for what continues: %v", err)
		}
		again := time.Now()
		if err := s.group.Close(); err != nil || time.Since(again) != 0 {
			t.Errorf("a second Close of the group: %v after %v", err, time.Since(again))
		}
		if err := c.Shutdown(t.Context()); err != nil || time.Since(again) != 0 {
			t.Errorf("Shutdown after Close: %v after %v", err, time.Since(again))
		}
		close(deaf) // as the end of its connection does
	})
	synctest.Test(t, func(t *testing.T) {
		s := &stub{hang: make(chan struct{})}
		c := open(t, s, nil)
		began := time.Now()
		if err := c.Close(); !errors.Is(err, hypervisor.ErrTimeout) || time.Since(began) != 5*time.Second {
			t.Errorf("Close of a driver that hangs: %v after %v", err, time.Since(began))
		}
		close(s.hang)
	})
}

// TestShutdownLetsEvacuateFinish: the moves that an evacuation still has to
// begin are no new work.
func TestShutdownLetsEvacuateFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, c, vms := farm(t, 2, 4)
		b.SetDelay(op.VMMigrate, time.Hour)
		from := mustInfo(t, vms[0]).Host
		task := c.Host(from).Evacuate(t.Context(), &hypervisor.EvacuateOptions{Parallel: 1})
		time.Sleep(90 * time.Minute) // one has moved, the second is on its way
		if err := c.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if _, err := task.Wait(t.Context()); err != nil {
			t.Errorf("the evacuation: %v", err)
		}
		c, err := b.Open(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if n := perHost(t, c)[from]; n != 0 {
			t.Errorf("%d machines are on the host", n)
		}
	})
}
