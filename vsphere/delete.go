package vsphere

import (
	"context"
	"slices"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
)

// DeleteVM first checks who depends on the machine's images. For a machine
// that is off and is deleted with its own disks it takes one Destroy_Task.
// Power off, detaching disks that are kept, and removing the base snapshot of
// the last linked clone are further steps.
func (d *driver) DeleteVM(ctx context.Context, id hypervisor.VMID, r hypervisor.DeleteRequest) (hypervisor.DriverTask, error) {
	v, p, err := d.readProps(ctx, id)
	if err != nil {
		return nil, err
	}
	devs := get[types.ArrayOfVirtualDevice](p, "config.hardware.device")
	if lostFiles(p) {
		return d.deleteLost(ctx, id, r)
	}
	if v.State != hypervisor.StateOff && v.State != hypervisor.StateSuspended && !r.Force {
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
	if st, err := d.homeStore(ctx, p); err == nil {
		home = volumeID(st, p.str("config.files.vmPathName"))
	}
	images := imagesOf(findOwner(all, vmRef(id)), snaps, home)
	if r.Disks == hypervisor.DeleteDisks || v.Snapshots > 0 { // keeping merges the snapshots
		if by := dependants(all, vmRef(id), images.owned); len(by) > 0 {
			return nil, d.busyWith(ctx, id.Ref(), "linked clones depend on its disks", by, "delete them first")
		}
	}
	running := v.State != hypervisor.StateOff
	kept := slices.DeleteFunc(disksOf(devs.VirtualDevice), func(x *types.VirtualDisk) bool { return !isReadOnly(x) })
	if !running && r.Disks == hypervisor.DeleteDisks && len(images.foreign)+len(kept) == 0 {
		return d.start(ctx, id.Ref(), func(ctx context.Context) (ref, error) { return d.destroy(ctx, id) }, nil)
	}
	return d.compose(ctx, "delete", id.Ref(), func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		if running {
			j.Phase("powering off", -1)
			if err := d.powerOff(ctx, id); err != nil {
				return id.Ref(), err
			}
		}
		if r.Disks == hypervisor.KeepDisks || len(kept) > 0 {
			detach := func() error { return d.detachAll(ctx, id, v, devs.VirtualDevice, j.Report) }
			if r.Disks == hypervisor.DeleteDisks {
				detach = func() error { return d.detach(ctx, id, kept) }
			}
			if v.Template {
				err = d.asMachine(ctx, v, detach)
			} else {
				err = detach()
			}
			if err != nil {
				return id.Ref(), err
			}
		}
		if r.Disks == hypervisor.DeleteDisks {
			for _, x := range kept {
				j.Note(keptNote(x))
			}
		}
		j.Phase("deleting", -1)
		if _, err := d.step(ctx, j.Report, func(ctx context.Context) (ref, error) { return d.destroy(ctx, id) }); err != nil {
			return id.Ref(), err
		}
		// The machine is gone, so a failure from here on is not one of the
		// deletion.
		if r.Disks == hypervisor.DeleteDisks {
			note, err := d.sweepBase(ctx, images.foreign)
			if err != nil {
				note = "the base snapshot of the linked clone was not removed: " + err.Error()
			}
			if note != "" {
				j.Note(note)
			}
		}
		return id.Ref(), nil
	})
}

// lostFiles reports whether a machine is only an entry in the inventory: no
// host has it, or its files can't be read (API reference,
// VirtualMachineConnectionState).
func lostFiles(p propMap) bool {
	switch get[types.VirtualMachineConnectionState](p, "runtime.connectionState") {
	case types.VirtualMachineConnectionStateOrphaned, types.VirtualMachineConnectionStateInaccessible, types.VirtualMachineConnectionStateInvalid:
		return true
	}
	return false
}

// deleteLost removes a machine whose files can't be reached from the
// inventory. It does not touch the files, so this is not a deletion with its
// disks.
func (d *driver) deleteLost(ctx context.Context, id hypervisor.VMID, r hypervisor.DeleteRequest) (hypervisor.DriverTask, error) {
	switch {
	case r.Disks == hypervisor.DeleteDisks:
		return nil, invalidState(id.Ref(), "vCenter can't reach the machine's files: bring its host or datastore back, or delete it with KeepDisks, which takes it from the inventory")
	case !r.Force:
		return nil, invalidState(id.Ref(), "vCenter can't reach the machine's files, and does not know whether it runs: set Force to take it from the inventory")
	}
	_, err := job.Call[struct{}]{
		Send: func(ctx context.Context) (struct{}, error) {
			_, err := methods.UnregisterVM(ctx, d.rt, &types.UnregisterVM{This: vmRef(id)})
			return struct{}{}, err
		},
		Lost: func(err error) bool { return lost(ctx, err) },
		Goal: func(ctx context.Context) (struct{}, bool, error) {
			_, err := d.one(ctx, vmRef(id), "name")
			if isNotFound(err) {
				return struct{}{}, true, nil
			}
			return struct{}{}, false, err
		},
	}.Do(ctx)
	if err != nil {
		return nil, err
	}
	return hypervisor.DoneTask(newID("delete"), hypervisor.TaskState{Result: id.Ref(), Notes: []string{"the machine was taken from the inventory; its files, if there are any, stay"}}), nil
}

func (d *driver) destroy(ctx context.Context, id hypervisor.VMID) (ref, error) {
	return d.launch(ctx, vmRef(id), "destroy", nil, func() (ref, error) {
		return taskOf(methods.Destroy_Task(ctx, d.rt, &types.Destroy_Task{This: vmRef(id)}))
	})
}

// detachAll removes all disks from a machine and keeps their files. Snapshots
// are merged first, so that each disk is one image with the present content.
func (d *driver) detachAll(ctx context.Context, id hypervisor.VMID, v hypervisor.VMInfo, devs []types.BaseVirtualDevice, report func(hypervisor.TaskState)) error {
	if v.Snapshots > 0 {
		report(hypervisor.TaskState{Fraction: -1, Phase: "merging"})
		merge := func(ctx context.Context) (ref, error) {
			return d.launch(ctx, vmRef(id), "removeAllSnapshots", nil, func() (ref, error) {
				return taskOf(methods.RemoveAllSnapshots_Task(ctx, d.rt, &types.RemoveAllSnapshots_Task{This: vmRef(id), Consolidate: types.NewBool(true)}))
			})
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
	return d.detach(ctx, id, disksOf(devs))
}

// detach removes disks from a machine and keeps their files.
func (d *driver) detach(ctx context.Context, id hypervisor.VMID, disks []*types.VirtualDisk) error {
	var spec types.VirtualMachineConfigSpec
	for _, x := range disks {
		spec.DeviceChange = append(spec.DeviceChange, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: x})
	}
	if len(spec.DeviceChange) == 0 {
		return nil
	}
	return d.change(ctx, id, spec)
}
