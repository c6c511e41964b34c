package xen

import (
	"context"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// MarkTemplate sets is_a_template. The pool then refuses to start the
// machine, whoever asks.
func (d *driver) MarkTemplate(ctx context.Context, id hypervisor.VMID) (hypervisor.DriverTask, error) {
	ref, v, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.ObjectTemplate, ID: v.UUID, Name: v.Name}
	if v.Template {
		return done(on), nil
	}
	if st := state(v.PowerState); st != hypervisor.StateOff {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, on, "the machine is %s: power it off first", st)
	}
	if v.ill() { // the pool makes no template of it
		return d.compose(ctx, "mark template", on, capability.Templates, "", func(ctx context.Context, j *poolJob) (hypervisor.Ref, error) {
			if err := j.repair(ctx, ref); err != nil {
				return on, err
			}
			return on, d.c.Call(ctx, nil, "VM.set_is_a_template", ref, true)
		})
	}
	return d.now(ctx, "mark template", on, capability.Templates, func(ctx context.Context) error {
		return d.c.Call(ctx, nil, "VM.set_is_a_template", ref, true)
	})
}

// MarkVM clears is_a_template and restores the metrics that MarkTemplate
// removed. The pool's default templates can't be changed.
func (d *driver) MarkVM(ctx context.Context, id hypervisor.TemplateID, place hypervisor.Placement) (hypervisor.DriverTask, error) {
	ref, v, err := d.machine(ctx, hypervisor.VMID(id))
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name}
	switch {
	case v.DefaultTemplate:
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, on, "this is one of the pool's default templates: deploy from it instead")
	case place.Datastore != "":
		return nil, hypervisor.Unsupported(on, capability.Templates, hypervisor.ReasonPlatform, "a template becomes a machine where its disks are: leave Placement.Datastore out, and move the machine")
	}
	if err := d.place(on, capability.Templates, place); err != nil {
		return nil, err
	}
	affinity := func(context.Context) error { return nil }
	if place.Host != "" {
		host, err := d.byUUID(ctx, "host", string(place.Host))
		if err != nil {
			return nil, err
		}
		affinity = func(ctx context.Context) error { return d.c.Call(ctx, nil, "VM.set_affinity", ref, host) }
	}
	if v.blind() || v.ill() {
		return d.compose(ctx, "mark machine", on, capability.Templates, "", func(ctx context.Context, j *poolJob) (hypervisor.Ref, error) {
			if err := affinity(ctx); err != nil {
				return on, err
			}
			return on, j.repair(ctx, ref)
		})
	}
	return d.now(ctx, "mark machine", on, capability.Templates, func(ctx context.Context) error {
		err := affinity(ctx)
		if err == nil && v.Template {
			err = d.c.Call(ctx, nil, "VM.set_is_a_template", ref, false)
		}
		return err
	})
}
