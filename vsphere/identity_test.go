package vsphere

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// The names of things change, and two things may have one name. These tests change names behind the driver's back, as an administrator does.

func govmomiOf(t *testing.T, sim *vspheresim.Sim) *govmomi.Client {
	t.Helper()
	g, err := govmomi.NewClient(t.Context(), sim.URL(), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Logout(context.WithoutCancel(t.Context())) })
	return g
}

func rename(t *testing.T, g *govmomi.Client, r ref, name string) {
	t.Helper()
	task, err := object.NewCommon(g.Client, r).Rename(t.Context(), name)
	if err := wait(t.Context(), task, err); err != nil {
		t.Fatal(err)
	}
}

// storesNamed is the datastores with a name, in the order of their datacenters.
func storesNamed(t *testing.T, c *hypervisor.Client, name string) (out []hypervisor.DatastoreID) {
	t.Helper()
	for s, err := range c.Datastores(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if s.Name == name {
			out = append(out, s.ID)
		}
	}
	return out
}

func volumesOf(t *testing.T, c *hypervisor.Client, ds hypervisor.DatastoreID) (out []hypervisor.VolumeID) {
	t.Helper()
	for v, err := range c.Volumes(t.Context(), ds) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, v.ID)
	}
	return out
}

func sizeOf(t *testing.T, c *hypervisor.Client, id hypervisor.VolumeID) int64 {
	t.Helper()
	store, _, _ := splitVolume(id)
	for v, err := range c.Volumes(t.Context(), hypervisor.DatastoreID(store.Value)) {
		if err != nil {
			t.Fatal(err)
		}
		if v.ID == id {
			return v.SizeBytes
		}
	}
	return 0
}

// TestRenamedDatastore: how storage is replaced: a datastore gets another name, and a new one gets its old name. A volume is that of its datastore.
func TestRenamedDatastore(t *testing.T) {
	sim, c := once(t, vspheresim.Config{TaskDelay: vspheresim.Immediate})
	ctx := t.Context()
	g := govmomiOf(t, sim)
	old, fresh := storesNamed(t, c, "LocalDS_0")[0], storesNamed(t, c, "LocalDS_1")[0]
	var both []hypervisor.VolumeID
	for _, ds := range []hypervisor.DatastoreID{old, fresh} {
		v, err := c.CreateVolume(ctx, hypervisor.VolumeSpec{Name: "data", Datastore: ds, SizeBytes: hypervisor.MiB}).Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, v)
	}
	s := spec("machine")
	s.Placement.Datastore = old
	vm, err := c.CreateVM(ctx, s).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}

	rename(t, g, storeRef(old), "LocalDS_0-old")
	// A name that nothing has any more.
	if _, err := c.CreateVolume(ctx, hypervisor.VolumeSpec{Name: "more", Datastore: old, SizeBytes: hypervisor.MiB}).Wait(ctx); err != nil {
		t.Errorf("a volume on a datastore with a new name: %v", err)
	}
	if _, err := vm.AttachDisk(ctx, hypervisor.DiskSpec{Image: both[0]}).Wait(ctx); err != nil {
		t.Errorf("the copy of an image on a datastore with a new name: %v", err)
	}
	// The name of another one.
	rename(t, g, storeRef(fresh), "LocalDS_0")
	if _, err := vm.AttachDisk(ctx, hypervisor.DiskSpec{SizeBytes: hypervisor.MiB, Datastore: old}).Wait(ctx); err != nil {
		t.Errorf("a disk on a datastore with a new name: %v", err)
	}
	if i, err := vm.Info(ctx); err != nil || i.Placement.Datastore != old || slices.ContainsFunc(i.Disks, func(d hypervisor.DiskInfo) bool { return d.Datastore != old }) {
		t.Errorf("the machine is on %+v, want %s: %v", i.Placement, old, err)
	}
	if _, err := c.DeleteVolume(ctx, both[0]).Wait(ctx); err != nil {
		t.Errorf("delete: %v", err)
	}
	if l := volumesOf(t, c, old); slices.Contains(l, both[0]) {
		t.Errorf("%s is still there: %v", both[0], l)
	}
	if l := volumesOf(t, c, fresh); !slices.Contains(l, both[1]) {
		t.Errorf("%s, on another datastore, is gone: %v", both[1], l)
	}
}

