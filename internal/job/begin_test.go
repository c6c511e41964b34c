package job_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
)

// TestBegin: calls that start work continue when their caller gives up, and
// a task shows what became of them.
func TestBegin(t *testing.T) {
	refused := hypervisor.Errorf(hypervisor.ErrBusy, hypervisor.Ref{}, "another one works on it")
	vm := hypervisor.VMID("vm-1").Ref()
	for name, c := range map[string]struct {
		answer error
		leave  func(*hypervisor.TaskGroup, hypervisor.DriverTask) // what happens before the answer
		want   hypervisor.Kind
	}{
		"done":      {},
		"refused":   {answer: refused, want: hypervisor.ErrBusy},
		"cancelled": {leave: func(_ *hypervisor.TaskGroup, k hypervisor.DriverTask) { _ = k.Cancel(t.Context()) }},
		"closed":    {leave: func(g *hypervisor.TaskGroup, _ hypervisor.DriverTask) { _ = g.Close() }, want: hypervisor.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			var g hypervisor.TaskGroup
			acted, answer := make(chan struct{}), make(chan struct{})
			ctx, stop := context.WithCancel(t.Context())
			go func() { <-acted; stop() }()
			k, err := job.Begin(ctx, &g, job.Spec{ID: "late", Op: "create", Object: vm, Kind: hypervisor.KindOf}, func(ctx context.Context) (hypervisor.DriverTask, error) {
				close(acted)
				<-answer
				if c.answer != nil || ctx.Err() != nil {
					return nil, errors.Join(c.answer, ctx.Err())
				}
				return hypervisor.DoneTask("native", hypervisor.TaskState{Result: vm}), nil
			})
			if err != nil || k.ID() != "late" {
				t.Fatalf("%v, %v", k, err)
			}
			if _, ok := g.Find("late"); !ok {
				t.Error("the task is not found again")
			}
			if c.leave != nil {
				c.leave(&g, k)
			}
			if name != "closed" {
				close(answer)
			} else {
				defer close(answer)
			}
			wait, end := context.WithTimeout(t.Context(), 10*time.Second)
			defer end()
			var s hypervisor.TaskState
			for !s.Done && err == nil {
				s, err = k.Next(wait)
			}
			if err != nil || hypervisor.KindOf(s.Err) != c.want || c.want == 0 && (s.Err != nil || s.Result != vm) {
				t.Errorf("%+v, %v, want kind %s", s, err, c.want)
			}
		})
	}
	t.Run("in time", func(t *testing.T) {
		var g hypervisor.TaskGroup
		k, err := job.Begin(t.Context(), &g, job.Spec{ID: "late"}, func(context.Context) (hypervisor.DriverTask, error) {
			return hypervisor.DoneTask("native", hypervisor.TaskState{}), nil
		})
		if _, found := g.Find("late"); err != nil || k.ID() != "native" || found {
			t.Errorf("%v, %v, a second task: %t", k, err, found)
		}
	})
	t.Run("ended before", func(t *testing.T) {
		var g hypervisor.TaskGroup
		ctx, stop := context.WithCancel(t.Context())
		stop()
		if _, err := job.Begin(ctx, &g, job.Spec{}, func(context.Context) (hypervisor.DriverTask, error) {
			t.Error("a call was made")
			return nil, nil
		}); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
}
