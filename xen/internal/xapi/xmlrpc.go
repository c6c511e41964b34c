package xapi

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/anyvisor/anyvisor/internal/guard"
	"github.com/anyvisor/anyvisor/xen/internal/xapidata"
)

// XML-RPC as used by servers without JSON-RPC (wire-protocol.md): integers
// are texts, so the data model's types are needed to read an answer. The
// answer is converted to JSON, which the rest of the package reads.

// xmlCall writes a request.
func xmlCall(method string, args []any) ([]byte, error) {
	text, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var plain []any
	if err := d.Decode(&plain); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString(`<?xml version="1.0"?><methodCall><methodName>` + method + `</methodName><params>`)
	for _, v := range plain {
		b.WriteString("<param>")
		xmlValue(&b, v)
		b.WriteString("</param>")
	}
	b.WriteString("</params></methodCall>")
	return b.Bytes(), nil
}

func xmlValue(b *bytes.Buffer, v any) {
	text := func(tag, s string) {
		b.WriteString("<" + tag + ">")
		_ = xml.EscapeText(b, []byte(s)) // a Buffer accepts everything
		b.WriteString("</" + tag + ">")
	}
	b.WriteString("<value>")
	switch v := v.(type) {
	case bool:
		text("boolean", map[bool]string{true: "1", false: "0"}[v])
	case json.Number:
		if strings.ContainsAny(v.String(), ".eE") {
			text("double", v.String())
		} else {
			text("string", v.String())
		}
	case string:
		text("string", v)
	case []any:
		b.WriteString("<array><data>")
		for _, x := range v {
			xmlValue(b, x)
		}
		b.WriteString("</data></array>")
	case map[string]any:
		b.WriteString("<struct>")
		for _, k := range slices.Sorted(maps.Keys(v)) {
			b.WriteString("<member>")
			text("name", k)
			xmlValue(b, v[k])
			b.WriteString("</member>")
		}
		b.WriteString("</struct>")
	}
	b.WriteString("</value>")
}

// xmlAnswer reads the answer to a method.
func xmlAnswer(method string, data []byte, result any) error {
	root, err := readXML(xml.NewDecoder(guard.XML(bytes.NewReader(data), guard.Depth)))
	if err != nil {
		return err
	}
	answer := root.at("params", "param", "value", "struct")
	if root.name != "methodResponse" || answer == nil {
		return fmt.Errorf("<%s> is no answer to a call", root.name)
	}
	if status := answer.member("Status"); status == nil || status.plain() != "Success" {
		description := answer.member("ErrorDescription")
		if description == nil {
			return errors.New("the answer has neither a value nor an error")
		}
		var list []string
		if err := json.Unmarshal(description.json(nil, nil), &list); err != nil || len(list) == 0 || list[0] == "" {
			return errors.Join(errors.New("the answer has an error without a code"), err)
		}
		return &Error{Code: list[0], Params: list[1:]}
	}
	if result == nil {
		return nil
	}
	value := answer.member("Value")
	if value == nil {
		return errNoResult
	}
	var t *xapidata.Type
	if m := xapidata.Load().Message(method); m != nil { // not that of Async: its result is a reference
		t = m.Result
	}
	return json.Unmarshal(value.json(nil, t), result)
}

// element is one of XML, with its own text.
type element struct {
	name string
	text []byte
	kids []*element
}

// readXML reads the document's element.
func readXML(d *xml.Decoder) (*element, error) {
	top := &element{}
	for open := []*element{top}; ; {
		in := open[len(open)-1]
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		switch t := t.(type) {
		case xml.StartElement:
			e := &element{name: t.Name.Local}
			in.kids = append(in.kids, e)
			open = append(open, e)
		case xml.CharData:
			in.text = append(in.text, t...)
		case xml.EndElement:
			if open = open[:len(open)-1]; len(open) == 1 {
				return top.kids[0], nil
			}
		}
	}
}

// at follows first children of these names. It returns nil if there are none.
func (e *element) at(names ...string) *element {
	for _, n := range names {
		i := slices.IndexFunc(e.kids, func(k *element) bool { return k.name == n })
		if i < 0 {
			return nil
		}
		e = e.kids[i]
	}
	return e
}

// member finds a <struct>'s <value> by its name.
func (e *element) member(name string) *element {
	for _, m := range e.kids {
		if n := m.at("name"); n != nil && string(n.text) == name {
			return m.at("value")
		}
	}
	return nil
}

// plain returns a <value>'s text, with or without a type around it.
func (e *element) plain() string {
	if len(e.kids) > 0 {
		e = e.kids[0]
	}
	return string(e.text)
}

// json appends a <value> as JSON. t may be nil; a text is then a string.
func (e *element) json(b []byte, t *xapidata.Type) []byte {
	if t == nil {
		t = &xapidata.Type{Kind: xapidata.Other}
	}
	tag := ""
	if len(e.kids) > 0 {
		tag = e.kids[0].name
	}
	switch tag {
	case "array":
		b = append(b, '[')
		if data := e.kids[0].at("data"); data != nil {
			for i, v := range data.kids {
				if i > 0 {
					b = append(b, ',')
				}
				b = v.json(b, t.Elem)
			}
		}
		return append(b, ']')
	case "struct":
		s := e.kids[0]
		b = append(b, '{')
		for _, m := range s.kids {
			name, v := m.at("name"), m.at("value")
			if name == nil || v == nil {
				continue
			}
			if b[len(b)-1] != '{' {
				b = append(b, ',')
			}
			b = append(jsonString(b, string(name.text)), ':')
			b = v.json(b, s.typeOf(string(name.text), t))
		}
		return append(b, '}')
	}
	text := e.plain()
	switch {
	case tag == "boolean" || t.Kind == xapidata.Bool:
		return strconv.AppendBool(b, text == "1" || text == "true")
	case tag == "int" || tag == "i4" || tag == "i8" || t.Kind == xapidata.Int:
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return strconv.AppendInt(b, n, 10)
		}
	case tag == "double" || t.Kind == xapidata.Float:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return append(b, "null"...)
		}
		return strconv.AppendFloat(b, f, 'g', -1, 64)
	}
	return jsonString(b, text)
}

// typeOf returns the type of a <struct>'s member: a map's value, a record's
// field, or in event.from's batch, whose type the model leaves open, the
// record of the event's class, and numbers of objects.
func (e *element) typeOf(name string, t *xapidata.Type) *xapidata.Type {
	switch t.Kind {
	case xapidata.Map:
		return t.Elem
	case xapidata.Record:
		if c := xapidata.Load().Class(t.Name); c != nil {
			if f := c.Field(name); f != nil {
				return f.Type
			}
		}
	case xapidata.Other:
		if name == "valid_ref_counts" {
			return &xapidata.Type{Kind: xapidata.Map, Elem: &xapidata.Type{Kind: xapidata.Int}}
		}
		if class := e.member("class"); class != nil && name == "snapshot" {
			if c := xapidata.Load().ClassFold(class.plain()); c != nil {
				return &xapidata.Type{Kind: xapidata.Record, Name: c.Name}
			}
		}
	}
	return nil
}

func jsonString(b []byte, s string) []byte {
	q, _ := json.Marshal(s) // can't fail for a string
	return append(b, q...)
}
