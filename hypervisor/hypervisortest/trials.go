package hypervisortest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// trial is an operation under faults.
type trial struct {
	op      op.Name
	variant string // distinguishes trials of one operation; empty: as in changing
	needs   caps   // beyond the operation's first capability
	// prepare brings a new stage to the point where the operation begins.
	prepare []func(*stage)
	do      verb // nil: as in changing
	// token: the operation has a token, so a repeated call makes nothing
	// more.
	token bool
	// again is the kind of error of a call for work that is complete already.
	// With adds, such a call would do the work a second time, so none is
	// made.
	again hypervisor.Kind
	adds  bool
	// same: the operation leaves everything unchanged, as far as one can see.
	same bool
	// unseen: on some platforms the operation leaves everything unchanged.
	unseen bool
	// boots: the guest's memory is not kept.
	boots bool
	// placed: it matters where things are.
	placed bool
	// freezes: the machine may stay on a frozen base when the work has failed.
	freezes bool
	// onward: work that has begun can't be undone. The same call again ends
	// it.
	onward bool
	// remains: Leftover names what existed before and was not handled.
	remains bool
	extra   func(*stage) string
	spec    func(*Backend) func(string) hypervisor.VMSpec
	guest   bool // the guest must have booted
}

func (t trial) name() string {
	if t.variant == "" {
		return string(t.op)
	}
	return string(t.op) + "-" + t.variant
}

// templates reports whether the work leads to a template or comes from one.
func (t trial) templates() bool {
	return t.op == op.VMMarkTemplate || strings.HasPrefix(string(t.op), "template.")
}

func prepare(f ...func(*stage)) []func(*stage) { return f }

func cloned(o hypervisor.CloneOptions) verb {
	return func(ctx context.Context, s *stage) error { return s.clone(ctx, o) }
}

// trials are all operations that change something, each in the forms that
// take different steps.
func trials() []trial {
	out := machineTrials()
	out = append(out, copyTrials()...)
	out = append(out, powerTrials()...)
	out = append(out, partTrials()...)
	out = append(out, moveTrials()...)
	return append(out, hostTrials()...)
}

func machineTrials() []trial {
	spec := func(s *stage) hypervisor.VMSpec {
		v := s.Spec(s.made())
		v.Disks = append(v.Disks, hypervisor.DiskSpec{SizeBytes: 8 * hypervisor.MiB})
		return v
	}
	force := func(ctx context.Context, s *stage) error {
		return done(ctx, s.vm.Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}))
	}
	return []trial{
		{op: op.VMCreate, token: true, do: func(ctx context.Context, s *stage) error {
			v := spec(s)
			v.Token, v.Start = s.token(), true
			return done(ctx, s.c.CreateVM(ctx, v))
		}},
		{op: op.VMCreate, variant: "without-token", adds: true, do: func(ctx context.Context, s *stage) error {
			return done(ctx, s.c.CreateVM(ctx, spec(s)))
		}},
		{op: op.VMDelete, prepare: prepare(snapshotted), needs: caps{capability.SnapshotDisk}, again: hypervisor.ErrNotFound},
		{op: op.VMDelete, variant: "running", prepare: prepare(running), do: force, again: hypervisor.ErrNotFound, onward: true},
		{op: op.VMDelete, variant: "protected", needs: caps{capability.HighAvailability}, prepare: prepare(running, protected), do: force, again: hypervisor.ErrNotFound, onward: true},
		{op: op.VMDelete, variant: "keep-disks", needs: caps{capability.SnapshotDisk}, prepare: prepare(forked), again: hypervisor.ErrNotFound, onward: true,
			do: func(ctx context.Context, s *stage) error {
				return done(ctx, s.vm.Delete(ctx, hypervisor.KeepDisks, nil))
			}},
		{op: op.VMReconfigure},
		{op: op.VMReconfigure, variant: "name", do: func(ctx context.Context, s *stage) error { return done(ctx, s.vm.Rename(ctx, s.name+"-renamed")) }},
		{op: op.VMSetLabels},
		{op: op.VMSetRestartPriority, prepare: prepare(running), extra: func(s *stage) string {
			a, err := s.sure().Availability(s.ctx)
			return fmt.Sprintf("%+v %v", a, err)
		}},
	}
}

