package hvsim_test

import (
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
)

func gpuHost(build int) hvsim.HostConfig {
	return hvsim.HostConfig{Build: build, GPUs: []hvsim.GPU{{Device: hvsim.Device{Name: "NVIDIA A2", Vendor: 0x10DE, Product: 0x25B6}, PartitionCounts: []uint16{1, 2, 4}, VRAM: 16 << 30}},
		Devices: []hvsim.Device{{Name: "NIC", Vendor: 0x15B3, Product: 0x1017, NoACS: true}}}
}

// win32 finds the Plug and Play object of a device.
func (c *client) pnp(name string) (ref, *obj) {
	c.t.Helper()
	l, err := c.queryNS("root/cimv2", "SELECT * FROM Win32_PnPEntity WHERE Name = '"+name+"'")
	if err != nil || len(l) != 1 {
		c.t.Fatalf("%v %v", err, l)
	}
	return ref{"Win32_PnPEntity", [][2]string{{"DeviceID", l[0].get("DeviceID")}}}, l[0]
}

func TestDiscreteDeviceAssignment(t *testing.T) {
	sim := start(t, hvsim.Config{Hosts: []hvsim.HostConfig{gpuHost(0)}})
	c := dial(t, sim, 0)
	ads, vmms := c.service("Msvm_AssignableDeviceService"), c.service("Msvm_VirtualSystemManagementService")
	gpu, o := c.pnp("NVIDIA A2")
	body, err := c.rawNS("root/cimv2", gpu, "GetDeviceProperties", arg{"devicePropertyKeys", []string{"DEVPKEY_Device_LocationPaths"}})
	if err != nil {
		t.Fatal(err)
	}
	loc := toObj(body.Kids[0].find("deviceProperties")).get("Data")
	if loc != "PCIROOT(0)#PCI(0100)#PCI(0000)" {
		t.Fatalf("%q %v", loc, o.Vals)
	}
	set := func(kv ...any) arg {
		return arg{"DismountSettingData", emb("Msvm_AssignableDeviceDismountSettingData", kv...)}
	}
	c.rv("32779", ads, "DismountAssignableDevice", set("DeviceLocationPath", "PCIROOT(9)"))
	c.rv("32774", ads, "DismountAssignableDevice", set("DeviceLocationPath", loc))
	if _, err := c.callNS("root/cimv2", gpu, "Disable"); err != nil {
		t.Fatal(err)
	}
	nic, _ := c.pnp("NIC")
	if _, err := c.callNS("root/cimv2", nic, "Disable"); err != nil {
		t.Fatal(err)
	}
	c.rv("32770", ads, "DismountAssignableDevice", set("DeviceInstancePath", nic.Keys[0][1]))
	d := c.do(sim, ads, "DismountAssignableDevice", set("DeviceLocationPath", loc, "RequireAcsSupport:boolean", "true"))
	if p := d.get("DismountedDeviceInstancePath"); !strings.HasPrefix(p, `PCIP\VEN_10DE&DEV_25B6`) {
		t.Fatal(p)
	}
	x := c.one("SELECT * FROM Msvm_PciExpress")
	dev := ref{"Msvm_PciExpress", nil}
	for _, k := range []string{"SystemCreationClassName", "SystemName", "CreationClassName", "DeviceID"} {
		dev.Keys = append(dev.Keys, [2]string{k, x.get(k)})
	}
	id, other := c.define(sim, "gpu", 2), c.define(sim, "other", 2)
	assign := func(id string) (ref, *obj) {
		o, err := c.call(vmms, "AddResourceSettings", arg{"AffectedConfiguration", byID("Msvm_VirtualSystemSettingData", "Microsoft:"+id)},
			arg{"ResourceSettings", []string{emb("Msvm_PciExpressSettingData", "ResourceSubType", "Microsoft:Hyper-V:Virtual Pci Express Port", "HostResource", []string{dev.path()}, "VirtualFunctions:uint16", []string{"0"})}})
		if err != nil {
			t.Fatal(err)
		}
		return o.Refs["ResultingResourceSettings"], o
	}
	if _, o := assign(id); o.get("ReturnValue") != "32775" {
		t.Fatalf("the stop action is not TurnOff: %v", o.Vals)
	}
	modify := func(id string, kv ...any) {
		c.do(sim, vmms, "ModifySystemSettings", arg{"SystemSettings", emb("Msvm_VirtualSystemSettingData", append([]any{"InstanceID", "Microsoft:" + id}, kv...)...)})
	}
	modify(id, "AutomaticShutdownAction:uint16", 2, "GuestControlledCacheTypes:boolean", "true", "LowMmioGapSize:uint64", 3072, "HighMmioGapSize:uint64", 33280)
	modify(other, "AutomaticShutdownAction:uint16", 2)
	got, o := assign(id)
	if o.get("ReturnValue") != "0" {
		t.Fatalf("%v", o.Vals)
	}
	if _, o := assign(other); o.get("ReturnValue") != "32774" {
		t.Fatalf("assigned twice: %v", o.Vals)
	}
	if l := c.query("SELECT * FROM Msvm_PciExpress WHERE LocationPath = '" + loc + "'"); len(l) != 2 {
		t.Fatalf("%d", len(l))
	}
	c.rv("32774", ads, "MountAssignableDevice", arg{"DeviceLocationPath", loc})
	c.rv("1", c.service("Msvm_VirtualSystemSnapshotService"), "CreateSnapshot", arg{"AffectedSystem", system(id)}, arg{"SnapshotType", 2})
	c.power(sim, id, 2)
	j := c.rv("4096", system(id), "RequestStateChange", arg{"RequestedState", 6}).Refs["Job"]
	if k := c.wait(sim, j); k.get("JobState") != "10" || c.state(id) != "2" {
		t.Fatalf("%v", k.Vals)
	}
	c.rv("32775", vmms, "RemoveResourceSettings", arg{"ResourceSettings", []ref{got}})
	c.power(sim, id, 3)
	c.do(sim, vmms, "RemoveResourceSettings", arg{"ResourceSettings", []ref{got}})
	c.do(sim, ads, "MountAssignableDevice", arg{"DeviceLocationPath", loc})
	c.pnp("NVIDIA A2")
}

