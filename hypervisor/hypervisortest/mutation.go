package hypervisortest

import (
	"reflect"
	"slices"
	"sync/atomic"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// mutation sets one field to its zero value wherever it passes.
type mutation struct {
	field
	// whole mutates the outermost pointer on the path instead: the fields of
	// a part that a driver refuses as a whole make no difference.
	whole bool
	on    atomic.Bool
	hits  atomic.Int64
	// absent is set when the driver below lacks an operation that was called.
	absent atomic.Bool
}

// asked returns a request as it reaches a driver that does not see the field.
func asked[T any](m *mutation, r T) T {
	if m == nil || !m.on.Load() {
		return r
	}
	v := reflect.ValueOf(&r).Elem()
	switch t := v.Type(); {
	case t == m.root, t == reflect.TypeFor[hypervisor.VMQuery]() && m.root == reflect.TypeFor[hypervisor.ListOptions]():
		if v.FieldByName(m.path[0]).IsValid() {
			v.Set(m.without(v, m.path))
		}
	case t.Kind() == reflect.Struct:
		in, ok := t.FieldByName(m.root.Name())
		if !ok || !in.Anonymous || in.Type != m.root {
			break
		}
		f := v.FieldByIndex(in.Index)
		if own := v.FieldByName(m.path[0]); own.Type() != f.FieldByName(m.path[0]).Type() { // instead of the embedded one
			m.clear(own)
		} else {
			f.Set(m.without(f, m.path))
		}
	}
	return r
}

// read returns a result in which the field is empty, wherever it is nested.
func read[T any](m *mutation, r T) T {
	if m == nil || !m.on.Load() {
		return r
	}
	v := reflect.ValueOf(&r).Elem()
	v.Set(m.inside(v))
	return r
}

// inside returns v without the field of each value of the field's type.
func (m *mutation) inside(v reflect.Value) reflect.Value {
	switch t := v.Type(); t.Kind() {
	case reflect.Pointer, reflect.Slice:
		if in := inner(t); in != nil {
			return each(v, m.inside)
		}
	case reflect.Struct:
		if t == m.root || t == reflect.TypeFor[hypervisor.VMInfo]() && m.root == reflect.TypeFor[hypervisor.TemplateInfo]() {
			return m.without(v, m.path)
		}
		n := reflect.New(t).Elem()
		n.Set(v)
		for i := range t.NumField() {
			if t.Field(i).IsExported() && (t.PkgPath() == refType.PkgPath()) {
				n.Field(i).Set(m.inside(v.Field(i)))
			}
		}
		return n
	}
	return v
}

// without returns a copy of v in which the field at the path is zero.
func (m *mutation) without(v reflect.Value, path []string) reflect.Value {
	if k := v.Kind(); k == reflect.Pointer || k == reflect.Slice {
		return each(v, func(v reflect.Value) reflect.Value { return m.without(v, path) })
	}
	n := reflect.New(v.Type()).Elem()
	n.Set(v)
	f := n.FieldByName(path[0])
	if len(path) == 1 || m.whole && f.Kind() == reflect.Pointer {
		m.clear(f)
	} else {
		f.Set(m.without(f, path[1:]))
	}
	return n
}

func (m *mutation) clear(f reflect.Value) {
	if !f.IsZero() {
		m.hits.Add(1)
		f.SetZero()
	}
}

// each copies the value that a pointer points to or a slice holds.
func each(v reflect.Value, f func(reflect.Value) reflect.Value) reflect.Value {
	if v.IsNil() {
		return v
	}
	if v.Kind() == reflect.Pointer {
		n := reflect.New(v.Type().Elem())
		n.Elem().Set(f(v.Elem()))
		return n
	}
	n := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
	for i := range v.Len() {
		n.Index(i).Set(f(v.Index(i)))
	}
	return n
}

// inPart reports whether the field is in a part that is optional as a whole.
func (f field) inPart() bool {
	t := f.root
	return slices.ContainsFunc(f.path[:len(f.path)-1], func(name string) bool {
		s, _ := t.FieldByName(name)
		t = inner(s.Type)
		return s.Type.Kind() == reflect.Pointer
	})
}
