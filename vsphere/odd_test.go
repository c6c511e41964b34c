package vsphere

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// Machines that other tools made, or that time has left.

func native(sim *vspheresim.Sim, vm *hypervisor.VM) *simulator.VirtualMachine {
	return sim.Registry().Get(vmRef(vm.ID())).(*simulator.VirtualMachine)
}

// TestClonesOfSnapshot: a clone has the adapters of its snapshot, whatever the machine has by now, with addresses of its own.
func TestClonesOfSnapshot(t *testing.T) {
	_, c := once(t, vspheresim.Config{TaskDelay: vspheresim.Immediate})
	ctx := t.Context()
	s := spec("machine")
	s.NICs = []hypervisor.NICSpec{{}, {MAC: "00:50:56:3f:00:01"}}
	vm, err := c.CreateVM(ctx, s).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := vm.CreateSnapshot(ctx, "before", nil).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	i, err := vm.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{i.NICs[0].MAC: true, i.NICs[1].MAC: true}
	for n, change := range []func() error{
		func() error { return nil },
		func() error { _, err := vm.AttachNIC(ctx, hypervisor.NICSpec{}).Wait(ctx); return err },
		func() error { _, err := vm.DetachNIC(ctx, i.NICs[0].ID).Wait(ctx); return err },
		func() error {
			_, err := vm.AttachDisk(ctx, hypervisor.DiskSpec{SizeBytes: hypervisor.MiB}).Wait(ctx)
			return err
		},
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		for _, mode := range []hypervisor.CloneMode{hypervisor.CloneModeFull, hypervisor.CloneModeLinked} {
			copied, err := vm.Clone(ctx, "copy"+itoa(n)+string('a'+rune(mode)), &hypervisor.CloneOptions{From: snap.ID(), Mode: mode}).Wait(ctx)
			if err != nil {
				t.Errorf("%d: a clone of a snapshot from before the change: %v", n, err)
				continue
			}
			j, err := copied.Info(ctx)
			if err != nil || len(j.NICs) != 2 || len(j.Disks) != 1 {
				t.Errorf("%d: the clone has %+v and %+v: %v", n, j.NICs, j.Disks, err)
			}
			for _, nic := range j.NICs {
				if seen[nic.MAC] || !strings.HasPrefix(nic.MAC, "00:50:56:") {
					t.Errorf("the address %s is another adapter's, or not from vCenter's range", nic.MAC)
				}
				seen[nic.MAC] = true
			}
		}
	}
}

// TestVAppMachine: a machine of a vApp has no folder.
func TestVAppMachine(t *testing.T) {
	sim, c := once(t, vspheresim.Config{VMs: 1, TaskDelay: vspheresim.Immediate})
	ctx := t.Context()
	image, err := c.CreateVolume(ctx, hypervisor.VolumeSpec{Name: "image", Datastore: storesNamed(t, c, "LocalDS_0")[0], SizeBytes: hypervisor.MiB}).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	vm := firstVM(t, c, "DC0")
	m := native(sim, vm)
	pool := *m.ResourcePool
	m.Parent, m.ParentVApp = nil, &pool
	for n, p := range []hypervisor.Placement{{}, {Folder: "DC0/vm"}} {
		if _, err := vm.Clone(ctx, "copy"+itoa(n), &hypervisor.CloneOptions{Placement: p}).Wait(ctx); err != nil {
			t.Errorf("a clone into folder %q: %v", p.Folder, err)
		}
	}
	if _, err := vm.AttachDisk(ctx, hypervisor.DiskSpec{Image: image}).Wait(ctx); err != nil {
		t.Errorf("a copy of an image: %v", err)
	}
}

// TestIndependentDisk: vSphere keeps no RAM of a machine with a disk that its snapshots leave out, and no file of a disk that came after a snapshot is
// lost in a revert.
func TestIndependentDisk(t *testing.T) {
	sim, c := once(t, vspheresim.Config{TaskDelay: vspheresim.Immediate})
	ctx := t.Context()
	vm, err := c.CreateVM(ctx, spec("machine")).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := vm.CreateSnapshot(ctx, "before", nil).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := vm.AttachDisk(ctx, hypervisor.DiskSpec{SizeBytes: hypervisor.MiB}).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	i, err := vm.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	volume := i.Disks[1].Volume
	// A revert that is refused leaves the machine as it was.
	sim.FaultTask("RevertToSnapshot_Task", &types.NoPermission{})
	if _, err := snap.Revert(ctx, nil).Wait(ctx); !errors.Is(err, hypervisor.ErrPermission) {
		t.Errorf("a revert that is refused: %v", err)
	}
	if i, err = vm.Info(ctx); err != nil || len(i.Disks) != 2 || i.Disks[1].Volume != volume {
		t.Errorf("after a revert that was refused: %+v, %v", i.Disks, err)
	}
	task := snap.Revert(ctx, nil)
	if _, err := task.Wait(ctx); err != nil || !strings.Contains(strings.Join(task.Notes(), " "), string(volume)) {
		t.Errorf("revert: %v, notes %q", err, task.Notes())
	}
	if l := volumesOf(t, c, i.Disks[0].Datastore); !slices.Contains(l, volume) {
		t.Errorf("the file of disk %s is gone: %v", disk.ID, l)
	}
	if _, err := vm.Start(ctx).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	m := native(sim, vm)
	for _, d := range disksOf(m.Config.Hardware.Device) {
		d.Backing.(*types.VirtualDiskFlatVer2BackingInfo).DiskMode = string(types.VirtualDiskModeIndependent_persistent)
	}
	if _, err := vm.CreateSnapshot(ctx, "RAM", &hypervisor.SnapshotOptions{Memory: true}).Wait(ctx); !errors.Is(err, hypervisor.ErrUnsupported) {
		t.Errorf("a snapshot with RAM: %v", err)
	}
	if s, err := vm.Supports(ctx, capability.SnapshotMemory); err != nil || s.Level != hypervisor.LevelNo || s.Reason != hypervisor.ReasonConfig {
		t.Errorf("supports: %+v, %v", s, err)
	}
}

