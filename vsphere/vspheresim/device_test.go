package vspheresim_test

import (
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

const gpuAddress = "0000:3b:00.0"

func addDevice(d types.BaseVirtualDevice) types.VirtualMachineConfigSpec {
	return types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
		&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: d}}}
}

func editDevice(d types.BaseVirtualDevice) types.VirtualMachineConfigSpec {
	spec := addDevice(d)
	spec.DeviceChange[0].GetVirtualDeviceConfigSpec().Operation = types.VirtualDeviceConfigSpecOperationEdit
	return spec
}

func fixed(address string) *types.VirtualPCIPassthrough {
	d := new(types.VirtualPCIPassthrough)
	d.Key = -1
	vendor := 0x10de
	d.Backing = &types.VirtualPCIPassthroughDeviceBackingInfo{Id: address, DeviceId: "2330", VendorId: int16(vendor)}
	return d
}

func vgpu(profile string) *types.VirtualPCIPassthrough {
	d := new(types.VirtualPCIPassthrough)
	d.Key = -1
	d.Backing = &types.VirtualPCIPassthroughVmiopBackingInfo{Vgpu: profile}
	return d
}

func (w *world) addPassthrough(vm *object.VirtualMachine) {
	w.Helper()
	spec := addDevice(fixed(gpuAddress))
	spec.MemoryReservationLockedToMax = types.NewBool(true)
	w.done(vm.Reconfigure(w.ctx, spec))
}

func TestPassthrough(t *testing.T) {
	gpu := vspheresim.GPU{VendorID: 0x10de, DeviceID: 0x2330, Product: "H100", MemoryMB: 81920}
	w := start(t, vspheresim.Config{VMs: 4, GPUs: []vspheresim.GPU{gpu}})
	vm := w.vm("DC0_C0_RP0_VM0")
	task, err := vm.Reconfigure(w.ctx, addDevice(fixed(gpuAddress)))
	refused[*types.DeviceHotPlugNotSupported](w, task, err)
	w.done(vm.PowerOff(w.ctx))
	task, err = vm.Reconfigure(w.ctx, addDevice(fixed(gpuAddress)))
	refused[*types.InvalidDeviceBacking](w, task, err) // the host has not been told to pass it through

	host := object.NewHostSystem(w.client.Client, *w.props(vm).Runtime.Host)
	var h mo.HostSystem
	w.read(host, &h, "configManager", "hardware.pciDevice", "config")
	_, err = methods.UpdatePassthruConfig(w.ctx, w.client, &types.UpdatePassthruConfig{This: *h.ConfigManager.PciPassthruSystem,
		Config: []types.BaseHostPciPassthruConfig{&types.HostPciPassthruConfig{Id: gpuAddress, PassthruEnabled: true, ApplyNow: types.NewBool(true)}}})
	if err != nil {
		t.Fatal(err)
	}
	spec := addDevice(fixed(gpuAddress))
	w.done(vm.Reconfigure(w.ctx, spec))
	task, err = vm.PowerOn(w.ctx)
	refused[*types.GenericVmConfigFault](w, task, err) // memory is not reserved
	w.done(vm.Reconfigure(w.ctx, types.VirtualMachineConfigSpec{MemoryReservationLockedToMax: types.NewBool(true)}))
	w.done(vm.PowerOn(w.ctx))

	task, err = vm.CreateSnapshot(w.ctx, "memory", "", true, false)
	refused[*types.SnapshotIncompatibleDeviceInVm](w, task, err)
	w.done(vm.CreateSnapshot(w.ctx, "disks", "", false, false))
	task, err = vm.Migrate(w.ctx, nil, w.otherHost(vm), types.VirtualMachineMovePriorityDefaultPriority, "")
	refused[*types.DisallowedMigrationDeviceAttached](w, task, err)
	task, err = vm.Suspend(w.ctx)
	refused[*types.DeviceNotSupported](w, task, err)

	// The device is taken: a second machine on the host cannot have it.
	var second *object.VirtualMachine
	for _, name := range []string{"DC0_C0_RP0_VM1", "DC0_C0_RP0_VM2", "DC0_C0_RP0_VM3"} {
		if x := w.vm(name); *w.props(x).Runtime.Host == host.Reference() {
			second = x
		}
	}
	w.done(second.PowerOff(w.ctx))
	w.addPassthrough(second)
	task, err = second.PowerOn(w.ctx)
	if f := refused[*types.ResourceInUse](w, task, err); f.Name != gpuAddress {
		t.Errorf("in use: %+v", f)
	}
}

