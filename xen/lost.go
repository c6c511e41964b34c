package xen

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// goal finds the outcome of work whose answer or task is lost, because of a
// broken connection or a change of the master. The latter ends all tasks
// while the hosts continue the work.
type goal struct {
	method string
	vm     xapi.Ref // shows the work in its current_operations; may be empty
	// there checks whether the work is complete, and finds what it made.
	there func(ctx context.Context) (xapi.Ref, bool, error)
}

// forgotten reports whether the pool no longer knows a task.
func forgotten(err error) bool {
	e := (*xapi.Error)(nil)
	return errors.As(err, &e) && e.Code == "HANDLE_INVALID" && len(e.Params) > 0 && e.Params[0] == "task"
}

// lostEvents reports whether a token of event.from is of no use any more.
func lostEvents(err error) bool {
	c := xapi.Code(err)
	return c == "EVENTS_LOST" || c == "EVENT_FROM_TOKEN_PARSE_FAILURE"
}

// after continues from the answer to the work, or from the end of its task.
// If that is lost, it waits until nothing works on the goal any more and
// looks for the result.
func (g goal) after(ctx context.Context, d *driver, answer xapi.Ref, err error) (xapi.Ref, error) {
	answer, err = job.Call[xapi.Ref]{
		Lost: func(err error) bool { return (xapi.Lost(err) || forgotten(err)) && ctx.Err() == nil },
		Goal: func(ctx context.Context) (xapi.Ref, bool, error) {
			if err := d.settle(ctx, g.vm, g.method, nil); err != nil {
				return "", false, err
			}
			return g.there(ctx)
		},
	}.After(ctx, answer, err)
	if forgotten(err) && ctx.Err() == nil {
		err = hypervisor.Errorf(hypervisor.ErrUnavailable, hypervisor.Ref{}, "the pool lost the task, as when its master changes: %w", err)
	}
	return answer, err
}

// operations of a machine during its messages, where the operation does not
// have the message's own name (xen-api's ocaml/xapi/message_forwarding.ml).
var operations = map[string]string{"VM.revert": "reverting"}

// settle waits for the pending tasks of a method that mine accepts, and until
// the machine shows no such operation.
func (d *driver) settle(ctx context.Context, vm xapi.Ref, method string, mine func(xapi.Task) bool) error {
	var tasks map[xapi.Ref]xapi.Task
	if err := d.c.Call(ctx, &tasks, "task.get_all_records"); err != nil {
		return err
	}
	for ref, t := range tasks {
		if t.Ended() || t.Label != "Async."+method || mine != nil && !mine(t) {
			continue
		}
		if err := d.ended(ctx, ref); err != nil {
			return err
		}
	}
	if vm.IsNull() {
		return nil
	}
	op := operations[method]
	if op == "" {
		op = method[strings.IndexByte(method, '.')+1:]
	}
	return d.quiet(ctx, vm, op)
}

// ended waits for a task. A task that is gone has ended.
func (d *driver) ended(ctx context.Context, ref xapi.Ref) error {
	for w := d.c.WatchTask(ref); ; {
		if t, err := w.Next(ctx); err != nil || t.Ended() {
			if forgotten(err) {
				err = nil
			}
			return err
		}
	}
}

// quiet waits until a machine shows no such operation, or is gone.
func (d *driver) quiet(ctx context.Context, vm xapi.Ref, op string) error {
	busy := func(v vmRec) bool {
		for _, o := range v.CurrentOperations {
			if o == op {
				return true
			}
		}
		return false
	}
	for token := ""; ; {
		var v vmRec
		if err := d.c.Call(ctx, &v, "VM.get_record", vm); err != nil {
			if kindOf(err) == hypervisor.ErrNotFound {
				return nil
			}
			return err
		}
		if !busy(v) {
			return nil
		}
		e, err := d.c.From(ctx, []string{"VM/" + string(vm)}, token, watchWait)
		if lostEvents(err) {
			token = ""
			continue
		}
		if err != nil {
			return err
		}
		token = e.Token
		for _, x := range e.Events {
			if json.Unmarshal(x.Snapshot, &v) == nil && !busy(v) {
				return nil
			}
		}
	}
}

// inState is the goal of a change of power state.
func (d *driver) inState(vm xapi.Ref, method string, want hypervisor.PowerState) *goal {
	return &goal{method: method, vm: vm, there: func(ctx context.Context) (xapi.Ref, bool, error) {
		var v vmRec
		err := d.c.Call(ctx, &v, "VM.get_record", vm)
		return vm, state(v.PowerState) == want, err
	}}
}
