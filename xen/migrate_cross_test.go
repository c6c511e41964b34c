package xen

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestMoveToOtherPool moves a running machine with a snapshot with RAM to
// another pool, and one that is off with a vGPU.
func TestMoveToOtherPool(t *testing.T) {
	ctx := settled(t)
	cfg := xapisim.Config{Hosts: 1, GPUs: []xapisim.GPU{{Model: xapisim.TeslaM60}}}
	w, to := newWorld(t, cfg), newWorld(t, cfg)
	ram := w.sim.Memory(string(w.run.ID()))
	ok[*hypervisor.Snapshot](t)(w.run.CreateSnapshot(ctx, "ram", &hypervisor.SnapshotOptions{Memory: true}).Wait(ctx))
	ok[*hypervisor.Snapshot](t)(w.run.CreateSnapshot(ctx, "disks", nil).Wait(ctx))
	if err := wait(ctx, w.off.AttachDevice(ctx, hypervisor.DeviceRequest{Profile: "GRID M60-2Q"})); err != nil {
		t.Fatal(err)
	}
	host := to.hosts(ctx)[0].ID
	store := ok[any](t)(localStore(ctx, to)).(hypervisor.DatastoreID)
	for _, vm := range []*hypervisor.VM{w.run, w.off} {
		if err := wait(ctx, vm.Migrate(ctx, hypervisor.MigrateOptions{To: to.c, Host: host, Storage: store})); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.truth(t); got.snapshots != 0 || len(got.loose) != 0 || got.vbds != 0 {
		t.Errorf("left at the source: %+v", got)
	}
	moved := to.c.VM(w.run.ID())
	snaps := ok[[]hypervisor.SnapshotInfo](t)(moved.Snapshots(ctx))
	if len(snaps) != 2 || snaps[0].Name != "ram" || !snaps[0].Memory || snaps[1].Parent != snaps[0].ID || !snaps[1].Current {
		t.Fatalf("%+v", snaps)
	}
	if err := wait(ctx, moved.Snapshot(snaps[0].ID).Revert(ctx, nil)); err != nil {
		t.Fatal(err)
	}
	if i := ok[hypervisor.VMInfo](t)(moved.Info(ctx)); i.State != hypervisor.StateRunning || to.sim.Memory(string(w.run.ID())) != ram {
		t.Errorf("after the revert: %+v", i)
	}
	if i := ok[hypervisor.VMInfo](t)(to.c.VM(w.off.ID()).Info(ctx)); len(i.Devices) != 1 || i.Devices[0].Profile == "" {
		t.Errorf("%+v", i.Devices)
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
	ok[hypervisor.NICInfo](t)(w.off.AttachNIC(ctx, hypervisor.NICSpec{Network: second.ID}).Wait(ctx))
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
		{"cancelled", 1, nil, cancelled, hypervisor.ErrCanceled},
		{"cancelled", 2, nil, cancelled, hypervisor.ErrCanceled},
		{"host lost", 1, nil, hostLost, hypervisor.ErrUnavailable},
		{"host lost", 2, nil, hostLost, hypervisor.ErrUnavailable},
		{"target gone", 1, nil, targetGone, hypervisor.ErrUnavailable},
		{"target gone", 2, nil, targetGone, hypervisor.ErrUnavailable},
		{"target full", 0, func(to *world) error {
			for _, sr := range to.sim.Refs("SR") {
				if err := to.sim.FillSR(sr, true); err != nil {
					return err
				}
			}
			return nil
		}, nil, hypervisor.ErrExhausted},
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
				if c.kind != hypervisor.ErrCanceled { // the cancel itself ends the wait
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
