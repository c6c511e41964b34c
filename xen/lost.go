package xen

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// goal tells the outcome of work whose answer or task is lost: a broken
// connection, or a master change, which ends all tasks while the hosts go on
// with the work.
type goal struct {
	method string
	vm     xapi.Ref // that shows the work in its current_operations; may be empty
	// there looks whether the work has done what it should, and for what it
	// made.
	there func(ctx context.Context) (xapi.Ref, bool, error)
}

// forgotten reports whether the pool no longer knows a task.
func forgotten(err error) bool {
	e := (*xapi.Error)(nil)
	return errors.As(err, &e) && e.Code == "HANDLE_INVALID" && len(e.Params) > 0 && e.Params[0] == "task"
}

// reached waits until the work can't be going on any more and looks for what
// it did. lost is why its end is not known otherwise.
func (g goal) reached(ctx context.Context, d *driver, lost error) (xapi.Ref, error) {
	if err := d.settle(ctx, g.vm, g.method, nil); err != nil {
		return "", err
	}
	ref, ok, err := g.there(ctx)
	switch {
	case err != nil:
		return "", err
	case ok:
		return ref, nil
	case forgotten(lost):
		return "", hypervisor.Errorf(hypervisor.KindUnavailable, hypervisor.Ref{}, "the pool lost the task, as when its master changes, and the work was not done: %w", lost)
	}
	return "", lost
}

// operations of a machine that its messages show while they work, where they
// are not the message's own name (xen-api's ocaml/xapi/message_forwarding.ml).
var operations = map[string]string{"VM.revert": "reverting"}

// settle waits for tasks of a method that are pending now, mine if it says so,
// and until the machine shows no such operation.
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

// ended waits for a task; one that is gone has ended.
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
			if kindOf(err) == hypervisor.KindNotFound {
				return nil
			}
			return err
		}
		if !busy(v) {
			return nil
		}
		e, err := d.c.From(ctx, []string{"VM/" + string(vm)}, token, watchWait)
		switch xapi.Code(err) {
		case "EVENTS_LOST", "EVENT_FROM_TOKEN_PARSE_FAILURE":
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
