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
			if err := wait(ctx, w.run.Migrate(ctx, o)); !blockedBy(err, c.want[0]) || hypervisor.KindOf(err) != hypervisor.KindIncompatible {
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
		if err := wait(ctx, w.off.Migrate(ctx, hypervisor.MigrateOptions{Host: d.Hosts[0], Storage: d.ID, Mode: hypervisor.Cold})); err != nil {
			t.Fatal(err)
		}
		i := ok[hypervisor.VMInfo](t)(w.off.Info(ctx))
		if i.State != hypervisor.Off || i.Placement.Host != d.Hosts[0] || i.Disks[0].Datastore != d.ID {
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
		"source kept":       {w.run, hypervisor.MigrateOptions{Storage: local, KeepSource: true}, hypervisor.KindUnsupported},
		"post-copy":         {w.run, hypervisor.MigrateOptions{Host: to, PostCopy: true}, hypervisor.KindUnsupported},
		"bandwidth":         {w.run, hypervisor.MigrateOptions{Host: to, BandwidthBytes: 1 << 20}, hypervisor.KindUnsupported},
		"resource pool":     {w.run, hypervisor.MigrateOptions{Pool: "p"}, hypervisor.KindUnsupported},
		"live, and off":     {w.off, hypervisor.MigrateOptions{Host: to, Mode: hypervisor.Live}, hypervisor.KindInvalidState},
		"cold, and running": {w.run, hypervisor.MigrateOptions{Host: to, Mode: hypervisor.Cold}, hypervisor.KindInvalidState},
		"template":          {w.c.VM(hypervisor.VMID(tmpl.ID())), hypervisor.MigrateOptions{Storage: local}, hypervisor.KindIncompatible},
		"no such datastore": {w.run, hypervisor.MigrateOptions{Storage: "none"}, hypervisor.KindNotFound},
	} {
		if err := wait(ctx, c.vm.Migrate(ctx, c.o)); hypervisor.KindOf(err) != c.kind {
			t.Errorf("%s: %v (%v), want %v", label, err, hypervisor.KindOf(err), c.kind)
		}
	}
}

// TestMapsToOtherPool moves a machine whose adapters and GPU find their like
// in the other pool, or don't.
func TestMapsToOtherPool(t *testing.T) {
	ctx := settled(t)
	cfg := xapisim.Config{Hosts: 1, Networks: 2, GPUs: []xapisim.GPU{{Model: xapisim.TeslaM60}}}
	w, to, bare := newWorld(t, cfg), newWorld(t, cfg), newWorld(t, xapisim.Config{Hosts: 1})
	var second hypervisor.NetworkInfo
	for n, err := range w.c.Networks(ctx) {
		if err == nil && n.Name == "Pool-wide network associated with eth1" {
			second = n
		}
	}
	ok[hypervisor.NICID](t)(w.off.AttachNIC(ctx, hypervisor.NICSpec{Network: second.ID}).Wait(ctx))
	if err := wait(ctx, w.off.AttachDevice(ctx, hypervisor.DeviceRequest{Profile: "GRID M60-2Q"})); err != nil {
		t.Fatal(err)
	}
	options := func(to *world) hypervisor.MigrateOptions {
		return hypervisor.MigrateOptions{To: to.c, Host: to.hosts(ctx)[0].ID, Storage: ok[any](t)(localStore(ctx, to)).(hypervisor.DatastoreID)}
	}
	noStore := options(to)
	noStore.Storage = ""
	for o, want := range map[hypervisor.MigrateOptions]hypervisor.ReasonCode{options(bare): hypervisor.ReasonNoDevice, noStore: hypervisor.ReasonDiskUnreachable} {
		if err := wait(ctx, w.off.Migrate(ctx, o)); !blockedBy(err, want) {
			t.Errorf("%v, want blocked by %s", err, want)
		}
	}
	if err := wait(ctx, w.off.Migrate(ctx, options(to))); err != nil {
		t.Fatal(err)
	}
	moved := to.c.VM(w.off.ID())
	i := ok[hypervisor.VMInfo](t)(moved.Info(ctx))
	networks := map[hypervisor.NetworkID]string{}
	for n, err := range to.c.Networks(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		networks[n.ID] = n.Name
	}
	var names []string
	for _, n := range i.NICs {
		names = append(names, networks[n.Network])
	}
	if slices.Sort(names); !slices.Equal(names, []string{"Pool-wide network associated with eth0", "Pool-wide network associated with eth1"}) {
		t.Errorf("its adapters are on %q", names)
	}
	if len(i.Devices) != 1 {
		t.Errorf("%+v", i.Devices)
	}
	if err := wait(ctx, moved.Start(ctx)); err != nil {
		t.Error(err)
	}
	// A machine of the same uuid is there already.
	twin := newWorld(t, cfg)
	if err := twin.sim.SetField("VM", string(twin.off.ID()), "uuid", string(w.run.ID())); err != nil {
		t.Fatal(err)
	}
	if err := wait(ctx, w.run.Migrate(ctx, options(twin))); !blockedBy(err, hypervisor.ReasonIDTaken) {
		t.Errorf("%v, want blocked by %s", err, hypervisor.ReasonIDTaken)
	}
}

