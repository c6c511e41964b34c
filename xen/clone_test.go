package xen

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// origin makes a machine with three disks of known content and a CD.
func (w *world) origin(ctx context.Context, t *testing.T) *hypervisor.VM {
	t.Helper()
	iso := ""
	for _, r := range w.sim.Refs("VDI") {
		if w.text(t, "VDI", r, "name_label") == "debian-12.iso" {
			iso = w.text(t, "VDI", r, "uuid")
		}
	}
	s := hypervisor.VMSpec{Name: "origin", Description: "the first", CPUs: 2, MemoryBytes: hypervisor.GiB, NICs: []hypervisor.NICSpec{{}, {}},
		Labels: map[string]string{"tier": "db", "stage": "test"}, Token: "origin-1"}
	for n := range 3 {
		s.Disks = append(s.Disks, hypervisor.DiskSpec{SizeBytes: int64(n+1) * hypervisor.GiB})
	}
	s.Disks = append(s.Disks, hypervisor.DiskSpec{Volume: hypervisor.VolumeID(iso), CDROM: true})
	vm := ok[*hypervisor.VM](t)(w.c.CreateVM(ctx, s).Wait(ctx))
	for n, d := range ok[hypervisor.VMInfo](t)(vm.Info(ctx)).Disks {
		if !d.CDROM {
			if err := w.sim.WriteDisk(string(d.Volume), 0, fmt.Sprint("disk ", n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return vm
}

// sameDisks compares a clone's disks with the source's, one by one.
func (w *world) sameDisks(ctx context.Context, t *testing.T, from, to *hypervisor.VM, on hypervisor.DatastoreID, linked bool) {
	t.Helper()
	a, b := ok[hypervisor.VMInfo](t)(from.Info(ctx)).Disks, ok[hypervisor.VMInfo](t)(to.Info(ctx)).Disks
	if len(a) != len(b) {
		t.Fatalf("the source has %d disks, the clone %d", len(a), len(b))
	}
	for n := range a {
		if a[n].CDROM != b[n].CDROM || a[n].ReadOnly != b[n].ReadOnly || a[n].SizeBytes != b[n].SizeBytes || a[n].ID == b[n].ID {
			t.Errorf("disk %d is %+v, the source's %+v", n, b[n], a[n])
		}
		if a[n].CDROM {
			if a[n].Volume != b[n].Volume {
				t.Errorf("the CD is %s, the source's %s", b[n].Volume, a[n].Volume)
			}
			continue
		}
		was, is := ok[string](t)(w.sim.DiskID(string(a[n].Volume))), ok[string](t)(w.sim.DiskID(string(b[n].Volume)))
		shares := ok[bool](t)(w.sim.SharesBase(string(a[n].Volume), string(b[n].Volume)))
		if was != is || a[n].Volume == b[n].Volume || shares != linked || on != "" && b[n].Datastore != on {
			t.Errorf("disk %d on %s: same content %v, shares a base %v", n, b[n].Datastore, was == is, shares)
		}
	}
}

// TestClonesAreWhatWasAskedFor checks everything that a clone takes along,
// gets anew, or is given.
func TestClonesAreWhatWasAskedFor(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	src := w.origin(ctx, t)
	local := ok[any](t)(localStore(ctx, w)).(hypervisor.DatastoreID)
	host := w.hosts(ctx)[1].ID
	for name, o := range map[string]hypervisor.CloneOptions{
		"full":           {},
		"elsewhere":      {Placement: hypervisor.Placement{Datastore: local, Host: host}, Description: "a copy", Labels: map[string]string{"tier": "web"}, Token: "copy-1"},
		"linked":         {Mode: hypervisor.CloneModeLinked},
		"linked, larger": {Mode: hypervisor.CloneModeLinked, CPUs: 4, MemoryBytes: 2 * hypervisor.GiB, Placement: hypervisor.Placement{Host: host}},
	} {
		vm := ok[*hypervisor.VM](t)(src.Clone(ctx, name, &o).Wait(ctx))
		w.sameDisks(ctx, t, src, vm, o.Placement.Datastore, o.Mode == hypervisor.CloneModeLinked)
		i := ok[hypervisor.VMInfo](t)(vm.Info(ctx))
		labels, cpus, memory := map[string]string{"tier": "db", "stage": "test"}, 2, int64(hypervisor.GiB)
		if o.Labels != nil {
			labels = o.Labels
		}
		if o.CPUs > 0 {
			cpus, memory = o.CPUs, o.MemoryBytes
		}
		if i.Name != name || i.Description != o.Description || i.Token != o.Token || i.Placement.Host != o.Placement.Host || i.Template || i.State != hypervisor.StateOff ||
			i.CPUs != cpus || i.MemoryBytes != memory || !maps.Equal(i.Labels, labels) || len(i.NICs) != 2 {
			t.Errorf("%s: %+v", name, i)
		}
		for k := range w.field(t, "VM", string(vm.ID()), "other_config").(map[string]any) {
			if strings.HasPrefix(k, makingKey) || strings.HasPrefix(k, cloningKey) || k == madeKey {
				t.Errorf("%s still has %s", name, k)
			}
		}
	}
	if i := ok[hypervisor.VMInfo](t)(src.Info(ctx)); i.Token != "origin-1" || i.Description != "the first" || i.Snapshots != 0 {
		t.Errorf("the source is %+v", i)
	}
	_, err := src.Clone(ctx, "no", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked, Placement: hypervisor.Placement{Datastore: local}}).Wait(ctx)
	if hypervisor.KindOf(err) != hypervisor.ErrInvalidArgument || len(w.named(t, "no")) > 0 {
		t.Errorf("a linked clone on another datastore: %v", err)
	}
}

// TestCloneOfCheckpoint clones a snapshot with RAM: the clone is off, and no
// image of RAM is left.
func TestCloneOfCheckpoint(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	snap := ok[*hypervisor.Snapshot](t)(w.run.CreateSnapshot(ctx, "ram", &hypervisor.SnapshotOptions{Memory: true}).Wait(ctx))
	before := w.truth(t)
	for _, mode := range []hypervisor.CloneMode{hypervisor.CloneModeFull, hypervisor.CloneModeLinked} {
		vm := ok[*hypervisor.VM](t)(w.run.Clone(ctx, "made", &hypervisor.CloneOptions{From: snap.ID(), Mode: mode}).Wait(ctx))
		if i := ok[hypervisor.VMInfo](t)(vm.Info(ctx)); i.State != hypervisor.StateOff || i.Template || len(i.Disks) != 1 {
			t.Errorf("%v: %+v", mode, i)
		}
		if err := wait(ctx, vm.Delete(ctx, hypervisor.DeleteDisks, nil)); err != nil {
			t.Error(err)
		}
	}
	if got := w.truth(t); len(got.loose) != 0 || got.vbds != before.vbds {
		t.Errorf("there is %+v, before %+v", got, before)
	}
}

// TestSuspendedClone clones a suspended machine: it stays suspended.
func TestSuspendedClone(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	ram := w.sim.Memory(string(w.run.ID()))
	if err := wait(ctx, w.run.Suspend(ctx)); err != nil {
		t.Fatal(err)
	}
	vm := ok[*hypervisor.VM](t)(w.run.Clone(ctx, "made", nil).Wait(ctx))
	if i := ok[hypervisor.VMInfo](t)(vm.Info(ctx)); i.State != hypervisor.StateOff || len(i.Disks) != 1 {
		t.Errorf("%+v", i)
	}
	if err := wait(ctx, w.run.Resume(ctx)); err != nil || w.sim.Memory(string(w.run.ID())) != ram {
		t.Errorf("the source after its clone was made: %v", err)
	}
}

// TestCloneToForgottenDatastore: VM.copy to a datastore that is gone copies to
// the source's, so the driver looks before.
func TestCloneToForgottenDatastore(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 1})
	ds := ok[any](t)(localStore(ctx, w)).(hypervisor.DatastoreID)
	sr := ""
	w.rpc(ctx, t, &sr, "SR.get_by_uuid", string(ds))
	h := w.sim.Hold("VM.snapshot", 1)
	task := w.run.Clone(ctx, "made", &hypervisor.CloneOptions{Placement: hypervisor.Placement{Datastore: ds}})
	<-h.Reached()
	for _, p := range w.sim.Refs("PBD") {
		if w.text(t, "PBD", p, "SR") == sr {
			w.rpc(ctx, t, nil, "PBD.unplug", p)
		}
	}
	w.rpc(ctx, t, nil, "SR.forget", sr)
	h.Release()
	if err := wait(ctx, task); hypervisor.KindOf(err) != hypervisor.ErrNotFound {
		t.Errorf("%v", err)
	}
	if made := w.named(t, "made"); len(made) != 0 {
		t.Errorf("there is %v", made)
	}
}
