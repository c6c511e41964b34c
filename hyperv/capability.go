package hyperv

import (
	"context"
	"fmt"

	"github.com/anyvisor/anyvisor/hypervisor"
)

func yes() hypervisor.Support { return hypervisor.Support{Level: hypervisor.Yes} }

func partial(r hypervisor.ReasonCode, detail string) hypervisor.Support {
	return hypervisor.Support{Level: hypervisor.Partial, Reason: r, Detail: detail}
}

func no(r hypervisor.ReasonCode, detail string) hypervisor.Support {
	return hypervisor.Support{Level: hypervisor.No, Reason: r, Detail: detail}
}

// general is what holds for every host; editions and numbers of hosts come on
// top.
var general = map[hypervisor.Capability]hypervisor.Support{
	hypervisor.VMCreate: yes(), hypervisor.VMDelete: yes(), hypervisor.Labels: yes(), hypervisor.Reconfigure: yes(),
	hypervisor.BootDirect:    no(hypervisor.ReasonPlatform, "Hyper-V starts machines from their firmware only"),
	hypervisor.CPUHotAdd:     no(hypervisor.ReasonPlatform, "Hyper-V changes processors only while the machine is off"),
	hypervisor.MemoryHotAdd:  yes(),
	hypervisor.MemoryDynamic: yes(),
	hypervisor.DiskAttach:    yes(),
	hypervisor.DiskHotplug:   yes(),
	hypervisor.DiskGrow:      yes(),
	hypervisor.DiskGrowLive:  yes(),
	hypervisor.NICAttach:     yes(),
	hypervisor.NICHotplug:    partial(hypervisor.ReasonPlatform, "generation 2 machines only"),

	hypervisor.PowerShutdown: yes(), hypervisor.PowerReset: yes(), hypervisor.PowerPause: yes(), hypervisor.PowerSuspend: yes(),

	hypervisor.SnapshotDisk:    yes(),
	hypervisor.SnapshotMemory:  yes(),
	hypervisor.SnapshotQuiesce: yes(),

	hypervisor.CloneFull: yes(), hypervisor.CloneLinked: yes(), hypervisor.CloneRunning: yes(), hypervisor.CloneFromSnapshot: yes(),
	hypervisor.CloneInstant:   no(hypervisor.ReasonPlatform, "Hyper-V does not fork running machines"),
	hypervisor.CloneCustomize: no(hypervisor.ReasonPlatform, "the WMI provider sets no facts inside guests of a clone: use the guest's own tools (sysprep, cloud-init on a disk or CD)"),
	hypervisor.Templates: partial(hypervisor.ReasonEmulated,
		"Hyper-V has no templates: one is kept as a planned machine, which the host itself does not start, with a definition file to deploy from"),

	hypervisor.MigrateLive: yes(), hypervisor.MigrateCold: yes(), hypervisor.MigrateBoth: yes(),
	hypervisor.MigrateStorage: yes(), hypervisor.MigrateLiveStorage: yes(), hypervisor.MigrateCross: yes(),
	hypervisor.MigratePostCopy: no(hypervisor.ReasonPlatform, "Hyper-V copies memory before the switch only"),
	hypervisor.MigrateTuning:   no(hypervisor.ReasonPlatform, "bandwidth and downtime are settings of the hosts; only compression is chosen for one migration"),

	hypervisor.DevicePCI:     yes(),
	hypervisor.DeviceVF:      no(hypervisor.ReasonPlatform, `a switch hands out the virtual functions of its network card: attach an adapter of model "sr-iov" to a network that has SR-IOV`),
	hypervisor.DeviceVGPU:    yes(),
	hypervisor.DeviceHotplug: no(hypervisor.ReasonPlatform, "Hyper-V gives and takes devices only while the machine is off"),
	hypervisor.DevicePrepare: yes(),

	hypervisor.WatchEvents: yes(),
	hypervisor.WatchResume: no(hypervisor.ReasonPlatform, "Hyper-V keeps no events to resume from: Watch yields a Resync"),

	hypervisor.GuestFacts:  yes(),
	hypervisor.GuestExec:   no(hypervisor.ReasonPlatform, "the WMI provider runs no programs in guests"),
	hypervisor.GuestClock:  no(hypervisor.ReasonPlatform, "the host does not tell the guest's clock; its time synchronisation service keeps it right"),
	hypervisor.GuestFreeze: no(hypervisor.ReasonPlatform, "the guest is quieted inside a production checkpoint only"),

	hypervisor.HostMaintenance:  no(hypervisor.ReasonPlatform, "a host has no maintenance mode; nodes of a cluster are drained with the cluster's tools"),
	hypervisor.PlacementNative:  no(hypervisor.ReasonPlatform, "Hyper-V has no scheduler"),
	hypervisor.HighAvailability: yes(),
	hypervisor.ReplicationRead:  yes(),
	hypervisor.TaskResume:       partial(hypervisor.ReasonPlatform, "jobs of the host, for five minutes after their end, and work that makes a machine; other composed work is known to its own process only"),
	hypervisor.TaskCancel:       yes(),
	hypervisor.VolumeManage:     yes(),
}

