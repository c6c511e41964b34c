package vspheresim

import (
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	poweredOn  = types.VirtualMachinePowerStatePoweredOn
	poweredOff = types.VirtualMachinePowerStatePoweredOff
	suspended  = types.VirtualMachinePowerStateSuspended
)

// vmFront answers the calls on machines.
type vmFront struct{ receiver }

func wrongPower(vm *simulator.VirtualMachine, want types.VirtualMachinePowerState) types.BaseMethodFault {
	return &types.InvalidPowerState{RequestedState: want, ExistingState: vm.Runtime.PowerState}
}

// live checks that a machine still exists and is on a host that answers.
func (s *Sim) live(r ref) (*simulator.VirtualMachine, types.BaseMethodFault) {
	vm := s.vm(r)
	if vm == nil {
		return nil, &types.ManagedObjectNotFound{Obj: r}
	}
	if lostVM(vm) {
		// API reference: VirtualMachineConnectionState. That all operations are refused with InvalidState is believed.
		return vm, new(types.InvalidState)
	}
	if h := s.host(*vm.Runtime.Host); h == nil || h.Runtime.ConnectionState != types.HostSystemConnectionStateConnected {
		return vm, new(types.HostNotConnected)
	}
	return vm, nil
}

// vmJob is a job with exclusive use of one machine.
func (s *Sim) vmJob(method, id string, r ref, cancel bool, check func(vm *simulator.VirtualMachine) types.BaseMethodFault,
	work func(ctx *simulator.Context, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault)) job {
	return job{
		method: method, id: "VirtualMachine." + id, entity: r, owns: []ref{r}, cancel: cancel,
		check: func() types.BaseMethodFault {
			vm, f := s.live(r)
			if f != nil || check == nil {
				return f
			}
			return check(vm)
		},
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) { return work(ctx, s.vm(r)) },
	}
}

// PowerOnVMTask refuses what the API reference lists for VirtualMachine.PowerOnVM_Task: NotSupported "if the
// virtual machine is marked as a template", InvalidPowerState, InvalidState for a host in maintenance mode,
// and the admission faults of admit.
func (f *vmFront) PowerOnVMTask(ctx *simulator.Context, req *types.PowerOnVM_Task) soap.HasFault {
	s := f.sim
	var at *simulator.HostSystem
	return &methods.PowerOnVM_TaskBody{Res: &types.PowerOnVM_TaskResponse{Returnval: s.start(ctx,
		s.vmJob("PowerOnVM_Task", "powerOn", req.This, true,
			func(vm *simulator.VirtualMachine) types.BaseMethodFault {
				if vm.Config.Template {
					return new(types.NotSupported)
				}
				if vm.Runtime.PowerState == poweredOn {
					return wrongPower(vm, poweredOn)
				}
				var fault types.BaseMethodFault
				at, fault = s.initialHost(vm, req.Host)
				return fault
			},
			func(ctx *simulator.Context, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
				if at.Self != *vm.Runtime.Host {
					s.moveHost(ctx, vm, at.Self)
				}
				s.powerOn(ctx, vm)
				return nil, nil
			}))}}
}

// initialHost returns the host on which a machine is powered on: the requested one, its own, or, where DRS is on and its own has no room, the one
// with the most. API reference: VirtualMachine.PowerOnVM_Task, "If the virtual machine is in a cluster with DRS enabled … DRS may move it to another
// host"; ClusterDrsConfigInfo.defaultVmBehavior, initial placement is automatic unless the behavior is manual.
func (s *Sim) initialHost(vm *simulator.VirtualMachine, want *ref) (*simulator.HostSystem, types.BaseMethodFault) {
	own := s.host(*vm.Runtime.Host)
	if want != nil {
		h := s.host(*want)
		if h.Self != own.Self {
			m, fault := s.planMove(vm, &types.VirtualMachineRelocateSpec{Host: want})
			if fault == nil {
				fault = s.checkMove(vm, m).first()
			}
			if fault != nil {
				return h, fault
			}
		}
		return h, s.admit(vm, vm.Config, h)
	}
	fault := s.admit(vm, vm.Config, own)
	if _, short := fault.(types.BaseInsufficientResourcesFault); !short {
		return own, fault
	}
	c := s.cluster(*own.Parent)
	if c == nil {
		return own, fault
	}
	if behavior, on := s.drs(c); !on || behavior == types.DrsBehaviorManual {
		return own, fault
	}
	var best *simulator.HostSystem
	for _, r := range c.Host {
		if h := s.host(r); h != nil && r != own.Self && s.fits(vm, h) && (best == nil || s.load(h) < s.load(best)) {
			best = h
		}
	}
	if best == nil {
		return own, fault
	}
	return best, nil
}

func (f *vmFront) PowerOffVMTask(ctx *simulator.Context, req *types.PowerOffVM_Task) soap.HasFault {
	s := f.sim
	return &methods.PowerOffVM_TaskBody{Res: &types.PowerOffVM_TaskResponse{Returnval: s.start(ctx,
		s.vmJob("PowerOffVM_Task", "powerOff", req.This, false,
			func(vm *simulator.VirtualMachine) types.BaseMethodFault {
				if vm.Runtime.PowerState == poweredOff {
					return wrongPower(vm, poweredOff)
				}
				return nil
			},
			func(ctx *simulator.Context, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
				s.powerOff(ctx, vm)
				return nil, nil
			}))}}
}