func TestVGPU(t *testing.T) {
	gpu := vspheresim.GPU{VendorID: 0x10de, DeviceID: 0x2330, Product: "H100", MemoryMB: 81920, Profiles: []string{"grid_h100-40c", "grid_h100-80c"}}
	w := start(t, vspheresim.Config{VMs: 9, GPUs: []vspheresim.GPU{gpu}})
	host := w.host("DC0_C0_H0").Reference()
	var m mo.HostSystem
	w.read(host, &m, "vm", "parent")
	eb, _ := object.NewComputeResource(w.client.Client, *m.Parent).EnvironmentBrowser(w.ctx)
	profiles := func() int {
		target, err := eb.QueryConfigTarget(w.ctx, w.host("DC0_C0_H0"))
		if err != nil {
			t.Fatal(err)
		}
		return len(target.SharedGpuPassthroughTypes)
	}
	if n := profiles(); n != 2 {
		t.Fatalf("%d profiles, want 2", n)
	}
	cluster, _ := w.finder.ClusterComputeResource(w.ctx, "DC0_C0")
	drs := func(on bool) {
		w.done(cluster.Reconfigure(w.ctx, &types.ClusterConfigSpecEx{DrsConfig: &types.ClusterDrsConfigInfo{Enabled: &on}}, true))
	}
	drs(false)
	var third *object.VirtualMachine
	for i, r := range m.Vm {
		vm := object.NewVirtualMachine(w.client.Client, r)
		w.done(vm.PowerOff(w.ctx))
		if i == 0 {
			task, err := vm.Reconfigure(w.ctx, addDevice(vgpu("no-such-profile")))
			refused[*types.InvalidDeviceBacking](w, task, err)
		}
		spec := addDevice(vgpu("grid_h100-40c"))
		spec.MemoryReservationLockedToMax = types.NewBool(true)
		w.done(vm.Reconfigure(w.ctx, spec))
		task, err := vm.PowerOn(w.ctx)
		if i < 2 {
			w.done(task, err)
			continue
		}
		refused[*types.InsufficientGraphicsResourcesFault](w, task, err)
		third = vm
	}
	if n := profiles(); n != 0 {
		t.Errorf("a full GPU offers %d profiles", n)
	}
	var now mo.HostSystem
	w.read(host, &now, "config.graphicsInfo")
	if users := now.Config.GraphicsInfo[0].Vm; len(users) != 2 {
		t.Errorf("the GPU is used by %v", users)
	}
	// With DRS the machine goes where there is room.
	drs(true)
	w.done(third.PowerOn(w.ctx))
	if p := w.props(third); *p.Runtime.Host == host {
		t.Error("powered on on the host that has no room")
	}
	// A vGPU saves its state: memory snapshots and vMotion are possible.
	first := object.NewVirtualMachine(w.client.Client, m.Vm[0])
	w.done(first.CreateSnapshot(w.ctx, "memory", "", true, false))
	w.done(first.Migrate(w.ctx, nil, w.otherHost(first), types.VirtualMachineMovePriorityDefaultPriority, ""))
}

func TestEditionForbidsVGPU(t *testing.T) {
	gpu := vspheresim.GPU{VendorID: 0x10de, DeviceID: 0x2330, MemoryMB: 81920, Profiles: []string{"grid_h100-40c"}}
	w := start(t, vspheresim.Config{VMs: 1, GPUs: []vspheresim.GPU{gpu}, Edition: vspheresim.Standard})
	vm := w.vm("DC0_C0_RP0_VM0")
	w.done(vm.PowerOff(w.ctx))
	task, err := vm.Reconfigure(w.ctx, addDevice(vgpu("grid_h100-40c")))
	refused[*types.RestrictedVersion](w, task, err)
}

func TestHotAddNeedsItsFlag(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	vm := w.vm("DC0_C0_RP0_VM0")
	task, err := vm.Reconfigure(w.ctx, types.VirtualMachineConfigSpec{NumCPUs: 2})
	refused[*types.CpuHotPlugNotSupported](w, task, err)
	task, err = vm.Reconfigure(w.ctx, types.VirtualMachineConfigSpec{MemoryMB: 64})
	refused[*types.MemoryHotPlugNotSupported](w, task, err)
	task, err = vm.Reconfigure(w.ctx, types.VirtualMachineConfigSpec{CpuHotAddEnabled: types.NewBool(true)})
	refused[*types.InvalidPowerState](w, task, err)
	w.done(vm.PowerOff(w.ctx))
	w.done(vm.Reconfigure(w.ctx, types.VirtualMachineConfigSpec{CpuHotAddEnabled: types.NewBool(true), MemoryHotAddEnabled: types.NewBool(true)}))
	w.done(vm.PowerOn(w.ctx))
	w.done(vm.Reconfigure(w.ctx, types.VirtualMachineConfigSpec{NumCPUs: 2, MemoryMB: 64}))
	if p := w.props(vm); p.Config.Hardware.NumCPU != 2 || p.Summary.Config.MemorySizeMB != 64 {
		t.Errorf("%+v", p.Summary.Config)
	}
	task, err = vm.Reconfigure(w.ctx, types.VirtualMachineConfigSpec{ChangeVersion: "stale", Annotation: "x"})
	refused[*types.ConcurrentAccess](w, task, err)
}

