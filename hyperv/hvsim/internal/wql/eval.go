package wql

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/schema"
)

// Check reports the names in the SELECT list and WHERE clause that the class lacks; WMI refuses such a query as invalid.
func Check(q *Query, c *schema.Class) error {
	for _, f := range q.Fields {
		if c.Prop(f) < 0 && !strings.HasPrefix(f, "__") {
			return fmt.Errorf("%w: class %s has no property %s", ErrQuery, c.Name, f)
		}
	}
	return checkExpr(q.Where, c)
}

func checkExpr(e Expr, c *schema.Class) error {
	switch x := e.(type) {
	case And:
		if err := checkExpr(x.L, c); err != nil {
			return err
		}
		return checkExpr(x.R, c)
	case Or:
		if err := checkExpr(x.L, c); err != nil {
			return err
		}
		return checkExpr(x.R, c)
	case Not:
		return checkExpr(x.X, c)
	case Compare:
		if strings.HasPrefix(x.Name, "__") {
			return nil
		}
		n := c.Prop(x.Name)
		if n < 0 {
			return fmt.Errorf("%w: class %s has no property %s", ErrQuery, c.Name, x.Name)
		}
		if f, ok := x.Value.(Field); ok && !strings.HasPrefix(string(f), "__") && c.Prop(string(f)) < 0 {
			return fmt.Errorf("%w: class %s has no property %s", ErrQuery, c.Name, f)
		}
		t := c.Props[n].Type
		if t.Array && x.Op != "NULL" && x.Op != "NOTNULL" {
			return fmt.Errorf("%w: %s is an array", ErrQuery, x.Name) // [D: "Querying with WQL": arrays cannot be compared]
		}
		if s, ok := x.Value.(string); ok && x.Op != "LIKE" && number(t.Kind) {
			if _, err := strconv.ParseFloat(strings.TrimSpace(s), 64); err != nil {
				return fmt.Errorf("%w: %s is compared with %q", ErrQuery, x.Name, s)
			}
		}
	}
	return nil
}

func number(k schema.Kind) bool {
	switch k {
	case schema.String, schema.Datetime, schema.Ref, schema.Object, schema.Boolean:
		return false
	}
	return true
}

// Match evaluates a condition. get returns the value of a (possibly dotted) name.
func Match(e Expr, get func(name string) any) bool {
	switch x := e.(type) {
	case nil:
		return true
	case And:
		return Match(x.L, get) && Match(x.R, get)
	case Or:
		return Match(x.L, get) || Match(x.R, get)
	case Not:
		return !Match(x.X, get)
	case Compare:
		v := get(x.Name)
		want := x.Value
		if f, ok := want.(Field); ok {
			want = get(string(f))
		}
		return compare(x.Op, v, want)
	}
	return false
}

// MatchInstance evaluates a condition on an instance.
func MatchInstance(e Expr, i *cimx.Instance) bool {
	if e == nil {
		return true
	}
	return Match(e, func(n string) any {
		switch strings.ToUpper(n) {
		case "__CLASS":
			return i.Class.Name
		case "__SERVER":
			return i.Host
		case "__PATH":
			return i.Ref().Path()
		case "__RELPATH":
			return i.Ref().RelPath()
		}
		return i.Get(n)
	})
}

func compare(op string, v, want any) bool {
	switch op {
	case "NULL":
		return v == nil
	case "NOTNULL":
		return v != nil
	case "ISA":
		i, ok := v.(*cimx.Instance)
		return ok && i.Class.IsA(want.(string))
	}
	if v == nil {
		return false // NULL compares with nothing
	}
	if op == "LIKE" {
		return Like(want.(string), cimx.Text(v))
	}
	n, ok := order(v, want)
	if !ok {
		return false
	}
	switch op {
	case "=":
		return n == 0
	case "<>":
		return n != 0
	case "<":
		return n < 0
	case ">":
		return n > 0
	case "<=":
		return n <= 0
	case ">=":
		return n >= 0
	}
	return false
}

func order(v, want any) (int, bool) {
	if b, ok := v.(bool); ok {
		var w bool
		switch x := want.(type) {
		case bool:
			w = x
		case int64:
			w = x != 0
		case string:
			w = strings.EqualFold(x, "true")
		default:
			return 0, false
		}
		switch {
		case b == w:
			return 0, true
		case b:
			return 1, true
		}
		return -1, true
	}
	if s, ok := v.(string); ok {
		// Hyper-V finds object paths that are written with plain and with doubled backslashes
		// [O: vmutils._get_attached_disks_query_string, detach_vm_disk].
		if w, ok := want.(string); ok && strings.HasPrefix(s, `\\`) && strings.Contains(s, ":Msvm_") {
			plain := strings.NewReplacer(`\`, "")
			return strings.Compare(strings.ToLower(plain.Replace(s)), strings.ToLower(plain.Replace(w))), true
		}
		return strings.Compare(strings.ToLower(s), strings.ToLower(cimx.Text(want))), true // WQL ignores case
	}
	if r, ok := v.(cimx.Ref); ok {
		w, err := cimx.ParsePath(cimx.Text(want))
		if err == nil && strings.EqualFold(w.Class, r.Class) && w.Key() == r.Key() {
			return 0, true
		}
		return 1, true
	}
	a, err := strconv.ParseInt(cimx.Text(v), 10, 64)
	b, err2 := strconv.ParseInt(strings.TrimSpace(cimx.Text(want)), 10, 64)
	if err == nil && err2 == nil {
		switch {
		case a < b:
			return -1, true
		case a > b:
			return 1, true
		}
		return 0, true
	}
	x, err := strconv.ParseFloat(cimx.Text(v), 64)
	y, err2 := strconv.ParseFloat(strings.TrimSpace(cimx.Text(want)), 64)
	if err != nil || err2 != nil {
		return 0, false
	}
	switch {
	case x < y:
		return -1, true
	case x > y:
		return 1, true
	}
	return 0, true
}

// Like matches a LIKE pattern: % any run, _ one character, [abc], [a-z], [^x]. [D: "LIKE Operator"]
func Like(pattern, s string) bool {
	return like([]rune(strings.ToLower(pattern)), []rune(strings.ToLower(s)))
}

func like(p, s []rune) bool {
	for len(p) > 0 {
		switch p[0] {
		case '%':
			for len(p) > 0 && p[0] == '%' {
				p = p[1:]
			}
			if len(p) == 0 {
				return true
			}
			for i := range s {
				if like(p, s[i:]) {
					return true
				}
			}
			return false
		case '[':
			end := 1
			for end < len(p) && p[end] != ']' {
				end++
			}
			if end == len(p) || len(s) == 0 || !inSet(p[1:end], s[0]) {
				return false
			}
			p, s = p[end+1:], s[1:]
		case '_':
			if len(s) == 0 {
				return false
			}
			p, s = p[1:], s[1:]
		default:
			if len(s) == 0 || s[0] != p[0] {
				return false
			}
			p, s = p[1:], s[1:]
		}
	}
	return len(s) == 0
}

func inSet(set []rune, c rune) bool {
	not := len(set) > 0 && set[0] == '^'
	if not {
		set = set[1:]
	}
	in := false
	for i := 0; i < len(set); i++ {
		if i+2 < len(set) && (set[i+1] == '-' || set[i+1] == '=') {
			in = in || c >= set[i] && c <= set[i+2]
			i += 2
		} else {
			in = in || c == set[i]
		}
	}
	return in != not
}
