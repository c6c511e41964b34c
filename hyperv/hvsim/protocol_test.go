package hvsim_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
)

const bindingNS = "http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd"

func TestEnumerationForms(t *testing.T) {
	sim := start(t, hvsim.Config{})
	c := dial(t, sim, 0)
	ids, err := sim.Host(0).Add(hvsim.Machine{Name: "a"}, hvsim.Machine{Name: "b"}, hvsim.Machine{Name: "c"})
	if err != nil {
		t.Fatal(err)
	}
	uri := wmiNS + virtNS + "/Msvm_VirtualSystemSettingData"
	enum := func(uri, inner string) *elem {
		t.Helper()
		b, err := c.soap(uri, enumNS+"/Enumerate", "", "<n:Enumerate>"+inner+"</n:Enumerate>")
		if err != nil {
			t.Fatal(err)
		}
		return b.find("EnumerateResponse")
	}
	pull := func(ctx string, n int) (*elem, error) {
		b, err := c.soap(uri, enumNS+"/Pull", "", fmt.Sprintf(`<n:Pull><n:EnumerationContext>%s</n:EnumerationContext><n:MaxElements>%d</n:MaxElements></n:Pull>`, ctx, n))
		if err != nil {
			return nil, err
		}
		return b.find("PullResponse"), nil
	}
	// Without OptimizeEnumeration the first reply has no items; contexts are good for one pull.
	r := enum(uri, "")
	ctx := r.find("EnumerationContext").Text
	if r.find("Items") != nil {
		t.Fatal("items in a plain reply")
	}
	p, err := pull(ctx, 2)
	if err != nil || len(p.find("Items").Kids) != 2 || p.find("EndOfSequence") != nil {
		t.Fatalf("%v", err)
	}
	if _, err := pull(ctx, 2); err == nil {
		t.Fatal("a used context is taken")
	}
	if p, err = pull(p.find("EnumerationContext").Text, 2); err != nil || len(p.find("Items").Kids) != 1 || p.find("EndOfSequence") == nil {
		t.Fatalf("%v", err)
	}
	// Release.
	ctx = enum(uri, "").find("EnumerationContext").Text
	if _, err := c.soap(uri, enumNS+"/Release", "", "<n:Release><n:EnumerationContext>"+ctx+"</n:EnumerationContext></n:Release>"); err != nil {
		t.Fatal(err)
	}
	if _, err := pull(ctx, 1); err == nil {
		t.Fatal("a released context is taken")
	}
	// Endpoint references, as libvirt asks for them.
	r = enum(uri, "<w:EnumerationMode>EnumerateEPR</w:EnumerationMode><w:OptimizeEnumeration/><w:MaxElements>9</w:MaxElements>")
	if l := r.find("Items").Kids; len(l) != 3 || l[0].find("ReferenceParameters", "ResourceURI").Text != uri {
		t.Fatalf("%v", r.find("Items"))
	}
	r = enum(uri, "<w:EnumerationMode>EnumerateObjectAndEPR</w:EnumerationMode><w:OptimizeEnumeration/><w:MaxElements>9</w:MaxElements>")
	if l := r.find("Items").Kids; len(l) != 3 || len(l[0].Kids) != 2 {
		t.Fatalf("%v", r.find("Items"))
	}
	// Filters by selector and by association.
	r = enum(uri, `<w:OptimizeEnumeration/><w:MaxElements>9</w:MaxElements><w:Filter Dialect="http://schemas.dmtf.org/wbem/wsman/1/wsman/SelectorFilter"><w:SelectorSet><w:Selector Name="ElementName">b</w:Selector></w:SelectorSet></w:Filter>`)
	if l := r.find("Items").Kids; len(l) != 1 || toObj(l[0]).get("VirtualSystemIdentifier") != ids[1] {
		t.Fatalf("%v", r.find("Items"))
	}
	assoc := func(inner string) *elem {
		return enum(wmiNS+virtNS+"/*", `<w:OptimizeEnumeration/><w:MaxElements>99</w:MaxElements><w:Filter Dialect="http://schemas.dmtf.org/wbem/wsman/1/cimbinding/associationFilter">`+inner+`</w:Filter>`)
	}
	r = assoc(`<b:AssociatedInstances xmlns:b="` + bindingNS + `"><b:Object>` + system(ids[0]).epr() + `</b:Object><b:AssociationClassName>Msvm_SettingsDefineState</b:AssociationClassName><b:ResultClassName>CIM_SettingData</b:ResultClassName></b:AssociatedInstances>`)
	if l := r.find("Items").Kids; len(l) != 1 || toObj(l[0]).get("InstanceID") != "Microsoft:"+ids[0] {
		t.Fatalf("%v", r.find("Items"))
	}
	r = assoc(`<b:AssociationInstances xmlns:b="` + bindingNS + `"><b:Object>` + system(ids[0]).epr() + `</b:Object><b:ResultClassName>Msvm_SettingsDefineState</b:ResultClassName></b:AssociationInstances>`)
	if l := r.find("Items").Kids; len(l) != 1 || toObj(l[0]).Refs["SettingData"].Keys[0][1] != "Microsoft:"+ids[0] {
		t.Fatalf("%v", r.find("Items"))
	}
	if l := c.query("SELECT * FROM Msvm_SettingsDefineState"); len(l) != 4 { // with the switch
		t.Fatalf("%d", len(l))
	}
	refuse := func(uri, inner, sub string) {
		t.Helper()
		_, err := c.soap(uri, enumNS+"/Enumerate", "", "<n:Enumerate>"+inner+"</n:Enumerate>")
		wantFault(t, err, sub, "")
	}
	refuse(wmiNS+virtNS+"/*", "", "n:CannotProcessFilter")
	refuse(uri, `<w:Filter Dialect="http://schemas.microsoft.com/wbem/wsman/1/WQL">SELECT * FROM Msvm_ComputerSystem</w:Filter>`, "n:CannotProcessFilter")
	refuse(uri, `<w:Filter Dialect="http://example.test/x">y</w:Filter>`, "n:FilterDialectRequestedUnavailable")
	refuse(uri, `<w:EnumerationMode>Nope</w:EnumerationMode>`, "w:UnsupportedFeature")
	refuse("http://example.test/x", "", "a:DestinationUnreachable")
}

