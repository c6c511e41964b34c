package xen

import (
	"context"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// MarkTemplate sets is_a_template. The pool then refuses to start it,
// whoever asks.
func (d *driver) MarkTemplate(ctx context.Context, id hypervisor.VMID) (hypervisor.DriverTask, error) {
	ref, v, err := d.vm(ctx, id)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.KindOfTemplate, ID: v.UUID, Name: v.Name}
	if v.Template {
		return done(on), nil
	}
	if st := state(v.PowerState); st != hypervisor.Off {
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, on, "the machine is %s: power it off first", st)
	}
	if err := d.c.Call(ctx, nil, "VM.set_is_a_template", ref, true); err != nil {
		return nil, native(on, hypervisor.Templates, err)
	}
	return done(on), nil
}

// MarkVM clears is_a_template. The pool's default templates stay what they
// are.
func (d *driver) MarkVM(ctx context.Context, id hypervisor.TemplateID, place hypervisor.Placement) (hypervisor.DriverTask, error) {
	ref, v, err := d.vm(ctx, hypervisor.VMID(id))
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name}
	switch {
	case v.DefaultTemplate:
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, on, "this is one of the pool's default templates: deploy from it instead")
	case place.Datastore != "" || place.Pool != "" || place.Folder != "":
		return nil, hypervisor.Errorf(hypervisor.KindUnsupported, on, "a template becomes a machine where it is: only Placement.Host has a meaning here")
	case place.Host != "":
		host, err := d.byUUID(ctx, "host", string(place.Host))
		if err == nil {
			err = d.c.Call(ctx, nil, "VM.set_affinity", ref, host)
		}
		if err != nil {
			return nil, err
		}
	}
	if v.Template {
		if err := d.c.Call(ctx, nil, "VM.set_is_a_template", ref, false); err != nil {
			return nil, native(on, hypervisor.Templates, err)
		}
	}
	return done(on), nil
}
