//go:build cgo

package libxl

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

const (
	// virDomainRestoreFlags of the Xen driver refuses a changed definition,
	// and there is no BlockCommit.
	noSnapshots = "libvirt's Xen driver has no snapshots, and composed ones could neither be reverted nor deleted: saved RAM comes back only on the disks that it was saved with, and nothing merges disks. Clone the machine while it is off, or keep its RAM with Suspend"
	noAgent     = "libvirt's Xen driver has no channel to an agent in the guest"
	// For a PV machine without shadow paging, Xen logs "Failed to enable
	// logdirty: 22".
	pvNotLive = "a PV machine moves live only where Xen has shadow paging, which Debian's is built without and libvirt doesn't report: AutoMigrate moves it while it stands still, RAM and all"
)

// fixed are the answers that apply to every host. They follow from the calls
// that libvirt's Xen driver has (libvirt.org/hvsupport.html, column Xen).
var fixed = map[capability.Name]hypervisor.Support{
	capability.SnapshotDisk:       no(hypervisor.ReasonPlatform, noSnapshots),
	capability.SnapshotMemory:     no(hypervisor.ReasonPlatform, noSnapshots),
	capability.SnapshotQuiesce:    no(hypervisor.ReasonPlatform, noSnapshots),
	capability.CloneFromSnapshot:  no(hypervisor.ReasonPlatform, noSnapshots),
	capability.CloneInstant:       no(hypervisor.ReasonPlatform, "libvirt can't fork a running Xen machine: make a full clone while it is off"),
	capability.CloneRunning:       no(hypervisor.ReasonPlatform, "libvirt's Xen driver can't put a running machine on an overlay, so its images change while it runs: clone it while it is off"),
	capability.CloneCustomize:     no(hypervisor.ReasonNotImplemented, "give the guest a cloud-init image as a second disk"),
	capability.Templates:          partial(hypervisor.ReasonEmulated, "libvirt has no templates: the definition is made unable to start"),
	capability.PowerReset:         partial(hypervisor.ReasonEmulated, "libvirt's Xen driver has no Reset: the domain is destroyed and created again from its definition"),
	capability.MemoryHotAdd:       partial(hypervisor.ReasonEmulated, "Xen has no memory slots: a machine made with MaxMemoryBytes starts ballooned and grows up to it"),
	capability.DiskGrowLive:       no(hypervisor.ReasonPlatform, "libvirt's Xen driver has no BlockResize: power the machine off first"),
	capability.MigrateLiveStorage: no(hypervisor.ReasonPlatform, "libvirt's Xen driver can't mirror the disks of a running machine: power it off first"),
	capability.MigrateBoth:        no(hypervisor.ReasonPlatform, "libvirt's Xen driver refuses to copy storage in a migration (VIR_MIGRATE_NON_SHARED_DISK): use a shared datastore"),
	capability.MigratePostCopy:    no(hypervisor.ReasonPlatform, "libvirt's Xen driver has no post-copy migration"),
	capability.MigrateTuning:      no(hypervisor.ReasonPlatform, "libvirt's Xen driver refuses limits of bandwidth and downtime, compression, auto-converge and several streams"),
	capability.DevicePCI:          partial(hypervisor.ReasonConfig, "PV and HVM machines take PCI functions while they are off; Xen needs an IOMMU for it, which libvirt doesn't report: \"xl info\" does, as pv_directio and hvm_directio"),
	capability.DevicePrepare:      partial(hypervisor.ReasonPlatform, "takes functions from the control domain and gives them back; libvirt can't set the number of virtual functions"),
	capability.DeviceVF:           {Level: hypervisor.LevelUnproven, Reason: hypervisor.ReasonNoDevice, Detail: "the same code as for PCI functions, never run with SR-IOV hardware"},
	capability.DeviceVGPU:         no(hypervisor.ReasonPlatform, "libvirt's Xen driver has no mediated devices"),
	capability.DeviceHotplug:      no(hypervisor.ReasonPlatform, "a PV machine takes a device while it runs only if it had one from the start, and releases it only with a guest driver (xen-pcifront) that libvirt can't see: power it off first"),
	capability.WatchResume:        no(hypervisor.ReasonPlatform, "libvirt keeps no events: list again after a Resync"),
	capability.GuestFacts:         no(hypervisor.ReasonPlatform, noAgent),
	capability.GuestExec:          no(hypervisor.ReasonPlatform, noAgent),
	capability.GuestClock:         no(hypervisor.ReasonPlatform, noAgent),
	capability.GuestFreeze:        no(hypervisor.ReasonPlatform, noAgent),
	capability.HostMaintenance:    no(hypervisor.ReasonPlatform, "libvirt has no maintenance mode: use Host.Evacuate"),
	capability.PlacementNative:    no(hypervisor.ReasonPlatform, "libvirt has no scheduler: Place and PlanBalance are composed"),
	capability.HighAvailability:   no(hypervisor.ReasonPlatform, "libvirt restarts no machines elsewhere: that is the work of a cluster manager such as Pacemaker"),
	capability.ReplicationRead:    no(hypervisor.ReasonPlatform, "libvirt does not replicate machines"),
	capability.TaskResume:         partial(hypervisor.ReasonEmulated, "creating and cloning are found again by what they made; other work only by its own Client"),
	capability.TaskCancel:         partial(hypervisor.ReasonPlatform, "creating, cloning and moving disks can be cancelled between images; libvirt's Xen driver has no AbortJob, so saving and migrating run to their end"),
}

