package vspheresim_test

import (
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

func disk(w *world, vm *object.VirtualMachine) *types.VirtualDiskFlatVer2BackingInfo {
	w.Helper()
	list, err := vm.Device(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	d := list.SelectByType((*types.VirtualDisk)(nil))
	return d[0].(*types.VirtualDisk).Backing.(*types.VirtualDiskFlatVer2BackingInfo)
}

func depth(b *types.VirtualDiskFlatVer2BackingInfo) (n int) {
	for ; b != nil; b = b.Parent {
		n++
	}
	return n
}

func TestRevertRestoresConfigurationPowerAndDisk(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	vm := w.vm("DC0_C0_RP0_VM0")
	base := disk(w, vm)
	w.done(vm.CreateSnapshot(w.ctx, "running", "", true, false))
	w.done(vm.PowerOff(w.ctx))
	w.done(vm.CreateSnapshot(w.ctx, "off", "", false, false))
	content := disk(w, vm).ContentId
	w.done(vm.Reconfigure(w.ctx, types.VirtualMachineConfigSpec{NumCPUs: 4, MemoryMB: 4096, Annotation: "changed"}))
	w.done(vm.PowerOn(w.ctx))
	if disk(w, vm).ContentId == content {
		t.Error("a running guest did not change the content of its disk")
	}

	w.done(vm.RevertToSnapshot(w.ctx, "off", false))
	p := w.props(vm)
	if p.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff || p.Config.Hardware.NumCPU != 1 || p.Config.Hardware.MemoryMB != 32 || p.Config.Annotation != "" {
		t.Errorf("after revert: %s, %d CPUs, %d MB, %q", p.Runtime.PowerState, p.Config.Hardware.NumCPU, p.Config.Hardware.MemoryMB, p.Config.Annotation)
	}
	b := disk(w, vm)
	if b.ContentId != content {
		t.Errorf("content %s, want %s", b.ContentId, content)
	}
	if depth(b) != 3 || b.Parent.Parent.FileName != base.FileName {
		t.Errorf("chain of %d files, base %s", depth(b), b.Parent.Parent.FileName)
	}
	w.done(vm.RevertToSnapshot(w.ctx, "running", false))
	if p := w.props(vm); p.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
		t.Errorf("a memory snapshot left the machine %s", p.Runtime.PowerState)
	}
	if d := depth(disk(w, vm)); d != 2 {
		t.Errorf("chain of %d files, want 2", d)
	}
}

func TestRemovalMergesDisks(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	vm := w.vm("DC0_C0_RP0_VM0")
	base := disk(w, vm).FileName
	for _, name := range []string{"a", "b", "c"} {
		w.done(vm.CreateSnapshot(w.ctx, name, "", false, false))
	}
	content := disk(w, vm).ContentId
	if d := depth(disk(w, vm)); d != 4 {
		t.Fatalf("chain of %d files, want 4", d)
	}
	w.done(vm.RemoveSnapshot(w.ctx, "b", false, nil))
	if d := depth(disk(w, vm)); d != 3 {
		t.Errorf("chain of %d files, want 3", d)
	}
	no := false
	w.done(vm.RemoveSnapshot(w.ctx, "c", false, &no))
	if p := w.props(vm); !p.Runtime.ConsolidationNeeded {
		t.Error("no consolidation is needed after a removal without one")
	}
	res, err := methods.ConsolidateVMDisks_Task(w.ctx, w.client, &types.ConsolidateVMDisks_Task{This: vm.Reference()})
	if err != nil {
		t.Fatal(err)
	}
	w.done(object.NewTask(w.client.Client, res.Returnval), nil)
	if p := w.props(vm); p.Runtime.ConsolidationNeeded || depth(disk(w, vm)) != 2 {
		t.Errorf("after consolidation: needed %v, chain of %d", p.Runtime.ConsolidationNeeded, depth(disk(w, vm)))
	}
	w.done(vm.RemoveAllSnapshot(w.ctx, nil))
	b := disk(w, vm)
	if b.FileName != base || b.Parent != nil || b.ContentId != content {
		t.Errorf("after all removals: %+v", b)
	}
}

func TestTreeOfSnapshots(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	vm := w.vm("DC0_C0_RP0_VM0")
	task, err := vm.CreateSnapshot(w.ctx, "", "", false, false)
	refused[*types.InvalidName](w, task, err)
	w.done(vm.CreateSnapshot(w.ctx, "root", "", true, true))
	w.done(vm.CreateSnapshot(w.ctx, "left", "", false, false))
	w.done(vm.RevertToSnapshot(w.ctx, "root", true))
	if p := w.props(vm); p.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		t.Errorf("suppressPowerOn left the machine %s", p.Runtime.PowerState)
	}
	w.done(vm.CreateSnapshot(w.ctx, "right", "", false, false))
	p := w.props(vm)
	root := p.Snapshot.RootSnapshotList[0]
	if len(root.ChildSnapshotList) != 2 || root.State != types.VirtualMachinePowerStatePoweredOn || root.Quiesced {
		t.Errorf("root %+v", root)
	}
	if len(p.LayoutEx.Snapshot) != 3 {
		t.Errorf("%d snapshots in the layout", len(p.LayoutEx.Snapshot))
	}
	for _, s := range p.LayoutEx.Snapshot {
		if s.Key == root.Snapshot && p.LayoutEx.File[s.MemoryKey].Size != 32<<20 {
			t.Errorf("memory of %d bytes", p.LayoutEx.File[s.MemoryKey].Size)
		}
	}
	left := root.ChildSnapshotList[0].Snapshot
	if _, err := methods.RenameSnapshot(w.ctx, w.client, &types.RenameSnapshot{This: left, Name: "port", Description: "renamed"}); err != nil {
		t.Fatal(err)
	}
	if r, err := vm.FindSnapshot(w.ctx, "port"); err != nil || *r != left {
		t.Errorf("renamed to %v, %v", r, err)
	}
	w.done(vm.RemoveSnapshot(w.ctx, "root", true, nil))
	if p := w.props(vm); p.Snapshot != nil || len(p.RootSnapshot) != 0 || depth(disk(w, vm)) != 1 {
		t.Errorf("snapshots %+v, chain of %d", p.Snapshot, depth(disk(w, vm)))
	}
	task, err = vm.RevertToCurrentSnapshot(w.ctx, false)
	refused[*types.NotFound](w, task, err)
	for i := range 32 {
		w.done(vm.CreateSnapshot(w.ctx, string(rune('A'+i)), "", false, false))
	}
	task, err = vm.CreateSnapshot(w.ctx, "too deep", "", false, false)
	refused[*types.TooManySnapshotLevels](w, task, err)
}
