package xapisim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/xen/internal/xapidata"
)

// Failure is an API error: a code and its parameters, as in xen-api's ocaml/xapi-consts/api_errors.ml.
type Failure struct {
	Code   string
	Params []string
}

// Error returns the code and the parameters.
func (f *Failure) Error() string { return f.Code + " [" + strings.Join(f.Params, ", ") + "]" }

func fail(code string, params ...string) error {
	if params == nil {
		params = []string{}
	}
	return &Failure{code, params}
}

// isoDate is the form of dates on the wire, seen from a real xapi: 20261122T23:41:57Z.
const isoDate = "20060102T15:04:05Z"

func (s *Sim) now() string { return time.Now().UTC().Format(isoDate) }

var (
	emptySet = []any{}
	emptyMap = map[string]any{}
)

// zero is the value of a field that the model gives no default.
func zero(m *xapidata.Model, t *xapidata.Type) any {
	switch t.Kind {
	case xapidata.Int:
		return int64(0)
	case xapidata.Float:
		return float64(0)
	case xapidata.Bool:
		return false
	case xapidata.Set:
		return emptySet
	case xapidata.Map:
		return emptyMap
	case xapidata.Ref:
		return nullRef
	case xapidata.Datetime:
		return "19700101T00:00:00Z"
	case xapidata.Enum:
		if v := m.Enum(t.Name); len(v) > 0 {
			return v[0]
		}
	}
	return ""
}

// parseDefault reads the model's notation of a default.
func parseDefault(m *xapidata.Model, f *xapidata.Field) any {
	d := f.Default
	if !f.HasDefault {
		return zero(m, f.Type)
	}
	switch f.Type.Kind {
	case xapidata.Int:
		n, _ := strconv.ParseInt(d, 10, 64)
		return n
	case xapidata.Float:
		x, _ := strconv.ParseFloat(d, 64)
		return x
	case xapidata.Bool:
		return d == "true"
	case xapidata.Ref:
		return nullRef
	case xapidata.Set:
		body := strings.Trim(d, "{}")
		if body == "" {
			return emptySet
		}
		var out []any
		for e := range strings.SplitSeq(body, ", ") {
			if f.Type.Elem.Kind == xapidata.Int {
				n, _ := strconv.ParseInt(e, 10, 64)
				out = append(out, n)
			} else {
				out = append(out, strings.Trim(e, `"`))
			}
		}
		return out
	case xapidata.Map:
		body := strings.Trim(d, "{}")
		if body == "" {
			return emptyMap
		}
		out := map[string]any{}
		for e := range strings.SplitSeq(body, ", ") {
			k, v, _ := strings.Cut(e, " -> ")
			out[strings.Trim(k, `"`)] = strings.Trim(v, `"`)
		}
		return out
	case xapidata.String:
		return strings.Trim(d, `"`)
	}
	return d
}

// date is an XML-RPC dateTime, distinguished from a string.
type date string

// describe writes a received value the way rpclib's Rpc.to_string does, for the texts of type errors.
func describe(v any) string {
	switch v := v.(type) {
	case int64:
		return fmt.Sprintf("I(%d)", v)
	case float64:
		return fmt.Sprintf("F(%g)", v)
	case bool:
		return fmt.Sprintf("B(%t)", v)
	case string:
		return "S(" + v + ")"
	case date:
		return "D(" + string(v) + ")"
	case []any:
		var p []string
		for _, x := range v {
			p = append(p, describe(x))
		}
		return "[" + strings.Join(p, ";") + "]"
	case map[string]any:
		var p []string
		for k, x := range v {
			p = append(p, k+":"+describe(x))
		}
		slices.Sort(p)
		return "{" + strings.Join(p, ";") + "}"
	}
	return "N"
}

// typeError returns the refusal of a wrong argument: rpclib's unmarshaller fails, and the dispatcher turns this into INTERNAL_ERROR. The
// code and the words "Expected bool, got" were seen from a real xapi; the value's notation after them is believed.
func typeError(want string, v any) error {
	return fail("INTERNAL_ERROR", "Expected "+want+", got '"+describe(v)+"'")
}