// needsHosts are the capabilities that need more than one host.
var needsHosts = map[capability.Name]bool{capability.MigrateLive: true, capability.MigrateCold: true}

// Supports implements hypervisor.Driver.
func (d *driver) Supports(ctx context.Context, k capability.Name, scope hypervisor.Ref) (hypervisor.Support, error) {
	return d.Answer(ctx, k, scope, d.onHostFacts, onMachine)
}

// onHostFacts reports a capability of one host.
func (d *driver) onHostFacts(k capability.Name, f *libvirtx.Facts) hypervisor.Support {
	if s, ok := fixed[k]; ok {
		return s
	}
	switch {
	case needsHosts[k] && len(d.Members) < 2:
		return no(hypervisor.ReasonSingleHost, "this Client has one host: open several, as in xen+ssh://root@h1,h2/system, or give MigrateOptions.To")
	case k == capability.CPUHotAdd:
		return cpuHotAdd(f)
	}
	return yes
}

// cpuHotAdd reports the limit of libxlDomainSetVcpusFlags: the host's CPUs.
func cpuHotAdd(f *libvirtx.Facts) hypervisor.Support {
	if f.CPU.Threads < 2 {
		return no(hypervisor.ReasonConfig, "libvirt gives a running machine at most as many CPUs as the host has, and host %s has one", f.Name)
	}
	return partial(hypervisor.ReasonConfig, fmt.Sprintf("libvirt gives a running machine at most as many CPUs as the host has, %d", f.CPU.Threads))
}

// onMachine reports a capability of one machine where it supports less than
// its host.
func onMachine(k capability.Name, s hypervisor.PowerState, x *libvirtxml.Domain, mark libvirtx.Mark) (hypervisor.Support, bool) {
	on := s == hypervisor.StateRunning || s == hypervisor.StatePaused
	switch k {
	case capability.PowerShutdown, capability.PowerReset, capability.PowerPause, capability.PowerSuspend, capability.MigrateLive, capability.Reconfigure:
		if fleet.IsTemplate(x, mark) {
			return no(hypervisor.ReasonIsTemplate, "this is a template: turn it into a machine first"), true
		}
	}
	switch k {
	case capability.PowerSuspend, capability.MigrateLive:
		if passthrough(x) {
			return no(hypervisor.ReasonVMPassthrough, "a passed-through device's state can't be saved or moved: detach it first"), true
		}
	case capability.CPUHotAdd:
		if on && x.VCPU != nil && cpus(x) >= int(x.VCPU.Value) {
			return no(hypervisor.ReasonHotAddOff, "the machine was made for at most %d CPUs: raise MaxCPUs with NextStart", x.VCPU.Value), true
		}
	case capability.MemoryHotAdd:
		if on && libvirtx.CurrentKiB(x) >= libvirtx.MemoryKiB(x) {
			return no(hypervisor.ReasonHotAddOff, "the machine was made for at most %d MiB: raise MaxMemoryBytes with NextStart", libvirtx.MemoryKiB(x)>>10), true
		}
	case capability.DevicePCI, capability.DeviceVF:
		if kindOfMachine(x) == pvh {
			return pvhNoDevice, true
		}
	}
	if k == capability.MigrateLive && kindOfMachine(x) == pv {
		return no(hypervisor.ReasonPlatform, pvNotLive), true
	}
	return hypervisor.Support{}, false
}

var pvhNoDevice = no(hypervisor.ReasonPlatform, "Xen has no passthrough for PVH machines: make it pv or hvm")

// refuse makes the error for a capability that is never supported.
func refuse(on hypervisor.Ref, k capability.Name) error {
	s := fixed[k]
	return hypervisor.Unsupported(on, k, s.Reason, s.Detail)
}