func copyTrials() []trial {
	linked := caps{capability.CloneLinked}
	deploy := func(mode hypervisor.CloneMode) verb {
		return func(ctx context.Context, s *stage) error {
			return done(ctx, s.template().Deploy(ctx, s.made(), &hypervisor.CloneOptions{Mode: mode, Token: s.token()}))
		}
	}
	return []trial{
		{op: op.VMClone, token: true},
		{op: op.VMClone, variant: "linked", needs: linked, token: true, freezes: true, do: func(ctx context.Context, s *stage) error {
			o := hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked, CPUs: 2}
			if s.labeled {
				o.Labels = map[string]string{"k": "v"}
			}
			return s.clone(ctx, o)
		}},
		{op: op.VMClone, variant: "running", needs: caps{capability.CloneRunning}, prepare: prepare(running), token: true, freezes: true},
		{op: op.VMClone, variant: "running-linked", needs: caps{capability.CloneRunning, capability.CloneLinked}, prepare: prepare(running), token: true, freezes: true,
			do: cloned(hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked})},
		{op: op.VMClone, variant: "without-token", adds: true, do: func(ctx context.Context, s *stage) error { return done(ctx, s.vm.Clone(ctx, s.made(), nil)) }},
		{op: op.VMClone, variant: "from-snapshot", needs: caps{capability.CloneFromSnapshot}, prepare: prepare(rewritten), token: true,
			do: func(ctx context.Context, s *stage) error { return s.clone(ctx, hypervisor.CloneOptions{From: s.snap}) }},
		{op: op.VMClone, variant: "instant", needs: caps{capability.CloneInstant}, prepare: prepare(running), token: true, freezes: true,
			do: cloned(hypervisor.CloneOptions{Mode: hypervisor.CloneModeInstant})},
		{op: op.VMMarkTemplate},
		{op: op.TemplateMarkVM, prepare: prepare(marked)},
		{op: op.TemplateDeploy, needs: caps{capability.Templates}, prepare: prepare(marked), token: true, do: deploy(hypervisor.CloneModeFull)},
		{op: op.TemplateDeploy, variant: "linked", needs: caps{capability.Templates, capability.CloneLinked}, prepare: prepare(marked), token: true, freezes: true,
			do: deploy(hypervisor.CloneModeLinked)},
		{op: op.TemplateDelete, needs: caps{capability.Templates}, prepare: prepare(marked), again: hypervisor.ErrNotFound},
		{op: op.TemplateSetLabels, needs: caps{capability.Templates}, prepare: prepare(marked)},
		{op: op.SnapshotCreate, adds: true},
		{op: op.SnapshotCreate, variant: "memory", needs: caps{capability.SnapshotMemory}, prepare: prepare(running), adds: true,
			do: func(ctx context.Context, s *stage) error {
				return done(ctx, s.vm.CreateSnapshot(ctx, "ram", &hypervisor.SnapshotOptions{Memory: true, Description: "d"}))
			}},
		{op: op.SnapshotRevert, prepare: prepare(rewritten), onward: true},
		{op: op.SnapshotRevert, variant: "memory", needs: caps{capability.SnapshotMemory}, prepare: prepare(withMemory), onward: true},
		{op: op.SnapshotDelete, prepare: prepare(forked), again: hypervisor.ErrNotFound},
		{op: op.SnapshotDelete, variant: "children", prepare: prepare(forked), again: hypervisor.ErrNotFound, do: func(ctx context.Context, s *stage) error {
			return done(ctx, s.snapshot().Delete(ctx, &hypervisor.DeleteSnapshotOptions{Children: true}))
		}},
		{op: op.SnapshotDelete, variant: "running", prepare: prepare(running, snapshotted), again: hypervisor.ErrNotFound},
	}
}

