package xen

import (
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestVolumes lists what the storage manager shows, and no hidden bases.
func TestVolumes(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	ok[*hypervisor.VM](t)(w.off.Clone(ctx, "linked", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(ctx))
	shown := map[string]bool{}
	for v, err := range w.c.Volumes(ctx, "") {
		if err != nil {
			t.Fatal(err)
		}
		shown[string(v.ID)] = true
	}
	hidden := 0
	for _, r := range w.sim.Refs("VDI") {
		managed := w.field(t, "VDI", r, "managed") == true
		if shown[w.text(t, "VDI", r, "uuid")] != managed {
			t.Errorf("image %s (managed %v) is listed: %v", r, managed, !managed)
		}
		if !managed {
			hidden++
		}
	}
	if hidden != 1 {
		t.Errorf("%d hidden bases", hidden)
	}
	dep := ok[hypervisor.Dependencies](t)(w.off.Dependencies(ctx))
	if len(dep.Volumes) != 1 || dep.Volumes[0].Depth != 1 || len(dep.Volumes[0].Dependants) != 1 || dep.Volumes[0].Dependants[0].Kind != hypervisor.ObjectVM {
		t.Errorf("%+v", dep)
	}
	ok[*hypervisor.Snapshot](t)(w.run.CreateSnapshot(ctx, "snap", nil).Wait(ctx))
	dep = ok[hypervisor.Dependencies](t)(w.run.Dependencies(ctx))
	if len(dep.Volumes) != 1 || len(dep.Volumes[0].Dependants) != 1 || dep.Volumes[0].Dependants[0].Kind != hypervisor.ObjectSnapshot || dep.Volumes[0].Dependants[0].Name != "snap" {
		t.Errorf("%+v", dep)
	}
}

// TestDatastoresAndNetworks compares what is reported with the pool.
func TestDatastoresAndNetworks(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	stores := ok[[]hypervisor.DatastoreInfo](t)(hypervisor.Collect(w.c.Datastores(ctx)))
	if len(stores) != 3 {
		t.Fatalf("%+v", stores) // a shared one and two local ones; the library of CDs is none
	}
	for _, d := range stores {
		shared := len(d.Hosts) == 2
		if d.Shared != shared || !d.Accessible || d.CapacityBytes != 1<<40 || d.FreeBytes <= 0 || d.Type != map[bool]string{true: "nfs", false: "ext"}[shared] {
			t.Errorf("%+v", d)
		}
	}
	for _, r := range w.sim.Refs("PBD") {
		if err := w.sim.SetField("PBD", r, "currently_attached", false); err != nil {
			t.Fatal(err)
		}
	}
	for d, err := range w.c.Datastores(ctx) {
		if err != nil || d.Accessible || d.Shared || len(d.Hosts) != 0 {
			t.Errorf("unplugged: %+v, %v", d, err)
		}
	}
	if err := w.sim.SetField("PIF", w.sim.Refs("PIF")[0], "VLAN", int64(42)); err != nil {
		t.Fatal(err)
	}
	networks := map[string]hypervisor.NetworkInfo{}
	for n, err := range w.c.Networks(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		networks[n.Name] = n
	}
	outer, inner := networks["Pool-wide network associated with eth0"], networks["Host internal management network"]
	if outer.VLAN != 42 || outer.Type != "bridged" || len(outer.Hosts) != 2 || outer.SRIOV != hypervisor.FactAbsent {
		t.Errorf("%+v", outer)
	}
	if inner.VLAN != 0 || inner.Type != "internal" || len(inner.Hosts) != 0 {
		t.Errorf("%+v", inner)
	}
}

// TestDetachedDatastore: what needs a datastore that no host has attached is
// refused as that.
func TestDetachedDatastore(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	disk := ok[hypervisor.DiskInfo](t)(diskOf(ctx, w.off))
	snap := ok[*hypervisor.Snapshot](t)(w.off.CreateSnapshot(ctx, "s", nil).Wait(ctx))
	if err := wait(ctx, w.run.PowerOff(ctx)); err != nil {
		t.Fatal(err)
	}
	sr := w.text(t, "pool", w.sim.Refs("pool")[0], "default_SR")
	for _, p := range w.sim.Refs("PBD") {
		if w.text(t, "PBD", p, "SR") == sr {
			w.rpc(ctx, t, nil, "PBD.unplug", p)
		}
	}
	for name, err := range map[string]error{
		"CreateVolume":   wait(ctx, w.c.CreateVolume(ctx, hypervisor.VolumeSpec{Name: "v", SizeBytes: hypervisor.GiB, Datastore: disk.Datastore})),
		"AttachDisk":     wait(ctx, w.off.AttachDisk(ctx, newDisk())),
		"CreateSnapshot": wait(ctx, w.off.CreateSnapshot(ctx, "t", nil)),
		"Clone":          wait(ctx, w.off.Clone(ctx, "made", nil)),
		"GrowDisk":       wait(ctx, w.off.GrowDisk(ctx, disk.ID, 20*hypervisor.GiB)),
		"DeleteSnapshot": wait(ctx, snap.Delete(ctx, nil)),
	} {
		if hypervisor.KindOf(err) != hypervisor.ErrInvalidState || !strings.Contains(err.Error(), "SR_HAS_NO_PBDS") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDefaultGone: the pool's default datastore is one that is gone. A machine
// that would be there is refused, and nothing of it is left.
func TestDefaultGone(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	if err := w.sim.SetField("pool", w.sim.Refs("pool")[0], "default_SR", "OpaqueRef:11111111-1111-4111-8111-111111111111"); err != nil {
		t.Fatal(err)
	}
	if err := wait(ctx, w.c.CreateVM(ctx, spec("new"))); hypervisor.KindOf(err) != hypervisor.ErrInvalidArgument || !strings.Contains(err.Error(), "Placement.Datastore") {
		t.Errorf("%v", err)
	}
	if got := w.truth(t); got.vms != w.before.vms || len(got.loose) != 0 {
		t.Errorf("there is %+v", got)
	}
}

// TestMemoryIsNoDisk: the image that has the memory of a suspended machine is
// listed, and DeleteVolume leaves it alone; so it does with what XAPI keeps for
// itself.
func TestMemoryIsNoDisk(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	if _, err := w.run.Suspend(ctx).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	images := len(w.sim.Refs("VDI"))
	memory := ""
	for _, r := range w.sim.Refs("VDI") {
		if w.text(t, "VDI", r, "type") == "suspend" {
			memory = r
		}
	}
	id := hypervisor.VolumeID(w.text(t, "VDI", memory, "uuid"))
	if err := wait(ctx, w.c.DeleteVolume(ctx, id)); hypervisor.KindOf(err) != hypervisor.ErrBusy || !strings.Contains(err.Error(), string(w.run.ID())) {
		t.Errorf("the memory of a suspended machine: %v", err)
	}
	for _, kind := range []string{"ha_statefile", "redo_log", "metadata", "cbt_metadata", "rrd"} {
		if err := w.sim.SetField("VDI", memory, "type", kind); err != nil {
			t.Fatal(err)
		}
		if err := wait(ctx, w.c.DeleteVolume(ctx, id)); hypervisor.KindOf(err) != hypervisor.ErrInvalidArgument {
			t.Errorf("an image of type %s: %v", kind, err)
		}
	}
	if n := len(w.sim.Refs("VDI")); n != images {
		t.Errorf("%d images, there were %d", n, images)
	}
	if _, err := w.run.Start(ctx).Wait(ctx); err != nil {
		t.Errorf("resume: %v", err)
	}
}
