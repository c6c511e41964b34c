package xen

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// poolJob is work that takes several messages. The pool shows it as a task.
type poolJob struct {
	*job.Job
	d     *driver
	task  xapi.Ref // the pool's task that represents it
	token string
	made  int // number of objects so far
}

// compose runs work as a task of this process that the pool shows. token is
// the token of the call, or empty.
func (d *driver) compose(ctx context.Context, op string, on hypervisor.Ref, k capability.Name, token string,
	work func(context.Context, *poolJob) (hypervisor.Ref, error)) (hypervisor.DriverTask, error) {
	return d.begin(ctx, op, on, func(ctx context.Context) (hypervisor.DriverTask, error) {
		var ref xapi.Ref
		if err := d.c.Call(ctx, &ref, "task.create", "anyvisor: "+op, on.String()); err != nil {
			return nil, native(on, k, err)
		}
		s := job.Spec{ID: hypervisor.TaskID(ref), Op: op, Object: on, Kind: kindOf}
		return job.Start(ctx, &d.group, s, func(ctx context.Context, base *job.Job) hypervisor.TaskState {
			j := &poolJob{Job: base, d: d, task: ref, token: token}
			made, err := work(ctx, j)
			s := j.End(ctx, made, native(on, k, err))
			j.tell(ctx, s, err)
			return s
		})
	})
}

// tell writes the end into the pool's task for watchers in other processes.
// The work itself has ended already, so after a failure here they only don't
// learn of it.
func (j *poolJob) tell(work context.Context, s hypervisor.TaskState, err error) {
	ctx, stop := job.Late(work)
	defer stop()
	set := func(method string, args ...any) {
		for range 3 { // a second call does no harm
			if err := j.d.c.Call(ctx, nil, "task."+method, append([]any{j.task}, args...)...); !xapi.Lost(err) {
				return
			}
		}
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
	case job.Closed(work):
		info[1] = "the client that composed this was closed; what the pool did for it continues"
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

// run starts a message as a task of the pool and waits for it. Its progress is
// the part from..to of the whole.
func (j *poolJob) run(ctx context.Context, from, to float64, method string, args ...any) (xapi.Ref, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	begin, stop := job.Late(ctx)
	defer stop()
	ref, err := j.d.c.Async(begin, method, args...)
	if err != nil {
		return "", err
	}
	if j.token != "" { // so that a repeated call finds it
		if err := j.d.c.Call(begin, nil, "task.add_to_other_config", ref, tokenKey, j.token); err != nil && !forgotten(err) {
			j.Note("the pool's task could not be marked with the token: " + err.Error())
		}
	}
	return j.wait(ctx, from, to, ref)
}

// wait follows a task of the pool to its end.
func (j *poolJob) wait(ctx context.Context, from, to float64, ref xapi.Ref) (xapi.Ref, error) {
	t := &xapiTask{d: j.d, ref: ref, watch: j.d.c.WatchTask(ref)}
	_, err := j.Follow(ctx, t, from, to)
	if t.last.Ended() {
		if t.last.Status != "success" {
			j.subTasks(ctx, t.last.Subtasks)
		}
		_ = j.d.c.Call(context.WithoutCancel(ctx), nil, "task.destroy", ref) // the pool drops it some time later anyway
	}
	return t.last.ResultRef(), err
}

// runTo is like run, for work with a goal that shows its outcome where the
// answer or the task is lost. Like Follow, it then waits for the true end
// even if the job was cancelled.
func (j *poolJob) runTo(ctx context.Context, from, to float64, g goal, method string, args ...any) (xapi.Ref, error) {
	g.method = method
	ref, err := j.run(ctx, from, to, method, args...)
	if xapi.Lost(err) || forgotten(err) {
		ctx = j.Commit(ctx)
	}
	return g.after(ctx, j.d, ref, err)
}

// madeKey is the key of other_config that records which job made an object,
// and its number in that job.
const madeKey = "anyvisor:made-by"

// make calls class.create. other must be the map that args carry as
// other_config: it gets a mark by which the object is found when the answer
// is lost.
func (j *poolJob) make(ctx context.Context, class string, other map[string]string, args ...any) (xapi.Ref, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	ctx, stop := job.Late(ctx)
	defer stop()
	j.made++
	mark := fmt.Sprintf("%s/%d", j.task, j.made)
	other[madeKey] = mark
	return job.Call[xapi.Ref]{
		Send: func(ctx context.Context) (ref xapi.Ref, err error) {
			err = j.d.c.Call(ctx, &ref, class+".create", args...)
			return ref, err
		},
		Lost: xapi.Lost,
		Goal: func(ctx context.Context) (xapi.Ref, bool, error) {
			var all map[xapi.Ref]struct {
				Other map[string]string `json:"other_config"`
			}
			if err := j.d.c.Call(ctx, &all, class+".get_all_records"); err != nil {
				j.Left(unknown(class, mark, args))
				return "", false, err
			}
			for _, r := range slices.Sorted(maps.Keys(all)) {
				if all[r].Other[madeKey] == mark {
					return r, true, nil
				}
			}
			return "", false, nil
		},
	}.Do(ctx)
}

// unknown names an object that may have been made: by the name that it was to
// get, or else by its mark.
func unknown(class, mark string, args []any) hypervisor.Ref {
	r := hypervisor.Ref{Kind: hypervisor.ObjectKind(class), Name: mark}
	switch class {
	case "VM":
		r.Kind = hypervisor.ObjectVM
	case "VDI":
		r.Kind = hypervisor.ObjectVolume
	}
	if rec, ok := args[0].(map[string]any); ok && rec["name_label"] != nil {
		r.Name = fmt.Sprint(rec["name_label"])
	}
	return r
}

// destroy calls class.destroy, and repeats it if the answer is lost:
// references are never used again, so the second call can't affect anything
// else.
func (d *driver) destroy(ctx context.Context, class string, ref xapi.Ref) error {
	err := d.c.Call(ctx, nil, class+".destroy", ref)
	if xapi.Lost(err) {
		if err = d.c.Call(ctx, nil, class+".destroy", ref); kindOf(err) == hypervisor.ErrNotFound {
			return nil
		}
	}
	return err
}