func TestEnvelopeRules(t *testing.T) {
	sim := start(t, hvsim.Config{MaxEnvelopeKB: 64})
	c := dial(t, sim, 0)
	head := func(extra string) string {
		return `<s:Envelope xmlns:s="` + soapNS + `" xmlns:a="` + addrNS + `" xmlns:w="` + wsmNS + `"><s:Header><w:ResourceURI>` + wmiNS + virtNS + `/Msvm_VirtualSystemManagementService</w:ResourceURI><a:Action>` + xferNS + `/Get</a:Action>` + extra + `</s:Header><s:Body/></s:Envelope>`
	}
	if b, err := c.post(head("")); err != nil || b.find("Msvm_VirtualSystemManagementService", "Name").Text != "vmms" {
		t.Fatal(err) // a singleton needs no selectors
	}
	_, err := c.post(head(`<w:MaxEnvelopeSize>100</w:MaxEnvelopeSize>`))
	wantFault(t, err, "w:EncodingLimit", "")
	_, err = c.post(head(`<x:Strange xmlns:x="x" s:mustUnderstand="true"/>`))
	wantFault(t, err, "s:MustUnderstand", "")
	_, err = c.post(head(strings.Repeat("<!-- much -->", 6000)))
	wantFault(t, err, "w:EncodingLimit", "")
	_, err = c.post("<s:Envelope")
	wantFault(t, err, "w:SchemaValidationError", "")
	_, err = c.soap(wmiNS+virtNS+"/Msvm_ComputerSystem", "http://example.test/Strange", "", "")
	wantFault(t, err, "a:ActionNotSupported", "")
	b, err := c.post(`<s:Envelope xmlns:s="` + soapNS + `" xmlns:i="http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd"><s:Header/><s:Body><i:Identify/></s:Body></s:Envelope>`)
	if err != nil || b.find("IdentifyResponse", "ProductVendor").Text != "Microsoft Corporation" {
		t.Fatal(err)
	}
	for _, k := range []struct {
		method, ctype string
		status        int
	}{{"GET", "application/soap+xml", 405}, {"POST", "text/xml", 415}} {
		req, err := http.NewRequest(k.method, c.url, strings.NewReader(head("")))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", k.ctype)
		req.SetBasicAuth(c.user, c.pass)
		r, err := c.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		r.Body.Close()
		if r.StatusCode != k.status {
			t.Errorf("%+v: %d", k, r.StatusCode)
		}
	}
	sim.Inject(hvsim.Fault{Op: "HTTP", Status: 503})
	if _, err := c.post(head("")); err == nil || err.Error() != "HTTP 503" {
		t.Fatal(err)
	}
	// GetSummaryInformation of too many machines does not fit into one envelope: clients must ask in portions.
	l := make([]hvsim.Machine, 200)
	for n := range l {
		l[n].Name = fmt.Sprint("vm", n)
	}
	if _, err := sim.Host(0).Add(l...); err != nil {
		t.Fatal(err)
	}
	_, err = c.call(c.service("Msvm_VirtualSystemManagementService"), "GetSummaryInformation", arg{"RequestedInformation", []string{"0", "1"}})
	wantFault(t, err, "w:EncodingLimit", "")
}

func TestFaultBetweenPages(t *testing.T) {
	sim := start(t, hvsim.Config{})
	l := make([]hvsim.Machine, 150)
	for n := range l {
		l[n].Name = fmt.Sprint("vm", n)
	}
	if _, err := sim.Host(0).Add(l...); err != nil {
		t.Fatal(err)
	}
	c := dial(t, sim, 0)
	sim.Inject(hvsim.Fault{Op: "Pull", HRESULT: 0x800706BA})
	got, err := c.queryNS(virtNS, "SELECT * FROM Msvm_VirtualSystemSettingData")
	wantFault(t, err, "w:InternalError", cimFailed)
	if len(got) == 0 || len(got) == 150 {
		t.Fatalf("%d before the fault", len(got))
	}
	remove := sim.Inject(hvsim.Fault{Host: "HV01", HRESULT: 0x80041003, Times: -1})
	for range 3 {
		_, err = c.queryNS(virtNS, "SELECT * FROM Msvm_ComputerSystem")
		wantFault(t, err, "w:AccessDenied", cimDenied)
	}
	remove()
	c.query("SELECT * FROM Msvm_ComputerSystem")
}
