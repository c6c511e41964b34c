package xen

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// job is work that takes several messages. It is shown in the pool as a task.
type job struct {
	d      *driver
	task   xapi.Ref // the pool's task that stands for it
	on     hypervisor.Ref
	k      hypervisor.Capability
	token  string
	report func(hypervisor.TaskState)
	notes  []string
	undo   []func(context.Context) error
	left   []hypervisor.Ref // what undo could not remove
	made   int              // objects so far
	mig    *hypervisor.MigrateResult
	// bound is set while what the pool does is worthless without the rest of
	// the job: Close then has it cancelled instead of leaving it to the pool.
	bound bool
	// keep is set where a repeated call with the token goes on from what is
	// there: Close then leaves it there.
	keep bool
}

// lateLimit bounds calls that must come to their end although the job was
// cancelled.
const lateLimit = 5 * time.Minute

// late is a context for them: a call that makes something is not given up
// half-way, since then nobody knew what it made.
func late(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), lateLimit)
}

// compose runs work as a task of this process that the pool shows. token is
// that of the call, or empty.
func (d *driver) compose(ctx context.Context, label string, on hypervisor.Ref, k hypervisor.Capability, token string,
	work func(context.Context, *job) (hypervisor.Ref, error)) (hypervisor.DriverTask, error) {
	var ref xapi.Ref
	if err := d.c.Call(ctx, &ref, "task.create", "anyvisor: "+label, on.String()); err != nil {
		return nil, native(on, k, err)
	}
	j := &job{d: d, task: ref, on: on, k: k, token: token}
	d.tokens.enter(token)
	t, err := d.group.Go(ctx, hypervisor.TaskID(ref), func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		defer d.tokens.leave(token)
		j.report = report
		res, err := work(ctx, j)
		return j.end(ctx, res, err)
	})
	if err != nil {
		d.tokens.leave(token)
	}
	return t, err
}

func (j *job) closed(ctx context.Context) bool { return context.Cause(ctx) == hypervisor.ErrClosed }

// end undoes what failed work made and closes the pool's task.
func (j *job) end(ctx context.Context, res hypervisor.Ref, err error) hypervisor.TaskState {
	after, stop := late(ctx)
	defer stop()
	s := hypervisor.TaskState{Result: res, Notes: j.notes, Migration: j.mig}
	if err != nil {
		s.Err = native(j.on, j.k, err)
		var e *hypervisor.Error
		if errors.As(err, &e) {
			s.Leftover = append(s.Leftover, e.Leftover...)
		}
		if !j.keep || !j.closed(ctx) {
			s.Err = j.undone(after, s.Err)
		}
		s.Leftover = append(s.Leftover, j.left...)
	}
	j.tell(after, ctx, s, err)
	return s
}

// undone takes back what was made. Its own errors don't change the kind of
// the one that led here.
func (j *job) undone(ctx context.Context, err error) error {
	k := hypervisor.KindOf(err)
	if k == hypervisor.KindUnknown {
		k = kindOf(err)
	}
	var errs []error
	for _, u := range slices.Backward(j.undo) {
		if uerr := u(ctx); uerr != nil && kindOf(uerr) != hypervisor.KindNotFound {
			errs = append(errs, uerr)
		}
	}
	if len(errs) == 0 {
		return err
	}
	return &hypervisor.Error{Kind: k, Object: j.on, Err: fmt.Errorf("%w (taking it back: %w)", err, errors.Join(errs...))}
}

// tell writes the end into the pool's task for watchers in other processes.
// The work itself has its end already, so a failure here only costs them the
// news.
func (j *job) tell(ctx, work context.Context, s hypervisor.TaskState, err error) {
	set := func(method string, args ...any) {
		_ = j.d.c.Call(ctx, nil, "task."+method, append([]any{j.task}, args...)...)
	}
	if err == nil {
		set("add_to_other_config", resultKey, formatRefs([]hypervisor.Ref{s.Result}))
		set("set_progress", xapi.Float(1))
		set("set_status", "success")
		return
	}
	status, info := "failure", []string{"INTERNAL_ERROR", err.Error()}
	var e *xapi.Error
	switch {
	case j.closed(work):
		info[1] = "the client that composed this was closed; what the pool did for it goes on"
	case work.Err() != nil:
		status, info = "cancelled", []string{"TASK_CANCELLED", string(j.task)}
	case errors.As(err, &e):
		info = append([]string{e.Code}, e.Params...)
	}
	if len(s.Leftover) > 0 {
		set("add_to_other_config", leftKey, formatRefs(s.Leftover))
	}
	set("set_error_info", info)
	set("set_status", status)
}

