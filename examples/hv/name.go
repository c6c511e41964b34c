package main

import (
	"fmt"
	"iter"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// vm finds a machine by name or id:ID.
func (a *app) vm(name string) (*hypervisor.VM, error) {
	if id, ok := strings.CutPrefix(name, "id:"); ok {
		vm := a.c.VM(hypervisor.VMID(id))
		return there(a, vm, vm.Info)
	}
	vm, err := a.c.FindVM(a.ctx, name)
	if hypervisor.KindOf(err) == hypervisor.ErrNotFound {
		if _, no := a.c.FindTemplate(a.ctx, name); no == nil {
			err = fmt.Errorf("%w: %s is a template: deploy it with hv clone --template, or make it a machine with hv template unmark", err, name)
		}
	}
	return vm, err
}

func (a *app) template(name string) (*hypervisor.Template, error) {
	if id, ok := strings.CutPrefix(name, "id:"); ok {
		t := a.c.Template(hypervisor.TemplateID(id))
		return there(a, t, t.Info)
	}
	t, err := a.c.FindTemplate(a.ctx, name)
	if hypervisor.KindOf(err) == hypervisor.ErrNotFound {
		if _, no := a.c.FindVM(a.ctx, name); no == nil {
			err = fmt.Errorf("%w: %s is a machine, not a template", err, name)
		}
	}
	return t, err
}

func (a *app) host(name string) (hypervisor.HostID, error) {
	if name == "" {
		return "", nil
	}
	if id, ok := strings.CutPrefix(name, "id:"); ok {
		return there(a, hypervisor.HostID(id), a.c.Host(hypervisor.HostID(id)).Info)
	}
	h, err := a.c.FindHost(a.ctx, name)
	if err != nil {
		return "", err
	}
	return h.ID(), nil
}

// snapshot finds a snapshot of a machine by name or id:ID.
func (a *app) snapshot(vm *hypervisor.VM, name string) (*hypervisor.Snapshot, error) {
	if id, ok := strings.CutPrefix(name, "id:"); ok {
		s := vm.Snapshot(hypervisor.SnapshotID(id))
		return there(a, s, s.Info)
	}
	return vm.FindSnapshot(a.ctx, name)
}

// store finds a datastore by name or id:ID; an empty name is an empty ID.
func (a *app) store(name string) (hypervisor.DatastoreID, error) {
	return named(a, a.c.Datastores(a.ctx), "datastore", name, func(d hypervisor.DatastoreInfo) (string, hypervisor.DatastoreID) { return d.Name, d.ID })
}

// network finds a network by name or id:ID; an empty name is an empty ID.
func (a *app) network(name string) (hypervisor.NetworkID, error) {
	return named(a, a.c.Networks(a.ctx), "network", name, func(n hypervisor.NetworkInfo) (string, hypervisor.NetworkID) { return n.Name, n.ID })
}

// volume finds a disk image by name, on one datastore or on all, or by id:ID.
func (a *app) volume(name string, at hypervisor.DatastoreID) (hypervisor.VolumeID, error) {
	return named(a, a.c.Volumes(a.ctx, at), "disk image", name, func(v hypervisor.VolumeInfo) (string, hypervisor.VolumeID) { return v.Name, v.ID })
}

// named returns the ID of the one item with a name. An ID is taken as it is,
// and looked up only with --dry-run.
func named[T any, ID ~string](a *app, all iter.Seq2[T, error], kind, name string, of func(T) (string, ID)) (found ID, err error) {
	given, isID := strings.CutPrefix(name, "id:")
	if name == "" || isID && !a.DryRun {
		return ID(given), nil
	}
	n := 0
	var ids []string
	for item, err := range all {
		if err != nil {
			return "", err
		}
		if is, id := of(item); is == name || isID && string(id) == given {
			found, ids, n = id, append(ids, "id:"+string(id)), n+1
		}
	}
	switch n {
	case 0:
		return "", hypervisor.Errorf(hypervisor.ErrNotFound, hypervisor.Ref{}, "no %s is named %q", kind, name)
	case 1:
		return found, nil
	}
	return "", hypervisor.Errorf(hypervisor.ErrAmbiguous, hypervisor.Ref{}, "%d of kind %s are named %q: give one of %s", n, kind, name, strings.Join(ids, ", "))
}
