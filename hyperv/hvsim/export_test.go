package hvsim_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
)

func planned(id string) ref {
	return ref{"Msvm_PlannedComputerSystem", [][2]string{{"CreationClassName", "Msvm_PlannedComputerSystem"}, {"Name", id}}}
}

func TestExportImport(t *testing.T) {
	sim := start(t, hvsim.Config{})
	h := sim.Host(0)
	c := dial(t, sim, 0)
	vmms := c.service("Msvm_VirtualSystemManagementService")
	id := c.define(sim, "web/01", 2)
	c.createDisk(sim, disk0, 3, "")
	c.attach(sim, id, disk0)
	if err := h.WriteDisk(disk0, "root", "golden"); err != nil {
		t.Fatal(err)
	}
	c.snapshot(sim, id)
	if err := h.WriteDisk(c.leaf(id), "root", "newer"); err != nil {
		t.Fatal(err)
	}
	set := c.one("ASSOCIATORS OF {" + system(id).path() + "} WHERE AssocClass = Msvm_SystemExportSettingData")
	if set.get("CopyVmStorage") != "true" {
		t.Fatalf("%v", set.Vals)
	}
	none := emb("Msvm_VirtualSystemExportSettingData", "CopySnapshotConfiguration:uint8", 1)
	c.do(sim, vmms, "ExportSystemDefinition", arg{"ComputerSystem", system(id)}, arg{"ExportDirectory", `C:\export`}, arg{"ExportSettingData", none})
	vmcx := `C:\export\web_01\Virtual Machines\` + id + ".vmcx"
	if !slices.Contains(h.Files(), vmcx) {
		t.Fatalf("%v", h.Files())
	}
	o := c.rv("4096", vmms, "ExportSystemDefinition", arg{"ComputerSystem", system(id)}, arg{"ExportDirectory", `C:\export`}, arg{"ExportSettingData", none})
	if j := c.wait(sim, o.Refs["Job"]); j.get("JobState") != "10" {
		t.Fatalf("the folder exists: %v", j.Vals)
	}
	c.rv("32775", vmms, "ImportSystemDefinition", arg{"SystemDefinitionFile", vmcx}, arg{"GenerateNewSystemIdentifier", false})
	c.rv("32773", vmms, "ImportSystemDefinition", arg{"SystemDefinitionFile", `C:\nothing.vmcx`}, arg{"GenerateNewSystemIdentifier", true})
	o = c.rv("0", vmms, "ImportSystemDefinition", arg{"SystemDefinitionFile", vmcx}, arg{"GenerateNewSystemIdentifier", true})
	p := o.Refs["ImportedSystem"]
	nid := p.Keys[1][1]
	if l := c.query("SELECT * FROM Msvm_ComputerSystem WHERE Name = '" + nid + "'"); len(l) != 0 {
		t.Fatal("a planned machine is no Msvm_ComputerSystem")
	}
	c.rv("32775", planned(nid), "RequestStateChange", arg{"RequestedState", 2})
	sd := c.one("SELECT * FROM Msvm_VirtualSystemSettingData WHERE InstanceID = 'Microsoft:" + nid + "'")
	if sd.get("VirtualSystemType") != "Microsoft:Hyper-V:System:Planned" || sd.get("ElementName") != "web/01" {
		t.Fatalf("%v", sd.Vals)
	}
	// Its disk is the merged copy; move it to where it shall live.
	copied := c.leaf(nid)
	if h.ReadDisk(copied)["root"] != "newer" || len(h.DiskChain(copied)) != 1 {
		t.Fatalf("%v %v", h.ReadDisk(copied), h.DiskChain(copied))
	}
	file := ref{"CIM_DataFile", [][2]string{{"Name", copied}}}
	if _, err := c.callNS("root/cimv2", file, "Rename", arg{"FileName", `C:\vm\copy.vhdx`}); err != nil {
		t.Fatal(err)
	}
	o = c.rv("4096", vmms, "ValidatePlannedSystem", arg{"PlannedSystem", p})
	if j := c.wait(sim, o.Refs["Job"]); j.get("JobState") != "10" || !strings.Contains(j.get("ErrorDescription"), "cannot find") {
		t.Fatalf("%v", j.Vals)
	}
	disk := c.one("SELECT * FROM Msvm_StorageAllocationSettingData WHERE InstanceID LIKE 'Microsoft:" + nid + "%'")
	c.do(sim, vmms, "ModifyResourceSettings", arg{"ResourceSettings", []string{emb("Msvm_StorageAllocationSettingData", "InstanceID", disk.get("InstanceID"), "HostResource", []string{`C:\vm\copy.vhdx`})}})
	c.do(sim, vmms, "ValidatePlannedSystem", arg{"PlannedSystem", p})
	c.do(sim, vmms, "RealizePlannedSystem", arg{"PlannedSystem", p})
	c.power(sim, nid, 2)
	c.power(sim, id, 2)
	if err := h.WriteDisk(c.leaf(nid), "root", "changed in the copy"); err != nil {
		t.Fatal(err)
	}
	if v := h.ReadDisk(c.leaf(id))["root"]; v != "newer" {
		t.Fatalf("the original reads %q", v)
	}
	if _, err := c.get(planned(nid)); err == nil {
		t.Fatal("the planned machine is still there")
	}
}

func TestExportCheckpoint(t *testing.T) {
	sim := start(t, hvsim.Config{})
	h := sim.Host(0)
	c := dial(t, sim, 0)
	vmms := c.service("Msvm_VirtualSystemManagementService")
	id := c.define(sim, "vm", 2)
	c.createDisk(sim, disk0, 2, "")
	c.attach(sim, id, disk0)
	if err := h.WriteDisk(disk0, "root", "then"); err != nil {
		t.Fatal(err)
	}
	s := c.snapshot(sim, id)
	if err := h.WriteDisk(c.leaf(id), "root", "now"); err != nil {
		t.Fatal(err)
	}
	c.power(sim, id, 2) // export works on a running machine
	c.do(sim, vmms, "ExportSystemDefinition", arg{"ComputerSystem", system(id)}, arg{"ExportDirectory", `C:\e1`},
		arg{"ExportSettingData", emb("Msvm_VirtualSystemExportSettingData", "CopySnapshotConfiguration:uint8", 2, "SnapshotVirtualSystem", s.path(), "CreateVmExportSubdirectory:boolean", "false")})
	o := c.rv("0", vmms, "ImportSystemDefinition", arg{"SystemDefinitionFile", `C:\e1\Virtual Machines\` + id + ".vmcx"}, arg{"GenerateNewSystemIdentifier", "true"})
	nid := o.Refs["ImportedSystem"].Keys[1][1]
	if v := h.ReadDisk(c.leaf(nid))["root"]; v != "then" {
		t.Fatalf("the exported checkpoint reads %q", v)
	}
	// With all checkpoints: the tree comes along.
	c.do(sim, vmms, "ExportSystemDefinition", arg{"ComputerSystem", system(id)}, arg{"ExportDirectory", `C:\e2`})
	o = c.rv("0", vmms, "ImportSystemDefinition", arg{"SystemDefinitionFile", `C:\e2\vm\Virtual Machines\` + id + ".vmcx"}, arg{"SnapshotFolder", `C:\e2\vm\Snapshots`}, arg{"GenerateNewSystemIdentifier", true})
	p := o.Refs["ImportedSystem"]
	c.do(sim, vmms, "RealizePlannedSystem", arg{"PlannedSystem", p})
	nid = p.Keys[1][1]
	if s := c.state(nid); s != "6" { // the live state was captured
		t.Fatal(s)
	}
	snap := c.one("ASSOCIATORS OF {" + system(nid).path() + "} WHERE AssocClass = Msvm_SnapshotOfVirtualSystem")
	if snap.get("VirtualSystemType") != "Microsoft:Hyper-V:Snapshot:Realized" {
		t.Fatalf("%v", snap.Vals)
	}
	leaf := h.DiskChain(c.one("SELECT * FROM Msvm_StorageAllocationSettingData WHERE InstanceID LIKE 'Microsoft:" + nid + "%'").get("HostResource"))
	if len(leaf) != 2 || !strings.HasPrefix(leaf[1], `C:\e2\`) || h.ReadDisk(leaf[0])["root"] != "now" {
		t.Fatalf("%v", leaf)
	}
	// Planned machines can be given up.
	o = c.rv("0", vmms, "ImportSystemDefinition", arg{"SystemDefinitionFile", `C:\e2\vm\Virtual Machines\` + id + ".vmcx"}, arg{"GenerateNewSystemIdentifier", true})
	c.do(sim, vmms, "DestroySystem", arg{"AffectedSystem", o.Refs["ImportedSystem"]})
	if l := c.query("SELECT * FROM Msvm_PlannedComputerSystem"); len(l) != 1 {
		t.Fatalf("%d planned machines, want the one of C:\\e1", len(l))
	}
}

func TestJobs(t *testing.T) {
	sim := start(t, hvsim.Config{JobTimes: map[string]time.Duration{"ExportSystemDefinition": 100e9}, JobTime: -1})
	c := dial(t, sim, 0)
	vmms := c.service("Msvm_VirtualSystemManagementService")
	id := c.define(sim, "vm", 2)
	export := func(dir string) ref {
		return c.rv("4096", vmms, "ExportSystemDefinition", arg{"ComputerSystem", system(id)}, arg{"ExportDirectory", dir}).Refs["Job"]
	}
	job := export(`C:\a`)
	sim.Advance(30e9)
	j, err := c.get(job)
	if err != nil || j.get("PercentComplete") != "30" && j.get("PercentComplete") != "31" || j.get("JobState") != "4" || j.get("Cancellable") != "true" {
		t.Fatalf("%v %v", err, j.Vals)
	}
	c.rv("32775", vmms, "ExportSystemDefinition", arg{"ComputerSystem", system(id)}, arg{"ExportDirectory", `C:\b`})
	c.rv("32775", vmms, "DestroySystem", arg{"AffectedSystem", system(id)})
	c.rv("0", job, "RequestStateChange", arg{"RequestedState", 5})
	if j, _ = c.get(job); j.get("JobState") != "9" {
		t.Fatalf("%v", j.Vals)
	}
	c.rv("32775", job, "RequestStateChange", arg{"RequestedState", 5})
	if o := c.rv("0", job, "GetErrorEx"); !strings.Contains(o.get("Errors"), "Msvm_Error") {
		t.Fatalf("%v", o.Vals)
	}
	if n := countSuffix(sim.Host(0).Files(), ".vmcx"); n != 1 {
		t.Fatalf("a cancelled export leaves %v", sim.Host(0).Files())
	}
	sim.Advance(299e9)
	if _, err = c.get(job); err != nil {
		t.Fatal(err)
	}
	sim.Advance(2e9)
	_, err = c.get(job)
	wantFault(t, err, "a:DestinationUnreachable", "nil")

	sim.Inject(hvsim.Fault{Op: "Job", Target: "RequestStateChange", JobError: "it broke", JobCode: 32778})
	o := c.rv("4096", system(id), "RequestStateChange", arg{"RequestedState", 2})
	if j, _ = c.get(o.Refs["Job"]); j.get("JobState") != "10" || j.get("ErrorCode") != "32778" || c.state(id) != "3" {
		t.Fatalf("%v %s", j.Vals, c.state(id))
	}
	sim.Inject(hvsim.Fault{Op: "Job", Target: "RequestStateChange", Forget: true})
	o = c.rv("4096", system(id), "RequestStateChange", arg{"RequestedState", 2})
	if _, err = c.get(o.Refs["Job"]); err == nil || c.state(id) != "2" {
		t.Fatal("the job is not forgotten")
	}
	sim.Inject(hvsim.Fault{Op: "Invoke", Target: "*.RequestStateChange", Return: 32769})
	c.rv("32769", system(id), "RequestStateChange", arg{"RequestedState", 3})
	sim.Inject(hvsim.Fault{Op: "Job", Target: "ExportSystemDefinition", Stall: true})
	job = export(`C:\c`)
	sim.Advance(1000e9)
	if j, err = c.get(job); err != nil || j.get("JobState") != "4" {
		t.Fatalf("%v %v", err, j)
	}
	c.rv("0", job, "RequestStateChange", arg{"RequestedState", 4})
	c.power(sim, id, 3)
}

func TestSummary(t *testing.T) {
	sim := start(t, hvsim.Config{})
	c := dial(t, sim, 0)
	vmms := c.service("Msvm_VirtualSystemManagementService")
	a, b := c.define(sim, "a", 2), c.define(sim, "b", 1)
	c.power(sim, a, 2)
	if err := sim.SetGuest(a, hvsim.Guest{OSName: "Debian GNU/Linux 12", IPv4: []string{"192.0.2.7"}}); err != nil {
		t.Fatal(err)
	}
	body, err := c.raw(vmms, "GetSummaryInformation", arg{"SettingData", []ref{byID("Msvm_VirtualSystemSettingData", "Microsoft:"+b), byID("Msvm_VirtualSystemSettingData", "Microsoft:"+a)}},
		arg{"RequestedInformation", []string{"0", "1", "4", "100", "103", "106", "107"}})
	if err != nil {
		t.Fatal(err)
	}
	var got []*obj
	for _, k := range body.Kids[0].Kids {
		if k.Name.Local == "SummaryInformation" {
			got = append(got, toObj(k))
		}
	}
	if len(got) != 2 || got[0].get("Name") != b || got[1].get("GuestOperatingSystem") != "Debian GNU/Linux 12" || got[1].get("MemoryUsage") != "1024" || got[1].get("Version") != "" {
		t.Fatalf("%v", got)
	}
	c.rv("32773", vmms, "GetSummaryInformation", arg{"RequestedInformation", []string{"9999"}})
	kvp := c.one("SELECT * FROM Msvm_KvpExchangeComponent WHERE SystemName = '" + a + "'")
	if l := strings.Join(kvp.Vals["GuestIntrinsicExchangeItems"], "\n"); !strings.Contains(l, "192.0.2.7") {
		t.Fatal(l)
	}
}
