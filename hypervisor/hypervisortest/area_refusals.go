package hypervisortest

import (
	"github.com/anyvisor/anyvisor/hypervisor"
)

// refusals: every capability has a level; what is denied is refused with the
// same reason and without a trace.
func refusals(e *env) {
	vm := e.create("vm")
	var denied []hypervisor.Capability
	for _, k := range hypervisor.Capabilities() {
		yes := e.has(k)
		s, err := e.c.Supports(e.ctx, k, hypervisor.Ref{})
		e.ok(err, "Supports(%s)", k)
		switch {
		case s.Level == hypervisor.Yes && s.Reason != "":
			e.Errorf("%s is Yes with a reason why not: %s", k, s.Reason)
		case s.Level != hypervisor.Yes && s.Reason == "":
			e.Errorf("%s is %s without a reason", k, s.Level)
		case s.Level != hypervisor.Yes && s.Detail == "":
			e.Errorf("%s is %s (%s) without a sentence", k, s.Level, s.Reason)
		}
		if !yes && s.Level == hypervisor.No {
			denied = append(denied, k)
		}
	}
	if s, err := e.c.Supports(e.ctx, "no.such.thing", hypervisor.Ref{}); err != nil || s.Level != hypervisor.No {
		e.Errorf("Supports of an unknown capability: %+v, %v; want No", s, err)
	}
	if _, err := vm.Supports(e.ctx, hypervisor.SnapshotMemory); err != nil {
		e.Errorf("Supports of a machine: %v", err)
	}
	count, images := e.count(), e.listImages()
	before := e.info(vm)
	try := func(k hypervisor.Capability) {
		if f := e.attempt(vm, k); f != nil {
			e.refused(f(), k, vm.ID().Ref())
		}
	}
	var running []hypervisor.Capability
	for _, k := range denied {
		if whileRunning[k] {
			running = append(running, k)
		} else {
			try(k)
		}
	}
	// One boot for all of them: on emulated hardware it takes long.
	for n, k := range running {
		if n == 0 || e.info(vm).State != hypervisor.Running {
			e.start(vm)
		}
		try(k)
	}
	e.off(vm)
	if n := e.count(); n != count {
		e.Errorf("refused calls changed the number of machines from %d to %d", count, n)
	}
	if a := e.added(images); len(a) > 0 {
		e.Errorf("refused calls left the images %v", a)
	}
	after := e.info(vm)
	if after.CPUs != before.CPUs || after.MemoryBytes != before.MemoryBytes || len(after.Disks) != len(before.Disks) || after.Snapshots != before.Snapshots || after.Name != before.Name {
		e.Errorf("refused calls changed the machine from %+v to %+v", before, after)
	}
}

// whileRunning are the capabilities that are about machines that run.
var whileRunning = map[hypervisor.Capability]bool{
	hypervisor.CPUHotAdd: true, hypervisor.MemoryHotAdd: true, hypervisor.DiskHotplug: true, hypervisor.DiskGrowLive: true, hypervisor.NICHotplug: true,
	hypervisor.PowerShutdown: true, hypervisor.PowerReset: true, hypervisor.PowerPause: true, hypervisor.PowerSuspend: true,
	hypervisor.SnapshotMemory: true, hypervisor.SnapshotQuiesce: true, hypervisor.CloneInstant: true, hypervisor.CloneRunning: true, hypervisor.MigrateLive: true,
	hypervisor.GuestFacts: true, hypervisor.GuestExec: true, hypervisor.GuestClock: true, hypervisor.GuestFreeze: true,
}

