package cimx

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/schema"
)

// Errors of the CIM-XML reader.
var (
	ErrSyntax   = errors.New("malformed CIM-XML")
	ErrClass    = errors.New("no such class")
	ErrProperty = errors.New("no such property")
)

// Escape escapes text for XML; characters that XML 1.0 cannot carry become U+FFFD.
func Escape(s string) string {
	if !strings.ContainsAny(s, "<>&'\"\r\n\t") && clean(s) {
		return s
	}
	var b strings.Builder
	if err := xml.EscapeText(&b, []byte(s)); err != nil {
		return ""
	}
	return b.String()
}

func clean(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// Format formats an instance as the INSTANCE element of DSP0201, the text of WMI's GetText with wmiTextFormatCIMDTD20. NULL
// properties are written without a VALUE.
func Format(i *Instance) string {
	var b strings.Builder
	write(&b, i)
	return b.String()
}

func write(b *strings.Builder, i *Instance) {
	b.WriteString(`<INSTANCE CLASSNAME="` + Escape(i.Class.Name) + `">`)
	for n, p := range i.Class.Props {
		v := i.vals[n]
		name, kind := Escape(p.Name), string(p.Type.Kind)
		switch {
		case p.Type.Kind == schema.Object:
			continue // the services accept no nested objects in these texts
		case p.Type.Kind == schema.Ref:
			if r, ok := v.(Ref); ok {
				b.WriteString(`<PROPERTY.REFERENCE NAME="` + name + `" REFERENCECLASS="` + p.Type.Class + `"><VALUE.REFERENCE>` + Escape(r.Path()) + `</VALUE.REFERENCE></PROPERTY.REFERENCE>`)
			}
		case p.Type.Array:
			b.WriteString(`<PROPERTY.ARRAY NAME="` + name + `" TYPE="` + kind + `">`)
			if a, ok := v.([]any); ok {
				b.WriteString("<VALUE.ARRAY>")
				for _, e := range a {
					b.WriteString("<VALUE>" + Escape(Text(e)) + "</VALUE>")
				}
				b.WriteString("</VALUE.ARRAY>")
			}
			b.WriteString("</PROPERTY.ARRAY>")
		default:
			b.WriteString(`<PROPERTY NAME="` + name + `" TYPE="` + kind + `">`)
			if v != nil {
				b.WriteString("<VALUE>" + Escape(Text(v)) + "</VALUE>")
			}
			b.WriteString("</PROPERTY>")
		}
	}
	b.WriteString("</INSTANCE>")
}

type xmlInstance struct {
	XMLName xml.Name
	Class   string        `xml:"CLASSNAME,attr"`
	Props   []xmlProperty `xml:",any"`
}

type xmlProperty struct {
	XMLName xml.Name
	Name    string    `xml:"NAME,attr"`
	Type    string    `xml:"TYPE,attr"`
	Value   *string   `xml:"VALUE"`
	Ref     *string   `xml:"VALUE.REFERENCE"`
	Array   *xmlArray `xml:"VALUE.ARRAY"`
}

type xmlArray struct {
	Values []string `xml:"VALUE"`
}

// Parse reads an INSTANCE text and checks it against the classes of a namespace: the class must exist, each property
// must exist in it, and declared and real types must agree.
func Parse(ns *schema.Namespace, host, text string) (*Instance, error) {
	d := xml.NewDecoder(strings.NewReader(text))
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	var x xmlInstance
	if err := d.Decode(&x); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrSyntax, err)
	}
	if x.XMLName.Local != "INSTANCE" {
		return nil, fmt.Errorf("%w: element %s", ErrSyntax, x.XMLName.Local)
	}
	c := ns.Class(x.Class)
	if c == nil {
		return nil, fmt.Errorf("%w: %s", ErrClass, x.Class)
	}
	i := New(c, host)
	for _, p := range x.Props {
		if !strings.HasPrefix(p.XMLName.Local, "PROPERTY") {
			continue // QUALIFIER
		}
		n := c.Prop(p.Name)
		if n < 0 {
			if strings.HasPrefix(p.Name, "__") {
				continue // some texts contain system properties
			}
			return nil, fmt.Errorf("%w: class %s has no property %s", ErrProperty, c.Name, p.Name)
		}
		t := c.Props[n].Type
		if t.Array != (p.XMLName.Local == "PROPERTY.ARRAY") || (p.Type != "" && !strings.EqualFold(p.Type, string(t.Kind))) {
			return nil, fmt.Errorf("%w: property %s of %s is %s, not %s %s", ErrType, p.Name, c.Name, t, p.XMLName.Local, p.Type)
		}
		var v any
		switch {
		case p.Array != nil:
			a := make([]any, len(p.Array.Values))
			for k, s := range p.Array.Values {
				a[k] = s
			}
			v = a
		case p.Ref != nil:
			v = *p.Ref
		case p.Value != nil:
			v = *p.Value
		}
		if err := i.Put(p.Name, v); err != nil {
			return nil, err
		}
	}
	return i, nil
}