func TestGPUPartitions(t *testing.T) {
	sim := start(t, hvsim.Config{Hosts: []hvsim.HostConfig{gpuHost(26100)}})
	c := dial(t, sim, 0)
	vmms := c.service("Msvm_VirtualSystemManagementService")
	g := c.one("SELECT * FROM Msvm_PartitionableGpu")
	if g.get("PartitionCount") != "4" || g.get("MaxPartitionVRAM") != "4294967296" || len(g.Vals["ValidPartitionCounts"]) != 3 {
		t.Fatalf("%v", g.Vals)
	}
	gpu := ref{"Msvm_PartitionableGpu", [][2]string{{"CreationClassName", "Msvm_PartitionableGpu"}, {"Name", g.get("Name")}}}
	if _, err := c.put(gpu, "PartitionCount", "3"); err == nil {
		t.Fatal("3 is no valid count")
	}
	if o, err := c.put(gpu, "PartitionCount", "1"); err != nil || o.get("PartitionCount") != "1" {
		t.Fatalf("%v %v", err, o)
	}
	add := func(id string, kv ...any) string {
		o, err := c.call(vmms, "AddResourceSettings", arg{"AffectedConfiguration", byID("Msvm_VirtualSystemSettingData", "Microsoft:"+id)},
			arg{"ResourceSettings", []string{emb("Msvm_GpuPartitionSettingData", append([]any{"ResourceSubType", "Microsoft:Hyper-V:Gpu Partition"}, kv...)...)}})
		if err != nil {
			t.Fatal(err)
		}
		return o.get("ReturnValue")
	}
	a, b := c.define(sim, "a", 2), c.define(sim, "b", 2)
	if rv := add(a, "MaxPartitionVRAM:uint64", 1<<40); rv != "32773" {
		t.Fatal(rv)
	}
	for _, id := range []string{a, b} {
		if rv := add(id, "HostResource", []string{gpu.path()}, "MinPartitionVRAM:uint64", 1<<30, "MaxPartitionVRAM:uint64", 1<<30, "OptimalPartitionVRAM:uint64", 1<<30); rv != "0" {
			t.Fatal(rv)
		}
	}
	c.power(sim, a, 2)
	c.one("SELECT * FROM Msvm_GpuPartition WHERE SystemName = '" + a + "'")
	j := c.rv("4096", system(b), "RequestStateChange", arg{"RequestedState", 2}).Refs["Job"]
	if k := c.wait(sim, j); k.get("JobState") != "10" || !strings.Contains(k.get("ErrorDescription"), "partitions") {
		t.Fatalf("one partition for two: %v", k.Vals)
	}
	c.power(sim, a, 3)
	c.power(sim, b, 2)
}