func powerTrials() []trial {
	return []trial{
		{op: op.VMStart},
		{op: op.VMPowerOff, prepare: prepare(running), boots: true},
		{op: op.VMPowerOff, variant: "suspended", needs: caps{capability.PowerSuspend}, prepare: prepare(suspended), boots: true},
		{op: op.VMShutdown, prepare: prepare(running), boots: true, guest: true},
		{op: op.VMReset, prepare: prepare(running), boots: true, same: true},
		{op: op.VMReboot, prepare: prepare(running), boots: true, same: true, guest: true},
		{op: op.VMPause, prepare: prepare(running)},
		{op: op.VMSuspend, prepare: prepare(running)},
		{op: op.VMResume, needs: caps{capability.PowerPause}, prepare: prepare(paused)},
		{op: op.VMResume, variant: "suspended", needs: caps{capability.PowerSuspend}, prepare: prepare(suspended)},
	}
}

func partTrials() []trial {
	device := func(variant string, k capability.Name, r func(*Backend) hypervisor.DeviceRequest) []trial {
		taker := func(b *Backend) func(string) hypervisor.VMSpec { return b.DeviceSpec }
		lacking := func(s *stage) {
			if r(s.Backend) == (hypervisor.DeviceRequest{}) {
				s.missing = "the backend has no such device"
			}
		}
		return []trial{
			{op: op.DeviceAttach, variant: variant, needs: caps{k}, spec: taker, prepare: prepare(lacking), adds: true,
				do: func(ctx context.Context, s *stage) error { return done(ctx, s.vm.AttachDevice(ctx, r(s.Backend))) }},
			{op: op.DeviceDetach, variant: variant, needs: caps{k}, spec: taker, prepare: prepare(lacking, attachedDevice(r)), again: hypervisor.ErrNotFound},
		}
	}
	out := []trial{
		{op: op.DiskAttach, adds: true},
		{op: op.DiskAttach, variant: "running", needs: caps{capability.DiskHotplug}, prepare: prepare(running), adds: true},
		{op: op.DiskAttach, variant: "image", adds: true, do: func(ctx context.Context, s *stage) error {
			return done(ctx, s.vm.AttachDisk(ctx, hypervisor.DiskSpec{Image: s.image}))
		}},
		{op: op.DiskDetach, prepare: prepare(secondDisk), again: hypervisor.ErrNotFound},
		{op: op.DiskGrow},
		{op: op.NICAttach, adds: true},
		{op: op.NICAttach, variant: "running", needs: caps{capability.NICHotplug}, prepare: prepare(running), adds: true},
		{op: op.NICDetach, again: hypervisor.ErrNotFound},
		{op: op.VolumeCreate, adds: true},
		{op: op.VolumeCreate, variant: "copy", adds: true, do: func(ctx context.Context, s *stage) error { return s.createVolume(ctx, s.image) }},
		{op: op.VolumeDelete, prepare: prepare(keptVolume), again: hypervisor.ErrNotFound},
	}
	out = append(out, device("", capability.DevicePCI, func(b *Backend) hypervisor.DeviceRequest { return b.Device })...)
	out = append(out, device("function", capability.DeviceVF, func(b *Backend) hypervisor.DeviceRequest { return b.VF })...)
	return append(out, device("profile", capability.DeviceVGPU, func(b *Backend) hypervisor.DeviceRequest { return b.Profile })...)
}

func moveTrials() []trial {
	move := func(ctx context.Context, s *stage) error {
		o := hypervisor.MigrateOptions{Host: s.host}
		return done(ctx, s.vm.Migrate(ctx, o))
	}
	store := func(ctx context.Context, s *stage) error { return s.move(ctx, "", s.store) }
	return []trial{
		{op: op.VMMigrate, prepare: prepare(running, otherHost), placed: true, do: move, adds: true},
		{op: op.VMMigrate, variant: "protected", needs: caps{capability.HighAvailability}, prepare: prepare(running, protected, otherHost), placed: true, do: move, adds: true},
		{op: op.VMMigrate, variant: "cold", needs: caps{capability.MigrateCold}, prepare: prepare(otherHost), placed: true, unseen: true, do: move, adds: true},
		{op: op.VMMigrate, variant: "storage", needs: caps{capability.MigrateStorage}, prepare: prepare(otherStore), placed: true, do: store, adds: true},
		{op: op.VMMigrate, variant: "live-storage", needs: caps{capability.MigrateLiveStorage}, prepare: prepare(running, otherStore), placed: true, do: store, adds: true},
		{op: op.VMMigrate, variant: "both", needs: caps{capability.MigrateBoth}, prepare: prepare(running, otherHost, otherStore), placed: true, adds: true,
			do: func(ctx context.Context, s *stage) error { return s.move(ctx, s.host, s.store) }},
	}
}

