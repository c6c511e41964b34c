package vspheresim

import (
	"reflect"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// clone copies a value deeply, so that a snapshot shares nothing with the machine.
func clone[T any](v T) T {
	out := reflect.New(reflect.TypeOf(&v).Elem()).Elem()
	copyValue(out, reflect.ValueOf(&v).Elem())
	return out.Interface().(T)
}

var timeType = reflect.TypeOf(time.Time{})

func copyValue(dst, src reflect.Value) {
	switch src.Kind() {
	case reflect.Pointer:
		if src.IsNil() {
			return
		}
		p := reflect.New(src.Type().Elem())
		copyValue(p.Elem(), src.Elem())
		dst.Set(p)
	case reflect.Interface:
		if src.IsNil() {
			return
		}
		v := reflect.New(src.Elem().Type()).Elem()
		copyValue(v, src.Elem())
		dst.Set(v)
	case reflect.Slice:
		if src.IsNil() {
			return
		}
		// govmomi's simulators share controllers, whose lists another one may be changing.
		src = reflect.ValueOf(src.Interface())
		l := reflect.MakeSlice(src.Type(), src.Len(), src.Len())
		for i := range src.Len() {
			copyValue(l.Index(i), src.Index(i))
		}
		dst.Set(l)
	case reflect.Struct:
		dst.Set(src)
		if src.Type() == timeType {
			return
		}
		for i := range src.NumField() {
			if src.Type().Field(i).IsExported() {
				copyValue(dst.Field(i), src.Field(i))
			}
		}
	default:
		dst.Set(src)
	}
}

// mutate changes an object and reports to those who watch it which properties changed, each by its own path: govmomi's simulator changes most of the
// configuration of a machine without reporting it.
func (s *Sim) mutate(ctx *simulator.Context, obj mo.Reference, f func()) {
	s.lock(ctx, obj, func() {
		before := clone(managed(obj).Interface())
		f()
		s.announce(ctx, obj, before)
	})
}

// announce sends the differences between an object and an earlier copy of it. The caller holds its lock.
func (s *Sim) announce(ctx *simulator.Context, obj mo.Reference, before any) {
	var changes []types.PropertyChange
	diff("", reflect.ValueOf(before), managed(obj), &changes)
	if len(changes) > 0 {
		ctx.Update(obj, changes)
	}
}

// managed finds the property collector's view of an object: the struct of package mo inside it.
func managed(obj mo.Reference) reflect.Value {
	v := reflect.ValueOf(obj).Elem()
	for !strings.HasSuffix(v.Type().PkgPath(), "/vim25/mo") {
		v = v.Field(0)
		if v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
	}
	return v
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }

func diff(prefix string, before, after reflect.Value, out *[]types.PropertyChange) {
	t := after.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() || f.Name == "Self" {
			continue
		}
		b, a := before.Field(i), after.Field(i)
		if f.Anonymous && a.Kind() == reflect.Struct {
			diff(prefix, b, a, out)
			continue
		}
		if reflect.DeepEqual(b.Interface(), a.Interface()) {
			continue
		}
		name := prefix + lowerFirst(f.Name)
		if a.Kind() == reflect.Pointer && a.Type().Elem().Kind() == reflect.Struct && !a.IsNil() && !b.IsNil() {
			a, b = a.Elem(), b.Elem()
		}
		if a.Kind() == reflect.Struct && a.Type() != timeType && a.Type() != refType {
			diff(name+".", b, a, out)
			continue
		}
		c := types.PropertyChange{Name: name, Op: types.PropertyChangeOpAssign}
		if isNil(a) {
			c.Op = types.PropertyChangeOpRemove
		} else {
			if a.Kind() == reflect.Pointer {
				a = a.Elem() // as govmomi's own updates: it cannot assign a pointer
			}
			c.Val = a.Interface()
		}
		*out = append(*out, c)
	}
}

func isNil(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface, reflect.Slice:
		return v.IsNil()
	}
	return false
}

// lock runs f with the lock of an object. Unlike Registry.WithLock it lets go of the lock when f panics.
func (s *Sim) lock(ctx *simulator.Context, obj mo.Reference, f func()) {
	defer s.registry().AcquireLock(ctx, obj)()
	f()
}

// update changes properties of an object under its lock.
func (s *Sim) update(ctx *simulator.Context, obj mo.Reference, changes []types.PropertyChange) {
	s.lock(ctx, obj, func() { ctx.Update(obj, changes) })
}
