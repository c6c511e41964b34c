package vsphere

import (
	"context"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Calls that accept files accept paths, which begin with a datastore's name.
// Names change, and each datacenter has its own. So a path is made from an ID
// for one call, and never stored.

// upwards walks from an object to the datacenter above it. A machine of a
// vApp has no parent.
func upwards() []types.BaseSelectionSpec {
	up := &types.SelectionSpec{Name: "up"}
	return []types.BaseSelectionSpec{
		&types.TraversalSpec{SelectionSpec: *up, Type: "ManagedEntity", Path: "parent", SelectSet: []types.BaseSelectionSpec{up}},
		&types.TraversalSpec{Type: "VirtualMachine", Path: "parentVApp", SelectSet: []types.BaseSelectionSpec{up}},
	}
}

// storeAt reads a datastore's name and its datacenter. ESXi has only one
// datacenter, which calls leave out.
func (d *driver) storeAt(ctx context.Context, store ref) (name string, dc *ref, err error) {
	list, err := d.all(ctx, types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: store, SelectSet: upwards()}},
		PropSet:   []types.PropertySpec{{Type: "Datastore", PathSet: []string{"name"}}, {Type: "Datacenter", PathSet: []string{"name"}}},
	})
	if m, ok := faultOf(err).(*types.ManagedObjectNotFound); ok && m.Obj == store {
		return "", nil, notFound(refOf(store))
	}
	for _, o := range list {
		switch {
		case o.Obj == store:
			name = props(o).str("name")
		case o.Obj.Type == "Datacenter" && d.isVC():
			dc = &o.Obj
		}
	}
	switch {
	case err != nil:
	case name == "":
		err = notFound(refOf(store))
	case dc == nil && d.isVC():
		err = hypervisor.Errorf(hypervisor.ErrPermission, refOf(store), "the datacenter of the datastore is not shown to this user, and paths need it: give the user the right System.Read on it")
	}
	return name, dc, err
}

// datacenterAbove reads the datacenter of an object.
func (d *driver) datacenterAbove(ctx context.Context, r ref) (ref, error) {
	list, err := d.all(ctx, types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: r, SelectSet: upwards(), Skip: types.NewBool(true)}},
		PropSet:   []types.PropertySpec{{Type: "Datacenter", PathSet: []string{"name"}}},
	})
	if err != nil || len(list) == 0 {
		return ref{}, err
	}
	return list[0].Obj, nil
}

// volumePath returns a volume in vSphere's form, "[datastore] path", for a
// call that follows at once, and its datacenter.
func (d *driver) volumePath(ctx context.Context, id hypervisor.VolumeID) (file string, dc *ref, err error) {
	store, rel, ok := splitVolume(id)
	if !ok {
		return "", nil, notFound(id.Ref())
	}
	name, dc, err := d.storeAt(ctx, store)
	if isNotFound(err) {
		err = notFound(id.Ref())
	}
	return "[" + name + "] " + rel, dc, err
}

// storeNames reads the names of datastores.
func (d *driver) storeNames(ctx context.Context, stores []ref) (map[ref]string, error) {
	list, err := d.some(ctx, stores, []string{"name"})
	out := map[ref]string{}
	for _, o := range list {
		out[o.Obj] = props(o).str("name")
	}
	return out, err
}

// homeOf returns the datastore of a machine's own files, among those that it
// uses.
func homeOf(vmx string, stores []ref, names map[ref]string) (ref, bool) {
	if len(stores) == 1 {
		return stores[0], true
	}
	at := storeNameOf(vmx)
	for _, s := range stores {
		if n, ok := names[s]; ok && n == at {
			return s, true
		}
	}
	return ref{}, false
}
