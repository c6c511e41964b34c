package vspheresim

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

type moVM = mo.VirtualMachine

// MarkAsTemplate: API reference VirtualMachine.MarkAsTemplate; InvalidPowerState "if the virtual machine is not powered off", NotSupported "if
// marking a virtual machine as a template is not supported". Unlike govmomi's simulator it reports the change to those who watch config.template.
func (f *vmFront) MarkAsTemplate(ctx *simulator.Context, req *types.MarkAsTemplate) soap.HasFault {
	s, body := f.sim, new(methods.MarkAsTemplateBody)
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, fault := s.live(req.This)
	switch {
	case fault != nil:
	case s.cfg.Model == ESXi || vm.Config.Template:
		fault = new(types.NotSupported)
	case vm.Runtime.PowerState != poweredOff:
		fault = wrongPower(vm, poweredOff)
	case s.busy[vm.Self] != nil:
		fault = &types.TaskInProgress{Task: s.busy[vm.Self].task}
	}
	if fault != nil {
		body.Fault_ = soapFault(fault)
		return body
	}
	s.markTemplate(s.fork(ctx), vm)
	body.Res = new(types.MarkAsTemplateResponse)
	return body
}

func (s *Sim) markTemplate(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	pool := vm.ResourcePool
	s.mutate(ctx, vm, func() {
		vm.Config.Template = true
		versioned(vm)
		vm.ResourcePool = nil
		s.derive(&vm.VirtualMachine)
	})
	if pool != nil {
		if obj, list := s.poolVMs(*pool); obj != nil {
			s.setList(ctx, obj, "vm", without(*list, vm.Self))
		}
	}
}

// MarkAsVirtualMachine: API reference VirtualMachine.MarkAsVirtualMachine; pool is required, InvalidDatastore, VmConfigFault.
func (f *vmFront) MarkAsVirtualMachine(ctx *simulator.Context, req *types.MarkAsVirtualMachine) soap.HasFault {
	s, body := f.sim, new(methods.MarkAsVirtualMachineBody)
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, fault := s.live(req.This)
	var at place
	switch {
	case fault != nil:
	case !vm.Config.Template:
		fault = new(types.NotSupported)
	case s.busy[vm.Self] != nil:
		fault = &types.TaskInProgress{Task: s.busy[vm.Self].task}
	default:
		at, fault = s.choose(s.placeOf(vm), nil, &req.Pool, req.Host, nil, vm.Config)
	}
	if fault != nil {
		body.Fault_ = soapFault(fault)
		return body
	}
	fctx := s.fork(ctx)
	s.mutate(fctx, vm, func() {
		vm.Config.Template = false
		versioned(vm)
		vm.ResourcePool = &req.Pool
		s.derive(&vm.VirtualMachine)
	})
	if obj, list := s.poolVMs(req.Pool); obj != nil {
		s.setList(fctx, obj, "vm", append(without(*list, vm.Self), vm.Self))
	}
	s.moveHost(fctx, vm, at.host)
	body.Res = new(types.MarkAsVirtualMachineResponse)
	return body
}

// moveHost makes a machine run on another host.
func (s *Sim) moveHost(ctx *simulator.Context, vm *simulator.VirtualMachine, to ref) {
	from := *vm.Runtime.Host
	if from == to {
		return
	}
	if h := s.host(from); h != nil {
		s.setList(ctx, h, "vm", without(h.Vm, vm.Self))
		if needsHostDevice(vm.Config) && len(h.Config.GraphicsInfo) > 0 {
			s.mutate(ctx, h, func() {
				info := clone(h.Config.GraphicsInfo)
				for i := range info {
					info[i].Vm = without(info[i].Vm, vm.Self)
				}
				h.Config.GraphicsInfo = info
			})
		}
	}
	if h := s.host(to); h != nil {
		s.setList(ctx, h, "vm", append(without(h.Vm, vm.Self), vm.Self))
	}
	s.mutate(ctx, vm, func() {
		vm.Runtime.Host = &to
		if c := s.computeOfHost(s.host(to)); c != nil && c.EnvironmentBrowser != nil {
			vm.EnvironmentBrowser = *c.EnvironmentBrowser
		}
		s.derive(&vm.VirtualMachine)
	})
	s.showDevices(ctx, vm)
}
