package vspheresim

import (
	"reflect"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// The seam. govmomi's Service asks Registry.Handler before it dispatches a call; the object that the hook
// returns is overridden by the session's view of the registry, but the target of the call (Method.This) is
// read after the hook. So the hook points a call that this package answers at an object of this package,
// and the objects of the inventory stay govmomi's own types, which its other code depends on.

// receiver is embedded in every object that answers calls. Its lock does nothing: calls on one type of object must not wait for each other.
//
// Its first field makes it a managed object, because govmomi's search index reads every object of the registry.
type receiver struct {
	mo.SearchIndex
	sim *Sim
}

func (r *receiver) Reference() types.ManagedObjectReference { return r.Self }
func (*receiver) Lock()                                     {}
func (*receiver) Unlock()                                   {}

// methodSet is the object that answers calls on one type of managed object, and the calls it answers.
type methodSet struct {
	ref   types.ManagedObjectReference
	names map[string]bool
}

// goName is the name of the Go method for a SOAP method, as govmomi's dispatcher forms it.
func goName(method string) string {
	if base, ok := strings.CutSuffix(method, "_Task"); ok {
		return base + "Task"
	}
	return method
}

func (s *Sim) answer(r interface {
	mo.Reference
	bind(*Sim, types.ManagedObjectReference)
}, kinds ...string) {
	ref := types.ManagedObjectReference{Type: "Vspheresim", Value: "vspheresim-" + kinds[0]}
	r.bind(s, ref)
	set := methodSet{ref: ref, names: map[string]bool{}}
	hasFault := reflect.TypeOf((*soap.HasFault)(nil)).Elem()
	for m := range reflect.TypeOf(r).Methods() {
		if m.Type.NumOut() == 1 && m.Type.Out(0) == hasFault {
			set.names[m.Name] = true
		}
	}
	s.registry().Put(r)
	for _, k := range kinds {
		s.fronts[k] = set
	}
}

func (r *receiver) bind(s *Sim, ref types.ManagedObjectReference) { r.sim, r.Self = s, ref }

func (s *Sim) installFronts() {
	s.fronts = map[string]methodSet{}
	for kind, r := range s.receivers() {
		s.answer(r, strings.Split(kind, " ")...)
	}
	s.registry().Handler = s.route
}

// route is the Registry.Handler hook.
func (s *Sim) route(ctx *simulator.Context, m *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	if s.front != nil {
		if fault := s.front.takeFault(m.Name); fault != nil {
			return nil, fault
		}
	}
	if ctx.Session == nil {
		return nil, unauthenticated(m)
	}
	if fault := s.checkVersion(m); fault != nil {
		return nil, fault
	}
	if fault := s.checkReferences(ctx, m); fault != nil {
		return nil, fault
	}
	if m.This.Type == "PropertyCollector" && m.This == s.content().PropertyCollector {
		m.This = s.collectorOf(ctx)
	}
	if m.Name == "Logout" {
		s.forgetSession(ctx.Session.Key)
	}
	if set, ok := s.fronts[m.This.Type]; ok && set.names[goName(m.Name)] {
		m.This = set.ref
	}
	return nil, nil
}

// unauthenticated refuses to read properties without a session. govmomi's simulator answers such a read with
// empty properties. API reference: PropertyCollector.RetrievePropertiesEx needs the privilege System.View;
// NotAuthenticated is the RuntimeFault for a call without a session.
func unauthenticated(m *simulator.Method) types.BaseMethodFault {
	switch m.Name {
	case "RetrieveProperties", "RetrievePropertiesEx":
		return &types.NotAuthenticated{NoPermission: types.NoPermission{
			Object: &types.ManagedObjectReference{Type: m.This.Type, Value: m.This.Value}, PrivilegeId: "System.View",
		}}
	}
	return nil
}

// checkReferences refuses a call that names something that does not exist. API reference: RuntimeFault
// ManagedObjectNotFound, "thrown if an object can not be found", obj is the reference in question.
func (s *Sim) checkReferences(ctx *simulator.Context, m *simulator.Method) types.BaseMethodFault {
	switch m.Name {
	case "RetrieveProperties", "RetrievePropertiesEx", "CreateFilter", "Fetch":
		return nil // the property collector has its own rules for objects that are gone
	case "RelocateVM_Task", "CloneVM_Task", "CheckRelocate_Task", "CheckClone_Task":
		if serviceLocator(m.Body) != nil {
			return nil // the references are of another vCenter
		}
	}
	// If files are involved, an empty datacenter crashes govmomi's simulator.
	files := m.This.Type == "VirtualDiskManager" || m.This.Type == "FileManager"
	var missing *types.ManagedObjectReference
	references(reflect.ValueOf(m.Body), func(ref types.ManagedObjectReference) {
		if missing == nil && (ref.Value != "" || files) && ctx.Session.Get(ref) == nil {
			missing = &ref
		}
	})
	if missing != nil {
		return &types.ManagedObjectNotFound{Obj: *missing}
	}
	return nil
}

var refType = reflect.TypeOf(types.ManagedObjectReference{})

// references calls f for every reference in v, at any depth.
func references(v reflect.Value, f func(types.ManagedObjectReference)) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			references(v.Elem(), f)
		}
	case reflect.Slice:
		switch v.Type().Elem().Kind() {
		case reflect.Struct, reflect.Interface, reflect.Pointer:
			for i := range v.Len() {
				references(v.Index(i), f)
			}
		}
	case reflect.Struct:
		if v.Type() == refType {
			f(v.Interface().(types.ManagedObjectReference))
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				references(v.Field(i), f)
			}
		}
	}
}

// serviceLocator returns the other vCenter that a relocation or a clone goes to, or nil when it stays here.
func serviceLocator(body any) *types.ServiceLocator {
	switch r := body.(type) {
	case *types.RelocateVM_Task:
		return r.Spec.Service
	case *types.CloneVM_Task:
		return r.Spec.Location.Service
	case *types.CheckRelocate_Task:
		return r.Spec.Service
	case *types.CheckClone_Task:
		return r.Spec.Location.Service
	}
	return nil
}

// soapFault makes the fault of a call that fails before there is a task.
func soapFault(f types.BaseMethodFault) *soap.Fault {
	return simulator.Fault(faultText(f), f)
}

func faultText(f types.BaseMethodFault) string {
	name := reflect.TypeOf(f).Elem().Name()
	switch x := f.(type) {
	case *types.InvalidArgument:
		return "A specified parameter was not correct: " + x.InvalidProperty
	case *types.ManagedObjectNotFound:
		return "The object '" + x.Obj.Type + ":" + x.Obj.Value + "' has already been deleted or has not been completely created"
	case *types.DuplicateName:
		return "The name '" + x.Name + "' already exists."
	case *types.SystemErrorFault:
		return x.Reason
	case *types.TaskInProgress:
		return "Another task is already in progress."
	case *types.RequestCanceled:
		return "The task was canceled by a user."
	case *types.InvalidPowerState:
		return "The attempted operation cannot be performed in the current state (" + string(x.ExistingState) + ")."
	}
	if m := f.GetMethodFault(); m != nil && m.FaultCause != nil && m.FaultCause.LocalizedMessage != "" {
		return m.FaultCause.LocalizedMessage
	}
	return name
}