func hostTrials() []trial {
	state := func(s *stage) string {
		h, err := s.calm().Host(s.at).Info(s.ctx)
		return fmt.Sprintf("host %s %v", h.State, err)
	}
	device := func(s *stage) string {
		all, err := hypervisor.Collect(s.calm().Devices(s.ctx, &hypervisor.DeviceFilter{ID: s.device}))
		if len(all) != 1 {
			return fmt.Sprintf("%d devices of ID %s, %v", len(all), s.device, err)
		}
		return fmt.Sprintf("device assignable %t, %d functions", all[0].Assignable, all[0].VFs)
	}
	agent := func(op op.Name) trial { return trial{op: op, prepare: prepare(running), same: true, guest: true} }
	out := []trial{
		{op: op.HostEvacuate, prepare: prepare(running, otherHost), remains: true, extra: func(s *stage) string {
			return fmt.Sprintf("still there %t", s.look().Host == s.at)
		}},
		{op: op.HostEnterMaintenance, needs: caps{capability.HostMaintenance, capability.MigrateLive}, prepare: prepare(running, otherHost, leaves), extra: state},
		{op: op.HostExitMaintenance, needs: caps{capability.HostMaintenance, capability.MigrateLive}, prepare: prepare(running, maintained), extra: state},
		{op: op.DevicePrepare, variant: "functions", prepare: prepare(functions), unseen: true, extra: device},
		{op: op.DevicePrepare, variant: "passthrough", prepare: prepare(assignable), unseen: true, extra: device},
		{op: op.DevicePrepare, variant: "back", prepare: prepare(givenBack), unseen: true, extra: device},
		{op: op.TaskCancel, needs: caps{capability.CloneFull}, prepare: prepare(slowClone), do: cancelled, unseen: true, adds: true},
	}
	for _, name := range []op.Name{op.GuestExec, op.GuestSetClock, op.GuestFreeze, op.GuestThaw} {
		t := agent(name)
		if name == op.GuestThaw {
			t.prepare = append(t.prepare, func(s *stage) { s.ok(s.sure().Freeze(s.ctx), "Freeze") })
		} else if name == op.GuestFreeze {
			t.adds = true
			t.prepare = append(t.prepare, func(s *stage) {
				s.undo = append(s.undo, func() error { _ = s.sure().Thaw(s.ctx); return nil }) // it may not be frozen
			})
		}
		out = append(out, t)
	}
	return out
}

// slowClone begins a clone that takes longer than the trial.
func slowClone(s *stage) { s.Helper(); s.cloneFor(s.limit()) }

func (s *stage) cloneFor(d time.Duration) {
	s.Helper()
	if s.Slow == nil {
		s.missing = "the backend has no long work"
		return
	}
	s.Slow(d)
	s.work = s.vm.Clone(s.ctx, s.made(), nil)
	s.ok(s.work.Err(), "Clone")
	s.undo = append(s.undo, func() error {
		s.Slow(0)
		_ = s.work.Cancel(s.ctx) // it has ended, most probably
		_, _ = s.work.Wait(s.ctx)
		return nil
	})
}

// cancelled cancels the work, a second time after an error, and checks its
// end.
func cancelled(ctx context.Context, s *stage) error {
	err := s.work.Cancel(ctx)
	s.Slow(0)
	if err != nil {
		if again := s.work.Cancel(ctx); again != nil {
			return fmt.Errorf("cancelled again: %w", again)
		}
	}
	_, end := s.work.Wait(ctx)
	if _, broken := errors.AsType[*hypervisor.DetachedError](end); broken { // the wait's own call was hit
		if ctx.Err() != nil {
			return end
		}
		_, end = s.work.Wait(ctx)
	}
	if !errors.Is(end, hypervisor.ErrCanceled) {
		s.Errorf("a cancelled clone ended with %v", end)
	}
	return err
}
