package vspheresim_test

import (
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

func TestHostsThatSeeLess(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	vm := w.vm("DC0_C0_RP0_VM0")
	to := w.otherHost(vm)
	name, _ := to.ObjectName(w.ctx)
	if err := w.sim.HideDatastore(name, "LocalDS_0", true); err != nil {
		t.Fatal(err)
	}
	if err := w.sim.HideNetwork(name, "VM Network", true); err != nil {
		t.Fatal(err)
	}
	var disk, config, network bool
	for _, e := range w.checkMigrate(vm, to).Error {
		switch f := e.Fault.(type) {
		case *types.CannotAccessVmDisk:
			disk = f.Backing != ""
		case *types.CannotAccessVmConfig:
			config = true
		case *types.CannotAccessNetwork:
			network = f.Backing == "VM Network"
		}
	}
	if !disk || !config || !network {
		t.Errorf("disk %v, config %v, network %v", disk, config, network)
	}
	if err := w.sim.DropHost(name, false); err != nil {
		t.Fatal(err)
	}
	task, err := vm.Migrate(w.ctx, nil, to, types.VirtualMachineMovePriorityDefaultPriority, "")
	refused[*types.HostNotConnected](w, task, err)
}

func TestAddedHostIsLikeTheOthers(t *testing.T) {
	gpu := vspheresim.GPU{VendorID: 0x10de, DeviceID: 0x2330, Passthrough: true}
	w := start(t, vspheresim.Config{GPUs: []vspheresim.GPU{gpu}})
	c, _ := w.finder.ClusterComputeResource(w.ctx, "DC0_C0")
	spec := types.HostConnectSpec{HostName: "new-host"}
	info := w.done(c.AddHost(w.ctx, spec, true, nil, nil))
	h := object.NewHostSystem(w.client.Client, info.Result.(types.ManagedObjectReference))
	target, err := object.NewComputeResource(w.client.Client, c.Reference()).EnvironmentBrowser(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	got, err := target.QueryConfigTarget(w.ctx, h)
	if err != nil || len(got.PciPassthrough) != 1 || len(got.DynamicPassthrough) != 1 {
		t.Errorf("devices of the new host: %+v, %v", got, err)
	}
	task, err := c.AddHost(w.ctx, spec, true, nil, nil)
	refused[*types.DuplicateName](w, task, err)
}

func TestFolders(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 2})
	root := w.vmFolder()
	sub, err := root.CreateFolder(w.ctx, "sub")
	if err != nil {
		t.Fatal(err)
	}
	a, b := w.vm("DC0_C0_RP0_VM0"), w.vm("DC0_C0_RP0_VM1")
	w.done(sub.MoveInto(w.ctx, []types.ManagedObjectReference{a.Reference()}))
	w.done(b.Clone(w.ctx, root, "DC0_C0_RP0_VM0", types.VirtualMachineCloneSpec{}))
	task, err := root.MoveInto(w.ctx, []types.ManagedObjectReference{a.Reference()})
	refused[*types.DuplicateName](w, task, err)
	task, err = sub.Destroy(w.ctx)
	refused[*types.InvalidPowerState](w, task, err)
	w.done(a.PowerOff(w.ctx))
	w.done(sub.Destroy(w.ctx))
	_, err = a.PowerState(w.ctx)
	isFault[*types.ManagedObjectNotFound](w, err)
}

func TestPowerOnMany(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 2})
	dc, _ := w.finder.DefaultDatacenter(w.ctx)
	off := w.vm("DC0_C0_RP0_VM0")
	w.done(off.PowerOff(w.ctx))
	info := w.done(dc.PowerOnVM(w.ctx, []types.ManagedObjectReference{off.Reference(), w.vm("DC0_C0_RP0_VM1").Reference()}))
	res := info.Result.(types.ClusterPowerOnVmResult)
	if len(res.Attempted) != 1 || len(res.NotAttempted) != 1 {
		t.Fatalf("result %+v", res)
	}
	w.done(object.NewTask(w.client.Client, *res.Attempted[0].Task), nil)
}
