package vspheresim

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// release is a version of vSphere that the simulator supports. Numbers: VMware's knowledge base, article 2143832 (builds) and 315655 (virtual
// hardware).
type release struct {
	version, build, api, hardware string
}

var releases = map[string]release{
	"6.0": {"6.0.0", "3634788", "6.0", "vmx-11"}, // for tests of clients that need more
	"6.5": {"6.5.0", "4602587", "6.5", "vmx-13"},
	"6.7": {"6.7.0", "8170161", "6.7", "vmx-14"},
	"7.0": {"7.0.3", "18700403", "7.0.3.0", "vmx-19"},
	"8.0": {"8.0.3", "24322831", "8.0.3.0", "vmx-21"},
}

func (s *Sim) release() release { return releases[s.cfg.Version] }

// since is the version that added an item, by its name in additions.
var since = func() map[string]string {
	out := map[string]string{}
	for v, names := range additions {
		for _, n := range strings.Fields(names) {
			out[n] = v
		}
	}
	return out
}()

// lacks reports whether the simulated version does not have something yet.
func (s *Sim) lacks(name string) bool {
	v, ok := since[name]
	return ok && older(s.release().api, v)
}

func older(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(x), len(y)) {
		var m, n int
		if i < len(x) {
			m, _ = strconv.Atoi(x[i])
		}
		if i < len(y) {
			n, _ = strconv.Atoi(y[i])
		}
		if m != n {
			return m < n
		}
	}
	return false
}

// checkVersion refuses what the simulated version does not have. API reference: PropertyCollector.RetrievePropertiesEx and CreateFilter,
// InvalidProperty "if the spec contains a property path that doesn't exist"; MethodNotFound and InvalidRequest are RuntimeFaults of any call, for a
// method and for an element that the server's version does not have.
func (s *Sim) checkVersion(m *simulator.Method) types.BaseMethodFault {
	if s.lacks(m.This.Type + "." + m.Name) {
		return &types.MethodNotFound{Receiver: m.This, Method: m.Name}
	}
	switch req := m.Body.(type) {
	case *types.RetrievePropertiesEx:
		return s.checkPaths(req.SpecSet)
	case *types.RetrieveProperties:
		return s.checkPaths(req.SpecSet)
	case *types.CreateFilter:
		return s.checkPaths([]types.PropertyFilterSpec{req.Spec})
	}
	if name := s.newer(reflect.ValueOf(m.Body)); name != "" {
		f := new(types.InvalidRequest)
		f.FaultCause = &types.LocalizedMethodFault{Fault: &types.SystemErrorFault{Reason: name}, LocalizedMessage: "Unexpected element: " + name}
		return f
	}
	return nil
}

func (s *Sim) checkPaths(specs []types.PropertyFilterSpec) types.BaseMethodFault {
	for _, spec := range specs {
		for _, p := range spec.PropSet {
			for _, path := range p.PathSet {
				if !s.hasPath(p.Type, path) {
					return &types.InvalidProperty{Name: path}
				}
			}
		}
	}
	return nil
}

// managedTypes are those whose properties are checked.
var managedTypes = map[string]reflect.Type{
	"ManagedEntity": reflect.TypeFor[mo.ManagedEntity](), "VirtualMachine": reflect.TypeFor[mo.VirtualMachine](), "HostSystem": reflect.TypeFor[mo.HostSystem](),
	"VirtualMachineSnapshot": reflect.TypeFor[mo.VirtualMachineSnapshot](), "Datastore": reflect.TypeFor[mo.Datastore](), "Network": reflect.TypeFor[mo.Network](),
	"OpaqueNetwork": reflect.TypeFor[mo.OpaqueNetwork](), "DistributedVirtualPortgroup": reflect.TypeFor[mo.DistributedVirtualPortgroup](),
	"ComputeResource": reflect.TypeFor[mo.ComputeResource](), "ClusterComputeResource": reflect.TypeFor[mo.ClusterComputeResource](),
	"ResourcePool": reflect.TypeFor[mo.ResourcePool](), "VirtualApp": reflect.TypeFor[mo.VirtualApp](), "Folder": reflect.TypeFor[mo.Folder](),
	"Datacenter": reflect.TypeFor[mo.Datacenter](), "Task": reflect.TypeFor[mo.Task](),
}

// hasPath walks down a property path. Below a list, and below what has several types, nothing is checked.
func (s *Sim) hasPath(kind, path string) bool {
	t, ok := managedTypes[kind]
	if !ok {
		return true
	}
	for path != "" {
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return true
		}
		step, rest, _ := strings.Cut(path, ".")
		if i := strings.IndexByte(step, '['); i >= 0 {
			step, rest = step[:i], ""
		}
		owner, f, ok := property(t, step)
		if !ok || s.lacks(owner+"."+step) {
			return false
		}
		t, path = f.Type, rest
	}
	return true
}

// property finds a property and the type that declares it.
func property(t reflect.Type, name string) (owner string, f reflect.StructField, ok bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if x := f.Tag.Get("xml"); x != "" {
			tag, _, _ = strings.Cut(x, ",")
		}
		if !f.Anonymous {
			if tag == name || f.Tag.Get("mo") != "" && strings.Split(f.Tag.Get("mo"), ",")[0] == name || tag == "" && strings.EqualFold(f.Name, name) {
				return t.Name(), f, true
			}
			continue
		}
		if owner, f, ok := property(f.Type, name); ok {
			return owner, f, ok
		}
	}
	return "", reflect.StructField{}, false
}

// newer finds a type or a property in a call that the version does not have.
func (s *Sim) newer(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			return s.newer(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			if n := s.newer(v.Index(i)); n != "" {
				return n
			}
		}
	case reflect.Struct:
		if v.Type() == refType || v.Type() == timeType {
			return ""
		}
		if s.lacks(v.Type().Name()) {
			return v.Type().Name()
		}
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if !f.IsExported() || v.Field(i).IsZero() {
				continue
			}
			tag, _, _ := strings.Cut(f.Tag.Get("xml"), ",")
			if name := v.Type().Name() + "." + tag; tag != "" && s.lacks(name) {
				return name
			}
			if n := s.newer(v.Field(i)); n != "" {
				return n
			}
		}
	}
	return ""
}

func (s *Sim) setAbout(a *types.AboutInfo, name string) {
	r := s.release()
	a.Name = name
	a.Version, a.Build, a.ApiVersion = r.version, r.build, r.api
	a.FullName = fmt.Sprintf("%s %s build-%s", name, a.Version, a.Build)
	a.LicenseProductVersion = s.cfg.Version
}
