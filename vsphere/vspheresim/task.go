package vspheresim

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// job is one task: its object, what it needs exclusively, and the work.
type job struct {
	method string                         // the SOAP method, "CloneVM_Task"
	id     string                         // TaskInfo.descriptionId, "VirtualMachine.clone"
	entity types.ManagedObjectReference   // what TaskInfo.entity shows
	owns   []types.ManagedObjectReference // machines that no other task may work on meanwhile
	shares []types.ManagedObjectReference // machines that other sharing tasks may work on meanwhile
	cancel bool                           // whether CancelTask works

	// check runs when the task starts, and work when its time is over. Both run as one step of the world.
	check func() types.BaseMethodFault
	work  func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault)

	// until, if set, is waited for after the work, at most for limit (0 means for ever). Then after runs.
	until func() bool
	limit time.Duration
	after func(ctx *simulator.Context)
}

// jobSet counts the running jobs of one machine.
type jobSet struct {
	owners, sharers int
	task            types.ManagedObjectReference // the one that came last
}

// Immediate is a delay of tasks: the task has ended before the call that starts it returns. With it the number of calls that an operation takes is
// always the same.
const Immediate time.Duration = -1

// SetTaskDelay makes tasks of one method ("CloneVM_Task") take d, whatever Config.TaskDelay is. A method of "*" means all methods that have no delay
// of their own. See also [Immediate].
func (s *Sim) SetTaskDelay(method string, d time.Duration) {
	s.setMu.Lock()
	defer s.setMu.Unlock()
	s.taskDelays[method] = d
}

func (s *Sim) taskDelay(method string) time.Duration {
	s.setMu.Lock()
	defer s.setMu.Unlock()
	if d, ok := s.taskDelays[method]; ok {
		return d
	}
	if d, ok := s.taskDelays["*"]; ok {
		return d
	}
	return s.cfg.TaskDelay
}

// start makes the task of a job and runs it; it returns the reference that the call answers with. Faults of
// the job are faults of the task, as vCenter reports them.
func (s *Sim) start(ctx *simulator.Context, j job) types.ManagedObjectReference {
	tctx := s.fork(ctx)
	reg := s.registry()
	task := simulator.CreateTask(j.entity, "job", nil)
	task.Self = types.ManagedObjectReference{Type: "Task", Value: s.newValue("Task")}
	name := j.entity.Value
	if e, ok := reg.Get(j.entity).(mo.Entity); ok {
		name = s.entityName(tctx, e)
	}
	user := "vpxuser"
	if ctx.Session != nil && ctx.Session.UserName != "" {
		user = ctx.Session.UserName
	}
	task.Info = types.TaskInfo{
		Key: task.Self.Value, Task: task.Self, Name: j.method, DescriptionId: j.id,
		Entity: &j.entity, EntityName: name, State: types.TaskInfoStateQueued, Cancelable: j.cancel,
		Reason: &types.TaskReasonUser{UserName: user}, QueueTime: time.Now(),
		EventChainId: atomic.AddInt32(&s.chain, 1),
	}

	wait, cancel := context.WithCancel(s.ctx)
	s.mu.Lock()
	busy := s.enter(j, task.Self)
	if j.cancel {
		s.cancels[task.Self] = cancel
	}
	s.mu.Unlock()
	s.lock(tctx, j.entity, func() { reg.Put(task) })
	s.taskEvent(tctx, task.Info)

	run := func() {
		defer cancel()
		res, fault := s.perform(wait, tctx, task, j, busy)
		s.finish(tctx, task, res, fault)
	}
	if s.taskDelay(j.method) < 0 && j.until == nil {
		run()
	} else {
		s.tasks.Go(run)
	}
	return task.Self
}

