package hvsim_test

import (
	"bytes"
	"crypto/tls"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
)

// A raw WS-Management client: text templates and a generic XML tree, so that it shares nothing with server or driver.

const (
	soapNS = "http://www.w3.org/2003/05/soap-envelope"
	addrNS = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
	wsmNS  = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
	enumNS = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
	xferNS = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
	wmiNS  = "http://schemas.microsoft.com/wbem/wsman/1/wmi/"
	virtNS = "root/virtualization/v2"
)

type elem struct {
	Name  xml.Name
	Attrs []xml.Attr
	Kids  []*elem
	Text  string
}

func parseXML(t testing.TB, b []byte) *elem {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(b))
	root := &elem{}
	stack := []*elem{root}
	for {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("reply is no XML: %v\n%s", err, b)
		}
		top := stack[len(stack)-1]
		switch x := tok.(type) {
		case xml.StartElement:
			e := &elem{Name: x.Name, Attrs: x.Attr}
			top.Kids = append(top.Kids, e)
			stack = append(stack, e)
		case xml.EndElement:
			stack = stack[:len(stack)-1]
		case xml.CharData:
			top.Text += string(x)
		}
	}
	return root.Kids[0]
}

func (e *elem) find(path ...string) *elem {
	for _, p := range path {
		if e == nil {
			return nil
		}
		var next *elem
		for _, k := range e.Kids {
			if k.Name.Local == p {
				next = k
				break
			}
		}
		e = next
	}
	return e
}

func (e *elem) attr(name string) string {
	for _, a := range e.Attrs {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

func esc(s string) string {
	var b strings.Builder
	if err := xml.EscapeText(&b, []byte(s)); err != nil {
		panic(err)
	}
	return b.String()
}

// soapFault is what a request was refused with. CIM is WMI's status code, "nil" in a form that has none.
type soapFault struct{ Sub, Code, CIM, Text string }

func (f *soapFault) Error() string {
	return fmt.Sprintf("%s code=%s cim=%s %s", f.Sub, f.Code, f.CIM, f.Text)
}

type client struct {
	t    testing.TB
	url  string
	http *http.Client
	user string
	pass string
}

func dial(t testing.TB, sim *hvsim.Sim, host int) *client {
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: sim.CertPool()}}
	t.Cleanup(tr.CloseIdleConnections)
	return &client{t: t, url: sim.Host(host).URL(), http: &http.Client{Transport: tr}, user: "Administrator", pass: sim.Password()}
}

func start(t testing.TB, cfg hvsim.Config) *hvsim.Sim {
	t.Helper()
	sim, err := hvsim.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	return sim
}

func (c *client) soap(uri, action, selectors, body string) (*elem, error) {
	if selectors != "" {
		selectors = "<w:SelectorSet>" + selectors + "</w:SelectorSet>"
	}
	env := `<s:Envelope xmlns:s="` + soapNS + `" xmlns:a="` + addrNS + `" xmlns:w="` + wsmNS + `" xmlns:n="` + enumNS + `"><s:Header><a:To>` + c.url +
		`</a:To><w:ResourceURI s:mustUnderstand="true">` + esc(uri) + `</w:ResourceURI><a:ReplyTo><a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address></a:ReplyTo><a:Action s:mustUnderstand="true">` +
		esc(action) + `</a:Action><w:MaxEnvelopeSize>512000</w:MaxEnvelopeSize><a:MessageID>uuid:1</a:MessageID>` + selectors + `</s:Header><s:Body>` + body + `</s:Body></s:Envelope>`
	return c.post(env)
}

func (c *client) post(env string) (*elem, error) {
	req, err := http.NewRequest("POST", c.url, strings.NewReader(env))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/soap+xml;charset=UTF-8")
	req.SetBasicAuth(c.user, c.pass)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if len(b) == 0 {
		return nil, fmt.Errorf("HTTP %d", resp.StatusCode)
	}
	body := parseXML(c.t, b).find("Body")
	if f := body.find("Fault"); f != nil {
		out := &soapFault{Sub: f.find("Code", "Subcode", "Value").Text}
		if w := f.find("Detail", "WSManFault"); w != nil {
			out.Code = w.attr("Code")
			if p := w.find("Message", "ProviderFault", "WSManFault"); p != nil {
				out.CIM, out.Text = "nil", p.find("Message").Text
			}
		}
		if e := f.find("Detail", "MSFT_WmiError"); e != nil {
			out.Code, out.CIM, out.Text = e.find("error_Code").Text, e.find("CIMStatusCode").Text, e.find("Message").Text
		}
		return nil, out
	}
	return body, nil
}

// obj is an instance: text of each property (repeated elements collected), references as selectors.
type obj struct {
	Class string
	Vals  map[string][]string
	Refs  map[string]ref
}

type ref struct {
	Class string
	Keys  [][2]string
}

