//go:build cgo

package fleet

import (
	"context"
	"fmt"
	"slices"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Answer is hypervisor.Driver's Supports: the best that any host of the scope
// can do by its facts, and for a machine, what it can less (ok is true then).
func (f *Fleet) Answer(ctx context.Context, k hypervisor.Capability, scope hypervisor.Ref,
	onHost func(hypervisor.Capability, *libvirtx.Facts) hypervisor.Support,
	onMachine func(hypervisor.Capability, hypervisor.PowerState, *libvirtxml.Domain, libvirtx.Mark) (s hypervisor.Support, ok bool)) (hypervisor.Support, error) {
	if !slices.Contains(hypervisor.Capabilities(), k) {
		return hypervisor.Support{Level: hypervisor.No, Reason: hypervisor.ReasonNotImplemented, Detail: fmt.Sprintf("unknown capability %q", k)}, nil
	}
	machine := scope.Kind == hypervisor.KindOfVM || scope.Kind == hypervisor.KindOfTemplate
	hosts, err := f.within(ctx, scope, machine)
	if err != nil {
		return hypervisor.Support{}, err
	}
	best := hypervisor.Support{}
	for i, h := range hosts {
		facts, err := h.Identify(ctx)
		if err != nil {
			return hypervisor.Support{}, err
		}
		if s := onHost(k, facts); i == 0 || s.Level > best.Level {
			best = s
		}
	}
	if best.Level == hypervisor.No || !machine {
		return best, nil
	}
	return OnHost(ctx, hosts[0], hypervisor.VMID(scope.ID), 3, func(_ *Host, _ *libvirt.Connect, dom *libvirt.Domain) (hypervisor.Support, error) {
		s, err := libvirtx.State(dom)
		if err != nil {
			return best, err
		}
		x, mark, err := libvirtx.Parse(dom, 0)
		if err != nil {
			return best, err
		}
		if less, ok := onMachine(k, s, x, mark); ok {
			return less, nil
		}
		return best, nil
	})
}

// within returns the hosts of a scope: one, or all that answer.
func (f *Fleet) within(ctx context.Context, scope hypervisor.Ref, machine bool) ([]*Host, error) {
	var h *Host
	var err error
	switch {
	case machine:
		h, err = f.Locate(ctx, hypervisor.VMID(scope.ID))
	case scope.Kind == hypervisor.KindOfHost:
		h, err = f.Host(hypervisor.HostID(scope.ID))
	default:
		return f.Up(ctx)
	}
	return []*Host{h}, err
}
