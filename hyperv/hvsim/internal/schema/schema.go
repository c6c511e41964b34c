// Package schema is the class table of the simulated namespaces: classes with their properties, CIM types, keys
// and methods. Anything that is not in it does not exist on the simulated host.
package schema

import (
	_ "embed"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
)

//go:generate go run ./gen classes.txt

//go:embed classes.txt
var table string

// Kind is a CIM type without its array mark.
type Kind string

// The CIM kinds that the table uses.
const (
	String   Kind = "string"
	Boolean  Kind = "boolean"
	Uint8    Kind = "uint8"
	Uint16   Kind = "uint16"
	Uint32   Kind = "uint32"
	Uint64   Kind = "uint64"
	Sint8    Kind = "sint8"
	Sint16   Kind = "sint16"
	Sint32   Kind = "sint32"
	Sint64   Kind = "sint64"
	Real32   Kind = "real32"
	Real64   Kind = "real64"
	Datetime Kind = "datetime"
	Ref      Kind = "ref"
	Object   Kind = "object"
)

// Type is a CIM type; Class is set for references and embedded objects.
type Type struct {
	Kind  Kind
	Class string
	Array bool
}

// String formats the type as in the table.
func (t Type) String() string {
	s := string(t.Kind)
	if t.Class != "" {
		s += "(" + t.Class + ")"
	}
	if t.Array {
		s += "[]"
	}
	return s
}

// Property is a property of a class. Key marks those that identify an instance.
type Property struct {
	Name string
	Type Type
	Key  bool
}

// Param is a parameter of a method.
type Param struct {
	Name    string
	Type    Type
	In, Out bool
}

// Method is a method of a class; all of them return uint32.
type Method struct {
	Name   string
	Params []Param
}

// Param finds a parameter by name, case-insensitively like WMI, or nil if there is none.
func (m *Method) Param(name string) *Param {
	for i := range m.Params {
		if strings.EqualFold(m.Params[i].Name, name) {
			return &m.Params[i]
		}
	}
	return nil
}

// Class is a class with everything that it inherits, as in one build of Windows.
type Class struct {
	Name      string
	Namespace string
	Super     *Class
	Props     []Property // inherited first
	Keys      []int      // indexes into Props
	Methods   map[string]*Method
	Subs      []*Class
	// Later are the properties that a later build added.
	Later map[string]bool
	index map[string]int
}

// Prop finds a property by name, case-insensitively; -1 if there is none.
func (c *Class) Prop(name string) int {
	if i, ok := c.index[name]; ok {
		return i
	}
	if i, ok := c.index[strings.ToLower(name)]; ok {
		return i
	}
	return -1
}

// Method finds a method by name, case-insensitively; nil if there is none.
func (c *Class) Method(name string) *Method { return c.Methods[strings.ToLower(name)] }

// IsA reports whether c is the named class or below it.
func (c *Class) IsA(name string) bool {
	for k := c; k != nil; k = k.Super {
		if strings.EqualFold(k.Name, name) {
			return true
		}
	}
	return false
}

// Association reports whether the class joins two objects by reference.
func (c *Class) Association() bool {
	n := 0
	for _, p := range c.Props {
		if p.Key && p.Type.Kind == Ref {
			n++
		}
	}
	return n >= 2
}

// Namespace is a set of classes.
type Namespace struct {
	Name    string // with slashes: root/virtualization/v2
	classes map[string]*Class
	Order   []*Class
}

// Class finds a class by name, case-insensitively; nil if there is none.
func (n *Namespace) Class(name string) *Class {
	if c, ok := n.classes[name]; ok {
		return c
	}
	return n.classes[strings.ToLower(name)]
}

// Newest is a build with everything that the table has.
const Newest = math.MaxInt

// Lookup returns a namespace by its name with slashes, case-insensitively, as in a build of Windows, or nil if there is none.
func Lookup(namespace string, build int) *Namespace {
	all, err := at(build)
	if err != nil {
		panic("hvsim: class table: " + err.Error()) // the table is part of the binary; a test loads it
	}
	return all[strings.ToLower(namespace)]
}

var loaded struct {
	sync.Mutex
	by map[int]map[string]*Namespace // by the build of the last change
}

// at loads the table of a build. Builds without a change between them share one.
func at(build int) (map[string]*Namespace, error) {
	changes, err := later()
	if err != nil {
		return nil, err
	}
	last := 0
	for _, b := range changes {
		if b <= build {
			last = max(last, b)
		}
	}
	loaded.Lock()
	defer loaded.Unlock()
	if all := loaded.by[last]; all != nil {
		return all, nil
	}
	all, err := parse(changes, last)
	if err == nil {
		if loaded.by == nil {
			loaded.by = map[int]map[string]*Namespace{}
		}
		loaded.by[last] = all
	}
	return all, err
}

