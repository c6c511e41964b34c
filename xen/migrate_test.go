package xen

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

func reasons(bs []hypervisor.Blocker) []hypervisor.ReasonCode {
	var out []hypervisor.ReasonCode
	for _, b := range bs {
		out = append(out, b.Reason)
	}
	return out
}

// TestBlockers puts things in the way of a migration, one or several; all of
// them are told, and the move is refused with them before anything happens.
func TestBlockers(t *testing.T) {
	host := func(ctx context.Context, w *world, o *hypervisor.MigrateOptions) error {
		h, err := otherHost(ctx, w)
		o.Host, _ = h.(hypervisor.HostID)
		return err
	}
	store := func(ctx context.Context, w *world, o *hypervisor.MigrateOptions) error {
		d, err := localStore(ctx, w)
		o.Storage, _ = d.(hypervisor.DatastoreID)
		return err
	}
	name := func(ctx context.Context, w *world, id hypervisor.HostID) string {
		for _, h := range w.hosts(ctx) {
			if h.ID == id {
				return h.Name
			}
		}
		return ""
	}
	type option = func(context.Context, *world, *hypervisor.MigrateOptions) error
	for label, c := range map[string]struct {
		to   []option
		want []hypervisor.ReasonCode
	}{
		"host down": {[]option{host, func(ctx context.Context, w *world, o *hypervisor.MigrateOptions) error {
			return w.sim.KillHost(name(ctx, w, o.Host))
		}}, []hypervisor.ReasonCode{hypervisor.ReasonHostDown}},
		"host disabled": {[]option{host, func(ctx context.Context, w *world, o *hypervisor.MigrateOptions) error {
			return wait(ctx, w.c.Host(o.Host).EnterMaintenance(ctx, nil))
		}}, []hypervisor.ReasonCode{hypervisor.ReasonMaintenance}},
		"no memory, and a datastore out of reach": {[]option{host, store, func(ctx context.Context, w *world, o *hypervisor.MigrateOptions) error {
			_, err := w.c.CreateVM(ctx, hypervisor.VMSpec{Name: "big", MemoryBytes: 60 * hypervisor.GiB, Placement: hypervisor.Placement{Host: o.Host}, Start: true}).Wait(ctx)
			return err
		}}, []hypervisor.ReasonCode{hypervisor.ReasonNoMemory, hypervisor.ReasonDiskUnreachable}},
		"no space": {[]option{store, func(_ context.Context, w *world, o *hypervisor.MigrateOptions) error {
			disk, err := diskOf(context.Background(), w.run)
			if err == nil {
				err = w.sim.WriteDisk(string(disk.Volume), 7, "content")
			}
			if err == nil {
				err = w.sim.SetField("SR", string(o.Storage), "physical_utilisation", int64(1)<<40)
			}
			return err
		}}, []hypervisor.ReasonCode{hypervisor.ReasonNoSpace}},
		"a local disk": {[]option{host, func(ctx context.Context, w *world, _ *hypervisor.MigrateOptions) error {
			d, err := localStore(ctx, w)
			if err != nil {
				return err
			}
			return wait(ctx, w.run.AttachDisk(ctx, hypervisor.DiskSpec{SizeBytes: hypervisor.GiB, Datastore: d.(hypervisor.DatastoreID)}))
		}}, []hypervisor.ReasonCode{hypervisor.ReasonDiskUnreachable}},
		"no tools": {[]option{host, func(_ context.Context, w *world, _ *hypervisor.MigrateOptions) error {
			return w.sim.SetField("VM_guest_metrics", w.sim.Refs("VM_guest_metrics")[0], "other", map[string]any{"data-cant-suspend-reason": "busy"})
		}}, []hypervisor.ReasonCode{hypervisor.ReasonToolsMissing}},
	} {
		t.Run(label, func(t *testing.T) {
			ctx := settled(t)
			w := newWorld(t, xapisim.Config{Hosts: 3})
			var o hypervisor.MigrateOptions
			for _, f := range c.to {
				if err := f(ctx, w, &o); err != nil {
					t.Fatal(err)
				}
			}
			before := ok[hypervisor.VMInfo](t)(w.run.Info(ctx))
			rep := ok[hypervisor.MigrateReport](t)(w.run.CheckMigrate(ctx, o))
			if got := reasons(rep.Blockers); fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("blockers %+v, want %v", rep.Blockers, c.want)
			}
			if err := wait(ctx, w.run.Migrate(ctx, o)); !blockedBy(err, c.want[0]) || hypervisor.KindOf(err) != hypervisor.ErrIncompatible {
				t.Errorf("Migrate: %v", err)
			}
			if i := ok[hypervisor.VMInfo](t)(w.run.Info(ctx)); i.Host != before.Host || i.State != before.State || i.Disks[0] != before.Disks[0] {
				t.Errorf("refused, and it is %+v", i)
			}
		})
	}
}

