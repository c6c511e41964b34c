package hvsim_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
)

func wantFault(t *testing.T, err error, sub, cim string) {
	t.Helper()
	var f *soapFault
	if !errors.As(err, &f) {
		t.Fatalf("got %v, want a fault %s", err, sub)
	}
	if f.Sub != sub || cim != "" && f.CIM != cim {
		t.Fatalf("got %v, want %s with %s", f, sub, cim)
	}
}

// Status codes of CIM (DSP0200).
const (
	cimFailed      = "1"
	cimDenied      = "2"
	cimNamespace   = "3"
	cimClass       = "5"
	cimType        = "13"
	cimQuery       = "15"
	cimMethod      = "17"
	cimQuota       = "27"
	codeNoResource = "2150858752"
	codeNoFilter   = "2150858778"
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
	wantFault(t, q("SELECT * FROM Msvm_Nothing"), "n:CannotProcessFilter", cimClass)
	wantFault(t, q("SELECT Nope FROM Msvm_ComputerSystem"), "n:CannotProcessFilter", cimQuery)
	wantFault(t, q("SELECT * FROM Msvm_ComputerSystem WHERE Nope = 1"), "n:CannotProcessFilter", cimQuery)
	wantFault(t, q("SELECT * FROM Msvm_ComputerSystem WHERE EnabledState = 'on'"), "n:CannotProcessFilter", cimQuery)
	wantFault(t, q("SELECT * FROM Msvm_ComputerSystem WHERE Name = 'a'b'"), "n:CannotProcessFilter", cimQuery)
	wantFault(t, q("SELECT * FROM Msvm_ComputerSystem ORDER BY Name"), "n:CannotProcessFilter", cimQuery)
	wantFault(t, q("SELECT * FROM Msvm_ComputerSystem WHERE OperationalStatus = 2"), "n:CannotProcessFilter", cimQuery)
	_, err := c.get(system("4F1D0CE0-0000-4000-8000-00000000FFFF"))
	wantFault(t, err, "a:DestinationUnreachable", "nil")
	_, err = c.get(ref{"Msvm_ComputerSystem", [][2]string{{"Name", id}}})
	wantFault(t, err, "w:InvalidSelectors", "")
	_, err = c.call(system(id), "NoSuchMethod")
	wantFault(t, err, "a:ActionNotSupported", cimMethod)
	_, err = c.call(system(id), "RequestStateChange", arg{"Wrong", 2})
	wantFault(t, err, "w:SchemaValidationError", "")
	_, err = c.call(system(id), "RequestStateChange", arg{"RequestedState", "running"})
	wantFault(t, err, "w:InvalidParameter", cimType)
	_, err = c.call(system(id), "RequestStateChange", arg{"RequestedState", 70000})
	wantFault(t, err, "w:InvalidParameter", cimType)
	_, err = c.call(system(id), "InjectNonMaskableInterrupt")
	wantFault(t, err, "w:InternalError", cimFailed)
	c.rv("32773", system(id), "RequestStateChange", arg{"RequestedState", 77})
	vmms := c.service("Msvm_VirtualSystemManagementService")
	c.rv("32773", vmms, "DestroySystem", arg{"AffectedSystem", byID("Msvm_VirtualSystemSettingData", "Microsoft:"+id)})
	_, err = c.call(vmms, "DestroySystem", arg{"AffectedSystem", byID("Msvm_Nothing", "x")})
	wantFault(t, err, "a:DestinationUnreachable", cimClass)
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
	wantFault(t, err, "n:CannotProcessFilter", cimNamespace)
}

func TestLogin(t *testing.T) {
	sim := start(t, hvsim.Config{})
	c := dial(t, sim, 0)
	c.pass = "wrong"
	if _, err := c.queryNS(virtNS, "SELECT * FROM Msvm_ComputerSystem"); err == nil || err.Error() != "HTTP 401" {
		t.Fatal(err)
	}
	c.pass, c.url = sim.Password(), sim.Host(0).HTTPURL()
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
	sim := start(t, hvsim.Config{MaxEnvelopeKB: 48})
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
	wantFault(t, err, "w:AccessDenied", cimDenied)
	c.query("SELECT * FROM Msvm_ComputerSystem")
}