// editionFor tells what this host's edition, its version and its cluster
// decide; the zero Support if nothing.
func (h *host) editionFor(c hypervisor.Capability) hypervisor.Support {
	switch c {
	case hypervisor.MigrateLive, hypervisor.MigrateCold, hypervisor.MigrateBoth, hypervisor.MigrateCross:
		if h.client() {
			return no(hypervisor.ReasonEdition, fmt.Sprintf("host %s runs Windows %s; only server editions move machines between hosts", h.id, h.edition()))
		}
	case hypervisor.HighAvailability:
		if h.cluster == "" {
			return no(hypervisor.ReasonConfig, fmt.Sprintf("host %s belongs to no failover cluster", h.id))
		}
	case hypervisor.ReplicationRead:
		if h.client() {
			return no(hypervisor.ReasonEdition, fmt.Sprintf("host %s runs Windows %s; Hyper-V Replica is on server editions only", h.id, h.edition()))
		}
	case hypervisor.DevicePCI, hypervisor.DevicePrepare:
		if h.client() {
			return no(hypervisor.ReasonEdition, fmt.Sprintf("host %s runs Windows %s; only server editions assign devices", h.id, h.edition()))
		}
	case hypervisor.DeviceVGPU:
		if !h.atLeast(17763) {
			return no(hypervisor.ReasonAPIVersion, fmt.Sprintf("host %s runs build %d; GPU partitions came with 17763", h.id, h.build()))
		}
	case hypervisor.MigrateStorage, hypervisor.MigrateLiveStorage:
		if h.client() {
			return no(hypervisor.ReasonEdition, fmt.Sprintf("host %s runs Windows %s, whose WMI has no migration service", h.id, h.edition()))
		}
	}
	return hypervisor.Support{}
}

// Supports implements hypervisor.Driver.
func (d *driver) Supports(ctx context.Context, c hypervisor.Capability, scope hypervisor.Ref) (hypervisor.Support, error) {
	s, known := general[c]
	if !known {
		return no(hypervisor.ReasonNotImplemented, "unknown capability"), nil
	}
	if s.Level == hypervisor.No {
		return s, nil
	}
	switch scope.Kind {
	case hypervisor.KindOfVM, hypervisor.KindOfTemplate:
		return d.machineSupports(ctx, c, s, hypervisor.VMID(scope.ID))
	case hypervisor.KindOfHost:
		h, err := d.host(hypervisor.HostID(scope.ID))
		if err != nil {
			return hypervisor.Support{}, err
		}
		if _, err := h.session(ctx); err != nil {
			return hypervisor.Support{}, err
		}
		if e := h.editionFor(c); e.Level == hypervisor.No {
			return e, nil
		}
		return d.several(c, s), nil
	}
	return d.several(c, d.someHost(c, s)), nil
}

// someHost is the answer for the connection: what at least one host can.
func (d *driver) someHost(c hypervisor.Capability, s hypervisor.Support) hypervisor.Support {
	var denied hypervisor.Support
	for _, h := range d.hosts {
		h.mu.Lock()
		up := h.s != nil
		h.mu.Unlock()
		if !up {
			continue
		}
		e := h.editionFor(c)
		if e.Level != hypervisor.No {
			return s
		}
		denied = e
	}
	if denied.Level == hypervisor.No {
		return denied
	}
	return s
}

// several denies moves between hosts where there is only one.
func (d *driver) several(c hypervisor.Capability, s hypervisor.Support) hypervisor.Support {
	switch c {
	case hypervisor.MigrateLive, hypervisor.MigrateCold, hypervisor.MigrateBoth:
		if len(d.hosts) < 2 && s.Level != hypervisor.No {
			return no(hypervisor.ReasonSingleHost, "this client has one host; open it with two or more")
		}
	}
	return s
}

// machineSupports takes a machine's configuration into account.
func (d *driver) machineSupports(ctx context.Context, c hypervisor.Capability, s hypervisor.Support, id hypervisor.VMID) (hypervisor.Support, error) {
	m, err := d.machine(ctx, id)
	if err != nil {
		return hypervisor.Support{}, err
	}
	if e := m.h.editionFor(c); e.Level == hypervisor.No {
		return e, nil
	}
	s = d.several(c, s)
	if s.Level == hypervisor.No {
		return s, nil
	}
	if m.notes.Template {
		switch c {
		case hypervisor.VMDelete, hypervisor.Labels, hypervisor.CloneFull, hypervisor.CloneLinked, hypervisor.Templates, hypervisor.Reconfigure:
			return s, nil
		}
		return no(hypervisor.ReasonIsTemplate, "this is a template"), nil
	}
	switch c {
	case hypervisor.NICHotplug:
		if !m.gen2() {
			return no(hypervisor.ReasonPlatform, "the machine is of generation 1"), nil
		}
		return yes(), nil
	case hypervisor.PowerSuspend, hypervisor.MigrateLive, hypervisor.MigrateCold, hypervisor.MigrateBoth, hypervisor.MigrateCross,
		hypervisor.SnapshotDisk, hypervisor.SnapshotMemory, hypervisor.SnapshotQuiesce, hypervisor.CloneRunning:
		return m.pinned(ctx, s)
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

// refuse is the error for something that general denies.
func (d *driver) refuse(on hypervisor.Ref, c hypervisor.Capability) error {
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
