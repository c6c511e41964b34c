package xapisim

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/anyvisor/anyvisor/xen/internal/xapidata"
)

// appendJSON writes a stored value as JSON. Objects become their records.
func appendJSON(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case string:
		return appendJSONString(b, v)
	case date:
		return appendJSONString(b, string(v))
	case int64:
		return strconv.AppendInt(b, v, 10)
	case bool:
		return strconv.AppendBool(b, v)
	case float64: // a float keeps its point, so that it is not mistaken for an int
		if v == math.Trunc(v) && math.Abs(v) < 1e15 {
			return strconv.AppendFloat(b, v, 'f', 1, 64)
		}
		return strconv.AppendFloat(b, v, 'g', -1, 64)
	case *refSet:
		b = append(b, '[')
		for i := len(v.refs) - 1; i >= 0; i-- {
			if i < len(v.refs)-1 {
				b = append(b, ',')
			}
			b = appendJSONString(b, v.refs[i])
		}
		return append(b, ']')
	case []any:
		b = append(b, '[')
		for i, x := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSON(b, x)
		}
		return append(b, ']')
	case map[string]any:
		b = append(b, '{')
		for i, k := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSONString(b, k)
			b = append(b, ':')
			b = appendJSON(b, v[k])
		}
		return append(b, '}')
	case *object:
		if v.json == nil {
			v.json = appendRecord(nil, v)
		}
		return append(b, v.json...)
	case records:
		b = append(b, '{')
		for i, o := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSONString(b, o.ref)
			b = append(b, ':')
			b = appendJSON(b, o)
		}
		return append(b, '}')
	}
	return append(b, "null"...)
}

// sizeHint returns the approximate length of an answer, so that a big one is not copied as it grows.
func sizeHint(v any) int {
	n := 256
	if rs, ok := v.(records); ok {
		for _, o := range rs {
			if o.json == nil {
				o.json = appendRecord(make([]byte, 0, 4096), o)
			}
			n += len(o.json) + len(o.ref) + 4
		}
	}
	return n
}

// records is a map of references to records.
type records []*object

func appendRecord(b []byte, o *object) []byte {
	b = append(b, '{')
	for i := range o.class.Fields {
		if o.hidden[i] {
			continue
		}
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = appendJSONString(b, o.class.Fields[i].Name)
		b = append(b, ':')
		b = appendJSON(b, o.v[i])
	}
	return append(b, '}')
}

func appendJSONString(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= 0x7f {
			q, _ := json.Marshal(s)
			return append(b, q...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

var xmlEscape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&apos;")

// xmlValue writes a value as XML-RPC in the way of rpclib: strings and ints untyped, booleans and dates typed. The type distinguishes dates
// from strings; nil where it is not known.
func xmlValue(b *strings.Builder, v any, t *xapidata.Type) {
	b.WriteString("<value>")
	switch v := v.(type) {
	case string:
		if t != nil && t.Kind == xapidata.Datetime {
			b.WriteString("<dateTime.iso8601>" + v + "</dateTime.iso8601>")
		} else {
			b.WriteString(xmlEscape.Replace(v))
		}
	case int64:
		b.WriteString(strconv.FormatInt(v, 10))
	case bool:
		b.WriteString("<boolean>")
		if v {
			b.WriteByte('1')
		} else {
			b.WriteByte('0')
		}
		b.WriteString("</boolean>")
	case float64:
		b.WriteString("<double>" + strconv.FormatFloat(v, 'f', -1, 64) + "</double>")
	case *refSet:
		b.WriteString("<array><data>")
		for i := len(v.refs) - 1; i >= 0; i-- {
			xmlValue(b, v.refs[i], nil)
		}
		b.WriteString("</data></array>")
	case []any:
		b.WriteString("<array><data>")
		for _, x := range v {
			xmlValue(b, x, elemType(t))
		}
		b.WriteString("</data></array>")
	case map[string]any:
		b.WriteString("<struct>")
		for _, k := range slices.Sorted(maps.Keys(v)) {
			xmlMember(b, k, v[k], elemType(t))
		}
		b.WriteString("</struct>")
	case *object:
		b.WriteString("<struct>")
		for i := range v.class.Fields {
			if !v.hidden[i] {
				xmlMember(b, v.class.Fields[i].Name, v.v[i], v.class.Fields[i].Type)
			}
		}
		b.WriteString("</struct>")
	case records:
		b.WriteString("<struct>")
		for _, o := range v {
			xmlMember(b, o.ref, o, nil)
		}
		b.WriteString("</struct>")
	}
	b.WriteString("</value>")
}

func xmlMember(b *strings.Builder, name string, v any, t *xapidata.Type) {
	b.WriteString("<member><name>" + xmlEscape.Replace(name) + "</name>")
	xmlValue(b, v, t)
	b.WriteString("</member>")
}

func elemType(t *xapidata.Type) *xapidata.Type {
	if t != nil && (t.Kind == xapidata.Set || t.Kind == xapidata.Map) {
		return t.Elem
	}
	return nil
}
