package vsphere

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
)

// MarkTemplate calls MarkAsTemplate, after it has made the snapshot that
// linked clones of the template depend on. The ID stays.
func (d *driver) MarkTemplate(ctx context.Context, id hypervisor.VMID) (hypervisor.DriverTask, error) {
	if !d.isVC() {
		return nil, hypervisor.Unsupported(id.Ref(), capability.Templates, hypervisor.ReasonPlatform, needsVC)
	}
	b, err := d.readBase(ctx, id)
	if err != nil {
		return nil, err
	}
	result := hypervisor.TaskState{Result: hypervisor.TemplateID(id).Ref()}
	switch {
	case b.template:
		return hypervisor.DoneTask(newID("template"), result), nil
	case b.state != hypervisor.StateOff:
		return nil, invalidState(id.Ref(), "the machine is %s: shut it down first", b.state)
	}
	return d.group.Go(ctx, newID("template"), func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		if b.marked { // it is a template, and a machine only for its base
			_, result.Notes, result.Err = d.templateBase(ctx, id)
			return result
		}
		made := ref{}
		if b.base.Value == "" {
			report(hypervisor.TaskState{Fraction: -1, Phase: "making the base of linked clones"})
			if made, result.Notes, err = d.firstBase(ctx, id); err != nil {
				return hypervisor.TaskState{Err: err}
			}
		}
		late := context.WithoutCancel(ctx)
		if result.Err = d.markTemplate(late, id); result.Err == nil {
			return result
		}
		out := hypervisor.TaskState{Err: result.Err}
		if made.Value != "" && d.dropBase(late, id, made) != nil {
			out.Leftover = []hypervisor.Ref{{Kind: hypervisor.ObjectSnapshot, ID: made.Value, Name: baseName}}
		}
		return out
	})
}

// firstBase makes the base of a future template. If vSphere can't make a
// snapshot of the machine, it becomes a template all the same, and a note
// says so.
func (d *driver) firstBase(ctx context.Context, id hypervisor.VMID) (ref, []string, error) {
	info, err := d.step(ctx, nil, func(ctx context.Context) (ref, error) { return d.snapshot(ctx, id, baseSnapshot) })
	switch {
	case err == nil:
		base, _ := info.Result.(ref)
		return base, []string{"snapshot " + base.Value + " was made as the base of linked clones"}, nil
	case ctx.Err() != nil, isNotFound(err):
		return ref{}, nil, err
	}
	switch k := kindOf(err); k {
	case hypervisor.ErrUnsupported, hypervisor.ErrInvalidState, hypervisor.ErrIncompatible, hypervisor.ErrExhausted, hypervisor.ErrLicense:
		return ref{}, []string{"no base of linked clones was made: " + err.Error()}, nil
	}
	return ref{}, nil, err
}

// MarkVM calls MarkAsVirtualMachine, and removes the base that this driver
// made. vSphere itself allows it for templates that back linked clones. It is
// refused here because the machine could then be started and changed.
func (d *driver) MarkVM(ctx context.Context, id hypervisor.TemplateID, place hypervisor.Placement) (hypervisor.DriverTask, error) {
	if !d.isVC() {
		return nil, hypervisor.Unsupported(id.Ref(), capability.Templates, hypervisor.ReasonPlatform, needsVC)
	}
	vm := hypervisor.VMID(id)
	b, err := d.readBase(ctx, vm)
	if err != nil {
		return nil, err
	}
	result := hypervisor.TaskState{Result: vm.Ref()}
	if !b.template && !b.marked {
		return hypervisor.DoneTask(newID("template"), result), nil
	}
	bases, err := d.freeTemplate(ctx, id)
	if err != nil {
		return nil, err
	}
	if place.Pool == "" && place.Host == "" {
		place.Host = hypervisor.HostID(b.host.Value)
	}
	spot, err := d.settle(ctx, place)
	if err != nil {
		return nil, err
	}
	if !b.marked && len(bases) == 0 {
		if err := d.markVM(ctx, vm, spot); err != nil {
			return nil, err
		}
		return hypervisor.DoneTask(newID("template"), result), nil
	}
	return d.group.Go(ctx, newID("template"), func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		if b.marked {
			report(hypervisor.TaskState{Fraction: -1, Phase: "waiting for the base of linked clones"})
			if _, _, err = d.templateBase(ctx, vm); err == nil {
				bases, err = d.freeTemplate(ctx, id)
			}
			if err != nil {
				return hypervisor.TaskState{Err: err}
			}
		}
		late := context.WithoutCancel(ctx)
		if err := d.markVM(late, vm, spot); err != nil {
			return hypervisor.TaskState{Err: err}
		}
		for _, base := range slices.Backward(bases) {
			if err := d.dropBase(late, vm, base); lost(late, err) { // it is a machine all the same
				result.Notes = append(result.Notes, "it is not known whether the base snapshot "+base.Value+" was removed: "+err.Error())
			} else if err != nil {
				result.Notes = append(result.Notes, "the base snapshot "+base.Value+" was not removed: "+err.Error())
			}
		}
		return result
	})
}

