package hvsim_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
)

const disk0 = `C:\vm\disk.vhdx`

// vhd prints disk settings.
func vhd(path string, kind int, size uint64, parent string) string {
	kv := []any{"Path", path, "Type:uint16", kind, "Format:uint16", 3, "MaxInternalSize:uint64", size}
	if parent != "" {
		kv = append(kv, "ParentPath", parent)
	}
	return emb("Msvm_VirtualHardDiskSettingData", kv...)
}

func (c *client) createDisk(sim *hvsim.Sim, path string, kind int, parent string) {
	c.t.Helper()
	size := uint64(10 << 30)
	if parent != "" {
		size = 0
	}
	c.do(sim, c.service("Msvm_ImageManagementService"), "CreateVirtualHardDisk", arg{"VirtualDiskSettingData", vhd(path, kind, size, parent)})
}

// attach adds a SCSI controller if needed, a drive and a disk; it gives the reference of the disk setting.
func (c *client) attach(sim *hvsim.Sim, id, path string) ref {
	c.t.Helper()
	return c.attachAs(sim, id, path, "Msvm_StorageAllocationSettingData")
}

// attachAs is attach with the class of the image's settings.
func (c *client) attachAs(sim *hvsim.Sim, id, path, class string) ref {
	c.t.Helper()
	vmms := c.service("Msvm_VirtualSystemManagementService")
	add := func(e string) ref {
		o := c.do(sim, vmms, "AddResourceSettings", arg{"AffectedConfiguration", byID("Msvm_VirtualSystemSettingData", "Microsoft:"+id)}, arg{"ResourceSettings", []string{e}})
		return o.Refs["ResultingResourceSettings"]
	}
	l := c.query("SELECT * FROM Msvm_ResourceAllocationSettingData WHERE InstanceID LIKE 'Microsoft:" + id + "%' AND ResourceSubType = 'Microsoft:Hyper-V:Synthetic SCSI Controller'")
	var ctl ref
	if len(l) == 0 {
		ctl = add(emb("Msvm_ResourceAllocationSettingData", "ResourceSubType", "Microsoft:Hyper-V:Synthetic SCSI Controller", "ResourceType:uint16", 6))
	} else {
		ctl = byID("Msvm_ResourceAllocationSettingData", l[0].get("InstanceID"))
	}
	drive := add(emb("Msvm_ResourceAllocationSettingData", "ResourceSubType", "Microsoft:Hyper-V:Synthetic Disk Drive", "ResourceType:uint16", 17, "Parent", ctl.path()))
	return add(emb(class, "ResourceSubType", "Microsoft:Hyper-V:Virtual Hard Disk", "ResourceType:uint16", 31, "Parent", drive.path(), "HostResource", []string{path}))
}

// leaf is the current disk file of a machine.
func (c *client) leaf(id string) string {
	c.t.Helper()
	return c.one("SELECT HostResource FROM Msvm_StorageAllocationSettingData WHERE InstanceID LIKE 'Microsoft:" + id + "%'").get("HostResource")
}

// snapshot takes a checkpoint and gives the reference to its settings.
func (c *client) snapshot(sim *hvsim.Sim, id string) ref {
	c.t.Helper()
	o := c.do(sim, c.service("Msvm_VirtualSystemSnapshotService"), "CreateSnapshot", arg{"AffectedSystem", system(id)}, arg{"SnapshotSettings", ""}, arg{"SnapshotType", 2})
	s := c.one("ASSOCIATORS OF {" + o.Refs["Job"].path() + "} WHERE AssocClass = Msvm_AffectedJobElement ResultClass = Msvm_VirtualSystemSettingData")
	return byID("Msvm_VirtualSystemSettingData", s.get("InstanceID"))
}

// settle lets background work end.
func settle(sim *hvsim.Sim) { sim.Advance(time.Minute) }

