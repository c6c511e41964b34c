package wsman

import (
	"encoding/xml"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
)

// node is a small tree, used where a stream is not worth the trouble.
type node struct {
	name string
	attr []xml.Attr
	text string
	kids []*node
}

func (d *decoder) node(start xml.StartElement) (*node, error) {
	n := &node{name: start.Name.Local, attr: start.Copy().Attr}
	for {
		t, err := d.x.RawToken()
		if err != nil {
			return nil, unexpected(err)
		}
		switch e := t.(type) {
		case xml.CharData:
			n.text += string(e)
		case xml.EndElement:
			return n, nil
		case xml.StartElement:
			k, err := d.node(e)
			if err != nil {
				return nil, err
			}
			n.kids = append(n.kids, k)
		}
	}
}

// find follows a path of local names. It returns nil if there is no such
// path.
func (n *node) find(path ...string) *node {
	for _, p := range path {
		if n == nil {
			return nil
		}
		var next *node
		for _, k := range n.kids {
			if k.name == p {
				next = k
				break
			}
		}
		n = next
	}
	return n
}

func (n *node) str() string {
	if n == nil {
		return ""
	}
	return strings.TrimSpace(n.text)
}

func (n *node) get(name string) string {
	if n == nil {
		return ""
	}
	for _, a := range n.attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

func (n *node) value() cim.Value {
	if rp := n.find("ReferenceParameters"); rp != nil {
		var keys []cim.Key
		if set := rp.find("SelectorSet"); set != nil {
			for _, s := range set.kids {
				keys = append(keys, cim.Key{Name: s.get("Name"), Value: s.text})
			}
		}
		r, ok := cim.RefFromURI(rp.find("ResourceURI").str(), keys)
		if !ok {
			return cim.Value{}
		}
		return cim.RefValue(r)
	}
	if len(n.kids) == 1 {
		switch n.kids[0].name {
		case "Datetime", "Date", "Time", "Interval", "CIM_DateTime":
			return cim.TextValue(n.kids[0].str())
		}
	}
	class := n.get("type")
	if i := strings.IndexByte(class, ':'); i >= 0 {
		class = class[i+1:]
	}
	inst := &cim.Instance{Class: strings.TrimSuffix(class, "_Type")}
	for _, k := range n.kids {
		switch {
		case k.get("nil") == "true":
			inst.Add(k.name, cim.Value{})
		case len(k.kids) > 0:
			inst.Add(k.name, k.value())
		default:
			inst.Add(k.name, cim.TextValue(k.text))
		}
	}
	return cim.InstanceValue(inst)
}
