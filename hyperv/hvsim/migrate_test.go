package hvsim_test

import (
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
)

func migration(kind int, kv ...any) string {
	return emb("Msvm_VirtualSystemMigrationSettingData", append([]any{"MigrationType:uint16", kind, "TransportType:uint16", 5}, kv...)...)
}

// nic adds a network adapter connected to the host's switch.
func (c *client) nic(sim *hvsim.Sim, id string) ref {
	c.t.Helper()
	vmms := c.service("Msvm_VirtualSystemManagementService")
	sd := byID("Msvm_VirtualSystemSettingData", "Microsoft:"+id)
	o := c.do(sim, vmms, "AddResourceSettings", arg{"AffectedConfiguration", sd}, arg{"ResourceSettings", []string{emb("Msvm_SyntheticEthernetPortSettingData", "ResourceSubType", "Microsoft:Hyper-V:Synthetic Ethernet Port")}})
	sw := c.one("SELECT * FROM Msvm_VirtualEthernetSwitch")
	path := ref{"Msvm_VirtualEthernetSwitch", [][2]string{{"CreationClassName", "Msvm_VirtualEthernetSwitch"}, {"Name", sw.get("Name")}}}.path()
	o = c.do(sim, vmms, "AddResourceSettings", arg{"AffectedConfiguration", sd}, arg{"ResourceSettings", []string{emb("Msvm_EthernetPortAllocationSettingData", "ResourceSubType", "Microsoft:Hyper-V:Ethernet Connection",
		"Parent", o.Refs["ResultingResourceSettings"].path(), "HostResource", []string{path})}})
	return o.Refs["ResultingResourceSettings"]
}

// errorsOf gives the messages of a failed job.
func (c *client) errorsOf(job ref) string {
	c.t.Helper()
	return strings.Join(c.rv("0", job, "GetErrorEx").Vals["Errors"], "\n")
}

