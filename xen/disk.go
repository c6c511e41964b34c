package xen

import (
	"context"
	"fmt"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// planDisk looks up where a disk goes and what it is made of.
func (d *driver) planDisk(ctx context.Context, on hypervisor.Ref, s hypervisor.DiskSpec, machine hypervisor.DatastoreID) (diskPlan, error) {
	p := diskPlan{spec: s}
	if s.Provisioning != hypervisor.AnyProvisioning {
		return p, hypervisor.Errorf(hypervisor.KindUnsupported, on, "Provisioning %q: a storage repository has one way to take space: choose the datastore instead", s.Provisioning)
	}
	if s.Bus != "" {
		return p, hypervisor.Errorf(hypervisor.KindUnsupported, on, "Bus %q: Xen's machines have paravirtual disks with emulated ones for booting; leave Bus out", s.Bus)
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
		return p, hypervisor.Errorf(hypervisor.KindInvalidArgument, on, "the pool has no default datastore: name one in Placement.Datastore")
	}
	p.sr = pool.DefaultSR
	return p, nil
}

// addDisk makes a disk's image and attaches it. It returns the VBD.
func (j *job) addDisk(ctx context.Context, vm xapi.Ref, p diskPlan, device, name string, boot bool) (xapi.Ref, error) {
	vdi := p.from
	var err error
	switch {
	case p.spec.Volume != "":
	case p.spec.Image != "":
		if vdi, err = j.run(ctx, 0, 0.8, "VDI.copy", p.from, p.sr, xapi.Null, xapi.Null); err != nil {
			return "", err
		}
	default:
		err = j.d.c.Call(ctx, &vdi, "VDI.create", map[string]any{
			"name_label": name, "name_description": "", "SR": p.sr, "virtual_size": p.spec.SizeBytes, "type": "user", "sharable": false,
			"read_only": false, "other_config": map[string]string{}, "xenstore_data": map[string]string{}, "sm_config": map[string]string{}, "tags": []string{},
		})
		if err != nil {
			return "", err
		}
	}
	if p.spec.Volume == "" {
		j.mustUndo(hypervisor.Ref{Kind: hypervisor.KindOfVolume, Name: name}, func(ctx context.Context) error { return j.d.c.Call(ctx, nil, "VDI.destroy", vdi) })
	}
	if p.spec.Image != "" && p.spec.SizeBytes > 0 {
		var rec vdiRec
		if err := j.d.c.Call(ctx, &rec, "VDI.get_record", vdi); err != nil {
			return "", err
		}
		if p.spec.SizeBytes < rec.Size {
			return "", hypervisor.Errorf(hypervisor.KindInvalidArgument, j.on, "SizeBytes %d is below the image's %d", p.spec.SizeBytes, rec.Size)
		}
		if p.spec.SizeBytes > rec.Size {
			if err := j.d.c.Call(ctx, nil, "VDI.resize", vdi, p.spec.SizeBytes); err != nil {
				return "", err
			}
		}
	}
	mode, kind := "RW", "Disk"
	if p.spec.ReadOnly || p.spec.CDROM {
		mode = "RO"
	}
	if p.spec.CDROM {
		kind = "CD"
	}
	var vbd xapi.Ref
	err = j.d.c.Call(ctx, &vbd, "VBD.create", map[string]any{
		"VM": vm, "VDI": vdi, "userdevice": device, "bootable": boot, "mode": mode, "type": kind, "unpluggable": kind == "Disk", "empty": false,
		"other_config": map[string]string{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]string{},
	})
	if err == nil {
		j.undo = append(j.undo, func(ctx context.Context) error { return j.d.c.Call(ctx, nil, "VBD.destroy", vbd) })
	}
	return vbd, err
}

// AttachDisk makes or takes an image, and plugs it into a running machine.
func (d *driver) AttachDisk(ctx context.Context, id hypervisor.VMID, s hypervisor.DiskSpec) (hypervisor.DriverTask, error) {
	vm, v, err := d.vm(ctx, id)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name}
	st := state(v.PowerState)
	if st == hypervisor.Suspended {
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, on, "the machine is suspended: resume it or power it off first")
	}
	i, err := d.GetVM(ctx, id)
	if err != nil {
		return nil, err
	}
	p, err := d.planDisk(ctx, on, s, i.Placement.Datastore)
	if err != nil {
		return nil, err
	}
	return d.compose(ctx, "attach disk", on, hypervisor.DiskAttach, func(ctx context.Context, j *job) (hypervisor.Ref, error) {
		vbd, err := j.addDisk(ctx, vm, p, "autodetect", fmt.Sprintf("%s disk", v.Name), false)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		if st != hypervisor.Off {
			if err := d.c.Call(ctx, nil, "VBD.plug", vbd); err != nil {
				return hypervisor.Ref{}, err
			}
		}
		var rec vbdRec
		err = d.c.Call(ctx, &rec, "VBD.get_record", vbd)
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
		err = hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "this disk belongs to another machine")
	}
	return ref, b, err
}

