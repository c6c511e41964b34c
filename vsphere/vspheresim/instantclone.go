package vspheresim

import (
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// InstantCloneTask: API reference VirtualMachine.InstantClone_Task, "Creates a powered-on Instant Clone of a virtual machine. The new virtual
// machine will be created with the same virtual devices as the source"; InvalidState, DuplicateName, DisallowedMigrationDeviceAttached (believed)
// for a passed-through device.
func (f *vmFront) InstantCloneTask(ctx *simulator.Context, req *types.InstantClone_Task) soap.HasFault {
	s := f.sim
	if s.cfg.Model == ESXi {
		return &methods.InstantClone_TaskBody{Fault_: soapFault(new(types.NotSupported))}
	}
	var at place
	return &methods.InstantClone_TaskBody{Res: &types.InstantClone_TaskResponse{Returnval: s.start(ctx, job{
		method: "InstantClone_Task", id: "VirtualMachine.instantClone", entity: req.This, owns: []ref{req.This}, cancel: true,
		check: func() (fault types.BaseMethodFault) {
			at, fault = s.planInstant(req.This, &req.Spec)
			return fault
		},
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			return s.instantClone(ctx, req, at)
		},
	})}}
}

func (s *Sim) planInstant(r ref, spec *types.VirtualMachineInstantCloneSpec) (place, types.BaseMethodFault) {
	vm, fault := s.live(r)
	if fault != nil {
		return place{}, fault
	}
	if vm.Runtime.PowerState != poweredOn {
		return place{}, wrongPower(vm, poweredOn)
	}
	if d := firstPassthrough(vm.Config); d != nil {
		return place{}, &types.DisallowedMigrationDeviceAttached{Fault: types.LocalizedMethodFault{Fault: deviceNotSupported(d)}}
	}
	l := &spec.Location
	at, fault := s.choose(s.placeOf(vm), l.Folder, l.Pool, l.Host, l.Datastore, vm.Config)
	if fault != nil {
		return at, fault
	}
	if fault := s.checkName(spec.Name, at.folder, ref{}); fault != nil {
		return at, fault
	}
	for i, o := range spec.Config {
		if o == nil || !settable(o.GetOptionValue()) {
			return at, invalid("spec.config[" + itoa(i) + "]")
		}
	}
	h := s.host(at.host)
	if fault := s.checkDevices(l.DeviceChange, vm.Config.Hardware.Device, poweredOn, h, vm.Self); fault != nil {
		return at, fault
	}
	mem, _ := s.reserved(h, nil)
	if want, have := memoryReservation(vm.Config), h.Summary.Hardware.MemorySize>>20-mem; want > have {
		return at, &types.InsufficientMemoryResourcesFault{Unreserved: have << 20, Requested: want << 20}
	}
	return at, nil
}

func (s *Sim) instantClone(ctx *simulator.Context, req *types.InstantClone_Task, at place) (types.AnyType, types.BaseMethodFault) {
	vm := s.vm(req.This)
	c := clone(*vm.Config)
	c.Hardware.Device = s.freeze(ctx, vm)
	m := s.copyOf(vm, &c, escapeName(req.Spec.Name), at)
	if req.Spec.BiosUuid != "" {
		m.Config.Uuid = req.Spec.BiosUuid
	}
	s.cloneDisks(m, &clonePlan{source: vm, at: at}, &types.VirtualMachineCloneSpec{Location: types.VirtualMachineRelocateSpec{DiskMoveType: diskMoveChild}})
	n := s.insert(ctx, m, at, true)
	s.inherit(n, vm)
	s.setPower(ctx, n, poweredOn, types.NewTime(time.Now()))
	s.stateOf(n.Self).memory = s.stateOf(vm.Self).memory
	spec := &types.VirtualMachineConfigSpec{ExtraConfig: req.Spec.Config, DeviceChange: clone(req.Spec.Location.DeviceChange)}
	if len(spec.ExtraConfig)+len(spec.DeviceChange) > 0 {
		if fault := s.reconfigure(ctx, n, spec); fault != nil {
			s.powerOff(ctx, n)
			s.destroy(ctx, n)
			return nil, fault
		}
	}
	s.touchFiles(&n.VirtualMachine)
	s.event(ctx, n, func(e types.VmEvent) types.BaseEvent {
		return &types.VmClonedEvent{VmCloneEvent: types.VmCloneEvent{VmEvent: e}, SourceVm: types.VmEventArgument{
			Vm: vm.Self, EntityEventArgument: types.EntityEventArgument{Name: vm.Name}}}
	})
	return n.Self, nil
}