// attempt returns a call that needs the capability and that, with the machine
// off or in whileRunning's case running, nothing else stands against; or nil
// if there is none.
func (e *env) attempt(vm *hypervisor.VM, k hypervisor.Capability) func() error {
	none := func(f func() *hypervisor.Task[hypervisor.None]) func() error {
		return func() error { _, err := f().Wait(e.ctx); return err }
	}
	create := func(f func(*hypervisor.VMSpec)) func() error {
		return func() error {
			s := e.Spec(e.name("denied"))
			f(&s)
			v, err := e.c.CreateVM(e.ctx, s).Wait(e.ctx)
			if err == nil {
				e.keep(v.ID())
			}
			return err
		}
	}
	clone := func(o hypervisor.CloneOptions) func() error {
		return func() error {
			v, err := vm.Clone(e.ctx, e.name("denied"), &o).Wait(e.ctx)
			if err == nil {
				e.keep(v.ID())
			}
			return err
		}
	}
	snapshot := func(o hypervisor.SnapshotOptions) func() error {
		return func() error { _, err := vm.CreateSnapshot(e.ctx, "denied", &o).Wait(e.ctx); return err }
	}
	migrate := func(o hypervisor.MigrateOptions) func() error {
		return func() error { _, err := vm.Migrate(e.ctx, o).Wait(e.ctx); return err }
	}
	device := func(r hypervisor.DeviceRequest) func() error {
		return func() error { _, err := vm.AttachDevice(e.ctx, r).Wait(e.ctx); return err }
	}
	here := func() hypervisor.HostID {
		h := e.hostIDs()
		return h[len(h)-1]
	}
	switch k {
	case hypervisor.Labels:
		return func() error { return vm.SetLabels(e.ctx, map[string]string{"a": "b"}) }
	case hypervisor.BootDirect:
		return create(func(s *hypervisor.VMSpec) { s.Boot = &hypervisor.DirectBoot{Kernel: "/boot/vmlinuz"} })
	case hypervisor.MemoryDynamic:
		return create(func(s *hypervisor.VMSpec) {
			s.DynamicMemory = &hypervisor.MemoryRange{MinBytes: s.MemoryBytes / 2 / hypervisor.MiB * hypervisor.MiB, MaxBytes: s.MemoryBytes}
		})
	case hypervisor.Reconfigure:
		return none(func() *hypervisor.Task[hypervisor.None] {
			return vm.Reconfigure(e.ctx, hypervisor.Changes{CPUs: 2})
		})
	case hypervisor.CPUHotAdd:
		return none(func() *hypervisor.Task[hypervisor.None] {
			return vm.Reconfigure(e.ctx, hypervisor.Changes{CPUs: 2})
		})
	case hypervisor.MemoryHotAdd:
		return none(func() *hypervisor.Task[hypervisor.None] {
			return vm.Reconfigure(e.ctx, hypervisor.Changes{MemoryBytes: e.info(vm).MemoryBytes + 128*hypervisor.MiB})
		})
	case hypervisor.DiskAttach, hypervisor.DiskHotplug:
		return func() error {
			_, err := vm.AttachDisk(e.ctx, hypervisor.DiskSpec{SizeBytes: 8 * hypervisor.MiB}).Wait(e.ctx)
			return err
		}
	case hypervisor.DiskGrow, hypervisor.DiskGrowLive:
		i := e.info(vm)
		if len(i.Disks) == 0 {
			return nil
		}
		return none(func() *hypervisor.Task[hypervisor.None] {
			return vm.GrowDisk(e.ctx, i.Disks[0].ID, i.Disks[0].SizeBytes+8*hypervisor.MiB)
		})
	case hypervisor.NICAttach, hypervisor.NICHotplug:
		return func() error { _, err := vm.AttachNIC(e.ctx, hypervisor.NICSpec{}).Wait(e.ctx); return err }
	case hypervisor.PowerShutdown:
		return none(func() *hypervisor.Task[hypervisor.None] { return vm.Shutdown(e.ctx, nil) })
	case hypervisor.PowerReset:
		return none(func() *hypervisor.Task[hypervisor.None] { return vm.Reset(e.ctx) })
	case hypervisor.PowerPause:
		return none(func() *hypervisor.Task[hypervisor.None] { return vm.Pause(e.ctx) })
	case hypervisor.PowerSuspend:
		return none(func() *hypervisor.Task[hypervisor.None] { return vm.Suspend(e.ctx) })
	case hypervisor.SnapshotDisk:
		return snapshot(hypervisor.SnapshotOptions{})
	case hypervisor.SnapshotMemory:
		return snapshot(hypervisor.SnapshotOptions{Memory: true})
	case hypervisor.SnapshotQuiesce:
		return snapshot(hypervisor.SnapshotOptions{Quiesce: true})
	case hypervisor.CloneFull:
		return clone(hypervisor.CloneOptions{})
	case hypervisor.CloneLinked:
		return clone(hypervisor.CloneOptions{Mode: hypervisor.Linked})
	case hypervisor.CloneInstant:
		return clone(hypervisor.CloneOptions{Mode: hypervisor.Instant})
	case hypervisor.CloneRunning:
		return clone(hypervisor.CloneOptions{})
	case hypervisor.CloneCustomize:
		return clone(hypervisor.CloneOptions{Customize: &hypervisor.Customization{HostName: "guest1"}})
	case hypervisor.Templates:
		return func() error { _, err := vm.MarkTemplate(e.ctx).Wait(e.ctx); return err }
	case hypervisor.MigrateLive:
		return migrate(hypervisor.MigrateOptions{Host: here(), Mode: hypervisor.Live})
	case hypervisor.MigrateCold:
		return migrate(hypervisor.MigrateOptions{Host: here(), Mode: hypervisor.Cold})
	case hypervisor.DevicePCI:
		return device(hypervisor.DeviceRequest{Class: hypervisor.Display})
	case hypervisor.DeviceVF:
		return device(hypervisor.DeviceRequest{Class: hypervisor.NetworkCard, VirtualFunction: true})
	case hypervisor.DeviceVGPU:
		return device(hypervisor.DeviceRequest{Profile: "any"})
	case hypervisor.GuestFacts:
		return func() error { _, err := vm.Guest(e.ctx); return err }
	case hypervisor.GuestExec:
		return func() error {
			_, err := vm.Exec(e.ctx, hypervisor.ExecRequest{Path: "/bin/true"})
			return err
		}
	case hypervisor.GuestClock:
		return func() error { _, err := vm.Clock(e.ctx); return err }
	case hypervisor.GuestFreeze:
		return func() error { return vm.Freeze(e.ctx) }
	case hypervisor.HostMaintenance:
		return none(func() *hypervisor.Task[hypervisor.None] { return e.c.Host(here()).EnterMaintenance(e.ctx, nil) })
	case hypervisor.HighAvailability:
		return none(func() *hypervisor.Task[hypervisor.None] {
			return vm.SetRestartPriority(e.ctx, hypervisor.RestartHigh)
		})
	case hypervisor.ReplicationRead:
		return func() error { _, err := vm.Replication(e.ctx); return err }
	case hypervisor.VolumeManage:
		return func() error {
			for ds, err := range e.c.Datastores(e.ctx) {
				if err != nil {
					return err
				}
				_, err = e.c.CreateVolume(e.ctx, hypervisor.VolumeSpec{Name: e.name("vol"), Datastore: ds.ID, SizeBytes: 16 * hypervisor.MiB}).Wait(e.ctx)
				return err
			}
			_, err := e.c.CreateVolume(e.ctx, hypervisor.VolumeSpec{Name: e.name("vol"), Datastore: "any", SizeBytes: 16 * hypervisor.MiB}).Wait(e.ctx)
			return err
		}
	}
	return nil
}