// convert checks one received value against its type and brings it to the form that objects store.
func (s *Sim) convert(t *xapidata.Type, v any) (any, error) {
	switch t.Kind {
	case xapidata.String, xapidata.Ref:
		if x, ok := v.(string); ok {
			return x, nil
		}
		return nil, typeError("string", v)
	case xapidata.Int: // a decimal string is accepted: that is what XML-RPC sends
		switch x := v.(type) {
		case int64:
			return x, nil
		case string:
			if n, err := strconv.ParseInt(x, 10, 64); err == nil {
				return n, nil
			}
			return nil, fail("INTERNAL_ERROR", "Int64.of_string") // believed: OCaml's Failure text
		}
		return nil, typeError("int64", v)
	case xapidata.Float:
		switch x := v.(type) {
		case float64:
			return x, nil
		case int64:
			return float64(x), nil
		case string:
			if f, err := strconv.ParseFloat(x, 64); err == nil {
				return f, nil
			}
		}
		return nil, typeError("float", v)
	case xapidata.Bool:
		if x, ok := v.(bool); ok {
			return x, nil
		}
		return nil, typeError("bool", v)
	case xapidata.Datetime:
		switch x := v.(type) {
		case string:
			return x, nil
		case date:
			return string(x), nil
		}
		return nil, fail("INTERNAL_ERROR", "Date.t_of_rpc")
	case xapidata.Enum: // gen_api.ml: an unknown value fails to unmarshal
		x, ok := v.(string)
		if !ok {
			return nil, typeError("string", v)
		}
		if vals := s.model.Enum(t.Name); vals != nil && !slices.Contains(vals, x) {
			if i := slices.IndexFunc(vals, func(e string) bool { return strings.EqualFold(e, x) }); i >= 0 {
				return vals[i], nil // values are compared in lower case (gen_api.ml)
			}
			return nil, fail("INTERNAL_ERROR", "Unknown tag/contents")
		}
		return x, nil
	case xapidata.Set:
		x, ok := v.([]any)
		if !ok {
			return nil, typeError("list", v)
		}
		out := make([]any, len(x))
		for i := range x {
			e, err := s.convert(t.Elem, x[i])
			if err != nil {
				return nil, err
			}
			out[i] = e
		}
		return out, nil
	case xapidata.Map:
		x, ok := v.(map[string]any)
		if !ok {
			return nil, typeError("dict", v)
		}
		out := make(map[string]any, len(x))
		for k, e := range x {
			if _, err := s.convert(t.Key, k); err != nil {
				return nil, err
			}
			c, err := s.convert(t.Elem, e)
			if err != nil {
				return nil, err
			}
			out[k] = c
		}
		return out, nil
	case xapidata.Record:
		return s.convertRecord(t, v)
	}
	return v, nil
}

// convertRecord checks a constructor's structure: every field without a default must be present, the server's own are ignored, and unknown
// ones too (gen_server.ml, from_ctor_record).
func (s *Sim) convertRecord(t *xapidata.Type, v any) (any, error) {
	x, ok := v.(map[string]any)
	if !ok {
		return nil, fail("INTERNAL_ERROR", "bad __structure")
	}
	c := s.model.Class(t.Name)
	if c == nil {
		return x, nil
	}
	out := map[string]any{}
	for i := range c.Fields {
		f := &c.Fields[i]
		if f.Qualifier == xapidata.Runtime {
			continue
		}
		got, ok := x[f.Name]
		if !ok {
			if !f.HasDefault {
				return nil, fail("INTERNAL_ERROR", `Server_helpers.Dispatcher_FieldNotFound("`+f.Name+`")`) // text believed
			}
			out[f.Name] = parseDefault(s.model, f)
			continue
		}
		conv, err := s.convert(f.Type, got)
		if err != nil {
			return nil, err
		}
		out[f.Name] = conv
	}
	return out, nil
}