func TestLiveMigration(t *testing.T) {
	sim := start(t, hvsim.Config{Hosts: []hvsim.HostConfig{
		{CPU: hvsim.CPU{Features: []string{"avx", "avx512"}}},
		{CPU: hvsim.CPU{Features: []string{"avx"}}, MemoryMB: 8192},
		{CPU: hvsim.CPU{Vendor: "AuthenticAMD"}},
		{NoMigration: true},
		{Edition: hvsim.WindowsPro},
	}})
	c, d := dial(t, sim, 0), dial(t, sim, 1)
	svc, vmms := c.service("Msvm_VirtualSystemMigrationService"), c.service("Msvm_VirtualSystemManagementService")
	id := c.define(sim, "mover", 2)
	c.createDisk(sim, disk0, 3, "")
	disk := c.attach(sim, id, disk0)
	c.nic(sim, id)
	if err := sim.Host(0).WriteDisk(disk0, "root", "mine"); err != nil {
		t.Fatal(err)
	}
	c.snapshot(sim, id)
	c.power(sim, id, 2)
	if err := sim.WriteMemory(id, "counter", "41"); err != nil {
		t.Fatal(err)
	}
	check := func(host string, kind int, more ...arg) string {
		t.Helper()
		o := c.rv("4096", svc, "CheckVirtualSystemIsMigratable", append([]arg{{"ComputerSystem", system(id)}, {"DestinationHost", host}, {"MigrationSettingData", migration(kind)}}, more...)...)
		if j := c.wait(sim, o.Refs["Job"]); j.get("JobState") == "7" {
			return ""
		}
		return c.errorsOf(o.Refs["Job"])
	}
	got := check("HV02", 32768)
	if !strings.Contains(got, "24004") || !strings.Contains(got, "not accessible on host") || c.state(id) != "2" {
		t.Fatalf("%s", got)
	}
	for host, want := range map[string]string{"HV03": "24004", "HV04": "0x8007274D", "HV05": "0x8007274D", "nowhere": "0x8007274D"} {
		if got := check(host, 32771); !strings.Contains(got, want) {
			t.Fatalf("%s: %s", host, got)
		}
	}
	c.rv("32773", svc, "MigrateVirtualSystemToHost", arg{"ComputerSystem", system(id)}, arg{"MigrationSettingData", migration(32768)})
	c.rv("32773", svc, "MigrateVirtualSystemToHost", arg{"ComputerSystem", system(id)}, arg{"DestinationHost", "HV02"}, arg{"MigrationSettingData", migration(2)})
	// Limited features need the machine off; then storage goes along.
	c.power(sim, id, 3)
	c.do(sim, vmms, "ModifyResourceSettings", arg{"ResourceSettings", []string{emb("Msvm_ProcessorSettingData", "InstanceID", "Microsoft:"+id+`\b637f346-6a0e-4dec-af52-bd70cb80a21d\0`, "LimitProcessorFeatures:boolean", "true")}})
	c.power(sim, id, 2)
	if err := sim.WriteMemory(id, "counter", "42"); err != nil {
		t.Fatal(err)
	}
	// Paths per disk; the rest of the chain follows its leaf.
	res := arg{"NewResourceSettingData", []string{emb("Msvm_StorageAllocationSettingData", "InstanceID", disk.Keys[0][1], "HostResource", []string{`D:\new\disk.avhdx`})}}
	if got := check("HV02", 32771, res); got != "" {
		t.Fatal(got)
	}
	o := c.rv("4096", svc, "MigrateVirtualSystemToHost", arg{"ComputerSystem", system(id)}, arg{"DestinationHost", "HV02"}, arg{"MigrationSettingData", migration(32771)}, res)
	j, err := c.get(o.Refs["Job"])
	if err != nil || j.Class != "Msvm_MigrationJob" || j.get("JobType") != "306" || j.get("DestinationHost") != "HV02" {
		t.Fatalf("%v %v", err, j)
	}
	if j = c.wait(sim, o.Refs["Job"]); j.get("JobState") != "7" {
		t.Fatalf("%v", j.Vals)
	}
	if _, err := c.get(system(id)); err == nil {
		t.Fatal("the machine is still on the source")
	}
	if d.state(id) != "2" || sim.Memory(id)["counter"] != "42" {
		t.Fatalf("%s %v", d.state(id), sim.Memory(id))
	}
	if l := sim.Host(1).DiskChain(`D:\new\disk.avhdx`); len(l) != 2 || l[1] != `D:\new\disk.vhdx` || sim.Host(1).ReadDisk(l[0])["root"] != "mine" {
		t.Fatalf("%v %v", l, sim.Host(1).Files())
	}
	if l := sim.Host(0).Files(); len(l) != 0 {
		t.Fatalf("the source keeps %v", l)
	}
	if len(d.query("ASSOCIATORS OF {"+system(id).path()+"} WHERE AssocClass = Msvm_SnapshotOfVirtualSystem")) != 1 {
		t.Fatal("the checkpoint did not come along")
	}
	conn := d.one("SELECT * FROM Msvm_EthernetPortAllocationSettingData WHERE InstanceID LIKE 'Microsoft:" + id + "%'")
	if !strings.Contains(conn.get("HostResource"), d.one("SELECT * FROM Msvm_VirtualEthernetSwitch").get("Name")) {
		t.Fatalf("%v", conn.Vals)
	}
	// Storage alone, on the new host, while it runs.
	ds := d.service("Msvm_VirtualSystemMigrationService")
	o = d.rv("4096", ds, "MigrateVirtualSystemToHost", arg{"ComputerSystem", system(id)}, arg{"MigrationSettingData", migration(32769)},
		arg{"NewResourceSettingData", []string{emb("Msvm_StorageAllocationSettingData", "InstanceID", disk.Keys[0][1], "HostResource", []string{`E:\again\leaf.avhdx`})}})
	if j = d.wait(sim, o.Refs["Job"]); j.get("JobState") != "7" || j.get("JobType") != "307" {
		t.Fatalf("%v", j.Vals)
	}
	if v := sim.Host(1).ReadDisk(`E:\again\leaf.avhdx`)["root"]; v != "mine" || sim.Host(1).ReadDisk(`D:\new\disk.vhdx`) != nil || d.state(id) != "2" {
		t.Fatalf("%q %v", v, sim.Host(1).Files())
	}
	d.power(sim, id, 3)
	d.power(sim, id, 2)
}

