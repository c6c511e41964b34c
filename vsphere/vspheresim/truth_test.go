package vspheresim_test

import (
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

func (w *world) write(vm *object.VirtualMachine, content string) {
	w.Helper()
	if err := w.sim.WriteDisk(vm.Reference().Value, 0, content); err != nil {
		w.Fatal(err)
	}
}

// holds demands what the first disk of a machine shows.
func (w *world) holds(vm *object.VirtualMachine, want, after string) {
	w.Helper()
	got, err := w.sim.ReadDisk(vm.Reference().Value, 0)
	if err != nil {
		w.Fatal(err)
	}
	if got != want {
		w.Errorf("after %s the disk holds %q, want %q", after, got, want)
	}
}

func (w *world) memory(vm *object.VirtualMachine) string {
	w.Helper()
	m, err := w.sim.Memory(vm.Reference().Value)
	if err != nil {
		w.Fatal(err)
	}
	return m
}

func (w *world) cloneVM(vm *object.VirtualMachine, name string, spec types.VirtualMachineCloneSpec) *object.VirtualMachine {
	w.Helper()
	info := w.done(vm.Clone(w.ctx, w.folder(), name, spec))
	return object.NewVirtualMachine(w.client.Client, info.Result.(types.ManagedObjectReference))
}

func (w *world) folder() *object.Folder {
	w.Helper()
	f, err := w.finder.DefaultFolder(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	return f
}

func TestContentOfSnapshots(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	vm := w.vm("DC0_C0_RP0_VM0")
	w.done(vm.PowerOff(w.ctx))
	w.holds(vm, "", "nothing")
	w.write(vm, "one")
	w.done(vm.CreateSnapshot(w.ctx, "a", "", false, false))
	w.holds(vm, "one", "a snapshot")
	id := disk(w, vm).ContentId
	w.write(vm, "two")
	if disk(w, vm).ContentId == id {
		t.Error("a write left the contentId as it was")
	}
	w.done(vm.CreateSnapshot(w.ctx, "b", "", false, false))
	w.write(vm, "three")
	w.done(vm.RevertToSnapshot(w.ctx, "a", false))
	w.holds(vm, "one", "the revert to a")
	w.write(vm, "four")
	w.done(vm.RevertToSnapshot(w.ctx, "b", false))
	w.holds(vm, "two", "the revert to b")
	w.done(vm.RevertToSnapshot(w.ctx, "a", false))
	w.holds(vm, "one", "the second revert to a")
	w.done(vm.RevertToSnapshot(w.ctx, "b", false))
	w.write(vm, "five")

	no := false
	w.done(vm.RemoveSnapshot(w.ctx, "a", false, &no))
	w.holds(vm, "five", "the removal of a without a merge")
	res, err := methods.ConsolidateVMDisks_Task(w.ctx, w.client, &types.ConsolidateVMDisks_Task{This: vm.Reference()})
	if err != nil {
		t.Fatal(err)
	}
	w.done(object.NewTask(w.client.Client, res.Returnval), nil)
	w.holds(vm, "five", "the merge")
	w.done(vm.RevertToSnapshot(w.ctx, "b", false))
	w.holds(vm, "two", "the revert to b, whose parent was merged")
	w.write(vm, "six")
	w.done(vm.RemoveAllSnapshot(w.ctx, nil))
	w.holds(vm, "six", "the removal of all snapshots")
	if d := depth(disk(w, vm)); d != 1 {
		t.Errorf("a chain of %d files is left", d)
	}
}

func TestContentOfClones(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	vm := w.vm("DC0_C0_RP0_VM0")
	w.done(vm.PowerOff(w.ctx))
	w.write(vm, "base")
	w.done(vm.CreateSnapshot(w.ctx, "s", "", false, false))
	w.write(vm, "later")
	snap, err := vm.FindSnapshot(w.ctx, "s")
	if err != nil {
		t.Fatal(err)
	}
	child := types.VirtualMachineRelocateSpec{DiskMoveType: string(types.VirtualMachineRelocateDiskMoveOptionsCreateNewChildDiskBacking)}
	old := w.cloneVM(vm, "old", types.VirtualMachineCloneSpec{Location: child, Snapshot: snap})
	w.holds(old, "base", "a linked clone of a snapshot")
	now := w.cloneVM(vm, "now", types.VirtualMachineCloneSpec{Location: child})
	full := w.cloneVM(vm, "full", types.VirtualMachineCloneSpec{})
	w.holds(full, "later", "a full clone")
	w.write(vm, "source")
	w.write(old, "mine")
	w.holds(now, "later", "a write to the source")
	w.holds(full, "later", "a write to the source")
	w.holds(vm, "source", "a write to a clone")
	// The names of files that clones hold are not given out again.
	w.done(vm.RevertToSnapshot(w.ctx, "s", false))
	w.done(vm.RevertToSnapshot(w.ctx, "s", false))
	w.write(vm, "again")
	w.holds(now, "later", "reverts of the source")
	w.done(vm.Destroy(w.ctx))
	w.holds(old, "mine", "the deletion of the source")
	w.holds(now, "later", "the deletion of the source")
	w.done(now.PromoteDisks(w.ctx, true, nil))
	w.holds(now, "later", "the promotion of its disk")
	if d := depth(disk(w, now)); d != 1 {
		t.Errorf("a promoted disk has a chain of %d files", d)
	}
}

func TestContentOfDetachedAndDeletedDisks(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	vm := w.vm("DC0_C0_RP0_VM0")
	w.done(vm.PowerOff(w.ctx))
	w.write(vm, "kept")
	list, err := vm.Device(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	d := list.SelectByType((*types.VirtualDisk)(nil))[0].(*types.VirtualDisk)
	if err := vm.RemoveDevice(w.ctx, true, d); err != nil {
		t.Fatal(err)
	}
	if _, err := w.sim.ReadDisk("DC0_C0_RP0_VM0", 0); err == nil {
		t.Error("a machine without a disk was read")
	}
	d.Key = -1
	w.done(vm.Reconfigure(w.ctx, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
		&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: d}}}))
	w.holds(vm, "kept", "detach and attach")
	list, err = vm.Device(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	d = list.SelectByType((*types.VirtualDisk)(nil))[0].(*types.VirtualDisk)
	if err := vm.RemoveDevice(w.ctx, false, d); err != nil {
		t.Fatal(err)
	}
	fresh := &types.VirtualDisk{VirtualDevice: types.VirtualDevice{ControllerKey: d.ControllerKey, UnitNumber: d.UnitNumber, Backing: &types.VirtualDiskFlatVer2BackingInfo{
		VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: fileOf(d)}, DiskMode: "persistent"}}, CapacityInKB: 1024}
	if err := vm.AddDevice(w.ctx, fresh); err != nil {
		t.Fatal(err)
	}
	w.holds(vm, "", "the deletion of its file, and a new disk of the same name")
}