// TestFaultForms: what WMI refuses comes as WinRM 3.0 says it, or as WinRM 2.0 did.
func TestFaultForms(t *testing.T) {
	for _, old := range []bool{false, true} {
		sim := start(t, hvsim.Config{Hosts: []hvsim.HostConfig{{}, {NoHyperV: true}}, OldFaults: old})
		c := dial(t, sim, 0)
		check := func(what string, err error, sub, code, cim string) {
			t.Helper()
			if old {
				cim = "nil"
				if sub == "w:AccessDenied" {
					code, cim = "5", ""
				}
			}
			var f *soapFault
			if !errors.As(err, &f) || f.Sub != sub || f.Code != code || f.CIM != cim {
				t.Errorf("old %v, %s: %v", old, what, err)
			}
		}
		q := func(c *client, s string) error { _, err := c.queryNS(virtNS, s); return err }
		check("class, by WQL", q(c, "SELECT * FROM Msvm_Nothing"), "n:CannotProcessFilter", codeNoFilter, cimClass)
		check("query", q(c, "SELECT Nope FROM Msvm_ComputerSystem"), "n:CannotProcessFilter", codeNoFilter, cimQuery)
		check("namespace, by WQL", q(dial(t, sim, 1), "SELECT * FROM Msvm_ComputerSystem"), "n:CannotProcessFilter", codeNoFilter, cimNamespace)
		_, err := c.get(byID("Msvm_Nothing", "x"))
		check("class", err, "a:DestinationUnreachable", codeNoResource, cimClass)
		_, err = c.get(system("4F1D0CE0-0000-4000-8000-00000000FFFF"))
		check("instance", err, "a:DestinationUnreachable", codeNoResource, "nil")
		sim.Inject(hvsim.Fault{HRESULT: 0x80041003})
		check("access", q(c, "SELECT * FROM Msvm_ComputerSystem"), "w:AccessDenied", "2147942405", cimDenied)
		sim.Inject(hvsim.Fault{HRESULT: 0x80041048})
		check("quota", q(c, "SELECT * FROM Msvm_ComputerSystem"), "w:QuotaLimit", "2150859173", cimQuota)
	}
}

// TestReferencesInEmbedded: a host takes numeric references in the values of embedded instances, and not all named ones.
func TestReferencesInEmbedded(t *testing.T) {
	sim := start(t, hvsim.Config{})
	c := dial(t, sim, 0)
	id := c.define(sim, "vm", 2)
	vmms := c.service("Msvm_VirtualSystemManagementService")
	for value, rv := range map[string]string{"a&amp;b": "32768", "a&lt;b": "32773", "a&#38;b": "0", "a&#60;b": "0", "a&gt;b": "0", "a&#34;b": "0"} {
		text := `<INSTANCE CLASSNAME="Msvm_VirtualSystemSettingData"><PROPERTY NAME="InstanceID" TYPE="string"><VALUE>Microsoft:` + id +
			`</VALUE></PROPERTY><PROPERTY NAME="ElementName" TYPE="string"><VALUE>` + value + `</VALUE></PROPERTY></INSTANCE>`
		if o, err := c.call(vmms, "ModifySystemSettings", arg{"SystemSettings", text}); err != nil || o.get("ReturnValue") != rv {
			t.Errorf("%s: %v, %v", value, o, err)
		}
	}
}

// TestRandomPassword: each simulator has a password of its own, accepts no other one, and answers nothing without it.
func TestRandomPassword(t *testing.T) {
	a, b := start(t, hvsim.Config{}), start(t, hvsim.Config{})
	if len(a.Password()) < 20 || a.Password() == b.Password() {
		t.Errorf("passwords %q and %q", a.Password(), b.Password())
	}
	for _, word := range []string{b.Password(), "Passw0rd!", ""} {
		c := dial(t, a, 0)
		c.pass = word
		if _, err := c.post("<x/>"); err == nil || err.Error() != "HTTP 401" {
			t.Errorf("the password %q: %v", word, err)
		}
	}
	for _, path := range []string{"/wsman", "/wsman/", "/wsman/SubscriptionManager/WEC", "/", "/wsman-anon/identify"} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			rq, err := http.NewRequest(method, strings.TrimSuffix(a.Host(0).URL(), "/wsman")+path, strings.NewReader("<x/>"))
			if err != nil {
				t.Fatal(err)
			}
			rs, err := dial(t, a, 0).http.Do(rq)
			if err != nil {
				t.Fatal(err)
			}
			rs.Body.Close()
			if rs.StatusCode != http.StatusUnauthorized && rs.StatusCode != http.StatusNotFound {
				t.Errorf("%s %s without a login: %d", method, path, rs.StatusCode)
			}
		}
	}
}
