//go:build cgo

package fleet

import (
	"context"
	"errors"
	"maps"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// undefine removes a domain's definition with everything that libvirt keeps
// for it. Some libvirt drivers (test:///) don't support firmware variables
// and checkpoints, and report that.
func (f *Fleet) undefine(dom *libvirt.Domain) error {
	const some = libvirt.DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
	err := dom.UndefineFlags(f.platform.Undefine)
	if f.platform.Undefine&^some != 0 && libvirtx.Is(err, libvirt.ERR_INVALID_ARG) {
		err = dom.UndefineFlags(some)
	}
	return err
}

// DeleteVM implements hypervisor.Lifecycle.
func (f *Fleet) DeleteVM(ctx context.Context, id hypervisor.VMID, r hypervisor.DeleteRequest) (hypervisor.DriverTask, error) {
	return f.Run(ctx, "delete", id, LongWork, func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		sure := context.WithoutCancel(ctx)
		h, b, err := f.BooksOf(ctx, id)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		var x *libvirtxml.Domain
		images, memory := Paths{}, Paths{}
		_, err = OnHost(ctx, h, id, 4, func(_ *Host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			if _, err := ended(dom, id, r.Force); err != nil {
				return struct{}{}, err
			}
			var err error
			var mark libvirtx.Mark
			if x, mark, err = libvirtx.Parse(dom, 0); err != nil {
				return struct{}{}, err
			}
			if mark.Role != "" {
				return struct{}{}, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such machine")
			}
			if r.Disks == hypervisor.DeleteDisks {
				images = b.Of(string(id), x, mark)
				if deps := b.Dependants(images); len(deps) > 0 {
					return struct{}{}, BusyWith(id.Ref(), deps, "its disks are the base of")
				}
				for p := range images {
					if o := b.Others(p, string(id)); len(o) > 0 {
						return struct{}{}, BusyWith(id.Ref(), o, "its disk "+p+" is a disk of")
					}
				}
			}
			memory, err = f.memoryFiles(dom)
			return struct{}{}, err
		})
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = h.Undefine(sure, id, func(dom *libvirt.Domain) error { return f.destroy(dom, id, r.Force) })
		}
		if err != nil {
			return hypervisor.Ref{}, err
		}
		var left []hypervisor.Ref
		err = h.Again(sure, func(bool) error {
			_, err := libvirtx.Do(sure, h.Conn, 1, func(c *libvirt.Connect) (struct{}, error) {
				var err error
				left, err = libvirtx.RemoveMDevs(c, x)
				return struct{}{}, err
			})
			return err
		})
		if r.Disks == hypervisor.DeleteDisks {
			b.noteKept(j, images, libvirtx.ReadOnly(x), libvirtx.Elsewhere(x))
		}
		maps.Copy(images, memory)
		gone, derr := b.Discard(sure, images)
		if err = errors.Join(err, derr); err == nil {
			err = f.forgetElsewhere(sure, h, id)
		}
		j.Left(append(gone, left...)...)
		return hypervisor.Ref{}, err
	})
}

// ended reports whether a machine does not run. It may run only with force.
func ended(dom *libvirt.Domain, id hypervisor.VMID, force bool) (bool, error) {
	s, err := libvirtx.State(dom)
	on := s == hypervisor.StateRunning || s == hypervisor.StatePaused
	if err == nil && on && !force {
		err = hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine is %s: power it off, or delete it with Force", s)
	}
	return !on, err
}

// destroy stops a machine if it runs, and undefines it if it is defined.
func (f *Fleet) destroy(dom *libvirt.Domain, id hypervisor.VMID, force bool) error {
	off, err := ended(dom, id, force)
	if err != nil {
		return err
	}
	if !off {
		if err := dom.Destroy(); err != nil && libvirtx.Kind(err) != hypervisor.ErrInvalidState {
			return err
		}
	}
	persistent, err := dom.IsPersistent()
	if libvirtx.NotFound(err) || err == nil && !persistent {
		return nil
	}
	if err != nil {
		return err
	}
	return f.undefine(dom)
}

// forgetElsewhere removes definitions that other hosts kept, or the machine
// would appear again.
func (f *Fleet) forgetElsewhere(ctx context.Context, h *Host, id hypervisor.VMID) error {
	var errs []error
	for _, o := range f.Members {
		if o == h {
			continue
		}
		_, err := OnHost(ctx, o, id, 1, func(_ *Host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			return struct{}{}, f.undefine(dom)
		})
		if err != nil && !libvirtx.NotFound(err) && libvirtx.KindOf(err) != hypervisor.ErrUnavailable {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// memoryFiles are the RAM images of a machine's snapshots.
func (f *Fleet) memoryFiles(dom *libvirt.Domain) (Paths, error) {
	if f.platform.ReadSnapshots == nil {
		return nil, nil
	}
	snaps, err := f.platform.ReadSnapshots(dom)
	out := Paths{}
	for _, s := range snaps {
		if s.Memory != nil && s.Memory.File != "" {
			out[s.Memory.File] = true
		}
	}
	return out, err
}
