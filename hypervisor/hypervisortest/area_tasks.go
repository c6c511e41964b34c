package hypervisortest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// tasks: watching ends with the context, the work doesn't. A second process
// finds the work. The end is reported as often as it is read.
var tasks = area{"tasks", []row{
	{name: "detached", needs: caps{capability.CloneFull}, run: tasksDetached},
	{name: "found-again", proves: caps{capability.TaskResume}, needs: caps{capability.CloneFull}, run: tasksFoundAgain},
	{name: "concurrent-waits", needs: caps{capability.CloneFull}, run: tasksConcurrentWaits},
	{name: "ended", needs: caps{capability.CloneFull}, run: tasksEnded},
	{name: "absent", run: tasksAbsent},
	{name: "read-ends-with-its-context", run: tasksRead},
}}

// slow makes long operations take long, where the backend can.
func (e *env) slow(d time.Duration) {
	if e.Slow != nil {
		e.Slow(d)
	}
}

// longTask starts a clone that takes time.
func (e *env) longTask() (t *hypervisor.Task[*hypervisor.VM], name string) {
	e.Helper()
	src := e.create("src")
	e.slow(300 * time.Millisecond)
	name = e.name("long")
	t = src.Clone(e.ctx, name, nil)
	e.ok(t.Err(), "Clone")
	if t.ID() == "" {
		e.Errorf("a started task has no ID")
	}
	return t, name
}

// ended waits for the clone and registers it for removal.
func (e *env) ended(t *hypervisor.Task[*hypervisor.VM], name string) {
	e.Helper()
	vm := must(e, t, "Wait")
	e.keep(vm.ID())
	if got := e.info(vm).Name; got != name {
		e.Errorf("the clone's name is %q, want %q", got, name)
	}
}

// over returns a context that has ended.
func (e *env) over() context.Context {
	ctx, stop := context.WithCancel(e.ctx)
	stop()
	return ctx
}

func tasksDetached(e *env) {
	t, name := e.longTask()
	_, err := t.Wait(e.over())
	var d *hypervisor.DetachedError
	switch {
	case err == nil: // it had finished already
	case !errors.As(err, &d):
		e.Errorf("Wait with an ended context: %v, want a *DetachedError", err)
	case d.Task != t.ID() || !errors.Is(err, context.Canceled):
		e.Errorf("the DetachedError is %v, want task %s and context.Canceled", err, t.ID())
	}
	e.ended(t, name)
}

func tasksFoundAgain(e *env) {
	t, name := e.longTask()
	defer e.ended(t, name)
	c := e.c
	if e.Reopen != nil {
		var err error
		if c, err = e.Reopen(e.ctx); err != nil {
			e.Fatalf("Reopen: %v", err)
		}
		defer func() {
			if err := c.Close(); err != nil {
				e.Errorf("Close of the second Client: %v", err)
			}
		}()
	}
	again, err := c.Task(e.ctx, t.ID())
	e.ok(err, "Task(%s) from a second Client", t.ID())
	if ref := must(e, again, "Wait of the task found again"); ref.ID == "" {
		e.Errorf("the task found again has no result")
	}
}

func tasksConcurrentWaits(e *env) {
	t, name := e.longTask()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := t.Wait(e.ctx); err != nil {
				e.Errorf("one of four concurrent Waits: %v", err)
			}
		})
	}
	wg.Wait()
	e.ended(t, name)
}

func tasksEnded(e *env) {
	t, name := e.longTask()
	e.ended(t, name)
	e.ok(t.Cancel(e.ctx), "Cancel of an ended task")
	last := hypervisor.TaskState{}
	for s, err := range t.Progress(e.ctx) {
		e.ok(err, "Progress of an ended task")
		last = s
	}
	if !last.Done || last.Err != nil {
		e.Errorf("the last state of an ended task is %+v", last)
	}
}

func tasksAbsent(e *env) {
	for _, id := range []hypervisor.TaskID{"no-such-task", hypervisor.TaskID("task-" + string(e.AbsentVM))} {
		_, err := e.c.Task(e.ctx, id)
		e.oneOf(err, "Task of an absent ID", hypervisor.ErrNotFound, hypervisor.ErrUnsupported)
	}
	_, err := e.c.Task(e.ctx, "")
	e.kind(err, hypervisor.ErrInvalidArgument, "Task of an empty ID")
}

// A read ends with its context at once.
func tasksRead(e *env) {
	if _, err := e.create("vm").Info(e.over()); err == nil {
		e.Errorf("Info with an ended context succeeded")
	} else if !errors.Is(err, context.Canceled) {
		e.Errorf("Info with an ended context: %v, want context.Canceled", err)
	}
}
