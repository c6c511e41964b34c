package xen

import (
	"context"
	"errors"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// DeleteVM destroys a machine, its snapshots, and the images of all of them or
// of the snapshots alone.
func (d *driver) DeleteVM(ctx context.Context, id hypervisor.VMID, r hypervisor.DeleteRequest) (hypervisor.DriverTask, error) {
	vm, v, err := d.vm(ctx, id)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name}
	st := state(v.PowerState)
	switch {
	case v.DefaultTemplate:
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, on, "this is one of the pool's default templates, which can't be deleted")
	case (st == hypervisor.Running || st == hypervisor.Paused) && !r.Force:
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, on, "the machine is %s: power it off first, or set Force", st)
	}
	return d.compose(ctx, "delete", on, hypervisor.VMDelete, "", func(ctx context.Context, j *job) (hypervisor.Ref, error) {
		if st == hypervisor.Running || st == hypervisor.Paused || st == hypervisor.Suspended && r.Disks == hypervisor.KeepDisks {
			if _, err := j.runTo(ctx, 0, 0.3, *d.inState(vm, "", hypervisor.Off), "VM.hard_shutdown", vm); err != nil {
				return on, err
			}
		}
		for _, s := range v.Snapshots {
			if err := d.destroyWithDisks(ctx, s); err != nil {
				return on, err
			}
		}
		if r.Disks == hypervisor.KeepDisks {
			return on, d.destroy(ctx, "VM", vm)
		}
		return on, d.destroyWithDisks(ctx, vm)
	})
}

// destroyWithDisks destroys a machine or snapshot and the images that belong
// to it: VM.destroy leaves them behind. An image that another machine has
// attached stays, and so do CDs. Images that could not be destroyed are named
// in the error.
func (d *driver) destroyWithDisks(ctx context.Context, vm xapi.Ref) error {
	var v vmRec
	if err := d.c.Call(ctx, &v, "VM.get_record", vm); err != nil {
		if kindOf(err) == hypervisor.KindNotFound {
			return nil
		}
		return err
	}
	vbds, err := records[vbdRec](ctx, d, "VBD", v.VBDs)
	if err != nil {
		return err
	}
	var refs []xapi.Ref
	for _, b := range vbds {
		if !b.Empty && b.Type == "Disk" {
			refs = append(refs, b.VDI)
		}
	}
	// Read before the machine goes, so that they can be named whatever happens.
	images, err := records[vdiRec](ctx, d, "VDI", append(refs, v.SuspendVDI))
	if err != nil {
		return err
	}
	if err := d.destroy(ctx, "VM", vm); err != nil {
		return err
	}
	var left []hypervisor.Ref
	var errs []error
	for ref, img := range images {
		shared := false
		for _, b := range img.VBDs {
			_, own := vbds[b]
			shared = shared || !own
		}
		if img.ToolsISO || shared {
			continue
		}
		if err := d.destroy(ctx, "VDI", ref); err != nil && kindOf(err) != hypervisor.KindNotFound {
			left = append(left, hypervisor.VolumeID(img.UUID).Ref())
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return &hypervisor.Error{Kind: kindOf(errs[0]), Leftover: left, Err: errors.Join(errs...)}
	}
	return nil
}