// perform runs the job; busy is the fault that the machine's other tasks give.
func (s *Sim) perform(wait context.Context, ctx *simulator.Context, task *simulator.Task, j job, busy types.BaseMethodFault) (res types.AnyType, fault types.BaseMethodFault) {
	if busy != nil {
		s.forget(task.Self)
		return nil, busy
	}
	defer func() {
		s.mu.Lock()
		s.leave(j)
		s.mu.Unlock()
	}()
	s.update(ctx, task, []types.PropertyChange{
		{Name: "info.startTime", Val: time.Now()},
		{Name: "info.state", Val: types.TaskInfoStateRunning},
		{Name: "info.progress", Val: int32(0)},
	})
	if f := s.front.takeTaskFault(j.method); f != nil {
		s.forget(task.Self)
		return nil, f
	}
	if j.check != nil {
		if f := s.guarded(func() (types.AnyType, types.BaseMethodFault) { return nil, j.check() }, &res); f != nil {
			s.forget(task.Self)
			return nil, f
		}
	}
	if !s.pass(wait, ctx, task, s.taskDelay(j.method)) {
		s.forget(task.Self)
		return nil, new(types.RequestCanceled)
	}
	f := s.guarded(func() (types.AnyType, types.BaseMethodFault) {
		// From here on the task runs to its end: under the lock, a cancel either came before or is too late.
		if j.until == nil {
			delete(s.cancels, task.Self)
		}
		if wait.Err() != nil {
			return nil, new(types.RequestCanceled)
		}
		if j.check != nil {
			if f := j.check(); f != nil {
				return nil, f
			}
		}
		return j.work(ctx)
	}, &res)
	if f == nil && j.until != nil {
		f = s.await(wait, ctx, task, j)
	}
	if f != nil {
		return nil, f
	}
	return res, nil
}

// await waits for the condition of a job, as maintenance mode waits for the last machine to go.
func (s *Sim) await(wait context.Context, ctx *simulator.Context, task *simulator.Task, j job) types.BaseMethodFault {
	defer s.forget(task.Self)
	var over <-chan time.Time
	if j.limit > 0 {
		t := time.NewTimer(j.limit)
		defer t.Stop()
		over = t.C
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		done := false
		var none types.AnyType
		fault := s.guarded(func() (types.AnyType, types.BaseMethodFault) {
			if wait.Err() != nil {
				return nil, new(types.RequestCanceled)
			}
			if done = j.until(); done {
				delete(s.cancels, task.Self)
				j.after(ctx)
			}
			return nil, nil
		}, &none)
		if fault != nil || done {
			return fault
		}
		select {
		case <-wait.Done():
			return new(types.RequestCanceled)
		case <-over:
			return new(types.Timedout)
		case <-tick.C:
		}
	}
}

// guarded runs one step of the world. A failure in the simulator itself ends the task with a SystemError, and not the process.
func (s *Sim) guarded(f func() (types.AnyType, types.BaseMethodFault), res *types.AnyType) (fault types.BaseMethodFault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		if r := recover(); r != nil {
			fault = &types.SystemErrorFault{Reason: fmt.Sprintf("%v\n%s", r, debug.Stack())}
		}
	}()
	*res, fault = f()
	return fault
}

// pass lets d go by in ten steps of progress. It returns false if the task was cancelled meanwhile.
func (s *Sim) pass(wait context.Context, ctx *simulator.Context, task *simulator.Task, d time.Duration) bool {
	const steps = 10
	for i := range int32(steps) {
		if d <= 0 {
			break
		}
		t := time.NewTimer(d / steps)
		select {
		case <-wait.Done():
			t.Stop()
			return false
		case <-t.C:
		}
		s.update(ctx, task, []types.PropertyChange{{Name: "info.progress", Val: (i + 1) * 100 / steps * 99 / 100}})
	}
	return wait.Err() == nil
}