// SuspendVMTask refuses a machine with a passed-through device: vSphere's documentation of DirectPath I/O lists suspend and resume among the features
// that such a machine lacks. The type of the fault is believed.
func (f *vmFront) SuspendVMTask(ctx *simulator.Context, req *types.SuspendVM_Task) soap.HasFault {
	s := f.sim
	return &methods.SuspendVM_TaskBody{Res: &types.SuspendVM_TaskResponse{Returnval: s.start(ctx,
		s.vmJob("SuspendVM_Task", "suspend", req.This, false,
			func(vm *simulator.VirtualMachine) types.BaseMethodFault {
				if vm.Runtime.PowerState != poweredOn {
					return wrongPower(vm, poweredOn)
				}
				if d := firstPassthrough(vm.Config); d != nil {
					return deviceNotSupported(d)
				}
				return nil
			},
			func(ctx *simulator.Context, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
				s.suspend(ctx, vm)
				return nil, nil
			}))}}
}

func (f *vmFront) ResetVMTask(ctx *simulator.Context, req *types.ResetVM_Task) soap.HasFault {
	s := f.sim
	return &methods.ResetVM_TaskBody{Res: &types.ResetVM_TaskResponse{Returnval: s.start(ctx,
		s.vmJob("ResetVM_Task", "reset", req.This, false,
			func(vm *simulator.VirtualMachine) types.BaseMethodFault {
				if vm.Runtime.PowerState != poweredOn {
					return wrongPower(vm, poweredOn)
				}
				return nil
			},
			func(ctx *simulator.Context, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
				s.event(ctx, vm, func(e types.VmEvent) types.BaseEvent { return &types.VmResettingEvent{VmEvent: e} })
				s.setPower(ctx, vm, poweredOn, types.NewTime(time.Now()))
				return nil, nil
			}))}}
}

// TerminateVM ends the process of a machine at once. API reference: VirtualMachine.TerminateVM, InvalidPowerState
// "if the virtual machine is not powered on"; TaskInProgress is not among its faults: it is meant for a machine
// that hangs.
func (f *vmFront) TerminateVM(ctx *simulator.Context, req *types.TerminateVM) soap.HasFault {
	s, body := f.sim, new(methods.TerminateVMBody)
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, fault := s.live(req.This)
	if fault == nil && vm.Runtime.PowerState != poweredOn {
		fault = wrongPower(vm, poweredOn)
	}
	if fault != nil {
		body.Fault_ = soapFault(fault)
		return body
	}
	s.powerOff(s.fork(ctx), vm)
	body.Res = new(types.TerminateVMResponse)
	return body
}

func (s *Sim) powerOn(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	s.event(ctx, vm, func(e types.VmEvent) types.BaseEvent { return &types.VmStartingEvent{VmEvent: e} })
	s.setPower(ctx, vm, poweredOn, types.NewTime(time.Now()))
	s.event(ctx, vm, func(e types.VmEvent) types.BaseEvent { return &types.VmPoweredOnEvent{VmEvent: e} })
	s.applyCustomization(ctx, vm)
}

func (s *Sim) powerOff(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	s.event(ctx, vm, func(e types.VmEvent) types.BaseEvent { return &types.VmStoppingEvent{VmEvent: e} })
	s.setPower(ctx, vm, poweredOff, nil)
	s.event(ctx, vm, func(e types.VmEvent) types.BaseEvent { return &types.VmPoweredOffEvent{VmEvent: e} })
}

func (s *Sim) suspend(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	s.event(ctx, vm, func(e types.VmEvent) types.BaseEvent { return &types.VmSuspendingEvent{VmEvent: e} })
	s.setPower(ctx, vm, suspended, nil)
	s.event(ctx, vm, func(e types.VmEvent) types.BaseEvent { return &types.VmSuspendedEvent{VmEvent: e} })
}

// setPower changes the power state and everything that follows from it. boot is nil for a machine that does not run.
func (s *Sim) setPower(ctx *simulator.Context, vm *simulator.VirtualMachine, state types.VirtualMachinePowerState, boot *time.Time) {
	s.mutate(ctx, vm, func() { s.applyPower(vm, state, boot) })
	s.showDevices(ctx, vm)
}

// applyPower is like setPower, for a caller that holds the lock of the machine.
func (s *Sim) applyPower(vm *simulator.VirtualMachine, state types.VirtualMachinePowerState, boot *time.Time) {
	on := state == poweredOn
	s.stateOf(vm.Self).settleMemory(vm.Runtime.PowerState, state)
	vm.Runtime.PowerState, vm.Runtime.BootTime = state, boot
	vm.Runtime.SuspendTime = nil
	if state == suspended {
		vm.Runtime.SuspendTime = types.NewTime(time.Now())
	}
	clean := state == poweredOff
	vm.Runtime.CleanPowerOff = &clean
	vm.Runtime.MaxCpuUsage, vm.Runtime.MaxMemoryUsage = 0, 0
	q := &vm.Summary.QuickStats
	q.OverallCpuUsage, q.HostMemoryUsage, q.GuestMemoryUsage, q.UptimeSeconds = 0, 0, 0, 0
	if on {
		vm.Runtime.MaxCpuUsage = hostCPUMHz * vm.Config.Hardware.NumCPU
		vm.Runtime.MaxMemoryUsage = vm.Config.Hardware.MemoryMB
		q.OverallCpuUsage, q.HostMemoryUsage = 26, vm.Config.Hardware.MemoryMB
		q.GuestMemoryUsage = vm.Config.Hardware.MemoryMB / 10
	}
	devices := clone(vm.Config.Hardware.Device)
	for _, d := range devices {
		if c := d.GetVirtualDevice().Connectable; c != nil {
			c.Connected = on && c.StartConnected
		}
	}
	for _, d := range disksOf(devices) {
		// A running guest writes, so from now on the disk's content differs from before.
		if b := fileBacking(d); b != nil && on {
			b.ContentId = newContentID()
		}
	}
	vm.Config.Hardware.Device = devices
	s.applyGuest(vm)
	s.derive(&vm.VirtualMachine)
}
