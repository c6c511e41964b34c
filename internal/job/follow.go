package job

import (
	"context"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Follow waits for a task of the platform within a job and returns its final
// state. Its progress is the part from..to of the whole, and its notes become
// the job's. When ctx ends, Follow cancels the task and waits for its true
// end, so that a result is never lost. A task that can't be cancelled ends by
// itself. On Close, Follow leaves the task to the platform, unless the job is
// Bound.
func (j *Job) Follow(ctx context.Context, t hypervisor.DriverTask, from, to float64) (hypervisor.TaskState, error) {
	watch := ctx
	for {
		s, err := t.Next(watch)
		if err != nil {
			if ctx.Err() == nil || watch != ctx || Closed(ctx) && !j.Bound {
				return s, err
			}
			late, stop := j.untilClosed(ctx)
			defer stop()
			watch = late
			_ = t.Cancel(watch) // a refusal: see above
			continue
		}
		for _, n := range s.Notes {
			j.Note(n)
		}
		if s.Done {
			return s, s.Err
		}
		if s.Fraction >= 0 {
			s.Fraction = from + (to-from)*s.Fraction
		}
		j.Report(s)
	}
}