// TestManyDisks: a paravirtual controller takes 64 units, and all are used once others are full.
func TestManyDisks(t *testing.T) {
	b := newBuilder(nil)
	at := map[[2]int32]bool{}
	for n := range 4 * 63 {
		if err := b.disk(hypervisor.DiskSpec{SizeBytes: hypervisor.MiB}, &types.VirtualDiskFlatVer2BackingInfo{}, ""); err != nil {
			t.Fatalf("disk %d: %v", n, err)
		}
		d := b.devices[len(b.devices)-1].GetVirtualDevice()
		if k := [2]int32{d.ControllerKey, *d.UnitNumber}; at[k] || *d.UnitNumber == 7 || *d.UnitNumber > 63 {
			t.Fatalf("disk %d is at %v", n, k)
		} else {
			at[k] = true
		}
	}
	if err := b.disk(hypervisor.DiskSpec{SizeBytes: hypervisor.MiB}, &types.VirtualDiskFlatVer2BackingInfo{}, ""); !errors.Is(err, hypervisor.ErrExhausted) {
		t.Errorf("one more: %v", err)
	}
	_, c := once(t, vspheresim.Config{TaskDelay: vspheresim.Immediate})
	s := spec("machine")
	for len(s.Disks) < 70 {
		s.Disks = append(s.Disks, hypervisor.DiskSpec{SizeBytes: hypervisor.MiB})
	}
	vm, err := c.CreateVM(t.Context(), s).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if i, err := vm.Info(t.Context()); err != nil || len(i.Disks) != 70 {
		t.Errorf("%d disks: %v", len(i.Disks), err)
	}
}

// TestRefusedOptions: what vSphere can't do is refused with a remedy, and nothing is made.
func TestRefusedOptions(t *testing.T) {
	sim, c := once(t, vspheresim.Config{TaskDelay: vspheresim.Immediate})
	ctx := t.Context()
	image, err := c.CreateVolume(ctx, hypervisor.VolumeSpec{Name: "image", Datastore: storesNamed(t, c, "LocalDS_0")[0], SizeBytes: hypervisor.MiB}).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s := spec("machine")
	s.Disks = []hypervisor.DiskSpec{{Image: image, Provisioning: hypervisor.ProvisioningThick}}
	if _, err := c.CreateVM(ctx, s).Wait(ctx); !errors.Is(err, hypervisor.ErrUnsupported) || sim.Calls()["CreateVM_Task"] != 0 {
		t.Errorf("a machine of a copy that is thick: %v", err)
	}
	vm, err := c.CreateVM(ctx, spec("machine")).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vm.AttachDisk(ctx, s.Disks[0]).Wait(ctx); !errors.Is(err, hypervisor.ErrUnsupported) {
		t.Errorf("a copy that is thick: %v", err)
	}
	tpl, err := vm.MarkTemplate(ctx).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := tpl.SetLabels(ctx, map[string]string{"a": "b"}); !errors.Is(err, hypervisor.ErrUnsupported) || !strings.Contains(err.Error(), "mark it a template again") {
		t.Errorf("labels of a template: %v", err)
	}
	if sup, err := vm.Supports(ctx, capability.Labels); err != nil || sup.Level != hypervisor.LevelNo || sup.Reason != hypervisor.ReasonIsTemplate {
		t.Errorf("supports: %+v, %v", sup, err)
	}
}

// TestLostMachine: a machine that vCenter lists and can't reach is listed, refused what it can't do, and can be taken from the inventory.
func TestLostMachine(t *testing.T) {
	for _, state := range []types.VirtualMachineConnectionState{types.VirtualMachineConnectionStateOrphaned, types.VirtualMachineConnectionStateInaccessible,
		types.VirtualMachineConnectionStateInvalid} {
		sim, c := once(t, vspheresim.Config{VMs: 2, TaskDelay: vspheresim.Immediate})
		ctx := t.Context()
		vm := firstVM(t, c, "DC0")
		if err := sim.LoseVM(string(vm.ID()), state, true); err != nil {
			t.Fatal(err)
		}
		if l, err := hypervisor.Collect(c.VMs(ctx, nil)); err != nil || len(l) != 2 {
			t.Errorf("%s: %d machines are listed: %v", state, len(l), err)
		}
		if _, err := vm.CreateSnapshot(ctx, "s", nil).Wait(ctx); err == nil {
			t.Errorf("%s: a snapshot", state)
		}
		for _, o := range []*hypervisor.DeleteOptions{nil, {Force: true}} {
			if _, err := vm.Delete(ctx, hypervisor.DeleteDisks, o).Wait(ctx); !errors.Is(err, hypervisor.ErrInvalidState) || !strings.Contains(err.Error(), "KeepDisks") {
				t.Errorf("%s: a deletion with its disks: %v", state, err)
			}
		}
		sim.Cut("UnregisterVM", vspheresim.CutAfter)
		if _, err := vm.Delete(ctx, hypervisor.KeepDisks, &hypervisor.DeleteOptions{Force: true}).Wait(ctx); err != nil {
			t.Errorf("%s: %v", state, err)
		}
		if l, err := hypervisor.Collect(c.VMs(ctx, nil)); err != nil || len(l) != 1 {
			t.Errorf("%s: %d machines are left: %v", state, len(l), err)
		}
		if _, err := c.CreateVM(ctx, spec("after")).Wait(ctx); err != nil {
			t.Errorf("%s: %v", state, err)
		}
	}
}
