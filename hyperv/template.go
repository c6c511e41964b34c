package hyperv

import (
	"context"
	"errors"

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
		o.setBack("the machine's notes", func(ctx context.Context) error { return m.modifyNow(ctx, "Notes", before.strings()) })
		if err := m.modifyNow(o.ctx, "Notes", m.notes.strings()); err != nil {
			return hypervisor.Ref{}, err
		}
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
			if gone, lerr := m.gone(o.ctx); errors.Is(err, cim.ErrLost) && lerr != nil {
				o.undos = nil // the files may be all that is left of it
				o.leaveImages(file, seed)
				return hypervisor.Ref{}, err
			} else if !gone {
				return hypervisor.Ref{}, err
			}
		}
		o.undos = nil
		d.forget(m.id)
		p, err := o.importDefinition(file, false, m.id.Ref(), func(ctx context.Context) (string, error) {
			p, err := d.read(ctx, o.h, o.s, m.id)
			if err != nil || p == nil {
				return "", err
			}
			return string(p.id), nil
		})
		if err != nil {
			o.undos = nil // a template that is there after all is not removed
			o.leaveImages(file, seed)
			return hypervisor.Ref{}, err
		}
		o.undos = nil
		d.remember(p.id, o.h)
		return hypervisor.TemplateID(p.id).Ref(), nil
	})
}

// MarkVM implements hypervisor.Templater: it realizes the planned machine.
func (d *driver) MarkVM(ctx context.Context, id hypervisor.TemplateID, place hypervisor.Placement) (hypervisor.DriverTask, error) {
	m, err := d.find(ctx, hypervisor.VMID(id), true)
	if err != nil {
		return nil, err
	}
	if !m.notes.Template && !m.planned && m.notes.Definition == "" {
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
		if m.planned {
			// The file goes last, so that until then the notes tell of it.
			m.notes.Template = false
			o.setBack("the template's notes", func(ctx context.Context) error {
				if now, err := d.read(ctx, o.h, o.s, m.id); err != nil || now == nil || !now.planned {
					return err // a machine after all
				}
				return m.modifyNow(ctx, "Notes", before.strings())
			})
			if err := m.modifyNow(o.ctx, "Notes", m.notes.strings()); err != nil {
				return hypervisor.Ref{}, err
			}
			if err := o.realize(m); err != nil {
				return hypervisor.Ref{}, err
			}
			o.undos = nil
		}
		d.remember(m.id, o.h)
		if seed != "" {
			if err := removeFile(o.ctx, o.s, seed); err != nil {
				return m.id.Ref(), err
			}
			m.notes.Definition = ""
			return m.id.Ref(), m.modifyNow(o.ctx, "Notes", m.notes.strings())
		}
		return m.id.Ref(), nil
	})
}