// TestFailedMoveToOtherPool lets a move to another pool fail in several ways,
// at each step: the machine runs on where it was, and the other pool has
// nothing of it.
func TestFailedMoveToOtherPool(t *testing.T) {
	for _, c := range []struct {
		label  string
		step   int
		before func(to *world) error
		fail   func(from, to *world, task *hypervisor.Task[hypervisor.MigrateResult]) error // at the step
		kind   hypervisor.Kind
	}{
		{"cancelled", 1, nil, cancelled, hypervisor.KindCanceled},
		{"cancelled", 2, nil, cancelled, hypervisor.KindCanceled},
		{"host lost", 1, nil, hostLost, hypervisor.KindUnavailable},
		{"host lost", 2, nil, hostLost, hypervisor.KindUnavailable},
		{"target gone", 1, nil, targetGone, hypervisor.KindUnavailable},
		{"target gone", 2, nil, targetGone, hypervisor.KindUnavailable},
		{"target full", 0, func(to *world) error {
			for _, sr := range to.sim.Refs("SR") {
				if err := to.sim.FillSR(sr, true); err != nil {
					return err
				}
			}
			return nil
		}, nil, hypervisor.KindExhausted},
	} {
		t.Run(fmt.Sprint(c.label, " ", c.step), func(t *testing.T) {
			ctx := settled(t)
			cfg := xapisim.Config{Hosts: 1}
			w, to := newWorld(t, cfg), newWorld(t, cfg)
			o := hypervisor.MigrateOptions{To: to.c, Host: to.hosts(ctx)[0].ID, Storage: ok[any](t)(localStore(ctx, to)).(hypervisor.DatastoreID)}
			if c.before != nil {
				if err := c.before(to); err != nil {
					t.Fatal(err)
				}
			}
			ram, before := w.sim.Memory(string(w.run.ID())), w.view(ctx, t)
			h := w.sim.Hold("VM.migrate_send", c.step)
			task := w.run.Migrate(ctx, o)
			if err := task.Err(); err != nil {
				t.Fatal(err)
			}
			if c.fail != nil {
				<-h.Reached()
				if err := c.fail(w, to, task); err != nil {
					t.Fatal(err)
				}
				if c.kind != hypervisor.KindCanceled { // the cancel itself ends the wait
					h.Release()
				}
			}
			err := wait(ctx, task)
			if err == nil || hypervisor.KindOf(err) != c.kind {
				t.Errorf("%v (%v), want %v", err, hypervisor.KindOf(err), c.kind)
			}
			if after := w.view(ctx, t); after != before || w.sim.Memory(string(w.run.ID())) != ram {
				t.Errorf("it is\n%s\nand was\n%s", after, before)
			}
			if c.label == "target gone" {
				return // nobody can remove anything there
			}
			if got := to.truth(t); got.vms != to.before.vms || got.vbds != to.before.vbds || got.vifs != to.before.vifs || len(got.loose) > 0 {
				t.Errorf("the other pool has %+v, before %+v", got, to.before)
			}
		})
	}
}

func cancelled(_, _ *world, task *hypervisor.Task[hypervisor.MigrateResult]) error {
	return task.Cancel(context.Background())
}

func hostLost(from, _ *world, _ *hypervisor.Task[hypervisor.MigrateResult]) error {
	from.sim.AbortWork()
	return nil
}

func targetGone(_, to *world, _ *hypervisor.Task[hypervisor.MigrateResult]) error {
	to.sim.Close()
	return nil
}
