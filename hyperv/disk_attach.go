package hyperv

import (
	"context"
	"errors"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// AttachDisk implements hypervisor.DiskAttacher.
func (d *driver) AttachDisk(ctx context.Context, id hypervisor.VMID, k hypervisor.DiskSpec) (hypervisor.DriverTask, error) {
	m, err := d.changeable(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := d.checkDisks(ctx, m.h, id.Ref(), []hypervisor.DiskSpec{k}, ""); err != nil {
		return nil, err
	}
	if m.state != hypervisor.StateOff && strings.EqualFold(k.Bus, "ide") {
		return nil, hypervisor.Unsupported(id.Ref(), capability.DiskHotplug, hypervisor.ReasonPlatform, "IDE disks can't be attached while the machine runs: use scsi")
	}
	if k.Datastore == "" && k.Volume == "" { // the machine's datastore, where its first image is
		if disks, err := m.disks(ctx); err != nil {
			return nil, err
		} else if len(disks) > 0 {
			k.Datastore = m.h.datastoreOf(disks[0].Str("HostResource"))
		}
	}
	return m.start(ctx, "attach disk", "", func(o *op) (hypervisor.Ref, error) {
		disk, err := o.attachDisk(m, k, m.name())
		return disk.Ref(), err
	})
}

// changeable reads a machine whose parts are about to change. Templates can't
// be changed.
func (d *driver) changeable(ctx context.Context, id hypervisor.VMID) (*machine, error) {
	m, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	if m.state == hypervisor.StateSuspended {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine is suspended; its hardware can't change until it is resumed or powered off")
	}
	return m, m.startable()
}

// disk finds a disk of a machine with its drive.
func (m *machine) disk(ctx context.Context, id hypervisor.DiskID) (disk, drive *cim.Instance, err error) {
	r, _, err := m.resources(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, x := range r.rows[rowDisks] {
		if !strings.EqualFold(x.Str("InstanceID"), string(id)) {
			continue
		}
		p, _ := x.Ref("Parent")
		for _, y := range r.rows[rowResources] {
			if strings.EqualFold(y.Str("InstanceID"), p.Key("InstanceID")) {
				return x, y, nil
			}
		}
		return x, nil, nil
	}
	for _, y := range r.rows[rowResources] { // an empty drive, which a detachment left, or a disk of the host
		if s := y.Str("ResourceSubType"); (s == subDrive || s == subDVDDrive || s == subPhysical) && strings.EqualFold(y.Str("InstanceID"), string(id)) {
			return &cim.Instance{}, y, nil
		}
	}
	return nil, nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "machine %s has no such disk", m.id)
}

// DetachDisk implements hypervisor.DiskAttacher.
func (d *driver) DetachDisk(ctx context.Context, id hypervisor.VMID, disk hypervisor.DiskID, p hypervisor.DiskPolicy) (hypervisor.DriverTask, error) {
	m, err := d.changeable(ctx, id)
	if err != nil {
		return nil, err
	}
	x, drive, err := m.disk(ctx, disk)
	if err != nil {
		return nil, err
	}
	path := x.Str("HostResource")
	if p == hypervisor.DeleteDisks && path != "" && x.Str("ResourceSubType") != subDVD {
		if err := m.h.removable(id.Ref(), capability.DiskAttach, path); err != nil {
			return nil, err
		}
		if len(userSnapshots(m.snaps)) > 0 {
			return nil, hypervisor.Errorf(hypervisor.ErrBusy, disk.Ref(), "snapshots of the machine need the image: delete them first, or keep the image")
		}
		if err := d.unshared(ctx, m, []string{path}); err != nil {
			return nil, err
		}
	}
	var refs []cim.Ref
	if id := x.Str("InstanceID"); id != "" {
		refs = append(refs, m.h.settingRef("Msvm_StorageAllocationSettingData", id))
	}
	if drive != nil {
		refs = append(refs, m.h.settingRef("Msvm_ResourceAllocationSettingData", drive.Str("InstanceID")))
	}
	return m.start(ctx, "detach disk", "", func(o *op) (hypervisor.Ref, error) {
		image := p == hypervisor.DeleteDisks && path != "" && x.Str("ResourceSubType") != subDVD
		for i, r := range refs { // the image, then the drive that held it
			err := m.removeResources(o.ctx, r)
			if err == nil {
				continue
			}
			if i > 0 || errors.Is(err, cim.ErrLost) {
				o.Left(hypervisor.DiskID(refs[len(refs)-1].Key("InstanceID")).Ref())
				if image {
					o.leaveImages(path)
				}
			}
			return hypervisor.Ref{}, err
		}
		if !image {
			return hypervisor.Ref{}, nil
		}
		err := o.d.removeFile(o.ctx, o.s, path)
		if err != nil {
			o.leaveImages(path)
		}
		return hypervisor.Ref{}, err
	})
}

// GrowDisk implements hypervisor.DiskAttacher. Disks on SCSI grow while the
// machine runs.
func (d *driver) GrowDisk(ctx context.Context, id hypervisor.VMID, disk hypervisor.DiskID, size int64) (hypervisor.DriverTask, error) {
	m, err := d.changeable(ctx, id)
	if err != nil {
		return nil, err
	}
	x, _, err := m.disk(ctx, disk)
	if err != nil {
		return nil, err
	}
	img, err := m.h.images(ctx, m.s)
	if err != nil {
		return nil, err
	}
	path := x.Str("HostResource")
	if path == "" {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, disk.Ref(), "the drive has no image: it is empty, or a disk of the host")
	}
	v, err := readImage(ctx, m.s, img, path)
	if err != nil {
		return nil, err
	}
	switch now := int64(v.Uint("MaxInternalSize")); {
	case size == now:
		return hypervisor.DoneTask(hypervisor.TaskID("op:"+randomHex(16)), hypervisor.TaskState{}), nil
	case size < now:
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, disk.Ref(), "the disk has %d bytes already; disks only grow", now)
	}
	if len(userSnapshots(m.snaps)) > 0 {
		return nil, hypervisor.Errorf(hypervisor.ErrBusy, disk.Ref(), "the disk has snapshots; Hyper-V grows a disk only without them")
	}
	if v.Str("ParentPath") == "" {
		// A base that grows no longer matches its linked clones.
		if err := d.unshared(ctx, m, []string{path}); err != nil {
			return nil, err
		}
	}
	return m.native(ctx, "grow disk", m.request(d.grown(m.h, m.s, img, path, size), img, "ResizeVirtualHardDisk", cim.Arg{Name: "Path", Value: path}, cim.Arg{Name: "MaxInternalSize", Value: uint64(size)}), nil)
}