func (o *obj) get(n string) string {
	if v := o.Vals[n]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func (r ref) selectors() string {
	s := `<w:Selector Name="__cimnamespace">` + virtNS + `</w:Selector>`
	for _, k := range r.Keys {
		s += `<w:Selector Name="` + k[0] + `">` + esc(k[1]) + `</w:Selector>`
	}
	return s
}

func (r ref) epr() string {
	return `<a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address><a:ReferenceParameters><w:ResourceURI>` + wmiNS + virtNS + `/` + r.Class +
		`</w:ResourceURI><w:SelectorSet>` + r.selectors() + `</w:SelectorSet></a:ReferenceParameters>`
}

func (r ref) path() string {
	s := r.Class + "."
	for n, k := range r.Keys {
		if n > 0 {
			s += ","
		}
		s += k[0] + `="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(k[1]) + `"`
	}
	return s
}

func toObj(e *elem) *obj {
	o := &obj{Class: e.Name.Local, Vals: map[string][]string{}, Refs: map[string]ref{}}
	for _, k := range e.Kids {
		if k.attr("nil") == "true" {
			continue
		}
		if p := k.find("ReferenceParameters"); p != nil {
			u := p.find("ResourceURI").Text
			r := ref{Class: u[strings.LastIndex(u, "/")+1:]}
			for _, s := range p.find("SelectorSet").Kids {
				if n := s.attr("Name"); n != "__cimnamespace" {
					r.Keys = append(r.Keys, [2]string{n, s.Text})
				}
			}
			o.Refs[k.Name.Local] = r
			o.Vals[k.Name.Local] = append(o.Vals[k.Name.Local], r.path())
			continue
		}
		v := k.Text
		if len(k.Kids) > 0 {
			v = k.Kids[0].Text
		}
		o.Vals[k.Name.Local] = append(o.Vals[k.Name.Local], v)
	}
	return o
}

// query runs WQL in a namespace and pulls to the end.
func (c *client) queryNS(ns, wql string) ([]*obj, error) {
	uri := wmiNS + ns + "/*"
	b, err := c.soap(uri, enumNS+"/Enumerate", "", `<n:Enumerate><w:OptimizeEnumeration/><w:MaxElements>100</w:MaxElements><w:Filter Dialect="http://schemas.microsoft.com/wbem/wsman/1/WQL">`+esc(wql)+`</w:Filter></n:Enumerate>`)
	if err != nil {
		return nil, err
	}
	r := b.find("EnumerateResponse")
	var out []*obj
	for {
		for _, k := range r.find("Items").Kids {
			out = append(out, toObj(k))
		}
		if r.find("EndOfSequence") != nil {
			return out, nil
		}
		b, err = c.soap(uri, enumNS+"/Pull", "", `<n:Pull><n:EnumerationContext>`+r.find("EnumerationContext").Text+`</n:EnumerationContext><n:MaxElements>100</n:MaxElements></n:Pull>`)
		if err != nil {
			return out, err
		}
		r = b.find("PullResponse")
	}
}

func (c *client) query(wql string) []*obj {
	c.t.Helper()
	l, err := c.queryNS(virtNS, wql)
	if err != nil {
		c.t.Fatalf("%s: %v", wql, err)
	}
	return l
}

// one runs a query that must give exactly one object.
func (c *client) one(wql string) *obj {
	c.t.Helper()
	l := c.query(wql)
	if len(l) != 1 {
		c.t.Fatalf("%s: %d objects", wql, len(l))
	}
	return l[0]
}

func (c *client) get(r ref) (*obj, error) {
	b, err := c.soap(wmiNS+virtNS+"/"+r.Class, xferNS+"/Get", r.selectors(), "")
	if err != nil {
		return nil, err
	}
	return toObj(b.Kids[0]), nil
}

// arg is a parameter: string, []string, ref or []ref.
type arg struct {
	name string
	val  any
}

func (c *client) call(r ref, method string, args ...arg) (*obj, error) {
	return c.callNS(virtNS, r, method, args...)
}

func (c *client) callNS(ns string, r ref, method string, args ...arg) (*obj, error) {
	body, err := c.rawNS(ns, r, method, args...)
	if err != nil {
		return nil, err
	}
	return toObj(body.Kids[0]), nil
}

func (c *client) raw(r ref, method string, args ...arg) (*elem, error) {
	return c.rawNS(virtNS, r, method, args...)
}

func (c *client) rawNS(ns string, r ref, method string, args ...arg) (*elem, error) {
	uri := wmiNS + ns + "/" + r.Class
	b := `<p:` + method + `_INPUT xmlns:p="` + uri + `">`
	put := func(n string, v any) {
		switch x := v.(type) {
		case ref:
			b += `<p:` + n + `>` + x.epr() + `</p:` + n + `>`
		default:
			b += `<p:` + n + `>` + esc(fmt.Sprint(x)) + `</p:` + n + `>`
		}
	}
	for _, a := range args {
		switch x := a.val.(type) {
		case []string:
			for _, s := range x {
				put(a.name, s)
			}
		case []ref:
			for _, s := range x {
				put(a.name, s)
			}
		default:
			put(a.name, a.val)
		}
	}
	return c.soap(uri, uri+"/"+method, strings.ReplaceAll(r.selectors(), virtNS, ns), b+`</p:`+method+`_INPUT>`)
}

// do calls a method that must return 0, or 4096 and a job that ends well.
func (c *client) do(sim *hvsim.Sim, r ref, method string, args ...arg) *obj {
	c.t.Helper()
	o, err := c.call(r, method, args...)
	if err != nil {
		c.t.Fatalf("%s: %v", method, err)
	}
	switch o.get("ReturnValue") {
	case "0":
	case "4096":
		if j := c.wait(sim, o.Refs["Job"]); j.get("JobState") != "7" {
			c.t.Fatalf("%s: job %v", method, j.Vals)
		}
	default:
		c.t.Fatalf("%s returned %s", method, o.get("ReturnValue"))
	}
	return o
}

// wait moves the clock until a job has ended.
func (c *client) wait(sim *hvsim.Sim, job ref) *obj {
	c.t.Helper()
	for range 1000 {
		j, err := c.get(job)
		if err != nil {
			c.t.Fatal(err)
		}
		if j.get("JobState") != "4" {
			return j
		}
		sim.Advance(1e9)
	}
	c.t.Fatal("the job does not end")
	return nil
}

// must calls a method and wants a return value.
func (c *client) rv(want string, r ref, method string, args ...arg) *obj {
	c.t.Helper()
	o, err := c.call(r, method, args...)
	if err != nil {
		c.t.Fatalf("%s: %v", method, err)
	}
	if g := o.get("ReturnValue"); g != want {
		c.t.Fatalf("%s returned %s, want %s", method, g, want)
	}
	return o
}

// emb prints an embedded instance; values are string, or []string for arrays; a name may carry its type after a colon.
func emb(class string, kv ...any) string {
	b := `<INSTANCE CLASSNAME="` + class + `">`
	for n := 0; n < len(kv); n += 2 {
		name, typ, ok := strings.Cut(kv[n].(string), ":")
		if !ok {
			typ = "string"
		}
		switch v := kv[n+1].(type) {
		case []string:
			b += `<PROPERTY.ARRAY NAME="` + name + `" TYPE="` + typ + `"><VALUE.ARRAY>`
			for _, s := range v {
				b += "<VALUE>" + numeric(s) + "</VALUE>"
			}
			b += `</VALUE.ARRAY></PROPERTY.ARRAY>`
		default:
			b += `<PROPERTY NAME="` + name + `" TYPE="` + typ + `"><VALUE>` + numeric(fmt.Sprint(v)) + `</VALUE></PROPERTY>`
		}
	}
	return b + `</INSTANCE>`
}

// numeric escapes a value of an embedded instance as hosts take it.
func numeric(s string) string {
	return strings.NewReplacer("&amp;", "&#38;", "&lt;", "&#60;").Replace(esc(s))
}

func byID(class, id string) ref { return ref{class, [][2]string{{"InstanceID", id}}} }
func system(id string) ref {
	return ref{"Msvm_ComputerSystem", [][2]string{{"CreationClassName", "Msvm_ComputerSystem"}, {"Name", id}}}
}

// service finds a singleton service.
func (c *client) service(class string) ref {
	c.t.Helper()
	o := c.one("SELECT * FROM " + class)
	r := ref{Class: class}
	for _, k := range []string{"SystemCreationClassName", "SystemName", "CreationClassName", "Name"} {
		r.Keys = append(r.Keys, [2]string{k, o.get(k)})
	}
	return r
}

// define makes a machine and gives its GUID.
func (c *client) define(sim *hvsim.Sim, name string, gen int, resources ...string) string {
	c.t.Helper()
	o := c.do(sim, c.service("Msvm_VirtualSystemManagementService"), "DefineSystem",
		arg{"SystemSettings", emb("Msvm_VirtualSystemSettingData", "ElementName", name, "VirtualSystemSubType", fmt.Sprintf("Microsoft:Hyper-V:SubType:%d", gen))}, arg{"ResourceSettings", resources})
	return o.Refs["ResultingSystem"].Keys[1][1]
}

func (c *client) state(id string) string {
	c.t.Helper()
	o, err := c.get(system(id))
	if err != nil {
		c.t.Fatal(err)
	}
	return o.get("EnabledState")
}

func (c *client) power(sim *hvsim.Sim, id string, to int) {
	c.t.Helper()
	c.do(sim, system(id), "RequestStateChange", arg{"RequestedState", to})
}

// put writes one property.
func (c *client) put(r ref, name, value string) (*obj, error) {
	uri := wmiNS + virtNS + "/" + r.Class
	b, err := c.soap(uri, xferNS+"/Put", r.selectors(), `<p:`+r.Class+` xmlns:p="`+uri+`"><p:`+name+`>`+esc(value)+`</p:`+name+`></p:`+r.Class+`>`)
	if err != nil {
		return nil, err
	}
	return toObj(b.Kids[0]), nil
}