func TestMigrationOfSharedStorageAndStaging(t *testing.T) {
	sim := start(t, hvsim.Config{Hosts: make([]hvsim.HostConfig, 2), JobTimes: nil})
	c, d := dial(t, sim, 0), dial(t, sim, 1)
	svc := c.service("Msvm_VirtualSystemMigrationService")
	id := c.define(sim, "vm", 2)
	c.createDisk(sim, `\\nas\vms\disk.vhdx`, 3, "")
	c.attach(sim, id, `\\nas\vms\disk.vhdx`)
	move := func(kind int, kv ...any) *obj {
		t.Helper()
		o := c.rv("4096", svc, "MigrateVirtualSystemToHost", arg{"ComputerSystem", system(id)}, arg{"DestinationHost", "HV02"}, arg{"MigrationSettingData", migration(kind, kv...)})
		return c.wait(sim, o.Refs["Job"])
	}
	if j := move(32770); j.get("JobState") != "7" {
		t.Fatalf("%v", j.Vals)
	}
	if c.state(id) != "3" || len(d.query("SELECT * FROM Msvm_PlannedComputerSystem")) != 1 {
		t.Fatal("staging leaves the source and plans on the target")
	}
	if j := move(32768, "DestinationIPAddressList", []string{"10.9.9.9"}); j.get("JobState") != "10" {
		t.Fatalf("%v", j.Vals)
	}
	sim.Inject(hvsim.Fault{Op: "Job", Target: "MigrateVirtualSystemToHost", JobError: "network lost"})
	if j := move(32768); j.get("JobState") != "10" || c.state(id) != "3" {
		t.Fatalf("%v", j.Vals)
	}
	if j := move(32768, "DestinationIPAddressList", []string{"10.0.0.2"}); j.get("JobState") != "7" {
		t.Fatalf("%v", j.Vals)
	}
	if d.state(id) != "3" || len(d.query("SELECT * FROM Msvm_PlannedComputerSystem")) != 0 {
		t.Fatal(d.state(id))
	}
	if f := sim.Machines(); len(f) != 1 || f[0].Host != "HV02" || f[0].Disks[0] != `\\nas\vms\disk.vhdx` {
		t.Fatalf("%+v", f)
	}
	svc = d.service("Msvm_VirtualSystemMigrationService")
	o := d.rv("0", svc, "GetSystemCompatibilityInfo", arg{"ComputerSystem", system(id)})
	if len(o.Vals["CompatibilityInfo"]) == 0 {
		t.Fatal("no info")
	}
	c.rv("0", c.service("Msvm_VirtualSystemMigrationService"), "CheckSystemCompatibilityInfo", arg{"CompatibilityInfo", o.Vals["CompatibilityInfo"]})
	c.do(sim, c.service("Msvm_VirtualSystemMigrationService"), "ModifyServiceSettings", arg{"ServiceSettingData", emb("Msvm_VirtualSystemMigrationServiceSettingData", "EnableVirtualSystemMigration:boolean", "false")})
	o = d.rv("4096", svc, "MigrateVirtualSystemToHost", arg{"ComputerSystem", system(id)}, arg{"DestinationHost", "HV01"}, arg{"MigrationSettingData", migration(32768)})
	if j := d.wait(sim, o.Refs["Job"]); j.get("JobState") != "10" {
		t.Fatalf("%v", j.Vals)
	}
}

