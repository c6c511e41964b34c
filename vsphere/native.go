package vsphere

import (
	"context"
	"strings"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	vimsession "github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// As implements hypervisor.Driver. The package documentation lists the types.
// It reads one property, so that an object that is gone is ErrNotFound here
// and not in the caller's first call.
func (d *driver) As(ctx context.Context, on hypervisor.Ref, target any) error {
	if on == (hypervisor.Ref{}) {
		return d.asConnection(target)
	}
	r, property := moRef(on)
	set := d.setter(r, target)
	if set == nil {
		return hypervisor.NoNative(on, target)
	}
	if _, err := d.one(ctx, r, property); err != nil {
		return err
	}
	set()
	return nil
}

func (d *driver) asConnection(target any) error {
	switch t := target.(type) {
	case **vim25.Client:
		*t = d.vc
	case **govmomi.Client:
		*t = &govmomi.Client{Client: d.vc, SessionManager: vimsession.NewManager(d.vc)}
	default:
		return hypervisor.NoNative(hypervisor.Ref{}, target)
	}
	return nil
}

// moRef returns the managed object behind an object, or the zero ref if there
// is none, and a property that every object of its type has.
func moRef(on hypervisor.Ref) (r ref, property string) {
	switch on.Kind {
	case hypervisor.ObjectVM, hypervisor.ObjectTemplate:
		return vmRef(hypervisor.VMID(on.ID)), "name"
	case hypervisor.ObjectHost:
		return hostRef(hypervisor.HostID(on.ID)), "name"
	case hypervisor.ObjectDatastore:
		return storeRef(hypervisor.DatastoreID(on.ID)), "name"
	case hypervisor.ObjectNetwork:
		return networkRef(hypervisor.NetworkID(on.ID)), "name"
	case hypervisor.ObjectPool:
		return poolRef(hypervisor.PoolID(on.ID)), "name"
	case hypervisor.ObjectSnapshot:
		return snapRef(hypervisor.SnapshotID(on.ID)), "vm"
	case hypervisor.ObjectTask:
		if !strings.HasPrefix(on.ID, "anyvisor-") { // not work that this package composes
			return taskRef(hypervisor.TaskID(on.ID)), "info.key"
		}
	}
	return ref{}, ""
}

// setter returns the function that sets target to the object, or nil if this
// kind of object has no such type.
func (d *driver) setter(r ref, target any) func() {
	switch t := target.(type) {
	case **types.ManagedObjectReference:
		return only(r.Type != "", func() { *t = &r })
	case **object.VirtualMachine:
		return only(r.Type == "VirtualMachine", func() { *t = object.NewVirtualMachine(d.vc, r) })
	case **object.HostSystem:
		return only(r.Type == "HostSystem", func() { *t = object.NewHostSystem(d.vc, r) })
	case **object.Datastore:
		return only(r.Type == "Datastore", func() { *t = object.NewDatastore(d.vc, r) })
	case **object.Network:
		return only(r.Type == "Network", func() { *t = object.NewNetwork(d.vc, r) })
	case **object.DistributedVirtualPortgroup:
		return only(r.Type == "DistributedVirtualPortgroup", func() { *t = object.NewDistributedVirtualPortgroup(d.vc, r) })
	case **object.OpaqueNetwork:
		return only(r.Type == "OpaqueNetwork", func() { *t = object.NewOpaqueNetwork(d.vc, r) })
	case **object.Task:
		return only(r.Type == "Task", func() { *t = object.NewTask(d.vc, r) })
	}
	return nil
}

func only(ok bool, set func()) func() {
	if !ok {
		return nil
	}
	return set
}
