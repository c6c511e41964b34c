package vspheresim_test

import (
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

func (w *world) vmFolder() *object.Folder {
	w.Helper()
	f, err := w.finder.DefaultFolder(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	return f
}

const childDisk = string(types.VirtualMachineRelocateDiskMoveOptionsCreateNewChildDiskBacking)

func TestLinkedCloneHoldsItsBase(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	vm := w.vm("DC0_C0_RP0_VM0")
	w.done(vm.PowerOff(w.ctx))
	w.done(vm.CreateSnapshot(w.ctx, "base", "", false, false))
	base := disk(w, vm).Parent.FileName
	snap := w.props(vm).Snapshot.CurrentSnapshot
	w.done(vm.Clone(w.ctx, w.vmFolder(), "linked", types.VirtualMachineCloneSpec{
		Location: types.VirtualMachineRelocateSpec{DiskMoveType: childDisk}, Snapshot: snap, PowerOn: true,
	}))
	linked := w.vm("linked")
	b := disk(w, linked)
	if b.Parent == nil || b.Parent.FileName != base {
		t.Fatalf("linked clone is not built on %s: %+v", base, b)
	}
	if p := w.props(linked); p.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
		t.Errorf("PowerOn was not honoured: %s", p.Runtime.PowerState)
	}
	src, _ := vm.Device(w.ctx)
	dst, _ := linked.Device(w.ctx)
	if src.PrimaryMacAddress() == dst.PrimaryMacAddress() {
		t.Error("the clone has the MAC address of its source")
	}

	dm := object.NewVirtualDiskManager(w.client.Client)
	dc, _ := w.finder.DefaultDatacenter(w.ctx)
	task, err := dm.DeleteVirtualDisk(w.ctx, base, dc)
	refused[*types.FileLocked](w, task, err)
	fm := object.NewFileManager(w.client.Client)
	task, err = fm.DeleteDatastoreFile(w.ctx, base, dc)
	refused[*types.FileLocked](w, task, err)

	w.done(vm.RemoveAllSnapshot(w.ctx, nil))
	if b := disk(w, linked); b.Parent == nil || b.Parent.FileName != base {
		t.Errorf("the removal of the snapshot took the base of the clone: %+v", b)
	}
	w.done(vm.Destroy(w.ctx))
	if b := disk(w, linked); b.Parent.FileName != base {
		t.Errorf("the base changed to %s", b.Parent.FileName)
	}
	task, err = dm.DeleteVirtualDisk(w.ctx, base, dc)
	refused[*types.FileLocked](w, task, err)
	w.done(linked.PowerOff(w.ctx))
	w.done(linked.Destroy(w.ctx))
}

func TestCloneIsChecked(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 2, Clusters: 2})
	vm := w.vm("DC0_C0_RP0_VM0")
	folder := w.vmFolder()
	try := func(name string, spec types.VirtualMachineCloneSpec) (*object.Task, error) {
		return vm.Clone(w.ctx, folder, name, spec)
	}
	task, err := try("DC0_C0_RP0_VM1", types.VirtualMachineCloneSpec{})
	refused[*types.DuplicateName](w, task, err)
	task, err = try("x", types.VirtualMachineCloneSpec{Location: types.VirtualMachineRelocateSpec{DiskMoveType: "bogus"}})
	refused[*types.InvalidArgument](w, task, err)
	missing := types.ManagedObjectReference{Type: "ResourcePool", Value: "resgroup-9999"}
	task, err = try("x", types.VirtualMachineCloneSpec{Location: types.VirtualMachineRelocateSpec{Pool: &missing}})
	if f := refused[*types.ManagedObjectNotFound](w, task, err); f.Obj != missing {
		t.Errorf("missing object %v", f.Obj)
	}
	snap := types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: "snapshot-9999"}
	task, err = try("x", types.VirtualMachineCloneSpec{Snapshot: &snap})
	refused[*types.ManagedObjectNotFound](w, task, err)
	other, _ := w.finder.HostSystem(w.ctx, "DC0_C1_H0")
	ref := other.Reference()
	task, err = try("x", types.VirtualMachineCloneSpec{Location: types.VirtualMachineRelocateSpec{Host: &ref}})
	refused[*types.InvalidArgument](w, task, err)

	pool, _ := w.finder.ResourcePool(w.ctx, "/DC0/host/DC0_C1/Resources")
	ds, _ := w.finder.Datastore(w.ctx, "LocalDS_1")
	p, d := pool.Reference(), ds.Reference()
	w.done(try("placed", types.VirtualMachineCloneSpec{Location: types.VirtualMachineRelocateSpec{Pool: &p, Host: &ref, Datastore: &d}}))
	got := w.props(w.vm("placed"))
	if *got.Runtime.Host != ref || *got.ResourcePool != p || len(got.Datastore) != 1 || got.Datastore[0] != d {
		t.Errorf("placed on %v, %v, %v", got.Runtime.Host, got.ResourcePool, got.Datastore)
	}
	var h mo.HostSystem
	w.read(other, &h, "vm")
	found := false
	for _, r := range h.Vm {
		found = found || r == got.Self
	}
	if !found {
		t.Error("the host does not list the clone")
	}
}

