package hvsim_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
)

// TestEveryMethodAsJob: with AllJobs nothing is done when the method returns, and results are found through the job.
func TestEveryMethodAsJob(t *testing.T) {
	sim := start(t, hvsim.Config{AllJobs: true, JobTime: time.Minute})
	c := dial(t, sim, 0)
	vmms := c.service("Msvm_VirtualSystemManagementService")
	result := func(o *obj, class string) *obj {
		t.Helper()
		if j := c.wait(sim, o.Refs["Job"]); j.get("JobState") != "7" {
			t.Fatalf("%v", j.Vals)
		}
		return c.one("ASSOCIATORS OF {" + o.Refs["Job"].path() + "} WHERE AssocClass = Msvm_AffectedJobElement ResultClass = " + class)
	}
	sys := emb("Msvm_VirtualSystemSettingData", "ElementName", "vm", "VirtualSystemSubType", "Microsoft:Hyper-V:SubType:2")
	o := c.rv("4096", vmms, "DefineSystem", arg{"SystemSettings", sys})
	if len(o.Refs) != 1 || len(sim.Machines()) != 0 {
		t.Fatalf("%v", o.Refs)
	}
	id := result(o, "Msvm_ComputerSystem").get("Name")
	rename := emb("Msvm_VirtualSystemSettingData", "InstanceID", "Microsoft:"+id, "ElementName", "renamed")
	o = c.rv("4096", vmms, "ModifySystemSettings", arg{"SystemSettings", rename})
	if sim.Machines()[0].Name != "vm" {
		t.Fatal("renamed before the job has ended")
	}
	if j := c.wait(sim, o.Refs["Job"]); j.get("JobState") != "7" || sim.Machines()[0].Name != "renamed" {
		t.Fatalf("%v", j.Vals)
	}
	o = c.rv("4096", vmms, "AddResourceSettings", arg{"AffectedConfiguration", byID("Msvm_VirtualSystemSettingData", "Microsoft:"+id)},
		arg{"ResourceSettings", []string{emb("Msvm_ResourceAllocationSettingData", "ResourceSubType", "Microsoft:Hyper-V:Synthetic SCSI Controller")}})
	result(o, "Msvm_ResourceAllocationSettingData")
	c.do(sim, vmms, "ExportSystemDefinition", arg{"ComputerSystem", system(id)}, arg{"ExportDirectory", `C:\e`})
	o = c.rv("4096", vmms, "ImportSystemDefinition", arg{"SystemDefinitionFile", `C:\e\renamed\Virtual Machines\` + id + ".vmcx"}, arg{"GenerateNewSystemIdentifier", true})
	nid := result(o, "Msvm_PlannedComputerSystem").get("Name")
	o = c.rv("4096", vmms, "RealizePlannedSystem", arg{"PlannedSystem", planned(nid)})
	if got := result(o, "Msvm_ComputerSystem").get("Name"); got != nid {
		t.Fatal(got)
	}
}

// TestMergeIsSeen: after a checkpoint is gone its disks merge in a job of their own, which clients can watch.
func TestMergeIsSeen(t *testing.T) {
	sim := start(t, hvsim.Config{JobTime: -1, JobTimes: map[string]time.Duration{"Merge": time.Minute}})
	c := dial(t, sim, 0)
	svc := c.service("Msvm_VirtualSystemSnapshotService")
	ids, err := sim.Host(0).Add(hvsim.Machine{Name: "vm", Disks: []string{disk0}, Running: true})
	if err != nil {
		t.Fatal(err)
	}
	id := ids[0]
	s := c.snapshot(sim, id)
	c.rv("4096", svc, "DestroySnapshot", arg{"AffectedSnapshot", s})
	if len(c.query("SELECT * FROM Msvm_VirtualSystemSettingData")) != 1 {
		t.Fatal("the checkpoint is still there")
	}
	o, err := c.get(system(id))
	if err != nil || strings.Join(o.Vals["OperationalStatus"], ",") != "11,32772" {
		t.Fatalf("%v %v", err, o.Vals["OperationalStatus"])
	}
	jobs := c.query("ASSOCIATORS OF {" + system(id).path() + "} WHERE AssocClass = Msvm_AffectedJobElement")
	merging := 0
	for _, j := range jobs {
		if j.get("JobType") == "50" && j.get("JobState") == "4" {
			merging++
		}
	}
	if merging != 1 || len(sim.Host(0).DiskChain(c.leaf(id))) != 2 {
		t.Fatalf("%d merges, %v", merging, sim.Host(0).DiskChain(c.leaf(id)))
	}
	settle(sim)
	if o, err = c.get(system(id)); err != nil || strings.Join(o.Vals["OperationalStatus"], ",") != "2" || c.leaf(id) != disk0 {
		t.Fatalf("%v %v %s", err, o.Vals["OperationalStatus"], c.leaf(id))
	}
}

// TestGuests: graceful shutdown depends on what runs inside.
func TestGuests(t *testing.T) {
	sim := start(t, hvsim.Config{JobTime: -1})
	c := dial(t, sim, 0)
	guest := func(g hvsim.Guest) (string, ref) {
		t.Helper()
		ids, err := sim.Host(0).Add(hvsim.Machine{Name: "vm", Running: true, Guest: g})
		if err != nil {
			t.Fatal(err)
		}
		o := c.one("SELECT * FROM Msvm_ShutdownComponent WHERE SystemName = '" + ids[0] + "'")
		r := ref{Class: "Msvm_ShutdownComponent"}
		for _, k := range []string{"SystemCreationClassName", "SystemName", "CreationClassName", "DeviceID"} {
			r.Keys = append(r.Keys, [2]string{k, o.get(k)})
		}
		return ids[0], r
	}
	ask := func(want string, r ref, force bool) {
		t.Helper()
		c.rv(want, r, "InitiateShutdown", arg{"Force", force}, arg{"Reason", "test"})
	}
	_, r := guest(hvsim.Guest{NoTools: true})
	ask("32770", r, false)
	id, r := guest(hvsim.Guest{BootTime: time.Minute, ShutdownTime: time.Minute})
	ask("32780", r, false)
	sim.Advance(time.Minute)
	ask("0", r, false)
	ask("32782", r, false)
	if s := c.state(id); s != "2" {
		t.Fatal(s)
	}
	sim.Advance(time.Minute)
	if s := c.state(id); s != "3" {
		t.Fatal(s)
	}
	id, r = guest(hvsim.Guest{Locked: true})
	ask("32781", r, false)
	ask("0", r, true)
	sim.Advance(time.Second)
	if s := c.state(id); s != "3" {
		t.Fatal(s)
	}
	id, r = guest(hvsim.Guest{IgnoresShutdown: true})
	ask("0", r, false)
	sim.Advance(time.Hour)
	if s := c.state(id); s != "2" {
		t.Fatal(s)
	}
	// KVP items from the host are kept by machine.
	vmms := c.service("Msvm_VirtualSystemManagementService")
	item := func(data string) []string {
		return []string{emb("Msvm_KvpExchangeDataItem", "Name", "key", "Data", data, "Source:uint16", 0)}
	}
	c.do(sim, vmms, "AddKvpItems", arg{"TargetSystem", system(id)}, arg{"DataItems", item("a")})
	c.rv("32773", vmms, "AddKvpItems", arg{"TargetSystem", system(id)}, arg{"DataItems", item("b")})
	c.rv("32773", vmms, "ModifyKvpItems", arg{"TargetSystem", system(id)}, arg{"DataItems", item(strings.Repeat("x", 1025))})
	c.do(sim, vmms, "ModifyKvpItems", arg{"TargetSystem", system(id)}, arg{"DataItems", item("c")})
	kvp := c.one("SELECT * FROM Msvm_KvpExchangeComponentSettingData WHERE InstanceID LIKE 'Microsoft:" + id + "%'")
	if !strings.Contains(kvp.get("HostExchangeItems"), "<VALUE>c</VALUE>") {
		t.Fatalf("%v", kvp.Vals)
	}
	c.do(sim, vmms, "RemoveKvpItems", arg{"TargetSystem", system(id)}, arg{"DataItems", item("")})
	for _, f := range sim.Machines() {
		if len(f.KVP) != 0 {
			t.Fatalf("%+v", f)
		}
	}
}

func TestClientCertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	make := func() ([]byte, *x509.Certificate) {
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return der, c
	}
	der, cert := make()
	other, _ := make()
	sim := start(t, hvsim.Config{ClientCertificate: cert})
	for _, k := range []struct {
		der    []byte
		status int
	}{{der, 200}, {other, 401}, {nil, 401}} {
		cfg := &tls.Config{RootCAs: sim.CertPool()}
		if k.der != nil {
			cfg.Certificates = []tls.Certificate{{Certificate: [][]byte{k.der}, PrivateKey: key}}
		}
		tr := &http.Transport{TLSClientConfig: cfg}
		req, err := http.NewRequest("POST", sim.Host(0).URL(), strings.NewReader(identify))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/soap+xml;charset=UTF-8")
		req.Header.Set("Authorization", "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual")
		r, err := (&http.Client{Transport: tr}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		tr.CloseIdleConnections()
		if r.StatusCode != k.status {
			t.Errorf("%d, want %d", r.StatusCode, k.status)
		}
	}
}

func TestSetFromOutside(t *testing.T) {
	sim := start(t, hvsim.Config{})
	c := dial(t, sim, 0)
	ids, err := sim.Host(0).Add(hvsim.Machine{Name: "vm", Running: true})
	if err != nil {
		t.Fatal(err)
	}
	last := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	if err := sim.SetReplication(ids[0], hvsim.Replication{State: 4, Health: 2, Mode: 1, Last: last}); err != nil {
		t.Fatal(err)
	}
	if err := sim.SetHealth(ids[0], 25); err != nil {
		t.Fatal(err)
	}
	o, err := c.get(system(ids[0]))
	if err != nil || o.get("ReplicationState") != "4" || o.get("ReplicationHealth") != "2" || o.get("ReplicationMode") != "1" || o.get("LastReplicationTime") != "2026-11-23T12:00:00Z" {
		t.Fatalf("%v %v", err, o.Vals)
	}
	if o.get("HealthState") != "25" || o.get("EnabledState") != "9" || o.get("OperationalStatus") != "3" {
		t.Fatalf("%v", o.Vals)
	}
	c.power(sim, ids[0], 2)
	if sim.SetHealth("nobody", 5) == nil || sim.SetReplication("nobody", hvsim.Replication{}) == nil {
		t.Fatal("a machine that is not there is changed")
	}
}
