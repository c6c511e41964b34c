package vspheresim

import (
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// Tasks of govmomi's own simulator.

// taskWaiter learns from the registry when a task of govmomi's own has ended.
type taskWaiter struct {
	receiver
	waiters chan map[types.ManagedObjectReference]chan struct{}
}

func newTaskWaiter(s *Sim) *taskWaiter {
	w := &taskWaiter{waiters: make(chan map[types.ManagedObjectReference]chan struct{}, 1)}
	w.bind(s, types.ManagedObjectReference{Type: "Vspheresim", Value: "vspheresim-waiter"})
	w.waiters <- map[types.ManagedObjectReference]chan struct{}{}
	s.registry().AddHandler(w)
	return w
}

func (w *taskWaiter) PutObject(*simulator.Context, mo.Reference)                    {}
func (w *taskWaiter) RemoveObject(*simulator.Context, types.ManagedObjectReference) {}

func (w *taskWaiter) UpdateObject(_ *simulator.Context, obj mo.Reference, changes []types.PropertyChange) {
	task, ok := obj.(*mo.Task)
	if !ok {
		return
	}
	for _, c := range changes {
		if c.Name != "info.state" || task.Info.State == types.TaskInfoStateRunning {
			continue
		}
		m := <-w.waiters
		if ch, ok := m[task.Self]; ok {
			close(ch)
			delete(m, task.Self)
		}
		w.waiters <- m
	}
}

// native runs a task of govmomi's simulator as a part of a job, and waits for it.
func (s *Sim) native(ctx *simulator.Context, body soap.HasFault, ref func() types.ManagedObjectReference) (types.AnyType, types.BaseMethodFault) {
	if f := body.Fault(); f != nil {
		if m, ok := f.VimFault().(types.BaseMethodFault); ok {
			return nil, m
		}
		return nil, &types.SystemErrorFault{Reason: f.String}
	}
	reg := s.registry()
	task, ok := reg.Get(ref()).(*simulator.Task)
	if !ok {
		return nil, &types.SystemErrorFault{Reason: "the task of the simulator is gone"}
	}
	done := make(chan struct{})
	m := <-s.waiter.waiters
	m[task.Self] = done
	s.waiter.waiters <- m
	var info types.TaskInfo
	// In a context of its own: the task works in ctx, and locks of one context do not exclude each other.
	apart := s.newContext()
	read := func() { s.lock(apart, task, func() { info = task.Info }) }
	read()
	if info.State != types.TaskInfoStateSuccess && info.State != types.TaskInfoStateError {
		<-done
		read()
	} else {
		m := <-s.waiter.waiters
		delete(m, task.Self)
		s.waiter.waiters <- m
	}
	s.hideNative(ctx, task.Self, *info.Entity)
	if info.Error != nil {
		return nil, info.Error.Fault
	}
	return info.Result, nil
}

// hideNative removes a task of govmomi's own from the lists of recent tasks: vCenter shows one task per call.
func (s *Sim) hideNative(ctx *simulator.Context, task, entity types.ManagedObjectReference) {
	reg := s.registry()
	drop := func(refs []types.ManagedObjectReference) []types.ManagedObjectReference {
		var out []types.ManagedObjectReference
		for _, r := range refs {
			if r != task {
				out = append(out, r)
			}
		}
		return out
	}
	if tm, ok := reg.Get(*s.content().TaskManager).(*simulator.TaskManager); ok {
		tm.Lock()
		recent := drop(tm.RecentTask)
		ctx.Update(tm, []types.PropertyChange{{Name: "recentTask", Val: recent}})
		tm.Unlock()
	}
	if e, ok := reg.Get(entity).(mo.Entity); ok {
		s.lock(ctx, entity, func() {
			ctx.Update(e, []types.PropertyChange{{Name: "recentTask", Val: drop(e.Entity().RecentTask)}})
		})
	}
	reg.Remove(ctx, task)
}

// outlast waits until a task of govmomi's own has ended, and with it the step.
func (s *Sim) outlast(self types.ManagedObjectReference) {
	task, ok := s.registry().Get(self).(*simulator.Task)
	if !ok {
		return
	}
	ctx := s.newContext()
	for over := false; !over && s.ctx.Err() == nil; {
		s.lock(ctx, task, func() {
			over = task.Info.State == types.TaskInfoStateSuccess || task.Info.State == types.TaskInfoStateError
		})
		if !over {
			time.Sleep(time.Millisecond)
		}
	}
}
