package cim

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// Value is a property's value as received from the server. WS-Management
// sends text without types, so a value is kept as text and read by the
// accessor of the type that the class declares. The zero Value is null.
type Value struct {
	text string
	set  bool
	ext  *extra
}

type extra struct {
	more  []string // the second and further elements of an array
	refs  []Ref
	insts []*Instance
}

// TextValue makes a value from one or more texts.
func TextValue(s ...string) Value {
	if len(s) == 0 {
		return Value{}
	}
	v := Value{text: s[0], set: true}
	if len(s) > 1 {
		v.ext = &extra{more: s[1:]}
	}
	return v
}

// RefValue makes a value from references.
func RefValue(r ...Ref) Value { return Value{set: true, ext: &extra{refs: r}} }

// InstanceValue makes a value from embedded instances.
func InstanceValue(i ...*Instance) Value { return Value{set: true, ext: &extra{insts: i}} }

// Append adds the elements of w: arrays arrive one element at a time.
func (v *Value) Append(w Value) {
	if !w.set {
		return
	}
	if !v.set {
		*v = w
		return
	}
	if v.ext == nil {
		v.ext = &extra{}
	}
	if w.ext != nil && (w.ext.refs != nil || w.ext.insts != nil) {
		v.ext.refs = append(v.ext.refs, w.ext.refs...)
		v.ext.insts = append(v.ext.insts, w.ext.insts...)
		return
	}
	v.ext.more = append(v.ext.more, w.Strings()...)
}

// IsNull reports whether the property has no value.
func (v Value) IsNull() bool { return !v.set }

// String returns the text, or the first element of an array.
func (v Value) String() string { return v.text }

// Strings returns all elements, or nil for null.
func (v Value) Strings() []string {
	switch {
	case !v.set:
		return nil
	case v.ext == nil:
		return []string{v.text}
	case v.ext.refs != nil || v.ext.insts != nil:
		return nil
	}
	return append([]string{v.text}, v.ext.more...)
}

// Refs returns the references of the value. It parses object paths given as
// text and leaves out any text that is not a path.
func (v Value) Refs() []Ref {
	if v.ext != nil && v.ext.refs != nil {
		return v.ext.refs
	}
	var out []Ref
	for _, s := range v.Strings() {
		if r, err := ParsePath(s); err == nil {
			out = append(out, r)
		}
	}
	return out
}

// Instances returns the embedded instances. It parses those given as CIM-XML
// text and leaves out any text that is not an instance.
func (v Value) Instances() []*Instance {
	if v.ext != nil && v.ext.insts != nil {
		return v.ext.insts
	}
	var out []*Instance
	for _, s := range v.Strings() {
		if i, err := ParseInstance(s); err == nil {
			out = append(out, i)
		}
	}
	return out
}

// Uint reads an unsigned integer. It is 0 for null or for anything else.
func (v Value) Uint() uint64 { return parseUint(v.text) }

func parseUint(s string) uint64 {
	if n, err := strconv.ParseUint(s, 10, 64); err == nil {
		return n
	}
	// Automation has no unsigned 32-bit type: a uint32 arrives as a negative
	// VT_I4.
	if n, err := strconv.ParseInt(s, 10, 32); err == nil {
		return uint64(uint32(n))
	}
	return 0
}

// Int reads a signed integer.
func (v Value) Int() int64 {
	n, _ := strconv.ParseInt(v.text, 10, 64)
	return n
}

// Bool reads a boolean.
func (v Value) Bool() bool {
	switch {
	case strings.EqualFold(v.text, "true"), v.text == "1", v.text == "-1":
		return true
	}
	return false
}

// Uints reads an array of unsigned integers.
func (v Value) Uints() []uint64 {
	s := v.Strings()
	out := make([]uint64, len(s))
	for i := range s {
		out[i] = parseUint(s[i])
	}
	return out
}

