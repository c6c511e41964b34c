package hvsim_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
)

func wantFault(t *testing.T, err error, sub, hr string) {
	t.Helper()
	var f *soapFault
	if !errors.As(err, &f) {
		t.Fatalf("got %v, want a fault %s", err, sub)
	}
	if f.Sub != sub || hr != "" && f.HRESULT != hr {
		t.Fatalf("got %v, want %s with %s", f, sub, hr)
	}
}

const (
	hrNotFound     = "2147749890" // 0x80041002
	hrNamespace    = "2147749902" // 0x8004100E
	hrClass        = "2147749904" // 0x80041010
	hrQuery        = "2147749911" // 0x80041017
	hrMethod       = "2147749934" // 0x8004102E
	hrType         = "2147749893" // 0x80041005
	hrUnsimulated  = "2147749973" // 0x80041055
	hrAccessDenied = "2147749891" // 0x80041003
)

func TestDefinePowerDestroy(t *testing.T) {
	sim := start(t, hvsim.Config{})
	c := dial(t, sim, 0)
	hostile := `a<b>&'"]]>%_[x]\end` + "\t"
	id := c.define(sim, hostile, 2)
	sd := c.one(`SELECT * FROM Msvm_VirtualSystemSettingData WHERE ElementName = '` + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(hostile) + `'`)
	if sd.get("VirtualSystemIdentifier") != id || sd.get("VirtualSystemType") != "Microsoft:Hyper-V:System:Realized" || sd.get("ElementName") != hostile {
		t.Fatalf("%v", sd.Vals)
	}
	if s := c.state(id); s != "3" {
		t.Fatalf("state %s", s)
	}
	o := c.rv("4096", system(id), "RequestStateChange", arg{"RequestedState", 2})
	if s := c.state(id); s != "10" && s != "2" {
		t.Fatalf("state %s while starting", s)
	}
	if j := c.wait(sim, o.Refs["Job"]); j.get("JobState") != "7" || j.get("PercentComplete") != "100" || j.get("JobType") != "12" {
		t.Fatalf("%v", j.Vals)
	}
	if s := c.state(id); s != "2" {
		t.Fatalf("state %s", s)
	}
	c.rv("32775", system(id), "RequestStateChange", arg{"RequestedState", 2})
	vmms := c.service("Msvm_VirtualSystemManagementService")
	c.rv("32775", vmms, "DestroySystem", arg{"AffectedSystem", system(id)})
	c.one("SELECT * FROM Msvm_ShutdownComponent WHERE SystemName = '" + id + "'")
	c.power(sim, id, 3)
	if l := c.query("SELECT * FROM Msvm_ShutdownComponent"); len(l) != 0 {
		t.Fatalf("a machine that is off has %d shutdown components", len(l))
	}
	c.do(sim, vmms, "DestroySystem", arg{"AffectedSystem", system(id)})
	if _, err := c.get(system(id)); err == nil {
		t.Fatal("the machine is still there")
	}
	if l := c.query("SELECT * FROM CIM_ResourceAllocationSettingData WHERE InstanceID LIKE 'Microsoft:" + id + "%'"); len(l) != 0 {
		t.Fatalf("%d settings are left", len(l))
	}
}

