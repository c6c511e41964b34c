package xen

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// Keys in a task's other_config that report to other processes what a
// composed task made.
const (
	resultKey = "anyvisor:result"   // kind/uuid
	leftKey   = "anyvisor:leftover" // kind/uuid, separated by blanks
)

// xapiTask is a task of the pool.
type xapiTask struct {
	d     *driver
	ref   xapi.Ref
	on    hypervisor.Ref
	k     capability.Name
	watch *xapi.TaskWatch
	made  func(context.Context, xapi.Ref) (hypervisor.Ref, error) // maps the result; nil within a job
	last  xapi.Task
	goal  *goal
	end   *hypervisor.TaskState // shown by goal
}

// async starts a message as a task of the pool. made maps its result; nil
// means that the result is on. g, which may be nil, finds the outcome if the
// pool forgets the task, as a new master does.
func (d *driver) async(ctx context.Context, on hypervisor.Ref, k capability.Name, g *goal,
	made func(context.Context, xapi.Ref) (hypervisor.Ref, error), method string, args ...any) (hypervisor.DriverTask, error) {
	if made == nil {
		made = func(context.Context, xapi.Ref) (hypervisor.Ref, error) { return on, nil }
	}
	return d.begin(ctx, method, on, func(ctx context.Context) (hypervisor.DriverTask, error) {
		ref, err := d.c.Async(ctx, method, args...)
		if err != nil {
			return nil, native(on, k, err)
		}
		return &xapiTask{d: d, ref: ref, on: on, k: k, watch: d.c.WatchTask(ref), made: made, goal: g}, nil
	})
}

// begin makes calls that start work. If ctx ends before their answers come,
// a task of this process stands for it.
func (d *driver) begin(ctx context.Context, op string, on hypervisor.Ref, send func(context.Context) (hypervisor.DriverTask, error)) (hypervisor.DriverTask, error) {
	id := hypervisor.TaskID(fmt.Sprintf("late-%d", serial.Add(1)))
	return job.Begin(ctx, &d.group, job.Spec{ID: id, Op: op, Object: on, Kind: kindOf}, send)
}

// now does work that the pool completes at once.
func (d *driver) now(ctx context.Context, op string, on hypervisor.Ref, k capability.Name, work func(context.Context) error) (hypervisor.DriverTask, error) {
	return d.begin(ctx, op, on, func(ctx context.Context) (hypervisor.DriverTask, error) {
		if err := work(ctx); err != nil {
			return nil, native(on, k, err)
		}
		return done(on), nil
	})
}

func (t *xapiTask) ID() hypervisor.TaskID { return hypervisor.TaskID(t.ref) }

func (t *xapiTask) Next(ctx context.Context) (hypervisor.TaskState, error) {
	if t.end != nil {
		return *t.end, nil
	}
	r, err := t.watch.Next(ctx)
	if forgotten(err) && t.goal != nil {
		if _, err = t.goal.after(ctx, t.d, "", err); ctx.Err() != nil {
			return hypervisor.TaskState{}, err
		}
		t.end = &hypervisor.TaskState{Done: true, Result: t.on, Fraction: 1, Err: err}
		return *t.end, nil
	}
	if err != nil {
		return hypervisor.TaskState{}, err
	}
	t.last = r
	s := hypervisor.TaskState{Fraction: r.Progress, Phase: strings.TrimPrefix(r.Label, "Async.")}
	if !r.Ended() {
		return s, nil
	}
	if s.Done = true; t.made == nil {
		s.Err = r.Err()
		return s, nil
	}
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

// Cancel asks the pool. The allowed_operations of a task show whether it can
// be cancelled.
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
		return hypervisor.Unsupported(on, capability.TaskCancel, hypervisor.ReasonVMState, "the pool doesn't let this task be cancelled at this point")
	}
	err := d.c.Call(ctx, nil, "task.cancel", ref)
	if xapi.Code(err) == "OPERATION_NOT_ALLOWED" {
		return hypervisor.Unsupported(on, capability.TaskCancel, hypervisor.ReasonVMState, "the pool refused to cancel this task: "+err.Error())
	}
	return err
}

// Task finds a task of the pool, also one that another process composed. A
// composed task whose process has died stays pending for ever. What it made
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
		return hypervisor.Ref{Kind: hypervisor.ObjectSnapshot, ID: v.UUID, Name: v.Name}, nil
	}
	return hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name}, nil
}

// parallelism bounds the messages that one operation sends at once.
const parallelism = 8

var serial atomic.Uint64

// done returns a task for work that the pool completed at once.
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