// run starts a message as a task and waits for it, showing its progress as
// the part from..to of the whole. When ctx ends it has the task cancelled and
// waits for the true end, so that a result is never lost. On Close the pool
// goes on alone.
func (j *job) run(ctx context.Context, from, to float64, method string, args ...any) (xapi.Ref, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	begin, stop := late(ctx)
	defer stop()
	ref, err := j.d.c.Async(begin, method, args...)
	if err != nil {
		return "", err
	}
	if j.token != "" { // so that a repeated call finds it
		if err := j.d.c.Call(begin, nil, "task.add_to_other_config", ref, tokenKey, j.token); err != nil && !forgotten(err) {
			j.notes = append(j.notes, "the pool's task could not be marked with the token: "+err.Error())
		}
	}
	return j.wait(ctx, from, to, method, ref)
}

// wait follows a task of the pool to its end.
func (j *job) wait(ctx context.Context, from, to float64, method string, ref xapi.Ref) (xapi.Ref, error) {
	after := context.WithoutCancel(ctx)
	w, watch := j.d.c.WatchTask(ref), ctx
	for {
		r, err := w.Next(watch)
		if err != nil {
			if ctx.Err() == nil || watch == after || j.closed(ctx) && !j.bound {
				return "", err
			}
			watch = after
			// Some tasks can't be cancelled: then the end is waited for.
			_ = j.d.cancel(after, ref)
			continue
		}
		if !r.Ended() {
			f := from + (to-from)*r.Progress
			j.report(hypervisor.TaskState{Fraction: f, Phase: method, Notes: j.notes})
			continue
		}
		_ = j.d.c.Call(after, nil, "task.destroy", ref)
		return r.ResultRef(), r.Err()
	}
}

// runTo is run for work whose outcome a goal tells where the answer or the
// task is lost.
func (j *job) runTo(ctx context.Context, from, to float64, g goal, method string, args ...any) (xapi.Ref, error) {
	ref, err := j.run(ctx, from, to, method, args...)
	if (xapi.Lost(err) || forgotten(err)) && ctx.Err() == nil {
		g.method = method
		return g.reached(ctx, j.d, err)
	}
	return ref, err
}

// madeKey is the key of other_config that tells which job made an object, and
// its number there.
const madeKey = "anyvisor:made-by"

// make sends class.create. other must be the map that args carry as
// other_config: it gets a mark by which the object is found where the answer
// is lost.
func (j *job) make(ctx context.Context, class string, other map[string]string, args ...any) (xapi.Ref, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	ctx, stop := late(ctx)
	defer stop()
	j.made++
	mark := fmt.Sprintf("%s/%d", j.task, j.made)
	other[madeKey] = mark
	var ref xapi.Ref
	err := j.d.c.Call(ctx, &ref, class+".create", args...)
	if !xapi.Lost(err) {
		return ref, err
	}
	var all map[xapi.Ref]struct {
		Other map[string]string `json:"other_config"`
	}
	if lerr := j.d.c.Call(ctx, &all, class+".get_all_records"); lerr != nil {
		j.left = append(j.left, hypervisor.Ref{Kind: hypervisor.ObjectKind(class), Name: mark})
		return "", errors.Join(err, lerr)
	}
	for _, r := range slices.Sorted(maps.Keys(all)) {
		if all[r].Other[madeKey] == mark {
			return r, nil // it was made
		}
	}
	return "", err
}

// mustUndo removes something of a failed job, and names it if that fails.
func (j *job) mustUndo(what hypervisor.Ref, f func(context.Context) error) {
	j.undo = append(j.undo, func(ctx context.Context) error {
		err := f(ctx)
		if err == nil || kindOf(err) == hypervisor.KindNotFound {
			return nil
		}
		// An error that names the rest itself: the object as such is gone.
		if e := (*hypervisor.Error)(nil); errors.As(err, &e) && len(e.Leftover) > 0 {
			j.left = append(j.left, e.Leftover...)
		} else {
			j.left = append(j.left, what)
		}
		return err
	})
}

// destroy sends class.destroy, once more where the answer is lost: references
// are never used again, so the second can't hit anything else.
func (d *driver) destroy(ctx context.Context, class string, ref xapi.Ref) error {
	err := d.c.Call(ctx, nil, class+".destroy", ref)
	if xapi.Lost(err) {
		if err = d.c.Call(ctx, nil, class+".destroy", ref); kindOf(err) == hypervisor.KindNotFound {
			return nil
		}
	}
	return err
}
