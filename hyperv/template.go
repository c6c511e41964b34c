package hyperv

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// Hyper-V has no templates. The driver makes one from a planned machine
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
	case m.state != hypervisor.StateOff:
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine is %s: power it off first", m.state)
	case len(userSnapshots(m.snaps)) > 0:
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine has snapshots, which a template can't keep: delete %s first", namesOf(m.snaps))
	}
	if err := m.unpinned(ctx, capability.Templates); err != nil {
		return nil, err
	}
	if role, err := m.role(ctx); err != nil {
		return nil, err
	} else if !role.IsZero() {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine is a role of cluster %s, which starts it: take it out of the cluster first", m.h.cluster)
	}
	return m.start(ctx, "mark as template", "", func(o *op) (hypervisor.Ref, error) {
		o.Phase("writing the definition", -1)
		seed, err := o.exportDefinition(m, nil)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		before := m.notes
		m.notes.Template, m.notes.Definition = true, seed
		o.SetBack("the machine's notes", func(ctx context.Context) error { return m.modifyNow(ctx, "Notes", before.strings()) })
		if err := m.modifyNow(o.ctx, "Notes", m.notes.strings()); err != nil {
			return hypervisor.Ref{}, err
		}
		file, err := o.exportDefinition(m, nil)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		// From here on only the machine's definition file exists, so the work
		// continues even if it is cancelled.
		if err := o.ctx.Err(); err != nil {
			return hypervisor.Ref{}, err
		}
		o.ctx = o.Commit(o.ctx)
		o.Phase("registering", -1)
		if err := m.destroy(o.ctx); err != nil {
			if gone, lerr := m.gone(o.ctx); errors.Is(err, cim.ErrLost) && lerr != nil {
				o.Whole() // the files may be all that is left of the machine
				o.leaveImages(file, seed)
				return hypervisor.Ref{}, err
			} else if !gone {
				return hypervisor.Ref{}, err
			}
		}
		o.Whole()
		d.forget(m.id)
		p, err := o.importDefinition(file, false, m.id.Ref(), func(ctx context.Context) (string, error) {
			p, err := d.read(ctx, o.h, o.s, m.id)
			if err != nil || p == nil {
				return "", err
			}
			return string(p.id), nil
		})
		if err != nil {
			o.Whole() // a template that exists after all is not removed
			o.leaveImages(file, seed)
			return hypervisor.Ref{}, err
		}
		o.Whole()
		d.remember(p.id, o.h)
		result := hypervisor.TemplateID(p.id).Ref()
		if err := p.modifyNow(o.ctx, o.h.roots()...); err != nil {
			return result, err
		}
		o.dropExport(file)
		return result, nil
	})
}

// MarkVM implements hypervisor.Templater. It realizes the planned machine.
func (d *driver) MarkVM(ctx context.Context, id hypervisor.TemplateID, place hypervisor.Placement) (hypervisor.DriverTask, error) {
	m, err := d.find(ctx, hypervisor.VMID(id), true)
	if err != nil {
		return nil, err
	}
	if !m.notes.Template && !m.planned && m.notes.Definition == "" {
		return hypervisor.DoneTask(hypervisor.TaskID("op:"+randomHex(16)), hypervisor.TaskState{Result: m.id.Ref()}), nil
	}
	if place.Datastore != "" {
		return nil, hypervisor.Unsupported(id.Ref(), capability.Templates, hypervisor.ReasonPlatform, "a template becomes a machine where its disks are: leave Placement.Datastore out, and migrate the machine")
	}
	if err := d.checkPlacement(id.Ref(), capability.Templates, place); err != nil {
		return nil, err
	}
	if place.Host != "" {
		if h, err := d.host(place.Host); err != nil {
			return nil, err
		} else if h != m.h {
			return nil, hypervisor.Unsupported(id.Ref(), capability.Templates, hypervisor.ReasonPlatform, "the template is on host "+string(m.h.id)+": turn it back there and migrate the machine")
		}
	}
	paths, err := m.images(ctx, nil)
	if err != nil {
		return nil, err
	}
	if err := d.unshared(ctx, m, paths); err != nil {
		return nil, err
	}
	return m.start(ctx, "mark as machine", "", func(o *op) (hypervisor.Ref, error) {
		seed, before := m.notes.Definition, m.notes
		if m.planned {
			// The file is removed last, so that the notes name it until then.
			m.notes.Template = false
			o.SetBack("the template's notes", func(ctx context.Context) error {
				if now, err := d.read(ctx, o.h, o.s, m.id); err != nil || now == nil || !now.planned {
					return err // it is a machine after all
				}
				return m.modifyNow(ctx, "Notes", before.strings())
			})
			if err := m.modifyNow(o.ctx, "Notes", m.notes.strings()); err != nil {
				return hypervisor.Ref{}, err
			}
			if err := o.realize(m); err != nil {
				return hypervisor.Ref{}, err
			}
			o.Whole()
		}
		d.remember(m.id, o.h)
		if seed == "" && !m.notes.Template {
			return m.id.Ref(), nil
		}
		if seed != "" {
			if err := o.d.removeExport(o.ctx, o.s, seed); err != nil {
				return m.id.Ref(), err
			}
		}
		// A machine still has the template's notes, if a call before this one lost
		// the answer of a host that was slow to make it one.
		m.notes.Definition, m.notes.Template = "", false
		return m.id.Ref(), m.modifyNow(o.ctx, "Notes", m.notes.strings())
	})
}

// namesOf lists snapshots for a reader.
func namesOf(snaps []*cim.Instance) string {
	var out []string
	for _, s := range userSnapshots(snaps) {
		out = append(out, fmt.Sprintf("%s (%q)", ownerOf(s.Str("InstanceID")), s.Str("ElementName")))
	}
	return strings.Join(out, ", ")
}
