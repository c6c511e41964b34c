// Package wsmand serves a simulated host's WMI over WS-Management as WinRM does [D: MS-WSMV, DSP0226, DSP0227].
package wsmand

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

// Namespaces of the protocol.
const (
	nsSOAP  = "http://www.w3.org/2003/05/soap-envelope"
	nsAddr  = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
	nsWSMan = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
	nsEnum  = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
	nsXfer  = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
	nsXSI   = "http://www.w3.org/2001/XMLSchema-instance"
	nsCIM   = "http://schemas.dmtf.org/wbem/wscim/1/common"
	nsAssoc = "http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd"
	nsIdent = "http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd"

	wmiBase    = "http://schemas.microsoft.com/wbem/wsman/1/wmi/"
	wqlDialect = "http://schemas.microsoft.com/wbem/wsman/1/WQL"
	selDialect = "http://schemas.dmtf.org/wbem/wsman/1/wsman/SelectorFilter"
	assDialect = "http://schemas.dmtf.org/wbem/wsman/1/cimbinding/associationFilter"
	anonymous  = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous"
)

// node is an element of a request.
type node struct {
	name  xml.Name
	attrs []xml.Attr
	kids  []*node
	text  string
}

var errXML = errors.New("malformed XML")

func parse(r io.Reader) (*node, error) {
	d := xml.NewDecoder(r)
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	var stack []*node
	var root *node
	for {
		t, err := d.Token()
		if err == io.EOF {
			if root == nil || len(stack) > 0 {
				return nil, errXML
			}
			return root, nil
		}
		if err != nil {
			return nil, errors.Join(errXML, err)
		}
		switch x := t.(type) {
		case xml.StartElement:
			n := &node{name: x.Name, attrs: x.Attr}
			if len(stack) > 0 {
				p := stack[len(stack)-1]
				p.kids = append(p.kids, n)
			} else if root == nil {
				root = n
			}
			stack = append(stack, n)
		case xml.EndElement:
			stack = stack[:len(stack)-1]
		case xml.CharData:
			if len(stack) > 0 {
				stack[len(stack)-1].text += string(x)
			}
		}
	}
}

// kid finds a child by namespace and name; an empty namespace means any.
func (n *node) kid(space, local string) *node {
	if n == nil {
		return nil
	}
	for _, k := range n.kids {
		if k.name.Local == local && (space == "" || k.name.Space == space) {
			return k
		}
	}
	return nil
}

func (n *node) str() string {
	if n == nil {
		return ""
	}
	return strings.TrimSpace(n.text)
}

func (n *node) attr(local string) string {
	if n == nil {
		return ""
	}
	for _, a := range n.attrs {
		if a.Name.Local == local {
			return a.Value
		}
	}
	return ""
}

func (n *node) isNil() bool {
	for _, a := range n.attrs {
		if a.Name.Space == nsXSI && a.Name.Local == "nil" {
			return a.Value == "true" || a.Value == "1"
		}
	}
	return false
}

// fault is a SOAP fault of WS-Management.
type fault struct {
	sub    string // subcode with prefix: w:, a:, n:
	code   uint32 // WSManFault Code
	reason string
	detail string // URI of the fault detail
	hr     uint32 // WMI provider's HRESULT, 0 if the provider was not asked
	text   string // WMI provider's message
}

func (f *fault) Error() string { return f.sub + ": " + f.reason }

// Codes of WSManFault; Windows prints them as decimal [D: wsmerror.h].
const (
	codeSchema         = 2150858793 // 0x80338029 ERROR_WSMAN_SCHEMA_VALIDATION_ERROR
	codeInvalidURI     = 2150858778 // 0x8033801A ERROR_WSMAN_INVALID_RESOURCE_URI
	codeSelectors      = 2150859002 // 0x803380FA ERROR_WSMAN_INVALID_SELECTORS: selectors not valid for the resource
	codeFilter         = 2150858759 // 0x80338007 ERROR_WSMAN_CANNOT_PROCESS_FILTER
	codeDialect        = 2150858760 // 0x80338008 filter dialect not supported
	codeContext        = 2150858763 // 0x8033800B ERROR_WSMAN_INVALID_ENUMERATION_CONTEXT
	codeAction         = 2150858754 // 0x80338002 ERROR_WSMAN_ACTION_NOT_SUPPORTED
	codeEnvelope       = 2150858863 // 0x8033806F ERROR_WSMAN_ENVELOPE_TOO_LARGE
	codeInvalidParam   = 2150858811 // 0x8033803B invalid parameter for the method
	codeAccessDenied   = 5
	codeUnknownHeaders = 2150858832 // 0x80338050 header not understood
)

