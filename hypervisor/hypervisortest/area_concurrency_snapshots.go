package hypervisortest

import (
	"errors"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// holds checks that a machine, and its snapshot if there is one, have the
// expected content. It deletes the snapshot.
func (r *race) holds(vm *hypervisor.VM, now string, s *hypervisor.Snapshot, then string) {
	r.Helper()
	r.content(vm, now, "the race")
	if s == nil {
		return
	}
	s = vm.Snapshot(s.ID())
	_, err := s.Revert(r.ctx, nil).Wait(r.ctx)
	r.ok(err, "Revert after the race")
	r.content(vm, then, "Revert after the race")
	_, err = s.Delete(r.ctx, nil).Wait(r.ctx)
	r.ok(err, "Delete of the snapshot after the race")
	r.content(vm, then, "Delete of the snapshot after the race")
}

func cloneAndSnapshot(r *race) {
	vm := r.create("src")
	r.write(vm, "base")
	src, one := r.on(vm), r.on(vm)
	name, images := r.name("copy"), r.listImages()
	var c *hypervisor.VM
	var s *hypervisor.Snapshot
	cerr, serr := r.pair("Clone", "CreateSnapshot", func() (err error) {
		c, err = src.Clone(r.ctx, name, nil).Wait(r.ctx)
		return err
	}, func() (err error) {
		s, err = one.CreateSnapshot(r.ctx, "meanwhile", nil).Wait(r.ctx)
		return err
	})
	r.busy(cerr, "Clone during CreateSnapshot")
	r.busy(serr, "CreateSnapshot during Clone")
	if cerr == nil {
		r.keep(c.ID())
		r.content(c, "base", "Clone during CreateSnapshot")
	} else if serr != nil {
		r.swept(cerr, images, "a refused Clone")
	}
	r.strays()
	if serr != nil {
		s = nil
	}
	r.write(vm, "later")
	r.holds(vm, "later", s, "base")
	if cerr == nil {
		r.content(c, "base", "writes to its source")
	}
}

// migrateAndSnapshot moves a machine that is off to another host, or its
// disks where there is none, and takes a snapshot of it meanwhile.
func migrateAndSnapshot(r *race) {
	vm := r.create("vm")
	r.write(vm, "cargo")
	i := r.info(vm)
	opt := hypervisor.MigrateOptions{Mode: hypervisor.MigrateModeCold}
	for _, h := range r.hostIDs() {
		if h != i.Host {
			opt.Host = h
		}
	}
	rep, err := vm.CheckMigrate(r.ctx, opt)
	if err != nil || !rep.OK() {
		r.unshown("the machine can't move: %v (%v)", rep.Blockers, err)
		return
	}
	mover, one := r.on(vm), r.on(vm)
	var s *hypervisor.Snapshot
	merr, serr := r.pair("Migrate", "CreateSnapshot", func() error {
		_, err := mover.Migrate(r.ctx, opt).Wait(r.ctx)
		return err
	}, func() (err error) {
		s, err = one.CreateSnapshot(r.ctx, "meanwhile", nil).Wait(r.ctx)
		return err
	})
	r.busy(serr, "CreateSnapshot during Migrate")
	if serr != nil {
		s = nil
		r.busy(merr, "Migrate during CreateSnapshot")
	} else if merr != nil { // a machine with snapshots may have to stay
		r.oneOf(merr, "Migrate during CreateSnapshot", hypervisor.ErrBusy, hypervisor.ErrIncompatible, hypervisor.ErrUnsupported)
	}
	if at := r.info(vm).Host; merr == nil && at != "" && at != opt.Host {
		r.Errorf("after Migrate to %s the machine is on %s", opt.Host, at)
	}
	r.holds(vm, "cargo", s, "cargo")
}

// cloneAndDeleteSnapshot deletes a snapshot while a linked clone of it is
// made.
func cloneAndDeleteSnapshot(r *race) {
	vm := r.create("src")
	r.write(vm, "then")
	s, err := vm.CreateSnapshot(r.ctx, "base", nil).Wait(r.ctx)
	r.ok(err, "CreateSnapshot")
	r.write(vm, "now")
	src, one := r.on(vm), r.on(vm)
	name, images := r.name("linked"), r.listImages()
	var c *hypervisor.VM
	cerr, derr := r.pair("linked Clone", "Delete of its snapshot", func() (err error) {
		c, err = src.Clone(r.ctx, name, &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked, From: s.ID()}).Wait(r.ctx)
		return err
	}, func() error {
		_, err := one.Snapshot(s.ID()).Delete(r.ctx, nil).Wait(r.ctx)
		return err
	})
	r.busy(derr, "Delete of a snapshot during a linked Clone of it")
	switch {
	case cerr == nil:
		r.keep(c.ID())
		r.content(c, "then", "Delete of its snapshot while it was made")
	case derr == nil && errors.Is(cerr, hypervisor.ErrNotFound): // the snapshot was gone
	default:
		r.busy(cerr, "linked Clone during Delete of its snapshot")
	}
	r.strays()
	r.content(vm, "now", "the race")
	if derr != nil {
		if c != nil && cerr == nil {
			_, err := r.c.VM(c.ID()).Delete(r.ctx, hypervisor.DeleteDisks, nil).Wait(r.ctx)
			r.ok(err, "Delete of the linked clone")
		}
		_, err := s.Delete(r.ctx, nil).Wait(r.ctx)
		r.ok(err, "Delete of the snapshot, once the clone is gone")
		r.content(vm, "now", "Delete of the snapshot")
	} else if cerr != nil {
		r.swept(cerr, images, "a Clone whose snapshot was deleted")
	}
}
