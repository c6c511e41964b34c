package xen

import (
	"context"
	"fmt"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// planDisk looks up the datastore and the source of a disk.
func (d *driver) planDisk(ctx context.Context, on hypervisor.Ref, s hypervisor.DiskSpec, machine hypervisor.DatastoreID) (diskPlan, error) {
	p := diskPlan{spec: s}
	if s.Provisioning != hypervisor.ProvisioningAny {
		return p, hypervisor.Unsupported(on, capability.DiskAttach, hypervisor.ReasonPlatform,
			fmt.Sprintf("Provisioning %q: a storage repository has one way to take space: choose the datastore instead", s.Provisioning))
	}
	if s.Bus != "" {
		return p, hypervisor.Unsupported(on, capability.DiskAttach, hypervisor.ReasonPlatform,
			fmt.Sprintf("Bus %q: Xen's machines have paravirtual disks with emulated ones for booting; leave Bus out", s.Bus))
	}
	var err error
	if v := s.Image + s.Volume; v != "" {
		if p.from, err = d.byUUID(ctx, "VDI", string(v)); err != nil {
			return p, err
		}
	}
	if s.Volume != "" {
		return p, nil
	}
	ds := s.Datastore
	if ds == "" {
		ds = machine
	}
	if ds != "" {
		p.sr, err = d.byUUID(ctx, "SR", string(ds))
		return p, err
	}
	pool, _, err := d.pool(ctx)
	if err != nil {
		return p, err
	}
	if pool.DefaultSR.IsNull() {
		return p, errNoDefault(on)
	}
	p.sr = pool.DefaultSR
	return p, nil
}

// newImage makes an image with VDI.create and, if from is given, copies that
// image into it. So the new image carries this job's mark from the start and
// is never lost.
func (j *poolJob) newImage(ctx context.Context, name string, sr, from xapi.Ref, size int64) (xapi.Ref, error) {
	if !from.IsNull() {
		var rec vdiRec
		if err := j.d.c.Call(ctx, &rec, "VDI.get_record", from); err != nil {
			return "", err
		}
		if size > 0 && size < rec.Size {
			return "", hypervisor.Errorf(hypervisor.ErrInvalidArgument, j.Object, "SizeBytes %d is below the image's %d", size, rec.Size)
		}
		size = max(size, rec.Size)
	}
	other := map[string]string{}
	vdi, err := j.make(ctx, "VDI", other, map[string]any{
		"name_label": name, "name_description": "", "SR": sr, "virtual_size": size, "type": "user", "sharable": false,
		"read_only": false, "other_config": other, "xenstore_data": map[string]string{}, "sm_config": map[string]string{}, "tags": []string{},
	})
	if err != nil {
		return "", j.d.defaultGone(ctx, j.Object, sr, err)
	}
	var image *job.Undo
	image = j.Remove(hypervisor.Ref{Kind: hypervisor.ObjectVolume, Name: name}, func(ctx context.Context) error {
		var rec vdiRec
		err := j.d.c.Call(ctx, &rec, "VDI.get_record", vdi)
		if err == nil {
			image.Made.ID = rec.UUID
			err = j.d.removeImage(ctx, vdi)
		}
		return err
	})
	if !from.IsNull() {
		_, err = j.run(ctx, 0, 0.8, "VDI.copy", from, xapi.Null, xapi.Null, vdi)
	}
	return vdi, err
}

// addDisk makes a disk's image and attaches it. It returns the VBD.
func (j *poolJob) addDisk(ctx context.Context, vm xapi.Ref, p diskPlan, device, name string, boot bool) (xapi.Ref, error) {
	vdi := p.from
	var err error
	if p.spec.Volume == "" {
		if vdi, err = j.newImage(ctx, name, p.sr, p.from, p.spec.SizeBytes); err != nil {
			return "", err
		}
	}
	mode, kind := "RW", "Disk"
	if p.spec.ReadOnly || p.spec.CDROM {
		mode = "RO"
	}
	if p.spec.CDROM {
		kind = "CD"
	}
	other := map[string]string{}
	vbd, err := j.make(ctx, "VBD", other, map[string]any{
		"VM": vm, "VDI": vdi, "userdevice": device, "bootable": boot, "mode": mode, "type": kind, "unpluggable": kind == "Disk", "empty": false,
		"other_config": other, "qos_algorithm_type": "", "qos_algorithm_params": map[string]string{},
	})
	if err == nil {
		j.SetBack("the machine's disks", func(ctx context.Context) error { return j.d.destroy(ctx, "VBD", vbd) })
	}
	return vbd, err
}

// awake refuses to change the devices of a suspended machine, because they
// must exist when it resumes.
func awake(on hypervisor.Ref, st hypervisor.PowerState) error {
	if st == hypervisor.StateSuspended {
		return hypervisor.Errorf(hypervisor.ErrInvalidState, on, "the machine is suspended: resume it or power it off first")
	}
	return nil
}

// AttachDisk makes or uses an image, and plugs it into a running machine.
func (d *driver) AttachDisk(ctx context.Context, id hypervisor.VMID, s hypervisor.DiskSpec) (hypervisor.DriverTask, error) {
	vm, v, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name}
	st := state(v.PowerState)
	if err := awake(on, st); err != nil {
		return nil, err
	}
	i, err := d.GetVM(ctx, id)
	if err != nil {
		return nil, err
	}
	p, err := d.planDisk(ctx, on, s, i.Placement.Datastore)
	if err != nil {
		return nil, err
	}
	return d.compose(ctx, "attach disk", on, capability.DiskAttach, "", func(ctx context.Context, j *poolJob) (hypervisor.Ref, error) {
		j.Bound = true
		vbd, err := j.addDisk(ctx, vm, p, "autodetect", fmt.Sprintf("%s disk", v.Name), false)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		var plug error
		if st != hypervisor.StateOff {
			if plug = d.c.Call(ctx, nil, "VBD.plug", vbd); plug != nil && !xapi.Lost(plug) {
				return hypervisor.Ref{}, plug
			}
		}
		var rec vbdRec
		err = d.c.Call(ctx, &rec, "VBD.get_record", vbd)
		if err == nil && !rec.Attached {
			err = plug
		}
		return hypervisor.DiskID(rec.UUID).Ref(), err
	})
}

