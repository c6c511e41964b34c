package hyperv

import (
	"context"
	"fmt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

func yes() hypervisor.Support { return hypervisor.Support{Level: hypervisor.LevelYes} }

func partial(r hypervisor.ReasonCode, detail string) hypervisor.Support {
	return hypervisor.Support{Level: hypervisor.LevelPartial, Reason: r, Detail: detail}
}

func no(r hypervisor.ReasonCode, detail string) hypervisor.Support {
	return hypervisor.Support{Level: hypervisor.LevelNo, Reason: r, Detail: detail}
}

// general are the answers that apply to every host. Editions and the number
// of hosts restrict them.
var general = map[capability.Name]hypervisor.Support{
	capability.VMCreate: yes(), capability.VMDelete: yes(), capability.VMStart: yes(),
	capability.HostList: yes(), capability.DatastoreList: yes(), capability.NetworkList: yes(), capability.Labels: yes(), capability.Reconfigure: yes(),
	capability.BootDirect:    no(hypervisor.ReasonPlatform, "Hyper-V starts machines from their firmware only"),
	capability.CPUHotAdd:     no(hypervisor.ReasonPlatform, "Hyper-V changes processors only while the machine is off"),
	capability.MemoryHotAdd:  yes(),
	capability.MemoryDynamic: yes(),
	capability.DiskAttach:    yes(),
	capability.DiskHotplug:   yes(),
	capability.DiskGrow:      yes(),
	capability.DiskGrowLive:  yes(),
	capability.NICAttach:     yes(),
	capability.NICHotplug:    partial(hypervisor.ReasonPlatform, "generation 2 machines only"),

	capability.PowerShutdown: yes(), capability.PowerReset: yes(), capability.PowerPause: yes(), capability.PowerSuspend: yes(),

	capability.SnapshotDisk:    yes(),
	capability.SnapshotMemory:  yes(),
	capability.SnapshotQuiesce: yes(),

	capability.CloneFull: yes(), capability.CloneLinked: yes(), capability.CloneRunning: yes(), capability.CloneFromSnapshot: yes(),
	capability.CloneInstant:   no(hypervisor.ReasonPlatform, "Hyper-V does not fork running machines"),
	capability.CloneCustomize: no(hypervisor.ReasonPlatform, "the WMI provider sets no facts inside guests of a clone: use the guest's own tools (sysprep, cloud-init on a disk or CD)"),
	capability.Templates: partial(hypervisor.ReasonEmulated,
		"Hyper-V has no templates: one is kept as a planned machine, which the host itself does not start, with a definition file to deploy from"),

	capability.MigrateLive: yes(), capability.MigrateCold: yes(), capability.MigrateBoth: yes(),
	capability.MigrateStorage: yes(), capability.MigrateLiveStorage: yes(), capability.MigrateCross: yes(),
	capability.MigratePostCopy: no(hypervisor.ReasonPlatform, "Hyper-V copies memory before the switch only"),
	capability.MigrateTuning:   partial(hypervisor.ReasonPlatform, "bandwidth and downtime are settings of the hosts; only compression is chosen for one migration"),

	capability.DevicePCI:     yes(),
	capability.DeviceVF:      no(hypervisor.ReasonPlatform, `a switch hands out the virtual functions of its network card: attach an adapter of model "sr-iov" to a network that has SR-IOV`),
	capability.DeviceVGPU:    yes(),
	capability.DeviceHotplug: no(hypervisor.ReasonPlatform, "Hyper-V gives and takes devices only while the machine is off"),
	capability.DevicePrepare: yes(),

	capability.WatchEvents: yes(),
	capability.WatchResume: no(hypervisor.ReasonPlatform, "Hyper-V keeps no events to resume from: Watch yields a Resync"),

	capability.GuestFacts:  yes(),
	capability.GuestExec:   no(hypervisor.ReasonPlatform, "the WMI provider runs no programs in guests"),
	capability.GuestClock:  no(hypervisor.ReasonPlatform, "the host does not report the guest's clock; its time synchronisation service keeps it right"),
	capability.GuestFreeze: no(hypervisor.ReasonPlatform, "Hyper-V quiesces a guest only while it makes a production checkpoint"),

	capability.HostMaintenance:  no(hypervisor.ReasonPlatform, "a host has no maintenance mode; nodes of a cluster are drained with the cluster's tools"),
	capability.PlacementNative:  no(hypervisor.ReasonPlatform, "Hyper-V has no scheduler"),
	capability.HighAvailability: yes(),
	capability.ReplicationRead:  yes(),
	capability.TaskResume:       partial(hypervisor.ReasonPlatform, "jobs of the host, for five minutes after their end, and work that makes a machine; other composed work is known to its own process only"),
	capability.TaskCancel:       yes(),
	capability.VolumeManage:     yes(),
}

// editionFor returns the restriction by this host's edition, its version and
// its cluster, or the zero Support if there is none.
func (h *host) editionFor(c capability.Name) hypervisor.Support {
	switch c {
	case capability.MigrateLive, capability.MigrateCold, capability.MigrateBoth, capability.MigrateCross:
		if h.client() {
			return no(hypervisor.ReasonEdition, fmt.Sprintf("host %s runs Windows %s; only server editions move machines between hosts", h.id, h.edition()))
		}
	case capability.HighAvailability:
		if h.cluster == "" {
			return no(hypervisor.ReasonConfig, fmt.Sprintf("host %s belongs to no failover cluster", h.id))
		}
	case capability.ReplicationRead:
		if h.client() {
			return no(hypervisor.ReasonEdition, fmt.Sprintf("host %s runs Windows %s; Hyper-V Replica is on server editions only", h.id, h.edition()))
		}
	case capability.DevicePCI, capability.DevicePrepare:
		if h.client() {
			return no(hypervisor.ReasonEdition, fmt.Sprintf("host %s runs Windows %s; only server editions assign devices", h.id, h.edition()))
		}
	case capability.DeviceVGPU:
		if !h.atLeast(17763) {
			return no(hypervisor.ReasonAPIVersion, fmt.Sprintf("host %s runs build %d; GPU partitions came with 17763", h.id, h.build()))
		}
	case capability.MigrateStorage, capability.MigrateLiveStorage:
		if h.client() {
			return no(hypervisor.ReasonEdition, fmt.Sprintf("host %s runs Windows %s, whose WMI has no migration service", h.id, h.edition()))
		}
	}
	return hypervisor.Support{}
}

// Supports implements hypervisor.Driver.
func (d *driver) Supports(ctx context.Context, c capability.Name, scope hypervisor.Ref) (hypervisor.Support, error) {
	s, known := general[c]
	if !known {
		return no(hypervisor.ReasonNotImplemented, "unknown capability"), nil
	}
	if s.Level == hypervisor.LevelNo {
		return s, nil
	}
	switch scope.Kind {
	case hypervisor.ObjectVM, hypervisor.ObjectTemplate:
		return d.machineSupports(ctx, c, s, hypervisor.VMID(scope.ID))
	case hypervisor.ObjectHost:
		h, err := d.host(hypervisor.HostID(scope.ID))
		if err != nil {
			return hypervisor.Support{}, err
		}
		if _, err := h.session(ctx); err != nil {
			return hypervisor.Support{}, err
		}
		if e := h.editionFor(c); e.Level == hypervisor.LevelNo {
			return e, nil
		}
		return d.several(c, s), nil
	}
	return d.several(c, d.someHost(c, s)), nil
}

// someHost returns the answer for the connection: what at least one host
// supports.
func (d *driver) someHost(c capability.Name, s hypervisor.Support) hypervisor.Support {
	var denied hypervisor.Support
	for _, h := range d.hosts {
		if !h.up() {
			continue
		}
		e := h.editionFor(c)
		if e.Level != hypervisor.LevelNo {
			return s
		}
		denied = e
	}
	if denied.Level == hypervisor.LevelNo {
		return denied
	}
	return s
}

// several denies moves between hosts where there is only one.
func (d *driver) several(c capability.Name, s hypervisor.Support) hypervisor.Support {
	switch c {
	case capability.MigrateLive, capability.MigrateCold, capability.MigrateBoth:
		if len(d.hosts) < 2 && s.Level != hypervisor.LevelNo {
			return no(hypervisor.ReasonSingleHost, "this client has one host; open it with two or more")
		}
	}
	return s
}

// machineSupports takes a machine's configuration into account.
func (d *driver) machineSupports(ctx context.Context, c capability.Name, s hypervisor.Support, id hypervisor.VMID) (hypervisor.Support, error) {
	m, err := d.machine(ctx, id)
	if err != nil {
		return hypervisor.Support{}, err
	}
	if e := m.h.editionFor(c); e.Level == hypervisor.LevelNo {
		return e, nil
	}
	s = d.several(c, s)
	if s.Level == hypervisor.LevelNo {
		return s, nil
	}
	if m.notes.Template {
		switch c {
		case capability.VMDelete, capability.Labels, capability.CloneFull, capability.CloneLinked, capability.Templates, capability.Reconfigure:
			return s, nil
		}
		return no(hypervisor.ReasonIsTemplate, "this is a template"), nil
	}
	switch c {
	case capability.NICHotplug:
		if !m.gen2() {
			return no(hypervisor.ReasonPlatform, "the machine is of generation 1"), nil
		}
		return yes(), nil
	case capability.PowerSuspend, capability.MigrateLive, capability.MigrateCold, capability.MigrateBoth, capability.MigrateCross:
		return m.pinned(ctx, s)
	case capability.SnapshotDisk, capability.SnapshotMemory, capability.SnapshotQuiesce, capability.CloneRunning:
		if s, err := m.pinned(ctx, s); err != nil || s.Level == hypervisor.LevelNo {
			return s, err
		}
		return m.imaged(ctx, s)
	case capability.CloneFull, capability.CloneLinked, capability.CloneFromSnapshot, capability.Templates:
		return m.imaged(ctx, s)
	}
	return s, nil
}

// pinned denies what assigned devices rule out.
func (m *machine) pinned(ctx context.Context, s hypervisor.Support) (hypervisor.Support, error) {
	inv, err := readInventory(ctx, m.h, m.s, []int{rowPCI, rowPartitions}, only(m.id))
	if err != nil {
		return s, err
	}
	r := inv.record(string(m.id))
	if len(r.rows[rowPCI]) > 0 {
		return no(hypervisor.ReasonVMPassthrough, "a host device is assigned to the machine"), nil
	}
	if len(r.rows[rowPartitions]) > 0 && !m.h.atLeast(26100) {
		return no(hypervisor.ReasonVMPassthrough, "a GPU partition is assigned to the machine"), nil
	}
	return s, nil
}

// refuse returns the error for something that general denies.
func (d *driver) refuse(on hypervisor.Ref, c capability.Name) error {
	s := general[c]
	return hypervisor.Unsupported(on, c, s.Reason, s.Detail)
}

var (
	_ hypervisor.Driver            = (*driver)(nil)
	_ hypervisor.Lifecycle         = (*driver)(nil)
	_ hypervisor.Powerer           = (*driver)(nil)
	_ hypervisor.Reconfigurer      = (*driver)(nil)
	_ hypervisor.Labeler           = (*driver)(nil)
	_ hypervisor.DiskAttacher      = (*driver)(nil)
	_ hypervisor.NICAttacher       = (*driver)(nil)
	_ hypervisor.Snapshotter       = (*driver)(nil)
	_ hypervisor.Cloner            = (*driver)(nil)
	_ hypervisor.Templater         = (*driver)(nil)
	_ hypervisor.Migrator          = (*driver)(nil)
	_ hypervisor.DeviceAssigner    = (*driver)(nil)
	_ hypervisor.DevicePreparer    = (*driver)(nil)
	_ hypervisor.HostLister        = (*driver)(nil)
	_ hypervisor.StorageManager    = (*driver)(nil)
	_ hypervisor.DependencyLister  = (*driver)(nil)
	_ hypervisor.NetworkLister     = (*driver)(nil)
	_ hypervisor.Watcher           = (*driver)(nil)
	_ hypervisor.GuestAgent        = (*driver)(nil)
	_ hypervisor.ReplicationReader = (*driver)(nil)
	_ hypervisor.Protector         = (*driver)(nil)
)
