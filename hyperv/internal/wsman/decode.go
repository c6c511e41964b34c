package wsman

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
)

// reply is a decoded response body.
type reply struct {
	// items are the instances of an enumeration, or the one object of a Get
	// or a method call.
	items   []*cim.Instance
	context string
	end     bool
	isEnum  bool
}

// decoder reads an envelope token by token. Prefixes are not resolved: the
// local names that matter are distinct, and resolving costs half the time of
// reading a page.
type decoder struct {
	x     *xml.Decoder
	names map[string]string // one string per property name of a page
}

func decodeReply(r io.Reader) (*reply, error) {
	d := &decoder{x: xml.NewDecoder(r), names: map[string]string{}}
	if err := d.enter("Envelope"); err != nil {
		return nil, err
	}
	if err := d.enter("Body"); err != nil {
		return nil, err
	}
	rep := &reply{}
	for {
		t, err := d.x.RawToken()
		if err != nil {
			return nil, unexpected(err)
		}
		switch e := t.(type) {
		case xml.EndElement: // of Body
			return rep, nil
		case xml.StartElement:
			switch e.Name.Local {
			case "Fault":
				n, err := d.node(e)
				if err != nil {
					return nil, err
				}
				return nil, faultError(n)
			case "EnumerateResponse", "PullResponse":
				rep.isEnum = true
				if err := d.enumeration(rep); err != nil {
					return nil, err
				}
			default:
				i, err := d.instance(e)
				if err != nil {
					return nil, err
				}
				rep.items = append(rep.items, i)
			}
		}
	}
}

func unexpected(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("wsman: reply: %w", err)
}

// enter skips to the start of the named element at the current depth.
func (d *decoder) enter(name string) error {
	for {
		t, err := d.x.RawToken()
		if err != nil {
			return unexpected(err)
		}
		switch e := t.(type) {
		case xml.StartElement:
			if e.Name.Local == name {
				return nil
			}
			if err := d.skip(); err != nil {
				return err
			}
		case xml.EndElement:
			return errors.New("wsman: reply has no " + name)
		}
	}
}

// skip reads to the end of the current element.
func (d *decoder) skip() error {
	for depth := 1; depth > 0; {
		t, err := d.x.RawToken()
		if err != nil {
			return unexpected(err)
		}
		switch t.(type) {
		case xml.StartElement:
			depth++
		case xml.EndElement:
			depth--
		}
	}
	return nil
}

func (d *decoder) enumeration(rep *reply) error {
	for {
		t, err := d.x.RawToken()
		if err != nil {
			return unexpected(err)
		}
		switch e := t.(type) {
		case xml.EndElement:
			return nil
		case xml.StartElement:
			switch e.Name.Local {
			case "EnumerationContext":
				n, err := d.node(e)
				if err != nil {
					return err
				}
				rep.context = strings.TrimSpace(n.text)
			case "EndOfSequence":
				rep.end = true
				if err := d.skip(); err != nil {
					return err
				}
			case "Items":
				if err := d.items(rep); err != nil {
					return err
				}
			default:
				if err := d.skip(); err != nil {
					return err
				}
			}
		}
	}
}

func (d *decoder) items(rep *reply) error {
	for {
		t, err := d.x.RawToken()
		if err != nil {
			return unexpected(err)
		}
		switch e := t.(type) {
		case xml.EndElement:
			return nil
		case xml.StartElement:
			i, err := d.instance(e)
			if err != nil {
				return err
			}
			rep.items = append(rep.items, i)
		}
	}
}

func (d *decoder) intern(s string) string {
	if n, ok := d.names[s]; ok {
		return n
	}
	s = strings.Clone(s)
	d.names[s] = s
	return s
}

func isNil(e xml.StartElement) bool {
	for _, a := range e.Attr {
		if a.Name.Local == "nil" {
			return a.Value == "true" || a.Value == "1"
		}
	}
	return false
}

// instance reads an element whose children are properties. The answer to a
// query for single properties has XmlFragment elements, without the class's
// name.
func (d *decoder) instance(start xml.StartElement) (*cim.Instance, error) {
	i := &cim.Instance{Class: d.intern(start.Name.Local)}
	if i.Class == "XmlFragment" {
		i.Class = ""
	}
	for {
		t, err := d.x.RawToken()
		if err != nil {
			return nil, unexpected(err)
		}
		switch e := t.(type) {
		case xml.EndElement:
			return i, nil
		case xml.StartElement:
			name, null := d.intern(e.Name.Local), isNil(e)
			v, err := d.value(e)
			if err != nil {
				return nil, err
			}
			if null {
				v = cim.Value{}
			}
			if i.Props == nil {
				i.Props = make([]cim.Prop, 0, 12)
			}
			i.Add(name, v)
		}
	}
}

// value reads the content of a property element: text, an endpoint reference,
// a date in a wrapper element, or an embedded instance.
func (d *decoder) value(start xml.StartElement) (cim.Value, error) {
	text, n := "", (*node)(nil)
	for {
		t, err := d.x.RawToken()
		if err != nil {
			return cim.Value{}, unexpected(err)
		}
		switch e := t.(type) {
		case xml.CharData:
			if text == "" {
				text = string(e)
			} else {
				text += string(e)
			}
		case xml.StartElement:
			kid, err := d.node(e)
			if err != nil {
				return cim.Value{}, err
			}
			if n == nil {
				n = &node{name: start.Name.Local, attr: start.Copy().Attr}
			}
			n.kids = append(n.kids, kid)
		case xml.EndElement:
			if n == nil {
				return cim.TextValue(text), nil
			}
			return n.value(), nil
		}
	}
}
