package hypervisortest

import (
	"reflect"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// results: each field of each result has a true value. A row has the name of
// its field: "HostInfo.CPU.Model".
var results = area{"results", slices.Concat(vmResults(), partResults(), hostResults(), guestResults(), taskResults())}

// resultsOf makes a row for each field of T. have returns values, one of
// which must have the field: it must pass truth, or just be set. A field that
// the Harness lists as empty must be zero in all.
func resultsOf[T any](need caps, have func(e *env, field string) []T, truth map[string]func(T) bool) []row {
	var rows []row
	t := reflect.TypeFor[T]()
	for _, f := range fieldsOf(t, types(func(o hypervisor.Operation) any { return o.Result })) {
		name := strings.Join(f.path, ".")
		rows = append(rows, row{name: f.String(), needs: need, run: func(e *env) {
			all := have(e, name)
			if e.without != "" || e.Failed() {
				return
			}
			set := slices.DeleteFunc(slices.Clone(all), func(v T) bool {
				if ok := truth[name]; ok != nil && e.site.s.h.Empty[f.String()] == "" {
					return !ok(v)
				}
				return !filled(reflect.ValueOf(v), f.path)
			})
			why, empty := e.site.s.h.Empty[f.String()]
			switch {
			case empty && len(set) > 0:
				e.Errorf("%s is reported: take it out of Harness.Empty (%s): %+v", f, why, set[0])
			case !empty && len(set) == 0:
				e.Errorf("%s is not told, or wrong: %+v", f, all)
			}
		}})
		delete(truth, name)
	}
	return rows
}

// proof is like resultsOf, for a listing: it shows the capability to list.
func proof[T any](k capability.Name, have func(e *env, field string) []T, truth map[string]func(T) bool) []row {
	rows := resultsOf(caps{k}, have, truth)
	for i := range rows {
		rows[i].proves = caps{k}
	}
	return rows
}

// filled reports whether any value at the path is set.
func filled(v reflect.Value, path []string) bool {
	switch v.Kind() {
	case reflect.Pointer:
		return !v.IsNil() && filled(v.Elem(), path)
	case reflect.Slice:
		if len(path) > 0 {
			for i := range v.Len() {
				if filled(v.Index(i), path) {
					return true
				}
			}
			return false
		}
	}
	if len(path) == 0 {
		return !v.IsZero()
	}
	return filled(v.FieldByName(path[0]), path[1:])
}

// rowsIn names the rows of fields.
func rowsIn(area string, m map[string]string) []string {
	var out []string
	for _, k := range keys(m) {
		out = append(out, area+"/"+k)
	}
	return out
}

// made returns results of this package itself, which no driver returns.
func made[T any](e *env, r T) T { return read(e.site.s.mutation, r) }
