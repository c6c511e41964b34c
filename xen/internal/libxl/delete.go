//go:build cgo

package libxl

import (
	"context"
	"errors"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// undefineAll takes along all that libvirt keeps for a domain.
const undefineAll = libvirt.DOMAIN_UNDEFINE_MANAGED_SAVE

// DeleteVM implements hypervisor.Lifecycle.
func (d *driver) DeleteVM(ctx context.Context, id hypervisor.VMID, r hypervisor.DeleteRequest) (hypervisor.DriverTask, error) {
	return d.run(ctx, "delete", id, longWork, func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		sure := context.WithoutCancel(ctx)
		h, err := d.locate(ctx, id)
		if err != nil {
			return hypervisor.TaskState{Err: err}
		}
		b, err := d.books(ctx, h)
		if err != nil {
			return hypervisor.TaskState{Err: err}
		}
		var left []hypervisor.Ref
		_, err = onHost(sure, h, id, 8, func(_ *host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			s, err := libvirtx.State(dom)
			if err != nil {
				return struct{}{}, err
			}
			if (s == hypervisor.Running || s == hypervisor.Paused) && !r.Force {
				return struct{}{}, hypervisor.Errorf(hypervisor.KindInvalidState, id.Ref(), "the machine is %s: power it off, or delete it with Force", s)
			}
			x, mark, err := libvirtx.Parse(dom, 0)
			if err != nil {
				return struct{}{}, err
			}
			if mark.Role != "" {
				return struct{}{}, hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "no such machine")
			}
			var images set
			if r.Disks == hypervisor.DeleteDisks {
				images = b.images(string(id), x, mark)
				if deps := b.dependants(images); len(deps) > 0 {
					return struct{}{}, busyWith(id.Ref(), deps, "its disks are the base of")
				}
				for p := range images {
					if o := b.others(p, string(id)); len(o) > 0 {
						return struct{}{}, busyWith(id.Ref(), o, "its disk "+p+" is a disk of")
					}
				}
			}
			if err := ctx.Err(); err != nil {
				return struct{}{}, err
			}
			if s == hypervisor.Running || s == hypervisor.Paused {
				if err := dom.Destroy(); err != nil && libvirtx.Kind(err) != hypervisor.KindInvalidState {
					return struct{}{}, err
				}
			}
			if persistent, err := dom.IsPersistent(); err == nil && persistent {
				if err := dom.UndefineFlags(undefineAll); err != nil {
					return struct{}{}, err
				}
			}
			left, err = b.remove(c, images)
			return struct{}{}, err
		})
		if err == nil {
			err = d.forgetElsewhere(sure, h, id)
		}
		return hypervisor.TaskState{Err: err, Leftover: left}
	})
}

// forgetElsewhere removes definitions that other hosts kept, or the machine
// would be there again.
func (d *driver) forgetElsewhere(ctx context.Context, h *host, id hypervisor.VMID) error {
	var errs []error
	for _, o := range d.hosts {
		if o == h {
			continue
		}
		_, err := onHost(ctx, o, id, 1, func(_ *host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			return struct{}{}, dom.UndefineFlags(undefineAll)
		})
		if err != nil && !libvirtx.NotFound(err) && d.kindOf(err) != hypervisor.KindUnavailable {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
