package fake

import (
	"context"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// editions says what each edition lacks. "standard" has no scheduler and no
// vGPU, "free" in addition nothing that moves running machines, no hot add,
// no maintenance mode, HA or replication, as the lesser editions of the real platforms.
var editions = map[string][]hypervisor.Capability{
	"":         nil,
	"full":     nil,
	"standard": {hypervisor.PlacementNative, hypervisor.DeviceVGPU, hypervisor.CloneInstant, hypervisor.MigrateCross},
	"free": {hypervisor.PlacementNative, hypervisor.DeviceVGPU, hypervisor.CloneInstant, hypervisor.MigrateCross,
		hypervisor.MigrateLive, hypervisor.MigrateLiveStorage, hypervisor.MigrateBoth, hypervisor.MigratePostCopy, hypervisor.MigrateTuning,
		hypervisor.CPUHotAdd, hypervisor.MemoryHotAdd, hypervisor.HostMaintenance, hypervisor.HighAvailability, hypervisor.ReplicationRead},
}

var yes = hypervisor.Support{Level: hypervisor.Yes}

func no(r hypervisor.ReasonCode, detail string) hypervisor.Support {
	return hypervisor.Support{Level: hypervisor.No, Reason: r, Detail: detail}
}

// Supports answers for the whole backend, a host, a machine or a device.
func (d *Driver) Supports(ctx context.Context, k hypervisor.Capability, scope hypervisor.Ref) (hypervisor.Support, error) {
	if err := d.read(ctx, "supports", scope); err != nil {
		return hypervisor.Support{}, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	var err error
	switch scope.Kind {
	case hypervisor.KindOfVM, hypervisor.KindOfTemplate:
		_, err = b.vm(hypervisor.VMID(scope.ID))
	case hypervisor.KindOfHost:
		_, err = b.host(hypervisor.HostID(scope.ID))
	case hypervisor.KindOfDevice:
		_, err = b.device(hypervisor.DeviceID(scope.ID))
	}
	if err != nil {
		return hypervisor.Support{}, err
	}
	return b.supports(k, scope), nil
}

// require is the check that every call makes: it fails with the reason that
// supports gives for the scope.
func (b *Backend) require(k hypervisor.Capability, scope, on hypervisor.Ref) error {
	s := b.supports(k, scope)
	if s.Level != hypervisor.No {
		return nil
	}
	e := hypervisor.Unsupported(on, k, s.Reason, s.Detail)
	return e
}

var known = func() map[hypervisor.Capability]bool {
	m := map[hypervisor.Capability]bool{}
	for _, k := range hypervisor.Capabilities() {
		m[k] = true
	}
	return m
}()

// base is what a capability builds on: without that it isn't there either.
var base = map[hypervisor.Capability]hypervisor.Capability{
	hypervisor.DiskHotplug: hypervisor.DiskAttach, hypervisor.DiskGrowLive: hypervisor.DiskGrow, hypervisor.NICHotplug: hypervisor.NICAttach,
	hypervisor.CPUHotAdd: hypervisor.Reconfigure, hypervisor.MemoryHotAdd: hypervisor.Reconfigure,
	hypervisor.SnapshotMemory: hypervisor.SnapshotDisk, hypervisor.SnapshotQuiesce: hypervisor.SnapshotDisk,
	hypervisor.CloneFromSnapshot: hypervisor.CloneFull, hypervisor.CloneRunning: hypervisor.CloneFull, hypervisor.CloneCustomize: hypervisor.CloneFull,
	hypervisor.MigratePostCopy: hypervisor.MigrateLive, hypervisor.MigrateTuning: hypervisor.MigrateLive, hypervisor.WatchResume: hypervisor.WatchEvents,
}

// supports answers for a scope that exists.
func (b *Backend) supports(k hypervisor.Capability, scope hypervisor.Ref) hypervisor.Support {
	if on, ok := base[k]; ok {
		if s := b.supports(on, hypervisor.Ref{}); s.Level == hypervisor.No {
			return s
		}
	}
	if !known[k] {
		return no(hypervisor.ReasonNotImplemented, "this package doesn't know "+string(k))
	}
	s, ok := b.cfg.Disable[k]
	if ok && s.Level == hypervisor.No {
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
	case hypervisor.MigrateLive, hypervisor.MigrateBoth, hypervisor.MigrateCold, hypervisor.MigratePostCopy, hypervisor.MigrateTuning:
		if len(b.st.Hosts) < 2 {
			return no(hypervisor.ReasonSingleHost, "there is no second host")
		}
	case hypervisor.DevicePCI, hypervisor.DeviceVF, hypervisor.DeviceVGPU:
		if n := b.assignable(k, scope); n.Level == hypervisor.No {
			return n
		}
	case hypervisor.DeviceHotplug:
		if n := b.assignable(hypervisor.DevicePCI, scope); n.Level == hypervisor.No && b.assignable(hypervisor.DeviceVF, scope).Level == hypervisor.No {
			return n
		}
	}
	if scope.Kind == hypervisor.KindOfVM || scope.Kind == hypervisor.KindOfTemplate {
		if m := b.vms[hypervisor.VMID(scope.ID)]; m != nil {
			if n := b.machineSupports(k, m); n.Level == hypervisor.No {
				return n
			}
		}
	}
	return s
}

// machineSupports knows what a machine's configuration rules out. Its power
// state is no matter of support: that fails as InvalidState.
func (b *Backend) machineSupports(k hypervisor.Capability, m *vm) hypervisor.Support {
	switch k {
	case hypervisor.SnapshotMemory, hypervisor.PowerSuspend, hypervisor.MigrateLive, hypervisor.MigrateBoth, hypervisor.MigratePostCopy,
		hypervisor.MigrateLiveStorage, hypervisor.CloneInstant:
		if len(m.Devices) > 0 {
			return no(hypervisor.ReasonVMPassthrough, "the state of the host device "+string(m.Devices[0].ID)+" can't be saved or moved: detach it")
		}
	case hypervisor.PowerShutdown, hypervisor.SnapshotQuiesce, hypervisor.GuestFacts, hypervisor.GuestExec, hypervisor.GuestClock, hypervisor.GuestFreeze,
		hypervisor.CloneCustomize:
		if !m.Guest.Tools {
			return no(hypervisor.ReasonToolsMissing, "no guest tools are installed")
		}
	case hypervisor.CPUHotAdd:
		if m.MaxCPU <= m.CPUs && m.State != hypervisor.Off {
			return no(hypervisor.ReasonHotAddOff, "the machine has as many CPUs as it was made for (MaxCPUs)")
		}
	case hypervisor.MemoryHotAdd:
		if m.MaxMem <= m.Mem && m.Dynamic == nil && m.State != hypervisor.Off {
			return no(hypervisor.ReasonHotAddOff, "the machine has as much memory as it was made for (MaxMemory)")
		}
	}
	if m.Template {
		switch k {
		case hypervisor.PowerShutdown, hypervisor.PowerReset, hypervisor.PowerPause, hypervisor.PowerSuspend, hypervisor.SnapshotDisk,
			hypervisor.SnapshotMemory, hypervisor.SnapshotQuiesce, hypervisor.CloneInstant, hypervisor.MigrateLive, hypervisor.MigrateBoth,
			hypervisor.MigrateLiveStorage, hypervisor.DiskAttach, hypervisor.DiskGrow, hypervisor.NICAttach, hypervisor.DevicePCI:
			return no(hypervisor.ReasonIsTemplate, "it is a template: turn it into a machine first")
		}
	}
	return yes
}

// assignable tells whether any host (or the one in scope) has such a device
// that could be given to a machine.
func (b *Backend) assignable(k hypervisor.Capability, scope hypervisor.Ref) hypervisor.Support {
	why := no(hypervisor.ReasonNoDevice, "no host has such a device")
	for _, dv := range b.st.Devices {
		if scope.Kind == hypervisor.KindOfHost && scope.ID != string(dv.Host) || scope.Kind == hypervisor.KindOfDevice && scope.ID != string(dv.ID) {
			continue
		}
		switch fits := dv.Kind == hypervisor.VirtualFunction || dv.MaxVFs > 0; {
		case k == hypervisor.DeviceVF && !fits, k == hypervisor.DevicePCI && dv.Kind == hypervisor.VirtualFunction,
			k == hypervisor.DeviceVGPU && len(dv.Profiles) == 0:
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
