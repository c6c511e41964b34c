// Package xapidata holds XAPI's data model as tables: classes with their
// fields, types, defaults and messages. The facts are those of the published
// model (xapi-project.github.io, xenapi.json). The gen command beside this
// file makes tables.txt. Nothing else is shared by the driver and the
// simulator.
package xapidata

import (
	_ "embed"
	"fmt"
	"strings"
	"sync"
)

//go:generate go run ./gen -in xenapi.json -out tables.txt

//go:embed tables.txt
var tables string

// Kind is the shape of a type.
type Kind int

// The kinds of the model's type language.
const (
	Void Kind = iota
	String
	Int
	Float
	Bool
	Datetime
	Enum
	Ref
	Set
	Map
	Record
	Other // event batches and the few types that the model names without defining
)

// Type is one type of the model. Name is the enum, or the class of a Ref or Record.
type Type struct {
	Kind Kind
	Name string
	Key  *Type // of a Map
	Elem *Type // of a Set, or a Map's values
	Text string
}

// Qualifier is who may set a field.
type Qualifier byte

// The qualifiers: set by the server, at creation, or at any time.
const (
	Runtime     Qualifier = 'r'
	Constructor Qualifier = 'c'
	ReadWrite   Qualifier = 'w'
)

// Field is one field of a class's record.
type Field struct {
	Name       string
	Type       *Type
	Qualifier  Qualifier
	Default    string // in the model's spelling
	HasDefault bool
}

// Param is one parameter of a message, the session left out.
type Param struct {
	Name     string
	Type     *Type
	Optional bool
}

// Message is one call of a class.
type Message struct {
	Class, Name string
	Params      []Param
	Result      *Type
	Session     bool // the first parameter is a session
	Implicit    bool // derived from a field or from being a class
	Async       bool // Async.class.name exists
	Removed     bool
}

// Required returns the number of parameters, without the session, that a call
// must have.
func (m *Message) Required() int {
	n := 0
	for _, p := range m.Params {
		if !p.Optional {
			n++
		}
	}
	return n
}

// Class is one class of the model.
type Class struct {
	Name     string
	Fields   []Field
	Messages []*Message
	index    map[string]int
	message  map[string]*Message
}

// FieldIndex returns a field's place in Fields, or -1.
func (c *Class) FieldIndex(name string) int {
	if i, ok := c.index[name]; ok {
		return i
	}
	return -1
}

// Field returns a field by name, or nil.
func (c *Class) Field(name string) *Field {
	if i, ok := c.index[name]; ok {
		return &c.Fields[i]
	}
	return nil
}

// Message returns a message by name, or nil.
func (c *Class) Message(name string) *Message { return c.message[name] }

// Model is the whole model.
type Model struct {
	Classes []*Class
	byName  map[string]*Class
	byLower map[string]*Class
	enums   map[string][]string
	since   map[string]string
}

// Class returns a class by its exact name, or nil.
func (m *Model) Class(name string) *Class { return m.byName[name] }

// ClassFold returns a class by its name in any case (events use lower case),
// or nil.
func (m *Model) ClassFold(name string) *Class { return m.byLower[strings.ToLower(name)] }

// Enum returns an enum's values in the model's order, or nil.
func (m *Model) Enum(name string) []string { return m.enums[name] }

// Since returns the first xapi that has a class, "class.field",
// "class.message" or "class.message.parameter", such as "25.31.0". It is empty
// for what came with XenServer 7 or before, and for names that are unknown.
func (m *Model) Since(name string) string { return m.since[name] }

// Additions is everything for which Since is not empty. It must not be changed.
func (m *Model) Additions() map[string]string { return m.since }

// Message returns "class.message", or nil.
func (m *Model) Message(full string) *Message {
	class, name, ok := strings.Cut(full, ".")
	if c := m.byName[class]; ok && c != nil {
		return c.message[name]
	}
	return nil
}

