package hypervisortest

import (
	"errors"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// fate checks what became of the things that the other tool made outside the
// machine. They are as before, or they were the machine's alone and followed
// the policy.
func (o *odd) fate(p hypervisor.DiskPolicy, notes []string, what string) {
	o.Helper()
	if o.p.Left == nil {
		return
	}
	got, err := o.p.Left(o.ctx)
	switch {
	case err != nil && !errors.Is(err, hypervisor.ErrNotFound):
		o.ok(err, "look at what %s left", o.f.Name)
	case err != nil && (p == hypervisor.KeepDisks || o.p.Shared || o.p.ReadOnly):
		o.Errorf("%s removed %s", what, o.f.Name)
	case err == nil && got != o.left:
		o.Errorf("after %s %s holds %q, want %q", what, o.f.Name, got, o.left)
	case err == nil && p == hypervisor.DeleteDisks && o.f.Kind != PartDependant && !o.p.ReadOnly && !o.names(notes...):
		o.Errorf("%s left %s, and its notes name none of %q: %q", what, o.f.Name, o.p.Names, notes)
	}
}

// detach removes the disk, and its image according to the policy.
func (o *odd) detach(p hypervisor.DiskPolicy) {
	o.add()
	o.fill("mine")
	d, ok := o.disk(o.info(o.vm))
	if !ok {
		o.Errorf("Info lists no disk that is one of %q, so it can't be detached", o.p.Names)
		return
	}
	t := o.vm.DetachDisk(o.ctx, d.ID, p)
	if _, err := t.Wait(o.ctx); !o.done(err, "DetachDisk") {
		return
	}
	if _, ok := o.has(o.vm); ok {
		o.Errorf("after DetachDisk the machine has %s", o.f.Name)
	}
	o.fate(p, t.Notes(), "DetachDisk")
	o.content(o.vm, "mine", "DetachDisk")
}

func (o *odd) detachDevice() {
	o.add()
	d, ok := o.device(o.info(o.vm))
	if !ok {
		o.Errorf("Info lists no device that is one of %q, so it can't be detached", o.p.Names)
		return
	}
	_, err := o.vm.DetachDevice(o.ctx, d.ID).Wait(o.ctx)
	if !o.done(err, "DetachDevice") {
		return
	}
	if _, ok := o.has(o.vm); ok {
		o.Errorf("after DetachDevice the machine has %s", o.f.Name)
	}
	o.kept("DetachDevice")
}

// delete deletes the machine, and each image according to the policy or by
// name.
func (o *odd) delete(p hypervisor.DiskPolicy) {
	o.add()
	o.fill("mine")
	i := o.info(o.vm)
	t := o.vm.Delete(o.ctx, p, nil)
	if _, err := t.Wait(o.ctx); !o.done(err, "Delete") {
		if !o.exists(o.vm.ID()) {
			o.Errorf("after a refused Delete the machine is gone")
		}
		return
	}
	if o.exists(o.vm.ID()) {
		o.Errorf("after Delete the machine is there")
	}
	o.fate(p, t.Notes(), "Delete")
	if p != hypervisor.KeepDisks {
		return
	}
	if o.env.has(capability.VolumeManage) { // kept by KeepDisks
		for _, d := range i.Disks {
			if !d.ReadOnly && !o.names(string(d.ID), string(d.Volume)) {
				_, _ = o.c.DeleteVolume(o.ctx, d.Volume).Wait(o.ctx)
			}
		}
	}
	o.images = o.listImages()
}