// disk finds a machine's VBD.
func (d *driver) disk(ctx context.Context, vm xapi.Ref, id hypervisor.DiskID) (xapi.Ref, vbdRec, error) {
	ref, err := d.byUUID(ctx, "VBD", string(id))
	var b vbdRec
	if err == nil {
		err = d.c.Call(ctx, &b, "VBD.get_record", ref)
	}
	if err == nil && b.VM != vm {
		err = hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "this disk belongs to another machine")
	}
	return ref, b, err
}

// DetachDisk unplugs and destroys the VBD and, if requested, the image.
func (d *driver) DetachDisk(ctx context.Context, id hypervisor.VMID, disk hypervisor.DiskID, policy hypervisor.DiskPolicy) (hypervisor.DriverTask, error) {
	vm, v, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	vbd, b, err := d.disk(ctx, vm, disk)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name}
	if err := awake(on, state(v.PowerState)); err != nil {
		return nil, err
	}
	destroy := policy == hypervisor.DeleteDisks && b.Type == "Disk" && !b.VDI.IsNull()
	var img vdiRec
	if destroy {
		if err := d.c.Call(ctx, &img, "VDI.get_record", b.VDI); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(img.VBDs, func(r xapi.Ref) bool { return r != vbd }) {
			return nil, hypervisor.Errorf(hypervisor.ErrBusy, hypervisor.VolumeID(img.UUID).Ref(), "another machine has this image attached: detach it there first, or keep the image")
		}
	}
	var notes []string
	if a := (attached{vbd: b, vdi: img, ref: b.VDI}); destroy && a.stays() {
		destroy, notes = false, []string{a.keptNote()}
	}
	return d.compose(ctx, "detach disk", on, capability.DiskAttach, "", func(ctx context.Context, j *poolJob) (hypervisor.Ref, error) {
		for _, n := range notes {
			j.Note(n)
		}
		if b.Attached && state(v.PowerState) != hypervisor.StateOff {
			if err := d.c.Call(ctx, nil, "VBD.unplug", vbd); err != nil {
				return on, err
			}
		}
		if err := d.destroy(ctx, "VBD", vbd); err != nil {
			return on, err
		}
		if !destroy {
			return on, nil
		}
		err := d.destroy(ctx, "VDI", b.VDI)
		if err != nil {
			j.Left(hypervisor.VolumeID(img.UUID).Ref())
		}
		return on, err
	})
}

// GrowDisk enlarges an image (VDI.resize). XAPI refuses it while a running
// machine has it attached.
func (d *driver) GrowDisk(ctx context.Context, id hypervisor.VMID, disk hypervisor.DiskID, size int64) (hypervisor.DriverTask, error) {
	vm, v, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	_, b, err := d.disk(ctx, vm, disk)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name}
	var img vdiRec
	if err := d.c.Call(ctx, &img, "VDI.get_record", b.VDI); err != nil {
		return nil, err
	}
	switch {
	case size < img.Size:
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, disk.Ref(), "the disk has %d bytes already, and disks can't shrink to %d", img.Size, size)
	case size == img.Size:
		return done(on), nil
	case b.Attached && state(v.PowerState) != hypervisor.StateOff:
		return nil, hypervisor.Unsupported(on, capability.DiskGrowLive, hypervisor.ReasonPlatform, growDetail)
	}
	return d.async(ctx, on, capability.DiskGrow, nil, nil, "VDI.resize", b.VDI, size)
}
