package wsmand

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/schema"
)

func itoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// epr formats the inside of an endpoint reference. It has no selector for the namespace [O: recorded replies of a host].
func epr(r cimx.Ref) string {
	var b strings.Builder
	ns := r.Namespace
	b.WriteString(`<a:Address>` + anonymous + `</a:Address><a:ReferenceParameters><w:ResourceURI>` + wmiBase + cimx.Escape(ns) + `/` + cimx.Escape(r.Class) +
		`</w:ResourceURI><w:SelectorSet>`)
	for _, k := range r.Keys {
		b.WriteString(`<w:Selector Name="` + cimx.Escape(k.Name) + `">` + cimx.Escape(k.Value) + `</w:Selector>`)
	}
	b.WriteString(`</w:SelectorSet></a:ReferenceParameters>`)
	return b.String()
}

// readEPR reads an endpoint reference. ok is false if it is not one.
func readEPR(n *node, host string) (cimx.Ref, bool) {
	rp := n.kid(nsAddr, "ReferenceParameters")
	if rp == nil {
		return cimx.Ref{}, false
	}
	ns, class, good := splitURI(rp.kid(nsWSMan, "ResourceURI").str())
	if !good {
		return cimx.Ref{}, false
	}
	r := cimx.Ref{Host: host, Namespace: ns, Class: class}
	r.Keys, _ = selectors(rp.kid(nsWSMan, "SelectorSet"), host)
	return r, true
}

// splitURI splits a resource URI into its parts; the namespace's last part may be *.
func splitURI(uri string) (ns, class string, ok bool) {
	rest, ok := strings.CutPrefix(uri, wmiBase)
	if !ok {
		// WinRM accepts the short form too.
		if rest, ok = strings.CutPrefix(uri, "wmi/"); !ok {
			return "", "", false
		}
	}
	i := strings.LastIndexByte(rest, '/')
	if i <= 0 || i == len(rest)-1 {
		return "", "", false
	}
	return rest[:i], rest[i+1:], true
}

// selectors reads a selector set; a selector may hold an endpoint reference, as keys of associations do.
func selectors(n *node, host string) (keys []cimx.KeyValue, ns string) {
	if n == nil {
		return nil, ""
	}
	for _, s := range n.kids {
		if s.name.Local != "Selector" {
			continue
		}
		if strings.EqualFold(s.attr("Name"), "__cimnamespace") {
			ns = s.str()
			continue
		}
		v := s.text
		if e := s.kid(nsAddr, "EndpointReference"); e != nil {
			if r, ok := readEPR(e, host); ok {
				v = r.Path()
			}
		}
		keys = append(keys, cimx.KeyValue{Name: s.attr("Name"), Value: v})
	}
	return keys, ns
}

// writer formats instances in the WS-CIM mapping [D: DSP0230; X for datetime].
type writer struct{ strings.Builder }

// instance formats one instance as an element of its class, NULL properties as xsi:nil. NULL arrays are left out [O: recorded replies of a host].
func (w *writer) instance(i *cimx.Instance) {
	c := i.Class
	uri := wmiBase + c.Namespace + "/" + c.Name
	w.WriteString(`<p:` + c.Name + ` xmlns:p="` + uri + `" xsi:type="p:` + c.Name + `_Type">`)
	for n := range c.Props {
		w.value("p:"+c.Props[n].Name, c.Props[n].Type, i.At(n), "cim:")
	}
	w.WriteString(`</p:` + c.Name + `>`)
}

// fragment formats the selected properties of an instance: the answer to a query with a property list is an XmlFragment with
// elements in no namespace [X].
func (w *writer) fragment(i *cimx.Instance, fields []string) {
	w.WriteString(`<w:XmlFragment xmlns:w="` + nsWSMan + `">`)
	for _, f := range fields {
		if strings.EqualFold(f, "__CLASS") {
			w.WriteString("<__CLASS>" + i.Class.Name + "</__CLASS>")
			continue
		}
		if n := i.Class.Prop(f); n >= 0 {
			w.value(i.Class.Props[n].Name, i.Class.Props[n].Type, i.At(n), "")
		}
	}
	w.WriteString(`</w:XmlFragment>`)
}

// value formats one property or parameter. An empty array is left out, as repeated elements cannot express it.
func (w *writer) value(name string, t schema.Type, v any, dt string) {
	if v == nil && t.Array {
		return
	}
	if v == nil {
		w.WriteString(`<` + name + ` xsi:nil="true"/>`)
		return
	}
	if a, ok := v.([]any); ok {
		for _, e := range a {
			w.scalar(name, t, e, dt)
		}
		return
	}
	w.scalar(name, t, v, dt)
}

func (w *writer) scalar(name string, t schema.Type, v any, dt string) {
	switch x := v.(type) {
	case cimx.Ref:
		w.WriteString(`<` + name + `>` + epr(x) + `</` + name + `>`)
	case *cimx.Instance:
		uri := wmiBase + x.Class.Namespace + "/" + x.Class.Name
		w.WriteString(`<` + name + ` xmlns:e="` + uri + `" xsi:type="e:` + x.Class.Name + `_Type">`)
		for n := range x.Class.Props {
			w.value("e:"+x.Class.Props[n].Name, x.Class.Props[n].Type, x.At(n), "cim:")
		}
		w.WriteString(`</` + name + `>`)
	default:
		text := cimx.Escape(cimx.Text(v))
		if t.Kind == schema.Datetime {
			elem, iso := isoDatetime(cimx.Text(v))
			text = `<` + dt + elem + `>` + iso + `</` + dt + elem + `>`
		}
		w.WriteString(`<` + name + `>` + text + `</` + name + `>`)
	}
}

// isoDatetime turns a CIM datetime into XML Schema's form: a point in time as Datetime, a span as Interval [D: DSP0230].
func isoDatetime(s string) (elem, out string) {
	if len(s) == 25 && s[21] == ':' {
		var d, h, m, sec, us int
		if _, err := fmt.Sscanf(s, "%8d%2d%2d%2d.%6d", &d, &h, &m, &sec, &us); err == nil {
			return "Interval", fmt.Sprintf("P%dDT%dH%dM%d.%06dS", d, h, m, sec, us)
		}
	}
	if len(s) == 25 {
		if t, err := time.Parse("20060102150405.000000", s[:21]); err == nil {
			off, _ := strconv.Atoi(s[21:])
			return "Datetime", t.Add(-time.Duration(off) * time.Minute).Format("2006-01-02T15:04:05.999999Z")
		}
	}
	return "CIM_DateTime", cimx.Escape(s)
}

// argument reads a method parameter: text, reference, embedded object text or NULL.
func argument(n *node, host string) any {
	if n.isNil() {
		return nil
	}
	if r, ok := readEPR(n, host); ok {
		return r
	}
	if e := n.kid(nsAddr, "EndpointReference"); e != nil {
		if r, ok := readEPR(e, host); ok {
			return r
		}
	}
	if len(n.kids) == 1 {
		switch n.kids[0].name.Local {
		case "Datetime", "CIM_DateTime", "Interval", "Date", "Time":
			return cimDatetime(n.kids[0].str())
		}
	}
	return n.text
}

// cimDatetime converts XML Schema's forms back into CIM's. It passes unknown text on, to be refused by type.
func cimDatetime(s string) string {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return cimx.Datetime(t)
	}
	return s
}
