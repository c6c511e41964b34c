//go:build cgo

package fleet

import (
	"context"
	"fmt"
	"slices"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Answer implements Supports of hypervisor.Driver. It returns the best level
// that any host of the scope reaches by its facts and, for a machine, its
// restrictions (ok is true then).
func (f *Fleet) Answer(ctx context.Context, k capability.Name, scope hypervisor.Ref,
	onHost func(capability.Name, *libvirtx.Facts) hypervisor.Support,
	onMachine func(capability.Name, hypervisor.PowerState, *libvirtxml.Domain, libvirtx.Mark) (s hypervisor.Support, ok bool)) (hypervisor.Support, error) {
	if !slices.Contains(capability.All(), k) {
		return hypervisor.Support{Level: hypervisor.LevelNo, Reason: hypervisor.ReasonNotImplemented, Detail: fmt.Sprintf("unknown capability %q", k)}, nil
	}
	machine := scope.Kind == hypervisor.ObjectVM || scope.Kind == hypervisor.ObjectTemplate
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
	if best.Level == hypervisor.LevelNo || !machine {
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
	case scope.Kind == hypervisor.ObjectHost:
		h, err = f.Host(hypervisor.HostID(scope.ID))
	default:
		return f.Up(ctx)
	}
	return []*Host{h}, err
}
