package hyperv

import (
	"context"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// Hyper-V has no templates. One is made of a planned machine
// (Msvm_PlannedComputerSystem): a definition that the host has imported and
// not realized, and that no tool can start. A second definition file is kept
// beside it, from which machines are deployed.

// MarkTemplate implements hypervisor.Templater. The machine keeps its ID and
// its images.
func (d *driver) MarkTemplate(ctx context.Context, id hypervisor.VMID) (hypervisor.DriverTask, error) {
	m, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	result := hypervisor.TemplateID(m.id).Ref()
	switch {
	case m.notes.Template && m.planned:
		return hypervisor.DoneTask(hypervisor.TaskID("op:"+randomHex(16)), hypervisor.TaskState{Result: result}), nil
	case m.state != hypervisor.Off:
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, id.Ref(), "the machine is %s: power it off first", m.state)
	case len(userSnapshots(m.snaps)) > 0:
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, id.Ref(), "the machine has snapshots, which a template can't keep: delete them first")
	}
	if role, err := m.role(ctx); err != nil {
		return nil, err
	} else if !role.IsZero() {
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, id.Ref(), "the machine is a role of cluster %s, which starts it: take it out of the cluster first", m.h.cluster)
	}
	return d.start(ctx, m.h, "", func(o *op) (hypervisor.Ref, error) {
		o.phase("writing the definition", -1)
		seed, err := o.exportDefinition(m, nil)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		before := m.notes
		m.notes.Template, m.notes.Definition = true, seed
		if err := m.modifyNow(o.ctx, "Notes", m.notes.strings()); err != nil {
			return hypervisor.Ref{}, err
		}
		o.onFailure(m.id.Ref(), func(ctx context.Context) error { return m.modifyNow(ctx, "Notes", before.strings()) })
		file, err := o.exportDefinition(m, nil)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		// From here on the machine exists as its definition file alone, so
		// the work goes on even if it is cancelled.
		if err := o.ctx.Err(); err != nil {
			return hypervisor.Ref{}, err
		}
		o.commit()
		o.phase("registering", -1)
		if err := m.destroy(o.ctx); err != nil {
			return hypervisor.Ref{}, err
		}
		o.undos = nil
		d.forget(m.id)
		p, err := o.importDefinition(file, false)
		if err != nil {
			o.state.Leftover = append(o.state.Leftover, hypervisor.Ref{Kind: hypervisor.KindOfVolume, ID: string(o.h.volume(file))})
			return hypervisor.Ref{}, err
		}
		o.undos = nil
		d.remember(p.id, o.h)
		return hypervisor.TemplateID(p.id).Ref(), nil
	})
}

// MarkVM implements hypervisor.Templater: it realizes the planned machine.
func (d *driver) MarkVM(ctx context.Context, id hypervisor.TemplateID, place hypervisor.Placement) (hypervisor.DriverTask, error) {
	m, err := d.machine(ctx, hypervisor.VMID(id))
	if err != nil {
		return nil, err
	}
	if !m.notes.Template {
		return hypervisor.DoneTask(hypervisor.TaskID("op:"+randomHex(16)), hypervisor.TaskState{Result: m.id.Ref()}), nil
	}
	if place.Host != "" {
		if h, err := d.host(place.Host); err != nil {
			return nil, err
		} else if h != m.h {
			return nil, hypervisor.Errorf(hypervisor.KindInvalidArgument, id.Ref(), "the template is on host %s; turn it back there and migrate the machine", m.h.id)
		}
	}
	paths, err := m.images(ctx, nil)
	if err != nil {
		return nil, err
	}
	if err := d.unshared(ctx, m, paths); err != nil {
		return nil, err
	}
	return d.start(ctx, m.h, "", func(o *op) (hypervisor.Ref, error) {
		seed, before := m.notes.Definition, m.notes
		m.notes.Template, m.notes.Definition = false, ""
		if err := m.modifyNow(o.ctx, "Notes", m.notes.strings()); err != nil {
			return hypervisor.Ref{}, err
		}
		o.onFailure(id.Ref(), func(ctx context.Context) error { return m.modifyNow(ctx, "Notes", before.strings()) })
		if _, err := o.call(o.h.management(), "RealizePlannedSystem", cim.Arg{Name: "PlannedSystem", Value: m.ref()}); err != nil {
			return hypervisor.Ref{}, err
		}
		o.undos = nil
		if seed != "" {
			_ = removeFile(o.ctx, o.s, seed)
		}
		d.remember(m.id, o.h)
		return m.id.Ref(), nil
	})
}
