//go:build cgo

package fleet

import (
	"context"
	"slices"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// GuardNetwork is a libvirt network that nobody defines. A domain with an
// adapter on it can't be started by any tool; the error names the network.
const GuardNetwork = "anyvisor-template"

// TemplateKiB is the memory of a template. Nothing can start with so little,
// and bulk statistics report it, so that listings need not read every
// definition.
const TemplateKiB = 1

func (f *Fleet) guard() libvirtxml.DomainInterface {
	return libvirtxml.DomainInterface{Source: &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: GuardNetwork}},
		Model: f.platform.nicModel(""), MAC: &libvirtxml.DomainInterfaceMAC{Address: f.platform.MACPrefix + ":00:00:01"}}
}

// IsGuard reports whether an adapter is the one that guards a template.
func IsGuard(n *libvirtxml.DomainInterface) bool {
	return n.Source != nil && n.Source.Network != nil && n.Source.Network.Network == GuardNetwork
}

// IsTemplate requires both the record and the guard: a definition that
// somebody edited so that it can start is a machine.
func IsTemplate(x *libvirtxml.Domain, m libvirtx.Mark) bool {
	return m.Template != nil && slices.ContainsFunc(x.Devices.Interfaces, func(n libvirtxml.DomainInterface) bool { return IsGuard(&n) })
}

func (f *Fleet) makeTemplate(x *libvirtxml.Domain, m *libvirtx.Mark) error {
	m.Template = &libvirtx.MarkTemplate{MemoryKiB: uint64(libvirtx.MemoryKiB(x)), CurrentKiB: uint64(libvirtx.CurrentKiB(x))}
	if x.CPU != nil && x.CPU.Numa != nil && len(x.CPU.Numa.Cell) == 1 {
		// The sum of the cells is the memory.
		x.CPU.Numa.Cell[0].Memory, x.CPU.Numa.Cell[0].Unit = TemplateKiB, "KiB"
	}
	libvirtx.SetMemory(x, TemplateKiB, TemplateKiB)
	x.Devices.Interfaces = append(x.Devices.Interfaces, f.guard())
	return libvirtx.MarkDefinition(x, *m)
}

// MakeMachine turns a template's definition into a machine's.
func MakeMachine(x *libvirtxml.Domain, m *libvirtx.Mark) error {
	if t := m.Template; t != nil {
		libvirtx.SetMemory(x, t.MemoryKiB, t.CurrentKiB)
		libvirtx.SetOnlyCell(x, int64(t.MemoryKiB))
	}
	m.Template = nil
	x.Devices.Interfaces = slices.DeleteFunc(x.Devices.Interfaces, func(n libvirtxml.DomainInterface) bool { return IsGuard(&n) })
	return libvirtx.MarkDefinition(x, *m)
}

// MarkTemplate implements hypervisor.Templater.
func (f *Fleet) MarkTemplate(ctx context.Context, id hypervisor.VMID) (hypervisor.DriverTask, error) {
	return f.Run(ctx, "mark-template", id, DiskWork, func(ctx context.Context, _ *job.Job) (hypervisor.Ref, error) {
		_, err := OnDomain(ctx, f, id, 4, func(h *Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			x, m, err := libvirtx.Inactive(dom)
			if err != nil || IsTemplate(x, m) {
				return struct{}{}, err
			}
			if err := Ready(dom, m, id, "turned into a template"); err != nil {
				return struct{}{}, err
			}
			if x.CPU != nil && x.CPU.Numa != nil && len(x.CPU.Numa.Cell) > 1 {
				return struct{}{}, hypervisor.Unsupported(id.Ref(), capability.Templates, hypervisor.ReasonConfig, "the machine has several NUMA cells, whose memory a template can't keep")
			}
			if err := f.makeTemplate(x, &m); err != nil {
				return struct{}{}, err
			}
			return struct{}{}, libvirtx.Define(c, x)
		})
		return hypervisor.TemplateID(id).Ref(), err
	})
}

// MarkVM implements hypervisor.Templater.
func (f *Fleet) MarkVM(ctx context.Context, tid hypervisor.TemplateID, place hypervisor.Placement) (hypervisor.DriverTask, error) {
	id := hypervisor.VMID(tid)
	return f.Run(ctx, "mark-vm", id, DiskWork, func(ctx context.Context, _ *job.Job) (hypervisor.Ref, error) {
		h, b, err := f.BooksOf(ctx, id)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		_, err = OnHost(ctx, h, id, 4, func(h *Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			if place.Host != "" && place.Host != h.ID() || place.Datastore != "" || place.Pool != "" || place.Folder != "" {
				return struct{}{}, hypervisor.Unsupported(tid.Ref(), capability.Templates, hypervisor.ReasonPlatform,
					"a template becomes a machine where it is: migrate it afterwards, or deploy from it")
			}
			x, m, err := libvirtx.Inactive(dom)
			if err != nil || !IsTemplate(x, m) {
				return struct{}{}, err
			}
			if deps := b.Dependants(b.Of(string(id), x, m)); len(deps) > 0 {
				return struct{}{}, BusyWith(tid.Ref(), deps, "the template's images are the base of")
			}
			if err := MakeMachine(x, &m); err != nil {
				return struct{}{}, err
			}
			return struct{}{}, libvirtx.Define(c, x)
		})
		return id.Ref(), err
	})
}

// Ready checks that a machine is off, is not a template and is not being
// made.
func Ready(dom *libvirt.Domain, m libvirtx.Mark, id hypervisor.VMID, what string) error {
	if m.Role != "" {
		return hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such machine")
	}
	s, err := libvirtx.State(dom)
	if err != nil {
		return err
	}
	if s != hypervisor.StateOff {
		return hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine is %s: it must be off to be %s", s, what)
	}
	return nil
}
