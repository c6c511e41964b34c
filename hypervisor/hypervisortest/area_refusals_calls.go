package hypervisortest

import (
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// whileOff are calls on a machine that is off.
var whileOff = map[capability.Name]attempt{
	capability.Labels: func(e *env, vm *hypervisor.VM) error { return vm.SetLabels(e.ctx, map[string]string{"a": "b"}) },
	capability.BootDirect: tryCreate(func(s *hypervisor.VMSpec) {
		s.Boot = &hypervisor.DirectBoot{Kernel: "/boot/vmlinuz"}
	}),
	capability.MemoryDynamic: tryCreate(func(s *hypervisor.VMSpec) {
		s.DynamicMemory = &hypervisor.MemoryRange{MinBytes: s.MemoryBytes / 2 / hypervisor.MiB * hypervisor.MiB, MaxBytes: s.MemoryBytes}
	}),
	capability.Reconfigure:    tryCPUs,
	capability.DiskAttach:     tryAttachDisk,
	capability.DiskGrow:       tryGrow,
	capability.NICAttach:      tryAttachNIC,
	capability.SnapshotDisk:   trySnapshot(hypervisor.SnapshotOptions{}),
	capability.CloneFull:      tryClone(hypervisor.CloneOptions{}),
	capability.CloneLinked:    tryClone(hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}),
	capability.CloneCustomize: tryClone(hypervisor.CloneOptions{Customize: &hypervisor.Customization{HostName: "guest1"}}),
	capability.Templates:      func(e *env, vm *hypervisor.VM) error { return errOf(e, vm.MarkTemplate(e.ctx)) },
	capability.MigrateCold:    tryMigrate(hypervisor.MigrateModeCold),
	capability.DevicePCI:      tryDevice(hypervisor.DeviceRequest{Class: hypervisor.ClassDisplay}),
	capability.DeviceVF:       tryDevice(hypervisor.DeviceRequest{Class: hypervisor.ClassNetwork, VirtualFunction: true}),
	capability.DeviceVGPU:     tryDevice(hypervisor.DeviceRequest{Profile: "any"}),
	capability.HostMaintenance: func(e *env, _ *hypervisor.VM) error {
		return errOf(e, e.c.Host(e.lastHost()).EnterMaintenance(e.ctx, nil))
	},
	capability.HighAvailability: func(e *env, vm *hypervisor.VM) error {
		return errOf(e, vm.SetRestartPriority(e.ctx, hypervisor.RestartHigh))
	},
	capability.ReplicationRead: func(e *env, vm *hypervisor.VM) error { _, err := vm.Replication(e.ctx); return err },
	capability.VolumeManage:    tryVolume,
}

// whileRunning are calls on a machine that runs.
var whileRunning = map[capability.Name]attempt{
	capability.CPUHotAdd: tryCPUs,
	capability.MemoryHotAdd: func(e *env, vm *hypervisor.VM) error {
		return errOf(e, vm.Reconfigure(e.ctx, hypervisor.Changes{MemoryBytes: e.info(vm).MemoryBytes + 128*hypervisor.MiB}))
	},
	capability.DiskHotplug:     tryAttachDisk,
	capability.DiskGrowLive:    tryGrow,
	capability.NICHotplug:      tryAttachNIC,
	capability.PowerShutdown:   func(e *env, vm *hypervisor.VM) error { return errOf(e, vm.Shutdown(e.ctx, nil)) },
	capability.PowerReset:      func(e *env, vm *hypervisor.VM) error { return errOf(e, vm.Reset(e.ctx)) },
	capability.PowerPause:      func(e *env, vm *hypervisor.VM) error { return errOf(e, vm.Pause(e.ctx)) },
	capability.PowerSuspend:    func(e *env, vm *hypervisor.VM) error { return errOf(e, vm.Suspend(e.ctx)) },
	capability.SnapshotMemory:  trySnapshot(hypervisor.SnapshotOptions{Memory: true}),
	capability.SnapshotQuiesce: trySnapshot(hypervisor.SnapshotOptions{Quiesce: true}),
	capability.CloneInstant:    tryClone(hypervisor.CloneOptions{Mode: hypervisor.CloneModeInstant}),
	capability.CloneRunning:    tryClone(hypervisor.CloneOptions{}),
	capability.MigrateLive:     tryMigrate(hypervisor.MigrateModeLive),
	capability.GuestFacts:      func(e *env, vm *hypervisor.VM) error { _, err := vm.Guest(e.ctx); return err },
	capability.GuestExec: func(e *env, vm *hypervisor.VM) error {
		_, err := vm.Exec(e.ctx, hypervisor.ExecRequest{Path: "/bin/true"})
		return err
	},
	capability.GuestClock:  func(e *env, vm *hypervisor.VM) error { _, err := vm.Clock(e.ctx); return err },
	capability.GuestFreeze: func(e *env, vm *hypervisor.VM) error { return vm.Freeze(e.ctx) },
}