// freeTemplate refuses a template that backs linked clones, and returns the
// bases that this driver made.
func (d *driver) freeTemplate(ctx context.Context, id hypervisor.TemplateID) ([]ref, error) {
	self := vmRef(hypervisor.VMID(id))
	all, err := d.owners(ctx)
	if err != nil {
		return nil, err
	}
	snaps, err := d.frozenImages(ctx, self)
	if err != nil {
		return nil, err
	}
	images := imagesOf(findOwner(all, self), snaps, "")
	if by := dependants(all, self, images.owned); len(by) > 0 {
		return nil, d.busyWith(ctx, id.Ref(), "linked clones depend on the template's disks", by, "delete them first")
	}
	var bases []ref
	for _, s := range snaps {
		if s.name == baseName {
			bases = append(bases, s.self)
		}
	}
	return bases, nil
}

func (d *driver) markVM(ctx context.Context, id hypervisor.VMID, at spot) error {
	return d.mark(ctx, id, false, func(ctx context.Context) error {
		_, err := methods.MarkAsVirtualMachine(ctx, d.rt, &types.MarkAsVirtualMachine{This: vmRef(id), Pool: at.pool, Host: at.host})
		return err
	})
}

func (d *driver) markTemplate(ctx context.Context, id hypervisor.VMID) error {
	return d.mark(ctx, id, true, func(ctx context.Context) error {
		_, err := methods.MarkAsTemplate(ctx, d.rt, &types.MarkAsTemplate{This: vmRef(id)})
		return err
	})
}

// mark sends a call that turns a machine into a template or back. It is not a
// task of the server. When the answer is lost, the object itself shows the
// outcome.
func (d *driver) mark(ctx context.Context, id hypervisor.VMID, template bool, call func(context.Context) error) error {
	_, err := job.Call[struct{}]{
		Send: func(ctx context.Context) (struct{}, error) { return struct{}{}, call(ctx) },
		Lost: func(err error) bool { return lost(ctx, err) },
		Goal: func(ctx context.Context) (struct{}, bool, error) {
			p, err := d.one(ctx, vmRef(id), "summary.config.template")
			return struct{}{}, err == nil && get[bool](p, "summary.config.template") == template, err
		},
	}.Do(ctx)
	return err
}

// asMachine does something with a template that vSphere allows only for
// machines, and turns it into a template again if that fails.
func (d *driver) asMachine(ctx context.Context, v hypervisor.VMInfo, f func() error) error {
	at, err := d.settle(ctx, hypervisor.Placement{Host: v.Host})
	if err != nil {
		return err
	}
	late := context.WithoutCancel(ctx)
	if err := d.markVM(late, v.ID, at); err != nil {
		return err
	}
	if err = f(); err == nil {
		return nil
	}
	if merr := d.markTemplate(late, v.ID); merr != nil {
		return errors.Join(err, fmt.Errorf("the template %s is left as a machine: %w", v.ID, merr))
	}
	return err
}