func TestCluster(t *testing.T) {
	sim := start(t, hvsim.Config{Hosts: make([]hvsim.HostConfig, 2), Cluster: &hvsim.ClusterConfig{Volumes: []string{"Volume1"}}})
	c, d := dial(t, sim, 0), dial(t, sim, 1)
	id := c.define(sim, "role", 2)
	p := `C:\ClusterStorage\Volume1\disk.vhdx`
	c.createDisk(sim, p, 3, "")
	c.attach(sim, id, p)
	c.power(sim, id, 2)
	if err := sim.Cluster(id); err != nil {
		t.Fatal(err)
	}
	l, err := d.queryNS("root/MSCluster", "SELECT * FROM MSCluster_ResourceGroup WHERE GroupType = 111")
	if err != nil || len(l) != 1 || l[0].get("OwnerNode") != "HV01" || l[0].get("State") != "0" {
		t.Fatalf("%v %v", err, l)
	}
	svc := c.service("Msvm_VirtualSystemMigrationService")
	o := c.rv("4096", svc, "MigrateVirtualSystemToHost", arg{"ComputerSystem", system(id)}, arg{"DestinationHost", "HV02"}, arg{"MigrationSettingData", migration(32768)})
	if j := c.wait(sim, o.Refs["Job"]); j.get("JobState") != "10" || !strings.Contains(j.get("ErrorDescription"), "cluster") {
		t.Fatalf("%v", j.Vals)
	}
	g := ref{"MSCluster_ResourceGroup", [][2]string{{"Name", "role"}}}
	if o, err := c.callNS("root/MSCluster", g, "MoveToNewNodeParams", arg{"NodeName", "HV02"}, arg{"Parameters", 1}, arg{"Parameters", 0}, arg{"Flags", 0}); err != nil || o.get("ReturnValue") != "87" {
		t.Fatalf("a property list that is cut off: %v, %v", o, err)
	}
	if _, err = c.callNS("root/MSCluster", g, "MoveToNewNode", arg{"NodeName", "HV02"}, arg{"TimeOut", 0}); err != nil {
		t.Fatal(err)
	}
	if d.state(id) != "2" {
		t.Fatal(d.state(id))
	}
	l, err = c.queryNS("root/MSCluster", "SELECT * FROM MSCluster_Resource WHERE Type = 'Virtual Machine'")
	if err != nil || len(l) != 1 || l[0].get("OwnerNode") != "HV02" {
		t.Fatalf("%v %v", err, l)
	}
	if _, err := c.queryNS("root/MSCluster", "SELECT * FROM MSCluster_Node"); err != nil {
		t.Fatal(err)
	}
	// Machines become roles by name, once; a role whose machine goes stays and fails.
	k := ref{"MSCluster_Cluster", [][2]string{{"Name", "CLUSTER"}}}
	for _, x := range [][2]string{{"role", "5010"}, {"nobody", "2"}} {
		if o, err := d.callNS("root/MSCluster", k, "AddVirtualMachine", arg{"VirtualMachine", x[0]}); err != nil || o.get("ReturnValue") != x[1] {
			t.Errorf("AddVirtualMachine(%s): %v %v", x[0], o.Vals, err)
		}
	}
	d.power(sim, id, 3)
	d.do(sim, d.service("Msvm_VirtualSystemManagementService"), "DestroySystem", arg{"AffectedSystem", system(id)})
	l, err = c.queryNS("root/MSCluster", "SELECT * FROM MSCluster_ResourceGroup")
	if err != nil || len(l) != 1 || l[0].get("State") != "2" || l[0].get("Priority") != "2000" || len(sim.Roles()) != 1 {
		t.Fatalf("%v %v", err, l)
	}
	if _, err = c.callNS("root/MSCluster", g, "DestroyGroup", arg{"Options", 1}); err != nil || len(sim.Roles()) != 0 {
		t.Fatalf("%v %v", err, sim.Roles())
	}
	_, err = dial(t, start(t, hvsim.Config{}), 0).queryNS("root/MSCluster", "SELECT * FROM MSCluster_Cluster")
	wantFault(t, err, "n:CannotProcessFilter", cimNamespace)
}
