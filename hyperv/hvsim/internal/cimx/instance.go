package cimx

import (
	"fmt"
	"slices"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/schema"
)

// Instance is an instance of a class: every property of the class, NULL until set.
type Instance struct {
	Class *schema.Class
	Host  string
	vals  []any
}

// New makes an instance with all properties NULL.
func New(c *schema.Class, host string) *Instance {
	return &Instance{Class: c, Host: host, vals: make([]any, len(c.Props))}
}

// Copy makes an independent copy. Array values are shared and must not be changed in place.
func (i *Instance) Copy() *Instance {
	c := *i
	c.vals = slices.Clone(i.vals)
	return &c
}

// At returns the value of the n-th property of the class.
func (i *Instance) At(n int) any { return i.vals[n] }

// Get returns a property's value, or nil if it is NULL or the class has no such property.
func (i *Instance) Get(name string) any {
	if n := i.Class.Prop(name); n >= 0 {
		return i.vals[n]
	}
	return nil
}

// Put sets a property, checking name and type.
func (i *Instance) Put(name string, v any) error {
	n := i.Class.Prop(name)
	if n < 0 {
		return fmt.Errorf("%w: class %s has no property %s", ErrProperty, i.Class.Name, name)
	}
	c, err := Coerce(i.Class.Props[n].Type, v)
	if err != nil {
		return fmt.Errorf("%s.%s: %w", i.Class.Name, name, err)
	}
	i.vals[n] = c
	return nil
}

// Set is Put for the simulator's own values, where a failure is a programming error. Properties that a later build added are left
// out.
func (i *Instance) Set(name string, v any) *Instance {
	if i.Class.Later[name] {
		return i
	}
	if err := i.Put(name, v); err != nil {
		panic("hvsim: " + err.Error())
	}
	return i
}

// Str returns a property as text; empty if NULL.
func (i *Instance) Str(name string) string { return Text(i.Get(name)) }

// Uint returns an unsigned property; 0 if NULL or not a number.
func (i *Instance) Uint(name string) uint64 {
	switch x := i.Get(name).(type) {
	case uint8:
		return uint64(x)
	case uint16:
		return uint64(x)
	case uint32:
		return uint64(x)
	case uint64:
		return x
	}
	return 0
}

// Bool returns a boolean property; false if NULL.
func (i *Instance) Bool(name string) bool { b, _ := i.Get(name).(bool); return b }

// Strings returns an array of strings.
func (i *Instance) Strings(name string) []string {
	a, _ := i.Get(name).([]any)
	out := make([]string, 0, len(a))
	for _, v := range a {
		out = append(out, Text(v))
	}
	return out
}

// Ref returns the reference to the instance.
func (i *Instance) Ref() Ref {
	r := Ref{Host: i.Host, Namespace: i.Class.Namespace, Class: i.Class.Name}
	for _, k := range i.Class.Keys {
		r.Keys = append(r.Keys, KeyValue{i.Class.Props[k].Name, Text(i.vals[k])})
	}
	return r
}

// Recast changes the instance's class to that of another build. Properties that the build lacks are dropped.
func (i *Instance) Recast(c *schema.Class) {
	was := *i
	i.Class, i.vals = c, make([]any, len(c.Props))
	for n, p := range c.Props {
		i.vals[n] = was.Get(p.Name)
	}
}

// Merge copies every property that is set in from, keys excepted, where the class has it.
func (i *Instance) Merge(from *Instance) {
	for n, v := range from.vals {
		p := from.Class.Props[n]
		if v == nil || p.Key {
			continue
		}
		if k := i.Class.Prop(p.Name); k >= 0 {
			i.vals[k] = v
		}
	}
}
