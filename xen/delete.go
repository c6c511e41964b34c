package xen

import (
	"context"
	"errors"
	"maps"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// DeleteVM destroys a machine, its snapshots, and the images of all of them
// or of the snapshots alone.
func (d *driver) DeleteVM(ctx context.Context, id hypervisor.VMID, r hypervisor.DeleteRequest) (hypervisor.DriverTask, error) {
	vm, v, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name}
	st := state(v.PowerState)
	switch {
	case v.DefaultTemplate:
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, on, "this is one of the pool's default templates, which can't be deleted")
	case (st == hypervisor.StateRunning || st == hypervisor.StatePaused) && !r.Force:
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, on, "the machine is %s: power it off first, or set Force", st)
	}
	return d.compose(ctx, "delete", on, capability.VMDelete, "", func(ctx context.Context, j *poolJob) (hypervisor.Ref, error) {
		if v.blind() && !v.Template {
			if _, err := j.block(ctx, vm); err != nil {
				return on, err
			}
		}
		if st == hypervisor.StateRunning || st == hypervisor.StatePaused || st == hypervisor.StateSuspended && r.Disks == hypervisor.KeepDisks {
			if _, err := j.runTo(ctx, 0, 0.3, *d.inState(vm, "", hypervisor.StateOff), "VM.hard_shutdown", vm); err != nil {
				return on, err
			}
		}
		if r.Disks == hypervisor.KeepDisks {
			gone := destroyed{images: map[xapi.Ref]vdiRec{}}
			if err := d.destroySnapshots(ctx, vm, &gone); err != nil {
				return on, err
			}
			if err := d.destroy(ctx, "VM", vm); err != nil {
				return on, err
			}
			j.merged(ctx, gone.images, 0.5)
			return on, nil
		}
		if err := d.destroySnapshots(ctx, vm, &destroyed{images: map[xapi.Ref]vdiRec{}}); err != nil {
			return on, err
		}
		went, err := d.destroyWith(ctx, vm)
		for _, n := range went.kept {
			j.Note(n)
		}
		return on, err
	})
}

// attached is an image as a machine has it attached.
type attached struct {
	vbd    vbdRec
	vdi    vdiRec
	ref    xapi.Ref
	others bool // other machines or snapshots use it too
}

// stays reports whether an image outlives its machine. That is an image that
// others have attached or may write to, and one that the machine has
// read-only, unless it was made for the machine. xapi marks the disks of a
// copy in this way (other_config:owner of the VBD; xapi_vm_clone.ml).
func (a attached) stays() bool {
	_, own := a.vbd.Other["owner"]
	return a.others || !own && (a.vbd.Mode == "RO" || a.vdi.Sharable)
}

func (a attached) keptNote() string {
	why := "the machine had it read-only"
	if a.others || a.vdi.Sharable {
		why = "other machines may have it too"
	}
	return "image " + a.vdi.UUID + " (" + a.vdi.Name + ") is kept: " + why
}

// attachedImages returns the images on the disks of a machine, without CDs.
func (d *driver) attachedImages(ctx context.Context, vbds map[xapi.Ref]vbdRec) ([]attached, error) {
	var refs []xapi.Ref
	for _, b := range vbds {
		if !b.Empty && b.Type == "Disk" && !b.VDI.IsNull() {
			refs = append(refs, b.VDI)
		}
	}
	images, err := records[vdiRec](ctx, d, "VDI", refs)
	if err != nil {
		return nil, err
	}
	var out []attached
	for _, b := range vbds {
		img, ok := images[b.VDI]
		if !ok {
			continue
		}
		a := attached{vbd: b, vdi: img, ref: b.VDI}
		for _, u := range img.VBDs {
			if _, own := vbds[u]; !own {
				a.others = true
			}
		}
		out = append(out, a)
	}
	return out, nil
}

// destroySnapshots destroys the snapshots of a machine, and adds their images
// to out. It looks until there are none: one that was being made may appear
// meanwhile, and would outlive the machine unseen.
func (d *driver) destroySnapshots(ctx context.Context, vm xapi.Ref, out *destroyed) error {
	for {
		var snaps []xapi.Ref
		if err := d.c.Call(ctx, &snaps, "VM.get_snapshots", vm); kindOf(err) == hypervisor.ErrNotFound || err == nil && len(snaps) == 0 {
			return nil
		} else if err != nil {
			return err
		}
		for _, s := range snaps {
			went, err := d.destroyWith(ctx, s)
			if err != nil {
				return err
			}
			maps.Copy(out.images, went.images)
		}
	}
}

func (d *driver) destroyWithDisks(ctx context.Context, vm xapi.Ref) error {
	_, err := d.destroyWith(ctx, vm)
	return err
}

// destroyed is the result of destroyWith.
type destroyed struct {
	images map[xapi.Ref]vdiRec
	kept   []string // notes about images that stay
}

// destroyWith destroys a machine or snapshot and the images that belong to
// it, because VM.destroy leaves them behind. CDs stay, and so do the images
// for which stays is true; kept names them. The error names images that could
// not be destroyed.
func (d *driver) destroyWith(ctx context.Context, vm xapi.Ref) (out destroyed, err error) {
	var v vmRec
	if err := d.c.Call(ctx, &v, "VM.get_record", vm); err != nil {
		if kindOf(err) == hypervisor.ErrNotFound {
			return out, nil
		}
		return out, err
	}
	// Read before the machine is destroyed, so that they can be named
	// whatever happens.
	vbds, err := records[vbdRec](ctx, d, "VBD", v.VBDs)
	if err != nil {
		return out, err
	}
	disks, err := d.attachedImages(ctx, vbds)
	if err != nil {
		return out, err
	}
	images, err := records[vdiRec](ctx, d, "VDI", []xapi.Ref{v.SuspendVDI})
	if err != nil {
		return out, err
	}
	for _, a := range disks {
		if a.stays() {
			out.kept = append(out.kept, a.keptNote())
		} else {
			images[a.ref] = a.vdi
		}
	}
	if err := ctx.Err(); err != nil {
		return out, err
	}
	// A cancel in the middle would leave images that nobody names.
	ctx, stop := job.Late(ctx)
	defer stop()
	if err := d.destroy(ctx, "VM", vm); err != nil {
		return out, err
	}
	out.images = map[xapi.Ref]vdiRec{}
	var left []hypervisor.Ref
	var errs []error
	for ref, img := range images {
		if img.ToolsISO {
			continue
		}
		if err := d.destroy(ctx, "VDI", ref); err != nil && kindOf(err) != hypervisor.ErrNotFound {
			left = append(left, hypervisor.VolumeID(img.UUID).Ref())
			errs = append(errs, err)
			continue
		}
		out.images[ref] = img
	}
	if len(errs) > 0 {
		return out, &hypervisor.Error{Kind: kindOf(errs[0]), Leftover: left, Err: errors.Join(errs...)}
	}
	return out, nil
}
