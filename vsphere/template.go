package vsphere

import (
	"context"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// MarkTemplate is MarkAsTemplate, which is done at once. The ID stays.
func (d *driver) MarkTemplate(ctx context.Context, id hypervisor.VMID) (hypervisor.DriverTask, error) {
	if !d.isVC() {
		return nil, hypervisor.Unsupported(id.Ref(), hypervisor.Templates, hypervisor.ReasonPlatform, needsVC)
	}
	p, err := d.one(ctx, vmRef(id), "runtime.powerState", "summary.config.template")
	if err != nil {
		return nil, err
	}
	done := hypervisor.DoneTask(newID("template"), hypervisor.TaskState{Result: hypervisor.TemplateID(id).Ref()})
	if get[bool](p, "summary.config.template") {
		return done, nil
	}
	if s := stateOf(get[types.VirtualMachinePowerState](p, "runtime.powerState")); s != hypervisor.Off {
		return nil, invalidState(id.Ref(), "the machine is %s: shut it down first", s)
	}
	if _, err := methods.MarkAsTemplate(ctx, d.rt, &types.MarkAsTemplate{This: vmRef(id)}); err != nil {
		return nil, err
	}
	return done, nil
}

// MarkVM is MarkAsVirtualMachine. vSphere itself allows it for templates that
// linked clones stand on; it is refused because the machine could then be
// started and changed.
func (d *driver) MarkVM(ctx context.Context, id hypervisor.TemplateID, place hypervisor.Placement) (hypervisor.DriverTask, error) {
	if !d.isVC() {
		return nil, hypervisor.Unsupported(id.Ref(), hypervisor.Templates, hypervisor.ReasonPlatform, needsVC)
	}
	v, _, err := d.read(ctx, hypervisor.VMID(id))
	if err != nil {
		return nil, err
	}
	done := hypervisor.DoneTask(newID("template"), hypervisor.TaskState{Result: v.ID.Ref()})
	if !v.Template {
		return done, nil
	}
	all, err := d.owners(ctx)
	if err != nil {
		return nil, err
	}
	snaps, err := d.frozenImages(ctx, vmRef(v.ID))
	if err != nil {
		return nil, err
	}
	images := imagesOf(findOwner(all, vmRef(v.ID)), snaps, "")
	if by := dependants(all, vmRef(v.ID), images.owned); len(by) > 0 {
		return nil, busyWith(id.Ref(), "linked clones stand on the template's disks", by)
	}
	if place.Pool == "" && place.Host == "" {
		place.Host = v.Host
	}
	spot, err := d.settle(ctx, place)
	if err != nil {
		return nil, err
	}
	if err := d.markVM(ctx, v.ID, spot); err != nil {
		return nil, err
	}
	return done, nil
}

func (d *driver) markVM(ctx context.Context, id hypervisor.VMID, at spot) error {
	_, err := methods.MarkAsVirtualMachine(ctx, d.rt, &types.MarkAsVirtualMachine{This: vmRef(id), Pool: at.pool, Host: at.host})
	return err
}
