package xapisim_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// diskOf gives the only disk of a VM.
func (c *client) diskOf(vm string) string {
	c.t.Helper()
	vbds := list(c.must("VM.get_VBDs", vm))
	if len(vbds) != 1 {
		c.t.Fatalf("%d VBDs", len(vbds))
	}
	return c.ref("VBD.get_VDI", vbds[0])
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestSnapshotTree(t *testing.T) {
	sim, c := start(t, xapisim.Config{})
	vm := c.newVM("db", nil)
	vdi, _ := c.addDisk(vm, "0", 8<<30)
	if err := sim.WriteDisk(vdi, 1, "first"); err != nil {
		t.Fatal(err)
	}
	s1 := c.ref("VM.snapshot", vm, "s1", []string{})
	if err := sim.WriteDisk(vdi, 1, "second"); err != nil {
		t.Fatal(err)
	}
	s2 := c.ref("VM.snapshot", vm, "s2")
	if got := list(c.must("VM.get_snapshots", vm)); fmt.Sprint(got) != fmt.Sprint([]string{s2, s1}) {
		t.Errorf("snapshots %v", got)
	}
	if c.ref("VM.get_parent", vm) != s2 || c.ref("VM.get_parent", s2) != s1 || c.ref("VM.get_parent", s1) != "OpaqueRef:NULL" {
		t.Error("parents")
	}
	if got := c.allowed(s1); got != "clone copy destroy export revert" {
		t.Errorf("snapshot's operations: %s", got)
	}
	c.must("VM.set_name_label", vm, "renamed")
	c.must("VM.revert", s1)
	if got := list(c.must("VM.get_children", s1)); len(got) != 2 { // s2 and the VM itself
		t.Errorf("children of s1: %v", got)
	}
	now := c.diskOf(vm)
	if now == vdi {
		t.Error("a revert gives a new VDI")
	}
	if got := must[map[int64]string](t)(sim.ReadDisk(now)); got[1] != "first" {
		t.Errorf("disk %v", got)
	}
	if got := c.ref("VM.get_name_label", vm); got != "db" {
		t.Errorf("name %q: a revert restores the record", got)
	}
	if got := c.ref("VDI.get_snapshot_of", c.diskOf(s2)); got != now {
		t.Errorf("snapshots follow the new disk, got %s", got)
	}
	// Destroying a snapshot leaves its disk behind, and its children hang on its parent.
	orphan := c.diskOf(s1)
	c.must("VM.destroy", s1)
	if c.ref("VM.get_parent", s2) != "OpaqueRef:NULL" {
		t.Error("s2 was not rebased")
	}
	c.must("VDI.destroy", orphan)
	// The VM can come back from a snapshot after its destruction, with its uuid.
	uuid := c.ref("VM.get_uuid", vm)
	c.must("VM.destroy", vm)
	c.must("VM.revert", s2)
	again := c.ref("VM.get_by_uuid", uuid)
	if got := must[map[int64]string](t)(sim.ReadDisk(c.diskOf(again))); got[1] != "second" {
		t.Errorf("disk %v", got)
	}
}

func TestCheckpoint(t *testing.T) {
	sim, c := start(t, xapisim.Config{})
	vm := c.newVM("ram", nil)
	c.addDisk(vm, "0", 1<<30)
	c.must("VM.start", vm, false, false)
	if err := sim.SetMemory(vm, "counter=41"); err != nil {
		t.Fatal(err)
	}
	cp := c.ref("VM.checkpoint", vm, "cp")
	if c.ref("VM.get_power_state", vm) != "Running" || c.ref("VM.get_power_state", cp) != "Suspended" {
		t.Error("states")
	}
	if err := sim.SetMemory(vm, "counter=99"); err != nil {
		t.Fatal(err)
	}
	c.must("VM.revert", cp)
	if got := c.ref("VM.get_power_state", vm); got != "Suspended" {
		t.Fatal(got)
	}
	c.must("VM.resume", vm, false, false)
	if got := sim.Memory(vm); got != "counter=41" {
		t.Errorf("memory %q", got)
	}
	clone := c.ref("VM.clone", cp, "from checkpoint")
	if got := c.ref("VM.get_power_state", clone); got != "Halted" {
		t.Error(got)
	}
	c.must("VM.pause", vm)
	if got := c.ref("VM.get_power_state", c.ref("VM.checkpoint", vm, "paused")); got != "Halted" {
		t.Errorf("a paused machine's checkpoint has no RAM, got %s", got)
	}
}

func TestCloneAndCopy(t *testing.T) {
	sim, c := start(t, xapisim.Config{})
	vm := c.newVM("base", nil)
	vdi, _ := c.addDisk(vm, "0", 1<<30)
	if err := sim.WriteDisk(vdi, 7, "x"); err != nil {
		t.Fatal(err)
	}
	linked, full := c.ref("VM.clone", vm, "linked"), c.ref("VM.copy", vm, "full", "OpaqueRef:NULL")
	for name, o := range map[string]struct {
		vm     string
		shares bool
	}{"clone": {linked, true}, "copy": {full, false}} {
		d := c.diskOf(o.vm)
		if a, b := must[string](t)(sim.DiskID(d)), must[string](t)(sim.DiskID(vdi)); a != b {
			t.Errorf("%s: content differs", name)
		}
		if got := must[bool](t)(sim.SharesBase(d, vdi)); got != o.shares {
			t.Errorf("%s: shares base %t", name, got)
		}
	}
	if err := sim.WriteDisk(c.diskOf(linked), 7, "y"); err != nil {
		t.Fatal(err)
	}
	if got := must[map[int64]string](t)(sim.ReadDisk(vdi)); got[7] != "x" {
		t.Error("the clone wrote through")
	}
	c.must("VM.start", vm, false, false)
	c.refused("VM_BAD_POWER_STATE", []string{vm, "halted", "running"}, "VM.clone", vm, "no")
	c.refused("MESSAGE_REMOVED", []string{}, "VM.snapshot_with_quiesce", vm, "q")
}

func TestTemplates(t *testing.T) {
	_, c := start(t, xapisim.Config{})
	tmpl := list(c.must("VM.get_by_name_label", "Debian Bookworm 12"))[0]
	c.refused("VM_IS_TEMPLATE", []string{tmpl, "start"}, "VM.start", tmpl, false, false)
	c.refused("VM_IS_TEMPLATE", []string{tmpl, "destroy"}, "VM.destroy", tmpl)
	vm := c.ref("VM.clone", tmpl, "web")
	c.refused("UUID_INVALID", []string{"sr", ""}, "VM.provision", vm)
	sr := c.ref("SR.get_uuid", c.ref("pool.get_default_SR", list(c.must("pool.get_all"))[0]))
	wish := c.must("VM.get_other_config", vm).(map[string]any)
	wish["disks"] = strings.Replace(wish["disks"].(string), `sr=""`, `sr="`+sr+`"`, 1) // as xe does
	c.must("VM.set_other_config", vm, wish)
	c.must("VM.provision", vm)
	if c.must("VM.get_is_a_template", vm) != false {
		t.Error("still a template")
	}
	if size := c.must("VDI.get_virtual_size", c.diskOf(vm)); size != float64(10<<30) {
		t.Errorf("disk of %v", size)
	}
	c.refused("PROVISION_ONLY_ALLOWED_ON_TEMPLATE", []string{}, "VM.provision", vm)
	c.must("VM.set_is_a_template", vm, true)
	c.refused("VM_IS_TEMPLATE", []string{vm, "start"}, "VM.start", vm, false, false)
	c.must("VM.set_is_a_template", vm, false)
	c.must("VM.revert", c.ref("VM.snapshot", vm, "s")) // without it the pool would not see it run
	c.must("VM.start", vm, false, false)
	c.refused("VM_BAD_POWER_STATE", []string{vm, "halted", "running"}, "VM.set_is_a_template", vm, true)
}

func TestRevertWithoutRoom(t *testing.T) {
	sim, c := start(t, xapisim.Config{})
	vm := c.newVM("v", nil)
	c.addDisk(vm, "0", 1<<30)
	snap := c.ref("VM.snapshot", vm, "s")
	if err := sim.FillSR("Shared storage 1", true); err != nil {
		t.Fatal(err)
	}
	c.refused("SR_BACKEND_FAILURE_44", nil, "VM.clone", vm, "c")
	c.refused("SR_BACKEND_FAILURE_44", nil, "VM.snapshot", vm, "c")
	c.refused("SR_BACKEND_FAILURE_44", nil, "VM.revert", snap)
	if n := len(list(c.must("VM.get_VBDs", vm))); n != 0 {
		t.Errorf("%d disks left: a failed revert has destroyed them", n)
	}
	if err := sim.FillSR("Shared storage 1", false); err != nil {
		t.Fatal(err)
	}
	c.must("VM.revert", snap)
	c.diskOf(vm)
}

// TestCancelledCopy repeats what was recorded from a xapi 24.11: VM.copy ends before its sub-task has cleaned up, and some images stay, with
// the other_config of the source's.
func TestCancelledCopy(t *testing.T) {
	sim, c := start(t, xapisim.Config{Hosts: 2, CopyCleanup: 50 * time.Millisecond, LostCopies: 2})
	vm := c.newVM("source", nil)
	c.addDisk(vm, "0", 1<<30)
	c.must("VDI.add_to_other_config", c.diskOf(vm), "token", "tok1")
	before := sim.Count("VDI")
	for n := range 2 {
		h := sim.Hold("VM.copy", 2)
		task := c.ref("Async.VM.copy", vm, "copy", "OpaqueRef:NULL")
		<-h.Reached()
		if sub := list(c.must("task.get_subtasks", task)); len(sub) != 1 || c.must("task.get_name_label", sub[0]) != "Async.VDI.copy" {
			t.Fatalf("sub-tasks %v", sub)
		}
		c.must("task.cancel", task)
		if r := c.wait(task); r["status"] != "cancelled" {
			t.Errorf("%v", r["status"])
		}
		h.Release()
		if sub := list(c.must("task.get_subtasks", task)); len(sub) != 1 || c.must("task.get_status", sub[0]) != "cancelled" {
			t.Errorf("sub-tasks %v", sub)
		}
		var left string
		for _, r := range sim.Refs("VDI") {
			if oc, _ := c.must("VDI.get_other_config", r).(map[string]any); oc["token"] == "tok1" && r != c.diskOf(vm) {
				left = r
			}
		}
		c.refused("VDI_IN_USE", []string{left, "destroy"}, "VDI.destroy", left)
		time.Sleep(100 * time.Millisecond)
		if got := sim.Count("VDI") - before; got != n {
			t.Errorf("%d images are left, want %d", got, n)
		}
	}
}