func TestCheckpoints(t *testing.T) {
	sim := start(t, hvsim.Config{})
	h := sim.Host(0)
	c := dial(t, sim, 0)
	svc := c.service("Msvm_VirtualSystemSnapshotService")
	id := c.define(sim, "vm", 2)
	c.createDisk(sim, disk0, 3, "")
	c.attach(sim, id, disk0)
	write := func(v string) {
		t.Helper()
		if err := h.WriteDisk(c.leaf(id), "root", v); err != nil {
			t.Fatal(err)
		}
	}
	read := func() string { return h.ReadDisk(c.leaf(id))["root"] }
	write("one")
	a := c.snapshot(sim, id)
	if l := c.leaf(id); l == disk0 || !strings.HasSuffix(l, ".avhdx") || !slices.Equal(h.DiskChain(l), []string{l, disk0}) {
		t.Fatalf("%s on %v", l, h.DiskChain(l))
	}
	write("two")
	b := c.snapshot(sim, id)
	write("three")
	so, err := c.get(b)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(so.get("Parent"), strings.TrimPrefix(a.Keys[0][1], "Microsoft:")) || so.get("VirtualSystemIdentifier") != id || so.get("VirtualSystemType") != "Microsoft:Hyper-V:Snapshot:Realized" {
		t.Fatalf("%v", so.Vals)
	}
	if l := c.query("ASSOCIATORS OF {" + system(id).path() + "} WHERE AssocClass = Msvm_SnapshotOfVirtualSystem"); len(l) != 2 {
		t.Fatalf("%d checkpoints", len(l))
	}
	now := func() string {
		return c.one("ASSOCIATORS OF {" + system(id).path() + "} WHERE AssocClass = Msvm_MostCurrentSnapshotInBranch").get("InstanceID")
	}
	if now() != b.Keys[0][1] {
		t.Fatal(now())
	}
	c.power(sim, id, 2)
	c.rv("32775", svc, "ApplySnapshot", arg{"Snapshot", a})
	c.power(sim, id, 3)
	c.do(sim, svc, "ApplySnapshot", arg{"Snapshot", a})
	settle(sim)
	if read() != "one" || now() != a.Keys[0][1] {
		t.Fatalf("%q on %s", read(), now())
	}
	write("four") // a branch beside b
	c.do(sim, svc, "ApplySnapshot", arg{"Snapshot", b})
	settle(sim)
	if read() != "two" {
		t.Fatal(read())
	}
	// The state on branch "four" is lost with its file.
	if n := countSuffix(h.Files(), ".avhdx"); n != 2 {
		t.Fatalf("%d automatic disks: %v", n, h.Files())
	}
	// Deleting a merges into the base, with b's content kept, also while the machine runs.
	c.power(sim, id, 2)
	o := c.rv("4096", svc, "DestroySnapshot", arg{"AffectedSnapshot", a})
	c.wait(sim, o.Refs["Job"])
	settle(sim)
	if read() != "two" || len(h.DiskChain(c.leaf(id))) != 2 {
		t.Fatalf("%q %v", read(), h.DiskChain(c.leaf(id)))
	}
	so, _ = c.get(b)
	if so.get("Parent") != "" {
		t.Fatal(so.get("Parent"))
	}
	c.do(sim, svc, "DestroySnapshotTree", arg{"SnapshotSettingData", b})
	settle(sim)
	if read() != "two" || c.leaf(id) != disk0 || countSuffix(h.Files(), ".avhdx") != 0 {
		t.Fatalf("%q %s %v", read(), c.leaf(id), h.Files())
	}
	if s := c.state(id); s != "2" {
		t.Fatal(s)
	}
}

func countSuffix(l []string, s string) (n int) {
	for _, x := range l {
		if strings.HasSuffix(x, s) {
			n++
		}
	}
	return n
}