func TestEditions(t *testing.T) {
	old := gpuHost(17763)
	pro := gpuHost(0)
	pro.Edition, pro.Name = hvsim.WindowsPro, "PRO"
	sim := start(t, hvsim.Config{Hosts: []hvsim.HostConfig{old, pro}})
	c, p := dial(t, sim, 0), dial(t, sim, 1)
	if len(c.query("SELECT * FROM Msvm_PartitionableGpu")) != 1 || len(p.query("SELECT * FROM Msvm_PartitionableGpu")) != 1 {
		t.Fatal("Server 2019 and Windows 11 have partitions: their class lists have the classes")
	}
	for _, class := range []string{"Msvm_AssignableDeviceService", "Msvm_VirtualSystemMigrationService", "Msvm_ReplicationService"} {
		if len(c.query("SELECT * FROM "+class)) != 1 || len(p.query("SELECT * FROM "+class)) != 0 {
			t.Fatalf("%s is on servers alone", class)
		}
	}
	for _, x := range []struct {
		c    *client
		sku  string
		auto string
	}{{c, "8", "false"}, {p, "48", "true"}} {
		l, err := x.c.queryNS("root/cimv2", "SELECT * FROM Win32_OperatingSystem")
		if err != nil || l[0].get("OperatingSystemSKU") != x.sku {
			t.Fatalf("%v %v", err, l)
		}
		id := x.c.define(sim, "vm", 2)
		if v := x.c.one("SELECT * FROM Msvm_VirtualSystemSettingData").get("AutomaticSnapshotsEnabled"); v != x.auto {
			t.Fatal(v)
		}
		x.c.power(sim, id, 2)
		n := len(x.c.query("SELECT * FROM Msvm_VirtualSystemSettingData WHERE IsAutomaticSnapshot = TRUE"))
		if (n == 1) != (x.auto == "true") {
			t.Fatalf("%d automatic checkpoints", n)
		}
		x.c.power(sim, id, 3)
		if len(x.c.query("SELECT * FROM Msvm_VirtualSystemSettingData")) != 1 {
			t.Fatal("the automatic checkpoint stays")
		}
	}
}

