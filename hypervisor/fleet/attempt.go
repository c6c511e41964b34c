package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Attempt is one try of a step on a target.
type Attempt struct {
	Run    string // the plan's ID
	Step   string
	Number int // of the try in this worker, from 1
	Target Target
	// Token is the same in every try of this step on this target, in every
	// process. Pass it to calls that take a Token.
	Token string
	// Task is the task that an earlier try recorded with SaveTask, perhaps
	// in a process that was killed, or empty.
	Task hypervisor.TaskID
	// Failed is why Plan.Undo runs; it is nil in steps.
	Failed *Failure

	client *hypervisor.Client
	j      Journal
	values map[string]string
}

// Token returns the token of a step on a target. Attempt.Token has it.
func Token(run, target, step string) string {
	sum := sha256.Sum256([]byte(run + "\x00" + target + "\x00" + step))
	return "fleet-" + hex.EncodeToString(sum[:16])
}

// Client returns the target's Client.
func (a *Attempt) Client() *hypervisor.Client { return a.client }

// Value returns what this step or an earlier one has Set, or "".
func (a *Attempt) Value(key string) string { return a.values[key] }

// Set keeps a short text for later steps and for Result.Values. It is kept
// when the step succeeds.
func (a *Attempt) Set(key, value string) { a.values[key] = value }

// SaveTask records the task that the step has begun, before the step waits for
// it. The empty ID forgets it.
func (a *Attempt) SaveTask(ctx context.Context, id hypervisor.TaskID) error {
	if err := a.j.SaveTask(ctx, a.Step, id); err != nil {
		return fmt.Errorf("fleet: recording task %s: %w", id, err)
	}
	a.Task = id
	return nil
}

// Await begins work, records its task and waits for it. If an earlier try has
// recorded a task, Await waits for that one and begins nothing, unless the
// platform has forgotten the task. It returns what the work made, if the
// result has a Ref.
//
// A worker that is killed between the beginning and the record leaves no task
// to find. Work that must not be repeated then needs Attempt.Token as well, or
// a look at what is there. A step has one Await: make two steps of two works.
func Await[T any](ctx context.Context, a *Attempt, begin func(context.Context) *hypervisor.Task[T]) (hypervisor.Ref, error) {
	if a.Task != "" {
		t, err := a.client.Task(ctx, a.Task)
		if err == nil {
			r, err := t.Wait(ctx)
			return r, ended(ctx, a, err)
		}
		if !errors.Is(err, hypervisor.ErrNotFound) {
			return hypervisor.Ref{}, err
		}
	}
	t := begin(ctx)
	if id := t.ID(); id != "" {
		if err := a.SaveTask(ctx, id); err != nil {
			return hypervisor.Ref{}, err
		}
	}
	v, err := t.Wait(ctx)
	var made hypervisor.Ref
	if r, ok := any(v).(interface{ Ref() hypervisor.Ref }); ok && err == nil {
		made = r.Ref()
	}
	return made, ended(ctx, a, err)
}

// ended forgets a task that has failed, so that the next try begins anew. A
// task that nobody watches any more continues, and is kept.
func ended(ctx context.Context, a *Attempt, err error) error {
	var d *hypervisor.DetachedError
	if err == nil || errors.As(err, &d) {
		return err
	}
	return errors.Join(err, a.SaveTask(context.WithoutCancel(ctx), ""))
}

// try carries a step out: all its tries.
func (a *Attempt) try(ctx context.Context, s Step) (out Outcome) {
	vm := a.vm()
	before := a.values
	for a.Number = 1; ; a.Number++ {
		a.values = maps.Clone(before)
		if a.values == nil {
			a.values = map[string]string{}
		}
		err := a.once(ctx, vm, s)
		if err == nil {
			return Outcome{Values: a.values, Tries: a.Number}
		}
		var p *PanicError
		if a.Number >= max(s.Tries, 1) || ctx.Err() != nil || errors.As(err, &p) {
			return Outcome{Failure: failureOf(s.Name, a.vanished(ctx, vm, err)), Values: before, Tries: a.Number}
		}
		if sleep(ctx, s.Wait) != nil {
			return Outcome{Failure: failureOf(s.Name, ctx.Err()), Values: before, Tries: a.Number}
		}
	}
}

func (a *Attempt) once(ctx context.Context, vm *hypervisor.VM, s Step) (err error) {
	if s.Timeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, s.Timeout)
		defer stop()
	}
	defer func() {
		if r := recover(); r != nil {
			err = &PanicError{fmt.Sprint(r), string(debug.Stack())}
		}
	}()
	return s.Do(ctx, vm, a)
}

func (a *Attempt) vm() *hypervisor.VM {
	if a.Target.Ref.Kind != hypervisor.ObjectVM || a.Target.Ref.ID == "" {
		return nil
	}
	return a.client.VM(hypervisor.VMID(a.Target.Ref.ID))
}

// vanished replaces an error that comes from the end of the machine.
func (a *Attempt) vanished(ctx context.Context, vm *hypervisor.VM, err error) error {
	if vm == nil || !errors.Is(err, hypervisor.ErrNotFound) {
		return err
	}
	if _, look := vm.Info(ctx); !errors.Is(look, hypervisor.ErrNotFound) {
		return err
	}
	return &VanishedError{a.Target}
}

// sleep waits. It ends early with ctx and returns its error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