func TestRefusals(t *testing.T) {
	sim := start(t, hvsim.Config{Hosts: []hvsim.HostConfig{{}, {NoHyperV: true}}})
	c := dial(t, sim, 0)
	id := c.define(sim, "vm", 1)
	q := func(s string) error { _, err := c.queryNS(virtNS, s); return err }
	wantFault(t, q("SELECT * FROM Msvm_Nothing"), "a:DestinationUnreachable", hrClass)
	wantFault(t, q("SELECT Nope FROM Msvm_ComputerSystem"), "w:CannotProcessFilter", hrQuery)
	wantFault(t, q("SELECT * FROM Msvm_ComputerSystem WHERE Nope = 1"), "w:CannotProcessFilter", hrQuery)
	wantFault(t, q("SELECT * FROM Msvm_ComputerSystem WHERE EnabledState = 'on'"), "w:CannotProcessFilter", hrQuery)
	wantFault(t, q("SELECT * FROM Msvm_ComputerSystem WHERE Name = 'a'b'"), "w:CannotProcessFilter", hrQuery)
	wantFault(t, q("SELECT * FROM Msvm_ComputerSystem ORDER BY Name"), "w:CannotProcessFilter", hrQuery)
	wantFault(t, q("SELECT * FROM Msvm_ComputerSystem WHERE OperationalStatus = 2"), "w:CannotProcessFilter", hrQuery)
	_, err := c.get(system("4F1D0CE0-0000-4000-8000-00000000FFFF"))
	wantFault(t, err, "a:DestinationUnreachable", hrNotFound)
	_, err = c.get(ref{"Msvm_ComputerSystem", [][2]string{{"Name", id}}})
	wantFault(t, err, "w:InvalidSelectors", "")
	_, err = c.call(system(id), "NoSuchMethod")
	wantFault(t, err, "a:ActionNotSupported", hrMethod)
	_, err = c.call(system(id), "RequestStateChange", arg{"Wrong", 2})
	wantFault(t, err, "w:SchemaValidationError", "")
	_, err = c.call(system(id), "RequestStateChange", arg{"RequestedState", "running"})
	wantFault(t, err, "w:InvalidParameter", hrType)
	_, err = c.call(system(id), "RequestStateChange", arg{"RequestedState", 70000})
	wantFault(t, err, "w:InvalidParameter", hrType)
	_, err = c.call(system(id), "InjectNonMaskableInterrupt")
	wantFault(t, err, "w:InternalError", hrUnsimulated)
	c.rv("32773", system(id), "RequestStateChange", arg{"RequestedState", 77})
	vmms := c.service("Msvm_VirtualSystemManagementService")
	c.rv("32773", vmms, "DestroySystem", arg{"AffectedSystem", byID("Msvm_VirtualSystemSettingData", "Microsoft:"+id)})
	_, err = c.call(vmms, "DestroySystem", arg{"AffectedSystem", byID("Msvm_Nothing", "x")})
	wantFault(t, err, "a:DestinationUnreachable", hrClass)
	for _, bad := range []string{
		emb("Msvm_Nothing"), emb("Msvm_VirtualSystemSettingData", "Nope", "x"), emb("Msvm_VirtualSystemSettingData", "ElementName:uint16", "1"),
		emb("Msvm_VirtualSystemSettingData", "Notes", "not an array"), emb("Msvm_VirtualSystemSettingData", "LowMmioGapSize:uint64", "-1"), "<INSTANCE", emb("Msvm_MemorySettingData"),
		emb("Msvm_VirtualSystemSettingData", "VirtualSystemSubType", "Microsoft:Hyper-V:SubType:3"),
	} {
		if o := c.rv("32773", vmms, "DefineSystem", arg{"SystemSettings", bad}); len(o.Refs) != 0 {
			t.Fatalf("%s: %v", bad, o.Refs)
		}
	}
	if l := c.query("SELECT Name FROM Msvm_ComputerSystem WHERE Caption = 'Virtual Machine'"); len(l) != 1 || l[0].Class != "XmlFragment" {
		t.Fatalf("%d machines after refused definitions", len(l))
	}
	_, err = dial(t, sim, 1).queryNS(virtNS, "SELECT * FROM Msvm_ComputerSystem")
	wantFault(t, err, "a:DestinationUnreachable", hrNamespace)
}

func TestLogin(t *testing.T) {
	sim := start(t, hvsim.Config{})
	c := dial(t, sim, 0)
	c.pass = "wrong"
	if _, err := c.queryNS(virtNS, "SELECT * FROM Msvm_ComputerSystem"); err == nil || err.Error() != "HTTP 401" {
		t.Fatal(err)
	}
	c.pass, c.url = hvsim.DefaultPassword, sim.Host(0).HTTPURL()
	if _, err := c.queryNS(virtNS, "SELECT * FROM Msvm_ComputerSystem"); err == nil || err.Error() != "HTTP 401" {
		t.Fatalf("Basic over plain HTTP: %v", err)
	}
	r, err := c.http.Get(sim.Host(0).URL())
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusUnauthorized || !strings.Contains(strings.Join(r.Header.Values("WWW-Authenticate"), " "), "Basic") {
		t.Fatalf("%v", r.Header)
	}
}

func TestPagesAndEnvelope(t *testing.T) {
	sim := start(t, hvsim.Config{MaxEnvelopeKB: 64})
	c := dial(t, sim, 0)
	for n := range 40 {
		c.define(sim, fmt.Sprint("vm", n), 2)
	}
	sim.ResetCalls()
	if l := c.query("SELECT * FROM Msvm_VirtualSystemSettingData"); len(l) != 40 {
		t.Fatalf("%d", len(l))
	}
	if n := sim.Calls(); n["HTTP Pull"] < 2 || n["Query Msvm_VirtualSystemSettingData"] != 1 {
		t.Fatalf("a page may not be larger than the envelope: %v", n)
	}
	if _, err := c.soap(wmiNS+virtNS+"/*", enumNS+"/Pull", "", `<n:Pull><n:EnumerationContext>uuid:none</n:EnumerationContext></n:Pull>`); err == nil {
		t.Fatal("a context that never was is taken")
	} else {
		wantFault(t, err, "n:InvalidEnumerationContext", "")
	}
	remove := sim.Inject(hvsim.Fault{Op: "Pull", Drop: true})
	if _, err := c.queryNS(virtNS, "SELECT * FROM Msvm_VirtualSystemSettingData"); err == nil {
		t.Fatal("the connection did not drop")
	}
	remove()
	sim.Inject(hvsim.Fault{Op: "Query", Target: "Msvm_*", HRESULT: 0x80041003})
	_, err := c.queryNS(virtNS, "SELECT * FROM Msvm_ComputerSystem")
	wantFault(t, err, "w:AccessDenied", hrAccessDenied)
	c.query("SELECT * FROM Msvm_ComputerSystem")
}
