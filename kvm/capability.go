//go:build cgo

package kvm

import (
	"context"
	"fmt"

	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

func no(r hypervisor.ReasonCode, format string, args ...any) hypervisor.Support {
	return hypervisor.Support{Level: hypervisor.LevelNo, Reason: r, Detail: fmt.Sprintf(format, args...)}
}

func partial(r hypervisor.ReasonCode, detail string) hypervisor.Support {
	return hypervisor.Support{Level: hypervisor.LevelPartial, Reason: r, Detail: detail}
}

var yes = hypervisor.Support{Level: hypervisor.LevelYes}

// fixed are the answers that apply to every host with QEMU.
var fixed = map[capability.Name]hypervisor.Support{
	capability.CloneInstant:     no(hypervisor.ReasonPlatform, "QEMU can't fork a running machine: make a full clone"),
	capability.CloneCustomize:   no(hypervisor.ReasonNotImplemented, "give the guest a cloud-init image as a CD-ROM"),
	capability.Templates:        partial(hypervisor.ReasonEmulated, "libvirt has no templates: the definition is made unable to start, by every tool"),
	capability.WatchResume:      no(hypervisor.ReasonPlatform, "libvirt keeps no events: list again after a Resync"),
	capability.HostMaintenance:  no(hypervisor.ReasonPlatform, "libvirt has no maintenance mode: use Host.Evacuate"),
	capability.PlacementNative:  no(hypervisor.ReasonPlatform, "libvirt has no scheduler: Place and PlanBalance are composed"),
	capability.HighAvailability: no(hypervisor.ReasonPlatform, "libvirt restarts no machines elsewhere: that is the work of a cluster manager such as Pacemaker"),
	capability.ReplicationRead:  no(hypervisor.ReasonPlatform, "libvirt does not replicate machines"),
	capability.TaskResume:       partial(hypervisor.ReasonEmulated, "creating, cloning and migrating are found again by what they made and by the domain's job; other work only by its own Client"),
	capability.TaskCancel:       partial(hypervisor.ReasonPlatform, "a copy of an image under way runs to its end before it is taken back; changes that libvirt makes at once can't be cancelled"),
}

// needsHosts are the capabilities that need more than one host.
var needsHosts = map[capability.Name]bool{
	capability.MigrateLive: true, capability.MigrateCold: true, capability.MigrateBoth: true,
	capability.MigratePostCopy: true, capability.MigrateTuning: true,
}

func singleHost() hypervisor.Support {
	return no(hypervisor.ReasonSingleHost, "this Client has one host: open several, as in kvm://h1,h2/system, or give MigrateOptions.To")
}

// testDriver are the capabilities of libvirt's test:///.
var testDriver = map[capability.Name]bool{
	capability.VMCreate: true, capability.VMDelete: true, capability.VMStart: true,
	capability.HostList: true, capability.DatastoreList: true, capability.NetworkList: true, capability.Labels: true, capability.Reconfigure: true,
	capability.BootDirect: true, capability.MemoryDynamic: true,
	capability.PowerShutdown: true, capability.PowerPause: true, capability.PowerSuspend: true,
	capability.Templates: true, capability.WatchEvents: true, capability.VolumeManage: true,
}

// Supports implements hypervisor.Driver.
func (d *driver) Supports(ctx context.Context, k capability.Name, scope hypervisor.Ref) (hypervisor.Support, error) {
	return d.Answer(ctx, k, scope, d.onHostFacts, onMachine)
}

// onHostFacts reports a capability of one host.
func (d *driver) onHostFacts(k capability.Name, f *libvirtx.Facts) hypervisor.Support {
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
	case capability.DevicePCI, capability.DeviceHotplug, capability.DevicePrepare, capability.DeviceVF, capability.DeviceVGPU:
		switch {
		case f.IOMMU != hypervisor.FactPresent:
			return no(hypervisor.ReasonHostIOMMUOff, "host %s has no IOMMU switched on: enable VT-d or AMD-Vi in the firmware and on the kernel's command line (intel_iommu=on)", f.Name)
		case !f.VFIO:
			return no(hypervisor.ReasonHostIOMMUOff, "host %s has no VFIO: load the kernel modules vfio-pci and vfio_iommu_type1", f.Name)
		case k == capability.DeviceVF && f.SRIOV != hypervisor.FactPresent:
			return no(hypervisor.ReasonNoDevice, "no device of host %s has SR-IOV", f.Name)
		case k == capability.DeviceVGPU && libvirtx.Older(f.Libvirt, mdevSince):
			return no(hypervisor.ReasonAPIVersion, "host %s has libvirt %s, which defines no mediated devices: update it to %s", f.Name, f.Libvirt, mdevSince)
		case k == capability.DeviceVGPU && !f.MDev:
			return no(hypervisor.ReasonNoDevice, "no device of host %s offers mediated devices (vGPU): install the vendor's host driver", f.Name)
		}
	}
	return yes
}

// onMachine reports a capability of one machine where it supports less than
// its host.
func onMachine(k capability.Name, s hypervisor.PowerState, x *libvirtxml.Domain, mark libvirtx.Mark) (hypervisor.Support, bool) {
	on := s == hypervisor.StateRunning || s == hypervisor.StatePaused
	switch k {
	case capability.PowerShutdown, capability.PowerReset, capability.PowerPause, capability.PowerSuspend, capability.SnapshotDisk, capability.SnapshotMemory, capability.MigrateLive, capability.Reconfigure:
		if fleet.IsTemplate(x, mark) {
			return no(hypervisor.ReasonIsTemplate, "this is a template: turn it into a machine first"), true
		}
	}
	switch k {
	case capability.GuestFacts, capability.GuestExec, capability.GuestClock, capability.GuestFreeze, capability.SnapshotQuiesce:
		if !on {
			return no(hypervisor.ReasonVMState, "the machine is %s: its guest can't be asked", s), true
		}
		if !agentConnected(x) {
			return no(hypervisor.ReasonToolsMissing, agentRemedy), true
		}
	case capability.SnapshotMemory, capability.PowerSuspend, capability.MigrateLive, capability.MigrateBoth, capability.MigratePostCopy:
		if passthrough(x) {
			return no(hypervisor.ReasonVMPassthrough, "a passed-through device's state can't be saved or moved: detach it first"), true
		}
	case capability.CPUHotAdd:
		if on && x.VCPU != nil && (x.VCPU.Current == 0 || x.VCPU.Current == x.VCPU.Value) {
			return no(hypervisor.ReasonHotAddOff, "the machine was made for at most %d CPUs: raise MaxCPUs with NextStart", x.VCPU.Value), true
		}
	case capability.MemoryHotAdd:
		if on && x.MaximumMemory == nil {
			return no(hypervisor.ReasonHotAddOff, "the machine was made for at most %d MiB: raise MaxMemoryBytes with NextStart", libvirtx.MemoryKiB(x)>>10), true
		}
	}
	return hypervisor.Support{}, false
}

// refuse makes the error for a capability that is never supported.
func (d *driver) refuse(on hypervisor.Ref, k capability.Name) error {
	s := fixed[k]
	return hypervisor.Unsupported(on, k, s.Reason, s.Detail)
}
