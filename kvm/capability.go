//go:build cgo

package kvm

import (
	"context"
	"fmt"

	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

func no(r hypervisor.ReasonCode, format string, args ...any) hypervisor.Support {
	return hypervisor.Support{Level: hypervisor.No, Reason: r, Detail: fmt.Sprintf(format, args...)}
}

func partial(r hypervisor.ReasonCode, detail string) hypervisor.Support {
	return hypervisor.Support{Level: hypervisor.Partial, Reason: r, Detail: detail}
}

var yes = hypervisor.Support{Level: hypervisor.Yes}

// fixed are the answers that hold for every host with QEMU.
var fixed = map[hypervisor.Capability]hypervisor.Support{
	hypervisor.CloneInstant:     no(hypervisor.ReasonPlatform, "QEMU can't fork a running machine: make a full clone"),
	hypervisor.CloneCustomize:   no(hypervisor.ReasonNotImplemented, "give the guest a cloud-init image as a CD-ROM"),
	hypervisor.Templates:        partial(hypervisor.ReasonEmulated, "libvirt has no templates: the definition is made unable to start, by every tool"),
	hypervisor.WatchResume:      no(hypervisor.ReasonPlatform, "libvirt keeps no events: list again after a Resync"),
	hypervisor.HostMaintenance:  no(hypervisor.ReasonPlatform, "libvirt has no maintenance mode: use Host.Evacuate"),
	hypervisor.PlacementNative:  no(hypervisor.ReasonPlatform, "libvirt has no scheduler: Place and PlanBalance are composed"),
	hypervisor.HighAvailability: no(hypervisor.ReasonPlatform, "libvirt restarts no machines elsewhere: that is the work of a cluster manager such as Pacemaker"),
	hypervisor.ReplicationRead:  no(hypervisor.ReasonPlatform, "libvirt does not replicate machines"),
	hypervisor.TaskResume:       partial(hypervisor.ReasonEmulated, "creating, cloning and migrating are found again by what they made and by the domain's job; other work only by its own Client"),
	hypervisor.TaskCancel:       partial(hypervisor.ReasonPlatform, "a copy of an image under way runs to its end before it is taken back; changes that libvirt makes at once can't be cancelled"),
}

// needsHosts are those that a Client of one host can't do.
var needsHosts = map[hypervisor.Capability]bool{
	hypervisor.MigrateLive: true, hypervisor.MigrateCold: true, hypervisor.MigrateBoth: true,
	hypervisor.MigratePostCopy: true, hypervisor.MigrateTuning: true,
}

func singleHost() hypervisor.Support {
	return no(hypervisor.ReasonSingleHost, "this Client has one host: open several, as in kvm://h1,h2/system, or give MigrateOptions.To")
}

// testDriver is what libvirt's test:/// can do of all this.
var testDriver = map[hypervisor.Capability]bool{
	hypervisor.VMCreate: true, hypervisor.VMDelete: true, hypervisor.Labels: true, hypervisor.Reconfigure: true,
	hypervisor.BootDirect: true, hypervisor.MemoryDynamic: true,
	hypervisor.PowerShutdown: true, hypervisor.PowerPause: true, hypervisor.PowerSuspend: true,
	hypervisor.Templates: true, hypervisor.WatchEvents: true, hypervisor.VolumeManage: true,
}

// Supports implements hypervisor.Driver.
func (d *driver) Supports(ctx context.Context, k hypervisor.Capability, scope hypervisor.Ref) (hypervisor.Support, error) {
	return d.Answer(ctx, k, scope, d.onHostFacts, onMachine)
}

// onHostFacts answers for one host.
func (d *driver) onHostFacts(k hypervisor.Capability, f *libvirtx.Facts) hypervisor.Support {
	if f.Product != "QEMU" && !testDriver[k] {
		return no(hypervisor.ReasonPlatform, "libvirt's %s driver has no such thing", f.Product)
	}
	if s, ok := fixed[k]; ok {
		return s
	}
	if needsHosts[k] && len(d.Members) < 2 {
		return singleHost()
	}
	switch k {
	case hypervisor.DevicePCI, hypervisor.DeviceHotplug, hypervisor.DevicePrepare, hypervisor.DeviceVF, hypervisor.DeviceVGPU:
		switch {
		case f.IOMMU != hypervisor.Present:
			return no(hypervisor.ReasonHostIOMMUOff, "host %s has no IOMMU switched on: enable VT-d or AMD-Vi in the firmware and on the kernel's command line (intel_iommu=on)", f.Name)
		case !f.VFIO:
			return no(hypervisor.ReasonHostIOMMUOff, "host %s has no VFIO: load the kernel modules vfio-pci and vfio_iommu_type1", f.Name)
		case k == hypervisor.DeviceVF && f.SRIOV != hypervisor.Present:
			return no(hypervisor.ReasonNoDevice, "no device of host %s has SR-IOV", f.Name)
		case k == hypervisor.DeviceVGPU && libvirtx.Older(f.Libvirt, mdevSince):
			return no(hypervisor.ReasonAPIVersion, "host %s has libvirt %s, which defines no mediated devices: update it to %s", f.Name, f.Libvirt, mdevSince)
		case k == hypervisor.DeviceVGPU && !f.MDev:
			return no(hypervisor.ReasonNoDevice, "no device of host %s offers mediated devices (vGPU): install the vendor's host driver", f.Name)
		}
	}
	return yes
}

// onMachine answers for one machine where it can do less than its host.
func onMachine(k hypervisor.Capability, s hypervisor.PowerState, x *libvirtxml.Domain, mark libvirtx.Mark) (hypervisor.Support, bool) {
	on := s == hypervisor.Running || s == hypervisor.Paused
	switch k {
	case hypervisor.PowerShutdown, hypervisor.PowerReset, hypervisor.PowerPause, hypervisor.PowerSuspend, hypervisor.SnapshotDisk, hypervisor.SnapshotMemory, hypervisor.MigrateLive, hypervisor.Reconfigure:
		if fleet.IsTemplate(x, mark) {
			return no(hypervisor.ReasonIsTemplate, "this is a template: turn it into a machine first"), true
		}
	}
	switch k {
	case hypervisor.GuestFacts, hypervisor.GuestExec, hypervisor.GuestClock, hypervisor.GuestFreeze, hypervisor.SnapshotQuiesce:
		if !on {
			return no(hypervisor.ReasonVMState, "the machine is %s: its guest can't be asked", s), true
		}
		if !agentConnected(x) {
			return no(hypervisor.ReasonToolsMissing, agentRemedy), true
		}
	case hypervisor.SnapshotMemory, hypervisor.PowerSuspend, hypervisor.MigrateLive, hypervisor.MigrateBoth, hypervisor.MigratePostCopy:
		if passthrough(x) {
			return no(hypervisor.ReasonVMPassthrough, "a passed-through device's state can't be saved or moved: detach it first"), true
		}
	case hypervisor.CPUHotAdd:
		if on && x.VCPU != nil && (x.VCPU.Current == 0 || x.VCPU.Current == x.VCPU.Value) {
			return no(hypervisor.ReasonHotAddOff, "the machine was made for at most %d CPUs: raise MaxCPUs with NextStart", x.VCPU.Value), true
		}
	case hypervisor.MemoryHotAdd:
		if on && x.MaximumMemory == nil {
			return no(hypervisor.ReasonHotAddOff, "the machine was made for at most %d MiB: raise MaxMemory with NextStart", libvirtx.MemoryKiB(x)>>10), true
		}
	}
	return hypervisor.Support{}, false
}

// refuse makes the error for what is never supported.
func (d *driver) refuse(on hypervisor.Ref, k hypervisor.Capability) error {
	s := fixed[k]
	return hypervisor.Unsupported(on, k, s.Reason, s.Detail)
}
