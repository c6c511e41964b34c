package xapisim

import (
	"regexp"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/xen/internal/xapidata"
)

// generic returns the handler of a message that is derived from a class or a field: the database's own actions (xen-api
// ocaml/idl/datamodel_utils.ml, ocaml/idl/ocaml_backend/gen_db_actions.ml). It is nil for messages with an effect of their own.
func generic(m *xapidata.Message) handler {
	if !m.Implicit || refusedAs[m.Class+"."+m.Name] != "" {
		return nil
	}
	switch m.Name {
	case "get_all":
		return func(c *call) (any, error) {
			out := []any{}
			for _, o := range c.all(m.Class) {
				out = append(out, o.ref)
			}
			return out, nil
		}
	case "get_all_records":
		return func(c *call) (any, error) { return records(c.all(m.Class)), nil }
	case "get_all_records_where":
		return getWhere
	case "get_record":
		return func(c *call) (any, error) { return c.get(m.Class, c.str(0)) }
	case "get_by_uuid":
		return func(c *call) (any, error) {
			if o := c.tables[m.Class].byUUID[c.str(0)]; o != nil {
				return o.ref, nil
			}
			return nil, fail("UUID_INVALID", m.Class, c.str(0))
		}
	case "get_by_name_label":
		return func(c *call) (any, error) {
			out := []any{}
			for _, o := range c.all(m.Class) {
				if o.str("name_label") == c.str(0) {
					out = append(out, o.ref)
				}
			}
			return out, nil
		}
	case "create":
		return func(c *call) (any, error) { return c.newObject(m.Class, c.dict(0)).ref, nil }
	case "destroy":
		return func(c *call) (any, error) {
			o, err := c.get(m.Class, c.str(0))
			if err == nil {
				c.remove(o)
			}
			return nil, err
		}
	}
	class := xapidata.Load().Class(m.Class)
	for _, p := range []struct {
		prefix string
		make   func(class, field string) handler
	}{{"get_", getter}, {"set_", setter}, {"add_to_", adder}, {"remove_from_", remover}, {"add_", setAdder}, {"remove_", setRemover}} {
		if field, ok := strings.CutPrefix(m.Name, p.prefix); ok && class.Field(field) != nil {
			return p.make(m.Class, field)
		}
	}
	return nil
}

func getter(class, field string) handler {
	return func(c *call) (any, error) {
		o, err := c.get(class, c.str(0))
		if err != nil {
			return nil, err
		}
		return o.val(field), nil
	}
}

func setter(class, field string) handler {
	return func(c *call) (any, error) {
		o, err := c.get(class, c.str(0))
		if err == nil {
			c.set(o, field, c.args[1])
		}
		return nil, err
	}
}

// adder refuses a key that exists: MAP_DUPLICATE_KEY [class, field, ref, key], seen from a real xapi.
func adder(class, field string) handler {
	return func(c *call) (any, error) {
		o, err := c.get(class, c.str(0))
		if err != nil {
			return nil, err
		}
		if _, ok := o.dict(field)[c.str(1)]; ok {
			return nil, fail("MAP_DUPLICATE_KEY", class, field, o.ref, c.str(1))
		}
		c.put(o, field, c.str(1), c.args[2])
		return nil, nil
	}
}

func remover(class, field string) handler {
	return func(c *call) (any, error) {
		o, err := c.get(class, c.str(0))
		if err == nil {
			c.drop(o, field, c.str(1))
		}
		return nil, err
	}
}

func setAdder(class, field string) handler {
	return func(c *call) (any, error) {
		o, err := c.get(class, c.str(0))
		if err != nil {
			return nil, err
		}
		if old := o.refs(field); !slices.Contains(old, c.str(1)) {
			c.set(o, field, anys(append(old, c.str(1))))
		}
		return nil, nil
	}
}

func setRemover(class, field string) handler {
	return func(c *call) (any, error) {
		o, err := c.get(class, c.str(0))
		if err == nil {
			c.set(o, field, anys(slices.DeleteFunc(o.refs(field), func(x string) bool { return x == c.str(1) })))
		}
		return nil, err
	}
}

// term is one comparison of a get_all_records_where expression.
var term = regexp.MustCompile(`^\(*\s*(not\s+)?\(?\s*field\s*"(\w+)"\s*=\s*"([^"]*)"\s*\)*$`)

// stored spells a field as the database does: name__label (recorded), memory__static_max. The groups are the namespaces of the data model.
var stored = regexp.MustCompile(`^(name|memory|VCPUs|actions|PV|HVM|qos|API_version)_(\w+)$`)

// getWhere supports the expressions that clients send: comparisons of a field with a literal, joined by and, and true. Others are refused
// as a real xapi refused what it can't parse, and so are names of the API in place of the database's.
func getWhere(c *call) (any, error) {
	expr := strings.TrimSpace(c.str(0))
	if expr == "true" {
		return records(c.all(c.msg.Class)), nil
	}
	fields := map[string]string{}
	for _, f := range c.model.Class(c.msg.Class).Fields {
		fields[stored.ReplaceAllString(f.Name, "${1}__$2")] = f.Name
	}
	keep := c.all(c.msg.Class)
	for part := range strings.SplitSeq(expr, " and ") {
		m := term.FindStringSubmatch(strings.TrimSpace(part))
		if m == nil {
			return nil, fail("INVALID_VALUE", expr, "lexing: empty token")
		}
		field, ok := fields[m[2]]
		if !ok {
			return nil, fail("INTERNAL_ERROR", "missing field", m[2], "")
		}
		keep = slices.DeleteFunc(keep, func(o *object) bool {
			have := string(appendJSON(nil, o.val(field)))
			return (strings.Trim(have, `"`) == m[3]) == (m[1] != "")
		})
	}
	return records(keep), nil
}
