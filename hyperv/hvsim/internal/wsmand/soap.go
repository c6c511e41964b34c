// Package wsmand serves a simulated host's WMI over WS-Management like WinRM [D: MS-WSMV, DSP0226, DSP0227].
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

func envelope(relates, action, body string) string {
	return `<s:Envelope xml:lang="en-US" xmlns:s="` + nsSOAP + `" xmlns:a="` + nsAddr + `" xmlns:x="` + nsXfer + `" xmlns:n="` + nsEnum +
		`" xmlns:w="` + nsWSMan + `" xmlns:xsi="` + nsXSI + `" xmlns:cim="` + nsCIM + `"><s:Header><a:Action>` + cimx.Escape(action) +
		`</a:Action><a:MessageID>uuid:` + messageID() + `</a:MessageID><a:To>` + anonymous + `</a:To><a:RelatesTo>` + cimx.Escape(relates) +
		`</a:RelatesTo></s:Header><s:Body>` + body + `</s:Body></s:Envelope>`
}