// Load returns the model. It is read once.
var Load = sync.OnceValue(func() *Model {
	m, err := parse(tables)
	if err != nil {
		panic("xapidata: generated table: " + err.Error())
	}
	return m
})

func parse(text string) (*Model, error) {
	m := &Model{byName: map[string]*Class{}, byLower: map[string]*Class{}, enums: map[string][]string{}, since: map[string]string{}}
	types := map[string]*Type{}
	typ := func(s string) *Type {
		if t := types[s]; t != nil {
			return t
		}
		t := ParseType(s)
		types[s] = t
		return t
	}
	var c *Class
	for line := range strings.SplitSeq(text, "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		p := strings.Split(line, "\t")
		switch {
		case p[0] == "C" && len(p) == 2:
			c = &Class{Name: p[1], index: map[string]int{}, message: map[string]*Message{}}
			m.Classes = append(m.Classes, c)
			m.byName[c.Name], m.byLower[strings.ToLower(c.Name)] = c, c
		case p[0] == "E" && len(p) == 3:
			m.enums[p[1]] = strings.Fields(p[2])
		case p[0] == "F" && len(p) >= 4:
			f := Field{Name: p[1], Qualifier: Qualifier(p[2][0]), Type: typ(p[3])}
			if len(p) == 5 {
				f.Default, f.HasDefault = p[4], true
			}
			c.index[f.Name] = len(c.Fields)
			c.Fields = append(c.Fields, f)
		case p[0] == "S" && len(p) == 3:
			m.since[p[1]] = p[2]
		case p[0] == "M" && len(p) == 5:
			msg := &Message{
				Class: c.Name, Name: p[1], Result: typ(p[3]), Session: strings.Contains(p[2], "s"),
				Implicit: strings.Contains(p[2], "i"), Async: strings.Contains(p[2], "a"), Removed: strings.Contains(p[2], "x"),
			}
			for q := range strings.SplitSeq(p[4], ";") {
				if q == "" {
					continue
				}
				name, t, _ := strings.Cut(q, ":")
				opt := strings.HasSuffix(name, "?")
				msg.Params = append(msg.Params, Param{Name: strings.TrimSuffix(name, "?"), Type: typ(t), Optional: opt})
			}
			c.Messages = append(c.Messages, msg)
			c.message[msg.Name] = msg
		default:
			return nil, fmt.Errorf("line %q", line)
		}
	}
	return m, nil
}

// ParseType reads the model's notation: "VM ref set", "(string -> string) map", "enum on_boot".
func ParseType(s string) *Type {
	t := &Type{Text: s}
	switch {
	case s == "void":
		t.Kind = Void
	case s == "string":
		t.Kind = String
	case s == "int":
		t.Kind = Int
	case s == "float":
		t.Kind = Float
	case s == "bool":
		t.Kind = Bool
	case s == "datetime":
		t.Kind = Datetime
	case strings.HasSuffix(s, " set"):
		t.Kind, t.Elem = Set, ParseType(strings.TrimSuffix(s, " set"))
	case strings.HasPrefix(s, "(") && strings.HasSuffix(s, ") map"):
		k, v, _ := cutArrow(s[1 : len(s)-len(") map")])
		t.Kind, t.Key, t.Elem = Map, ParseType(k), ParseType(v)
	case strings.HasPrefix(s, "enum "):
		t.Kind, t.Name = Enum, strings.TrimPrefix(s, "enum ")
	case strings.HasSuffix(s, " ref"):
		t.Kind, t.Name = Ref, strings.TrimSuffix(s, " ref")
	case strings.HasSuffix(s, " record"):
		t.Kind, t.Name = Record, strings.TrimSuffix(s, " record")
	default:
		t.Kind = Other
	}
	return t
}

// cutArrow splits a map type at its own arrow, not at one inside a nested map.
func cutArrow(s string) (key, value string, ok bool) {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '(':
			depth++
		case s[i] == ')':
			depth--
		case depth == 0 && strings.HasPrefix(s[i:], " -> "):
			return s[:i], s[i+4:], true
		}
	}
	return s, "", false
}
