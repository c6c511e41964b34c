package xen

import (
	"context"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Why a XAPI pool can't, or can't quite.
const (
	bootDetail        = "XAPI starts kernels only from its own host's list of allowed folders: put kernel and boot loader on a disk"
	growDetail        = "XAPI refuses to resize an image that a running machine has attached: power it off first"
	quiesceDetail     = "VM.snapshot_with_quiesce was taken out of XAPI; current versions refuse it (VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED)"
	instantDetail     = "XAPI can't fork a running machine: take a snapshot with RAM and revert, or clone the disks"
	customizeDetail   = "XAPI doesn't set facts inside guests: use cloud-init on a disk or CD"
	postCopyDetail    = "Xen migrates by pre-copy only"
	tuningDetail      = "VM.pool_migrate and VM.migrate_send have no limits of bandwidth or downtime, and no choice of method"
	vfDetail          = "XAPI chooses virtual functions of network cards itself and doesn't tell which: attach an adapter to a network that has SRIOV"
	hotplugDetail     = "XAPI gives and takes GPUs and PCI functions only while the machine is off"
	guestDetail       = "XAPI has no message for this: use the guest's own network access"
	freezeDetail      = "XAPI has no message that freezes a guest's file systems"
	replicationDetail = "XAPI replicates no machines: Xen Orchestra's continuous replication is a program of its own"
)

// restriction names the flag of pool.restrictions that forbids a capability
// (xen-api's ocaml/xapi-types/features.ml).
var restriction = map[hypervisor.Capability]string{
	hypervisor.SnapshotMemory: "restrict_checkpoint", hypervisor.MemoryDynamic: "restrict_dmc", hypervisor.MigrateLive: "restrict_xen_motion",
	hypervisor.MigrateLiveStorage: "restrict_storage_xen_motion", hypervisor.MigrateBoth: "restrict_storage_xen_motion",
	hypervisor.MigrateStorage: "restrict_storage_xen_motion", hypervisor.MigrateCross: "restrict_storage_xen_motion",
	hypervisor.DeviceVGPU: "restrict_vgpu", hypervisor.PlacementNative: "restrict_wlb",
	hypervisor.MemoryHotAdd: "restrict_dmc", hypervisor.CPUHotAdd: "restrict_set_vcpus_number_live",
}

var refused = map[hypervisor.Capability]hypervisor.Support{
	hypervisor.BootDirect:      {Reason: hypervisor.ReasonPlatform, Detail: bootDetail},
	hypervisor.DiskGrowLive:    {Reason: hypervisor.ReasonPlatform, Detail: growDetail},
	hypervisor.SnapshotQuiesce: {Reason: hypervisor.ReasonAPIVersion, Detail: quiesceDetail},
	hypervisor.CloneInstant:    {Reason: hypervisor.ReasonPlatform, Detail: instantDetail},
	hypervisor.CloneCustomize:  {Reason: hypervisor.ReasonPlatform, Detail: customizeDetail},
	hypervisor.MigratePostCopy: {Reason: hypervisor.ReasonPlatform, Detail: postCopyDetail},
	hypervisor.MigrateTuning:   {Reason: hypervisor.ReasonPlatform, Detail: tuningDetail},
	hypervisor.DeviceVF:        {Reason: hypervisor.ReasonPlatform, Detail: vfDetail},
	hypervisor.DeviceHotplug:   {Reason: hypervisor.ReasonPlatform, Detail: hotplugDetail},
	hypervisor.GuestExec:       {Reason: hypervisor.ReasonPlatform, Detail: guestDetail},
	hypervisor.GuestClock:      {Reason: hypervisor.ReasonPlatform, Detail: guestDetail},
	hypervisor.ReplicationRead: {Reason: hypervisor.ReasonPlatform, Detail: replicationDetail},
	hypervisor.GuestFreeze:     {Reason: hypervisor.ReasonPlatform, Detail: freezeDetail},
}

var yes = hypervisor.Support{Level: hypervisor.Yes}

func no(r hypervisor.ReasonCode, detail string) hypervisor.Support {
	return hypervisor.Support{Level: hypervisor.No, Reason: r, Detail: detail}
}

// Supports answers from the licence flags, the number of hosts, the devices
// and, for a machine, its state and tools.
func (d *driver) Supports(ctx context.Context, k hypervisor.Capability, scope hypervisor.Ref) (hypervisor.Support, error) {
	if s, ok := refused[k]; ok {
		s.Level = hypervisor.No
		return s, nil
	}
	if !slices.Contains(hypervisor.Capabilities(), k) {
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
	case hypervisor.MigrateLive, hypervisor.MigrateCold, hypervisor.MigrateBoth, hypervisor.HighAvailability:
		// The licence's flag of HA says what there is, not what is missing.
		if k == hypervisor.HighAvailability && pool.Restrictions["enable_xha"] == "false" {
			return no(hypervisor.ReasonEdition, "the pool's licence has enable_xha off"), nil
		}
		var hosts []string
		if err := d.c.Call(ctx, &hosts, "host.get_all"); err != nil {
			return hypervisor.Support{}, err
		}
		if len(hosts) < 2 {
			return no(hypervisor.ReasonSingleHost, "the pool has one host"), nil
		}
	case hypervisor.PlacementNative:
		if !pool.WLBEnabled || pool.WLBURL == "" {
			return no(hypervisor.ReasonConfig, "no Workload Balancing server is connected to the pool"), nil
		}
	case hypervisor.DevicePCI, hypervisor.DeviceVGPU, hypervisor.DevicePrepare:
		if s, err := d.deviceSupport(ctx, k); err != nil || s.Level != hypervisor.Yes {
			return s, err
		}
		if k == hypervisor.DevicePCI && pool.Restrictions["restrict_gpu"] == "true" {
			return hypervisor.Support{Level: hypervisor.Partial, Reason: hypervisor.ReasonEdition, Detail: "all but GPUs: the pool's licence sets restrict_gpu"}, nil
		}
	}
	if scope.Kind == hypervisor.KindOfVM {
		return d.vmSupport(ctx, k, hypervisor.VMID(scope.ID))
	}
	return yes, nil
}

func (d *driver) deviceSupport(ctx context.Context, k hypervisor.Capability) (hypervisor.Support, error) {
	devs, err := d.Devices(ctx, hypervisor.DeviceFilter{})
	if err != nil {
		return hypervisor.Support{}, err
	}
	iommu, profiles := false, false
	for _, dev := range devs {
		iommu = iommu || dev.Reason != hypervisor.ReasonHostIOMMUOff
		profiles = profiles || len(dev.Profiles) > 0
	}
	switch {
	case len(devs) == 0:
		return no(hypervisor.ReasonNoDevice, "the pool's hosts have no PCI devices"), nil
	case !iommu:
		return no(hypervisor.ReasonHostIOMMUOff, "no host has its IOMMU on: switch VT-d or AMD-Vi on in its firmware"), nil
	case !profiles && k == hypervisor.DeviceVGPU:
		return no(hypervisor.ReasonNoDevice, "no GPU of the pool has vGPU types"), nil
	}
	return yes, nil
}

// vmSupport takes a machine's state, tools and devices into account.
func (d *driver) vmSupport(ctx context.Context, k hypervisor.Capability, id hypervisor.VMID) (hypervisor.Support, error) {
	_, v, err := d.vm(ctx, id)
	if err != nil {
		return hypervisor.Support{}, err
	}
	running := state(v.PowerState) == hypervisor.Running
	switch k {
	case hypervisor.PowerShutdown, hypervisor.GuestFacts:
		if running && !d.toolsRun(ctx, v) {
			return no(hypervisor.ReasonToolsMissing, toolsDetail), nil
		}
	case hypervisor.SnapshotMemory, hypervisor.PowerSuspend, hypervisor.MigrateLive:
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
	case hypervisor.CPUHotAdd:
		if running && v.VCPUsMax <= v.VCPUsStart {
			return no(hypervisor.ReasonHotAddOff, "the machine was made for as many CPUs as it has"), nil
		}
	case hypervisor.MemoryHotAdd:
		if running && v.StaticMax <= v.DynamicMax {
			return no(hypervisor.ReasonHotAddOff, "the machine was made for as much memory as it has"), nil
		}
	}
	return yes, nil
}

// allowed refuses what the licence forbids, with Supports' own reason.
func (d *driver) allowed(ctx context.Context, on hypervisor.Ref, k hypervisor.Capability) error {
	s, err := d.Supports(ctx, k, hypervisor.Ref{})
	if err != nil {
		return err
	}
	if s.Level == hypervisor.No {
		return hypervisor.Unsupported(on, k, s.Reason, s.Detail)
	}
	return nil
}