func TestDisks(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	vm := w.vm("DC0_C0_RP0_VM0")
	list, _ := vm.Device(w.ctx)
	d := list.SelectByType((*types.VirtualDisk)(nil))[0].(*types.VirtualDisk)
	d.CapacityInKB *= 2
	w.done(vm.Reconfigure(w.ctx, editDevice(d)))
	list, _ = vm.Device(w.ctx)
	d = list.SelectByType((*types.VirtualDisk)(nil))[0].(*types.VirtualDisk)
	if d.CapacityInBytes != 20<<30 {
		t.Errorf("grown to %d bytes", d.CapacityInBytes)
	}
	d.CapacityInKB /= 2
	d.CapacityInBytes = 0
	task, err := vm.Reconfigure(w.ctx, editDevice(d))
	refused[*types.InvalidDeviceOperation](w, task, err)

	controller := list.SelectByType((*types.VirtualSCSIController)(nil))[0].(types.BaseVirtualController)
	huge := list.CreateDisk(controller, types.ManagedObjectReference{}, "")
	huge.CapacityInKB = 60 << 30
	huge.Backing.(*types.VirtualDiskFlatVer2BackingInfo).ThinProvisioned = types.NewBool(false)
	huge.Backing.(*types.VirtualDiskFlatVer2BackingInfo).FileName = "[LocalDS_0]"
	if err := vm.AddDevice(w.ctx, huge); err == nil {
		t.Error("a disk larger than the datastore was added")
	}
	small := list.CreateDisk(controller, types.ManagedObjectReference{}, "")
	small.CapacityInKB = 1 << 20
	if err := vm.AddDevice(w.ctx, small); err != nil {
		t.Fatal(err)
	}
	list, _ = vm.Device(w.ctx)
	added := list.SelectByType((*types.VirtualDisk)(nil))[1].(*types.VirtualDisk)
	file := added.Backing.(*types.VirtualDiskFlatVer2BackingInfo).FileName
	if err := vm.RemoveDevice(w.ctx, true, added); err != nil {
		t.Fatal(err)
	}
	again := list.CreateDisk(controller, types.ManagedObjectReference{}, file)
	spec := addDevice(again)
	w.done(vm.Reconfigure(w.ctx, spec))
	list, _ = vm.Device(w.ctx)
	if d := list.SelectByType((*types.VirtualDisk)(nil))[1].(*types.VirtualDisk); d.CapacityInKB != 1<<20 {
		t.Errorf("the disk that was kept has %d KB", d.CapacityInKB)
	}
	missing := list.CreateDisk(controller, types.ManagedObjectReference{}, "[LocalDS_0] nowhere/disk.vmdk")
	task, err = vm.Reconfigure(w.ctx, addDevice(missing))
	refused[*types.FileNotFound](w, task, err)
}

func TestVirtualFunctions(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 6})
	host := w.host("DC0_C0_H0")
	var h mo.HostSystem
	w.read(host, &h, "configManager", "config.pciPassthruInfo", "hardware.pciDevice", "vm")
	var nic types.HostPciDevice
	for _, d := range h.Hardware.PciDevice {
		if d.ClassId == 0x0200 {
			nic = d
		}
	}
	enable := func(n int32) error {
		_, err := methods.UpdatePassthruConfig(w.ctx, w.client, &types.UpdatePassthruConfig{This: *h.ConfigManager.PciPassthruSystem,
			Config: []types.BaseHostPciPassthruConfig{&types.HostSriovConfig{HostPciPassthruConfig: types.HostPciPassthruConfig{
				Id: nic.Id, ApplyNow: types.NewBool(true)}, SriovEnabled: true, NumVirtualFunction: n}}})
		return err
	}
	isFault[*types.HostConfigFault](w, enable(1000))
	if err := enable(1); err != nil {
		t.Fatal(err)
	}
	for i, r := range h.Vm[:2] {
		vm := object.NewVirtualMachine(w.client.Client, r)
		w.done(vm.PowerOff(w.ctx))
		card := &types.VirtualSriovEthernetCard{SriovBacking: &types.VirtualSriovEthernetCardSriovBackingInfo{
			PhysicalFunctionBacking: &types.VirtualPCIPassthroughDeviceBackingInfo{Id: nic.Id}}}
		card.Key = -1
		card.Backing = &types.VirtualEthernetCardNetworkBackingInfo{VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: "VM Network"}}
		spec := addDevice(card)
		spec.MemoryReservationLockedToMax = types.NewBool(true)
		w.done(vm.Reconfigure(w.ctx, spec))
		task, err := vm.PowerOn(w.ctx)
		if i == 0 {
			w.done(task, err)
			continue
		}
		refused[*types.ResourceInUse](w, task, err)
	}
}
