package hypervisortest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// fields: each field of each request is shown to have its effect, or is
// refused with the reason. A row has the name of its field:
// "VMSpec.Placement.Host".
var fields = area{"fields", slices.Concat(specRows(), diskRows(), nicRows(), volumeRows(), cloneRows(), changeRows(), snapshotRows(), powerRows(),
	migrateRows(), deviceFieldRows(), execRows(), placeRows(), clientRows())}

// given returns options that no driver sees.
func given[T any](e *env, o T) T { return asked(e.site.s.mutation, o) }

// honoured reports whether a call with a field succeeded. It may be refused
// because a capability is not declared, or where Harness.Refused allows it.
// Anything else ends the row.
func (e *env) honoured(err error, ks ...capability.Name) bool {
	e.Helper()
	var u *hypervisor.UnsupportedError
	for _, k := range ks {
		if !e.has(k) {
			e.refused(err, k, hypervisor.Ref{})
			if errors.As(err, &u) && !slices.Contains(ks, u.Capability) { // a driver that ignores the field refuses the rest
				e.Errorf("the call was refused for want of %s, want %s: %v", u.Capability, words(ks), err)
			}
			e.declined = string(k)
			return false
		}
	}
	if err == nil || !errors.Is(err, hypervisor.ErrUnsupported) || !errors.As(err, &u) {
		e.ok(err, "the call with the field")
		return true
	}
	if u.Support.Reason == "" || u.Support.Detail == "" {
		e.Errorf("the refusal lacks reason or detail: %v", err)
	}
	e.decline(err.Error())
	return false
}

// decline notes that the driver refuses the field, which the Harness must
// declare.
func (e *env) decline(why string) {
	e.Helper()
	if e.site.s.h.Refused[e.row] == "" {
		e.Errorf("the field is refused (%s): say so in Harness.Refused, or have the driver honour it", why)
	}
	e.declined = why
}

// can reports whether a call succeeded, or failed as unsupported.
func (e *env) can(err error) bool {
	e.Helper()
	if errors.Is(err, hypervisor.ErrUnsupported) {
		return false
	}
	e.ok(err, "the call")
	return true
}

// same checks a value.
func (e *env) same(got, want any, what string, args ...any) {
	e.Helper()
	if !reflect.DeepEqual(got, want) {
		e.Errorf("%s is %v, want %v", fmt.Sprintf(what, args...), got, want)
	}
}

// notThere checks that a name of nothing is refused.
func (e *env) notThere(err error, what string, args ...any) {
	e.Helper()
	e.oneOf(err, fmt.Sprintf(what, args...), hypervisor.ErrNotFound, hypervisor.ErrInvalidArgument, hypervisor.ErrIncompatible)
}

// try creates a machine that is removed when the row ends.
func (e *env) try(change func(*hypervisor.VMSpec)) (*hypervisor.VM, error) {
	e.Helper()
	s := e.Spec(e.name("field"))
	change(&s)
	vm, err := e.c.CreateVM(e.ctx, s).Wait(e.ctx)
	if err == nil {
		e.keep(vm.ID())
	}
	return vm, err
}
