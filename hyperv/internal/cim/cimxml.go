package cim

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Embedded is an instance to send inside a parameter. It is written as
// CIM-XML text (DSP0201), which both transports accept. Only the given
// properties are sent; the provider leaves the others unchanged.
type Embedded struct {
	Class string
	Props []Prop
}

// NewEmbedded makes an embedded instance from alternating property names and
// values; see [Typed] for the values. Properties with a nil value are left out.
func NewEmbedded(class string, kv ...any) *Embedded {
	e := &Embedded{Class: class}
	for i := 0; i+1 < len(kv); i += 2 {
		e.Set(kv[i].(string), kv[i+1])
	}
	return e
}

// Set adds a property or replaces its value; nil is ignored.
func (e *Embedded) Set(name string, v any) *Embedded {
	if v == nil {
		return e
	}
	p := Typed(name, v)
	for i := range e.Props {
		if e.Props[i].Name == name {
			e.Props[i] = p
			return e
		}
	}
	e.Props = append(e.Props, p)
	return e
}

// Typed makes a property from a Go value, whose type determines the CIM type:
// bool, string, uint8 to uint64, int8 to int64, time.Duration (an interval),
// Ref (an object path), *Embedded, or a slice of one of them. Any other type
// is a mistake of the caller, and the server refuses it.
func Typed(name string, v any) Prop {
	text, typ, array := Text(v)
	return Prop{Name: name, Value: TextValue(text...), Type: typ, Array: array}
}

// Text converts a Go value to the texts of its elements and its CIM type.
func Text(v any) (text []string, typ string, array bool) {
	switch x := v.(type) {
	case string:
		return []string{x}, "string", false
	case []string:
		return x, "string", true
	case bool:
		return []string{strings.ToUpper(strconv.FormatBool(x))}, "boolean", false
	case uint8:
		return []string{strconv.FormatUint(uint64(x), 10)}, "uint8", false
	case uint16:
		return []string{strconv.FormatUint(uint64(x), 10)}, "uint16", false
	case uint32:
		return []string{strconv.FormatUint(uint64(x), 10)}, "uint32", false
	case uint64:
		return []string{strconv.FormatUint(x, 10)}, "uint64", false
	case int8:
		return []string{strconv.FormatInt(int64(x), 10)}, "sint8", false
	case int16:
		return []string{strconv.FormatInt(int64(x), 10)}, "sint16", false
	case int32:
		return []string{strconv.FormatInt(int64(x), 10)}, "sint32", false
	case int64:
		return []string{strconv.FormatInt(x, 10)}, "sint64", false
	case []uint8:
		for _, n := range x {
			text = append(text, strconv.FormatUint(uint64(n), 10))
		}
		return text, "uint8", true
	case []uint16:
		for _, n := range x {
			text = append(text, strconv.FormatUint(uint64(n), 10))
		}
		return text, "uint16", true
	case []uint32:
		for _, n := range x {
			text = append(text, strconv.FormatUint(uint64(n), 10))
		}
		return text, "uint32", true
	case time.Duration:
		return []string{interval(x)}, "datetime", false
	case Ref:
		return []string{x.Path()}, "string", false
	case []Ref:
		for _, r := range x {
			text = append(text, r.Path())
		}
		return text, "string", true
	case *Embedded:
		return []string{x.XML()}, "string", false
	case []*Embedded:
		for _, e := range x {
			text = append(text, e.XML())
		}
		return text, "string", true
	}
	// The server refuses a type that it does not know.
	return []string{fmt.Sprint(v)}, fmt.Sprintf("%T", v), false
}

func interval(d time.Duration) string {
	s := int64(d / time.Second)
	return fmt.Sprintf("%08d%02d%02d%02d.%06d:000", s/86400, s/3600%24, s/60%60, s%60, d%time.Second/time.Microsecond)
}