// TestImageOfAnotherDatacenter: an image is looked for in its own datacenter, whatever the one of the copy has at the same path.
func TestImageOfAnotherDatacenter(t *testing.T) {
	sim, c := once(t, vspheresim.Config{Datacenters: 2, TaskDelay: vspheresim.Immediate})
	ctx := t.Context()
	at := storesNamed(t, c, "LocalDS_0")
	if len(at) != 2 {
		t.Fatalf("datastores named LocalDS_0: %v", at)
	}
	for i, ds := range at {
		if _, err := c.CreateVolume(ctx, hypervisor.VolumeSpec{Name: "image", Datastore: ds, SizeBytes: int64(3+4*i) * hypervisor.MiB}).Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for i, from := range at {
		for j, to := range at {
			image := hypervisor.VolumeID(string(from) + "/image.vmdk")
			v, err := c.CreateVolume(ctx, hypervisor.VolumeSpec{Name: "copy" + string(rune('a'+2*i+j)), Datastore: to, From: image}).Wait(ctx)
			if err != nil {
				t.Errorf("copy from datacenter %d to %d: %v", i, j, err)
				continue
			}
			if n, want := sizeOf(t, c, v), int64(3+4*i)*hypervisor.MiB; n != want {
				t.Errorf("the copy from datacenter %d to %d has %d bytes, want %d", i, j, n, want)
			}
			s := spec("machine " + string(rune('a'+2*i+j)))
			s.Placement.Datastore = to
			s.Disks = []hypervisor.DiskSpec{{Image: image}}
			vm, err := c.CreateVM(ctx, s).Wait(ctx)
			if err != nil {
				t.Errorf("a machine of an image from datacenter %d in %d: %v", i, j, err)
				continue
			}
			if i2, err := vm.Info(ctx); err != nil || len(i2.Disks) != 1 || i2.Disks[0].SizeBytes != int64(3+4*i)*hypervisor.MiB || i2.Disks[0].Datastore != to {
				t.Errorf("a machine of an image from datacenter %d in %d: %+v, %v", i, j, i2.Disks, err)
			}
		}
	}
	_ = sim
}

// TestOpaqueNetwork: a network of NSX has one ID: that of the list, whoever connected the adapter.
func TestOpaqueNetwork(t *testing.T) {
	_, c := once(t, vspheresim.Config{OpaqueNetworks: 1, Datacenters: 2, TaskDelay: vspheresim.Immediate})
	ctx := t.Context()
	ids := make([]hypervisor.NetworkID, 2)
	for n, err := range c.Networks(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		for i := range ids {
			if n.Name == "DC"+itoa(i)+"_NSX0" {
				ids[i] = n.ID
			}
		}
	}
	for i, id := range ids {
		s := spec("machine " + string(rune('a'+i)))
		s.NICs = []hypervisor.NICSpec{{Network: id}}
		s.Placement.Folder = "DC" + itoa(i) + "/vm"
		vm, err := c.CreateVM(ctx, s).Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		v, err := vm.Info(ctx)
		if err != nil || len(v.NICs) != 1 || v.NICs[0].Network != id {
			t.Fatalf("the adapter is on %+v, want %s: %v", v.NICs, id, err)
		}
		for h, err := range c.Hosts(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			if h.ID == v.Host || !strings.HasPrefix(h.Name, "DC"+itoa(i)) {
				continue
			}
			if r, err := vm.CheckMigrate(ctx, hypervisor.MigrateOptions{Host: h.ID}); err != nil || !r.OK() {
				t.Errorf("to host %s: %+v, %v", h.Name, r, err)
			}
		}
	}
}

// TestCopiedToken: a machine that another tool made of one with a token is not the one that the token made.
func TestCopiedToken(t *testing.T) {
	sim, c := once(t, vspheresim.Config{TaskDelay: vspheresim.Immediate})
	ctx := t.Context()
	g := govmomiOf(t, sim)
	s := spec("web")
	s.Token = "request-1"
	vm, err := c.CreateVM(ctx, s).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.CreateVM(ctx, s).Wait(ctx)
	if err != nil || again.ID() != vm.ID() {
		t.Fatalf("the token again: %v, %v, want %s", again, err, vm.ID())
	}
	copied := nativeCopy(t, g, vm.ID(), "web-copy")
	if i, err := c.VM(copied).Info(ctx); err != nil || i.Token != "" {
		t.Errorf("the copy says the token %q: %v", i.Token, err)
	}
	if again, err = c.CreateVM(ctx, s).Wait(ctx); err != nil || again.ID() != vm.ID() {
		t.Errorf("the token, with a copy: %v, %v, want %s", again, err, vm.ID())
	}
	if _, err := vm.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	s.Name = "web again"
	if again, err = c.CreateVM(ctx, s).Wait(ctx); err != nil || again.ID() == copied || again.ID() == vm.ID() {
		t.Fatalf("the token once its machine is deleted: %v, %v", again, err)
	}
	// Clones of each kind, in one go each.
	if _, err := again.Start(ctx).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	for m, mode := range map[string]hypervisor.CloneMode{"full": hypervisor.CloneModeFull, "linked": hypervisor.CloneModeLinked, "instant": hypervisor.CloneModeInstant} {
		o := &hypervisor.CloneOptions{Mode: mode, Token: "request-of-" + m}
		a, err := again.Clone(ctx, "clone "+m, o).Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		b, err := again.Clone(ctx, "clone "+m, o).Wait(ctx)
		if err != nil || a.ID() != b.ID() {
			t.Errorf("%s: the token again: %v, %v, want %s", m, b, err, a.ID())
		}
		if i, err := a.Info(ctx); err != nil || i.Token != o.Token {
			t.Errorf("%s: the clone says the token %q: %v", m, i.Token, err)
		}
		n := 0
		for v, err := range c.VMs(ctx, nil) {
			if err != nil {
				t.Fatal(err)
			}
			if v.Token == o.Token {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s: %d machines say the token", m, n)
		}
	}
}

func nativeCopy(t *testing.T, g *govmomi.Client, id hypervisor.VMID, name string) hypervisor.VMID {
	t.Helper()
	f, err := find.NewFinder(g.Client).DefaultFolder(t.Context())
	if err != nil {
		dc, derr := find.NewFinder(g.Client).DefaultDatacenter(t.Context())
		if derr != nil {
			t.Fatal(err, derr)
		}
		folders, derr := dc.Folders(t.Context())
		if derr != nil {
			t.Fatal(derr)
		}
		f = folders.VmFolder
	}
	task, err := object.NewVirtualMachine(g.Client, vmRef(id)).Clone(t.Context(), f, name, types.VirtualMachineCloneSpec{})
	if err != nil {
		t.Fatal(err)
	}
	info, err := task.WaitForResult(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return hypervisor.VMID(info.Result.(ref).Value)
}

// TestNewFolder: a folder that another tool made, or gave the name of another, is found by its name at once.
func TestNewFolder(t *testing.T) {
	sim, c := once(t, vspheresim.Config{TaskDelay: vspheresim.Immediate})
	ctx := t.Context()
	g := govmomiOf(t, sim)
	if _, err := c.CreateVM(ctx, spec("warm")).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	dc, err := find.NewFinder(g.Client).DefaultDatacenter(ctx)
	if err != nil {
		t.Fatal(err)
	}
	folders, err := dc.Folders(ctx)
	if err != nil {
		t.Fatal(err)
	}
	team, err := folders.VmFolder.CreateFolder(ctx, "team")
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) ref {
		t.Helper()
		s := spec(name)
		s.Placement.Folder = "DC0/vm/team"
		vm, err := c.CreateVM(ctx, s).Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		p, err := driverOf(t, c).one(ctx, vmRef(vm.ID()), "parent")
		if err != nil {
			t.Fatal(err)
		}
		return p.ref("parent")
	}
	if at := in("first"); at != team.Reference() {
		t.Errorf("the machine is in %v, want %v", at, team)
	}
	rename(t, g, team.Reference(), "team-old")
	other, err := folders.VmFolder.CreateFolder(ctx, "team")
	if err != nil {
		t.Fatal(err)
	}
	if at := in("second"); at != other.Reference() {
		t.Errorf("the machine is in %v, want %v", at, other)
	}
	s := spec("third")
	s.Placement.Folder = "DC0/vm/team-older"
	if _, err := c.CreateVM(ctx, s).Wait(ctx); !errors.Is(err, hypervisor.ErrNotFound) {
		t.Errorf("a folder that is not there: %v", err)
	}
}

// TestHomeDatastore: where a machine is is where its own files are.
func TestHomeDatastore(t *testing.T) {
	sim, c := once(t, vspheresim.Config{TaskDelay: vspheresim.Immediate})
	ctx := t.Context()
	g := govmomiOf(t, sim)
	a, b := storesNamed(t, c, "LocalDS_0")[0], storesNamed(t, c, "LocalDS_1")[0]
	s := spec("machine")
	s.Placement.Datastore = b
	s.Disks = []hypervisor.DiskSpec{{SizeBytes: hypervisor.MiB, Datastore: a}, {SizeBytes: hypervisor.MiB, Datastore: b}}
	vm, err := c.CreateVM(ctx, s).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		if i, err := vm.Info(ctx); err != nil || i.Placement.Datastore != b {
			t.Errorf("%s: %+v, want %s: %v", when, i.Placement, b, err)
		}
		for v, err := range c.VMs(ctx, nil) {
			if err != nil || v.ID == vm.ID() && v.Placement.Datastore != b {
				t.Errorf("%s: the list says %+v, want %s: %v", when, v.Placement, b, err)
			}
		}
	}
	check("made")
	rename(t, g, storeRef(a), "other")
	rename(t, g, storeRef(b), "LocalDS_0")
	check("with the datastores' names changed")
}

// TestSameStoreNames: the simulator keeps the files of datastores with one name apart.
func TestSameStoreNames(t *testing.T) {
	sim, c := once(t, vspheresim.Config{Datacenters: 2, TaskDelay: vspheresim.Immediate})
	ctx := t.Context()
	var vms []*hypervisor.VM
	for i, ds := range storesNamed(t, c, "LocalDS_0") {
		s := spec("same")
		s.Placement.Datastore = ds
		vm, err := c.CreateVM(ctx, s).Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := sim.WriteDisk(string(vm.ID()), 0, "of datacenter "+string(rune('0'+i))); err != nil {
			t.Fatal(err)
		}
		vms = append(vms, vm)
	}
	for i, vm := range vms {
		if s, err := sim.ReadDisk(string(vm.ID()), 0); err != nil || s != "of datacenter "+string(rune('0'+i)) {
			t.Errorf("the disk in datacenter %d holds %q: %v", i, s, err)
		}
		if _, err := vm.Start(ctx).Wait(ctx); err != nil {
			t.Errorf("datacenter %d: %v", i, err)
		}
	}
	g := govmomiOf(t, sim)
	if _, err := methods.RenameDatastore(ctx, g.Client, &types.RenameDatastore{This: storeRef(storesNamed(t, c, "LocalDS_1")[0]), NewName: "LocalDS_0"}); err == nil {
		t.Error("two datastores of one datacenter have one name")
	}
}

// TestEmptyDatacenter: the simulator refuses an empty datacenter, which ends govmomi's.
func TestEmptyDatacenter(t *testing.T) {
	sim, c := once(t, vspheresim.Config{})
	g := govmomiOf(t, sim)
	_, err := methods.CopyVirtualDisk_Task(t.Context(), g.Client, &types.CopyVirtualDisk_Task{This: *g.ServiceContent.VirtualDiskManager,
		SourceName: "[LocalDS_0] a.vmdk", SourceDatacenter: &ref{}, DestName: "[LocalDS_0] b.vmdk", DestDatacenter: &ref{}})
	if _, ok := faultOf(err).(*types.ManagedObjectNotFound); !ok {
		t.Errorf("a copy in no datacenter: %v", err)
	}
	if _, err := hypervisor.Collect(c.VMs(t.Context(), nil)); err != nil {
		t.Error(err)
	}
}