func fileOf(d *types.VirtualDisk) string {
	return d.Backing.(types.BaseVirtualDeviceFileBackingInfo).GetVirtualDeviceFileBackingInfo().FileName
}

func TestMemory(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1, Tools: true})
	vm := w.vm("DC0_C0_RP0_VM0")
	name := "DC0_C0_RP0_VM0"
	first := w.memory(vm)
	if !strings.HasPrefix(first, "boot ") {
		t.Fatalf("fresh memory is %q", first)
	}
	if err := w.sim.SetMemory(name, "work"); err != nil {
		t.Fatal(err)
	}
	w.done(vm.CreateSnapshot(w.ctx, "ram", "", true, false))
	w.done(vm.Suspend(w.ctx))
	if err := w.sim.SetMemory(name, "x"); err == nil {
		t.Error("the memory of a suspended machine was written")
	}
	if err := w.sim.WriteDisk(name, 0, "x"); err == nil {
		t.Error("the disk of a suspended machine was written")
	}
	w.done(vm.PowerOn(w.ctx))
	if got := w.memory(vm); got != "work" {
		t.Errorf("after suspend and resume the memory is %q", got)
	}
	seen := map[string]bool{first: true}
	fresh := func(after string) {
		t.Helper()
		got := w.memory(vm)
		for range 1000 { // a guest restarts after the call has been answered
			if !seen[got] {
				break
			}
			time.Sleep(10 * time.Millisecond)
			got = w.memory(vm)
		}
		if seen[got] || !strings.HasPrefix(got, "boot ") {
			t.Errorf("after %s the memory is %q", after, got)
		}
		seen[got] = true
	}
	w.done(vm.Reset(w.ctx))
	fresh("a reset")
	if err := vm.RebootGuest(w.ctx); err != nil {
		t.Fatal(err)
	}
	fresh("a restart of the guest")
	w.done(vm.PowerOff(w.ctx))
	if _, err := w.sim.Memory(name); err == nil {
		t.Error("a machine that is off has memory")
	}
	if s, err := w.sim.PowerState(name); err != nil || s != types.VirtualMachinePowerStatePoweredOff {
		t.Errorf("power state %s, %v", s, err)
	}
	w.done(vm.PowerOn(w.ctx))
	fresh("a power-on")
	w.done(vm.RevertToSnapshot(w.ctx, "ram", false))
	if got := w.memory(vm); got != "work" {
		t.Errorf("after the revert the memory is %q", got)
	}
	if _, err := w.sim.Memory("nobody"); err == nil {
		t.Error("a machine that is not there has memory")
	}
}

func TestMigrationKeepsContentAndMemory(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1, Datastores: 2})
	vm := w.vm("DC0_C0_RP0_VM0")
	w.write(vm, "base")
	w.done(vm.CreateSnapshot(w.ctx, "s", "", false, false))
	w.write(vm, "top")
	before := w.memory(vm)
	ds, err := w.finder.Datastore(w.ctx, "LocalDS_1")
	if err != nil {
		t.Fatal(err)
	}
	store := ds.Reference()
	w.done(vm.Relocate(w.ctx, types.VirtualMachineRelocateSpec{Datastore: &store}, types.VirtualMachineMovePriorityDefaultPriority))
	w.holds(vm, "top", "storage vMotion")
	if got := w.memory(vm); got != before {
		t.Errorf("after storage vMotion the memory is %q, it was %q", got, before)
	}
	w.done(vm.RevertToSnapshot(w.ctx, "s", false))
	w.holds(vm, "base", "a revert after storage vMotion")
}