// DetachDisk unplugs and destroys the VBD and, if asked, the image.
func (d *driver) DetachDisk(ctx context.Context, id hypervisor.VMID, disk hypervisor.DiskID, policy hypervisor.DiskPolicy) (hypervisor.DriverTask, error) {
	vm, v, err := d.vm(ctx, id)
	if err != nil {
		return nil, err
	}
	vbd, b, err := d.disk(ctx, vm, disk)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name}
	if state(v.PowerState) == hypervisor.Suspended {
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, on, "the machine is suspended: resume it or power it off first")
	}
	return d.compose(ctx, "detach disk", on, hypervisor.DiskAttach, func(ctx context.Context, j *job) (hypervisor.Ref, error) {
		if b.Attached && state(v.PowerState) != hypervisor.Off {
			if err := d.c.Call(ctx, nil, "VBD.unplug", vbd); err != nil {
				return on, err
			}
		}
		if err := d.c.Call(ctx, nil, "VBD.destroy", vbd); err != nil {
			return on, err
		}
		if policy == hypervisor.DeleteDisks && b.Type == "Disk" && !b.VDI.IsNull() {
			var img vdiRec
			if err := d.c.Call(ctx, &img, "VDI.get_record", b.VDI); err != nil {
				return on, err
			}
			if len(img.VBDs) > 0 {
				return on, hypervisor.Errorf(hypervisor.KindBusy, hypervisor.VolumeID(img.UUID).Ref(), "another machine has this image attached: the disk was detached and the image kept")
			}
			return on, d.c.Call(ctx, nil, "VDI.destroy", b.VDI)
		}
		return on, nil
	})
}

// GrowDisk enlarges an image (VDI.resize). XAPI refuses it while a running
// machine has it attached.
func (d *driver) GrowDisk(ctx context.Context, id hypervisor.VMID, disk hypervisor.DiskID, size int64) (hypervisor.DriverTask, error) {
	vm, v, err := d.vm(ctx, id)
	if err != nil {
		return nil, err
	}
	_, b, err := d.disk(ctx, vm, disk)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name}
	var img vdiRec
	if err := d.c.Call(ctx, &img, "VDI.get_record", b.VDI); err != nil {
		return nil, err
	}
	switch {
	case size < img.Size:
		return nil, hypervisor.Errorf(hypervisor.KindInvalidArgument, disk.Ref(), "the disk has %d bytes already, and disks can't shrink to %d", img.Size, size)
	case size == img.Size:
		return done(on), nil
	case b.Attached && state(v.PowerState) != hypervisor.Off:
		return nil, hypervisor.Unsupported(on, hypervisor.DiskGrowLive, hypervisor.ReasonPlatform, growDetail)
	}
	return d.async(ctx, on, hypervisor.DiskGrow, nil, "VDI.resize", b.VDI, size)
}

