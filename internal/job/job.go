// Package job is the drivers' shared code for work that takes several calls.
//
// A Job is such work: a task of a hypervisor.TaskGroup with an undo stack,
// leftovers, notes and progress. Follow waits for a task of the platform
// within a job, Call finds out the outcome of a call whose answer was lost,
// and Tokens serializes calls with the same token.
package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Spec describes a job.
type Spec struct {
	ID     hypervisor.TaskID
	Op     string         // "create", "migrate", …
	Object hypervisor.Ref // that the job works on
	// Kind classifies the driver's errors.
	Kind func(error) hypervisor.Kind
	// Closed ends when the Client, which is being closed, stops waiting.
	// Without it, Commit and Follow wait however long the platform takes.
	Closed context.Context
}

// Job is work that takes several calls. One goroutine at a time uses it.
type Job struct {
	Spec
	Started time.Time
	// Keep is set where a repeated call continues with what exists: after
	// Close nothing is undone.
	Keep bool
	// Bound is set while a task of the platform is useless without the rest
	// of the job. Close then cancels it instead of leaving it to the
	// platform.
	Bound     bool
	Migration *hypervisor.MigrateResult

	report func(hypervisor.TaskState)
	phase  string
	notes  []string
	left   []hypervisor.Ref
	undo   []*Undo
	ends   []func() // release the contexts of Commit
}

// Undo is a step that undoes something if the job fails.
type Undo struct {
	// Made is the object that the step removes. It is named as left behind if
	// the step fails. Its ID may be filled in later.
	Made hypervisor.Ref
	what string // or what the step restores
	step func(context.Context) error
}

// Start runs work as a task of g. Work ends with a call of End and returns
// the state from it.
func Start(ctx context.Context, g *hypervisor.TaskGroup, s Spec, work func(context.Context, *Job) hypervisor.TaskState) (hypervisor.DriverTask, error) {
	return g.Go(ctx, s.ID, func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		return work(ctx, New(s, report))
	})
}

// New makes a job that is not a task of its own, such as a step of another
// one. report, which may be nil, receives its progress.
func New(s Spec, report func(hypervisor.TaskState)) *Job {
	return &Job{Spec: s, Started: time.Now(), report: report}
}

// Go is like Start, for work that returns its result or its error.
func Go(ctx context.Context, g *hypervisor.TaskGroup, s Spec, work func(context.Context, *Job) (hypervisor.Ref, error)) (hypervisor.DriverTask, error) {
	return Start(ctx, g, s, func(ctx context.Context, j *Job) hypervisor.TaskState {
		made, err := work(ctx, j)
		return j.End(ctx, made, err)
	})
}

// lateLimit bounds the calls that are made after a cancel.
const lateLimit = 5 * time.Minute

// Late is a context for calls that must finish although the job was
// cancelled. A call that makes something is not given up half-way, since
// nobody would then know what it made.
func Late(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), lateLimit)
}

// Closed reports whether a job's context ended because the Client was closed.
func Closed(ctx context.Context) bool { return context.Cause(ctx) == hypervisor.ErrClosed }

// Commit is a context for the rest of a job that must be finished because it
// can't be undone: Cancel does not end it, Close does.
func (j *Job) Commit(ctx context.Context) context.Context {
	ctx, stop := j.untilClosed(ctx)
	j.ends = append(j.ends, stop)
	return ctx
}

// untilClosed is ctx without its end, but with the end of Closed.
func (j *Job) untilClosed(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	if j.Closed == nil {
		return ctx, func() { cancel(nil) }
	}
	stop := context.AfterFunc(j.Closed, func() { cancel(hypervisor.ErrClosed) })
	return ctx, func() { stop(); cancel(nil) }
}

// Note adds a note about something that the job did besides what was
// requested.
func (j *Job) Note(text string) {
	if !slices.Contains(j.notes, text) {
		j.notes = append(j.notes, text)
	}
}

// Left names objects that the job leaves behind.
func (j *Job) Left(refs ...hypervisor.Ref) {
	for _, r := range refs {
		if !slices.Contains(j.left, r) {
			j.left = append(j.left, r)
		}
	}
}

// Phase reports the present phase of the job. fraction is of the whole,
// negative if unknown.
func (j *Job) Phase(phase string, fraction float64) {
	j.phase = phase
	j.Report(hypervisor.TaskState{Phase: phase, Fraction: fraction})
}

// Report reports progress. The job adds what it knows.
func (j *Job) Report(s hypervisor.TaskState) {
	if s.Phase == "" {
		s.Phase = j.phase
	}
	if j.report != nil {
		j.report(j.fill(s))
	}
}

// fill adds the job's own facts to a state.
func (j *Job) fill(s hypervisor.TaskState) hypervisor.TaskState {
	s.Notes = slices.Clip(j.notes)
	return s
}

// Remove adds a step that removes what the job made. Steps run last first.
func (j *Job) Remove(made hypervisor.Ref, step func(context.Context) error) *Undo {
	u := &Undo{Made: made, step: step}
	j.undo = append(j.undo, u)
	return u
}

// SetBack adds a step that restores a former value, or removes a part that
// has no name of its own.
func (j *Job) SetBack(what string, step func(context.Context) error) {
	j.undo = append(j.undo, &Undo{what: what, step: step})
}

// Whole drops all steps: everything that the job made stays, whatever
// follows.
func (j *Job) Whole() { j.undo = nil }

// End undoes failed work, and returns the final state.
func (j *Job) End(ctx context.Context, made hypervisor.Ref, err error) hypervisor.TaskState {
	for _, f := range j.ends {
		f()
	}
	if err != nil {
		var e *hypervisor.Error
		if errors.As(err, &e) {
			j.Left(e.Leftover...)
		}
		if !j.Keep || !Closed(ctx) {
			err = j.takeBack(ctx, err)
		}
	}
	return j.fill(hypervisor.TaskState{Result: made, Err: err, Migration: j.Migration, Leftover: j.left})
}

// takeBack runs the undo stack. If a step doesn't find its object any more,
// the object is gone.
func (j *Job) takeBack(ctx context.Context, err error) error {
	ctx, stop := Late(ctx)
	defer stop()
	for _, u := range slices.Backward(j.undo) {
		failed := u.step(ctx)
		if failed == nil || j.kind(failed) == hypervisor.ErrNotFound {
			continue
		}
		var e *hypervisor.Error
		switch {
		case u.what != "":
			err = j.Also(err, "%s could not be set back: %v", u.what, failed)
			continue
		case errors.As(failed, &e) && len(e.Leftover) > 0: // the object itself is gone
			j.Left(e.Leftover...)
		default:
			j.Left(u.Made)
		}
		err = j.Also(err, "%v could not be removed: %v", u.Made, failed)
	}
	return err
}

// Also adds to an error what else went wrong. Its kind stays, but the call no
// longer counts as one that did nothing.
func (j *Job) Also(err error, format string, args ...any) error {
	out := &hypervisor.Error{Kind: j.kind(err), Object: j.Object, Err: err}
	if e, ok := err.(*hypervisor.Error); ok {
		c := *e
		out = &c
	}
	out.Unsent, out.Err = false, fmt.Errorf("%w (and %s)", out.Err, fmt.Sprintf(format, args...))
	return out
}

func (j *Job) kind(err error) hypervisor.Kind {
	if k := hypervisor.KindOf(err); k != hypervisor.ErrUnknown {
		return k
	}
	return j.Kind(err)
}
