package xen

import (
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestVolumes lists what the storage manager shows, and no hidden bases.
func TestVolumes(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	ok[*hypervisor.VM](t)(w.off.Clone(ctx, "linked", &hypervisor.CloneOptions{Mode: hypervisor.Linked}).Wait(ctx))
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
	if len(dep.Volumes) != 1 || dep.Volumes[0].Depth != 1 || len(dep.Volumes[0].Dependants) != 1 || dep.Volumes[0].Dependants[0].Kind != hypervisor.KindOfVM {
		t.Errorf("%+v", dep)
	}
	ok[*hypervisor.Snapshot](t)(w.run.CreateSnapshot(ctx, "snap", nil).Wait(ctx))
	dep = ok[hypervisor.Dependencies](t)(w.run.Dependencies(ctx))
	if len(dep.Volumes) != 1 || len(dep.Volumes[0].Dependants) != 1 || dep.Volumes[0].Dependants[0].Kind != hypervisor.KindOfSnapshot || dep.Volumes[0].Dependants[0].Name != "snap" {
		t.Errorf("%+v", dep)
	}
}

// TestDatastoresAndNetworks compares what is told with the pool.
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
	if outer.VLAN != 42 || outer.Type != "bridged" || len(outer.Hosts) != 2 || outer.SRIOV != hypervisor.Absent {
		t.Errorf("%+v", outer)
	}
	if inner.VLAN != 0 || inner.Type != "internal" || len(inner.Hosts) != 0 {
		t.Errorf("%+v", inner)
	}
}
