package xen

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// VM.copy has a sub-task VDI.copy for each disk, often on another host
// (xen-api's ocaml/xapi/xapi_vm_clone.ml). Once cancelled, both end before
// the half-made image is removed, and sometimes nobody removes it. It has the
// other_config of the source's image, so a mark there finds it.

// copyLimit is the time for which a cancelled or failed copy waits until the
// pool has removed its images. Measured were 0.2 to 1.5 seconds.
var copyLimit = 5 * time.Second

// copyLabels are the names of sub-tasks that make an image.
var copyLabels = []string{"Async.VDI.copy", "Async.VDI.clone", "Async.VDI.snapshot"}

// subTasks waits for the sub-tasks of work that did not succeed, and destroys
// the images of those that did.
func (j *poolJob) subTasks(ctx context.Context, refs []xapi.Ref) {
	ctx, stop := job.Late(ctx)
	defer stop()
	for _, ref := range refs {
		var t xapi.Task
		err := j.d.ended(ctx, ref)
		if err == nil {
			err = j.d.c.Call(ctx, &t, "task.get_record", ref)
		}
		if err != nil && !forgotten(err) {
			j.Note("the end of sub-task " + string(ref) + " is not known: " + err.Error())
		}
		if t.Status != "success" || !slices.Contains(copyLabels, t.Label) {
			continue
		}
		if err := j.d.removeImage(ctx, t.ResultRef()); err != nil {
			j.Left(j.d.volume(ctx, t.ResultRef()))
		}
	}
}

// volume names an image.
func (d *driver) volume(ctx context.Context, ref xapi.Ref) hypervisor.Ref {
	var id hypervisor.VolumeID
	if err := d.c.Call(ctx, &id, "VDI.get_uuid", ref); err != nil {
		return hypervisor.Ref{Kind: hypervisor.ObjectVolume, Name: string(ref)}
	}
	return id.Ref()
}

// removeImage destroys an image that the pool may still be about to detach
// from a copy.
func (d *driver) removeImage(ctx context.Context, ref xapi.Ref) error {
	token := ""
	for limit := time.Now().Add(copyLimit); ; {
		err := d.destroy(ctx, "VDI", ref)
		switch {
		case kindOf(err) == hypervisor.ErrNotFound:
			return nil
		case kindOf(err) != hypervisor.ErrBusy || !time.Now().Before(limit):
			return err
		}
		if token, err = d.changed(ctx, []xapi.Ref{ref}, token, limit); err != nil {
			return err
		}
	}
}

// changed waits for a change of images. An empty token returns at once.
func (d *driver) changed(ctx context.Context, images []xapi.Ref, token string, limit time.Time) (string, error) {
	var classes []string
	for _, r := range images {
		classes = append(classes, "VDI/"+string(r))
	}
	e, err := d.c.From(ctx, classes, token, max(min(watchWait, time.Until(limit)), 0))
	if lostEvents(err) {
		return "", nil
	}
	return e.Token, err
}

// imagesOf lists the images on a machine's disks.
func (d *driver) imagesOf(ctx context.Context, vm xapi.Ref) ([]xapi.Ref, error) {
	if vm.IsNull() {
		return nil, nil
	}
	var drives []xapi.Ref
	if err := d.c.Call(ctx, &drives, "VM.get_VBDs", vm); err != nil {
		if kindOf(err) == hypervisor.ErrNotFound {
			err = nil
		}
		return nil, err
	}
	vbds, err := records[vbdRec](ctx, d, "VBD", drives)
	var out []xapi.Ref
	for _, b := range vbds {
		if b.Type == "Disk" && !b.Empty && !b.VDI.IsNull() {
			out = append(out, b.VDI)
		}
	}
	slices.Sort(out)
	return out, err
}

// mark marks the source's images, and so those that the pool makes of them.
func (c *cloning) mark(ctx context.Context, d *driver) error {
	for _, r := range c.images {
		if err := d.c.Call(ctx, nil, "VDI.add_to_other_config", r, c.key, c.r.Name); err != nil && xapi.Code(err) != "MAP_DUPLICATE_KEY" {
			return err
		}
	}
	return nil
}

// sweep waits until the pool has removed the images of a copy that did not
// succeed, and returns those that stay. They are not destroyed: an image that
// another tool copied from the source meanwhile carries the mark too.
func (c *cloning) sweep(ctx context.Context, j *poolJob) []vdiRec {
	ctx, stop := job.Late(ctx)
	defer stop()
	var all map[xapi.Ref]vdiRec
	if err := j.d.c.Call(ctx, &all, "VDI.get_all_records"); err != nil {
		j.Note("it is not known whether the copy left images, which have " + c.key + " in their other_config: " + err.Error())
		for range c.images {
			j.Left(hypervisor.Ref{Kind: hypervisor.ObjectVolume, Name: c.key})
		}
		return nil
	}
	for ref, v := range all {
		if _, marked := v.Other[c.key]; !marked || !v.Managed || slices.Contains(c.images, ref) || j.d.hasMachine(ctx, v) {
			delete(all, ref)
		}
	}
	token := ""
	for limit := time.Now().Add(copyLimit); len(all) > 0; {
		there, err := records[vdiRec](ctx, j.d, "VDI", slices.Collect(maps.Keys(all)))
		if err == nil {
			if all = there; len(all) == 0 || !time.Now().Before(limit) {
				break
			}
			token, err = j.d.changed(ctx, slices.Sorted(maps.Keys(all)), token, limit)
		}
		if err != nil {
			break
		}
	}
	return slices.Collect(maps.Values(all))
}

// hasMachine reports whether a machine has the image as a disk. The pool
// attaches the images of a copy to its control domains.
func (d *driver) hasMachine(ctx context.Context, v vdiRec) bool {
	vbds, err := records[vbdRec](ctx, d, "VBD", v.VBDs)
	for _, b := range vbds {
		var vm vmRec
		if err == nil {
			err = d.c.Call(ctx, &vm, "VM.get_record", b.VM)
		}
		if err == nil && !vm.ControlDomain {
			return true
		}
	}
	return false
}
