package vspheresim

import (
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// Checks of configurations. govmomi's simulator accepts 100,000 CPUs and -5 MB of memory.

func invalid(property string) types.BaseMethodFault {
	return &types.InvalidArgument{InvalidProperty: property}
}

func isTrue(b *bool) bool { return b != nil && *b }

// maxNameLength is the length of a name. Source: API reference, InvalidName "if the name is invalid", and
// VirtualMachineConfigSpec.name, "display name … up to 80 characters".
const maxNameLength = 80

// checkName checks the name of a machine in a folder. API reference: Folder.CreateVM_Task, DuplicateName "if another virtual
// machine in the same folder already has the specified target name", InvalidName.
func (s *Sim) checkName(name string, folder ref, self ref) types.BaseMethodFault {
	if name == "" || len(name) > maxNameLength {
		return &types.InvalidName{Name: name}
	}
	f := s.folder(folder)
	if f == nil {
		return nil // a machine in a vApp
	}
	name = escapeName(name)
	for _, r := range f.ChildEntity {
		if vm := s.vm(r); vm != nil && r != self && vm.Name == name {
			return &types.DuplicateName{Name: name, Object: r}
		}
	}
	return nil
}

// checkSpec checks the new configuration of a machine. cur is its present one, nil for a machine to be made; state is its
// power state.
func (s *Sim) checkSpec(spec *types.VirtualMachineConfigSpec, cur *types.VirtualMachineConfigInfo,
	state types.VirtualMachinePowerState, h *simulator.HostSystem) types.BaseMethodFault {
	cpus, memory := spec.NumCPUs, spec.MemoryMB
	switch {
	case cpus < 0 || cpus > maxVMCPUs || cpus > h.Capability.MaxSupportedVcpus:
		return invalid("configSpec.numCPUs")
	case memory < 0 || memory%4 != 0 || memory > maxVMMemoryMB:
		return invalid("configSpec.memoryMB") // API reference: VirtualMachineConfigSpec.memoryMB; multiples of 4 (VirtualHardwareOption.memoryMB)
	case spec.GuestId != "" && !slices.Contains(types.VirtualMachineGuestOsIdentifier("").Strings(), spec.GuestId):
		return invalid("configSpec.guestId")
	case len(spec.Name) > maxNameLength:
		return &types.InvalidName{Name: spec.Name}
	}
	if spec.Version != "" {
		if v, err := types.ParseHardwareVersion(spec.Version); err != nil || !v.IsValid() {
			return new(types.NotSupported)
		}
	}
	size := memory
	if cur != nil {
		if cpus == 0 {
			cpus = cur.Hardware.NumCPU
		}
		if size == 0 {
			size = int64(cur.Hardware.MemoryMB)
		}
		// API reference: VirtualMachineConfigSpec.changeVersion, ConcurrentAccess "if the configuration was changed by someone else".
		if spec.ChangeVersion != "" && spec.ChangeVersion != cur.ChangeVersion {
			return new(types.ConcurrentAccess)
		}
	}
	if n := spec.NumCoresPerSocket; n != nil && (*n < 0 || *n > 0 && cpus > 0 && cpus%*n != 0) {
		return invalid("configSpec.numCoresPerSocket")
	}
	if f := checkAllocation("configSpec.cpuAllocation", spec.CpuAllocation, 0); f != nil {
		return f
	}
	if f := checkAllocation("configSpec.memoryAllocation", spec.MemoryAllocation, size); f != nil {
		return f
	}
	for i, o := range spec.ExtraConfig {
		if o == nil || !settable(o.GetOptionValue()) {
			return invalid("configSpec.extraConfig[" + itoa(i) + "]")
		}
	}
	if v := spec.VAppConfig; v != nil {
		for _, p := range v.GetVmConfigSpec().Property {
			if p.Info == nil {
				return invalid("configSpec.vAppConfig.property")
			}
		}
		for _, p := range v.GetVmConfigSpec().Product {
			if p.Info == nil {
				return invalid("configSpec.vAppConfig.product")
			}
		}
	}
	if cur != nil && state != poweredOff {
		return checkHot(spec, cur, state)
	}
	return nil
}

// checkAllocation checks a reservation. API reference: ResourceAllocationInfo.reservation; InvalidArgument. size is the largest
// reservation that makes sense, zero if there is none.
func checkAllocation(property string, a *types.ResourceAllocationInfo, size int64) types.BaseMethodFault {
	if a == nil {
		return nil
	}
	if r := a.Reservation; r != nil {
		if *r < 0 || size > 0 && *r > size {
			return invalid(property + ".reservation")
		}
		if l := a.Limit; l != nil && *l >= 0 && *r > *l {
			return invalid(property + ".reservation")
		}
	}
	if l := a.Limit; l != nil && *l < -1 {
		return invalid(property + ".limit")
	}
	if sh := a.Shares; sh != nil && sh.Level == types.SharesLevelCustom && sh.Shares < 0 {
		return invalid(property + ".shares")
	}
	return nil
}

// settable refuses options on which govmomi's simulator would crash: it accepts SET.<property> for any property.
func settable(o *types.OptionValue) bool {
	path, ok := strings.CutPrefix(o.Key, "SET.")
	if !ok {
		return o.Key != ""
	}
	switch path {
	case "guest.ipAddress", "guest.hostName", "guest.toolsStatus", "guest.toolsRunningStatus", "guest.toolsVersionStatus2",
		"guest.guestState", "guest.guestId", "guest.guestFullName", "guest.guestFamily", "guest.toolsVersion":
		_, text := o.Value.(string)
		return text
	}
	return false
}

// checkHot checks a change of a machine that runs or is suspended. API reference: VirtualMachineConfigInfo.cpuHotAddEnabled "can be changed
// only when the virtual machine is powered off", CpuHotPlugNotSupported "if the virtual machine does not support the
// hot plug of CPUs", MemoryHotPlugNotSupported the same for memory; InvalidPowerState "if the power state is not
// poweredOff and the virtual hardware cannot support the configuration changes".
func checkHot(spec *types.VirtualMachineConfigSpec, cur *types.VirtualMachineConfigInfo, state types.VirtualMachinePowerState) types.BaseMethodFault {
	cold := &types.InvalidPowerState{RequestedState: poweredOff, ExistingState: state}
	if n := spec.NumCPUs; n != 0 && n != cur.Hardware.NumCPU {
		switch {
		case state == suspended:
			return cold
		case n > cur.Hardware.NumCPU && !isTrue(cur.CpuHotAddEnabled), n < cur.Hardware.NumCPU && !isTrue(cur.CpuHotRemoveEnabled):
			return new(types.CpuHotPlugNotSupported)
		}
	}
	if n := spec.MemoryMB; n != 0 && n != int64(cur.Hardware.MemoryMB) {
		switch {
		case state == suspended:
			return cold
		case n < int64(cur.Hardware.MemoryMB) || !isTrue(cur.MemoryHotAddEnabled):
			return new(types.MemoryHotPlugNotSupported)
		}
	}
	changes := func(want, have *bool) bool { return want != nil && *want != isTrue(have) }
	switch {
	case changes(spec.CpuHotAddEnabled, cur.CpuHotAddEnabled), changes(spec.CpuHotRemoveEnabled, cur.CpuHotRemoveEnabled),
		changes(spec.MemoryHotAddEnabled, cur.MemoryHotAddEnabled), changes(spec.NestedHVEnabled, cur.NestedHVEnabled),
		spec.Firmware != "" && spec.Firmware != cur.Firmware,
		spec.Version != "" && spec.Version != cur.Version,
		spec.NumCoresPerSocket != nil && *spec.NumCoresPerSocket != 0 && cur.Hardware.NumCoresPerSocket != nil && *spec.NumCoresPerSocket != *cur.Hardware.NumCoresPerSocket:
		return cold
	}
	return nil
}
