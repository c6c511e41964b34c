package fake

import (
	"context"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// editions lists what each edition lacks. "standard" has no scheduler and no
// vGPU. "free" also lacks everything that moves running machines, hot-plug,
// maintenance mode, HA and replication, like the lesser editions of the real
// platforms.
var editions = map[string][]capability.Name{
	"":         nil,
	"full":     nil,
	"standard": {capability.PlacementNative, capability.DeviceVGPU, capability.CloneInstant, capability.MigrateCross},
	"free": {capability.PlacementNative, capability.DeviceVGPU, capability.CloneInstant, capability.MigrateCross,
		capability.MigrateLive, capability.MigrateLiveStorage, capability.MigrateBoth, capability.MigratePostCopy, capability.MigrateTuning,
		capability.CPUHotAdd, capability.MemoryHotAdd, capability.HostMaintenance, capability.HighAvailability, capability.ReplicationRead},
}

var yes = hypervisor.Support{Level: hypervisor.LevelYes}

func no(r hypervisor.ReasonCode, detail string) hypervisor.Support {
	return hypervisor.Support{Level: hypervisor.LevelNo, Reason: r, Detail: detail}
}

// Supports reports for the whole backend, a host, a machine or a device.
func (d *Driver) Supports(ctx context.Context, k capability.Name, scope hypervisor.Ref) (hypervisor.Support, error) {
	if err := d.read(ctx, op.ClientSupports, scope); err != nil {
		return hypervisor.Support{}, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	var err error
	switch scope.Kind {
	case hypervisor.ObjectVM, hypervisor.ObjectTemplate:
		_, err = b.vm(hypervisor.VMID(scope.ID))
	case hypervisor.ObjectHost:
		_, err = b.host(hypervisor.HostID(scope.ID))
	case hypervisor.ObjectDevice:
		_, err = b.device(hypervisor.DeviceID(scope.ID))
	}
	if err != nil {
		return hypervisor.Support{}, err
	}
	return b.supports(k, scope), nil
}

// require is the check that every call makes. It fails with the reason that
// supports gives for the scope.
func (b *Backend) require(k capability.Name, scope, on hypervisor.Ref) error {
	s := b.supports(k, scope)
	if s.Level != hypervisor.LevelNo {
		return nil
	}
	e := hypervisor.Unsupported(on, k, s.Reason, s.Detail)
	return e
}

var known = func() map[capability.Name]bool {
	m := map[capability.Name]bool{}
	for _, k := range capability.All() {
		m[k] = true
	}
	return m
}()

// base is the capability that another one depends on: without the base it
// isn't supported either.
var base = map[capability.Name]capability.Name{
	capability.DiskHotplug: capability.DiskAttach, capability.DiskGrowLive: capability.DiskGrow, capability.NICHotplug: capability.NICAttach,
	capability.CPUHotAdd: capability.Reconfigure, capability.MemoryHotAdd: capability.Reconfigure,
	capability.SnapshotMemory: capability.SnapshotDisk, capability.SnapshotQuiesce: capability.SnapshotDisk,
	capability.CloneFromSnapshot: capability.CloneFull, capability.CloneRunning: capability.CloneFull, capability.CloneCustomize: capability.CloneFull,
	capability.MigratePostCopy: capability.MigrateLive, capability.MigrateTuning: capability.MigrateLive, capability.WatchResume: capability.WatchEvents,
}

// supports reports for a scope that exists.
func (b *Backend) supports(k capability.Name, scope hypervisor.Ref) hypervisor.Support {
	if on, ok := base[k]; ok {
		if s := b.supports(on, hypervisor.Ref{}); s.Level == hypervisor.LevelNo {
			return s
		}
	}
	if !known[k] {
		return no(hypervisor.ReasonNotImplemented, "this package doesn't know "+string(k))
	}
	s, ok := b.cfg.Disable[k]
	if ok && s.Level == hypervisor.LevelNo {
		return s
	}
	if !ok {
		s = yes
		for _, x := range editions[b.cfg.Edition] {
			if x == k {
				return no(hypervisor.ReasonEdition, "edition "+b.cfg.Edition+" lacks it: change to the full edition")
			}
		}
	}
	switch k {
	case capability.MigrateLive, capability.MigrateBoth, capability.MigrateCold, capability.MigratePostCopy, capability.MigrateTuning:
		if len(b.st.Hosts) < 2 {
			return no(hypervisor.ReasonSingleHost, "there is no second host")
		}
	case capability.DevicePCI, capability.DeviceVF, capability.DeviceVGPU:
		if n := b.assignable(k, scope); n.Level == hypervisor.LevelNo {
			return n
		}
	case capability.DeviceHotplug:
		if n := b.assignable(capability.DevicePCI, scope); n.Level == hypervisor.LevelNo && b.assignable(capability.DeviceVF, scope).Level == hypervisor.LevelNo {
			return n
		}
	}
	if scope.Kind == hypervisor.ObjectVM || scope.Kind == hypervisor.ObjectTemplate {
		if m := b.vms[hypervisor.VMID(scope.ID)]; m != nil {
			if n := b.machineSupports(k, m); n.Level == hypervisor.LevelNo {
				return n
			}
		}
	}
	return s
}

// machineSupports finds what a machine's configuration rules out. Its power
// state does not affect support: a wrong state fails as InvalidState.
func (b *Backend) machineSupports(k capability.Name, m *vm) hypervisor.Support {
	switch k {
	case capability.SnapshotMemory, capability.PowerSuspend, capability.MigrateLive, capability.MigrateBoth, capability.MigratePostCopy,
		capability.MigrateLiveStorage, capability.CloneInstant:
		if d := m.device(); d != "" {
			return no(hypervisor.ReasonVMPassthrough, "the state of device "+d+" can't be saved or moved")
		}
		if len(m.Devices) > 0 {
			return no(hypervisor.ReasonVMPassthrough, "the state of the host device "+string(m.Devices[0].ID)+" can't be saved or moved: detach it")
		}
	case capability.PowerShutdown, capability.SnapshotQuiesce, capability.GuestFacts, capability.GuestExec, capability.GuestClock, capability.GuestFreeze,
		capability.CloneCustomize:
		if !m.Guest.Tools {
			return no(hypervisor.ReasonToolsMissing, "no guest tools are installed")
		}
	case capability.CPUHotAdd:
		if m.MaxCPU <= m.CPUs && m.State != hypervisor.StateOff {
			return no(hypervisor.ReasonHotAddOff, "the machine has as many CPUs as it was made for (MaxCPUs)")
		}
	case capability.MemoryHotAdd:
		if m.MaxMem <= m.Mem && m.Dynamic == nil && m.State != hypervisor.StateOff {
			return no(hypervisor.ReasonHotAddOff, "the machine has as much memory as it was made for (MaxMemoryBytes)")
		}
	}
	if m.Template {
		switch k {
		case capability.PowerShutdown, capability.PowerReset, capability.PowerPause, capability.PowerSuspend, capability.SnapshotDisk,
			capability.SnapshotMemory, capability.SnapshotQuiesce, capability.CloneInstant, capability.MigrateLive, capability.MigrateBoth,
			capability.MigrateLiveStorage, capability.DiskAttach, capability.DiskGrow, capability.NICAttach, capability.DevicePCI:
			return no(hypervisor.ReasonIsTemplate, "it is a template: turn it into a machine first")
		}
	}
	return yes
}

// assignable reports whether any host (or the one in scope) has such a device
// that could be given to a machine.
func (b *Backend) assignable(k capability.Name, scope hypervisor.Ref) hypervisor.Support {
	why := no(hypervisor.ReasonNoDevice, "no host has such a device")
	for _, dv := range b.st.Devices {
		if scope.Kind == hypervisor.ObjectHost && scope.ID != string(dv.Host) || scope.Kind == hypervisor.ObjectDevice && scope.ID != string(dv.ID) {
			continue
		}
		switch fits := dv.Kind == hypervisor.DeviceKindVF || dv.MaxVFs > 0; {
		case k == capability.DeviceVF && !fits, k == capability.DevicePCI && dv.Kind == hypervisor.DeviceKindVF,
			k == capability.DeviceVGPU && len(dv.Profiles) == 0:
			continue
		}
		r, text := b.unfit(dv)
		if r == "" {
			return yes
		}
		why = no(r, text)
	}
	return why
}
