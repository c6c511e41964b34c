package xen

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// Keys in a task's other_config that tell other processes what a composed
// task made.
const (
	resultKey = "anyvisor:result"   // kind/uuid
	leftKey   = "anyvisor:leftover" // kind/uuid, separated by blanks
)

// xapiTask is a task of the pool.
type xapiTask struct {
	d     *driver
	ref   xapi.Ref
	on    hypervisor.Ref
	k     hypervisor.Capability
	watch *xapi.TaskWatch
	made  func(context.Context, xapi.Ref) (hypervisor.Ref, error) // maps the result
}

// async starts a message as a task of the pool. made maps its result; nil
// means that the result is on.
func (d *driver) async(ctx context.Context, on hypervisor.Ref, k hypervisor.Capability,
	made func(context.Context, xapi.Ref) (hypervisor.Ref, error), method string, args ...any) (hypervisor.DriverTask, error) {
	ref, err := d.c.Async(ctx, method, args...)
	if err != nil {
		return nil, native(on, k, err)
	}
	if made == nil {
		made = func(context.Context, xapi.Ref) (hypervisor.Ref, error) { return on, nil }
	}
	return &xapiTask{d: d, ref: ref, on: on, k: k, watch: d.c.WatchTask(ref), made: made}, nil
}

func (t *xapiTask) ID() hypervisor.TaskID { return hypervisor.TaskID(t.ref) }

func (t *xapiTask) Next(ctx context.Context) (hypervisor.TaskState, error) {
	r, err := t.watch.Next(ctx)
	if err != nil {
		return hypervisor.TaskState{}, err
	}
	s := hypervisor.TaskState{Fraction: r.Progress, Phase: r.Label}
	if !r.Ended() {
		return s, nil
	}
	s.Done = true
	if err := r.Err(); err != nil {
		s.Err = native(t.on, t.k, err)
		s.Leftover = parseRefs(r.Other[leftKey])
		return s, nil
	}
	s.Fraction = 1
	if refs := parseRefs(r.Other[resultKey]); len(refs) == 1 {
		s.Result = refs[0]
		return s, nil
	}
	s.Result, s.Err = t.made(ctx, r.ResultRef())
	return s, nil
}

// Cancel asks the pool; a task that can't be cancelled says so in its
// allowed_operations.
func (t *xapiTask) Cancel(ctx context.Context) error { return t.d.cancel(ctx, t.ref) }

func (d *driver) cancel(ctx context.Context, ref xapi.Ref) error {
	on := hypervisor.TaskID(ref).Ref()
	var r xapi.Task
	if err := d.c.Call(ctx, &r, "task.get_record", ref); err != nil {
		return err
	}
	if r.Ended() {
		return nil
	}
	if !slices.Contains(r.Allowed, "cancel") {
		return hypervisor.Unsupported(on, hypervisor.TaskCancel, hypervisor.ReasonVMState, "the pool doesn't let this task be cancelled at this point")
	}
	err := d.c.Call(ctx, nil, "task.cancel", ref)
	if xapi.Code(err) == "OPERATION_NOT_ALLOWED" {
		return hypervisor.Unsupported(on, hypervisor.TaskCancel, hypervisor.ReasonVMState, "the pool refused to cancel this task: "+err.Error())
	}
	return err
}

// Task finds a task of the pool, also one that another process composed. A
// composed task whose process has died stays pending for ever; what it made
// carries its token.
func (d *driver) Task(ctx context.Context, id hypervisor.TaskID) (hypervisor.DriverTask, error) {
	if t, ok := d.group.Find(id); ok {
		return t, nil
	}
	if !strings.HasPrefix(string(id), "OpaqueRef:") {
		return nil, notFound(id.Ref(), "task")
	}
	ref := xapi.Ref(id)
	var r xapi.Task
	if err := d.c.Call(ctx, &r, "task.get_record", ref); err != nil {
		return nil, err
	}
	return &xapiTask{d: d, ref: ref, on: id.Ref(), watch: d.c.WatchTask(ref), made: d.resultVM}, nil
}

// resultVM maps a task's result, if it is a machine.
func (d *driver) resultVM(ctx context.Context, r xapi.Ref) (hypervisor.Ref, error) {
	if r.IsNull() {
		return hypervisor.Ref{}, nil
	}
	var v vmRec
	if err := d.c.Call(ctx, &v, "VM.get_record", r); err != nil {
		if xapi.Code(err) == "HANDLE_INVALID" { // of another class
			return hypervisor.Ref{}, nil
		}
		return hypervisor.Ref{}, err
	}
	if v.IsSnapshot {
		return hypervisor.Ref{Kind: hypervisor.KindOfSnapshot, ID: v.UUID, Name: v.Name}, nil
	}
	return hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name}, nil
}

// job is work that takes several messages. It is shown in the pool as a task.
type job struct {
	d      *driver
	task   xapi.Ref // the pool's task that stands for it
	on     hypervisor.Ref
	k      hypervisor.Capability
	report func(hypervisor.TaskState)
	notes  []string
	undo   []func(context.Context) error
	left   []hypervisor.Ref // what undo could not remove
	mig    *hypervisor.MigrateResult
}

