package vsphere

import (
	"context"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

const (
	dynamicIsReservation = "vSphere balloons between a machine's reservation and its configured size: DynamicMemory.MaxBytes must be the memory's size"
	hotAddOff            = "hot add is off for this machine: it is chosen while the machine is off, by MaxCPUs or MaxMemoryBytes"
	noNextStart          = "vSphere keeps no changes for the next start: shut the machine down first"
)

// allocation reserves the minimum and limits to the maximum of the memory.
// ESXi balloons between them (vSphere Resource Management, memory
// allocation).
func allocation(r hypervisor.MemoryRange) *types.ResourceAllocationInfo {
	return &types.ResourceAllocationInfo{Reservation: types.NewInt64(r.MinBytes / hypervisor.MiB), Limit: types.NewInt64(r.MaxBytes / hypervisor.MiB)}
}

// Reconfigure takes one ReconfigVM_Task, so it applies all changes or none.
func (d *driver) Reconfigure(ctx context.Context, id hypervisor.VMID, ch hypervisor.Changes) (hypervisor.DriverTask, error) {
	p, err := d.one(ctx, vmRef(id), "runtime.powerState", "summary.config.template", "config.hardware.numCPU", "config.hardware.memoryMB",
		"config.cpuHotAddEnabled", "config.memoryHotAddEnabled", "config.cpuHotRemoveEnabled", "config.memoryAllocation")
	if err != nil {
		return nil, err
	}
	on := get[types.VirtualMachinePowerState](p, "runtime.powerState") != types.VirtualMachinePowerStatePoweredOff
	cpus, memory := int(get[int32](p, "config.hardware.numCPU")), int64(get[int32](p, "config.hardware.memoryMB"))*hypervisor.MiB
	if ch.CPUs > 0 {
		cpus = ch.CPUs
	}
	spec := types.VirtualMachineConfigSpec{Name: escape(ch.Name)}
	if ch.Description != nil {
		spec.Annotation = *ch.Description
		if spec.Annotation == "" {
			// An empty element of the specification means no change.
			// vSphere's own client sends blanks.
			spec.Annotation = " "
		}
	}
	refuse := func(k capability.Name, reason hypervisor.ReasonCode, detail string) (hypervisor.DriverTask, error) {
		if ch.NextStart {
			reason, detail = hypervisor.ReasonPlatform, noNextStart
		}
		return nil, hypervisor.Unsupported(id.Ref(), k, reason, detail)
	}
	if ch.CPUs > 0 && ch.CPUs != int(get[int32](p, "config.hardware.numCPU")) {
		less := ch.CPUs < int(get[int32](p, "config.hardware.numCPU"))
		if on && (!less && !get[bool](p, "config.cpuHotAddEnabled") || less && !get[bool](p, "config.cpuHotRemoveEnabled")) {
			return refuse(capability.CPUHotAdd, hypervisor.ReasonHotAddOff, hotAddOff)
		}
		spec.NumCPUs = int32(ch.CPUs)
	}
	if ch.MemoryBytes > 0 && ch.MemoryBytes != memory {
		if on && (ch.MemoryBytes < memory || !get[bool](p, "config.memoryHotAddEnabled")) {
			return refuse(capability.MemoryHotAdd, hypervisor.ReasonHotAddOff, hotAddOff)
		}
		spec.MemoryMB = ch.MemoryBytes / hypervisor.MiB
		memory = ch.MemoryBytes
	}
	if ch.MaxCPUs > 0 {
		if ch.MaxCPUs < cpus {
			return nil, invalidArgument(id.Ref(), "MaxCPUs %d is below the machine's %d CPUs", ch.MaxCPUs, cpus)
		}
		if want := ch.MaxCPUs > cpus; want != get[bool](p, "config.cpuHotAddEnabled") {
			if on {
				return refuse(capability.CPUHotAdd, hypervisor.ReasonVMState, hotAddOff)
			}
			spec.CpuHotAddEnabled = &want
		}
	}
	if ch.MaxMemoryBytes > 0 {
		if ch.MaxMemoryBytes < memory {
			return nil, invalidArgument(id.Ref(), "MaxMemoryBytes %d is below the machine's %d bytes", ch.MaxMemoryBytes, memory)
		}
		if want := ch.MaxMemoryBytes > memory; want != get[bool](p, "config.memoryHotAddEnabled") {
			if on {
				return refuse(capability.MemoryHotAdd, hypervisor.ReasonVMState, hotAddOff)
			}
			spec.MemoryHotAddEnabled = &want
		}
	}
	switch r := ch.DynamicMemory; {
	case r == nil:
		// A limit is the machine's size, so it changes with the size.
		if a := get[types.ResourceAllocationInfo](p, "config.memoryAllocation"); spec.MemoryMB > 0 && a.Limit != nil && *a.Limit >= 0 {
			spec.MemoryAllocation = &types.ResourceAllocationInfo{Limit: types.NewInt64(spec.MemoryMB)}
		}
	case *r == hypervisor.MemoryRange{}:
		spec.MemoryAllocation = &types.ResourceAllocationInfo{Reservation: types.NewInt64(0), Limit: types.NewInt64(-1)}
	case r.MaxBytes != memory:
		return nil, hypervisor.Unsupported(id.Ref(), capability.MemoryDynamic, hypervisor.ReasonPlatform, dynamicIsReservation)
	default:
		spec.MemoryAllocation = allocation(*r)
	}
	return d.reconfigJob(ctx, id, spec, nil)
}
