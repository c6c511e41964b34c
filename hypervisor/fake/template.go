package fake

import (
	"context"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// MarkTemplate turns a machine into a template. Its ID stays the same.
func (d *Driver) MarkTemplate(ctx context.Context, id hypervisor.VMID) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, op.VMMarkTemplate, id.Ref(), nil)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return nil, err
	}
	if err := b.require(capability.Templates, hypervisor.Ref{}, m.ref()); err != nil {
		return nil, err
	}
	if err := b.free(vmKey(id), false); err != nil {
		return nil, err
	}
	if m.State != hypervisor.StateOff {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, m.ref(), "the machine is %s: power it off first", m.State)
	}
	return d.run(f, work{op: op.VMMarkTemplate, on: m.ref(), result: hypervisor.TemplateID(id).Ref(), excl: []hypervisor.Ref{vmKey(id)}, finish: func(*hypervisor.TaskState) error {
		if !m.Template {
			m.Template = true
			b.emit(hypervisor.EventVMChanged, m, "template")
		}
		return nil
	}})
}

// MarkVM turns a template back into a machine.
func (d *Driver) MarkVM(ctx context.Context, id hypervisor.TemplateID, p hypervisor.Placement) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, op.TemplateMarkVM, id.Ref(), p)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(hypervisor.VMID(id))
	if err != nil {
		return nil, err
	}
	if err := b.require(capability.Templates, hypervisor.Ref{}, m.ref()); err != nil {
		return nil, err
	}
	if err := b.free(vmKey(m.ID), false); err != nil {
		return nil, err
	}
	stands := func() error {
		if !m.Template {
			return nil
		}
		for _, dk := range m.Disks {
			if err := stoodOn(m.ref(), b.dependants(dk.Volume, m.ID)); err != nil && !dk.ReadOnly {
				return err
			}
		}
		return nil
	}
	if err := stands(); err != nil {
		return nil, err
	}
	host := m.Host
	if p.Host != "" || p.Pool != "" {
		h, _, err := b.choose(hypervisor.Placement{Host: p.Host, Pool: p.Pool, Datastore: m.Datastore}, m.ref())
		if err != nil {
			return nil, err
		}
		host = h.ID
	}
	if p.Datastore != "" && p.Datastore != m.Datastore {
		return nil, hypervisor.Errorf(hypervisor.ErrIncompatible, m.ref(), "the template's disks are on %s: move the machine afterwards", m.Datastore)
	}
	return d.run(f, work{op: op.TemplateMarkVM, on: m.ref(), result: m.ID.Ref(), excl: []hypervisor.Ref{vmKey(m.ID)}, finish: func(*hypervisor.TaskState) error {
		if err := stands(); err != nil {
			return err
		}
		if m.Template {
			m.Template, m.Host = false, host
			m.Folder = or(p.Folder, m.Folder)
			b.emit(hypervisor.EventVMChanged, m, "machine")
		}
		return nil
	}})
}
