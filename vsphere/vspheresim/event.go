package vspheresim

import (
	"reflect"
	"strconv"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

func itoa(n int) string { return strconv.Itoa(n) }

// post gives events to the event manager, which keys and dates them.
func (s *Sim) post(ctx *simulator.Context, events ...types.BaseEvent) {
	m := s.registry().EventManager()
	s.lock(ctx, m, func() {
		for _, e := range events {
			e.GetEvent().FullFormattedMessage = reflect.TypeOf(e).Elem().Name() // for a kind that has no text
			m.PostEvent(ctx, &types.PostEvent{EventToPost: e})
		}
	})
}

// vmEvent is the part that all events of a machine have.
func (s *Sim) vmEvent(vm *simulator.VirtualMachine) types.VmEvent {
	e := types.Event{Vm: &types.VmEventArgument{EntityEventArgument: types.EntityEventArgument{Name: vm.Name}, Vm: vm.Self}}
	if dc := s.datacenterOf(vm); dc != nil {
		e.Datacenter = &types.DatacenterEventArgument{EntityEventArgument: types.EntityEventArgument{Name: dc.Name}, Datacenter: dc.Self}
	}
	if vm.Runtime.Host != nil {
		e.Host = s.hostArgument(*vm.Runtime.Host)
		if c := s.computeOfHost(s.host(*vm.Runtime.Host)); c != nil {
			e.ComputeResource = &types.ComputeResourceEventArgument{EntityEventArgument: types.EntityEventArgument{Name: c.Name}, ComputeResource: c.Self}
		}
	}
	if len(vm.Datastore) > 0 {
		e.Ds = s.datastoreArgument(vm.Datastore[0])
	}
	return types.VmEvent{Event: e, Template: vm.Config != nil && vm.Config.Template}
}

func (s *Sim) hostArgument(r ref) *types.HostEventArgument {
	h := s.host(r)
	if h == nil {
		return nil
	}
	return &types.HostEventArgument{EntityEventArgument: types.EntityEventArgument{Name: h.Name}, Host: r}
}

func (s *Sim) datastoreArgument(r ref) *types.DatastoreEventArgument {
	d := s.datastore(r)
	if d == nil {
		return nil
	}
	return &types.DatastoreEventArgument{EntityEventArgument: types.EntityEventArgument{Name: d.Name}, Datastore: r}
}

func (s *Sim) event(ctx *simulator.Context, vm *simulator.VirtualMachine, build func(types.VmEvent) types.BaseEvent) {
	var e types.VmEvent
	s.lock(ctx, vm, func() { e = s.vmEvent(vm) })
	s.post(ctx, build(e))
}

// taskEvent posts the event that a task was made. API reference: TaskEvent, "This event records the creation of a Task"; for operations without an
// event of their own, such as snapshots, it is the only one.
func (s *Sim) taskEvent(ctx *simulator.Context, info types.TaskInfo) {
	e := &types.TaskEvent{Info: info}
	if info.Entity != nil {
		if vm := s.vm(*info.Entity); vm != nil {
			s.lock(ctx, vm, func() { e.Event = s.vmEvent(vm).Event })
		} else if h := s.hostArgument(*info.Entity); h != nil {
			e.Host = h
		}
	}
	s.post(ctx, e)
}
