package vspheresim

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// CustomizeVMTask: API reference VirtualMachine.CustomizeVM_Task; InvalidPowerState, CustomizationFault with NicSettingMismatch and
// CustomizationPending. It takes effect at the next power-on.
func (f *vmFront) CustomizeVMTask(ctx *simulator.Context, req *types.CustomizeVM_Task) soap.HasFault {
	s := f.sim
	if s.cfg.Model == ESXi {
		return &methods.CustomizeVM_TaskBody{Fault_: soapFault(new(types.NotSupported))}
	}
	return &methods.CustomizeVM_TaskBody{Res: &types.CustomizeVM_TaskResponse{Returnval: s.start(ctx,
		s.vmJob("CustomizeVM_Task", "customize", req.This, false,
			func(vm *simulator.VirtualMachine) types.BaseMethodFault {
				switch {
				case vm.Config.Template:
					return new(types.NotSupported)
				case vm.Runtime.PowerState != poweredOff:
					return wrongPower(vm, poweredOff)
				case s.stateOf(vm.Self).customize != nil:
					return new(types.CustomizationPending)
				}
				return checkCustomization(&req.Spec, vm.Config)
			},
			func(ctx *simulator.Context, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
				s.setCustomization(ctx, vm, &req.Spec)
				return nil, nil
			}))}}
}

func checkCustomization(spec *types.CustomizationSpec, c *types.VirtualMachineConfigInfo) types.BaseMethodFault {
	nics := 0
	for _, d := range c.Hardware.Device {
		if _, ok := d.(types.BaseVirtualEthernetCard); ok {
			nics++
		}
	}
	if len(spec.NicSettingMap) != nics {
		return &types.NicSettingMismatch{NumberOfNicsInSpec: int32(len(spec.NicSettingMap)), NumberOfNicsInVM: int32(nics)}
	}
	if spec.Identity == nil {
		return invalid("spec.identity")
	}
	return nil
}

func (s *Sim) setCustomization(ctx *simulator.Context, vm *simulator.VirtualMachine, spec *types.CustomizationSpec) {
	c := clone(*spec)
	s.stateOf(vm.Self).customize = &c
	s.mutate(ctx, vm, func() {
		t := types.ToolsConfigInfo{}
		if vm.Config.Tools != nil {
			t = clone(*vm.Config.Tools)
		}
		t.PendingCustomization = "imcf-" + vm.Config.Uuid
		vm.Config.Tools = &t
	})
}

// applyCustomization applies a pending customization at the next power-on: host name and addresses.
func (s *Sim) applyCustomization(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	st := s.stateOf(vm.Self)
	spec := st.customize
	if spec == nil {
		return
	}
	st.customize, st.told = nil, spec
	base := func(e types.VmEvent) types.CustomizationEvent { return types.CustomizationEvent{VmEvent: e} }
	s.event(ctx, vm, func(e types.VmEvent) types.BaseEvent {
		return &types.CustomizationStartedEvent{CustomizationEvent: base(e)}
	})
	var name types.BaseCustomizationName
	switch id := spec.Identity.(type) {
	case *types.CustomizationLinuxPrep:
		name = id.HostName
	case *types.CustomizationSysprep:
		name = id.UserData.ComputerName
	}
	switch n := name.(type) {
	case *types.CustomizationFixedName:
		st.customized.hostName = n.Name
	case *types.CustomizationPrefixName:
		st.customized.hostName = n.Base + "-1"
	case *types.CustomizationVirtualMachineName:
		st.customized.hostName = vm.Config.Name
	}
	st.customized.ip = ""
	s.mutate(ctx, vm, func() {
		t := clone(*vm.Config.Tools)
		t.PendingCustomization = ""
		vm.Config.Tools = &t
		for i, n := range spec.NicSettingMap {
			ip, ok := n.Adapter.Ip.(*types.CustomizationFixedIp)
			if !ok {
				continue
			}
			if st.customized.ip == "" {
				st.customized.ip = ip.IpAddress
			}
			if i < len(vm.Guest.Net) {
				vm.Guest.Net[i].IpAddress = []string{ip.IpAddress}
			}
		}
		// Without Tools nobody could have reported this; govmomi's simulator shows it all the same, and so do tests that rely on it.
		s.applyGuest(vm)
		if vm.Guest.HostName == "" {
			vm.Guest.HostName, vm.Guest.IpAddress = st.customized.hostName, st.customized.ip
		}
		s.derive(&vm.VirtualMachine)
	})
	s.event(ctx, vm, func(e types.VmEvent) types.BaseEvent {
		return &types.CustomizationSucceeded{CustomizationEvent: base(e)}
	})
}
