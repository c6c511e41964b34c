package cim

import "strings"

// Names of WS-Management in endpoint references (DSP0226; the WMI resource
// prefix is Microsoft's, MS-WSMV).
const (
	Anonymous    = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous"
	WMIPrefix    = "http://schemas.microsoft.com/wbem/wsman/1/wmi/"
	namespaceKey = "__cimnamespace"
)

// ResourceURI returns the WS-Management address of the class.
func (r Ref) ResourceURI() string { return WMIPrefix + r.Namespace + "/" + r.Class }

// Selectors returns the inner text of the SelectorSet. The prefix w must be
// bound to the WS-Management namespace.
func (r Ref) Selectors() string {
	var b strings.Builder
	b.WriteString(`<w:Selector Name="` + namespaceKey + `">` + Escape(r.Namespace) + `</w:Selector>`)
	for _, k := range r.Keys {
		b.WriteString(`<w:Selector Name="` + Escape(k.Name) + `">` + Escape(k.Value) + `</w:Selector>`)
	}
	return b.String()
}

// EPR returns the inner text of an endpoint reference. The prefixes a and w
// must be bound to WS-Addressing and WS-Management.
func (r Ref) EPR() string {
	return `<a:Address>` + Anonymous + `</a:Address><a:ReferenceParameters><w:ResourceURI>` + Escape(r.ResourceURI()) +
		`</w:ResourceURI><w:SelectorSet>` + r.Selectors() + `</w:SelectorSet></a:ReferenceParameters>`
}

// RefFromURI makes a reference from the parts of an endpoint reference.
func RefFromURI(uri string, selectors []Key) (Ref, bool) {
	rest, ok := strings.CutPrefix(uri, WMIPrefix)
	i := strings.LastIndexByte(rest, '/')
	if !ok || i < 0 {
		return Ref{}, false
	}
	r := Ref{Namespace: rest[:i], Class: rest[i+1:]}
	for _, k := range selectors {
		if k.Name != namespaceKey {
			r.Keys = append(r.Keys, k)
		}
	}
	return r, true
}