// Time reads a point in time in CIM form (yyyymmddHHMMSS.mmmmmm+UUU, DSP0004)
// or in XML form, as WS-Management sends it.
func (v Value) Time() time.Time {
	s := v.text
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t
	}
	if len(s) != 25 || (s[21] != '+' && s[21] != '-') {
		return time.Time{}
	}
	t, err := time.Parse("20060102150405.000000", s[:21])
	if err != nil {
		return time.Time{}
	}
	off, err := strconv.Atoi(s[21:])
	if err != nil {
		return time.Time{}
	}
	return t.Add(-time.Duration(off) * time.Minute).UTC()
}

// Prop is a named value with its CIM type, which a writer needs. See [Typed].
type Prop struct {
	Name  string
	Value Value
	Type  string
	Array bool
}

// Instance is an object that the server sent: a row, an embedded instance or
// the output of a method.
type Instance struct {
	Class string
	Props []Prop
}

// Get returns a property's value, or null if there is none. Property names
// are not case-sensitive in CIM.
func (i *Instance) Get(name string) Value {
	for k := range i.Props {
		if i.Props[k].Name == name {
			return i.Props[k].Value
		}
	}
	for k := range i.Props {
		if strings.EqualFold(i.Props[k].Name, name) {
			return i.Props[k].Value
		}
	}
	return Value{}
}

// Has reports whether the object has the property, which may be null.
func (i *Instance) Has(name string) bool {
	return slices.ContainsFunc(i.Props, func(p Prop) bool { return strings.EqualFold(p.Name, name) })
}

// Add appends an element to a property, and makes the property if necessary.
func (i *Instance) Add(name string, v Value) {
	// Elements of an array follow each other.
	if n := len(i.Props); n > 0 && i.Props[n-1].Name == name {
		i.Props[n-1].Value.Append(v)
		return
	}
	i.Props = append(i.Props, Prop{Name: name, Value: v})
}

// Str, Uint, Bool and the others read a property of that type.
func (i *Instance) Str(name string) string        { return i.Get(name).String() }
func (i *Instance) Strs(name string) []string     { return i.Get(name).Strings() }
func (i *Instance) Uint(name string) uint64       { return i.Get(name).Uint() }
func (i *Instance) Uints(name string) []uint64    { return i.Get(name).Uints() }
func (i *Instance) Bool(name string) bool         { return i.Get(name).Bool() }
func (i *Instance) Time(name string) time.Time    { return i.Get(name).Time() }
func (i *Instance) Insts(name string) []*Instance { return i.Get(name).Instances() }

// Ref reads a reference property.
func (i *Instance) Ref(name string) (Ref, bool) {
	if r := i.Get(name).Refs(); len(r) > 0 && !r[0].IsZero() {
		return r[0], true
	}
	return Ref{}, false
}

// Self returns the instance's own reference, built from its key properties.
// The key sets are those of the CIM base classes that every Msvm_ class
// derives from: CIM_LogicalDevice, CIM_Service, CIM_System and the classes
// that are keyed by InstanceID.
func (i *Instance) Self(server string) Ref {
	r := Ref{Server: server, Namespace: Virtualization, Class: i.Class}
	keys := []string{"InstanceID"}
	switch has := func(n string) bool { return !i.Get(n).IsNull() }; {
	case has("SystemCreationClassName") && has("DeviceID"):
		keys = []string{"CreationClassName", "DeviceID", "SystemCreationClassName", "SystemName"}
	case has("SystemCreationClassName") && has("Name"):
		keys = []string{"CreationClassName", "Name", "SystemCreationClassName", "SystemName"}
	case has("CreationClassName") && has("Name"):
		keys = []string{"CreationClassName", "Name"}
	case !has("InstanceID") && has("Name"):
		keys = []string{"Name"}
	}
	for _, k := range keys {
		r.Keys = append(r.Keys, Key{k, i.Str(k)})
	}
	return r
}