// planNIC finds the network of an adapter: the one named, or the first with
// the host's management interface.
func (d *driver) planNIC(ctx context.Context, on hypervisor.Ref, n hypervisor.NICSpec) (xapi.Ref, error) {
	if n.Model != "" {
		return "", hypervisor.Errorf(hypervisor.KindUnsupported, on, "Model %q: Xen's machines have paravirtual adapters; leave Model out", n.Model)
	}
	if n.Network != "" {
		return d.byUUID(ctx, "network", string(n.Network))
	}
	var pifs map[xapi.Ref]pifRec
	if err := d.c.Call(ctx, &pifs, "PIF.get_all_records"); err != nil {
		return "", err
	}
	for _, p := range pifs {
		if p.Management {
			return p.Network, nil
		}
	}
	for _, p := range pifs {
		return p.Network, nil
	}
	return "", hypervisor.Errorf(hypervisor.KindInvalidArgument, on, "the pool has no network with a host interface: name a network")
}

func (j *job) addNIC(ctx context.Context, vm, network xapi.Ref, mac, device string) (xapi.Ref, error) {
	var vif xapi.Ref
	err := j.d.c.Call(ctx, &vif, "VIF.create", map[string]any{
		"device": device, "network": network, "VM": vm, "MAC": strings.ToLower(mac), "MTU": 1500, "other_config": map[string]string{},
		"qos_algorithm_type": "", "qos_algorithm_params": map[string]string{}, "locking_mode": "network_default", "ipv4_allowed": []string{}, "ipv6_allowed": []string{},
	})
	if err == nil {
		j.undo = append(j.undo, func(ctx context.Context) error { return j.d.c.Call(ctx, nil, "VIF.destroy", vif) })
	}
	return vif, err
}

// AttachNIC adds a VIF on the first free device number, and plugs it into a
// running machine.
func (d *driver) AttachNIC(ctx context.Context, id hypervisor.VMID, n hypervisor.NICSpec) (hypervisor.DriverTask, error) {
	vm, v, err := d.vm(ctx, id)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name}
	st := state(v.PowerState)
	if st == hypervisor.Suspended {
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, on, "the machine is suspended: resume it or power it off first")
	}
	network, err := d.planNIC(ctx, on, n)
	if err != nil {
		return nil, err
	}
	var free []string
	if err := d.c.Call(ctx, &free, "VM.get_allowed_VIF_devices", vm); err != nil {
		return nil, err
	}
	if len(free) == 0 {
		return nil, hypervisor.Errorf(hypervisor.KindExhausted, on, "the machine has as many adapters as it can have")
	}
	return d.compose(ctx, "attach adapter", on, hypervisor.NICAttach, func(ctx context.Context, j *job) (hypervisor.Ref, error) {
		vif, err := j.addNIC(ctx, vm, network, n.MAC, free[0])
		if err == nil && st != hypervisor.Off {
			err = d.c.Call(ctx, nil, "VIF.plug", vif)
		}
		var rec vifRec
		if err == nil {
			err = d.c.Call(ctx, &rec, "VIF.get_record", vif)
		}
		return hypervisor.NICID(rec.UUID).Ref(), err
	})
}

// DetachNIC unplugs and destroys the VIF.
func (d *driver) DetachNIC(ctx context.Context, id hypervisor.VMID, nic hypervisor.NICID) (hypervisor.DriverTask, error) {
	vm, v, err := d.vm(ctx, id)
	if err != nil {
		return nil, err
	}
	ref, err := d.byUUID(ctx, "VIF", string(nic))
	var rec vifRec
	if err == nil {
		err = d.c.Call(ctx, &rec, "VIF.get_record", ref)
	}
	if err == nil && rec.VM != vm {
		err = hypervisor.Errorf(hypervisor.KindNotFound, nic.Ref(), "this adapter belongs to another machine")
	}
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name}
	return d.compose(ctx, "detach adapter", on, hypervisor.NICAttach, func(ctx context.Context, j *job) (hypervisor.Ref, error) {
		if rec.Attached && state(v.PowerState) != hypervisor.Off {
			if err := d.c.Call(ctx, nil, "VIF.unplug", ref); err != nil {
				return on, err
			}
		}
		return on, d.c.Call(ctx, nil, "VIF.destroy", ref)
	})
}