// compose runs work as a task of this process that the pool shows.
func (d *driver) compose(ctx context.Context, label string, on hypervisor.Ref, k hypervisor.Capability,
	work func(context.Context, *job) (hypervisor.Ref, error)) (hypervisor.DriverTask, error) {
	var ref xapi.Ref
	if err := d.c.Call(ctx, &ref, "task.create", "anyvisor: "+label, on.String()); err != nil {
		return nil, native(on, k, err)
	}
	j := &job{d: d, task: ref, on: on, k: k}
	return d.group.Go(ctx, hypervisor.TaskID(ref), func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		j.report = report
		res, err := work(ctx, j)
		return j.end(ctx, res, err)
	})
}

// end undoes what failed work made and closes the pool's task.
func (j *job) end(ctx context.Context, res hypervisor.Ref, err error) hypervisor.TaskState {
	late := context.WithoutCancel(ctx)
	s := hypervisor.TaskState{Result: res, Notes: j.notes, Migration: j.mig}
	if err != nil {
		for _, u := range slices.Backward(j.undo) {
			if uerr := u(late); uerr != nil && kindOf(uerr) != hypervisor.KindNotFound {
				err = fmt.Errorf("%w (undoing it: %w)", err, uerr)
			}
		}
		s.Err, s.Leftover = native(j.on, j.k, err), j.left
		var e *hypervisor.Error
		if errors.As(err, &e) {
			s.Leftover = append(s.Leftover, e.Leftover...)
		}
	}
	// For watchers in other processes. The work itself has its end already,
	// so a failure here only costs them the news.
	if err != nil {
		_ = j.d.c.Call(late, nil, "task.add_to_other_config", j.task, leftKey, formatRefs(s.Leftover))
		info := []string{"INTERNAL_ERROR", err.Error()}
		var e *xapi.Error
		if errors.As(err, &e) {
			info = append([]string{e.Code}, e.Params...)
		}
		status := "failure"
		if ctx.Err() != nil {
			status, info = "cancelled", []string{"TASK_CANCELLED", string(j.task)}
		}
		_ = j.d.c.Call(late, nil, "task.set_error_info", j.task, info)
		_ = j.d.c.Call(late, nil, "task.set_status", j.task, status)
	} else {
		_ = j.d.c.Call(late, nil, "task.add_to_other_config", j.task, resultKey, formatRefs([]hypervisor.Ref{res}))
		_ = j.d.c.Call(late, nil, "task.set_progress", j.task, xapi.Float(1))
		_ = j.d.c.Call(late, nil, "task.set_status", j.task, "success")
	}
	return s
}

// run starts a message as a task and waits for it, showing its progress as
// the part from..to of the whole. When ctx ends it has the task cancelled and
// waits for the true end, so that a result is never lost.
func (j *job) run(ctx context.Context, from, to float64, method string, args ...any) (xapi.Ref, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	late := context.WithoutCancel(ctx)
	ref, err := j.d.c.Async(late, method, args...)
	if err != nil {
		return "", err
	}
	w, watch := j.d.c.WatchTask(ref), ctx
	for {
		r, err := w.Next(watch)
		if err != nil {
			if ctx.Err() == nil || watch == late {
				return "", err
			}
			watch = late
			// Some tasks can't be cancelled: then the end is waited for.
			_ = j.d.cancel(late, ref)
			continue
		}
		if !r.Ended() {
			f := from + (to-from)*r.Progress
			j.report(hypervisor.TaskState{Fraction: f, Phase: method, Notes: j.notes})
			continue
		}
		_ = j.d.c.Call(late, nil, "task.destroy", ref)
		return r.ResultRef(), r.Err()
	}
}

// mustUndo removes something of a failed job, and names it if that fails.
func (j *job) mustUndo(what hypervisor.Ref, f func(context.Context) error) {
	j.undo = append(j.undo, func(ctx context.Context) error {
		err := f(ctx)
		if err != nil && kindOf(err) != hypervisor.KindNotFound {
			j.left = append(j.left, what)
		}
		return err
	})
}

// parallelism bounds the messages that one operation sends at once.
const parallelism = 8

var serial atomic.Uint64

// done is a task for what the pool did at once.
func done(result hypervisor.Ref, notes ...string) hypervisor.DriverTask {
	return hypervisor.DoneTask(hypervisor.TaskID(fmt.Sprintf("done-%d", serial.Add(1))), hypervisor.TaskState{Result: result, Notes: notes})
}

func formatRefs(refs []hypervisor.Ref) string {
	var s []string
	for _, r := range refs {
		s = append(s, string(r.Kind)+"/"+r.ID)
	}
	return strings.Join(s, " ")
}

func parseRefs(s string) []hypervisor.Ref {
	var out []hypervisor.Ref
	for f := range strings.FieldsSeq(s) {
		k, id, _ := strings.Cut(f, "/")
		out = append(out, hypervisor.Ref{Kind: hypervisor.ObjectKind(k), ID: id})
	}
	return out
}