// fromWBEM maps a WMI error to WinRM's fault [subcodes: MS-WSMV; which code goes with which HRESULT is partly believed].
func fromWBEM(hr uint32, text string) *fault {
	f := &fault{sub: "w:InternalError", code: hr, reason: "The WS-Management service cannot process the request. The WMI service or the WMI provider returned an unknown error: HRESULT 0x" + hex(hr), hr: hr, text: text}
	switch hr {
	case 0x80041002: // not found
		f.sub, f.code = "w:InvalidSelectors", hr
		f.reason = "The WMI service could not find the object that was named in the request."
		f.sub = "a:DestinationUnreachable"
	case 0x80041003:
		f.sub, f.code, f.reason = "w:AccessDenied", codeAccessDenied, "Access is denied."
	case 0x8004100E, 0x80041010: // namespace, class
		f.sub, f.code = "a:DestinationUnreachable", codeInvalidURI
		f.reason = "The WS-Management service cannot process the request. The service cannot find the resource identified by the resource URI and selectors."
	case 0x80041017:
		f.sub, f.code = "w:CannotProcessFilter", codeFilter
		f.reason = "The WS-Management service cannot process the request. The WQL query is invalid."
	case 0x8004102E: // method
		f.sub, f.code = "a:ActionNotSupported", codeAction
		f.reason = "The WS-Management service cannot process the request. The action is not supported by the resource."
	case 0x8004102F, 0x80041005, 0x80041008:
		f.sub, f.code = "w:InvalidParameter", codeInvalidParam
		f.reason = "A parameter for the operation is not valid."
	case 0x8004103A, 0x80041031:
		f.sub, f.code = "w:InvalidSelectors", codeSelectors
		f.reason = "The WS-Management service cannot process the request because the request contained invalid selectors for the resource."
	}
	return f
}

func hex(n uint32) string {
	const digits = "0123456789ABCDEF"
	var b [8]byte
	for i := range b {
		b[7-i] = digits[n&15]
		n >>= 4
	}
	return string(b[:])
}

func envelope(relates, action, body string) string {
	return `<s:Envelope xml:lang="en-US" xmlns:s="` + nsSOAP + `" xmlns:a="` + nsAddr + `" xmlns:x="` + nsXfer + `" xmlns:n="` + nsEnum +
		`" xmlns:w="` + nsWSMan + `" xmlns:xsi="` + nsXSI + `" xmlns:cim="` + nsCIM + `"><s:Header><a:Action>` + cimx.Escape(action) +
		`</a:Action><a:MessageID>uuid:` + messageID() + `</a:MessageID><a:To>` + anonymous + `</a:To><a:RelatesTo>` + cimx.Escape(relates) +
		`</a:RelatesTo></s:Header><s:Body>` + body + `</s:Body></s:Envelope>`
}

func (f *fault) xml(relates, machine string) string {
	action := nsWSMan + "/fault"
	switch f.sub[0] {
	case 'a':
		action = nsAddr + "/fault"
	case 'n':
		action = nsEnum + "/fault"
	default:
		action = "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault"
	}
	var b strings.Builder
	b.WriteString(`<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>` + f.sub + `</s:Value></s:Subcode></s:Code><s:Reason><s:Text xml:lang="en-US">` +
		cimx.Escape(f.reason) + `</s:Text></s:Reason><s:Detail>`)
	if f.detail != "" {
		b.WriteString(`<w:FaultDetail>` + f.detail + `</w:FaultDetail>`)
	}
	b.WriteString(`<f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault" Code="` + itoa(f.code) + `" Machine="` + cimx.Escape(machine) + `"><f:Message>`)
	if f.hr != 0 {
		// The provider's own words, as WinRM passes them on.
		b.WriteString(`<f:ProviderFault provider="WMI Provider" path="%systemroot%\system32\WsmWmiPl.dll"><f:WSManFault Code="` + itoa(f.hr) + `" Machine="` + cimx.Escape(machine) +
			`"><f:Message>` + cimx.Escape(f.text) + `</f:Message></f:WSManFault><f:ExtendedError><p:__ExtendedStatus xmlns:p="` + wmiBase + `root/cimv2/__ExtendedStatus" xsi:type="p:__ExtendedStatus_Type">` +
			`<p:Description>` + cimx.Escape(f.text) + `</p:Description><p:Operation>ExecMethod</p:Operation><p:ProviderName>WinMgmt</p:ProviderName><p:StatusCode>` + itoa(f.hr) + `</p:StatusCode></p:__ExtendedStatus></f:ExtendedError></f:ProviderFault>`)
	} else {
		b.WriteString(cimx.Escape(f.reason))
	}
	b.WriteString(`</f:Message></f:WSManFault></s:Detail></s:Fault>`)
	return envelope(relates, action, b.String())
}