// XML returns the CIM-XML text of the instance.
func (e *Embedded) XML() string {
	var b strings.Builder
	b.WriteString(`<INSTANCE CLASSNAME="` + numeric(e.Class) + `">`)
	for _, p := range e.Props {
		if p.Array {
			b.WriteString(`<PROPERTY.ARRAY NAME="` + numeric(p.Name) + `" TYPE="` + p.Type + `"><VALUE.ARRAY>`)
			for _, s := range p.Value.Strings() {
				b.WriteString("<VALUE>" + numeric(s) + "</VALUE>")
			}
			b.WriteString("</VALUE.ARRAY></PROPERTY.ARRAY>")
			continue
		}
		b.WriteString(`<PROPERTY NAME="` + numeric(p.Name) + `" TYPE="` + p.Type + `">`)
		if !p.Value.IsNull() {
			b.WriteString("<VALUE>" + numeric(p.Value.String()) + "</VALUE>")
		}
		b.WriteString("</PROPERTY>")
	}
	b.WriteString("</INSTANCE>")
	return b.String()
}

// numeric is like Escape, without names for characters: in the values of
// embedded instances Hyper-V refuses &amp; and &lt; and accepts numeric
// references.
func numeric(s string) string {
	s = Escape(s)
	if !strings.Contains(s, "&") {
		return s
	}
	return named.Replace(s)
}

var named = strings.NewReplacer("&amp;", "&#38;", "&lt;", "&#60;", "&gt;", "&#62;")

// Escape makes text safe inside XML elements and attributes. White space that
// an XML reader would change is written as character references; characters
// that XML cannot carry become U+FFFD.
func Escape(s string) string {
	if !strings.ContainsAny(s, "<>&\"'\t\n\r") && utf8.ValidString(s) && !hasControl(s) {
		return s
	}
	var b strings.Builder
	xml.EscapeText(&b, []byte(s)) // a strings.Builder can't fail
	return b.String()
}

func hasControl(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < 0x20 || r == 0xFFFE || r == 0xFFFF }) >= 0
}

// ParseInstance reads the CIM-XML text of one instance, as found in embedded
// instance properties and in the result of SWbemObject.GetText_.
func ParseInstance(s string) (*Instance, error) {
	d := xml.NewDecoder(strings.NewReader(s))
	for {
		t, err := d.Token()
		if err != nil {
			if err == io.EOF {
				err = errors.New("no INSTANCE")
			}
			return nil, fmt.Errorf("cim: embedded instance: %w", err)
		}
		if e, ok := t.(xml.StartElement); ok && e.Name.Local == "INSTANCE" {
			return readInstance(d, e)
		}
	}
}

func attr(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

func readInstance(d *xml.Decoder, start xml.StartElement) (*Instance, error) {
	inst := &Instance{Class: attr(start, "CLASSNAME")}
	for {
		t, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("cim: embedded instance: %w", err)
		}
		switch e := t.(type) {
		case xml.EndElement:
			return inst, nil
		case xml.StartElement:
			if !strings.HasPrefix(e.Name.Local, "PROPERTY") {
				if err := d.Skip(); err != nil {
					return nil, err
				}
				continue
			}
			p := Prop{Name: attr(e, "NAME"), Type: attr(e, "TYPE"), Array: e.Name.Local == "PROPERTY.ARRAY"}
			if p.Value, err = readValue(d); err != nil {
				return nil, err
			}
			inst.Props = append(inst.Props, p)
		}
	}
}

// readValue reads to the end of a PROPERTY element: any number of VALUE
// elements at any depth, or an instance.
func readValue(d *xml.Decoder) (Value, error) {
	var v Value
	var text strings.Builder
	depth, inValue := 1, false
	for depth > 0 {
		t, err := d.Token()
		if err != nil {
			return v, fmt.Errorf("cim: embedded instance: %w", err)
		}
		switch e := t.(type) {
		case xml.StartElement:
			switch e.Name.Local {
			case "INSTANCE":
				i, err := readInstance(d, e)
				if err != nil {
					return v, err
				}
				v.Append(InstanceValue(i))
				continue
			case "VALUE":
				inValue = true
				text.Reset()
			case "QUALIFIER":
				if err := d.Skip(); err != nil {
					return v, err
				}
				continue
			}
			depth++
		case xml.EndElement:
			if e.Name.Local == "VALUE" {
				v.Append(TextValue(text.String()))
				inValue = false
			}
			depth--
		case xml.CharData:
			if inValue {
				text.Write(e)
			}
		}
	}
	return v, nil
}