// TestOtherHosts names the hosts that would do where the one asked for won't.
func TestOtherHosts(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 4})
	at := ok[hypervisor.VMInfo](t)(w.run.Info(ctx)).Host
	hosts := slices.DeleteFunc(w.hosts(ctx), func(h hypervisor.HostInfo) bool { return h.ID == at })
	if err := w.sim.KillHost(hosts[0].Name); err != nil {
		t.Fatal(err)
	}
	rep := ok[hypervisor.MigrateReport](t)(w.run.CheckMigrate(ctx, hypervisor.MigrateOptions{Host: hosts[0].ID}))
	var ids []string
	for _, b := range rep.Warnings {
		ids = append(ids, b.Object.ID)
	}
	slices.Sort(ids)
	want := []string{string(hosts[1].ID), string(hosts[2].ID)}
	slices.Sort(want)
	if rep.OK() || !slices.Equal(ids, want) {
		t.Errorf("%+v", rep)
	}
	if rep := ok[hypervisor.MigrateReport](t)(w.run.CheckMigrate(ctx, hypervisor.MigrateOptions{Host: hosts[1].ID})); !rep.OK() || len(rep.Warnings) != 0 {
		t.Errorf("to a host that will do: %+v", rep)
	}
}

// TestBusyMachine asks while another operation works on the machine.
func TestBusyMachine(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 3})
	task, h, o := w.migrating(ctx, t, "VM.pool_migrate", 1)
	rep := ok[hypervisor.MigrateReport](t)(w.run.CheckMigrate(ctx, o))
	if got := reasons(rep.Blockers); !slices.Contains(got, hypervisor.ReasonVMBusy) {
		t.Errorf("blockers %v", rep.Blockers)
	}
	h.Release()
	if err := wait(ctx, task); err != nil {
		t.Error(err)
	}
}

// TestColdMove moves a machine that is off to another host's local storage:
// it starts there.
func TestColdMove(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 3})
	for d, err := range w.c.Datastores(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if d.Shared {
			continue
		}
		if err := wait(ctx, w.off.Migrate(ctx, hypervisor.MigrateOptions{Host: d.Hosts[0], Storage: d.ID, Mode: hypervisor.MigrateModeCold})); err != nil {
			t.Fatal(err)
		}
		i := ok[hypervisor.VMInfo](t)(w.off.Info(ctx))
		if i.State != hypervisor.StateOff || i.Placement.Host != d.Hosts[0] || i.Disks[0].Datastore != d.ID {
			t.Errorf("%+v", i)
		}
	}
}

