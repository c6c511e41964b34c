//go:build cgo

package libxl

import (
	"context"
	"slices"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// guardNetwork is a libvirt network that nobody defines. A domain with an
// adapter on it can't be started by any tool; the error names the network.
const guardNetwork = "anyvisor-template"

// templateKiB is the memory of a template, with which nothing can start.
const templateKiB = 1

func guard() libvirtxml.DomainInterface {
	return libvirtxml.DomainInterface{Source: &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: guardNetwork}},
		MAC: &libvirtxml.DomainInterfaceMAC{Address: "00:16:3e:00:00:01"}}
}

func isGuard(n *libvirtxml.DomainInterface) bool {
	return n.Source != nil && n.Source.Network != nil && n.Source.Network.Network == guardNetwork
}

// isTemplate demands both the record and the guard: a definition that somebody
// edited so that it can start is a machine.
func isTemplate(x *libvirtxml.Domain, m libvirtx.Mark) bool {
	return m.Template != nil && slices.ContainsFunc(x.Devices.Interfaces, func(n libvirtxml.DomainInterface) bool { return isGuard(&n) })
}

func makeTemplate(x *libvirtxml.Domain, m *libvirtx.Mark) error {
	m.Template = &libvirtx.MarkTemplate{MemoryKiB: uint64(libvirtx.MemoryKiB(x)), CurrentKiB: uint64(libvirtx.CurrentKiB(x))}
	libvirtx.SetMemory(x, templateKiB, templateKiB)
	x.Devices.Interfaces = append(x.Devices.Interfaces, guard())
	return libvirtx.MarkDefinition(x, *m)
}

func makeMachine(x *libvirtxml.Domain, m *libvirtx.Mark) error {
	if t := m.Template; t != nil {
		libvirtx.SetMemory(x, t.MemoryKiB, t.CurrentKiB)
	}
	m.Template = nil
	x.Devices.Interfaces = slices.DeleteFunc(x.Devices.Interfaces, func(n libvirtxml.DomainInterface) bool { return isGuard(&n) })
	return libvirtx.MarkDefinition(x, *m)
}

// MarkTemplate implements hypervisor.Templater.
func (d *driver) MarkTemplate(ctx context.Context, id hypervisor.VMID) (hypervisor.DriverTask, error) {
	return d.run(ctx, "mark-template", id, shortWork, func(ctx context.Context, _ func(hypervisor.TaskState)) hypervisor.TaskState {
		_, err := onDomain(ctx, d, id, 4, func(h *host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			x, m, err := libvirtx.Inactive(dom)
			if err != nil || isTemplate(x, m) {
				return struct{}{}, err
			}
			if err := ready(dom, m, id, "turned into a template"); err != nil {
				return struct{}{}, err
			}
			if err := makeTemplate(x, &m); err != nil {
				return struct{}{}, err
			}
			return struct{}{}, libvirtx.Define(c, x)
		})
		return hypervisor.TaskState{Result: hypervisor.TemplateID(id).Ref(), Err: err}
	})
}

// MarkVM implements hypervisor.Templater.
func (d *driver) MarkVM(ctx context.Context, tid hypervisor.TemplateID, place hypervisor.Placement) (hypervisor.DriverTask, error) {
	id := hypervisor.VMID(tid)
	return d.run(ctx, "mark-vm", id, shortWork, func(ctx context.Context, _ func(hypervisor.TaskState)) hypervisor.TaskState {
		h, err := d.locate(ctx, id)
		if err != nil {
			return hypervisor.TaskState{Err: err}
		}
		b, err := d.books(ctx, h)
		if err != nil {
			return hypervisor.TaskState{Err: err}
		}
		_, err = onHost(ctx, h, id, 4, func(h *host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			if place.Host != "" && place.Host != h.ID() || place.Datastore != "" || place.Pool != "" || place.Folder != "" {
				return struct{}{}, hypervisor.Unsupported(tid.Ref(), hypervisor.Templates, hypervisor.ReasonPlatform,
					"a template becomes a machine where it is: migrate it afterwards, or deploy from it")
			}
			x, m, err := libvirtx.Inactive(dom)
			if err != nil || !isTemplate(x, m) {
				return struct{}{}, err
			}
			if deps := b.dependants(b.images(string(id), x, m)); len(deps) > 0 {
				return struct{}{}, busyWith(tid.Ref(), deps, "the template's images are the base of")
			}
			if err := makeMachine(x, &m); err != nil {
				return struct{}{}, err
			}
			return struct{}{}, libvirtx.Define(c, x)
		})
		return hypervisor.TaskState{Result: id.Ref(), Err: err}
	})
}

// ready demands a machine that is off, no template and not being made.
func ready(dom *libvirt.Domain, m libvirtx.Mark, id hypervisor.VMID, what string) error {
	if m.Role != "" {
		return hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "no such machine")
	}
	s, err := libvirtx.State(dom)
	if err != nil {
		return err
	}
	if s != hypervisor.Off {
		return hypervisor.Errorf(hypervisor.KindInvalidState, id.Ref(), "the machine is %s: it must be off to be %s", s, what)
	}
	return nil
}
