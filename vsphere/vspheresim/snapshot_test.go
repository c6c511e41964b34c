package vspheresim_test

import (
	"testing"

	"github.com/vmware/govmomi/object"
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