// kept registers a machine for removal if a call made it that should have
// been refused.
func (e *env) kept(t *hypervisor.Task[*hypervisor.VM]) error {
	vm, err := t.Wait(e.ctx)
	if err == nil {
		e.keep(vm.ID())
	}
	return err
}

func tryCreate(f change) attempt {
	return func(e *env, _ *hypervisor.VM) error {
		s := e.Spec(e.name("denied"))
		f(&s)
		return e.kept(e.c.CreateVM(e.ctx, s))
	}
}

func tryClone(o hypervisor.CloneOptions) attempt {
	return func(e *env, vm *hypervisor.VM) error { return e.kept(vm.Clone(e.ctx, e.name("denied"), &o)) }
}

func trySnapshot(o hypervisor.SnapshotOptions) attempt {
	return func(e *env, vm *hypervisor.VM) error { return errOf(e, vm.CreateSnapshot(e.ctx, "denied", &o)) }
}

func tryDevice(r hypervisor.DeviceRequest) attempt {
	return func(e *env, vm *hypervisor.VM) error { return errOf(e, vm.AttachDevice(e.ctx, r)) }
}

func tryMigrate(m hypervisor.MigrateMode) attempt {
	return func(e *env, vm *hypervisor.VM) error {
		return errOf(e, vm.Migrate(e.ctx, hypervisor.MigrateOptions{Host: e.lastHost(), Mode: m}))
	}
}

func (e *env) lastHost() hypervisor.HostID {
	h := e.hostIDs()
	return h[len(h)-1]
}

func tryCPUs(e *env, vm *hypervisor.VM) error {
	return errOf(e, vm.Reconfigure(e.ctx, hypervisor.Changes{CPUs: 2}))
}

func tryAttachDisk(e *env, vm *hypervisor.VM) error {
	return errOf(e, vm.AttachDisk(e.ctx, hypervisor.DiskSpec{SizeBytes: 8 * hypervisor.MiB}))
}

func tryAttachNIC(e *env, vm *hypervisor.VM) error {
	return errOf(e, vm.AttachNIC(e.ctx, hypervisor.NICSpec{}))
}

func tryGrow(e *env, vm *hypervisor.VM) error {
	d := e.info(vm).Disks[0]
	return errOf(e, vm.GrowDisk(e.ctx, d.ID, d.SizeBytes+8*hypervisor.MiB))
}

func tryVolume(e *env, _ *hypervisor.VM) error {
	spec := hypervisor.VolumeSpec{Name: e.name("vol"), Datastore: "any", SizeBytes: 16 * hypervisor.MiB}
	for ds, err := range e.c.Datastores(e.ctx) {
		if err != nil {
			return err
		}
		spec.Datastore = ds.ID
		break
	}
	return errOf(e, e.c.CreateVolume(e.ctx, spec))
}