// TestRefusedMoves asks for what XAPI has no way to do.
func TestRefusedMoves(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	to := ok[any](t)(otherHost(ctx, w)).(hypervisor.HostID)
	local := ok[any](t)(localStore(ctx, w)).(hypervisor.DatastoreID)
	tmpl := ok[*hypervisor.Template](t)(w.c.FindTemplate(ctx, "Debian Bookworm 12"))
	for label, c := range map[string]struct {
		vm   *hypervisor.VM
		o    hypervisor.MigrateOptions
		kind hypervisor.Kind
	}{
		"source kept":       {w.run, hypervisor.MigrateOptions{Storage: local, KeepSource: true}, hypervisor.ErrUnsupported},
		"post-copy":         {w.run, hypervisor.MigrateOptions{Host: to, PostCopy: true}, hypervisor.ErrUnsupported},
		"bandwidth":         {w.run, hypervisor.MigrateOptions{Host: to, BandwidthBytes: 1 << 20}, hypervisor.ErrUnsupported},
		"resource pool":     {w.run, hypervisor.MigrateOptions{Pool: "p"}, hypervisor.ErrUnsupported},
		"live, and off":     {w.off, hypervisor.MigrateOptions{Host: to, Mode: hypervisor.MigrateModeLive}, hypervisor.ErrInvalidState},
		"cold, and running": {w.run, hypervisor.MigrateOptions{Host: to, Mode: hypervisor.MigrateModeCold}, hypervisor.ErrInvalidState},
		"template":          {w.c.VM(hypervisor.VMID(tmpl.ID())), hypervisor.MigrateOptions{Storage: local}, hypervisor.ErrIncompatible},
		"no such datastore": {w.run, hypervisor.MigrateOptions{Storage: "none"}, hypervisor.ErrNotFound},
	} {
		if err := wait(ctx, c.vm.Migrate(ctx, c.o)); hypervisor.KindOf(err) != c.kind {
			t.Errorf("%s: %v (%v), want %v", label, err, hypervisor.KindOf(err), c.kind)
		}
	}
}

// TestSnapshotsMove moves a running machine's storage with its snapshots.
func TestSnapshotsMove(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	snap := ok[*hypervisor.Snapshot](t)(w.run.CreateSnapshot(ctx, "before", nil).Wait(ctx))
	local := ok[any](t)(localStore(ctx, w)).(hypervisor.DatastoreID)
	if err := wait(ctx, w.run.Migrate(ctx, hypervisor.MigrateOptions{Storage: local})); err != nil {
		t.Fatal(err)
	}
	if d := ok[hypervisor.DiskInfo](t)(diskOf(ctx, w.run)); d.Datastore != local {
		t.Errorf("the disk is on %s", d.Datastore)
	}
	if err := wait(ctx, snap.Revert(ctx, nil)); err != nil {
		t.Errorf("reverting to the snapshot that came along: %v", err)
	}
	if d := ok[hypervisor.DiskInfo](t)(diskOf(ctx, w.run)); d.Datastore != local {
		t.Errorf("after the revert the disk is on %s", d.Datastore)
	}
}

// TestTargetDies lets the host that a machine moves to go down on the way:
// the machine runs on where it was.
func TestTargetDies(t *testing.T) {
	for step := 1; step <= 2; step++ {
		ctx := settled(t)
		w := newWorld(t, xapisim.Config{Hosts: 2})
		ram, before := w.sim.Memory(string(w.run.ID())), ok[hypervisor.VMInfo](t)(w.run.Info(ctx))
		task, h, o := w.migrating(ctx, t, "VM.pool_migrate", step)
		i := slices.IndexFunc(w.hosts(ctx), func(h hypervisor.HostInfo) bool { return h.ID == o.Host })
		if err := w.sim.KillHost(w.hosts(ctx)[i].Name); err != nil {
			t.Fatal(err)
		}
		h.Release()
		if err := wait(ctx, task); hypervisor.KindOf(err) != hypervisor.ErrUnavailable {
			t.Errorf("step %d: %v (%v), want %v", step, err, hypervisor.KindOf(err), hypervisor.ErrUnavailable)
		}
		if i := ok[hypervisor.VMInfo](t)(w.run.Info(ctx)); i.Host != before.Host || i.State != hypervisor.StateRunning || w.sim.Memory(string(w.run.ID())) != ram {
			t.Errorf("step %d: it is %s on %s", step, i.State, i.Host)
		}
	}
}
