package hypervisortest

import (
	"reflect"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// field is one field of a request or result, or of a struct inside: its name
// is "VMSpec.Placement.Host". A struct inside is named by its fields alone.
type field struct {
	root reflect.Type
	path []string
}

func (f field) String() string { return f.root.Name() + "." + strings.Join(f.path, ".") }

// requestFields returns the fields of all options, specifications and requests
// that operations take.
func requestFields() []field {
	var out []field
	for _, t := range types(func(o hypervisor.Operation) any { return o.Request }) {
		out = append(out, fieldsOf(t, nil)...)
	}
	return out
}

// resultFields returns the fields of everything that operations read. Results
// inside others are named by their own type.
func resultFields() []field {
	all := types(func(o hypervisor.Operation) any { return o.Result })
	var out []field
	for _, t := range all {
		out = append(out, fieldsOf(t, all)...)
	}
	return out
}

// types returns the types of the operations' values, each once.
func types(of func(hypervisor.Operation) any) []reflect.Type {
	var out []reflect.Type
	for _, o := range hypervisor.Operations() {
		if v := of(o); v != nil && !slices.Contains(out, reflect.TypeOf(v)) {
			out = append(out, reflect.TypeOf(v))
		}
	}
	return out
}

func fieldsOf(root reflect.Type, stop []reflect.Type) []field {
	var out []field
	var walk func(t reflect.Type, path []string)
	walk = func(t reflect.Type, path []string) {
		for f := range t.Fields() {
			p := append(slices.Clone(path), f.Name)
			if in := inner(f.Type); in != nil && !slices.Contains(stop, in) {
				walk(in, p)
			} else if f.IsExported() {
				out = append(out, field{root, p})
			}
		}
	}
	walk(root, nil)
	return out
}

// inner returns the struct of package hypervisor that a field holds, points
// to or lists, or nil if it holds something else. A Ref counts as one field.
func inner(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t.PkgPath() != refType.PkgPath() || t == refType || t == reflect.TypeFor[hypervisor.Client]() {
		return nil
	}
	return t
}

var refType = reflect.TypeFor[hypervisor.Ref]()