// later reads the first builds of classes ("class -") and of members ("class member").
var later = sync.OnceValues(func() (map[string]int, error) {
	out := map[string]int{}
	for n, line := range strings.Split(table, "\n") {
		f := strings.Fields(line)
		if len(f) != 4 || f[0] != "s" {
			continue
		}
		b, err := strconv.Atoi(f[1])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n+1, err)
		}
		out[f[2]+" "+f[3]] = b
	}
	return out, nil
})

func parse(changes map[string]int, build int) (map[string]*Namespace, error) {
	all := map[string]*Namespace{}
	lacks := func(class, member string) bool { return changes[class+" "+member] > build }
	var ns *Namespace
	var cl *Class
	var keys []string
	finish := func() {
		if len(keys) > 0 { // they replace what is inherited
			for _, i := range cl.Keys {
				cl.Props[i].Key = false
			}
			cl.Keys = nil
		}
		for _, k := range keys {
			if i := cl.Prop(k); i >= 0 {
				cl.Props[i].Key = true
				cl.Keys = append(cl.Keys, i)
			}
		}
	}
	for n, line := range strings.Split(table, "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] == "#" || f[0] == "s" {
			continue
		}
		switch {
		case f[0] == "n" && len(f) == 2:
			if cl != nil {
				finish()
				cl = nil
			}
			ns = &Namespace{Name: f[1], classes: map[string]*Class{}}
			all[strings.ToLower(f[1])] = ns
			system := newClass(ns, "__NAMESPACE", "") // every namespace has it
			system.add(Property{Name: "Name", Type: Type{Kind: String}, Key: true})
			system.Keys = []int{0}
		case f[0] == "c" && len(f) == 4 && ns != nil:
			if cl != nil {
				finish()
			}
			to := ns
			if lacks(f[1], "-") {
				to = &Namespace{Name: ns.Name, classes: map[string]*Class{}} // which nobody sees
			}
			cl = newClass(to, f[1], f[2])
			keys = nil
			if f[3] != "-" {
				keys = strings.Split(f[3], ",")
			}
		case f[0] == "p" && len(f) == 3 && cl != nil:
			t, err := parseType(f[2])
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", n+1, err)
			}
			if lacks(cl.Name, f[1]) {
				cl.Later[f[1]] = true
				continue
			}
			cl.add(Property{Name: f[1], Type: t})
		case f[0] == "m" && len(f) >= 2 && cl != nil:
			m := &Method{Name: f[1]}
			for _, s := range f[2:] {
				p := strings.Split(s, ":")
				if len(p) != 3 {
					return nil, fmt.Errorf("line %d: parameter %q", n+1, s)
				}
				t, err := parseType(p[1])
				if err != nil {
					return nil, fmt.Errorf("line %d: %w", n+1, err)
				}
				m.Params = append(m.Params, Param{Name: p[0], Type: t, In: strings.HasPrefix(p[2], "in"), Out: strings.HasSuffix(p[2], "out")})
			}
			if !lacks(cl.Name, m.Name) {
				cl.Methods[strings.ToLower(m.Name)] = m
			}
		default:
			return nil, fmt.Errorf("line %d: %q", n+1, line)
		}
	}
	if cl != nil {
		finish()
	}
	return all, nil
}

func newClass(ns *Namespace, name, super string) *Class {
	c := &Class{Name: name, Namespace: ns.Name, Methods: map[string]*Method{}, Later: map[string]bool{}, index: map[string]int{}}
	if s := ns.Class(super); s != nil {
		c.Super = s
		s.Subs = append(s.Subs, c)
		for _, p := range s.Props {
			c.add(p)
		}
		c.Keys = append(c.Keys, s.Keys...)
		for k, m := range s.Methods {
			c.Methods[k] = m
		}
	}
	ns.classes[name] = c
	ns.classes[strings.ToLower(name)] = c
	ns.Order = append(ns.Order, c)
	return c
}

// add appends a property, or overrides an inherited one.
func (c *Class) add(p Property) {
	if i := c.Prop(p.Name); i >= 0 {
		p.Key = c.Props[i].Key
		c.Props[i] = p
		return
	}
	c.index[p.Name] = len(c.Props)
	c.index[strings.ToLower(p.Name)] = len(c.Props)
	c.Props = append(c.Props, p)
}

func parseType(s string) (Type, error) {
	var t Type
	s, t.Array = strings.CutSuffix(s, "[]")
	if i := strings.IndexByte(s, '('); i > 0 && strings.HasSuffix(s, ")") {
		t.Class = s[i+1 : len(s)-1]
		s = s[:i]
	}
	switch k := Kind(s); k {
	case String, Boolean, Uint8, Uint16, Uint32, Uint64, Sint8, Sint16, Sint32, Sint64, Real32, Real64, Datetime, Ref, Object:
		t.Kind = k
		return t, nil
	}
	return t, fmt.Errorf("type %q", s)
}