func TestResourceRules(t *testing.T) {
	sim := start(t, hvsim.Config{})
	c := dial(t, sim, 0)
	vmms := c.service("Msvm_VirtualSystemManagementService")
	id, old := c.define(sim, "vm", 2), c.define(sim, "old", 1)
	mem := func(id string) string { return "Microsoft:" + id + `\4764334d-e001-4176-82ee-5594ec9b530e` }
	proc := func(id string) string { return "Microsoft:" + id + `\b637f346-6a0e-4dec-af52-bd70cb80a21d\0` }
	modify := func(want string, e string) {
		t.Helper()
		c.rv(want, vmms, "ModifyResourceSettings", arg{"ResourceSettings", []string{e}})
	}
	memory := func(id string, kv ...any) string {
		return emb("Msvm_MemorySettingData", append([]any{"InstanceID", mem(id)}, kv...)...)
	}
	modify("0", memory(id, "VirtualQuantity:uint64", 2048))
	modify("32773", memory(id, "VirtualQuantity:uint64", 16))
	modify("32773", memory(id, "VirtualQuantity:uint64", 2049))
	modify("32773", memory(id, "DynamicMemoryEnabled:boolean", "true", "Reservation:uint64", 4096))
	modify("0", memory(id, "DynamicMemoryEnabled:boolean", "true", "Reservation:uint64", 1024, "Limit:uint64", 4096))
	modify("0", emb("Msvm_ProcessorSettingData", "InstanceID", proc(id), "VirtualQuantity:uint64", 4))
	modify("32773", emb("Msvm_ProcessorSettingData", "InstanceID", proc(id), "VirtualQuantity:uint64", 0))
	modify("32773", emb("Msvm_ProcessorSettingData", "InstanceID", proc("4F1D0CE0-0000-4000-8000-00000000FFFF"), "VirtualQuantity:uint64", 1))
	c.power(sim, id, 2)
	modify("32775", emb("Msvm_ProcessorSettingData", "InstanceID", proc(id), "VirtualQuantity:uint64", 2))
	modify("32775", memory(id, "VirtualQuantity:uint64", 4096))
	modify("4096", memory(id, "Reservation:uint64", 512, "Limit:uint64", 8192))
	c.createDisk(sim, disk0, 3, "")
	c.rv("32775", vmms, "AddResourceSettings", arg{"AffectedConfiguration", byID("Msvm_VirtualSystemSettingData", "Microsoft:"+id)}, arg{"ResourceSettings", []string{emb("Msvm_ResourceAllocationSettingData", "ResourceSubType", "Microsoft:Hyper-V:Synthetic SCSI Controller")}})
	c.power(sim, id, 3)
	c.attach(sim, id, disk0)
	c.power(sim, id, 2)
	hot := `C:\vm\hot.vhdx`
	c.createDisk(sim, hot, 3, "")
	d := c.attach(sim, id, hot)
	c.rv("32774", c.service("Msvm_ImageManagementService"), "MergeVirtualHardDisk", arg{"SourcePath", hot}, arg{"DestinationPath", disk0})
	c.do(sim, c.service("Msvm_ImageManagementService"), "ResizeVirtualHardDisk", arg{"Path", hot}, arg{"MaxInternalSize", 20 << 30})
	c.do(sim, vmms, "RemoveResourceSettings", arg{"ResourceSettings", []ref{d}})
	// IDE has two slots and no hot plug; generation 2 has no IDE.
	ide := c.query("SELECT * FROM Msvm_ResourceAllocationSettingData WHERE ResourceType = 5 AND InstanceID LIKE 'Microsoft:" + old + "%'")
	if len(ide) != 2 || len(c.query("SELECT * FROM Msvm_ResourceAllocationSettingData WHERE ResourceType = 5 AND InstanceID LIKE 'Microsoft:"+id+"%'")) != 0 {
		t.Fatalf("%d", len(ide))
	}
	ctl := byID("Msvm_ResourceAllocationSettingData", ide[0].get("InstanceID"))
	drive := func(want, at string) {
		t.Helper()
		c.rv(want, vmms, "AddResourceSettings", arg{"AffectedConfiguration", byID("Msvm_VirtualSystemSettingData", "Microsoft:"+old)}, arg{"ResourceSettings", []string{emb("Msvm_ResourceAllocationSettingData", "ResourceSubType", "Microsoft:Hyper-V:Synthetic DVD Drive", "Parent", ctl.path(), "AddressOnParent", at)}})
	}
	drive("0", "0")
	drive("32773", "0")
	drive("32773", "2")
	c.power(sim, old, 2)
	drive("32775", "1")
	if n := len(c.query("SELECT * FROM CIM_ResourceAllocationSettingData WHERE InstanceID LIKE '%\\\\Default'")); n < 10 {
		t.Fatalf("%d templates", n)
	}
}
