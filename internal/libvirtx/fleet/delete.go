//go:build cgo

package fleet

import (
	"context"
	"errors"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// undefine forgets a domain with all that libvirt keeps for it. Some libvirt
// drivers (test:///) know no firmware variables and checkpoints, and say so.
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
	return f.Run(ctx, "delete", id, LongWork, func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		sure := context.WithoutCancel(ctx)
		h, err := f.Locate(ctx, id)
		if err != nil {
			return hypervisor.TaskState{Err: err}
		}
		b, err := f.Books(ctx, h)
		if err != nil {
			return hypervisor.TaskState{Err: err}
		}
		var left []hypervisor.Ref
		_, err = OnHost(sure, h, id, 8, func(_ *Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
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
			var images, memory Paths
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
			if memory, err = f.memoryFiles(dom); err != nil {
				return struct{}{}, err
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
				if err := f.undefine(dom); err != nil {
					return struct{}{}, err
				}
			}
			shares, sharesErr := libvirtx.RemoveMDevs(c, x)
			for p := range memory {
				if images == nil {
					images = Paths{}
				}
				images[p] = true
			}
			left, err = b.Remove(c, images)
			left = append(left, shares...)
			return struct{}{}, errors.Join(err, sharesErr)
		})
		if err == nil {
			err = f.forgetElsewhere(sure, h, id)
		}
		return hypervisor.TaskState{Err: err, Leftover: left}
	})
}

// forgetElsewhere removes definitions that other hosts kept, or the machine
// would be there again.
func (f *Fleet) forgetElsewhere(ctx context.Context, h *Host, id hypervisor.VMID) error {
	var errs []error
	for _, o := range f.Members {
		if o == h {
			continue
		}
		_, err := OnHost(ctx, o, id, 1, func(_ *Host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			return struct{}{}, f.undefine(dom)
		})
		if err != nil && !libvirtx.NotFound(err) && libvirtx.KindOf(err) != hypervisor.KindUnavailable {
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
