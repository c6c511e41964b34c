package hypervisortest

import (
	"github.com/anyvisor/anyvisor/hypervisor"
)

// volumes: images apart from machines.
func volumes(e *env) {
	if !e.has(hypervisor.VolumeManage) {
		return
	}
	var ds hypervisor.DatastoreInfo
	for d, err := range e.c.Datastores(e.ctx) {
		e.ok(err, "Datastores")
		if d.Accessible && d.FreeBytes > 64*hypervisor.MiB {
			ds = d
			break
		}
	}
	spec := hypervisor.VolumeSpec{Name: e.name("vol"), Datastore: ds.ID, SizeBytes: 16 * hypervisor.MiB}
	id, err := e.c.CreateVolume(e.ctx, spec).Wait(e.ctx)
	e.ok(err, "CreateVolume")
	list := func() (out hypervisor.VolumeInfo) {
		e.Helper()
		for v, err := range e.c.Volumes(e.ctx, ds.ID) {
			e.ok(err, "Volumes")
			if v.ID == id {
				out = v
			}
		}
		return out
	}
	if v := list(); v.ID != id || v.SizeBytes != spec.SizeBytes || v.Datastore != ds.ID {
		e.Errorf("the volume is %+v, want %+v", v, spec)
	}
	vm := e.create("vm", func(s *hypervisor.VMSpec) {
		s.Disks = append(s.Disks, hypervisor.DiskSpec{Volume: id})
	})
	_, err = e.c.DeleteVolume(e.ctx, id).Wait(e.ctx)
	e.kind(err, hypervisor.ErrBusy, "DeleteVolume of a machine's disk")
	_, err = vm.Delete(e.ctx, hypervisor.KeepDisks, nil).Wait(e.ctx)
	e.ok(err, "Delete with KeepDisks")
	if v := list(); v.ID != id {
		e.Errorf("KeepDisks removed the volume %s", id)
	}
	kept := e.added(e.images)
	for range 1 {
		_, err = e.c.DeleteVolume(e.ctx, id).Wait(e.ctx)
		e.ok(err, "DeleteVolume")
	}
	_, err = e.c.DeleteVolume(e.ctx, id).Wait(e.ctx)
	e.kind(err, hypervisor.ErrNotFound, "DeleteVolume again")
	for _, k := range kept { // the machine's first disk
		for v, err := range e.c.Volumes(e.ctx, "") {
			if err != nil {
				break
			}
			if string(v.ID) == k && v.ID != id {
				_, err = e.c.DeleteVolume(e.ctx, v.ID).Wait(e.ctx)
				e.ok(err, "DeleteVolume of %s", v.ID)
			}
		}
	}
	e.images = e.listImages()
	_, err = hypervisor.Collect(e.c.Volumes(e.ctx, "no-such-datastore"))
	e.oneOf(err, "Volumes of an absent datastore", hypervisor.ErrNotFound, hypervisor.ErrInvalidArgument)
	e.proved(hypervisor.VolumeManage)
}
