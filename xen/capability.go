package xen

import (
	"context"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// Reasons why a XAPI pool does not, or not fully, support a capability.
const (
	bootDetail        = "XAPI starts kernels only from its own host's list of allowed folders: put kernel and boot loader on a disk"
	growDetail        = "XAPI refuses to resize an image that a running machine has attached: power it off first"
	quiesceDetail     = "VM.snapshot_with_quiesce was taken out of XAPI; current versions refuse it (VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED)"
	instantDetail     = "XAPI can't fork a running machine: take a snapshot with RAM and revert, or clone the disks"
	customizeDetail   = "XAPI doesn't set facts inside guests: use cloud-init on a disk or CD"
	postCopyDetail    = "Xen migrates by pre-copy only"
	tuningDetail      = "VM.pool_migrate and VM.migrate_send have no limits of bandwidth or downtime, and no choice of method"
	vfDetail          = "XAPI chooses virtual functions of network cards itself and doesn't report which: attach an adapter to a network that has SRIOV"
	pciAccessDetail   = "before xapi 24.14 only GPUs can be taken from the host"
	hotplugDetail     = "XAPI gives and takes GPUs and PCI functions only while the machine is off"
	guestDetail       = "XAPI has no message for this: use the guest's own network access"
	freezeDetail      = "XAPI has no message that freezes a guest's file systems"
	replicationDetail = "XAPI replicates no machines: Xen Orchestra's continuous replication is a program of its own"
)

// restriction names the flag of pool.restrictions that forbids a capability
// (xen-api's ocaml/xapi-types/features.ml).
var restriction = map[capability.Name]string{
	capability.SnapshotMemory: "restrict_checkpoint", capability.MemoryDynamic: "restrict_dmc", capability.MigrateLive: "restrict_xen_motion",
	capability.MigrateLiveStorage: "restrict_storage_xen_motion", capability.MigrateBoth: "restrict_storage_xen_motion",
	capability.MigrateStorage: "restrict_storage_xen_motion", capability.MigrateCross: "restrict_storage_xen_motion",
	capability.DeviceVGPU: "restrict_vgpu", capability.PlacementNative: "restrict_wlb",
	capability.MemoryHotAdd: "restrict_dmc", capability.CPUHotAdd: "restrict_set_vcpus_number_live",
}

var refused = map[capability.Name]hypervisor.Support{
	capability.BootDirect:      {Reason: hypervisor.ReasonPlatform, Detail: bootDetail},
	capability.DiskGrowLive:    {Reason: hypervisor.ReasonPlatform, Detail: growDetail},
	capability.SnapshotQuiesce: {Reason: hypervisor.ReasonAPIVersion, Detail: quiesceDetail},
	capability.CloneInstant:    {Reason: hypervisor.ReasonPlatform, Detail: instantDetail},
	capability.CloneCustomize:  {Reason: hypervisor.ReasonPlatform, Detail: customizeDetail},
	capability.MigratePostCopy: {Reason: hypervisor.ReasonPlatform, Detail: postCopyDetail},
	capability.MigrateTuning:   {Reason: hypervisor.ReasonPlatform, Detail: tuningDetail},
	capability.DeviceVF:        {Reason: hypervisor.ReasonPlatform, Detail: vfDetail},
	capability.DeviceHotplug:   {Reason: hypervisor.ReasonPlatform, Detail: hotplugDetail},
	capability.GuestExec:       {Reason: hypervisor.ReasonPlatform, Detail: guestDetail},
	capability.GuestClock:      {Reason: hypervisor.ReasonPlatform, Detail: guestDetail},
	capability.ReplicationRead: {Reason: hypervisor.ReasonPlatform, Detail: replicationDetail},
	capability.GuestFreeze:     {Reason: hypervisor.ReasonPlatform, Detail: freezeDetail},
}

var yes = hypervisor.Support{Level: hypervisor.LevelYes}

func no(r hypervisor.ReasonCode, detail string) hypervisor.Support {
	return hypervisor.Support{Level: hypervisor.LevelNo, Reason: r, Detail: detail}
}

// Supports determines its answer from the licence flags, the number of hosts,
// the devices and, for a machine, its state and tools.
func (d *driver) Supports(ctx context.Context, k capability.Name, scope hypervisor.Ref) (hypervisor.Support, error) {
	if s, ok := refused[k]; ok {
		s.Level = hypervisor.LevelNo
		return s, nil
	}
	if !slices.Contains(capability.All(), k) {
		return no(hypervisor.ReasonNotImplemented, "this driver doesn't know the capability"), nil
	}
	pool, _, err := d.pool(ctx)
	if err != nil {
		return hypervisor.Support{}, err
	}
	if f, ok := restriction[k]; ok && pool.Restrictions[f] == "true" {
		return no(hypervisor.ReasonEdition, "the pool's licence sets "+f), nil
	}
	switch k {
	case capability.MigrateLive, capability.MigrateCold, capability.MigrateBoth, capability.HighAvailability:
		// The licence's flag of HA means that HA is available, not that it is
		// missing.
		if k == capability.HighAvailability && pool.Restrictions["enable_xha"] == "false" {
			return no(hypervisor.ReasonEdition, "the pool's licence has enable_xha off"), nil
		}
		var hosts []string
		if err := d.c.Call(ctx, &hosts, "host.get_all"); err != nil {
			return hypervisor.Support{}, err
		}
		if len(hosts) < 2 {
			return no(hypervisor.ReasonSingleHost, "the pool has one host"), nil
		}
	case capability.PlacementNative:
		if !pool.WLBEnabled || pool.WLBURL == "" {
			return no(hypervisor.ReasonConfig, "no Workload Balancing server is connected to the pool"), nil
		}
	case capability.DevicePCI, capability.DeviceVGPU, capability.DevicePrepare:
		if s, err := d.deviceSupport(ctx, k); err != nil || s.Level != hypervisor.LevelYes {
			return s, err
		}
		if k == capability.DevicePCI && pool.Restrictions["restrict_gpu"] == "true" {
			return hypervisor.Support{Level: hypervisor.LevelPartial, Reason: hypervisor.ReasonEdition, Detail: "all but GPUs: the pool's licence sets restrict_gpu"}, nil
		}
	}
	if scope.Kind == hypervisor.ObjectVM {
		return d.vmSupport(ctx, k, hypervisor.VMID(scope.ID))
	}
	return yes, nil
}

func (d *driver) deviceSupport(ctx context.Context, k capability.Name) (hypervisor.Support, error) {
	devs, err := d.Devices(ctx, hypervisor.DeviceFilter{})
	if err != nil {
		return hypervisor.Support{}, err
	}
	iommu, profiles, gpus := false, false, false
	for _, dev := range devs {
		gpus = gpus || dev.Class == hypervisor.ClassDisplay
		iommu = iommu || dev.Reason != hypervisor.ReasonHostIOMMUOff
		profiles = profiles || len(dev.Profiles) > 0
	}
	switch {
	case len(devs) == 0:
		return no(hypervisor.ReasonNoDevice, "the pool's hosts have no PCI devices"), nil
	case !iommu:
		return no(hypervisor.ReasonHostIOMMUOff, "no host has its IOMMU on: switch VT-d or AMD-Vi on in its firmware"), nil
	case k == capability.DevicePrepare && !d.has(pciAccess) && !gpus:
		return no(hypervisor.ReasonAPIVersion, pciAccessDetail), nil
	case k == capability.DevicePrepare && !d.has(pciAccess):
		return hypervisor.Support{Level: hypervisor.LevelPartial, Reason: hypervisor.ReasonAPIVersion, Detail: pciAccessDetail}, nil
	case !profiles && k == capability.DeviceVGPU:
		return no(hypervisor.ReasonNoDevice, "no GPU of the pool has vGPU types"), nil
	}
	return yes, nil
}

// vmSupport takes a machine's state, tools and devices into account.
func (d *driver) vmSupport(ctx context.Context, k capability.Name, id hypervisor.VMID) (hypervisor.Support, error) {
	_, v, err := d.vm(ctx, id)
	if err != nil {
		return hypervisor.Support{}, err
	}
	running := state(v.PowerState) == hypervisor.StateRunning
	switch k {
	case capability.PowerShutdown, capability.GuestFacts:
		if running {
			if tools, err := d.toolsRun(ctx, v); err != nil || !tools {
				return no(hypervisor.ReasonToolsMissing, toolsDetail), err
			}
		}
	case capability.SnapshotMemory, capability.PowerSuspend, capability.MigrateLive:
		if len(v.AttachedPCIs) == 0 && len(v.VGPUs) == 0 && v.Other[pciKey] == "" {
			break
		}
		inv, err := d.loadDevices(ctx)
		if err != nil {
			return hypervisor.Support{}, err
		}
		for _, a := range inv.devices(v) {
			if !inv.movable(a) {
				return no(hypervisor.ReasonVMPassthrough, "the machine has a passed-through device, whose state can't be kept"), nil
			}
		}
	case capability.CPUHotAdd:
		if running && v.VCPUsMax <= v.VCPUsStart {
			return no(hypervisor.ReasonHotAddOff, "the machine was made for as many CPUs as it has"), nil
		}
	case capability.MemoryHotAdd:
		if running && v.StaticMax <= v.DynamicMax {
			return no(hypervisor.ReasonHotAddOff, "the machine was made for as much memory as it has"), nil
		}
	}
	return yes, nil
}

// allowed refuses what the licence forbids, with the reason that Supports
// gives.
func (d *driver) allowed(ctx context.Context, on hypervisor.Ref, k capability.Name) error {
	s, err := d.Supports(ctx, k, hypervisor.Ref{})
	if err != nil {
		return err
	}
	if s.Level == hypervisor.LevelNo {
		return hypervisor.Unsupported(on, k, s.Reason, s.Detail)
	}
	return nil
}
