package xen

import (
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestDeleteSuspended deletes suspended machines: the image of the RAM goes,
// the disks go or stay as was said.
func TestDeleteSuspended(t *testing.T) {
	for _, policy := range []hypervisor.DiskPolicy{hypervisor.KeepDisks, hypervisor.DeleteDisks} {
		ctx := settled(t)
		w := newWorld(t, xapisim.Config{Hosts: 2})
		disk := ok[hypervisor.DiskInfo](t)(diskOf(ctx, w.run)).Volume
		if err := wait(ctx, w.run.Suspend(ctx)); err != nil {
			t.Fatal(err)
		}
		if err := wait(ctx, w.run.Delete(ctx, policy, nil)); err != nil {
			t.Fatal(err)
		}
		got := w.truth(t)
		kept := len(got.loose) == 1 && got.loose[0] == string(disk)
		if got.vms != w.before.vms-1 || kept != (policy == hypervisor.KeepDisks) || !kept && len(got.loose) > 0 {
			t.Errorf("%v: there is %+v, the disk was %s", policy, got, disk)
		}
	}
}

// TestDeleteLeavesOthersAlone deletes a machine with snapshots whose disk
// another machine has too.
func TestDeleteLeavesOthersAlone(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	for _, n := range []string{"one", "two"} {
		ok[*hypervisor.Snapshot](t)(w.off.CreateSnapshot(ctx, n, nil).Wait(ctx))
	}
	disk := ok[hypervisor.DiskInfo](t)(diskOf(ctx, w.off))
	other := ok[*hypervisor.VM](t)(w.c.CreateVM(ctx, hypervisor.VMSpec{Name: "shares", MemoryBytes: hypervisor.GiB, Disks: []hypervisor.DiskSpec{{Volume: disk.Volume, ReadOnly: true}}}).Wait(ctx))
	if err := wait(ctx, other.DetachDisk(ctx, disk.ID, hypervisor.KeepDisks)); hypervisor.KindOf(err) != hypervisor.ErrNotFound {
		t.Errorf("another machine's disk was detached: %v", err)
	}
	seen := ok[hypervisor.DiskInfo](t)(diskOf(ctx, other))
	if !seen.ReadOnly || seen.Volume != disk.Volume {
		t.Errorf("%+v", seen)
	}
	// Detaching with DeleteDisks an image that is shared is refused, and the image stays.
	if err := wait(ctx, other.DetachDisk(ctx, seen.ID, hypervisor.DeleteDisks)); hypervisor.KindOf(err) != hypervisor.ErrBusy {
		t.Errorf("DetachDisk of a shared image: %v", err)
	}
	if d := ok[hypervisor.DiskInfo](t)(diskOf(ctx, other)); d != seen {
		t.Errorf("refused, the disk is %+v", d)
	}
	if err := wait(ctx, w.off.Delete(ctx, hypervisor.DeleteDisks, nil)); err != nil {
		t.Fatal(err)
	}
	if d := ok[hypervisor.DiskInfo](t)(diskOf(ctx, other)); d.Volume != disk.Volume {
		t.Errorf("the shared image is gone: %+v", d)
	}
	if got := w.truth(t); got.snapshots != 0 || len(got.loose) != 0 {
		t.Errorf("there is %+v", got)
	}
	// Adapters belong to one machine too.
	nic := ok[hypervisor.VMInfo](t)(w.run.Info(ctx)).NICs[0].ID
	if err := wait(ctx, other.DetachNIC(ctx, nic)); hypervisor.KindOf(err) != hypervisor.ErrNotFound {
		t.Errorf("another machine's adapter was detached: %v", err)
	}
	// Snapshots too.
	snap := ok[*hypervisor.Snapshot](t)(w.run.CreateSnapshot(ctx, "mine", nil).Wait(ctx))
	if err := wait(ctx, other.Snapshot(snap.ID()).Revert(ctx, nil)); hypervisor.KindOf(err) != hypervisor.ErrNotFound {
		t.Errorf("reverting to another machine's snapshot: %v", err)
	}
}

// TestDeleteTakesLateSnapshots: another Client's snapshot is complete after the
// deletion has read the machine, and goes with it.
func TestDeleteTakesLateSnapshots(t *testing.T) {
	w := newWorld(t, xapisim.Config{})
	ctx := t.Context()
	w.sim.Fault(xapisim.Fault{Method: "task.create", Late: func() {
		if _, err := w.off.CreateSnapshot(ctx, "late", nil).Wait(ctx); err != nil {
			t.Error(err)
		}
	}})
	if err := wait(ctx, w.off.Delete(ctx, hypervisor.DeleteDisks, nil)); err != nil {
		t.Fatal(err)
	}
	if got := w.truth(t); got.snapshots != 0 || len(got.loose) != 0 {
		t.Errorf("there is %+v", got)
	}
}