func TestCheckpointMemory(t *testing.T) {
	sim := start(t, hvsim.Config{})
	c := dial(t, sim, 0)
	vmms, svc := c.service("Msvm_VirtualSystemManagementService"), c.service("Msvm_VirtualSystemSnapshotService")
	id := c.define(sim, "vm", 2)
	set := func(kind int) {
		c.do(sim, vmms, "ModifySystemSettings", arg{"SystemSettings", emb("Msvm_VirtualSystemSettingData", "InstanceID", "Microsoft:"+id, "UserSnapshotType:uint16", kind)})
	}
	c.power(sim, id, 2)
	set(5)
	if err := sim.WriteMemory(id, "counter", "7"); err != nil {
		t.Fatal(err)
	}
	std := c.snapshot(sim, id)
	set(3)
	prod := c.snapshot(sim, id)
	set(2)
	c.rv("1", svc, "CreateSnapshot", arg{"AffectedSystem", system(id)}, arg{"SnapshotType", 2})
	set(4)
	if err := sim.SetGuest(id, hvsim.Guest{NoTools: true}); err != nil {
		t.Fatal(err)
	}
	o := c.rv("4096", svc, "CreateSnapshot", arg{"AffectedSystem", system(id)}, arg{"SnapshotType", 2})
	if j := c.wait(sim, o.Refs["Job"]); j.get("JobState") != "10" || !strings.Contains(j.get("ErrorDescription"), "Production") {
		t.Fatalf("%v", j.Vals)
	}
	set(3)
	fallback := c.snapshot(sim, id)
	c.power(sim, id, 3)
	for _, k := range []struct {
		s     ref
		state string
	}{{std, "6"}, {prod, "3"}, {fallback, "6"}} {
		if s := c.state(id); s == "6" {
			c.power(sim, id, 2)
			c.power(sim, id, 3)
		}
		c.do(sim, svc, "ApplySnapshot", arg{"Snapshot", k.s})
		if s := c.state(id); s != k.state {
			t.Fatalf("%v: state %s, want %s", k.s, s, k.state)
		}
	}
	c.do(sim, svc, "ApplySnapshot", arg{"Snapshot", std})
	c.power(sim, id, 2)
	if m := sim.Memory(id); m["counter"] != "7" {
		t.Fatalf("%v", m)
	}
	c.rv("32773", svc, "ApplySnapshot", arg{"Snapshot", byID("Msvm_VirtualSystemSettingData", "Microsoft:"+id)})
}

// TestCloneBase shows the trap of linked clones: a base that is written breaks what depends on it.
func TestCloneBase(t *testing.T) {
	sim := start(t, hvsim.Config{})
	h := sim.Host(0)
	c := dial(t, sim, 0)
	img := c.service("Msvm_ImageManagementService")
	c.createDisk(sim, disk0, 3, "")
	if err := h.WriteDisk(disk0, "root", "base"); err != nil {
		t.Fatal(err)
	}
	for n := range 2 {
		p := fmt.Sprintf(`C:\vm\clone%d.vhdx`, n)
		c.createDisk(sim, p, 4, disk0)
		id := c.define(sim, "clone", 2)
		c.attach(sim, id, p)
		c.power(sim, id, 2)
		if err := h.WriteDisk(c.leaf(id), "root", fmt.Sprint("clone", n)); err != nil {
			t.Fatal(err)
		}
	}
	if h.ReadDisk(disk0)["root"] != "base" || h.ReadDisk(`C:\vm\clone0.vhdx`)["root"] != "clone0" {
		t.Fatal("clones write into their own disks")
	}
	user := c.define(sim, "user of the base", 2)
	c.attach(sim, user, disk0)
	o := c.rv("4096", system(user), "RequestStateChange", arg{"RequestedState", 2})
	if j := c.wait(sim, o.Refs["Job"]); j.get("JobState") != "10" || c.state(user) != "3" {
		t.Fatalf("the base is open in running clones: %v", j.Vals)
	}
	for _, o := range c.query("SELECT * FROM Msvm_ComputerSystem WHERE ElementName = 'clone'") {
		c.power(sim, o.get("Name"), 3)
	}
	c.power(sim, user, 2)
	if h.ReadDisk(`C:\vm\clone0.vhdx`) != nil {
		t.Fatal("a base that was opened for writing still carries its clones")
	}
	o = c.rv("4096", img, "ValidateVirtualHardDisk", arg{"Path", `C:\vm\clone0.vhdx`})
	if j := c.wait(sim, o.Refs["Job"]); j.get("JobState") != "10" {
		t.Fatalf("%v", j.Vals)
	}
}