func TestTemplates(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	vm := w.vm("DC0_C0_RP0_VM0")
	isFault[*types.InvalidPowerState](w, vm.MarkAsTemplate(w.ctx))
	w.done(vm.PowerOff(w.ctx))
	if err := vm.MarkAsTemplate(w.ctx); err != nil {
		t.Fatal(err)
	}
	task, err := vm.PowerOn(w.ctx)
	refused[*types.NotSupported](w, task, err)
	task, err = vm.CreateSnapshot(w.ctx, "x", "", false, false)
	refused[*types.NotSupported](w, task, err)
	task, err = vm.Reconfigure(w.ctx, types.VirtualMachineConfigSpec{NumCPUs: 2})
	refused[*types.NotSupported](w, task, err)
	task, err = vm.Clone(w.ctx, w.vmFolder(), "no-pool", types.VirtualMachineCloneSpec{})
	refused[*types.InvalidArgument](w, task, err)
	pool, _ := w.finder.ResourcePool(w.ctx, "*/Resources")
	p := pool.Reference()
	w.done(vm.Clone(w.ctx, w.vmFolder(), "deployed", types.VirtualMachineCloneSpec{
		Location: types.VirtualMachineRelocateSpec{Pool: &p}, PowerOn: true}))
	if b := disk(w, w.vm("deployed")); b.Parent != nil {
		t.Error("a full clone has a parent disk")
	}
	if err := vm.MarkAsVirtualMachine(w.ctx, *pool, nil); err != nil {
		t.Fatal(err)
	}
	w.done(vm.PowerOn(w.ctx))
}

func TestCreateIsChecked(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	pool, _ := w.finder.ResourcePool(w.ctx, "*/Resources")
	folder := w.vmFolder()
	spec := func(f func(*types.VirtualMachineConfigSpec)) types.VirtualMachineConfigSpec {
		s := types.VirtualMachineConfigSpec{
			Name: "new", GuestId: "debian12_64Guest", NumCPUs: 2, MemoryMB: 1024,
			Files: &types.VirtualMachineFileInfo{VmPathName: "[LocalDS_0]"},
		}
		f(&s)
		return s
	}
	create := func(f func(*types.VirtualMachineConfigSpec)) (*object.Task, error) {
		return folder.CreateVM(w.ctx, spec(f), pool, nil)
	}
	bad := map[string]func(*types.VirtualMachineConfigSpec){
		"memory":     func(s *types.VirtualMachineConfigSpec) { s.MemoryMB = -4 },
		"odd memory": func(s *types.VirtualMachineConfigSpec) { s.MemoryMB = 1023 },
		"CPUs":       func(s *types.VirtualMachineConfigSpec) { s.NumCPUs = 100000 },
		"guest":      func(s *types.VirtualMachineConfigSpec) { s.GuestId = "beos" },
		"reservation": func(s *types.VirtualMachineConfigSpec) {
			s.MemoryAllocation = &types.ResourceAllocationInfo{Reservation: types.NewInt64(2048)}
		},
		"cores": func(s *types.VirtualMachineConfigSpec) { s.NumCoresPerSocket = types.NewInt32(3) },
	}
	for name, f := range bad {
		t.Run(name, func(t *testing.T) {
			task, err := create(f)
			sub := *w
			sub.T = t
			refused[*types.InvalidArgument](&sub, task, err)
		})
	}
	task, err := create(func(s *types.VirtualMachineConfigSpec) { s.Name = "DC0_C0_RP0_VM0" })
	refused[*types.DuplicateName](w, task, err)
	task, err = create(func(s *types.VirtualMachineConfigSpec) { s.Files.VmPathName = "[nowhere]" })
	refused[*types.InvalidDatastore](w, task, err)

	var devices object.VirtualDeviceList
	scsi, _ := devices.CreateSCSIController("pvscsi")
	devices = append(devices, scsi)
	d := devices.CreateDisk(scsi.(types.BaseVirtualController), types.ManagedObjectReference{}, "")
	d.CapacityInKB = 1 << 20
	devices = append(devices, d)
	nic, _ := object.EthernetCardTypes().CreateEthernetCard("vmxnet3", &types.VirtualEthernetCardNetworkBackingInfo{
		VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: "no such network"}})
	withNIC, _ := append(devices, nic).ConfigSpec(types.VirtualDeviceConfigSpecOperationAdd)
	task, err = create(func(s *types.VirtualMachineConfigSpec) { s.DeviceChange = withNIC })
	refused[*types.InvalidDeviceBacking](w, task, err)
	change, _ := devices.ConfigSpec(types.VirtualDeviceConfigSpecOperationAdd)
	w.done(create(func(s *types.VirtualMachineConfigSpec) { s.DeviceChange = change }))
	vm := w.vm("new")
	p := w.props(vm)
	if p.Config.Hardware.NumCPU != 2 || p.Config.Hardware.MemoryMB != 1024 || len(p.Layout.Disk) != 1 || p.Summary.Config.NumVirtualDisks != 1 {
		t.Errorf("made %+v", p.Summary.Config)
	}
	w.done(vm.PowerOn(w.ctx))

	res, err := methods.CreateVM_Task(w.ctx, w.client, &types.CreateVM_Task{This: folder.Reference(),
		Config: spec(func(*types.VirtualMachineConfigSpec) {}), Pool: types.ManagedObjectReference{Type: "ResourcePool", Value: "resgroup-0"}})
	if err == nil {
		t.Fatalf("no fault: %v", res)
	}
	isFault[*types.ManagedObjectNotFound](w, err)
}
