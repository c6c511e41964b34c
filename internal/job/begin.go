package job

import (
	"context"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Begin makes the calls that start work, and returns its task. When ctx ends
// before they are answered they continue, since the platform may have begun
// by then. A task of g, as s describes it, then represents the work.
func Begin(ctx context.Context, g *hypervisor.TaskGroup, s Spec, send func(context.Context) (hypervisor.DriverTask, error)) (hypervisor.DriverTask, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	type answer struct {
		t   hypervisor.DriverTask
		err error
	}
	got := make(chan answer, 1)
	go func() {
		late, stop := Late(ctx)
		defer stop()
		t, err := send(late)
		got <- answer{t, err}
	}()
	select {
	case a := <-got:
		return a.t, a.err
	case <-ctx.Done():
	}
	return Go(ctx, g, s, func(ctx context.Context, j *Job) (hypervisor.Ref, error) {
		for ended := ctx.Done(); ; ended = nil {
			select {
			case a := <-got:
				if a.err != nil {
					return s.Object, a.err
				}
				return j.adopt(ctx, a.t)
			case <-ended: // a cancel waits for the answer
				if Closed(ctx) {
					return s.Object, ctx.Err()
				}
			}
		}
	})
}

// adopt makes a task's end that of the job.
func (j *Job) adopt(ctx context.Context, t hypervisor.DriverTask) (hypervisor.Ref, error) {
	s, err := j.Follow(ctx, t, 0, 1)
	if err != nil && !s.Done { // it may continue
		j.Left(t.ID().Ref())
	}
	j.Migration = s.Migration
	j.Left(s.Leftover...)
	return s.Result, err
}