func (s *Sim) finish(ctx *simulator.Context, task *simulator.Task, res types.AnyType, fault types.BaseMethodFault) {
	changes := []types.PropertyChange{{Name: "info.completeTime", Val: time.Now()}}
	if fault != nil {
		if _, ok := fault.(*types.RequestCanceled); ok {
			changes = append(changes, types.PropertyChange{Name: "info.cancelled", Val: true})
		}
		changes = append(changes,
			types.PropertyChange{Name: "info.error", Val: &types.LocalizedMethodFault{Fault: fault, LocalizedMessage: faultText(fault)}},
			types.PropertyChange{Name: "info.state", Val: types.TaskInfoStateError})
	} else {
		if res != nil {
			changes = append(changes, types.PropertyChange{Name: "info.result", Val: res})
		}
		changes = append(changes,
			types.PropertyChange{Name: "info.progress", Val: int32(100)},
			types.PropertyChange{Name: "info.state", Val: types.TaskInfoStateSuccess})
	}
	s.update(ctx, task, changes)
}

func (s *Sim) forget(task types.ManagedObjectReference) {
	s.mu.Lock()
	delete(s.cancels, task)
	s.mu.Unlock()
}

// enter takes the machines of a job, or returns TaskInProgress. API reference: every VirtualMachine method that returns a Task lists TaskInProgress,
// "if the virtual machine is busy". That several clones may read one source at the same time is believed: provisioning tools do it all day.
func (s *Sim) enter(j job, task types.ManagedObjectReference) types.BaseMethodFault {
	for _, ref := range j.owns {
		if b := s.busy[ref]; b != nil && (b.owners > 0 || b.sharers > 0) {
			return &types.TaskInProgress{Task: b.task}
		}
	}
	for _, ref := range j.shares {
		if b := s.busy[ref]; b != nil && b.owners > 0 {
			return &types.TaskInProgress{Task: b.task}
		}
	}
	for _, ref := range j.owns {
		b := s.busyOf(ref)
		b.owners, b.task = b.owners+1, task
	}
	for _, ref := range j.shares {
		b := s.busyOf(ref)
		b.sharers, b.task = b.sharers+1, task
	}
	return nil
}

func (s *Sim) busyOf(ref types.ManagedObjectReference) *jobSet {
	b := s.busy[ref]
	if b == nil {
		b = new(jobSet)
		s.busy[ref] = b
	}
	return b
}

func (s *Sim) leave(j job) {
	for _, ref := range j.owns {
		s.busyOf(ref).owners--
	}
	for _, ref := range j.shares {
		s.busyOf(ref).sharers--
	}
	for _, ref := range append(append([]types.ManagedObjectReference(nil), j.owns...), j.shares...) {
		if b := s.busy[ref]; b != nil && b.owners <= 0 && b.sharers <= 0 {
			delete(s.busy, ref)
		}
	}
}

// taskFront answers the calls on tasks.
type taskFront struct{ receiver }

// CancelTask ends the work of a task before it has an effect. API reference: Task.CancelTask; InvalidState
// "if the task is already finished", NotSupported "if the task does not support being canceled".
func (f *taskFront) CancelTask(ctx *simulator.Context, req *types.CancelTask) soap.HasFault {
	body := new(methods.CancelTaskBody)
	s := f.sim
	task, ok := s.registry().Get(req.This).(*simulator.Task)
	if !ok {
		body.Fault_ = soapFault(&types.ManagedObjectNotFound{Obj: req.This})
		return body
	}
	s.mu.Lock()
	cancel := s.cancels[req.This]
	delete(s.cancels, req.This)
	if cancel != nil {
		cancel()
	}
	s.mu.Unlock()

	var info types.TaskInfo
	s.lock(ctx, task, func() { info = task.Info })
	switch {
	case cancel != nil:
		body.Res = new(types.CancelTaskResponse)
	case info.State == types.TaskInfoStateSuccess || info.State == types.TaskInfoStateError || info.Cancelable:
		body.Fault_ = soapFault(new(types.InvalidState))
	default:
		body.Fault_ = soapFault(new(types.NotSupported))
	}
	return body
}

// newValue is the value of a new reference, from the counter that govmomi's registry numbers objects with.
func (s *Sim) newValue(kind string) string {
	e := new(mo.Folder)
	e.Self.Type = kind
	return s.registry().NewEntity(e).Reference().Value
}
