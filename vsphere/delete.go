package vsphere

import (
	"context"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// DeleteVM checks who stands on the machine's images first. A machine that is
// off and goes with its own disks is one Destroy_Task; power off, detaching
// what is kept, and removing the base snapshot of the last linked clone are
// further steps.
func (d *driver) DeleteVM(ctx context.Context, id hypervisor.VMID, r hypervisor.DeleteRequest) (hypervisor.DriverTask, error) {
	v, devs, err := d.read(ctx, id)
	if err != nil {
		return nil, err
	}
	if v.State != hypervisor.Off && v.State != hypervisor.Suspended && !r.Force {
		return nil, invalidState(id.Ref(), "the machine is %s: shut it down first, or set Force", v.State)
	}
	all, err := d.owners(ctx)
	if err != nil {
		return nil, err
	}
	var snaps []frozen
	if v.Snapshots > 0 {
		if snaps, err = d.frozenImages(ctx, vmRef(id)); err != nil {
			return nil, err
		}
	}
	home := hypervisor.VolumeID("")
	if p, err := d.one(ctx, vmRef(id), "config.files.vmPathName", "datastore"); err == nil {
		for _, st := range p.refs("datastore") {
			home = volumeID(st, p.str("config.files.vmPathName"))
			break
		}
	} else {
		return nil, err
	}
	images := imagesOf(findOwner(all, vmRef(id)), snaps, home)
	if r.Disks == hypervisor.DeleteDisks || v.Snapshots > 0 { // keeping merges the snapshots
		if by := dependants(all, vmRef(id), images.owned); len(by) > 0 {
			return nil, busyWith(id.Ref(), "linked clones stand on its disks", by)
		}
	}
	running := v.State != hypervisor.Off
	if !running && r.Disks == hypervisor.DeleteDisks && len(images.foreign) == 0 {
		self, err := d.destroy(ctx, id)
		if err != nil {
			return nil, err
		}
		return d.job(self), nil
	}
	return d.group.Go(ctx, newID("delete"), func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		s := hypervisor.TaskState{Result: id.Ref()}
		fail := func(err error) hypervisor.TaskState { s.Err = err; return s }
		if running {
			report(hypervisor.TaskState{Fraction: -1, Phase: "powering off"})
			if err := d.powerOff(ctx, id); err != nil {
				return fail(err)
			}
		}
		if r.Disks == hypervisor.KeepDisks {
			if err := d.detachAll(ctx, id, v, devs.VirtualDevice, report); err != nil {
				return fail(err)
			}
		}
		report(hypervisor.TaskState{Fraction: -1, Phase: "deleting"})
		if _, err := d.step(ctx, report, func(ctx context.Context) (ref, error) { return d.destroy(ctx, id) }); err != nil {
			return fail(err)
		}
		// The machine is gone: what fails now is no failure of the deletion.
		if r.Disks == hypervisor.DeleteDisks {
			note, err := d.sweepBase(ctx, images.foreign)
			if err != nil {
				note = "the base snapshot of the linked clone was not removed: " + err.Error()
			}
			if note != "" {
				s.Notes = append(s.Notes, note)
			}
		}
		return s
	})
}

func (d *driver) destroy(ctx context.Context, id hypervisor.VMID) (ref, error) {
	return d.launch(ctx, vmRef(id), "destroy", nil, func() (ref, error) {
		res, err := methods.Destroy_Task(ctx, d.rt, &types.Destroy_Task{This: vmRef(id)})
		if err != nil {
			return ref{}, err
		}
		return res.Returnval, nil
	})
}

// detachAll takes all disks from a machine and leaves their files. Snapshots
// are merged first, so that each disk is one image with the present content.
func (d *driver) detachAll(ctx context.Context, id hypervisor.VMID, v hypervisor.VMInfo, devs []types.BaseVirtualDevice, report func(hypervisor.TaskState)) error {
	if v.Snapshots > 0 {
		report(hypervisor.TaskState{Fraction: -1, Phase: "merging"})
		merge := func(ctx context.Context) (ref, error) {
			res, err := methods.RemoveAllSnapshots_Task(ctx, d.rt, &types.RemoveAllSnapshots_Task{This: vmRef(id), Consolidate: types.NewBool(true)})
			if err != nil {
				return ref{}, err
			}
			return res.Returnval, nil
		}
		if _, err := d.step(ctx, report, merge); err != nil {
			return err
		}
		p, err := d.one(ctx, vmRef(id), "config.hardware.device")
		if err != nil {
			return err
		}
		devs = get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice
	}
	var spec types.VirtualMachineConfigSpec
	for _, x := range disksOf(devs) {
		spec.DeviceChange = append(spec.DeviceChange, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: x})
	}
	if len(spec.DeviceChange) == 0 {
		return nil
	}
	return d.change(ctx, id, spec)
}
