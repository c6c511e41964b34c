//go:build cgo

package kvm

import (
	"context"
	"errors"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// A call whose connection broke does not reveal its outcome: the hosts
// continue without this program. The objects that a move made are removed
// only if it certainly failed and nothing uses them.

// errNoOutcome is part of an error when it is unknown how a migration ended.
var errNoOutcome = errors.New("the outcome is not known")

// outcome finds out how a migration ended whose call was lost, by the
// source's job and by the machine's location. It returns nil if the machine
// has moved.
func (m *move) outcome(ctx context.Context, lost error) error {
	sure := context.WithoutCancel(ctx)
	for end := time.Now().Add(fleet.OutcomeLimit); time.Now().Before(end); _ = fleet.Pause(sure, fleet.PollEvery) {
		s, err := m.d.jobState(sure, m.src, m.id)
		if err == nil && s != nil { // it continues
			m.j.Report(*s)
			if ctx.Err() != nil {
				m.abort(sure)
			}
			end = time.Now().Add(fleet.OutcomeLimit)
			continue
		}
		here, err := active(sure, m.src, m.id)
		if err == nil && here {
			return lost
		}
		there, terr := active(sure, m.dst, m.id)
		if err == nil && terr == nil {
			if there {
				return nil
			}
			return lost // it runs nowhere, so the guest has ended
		}
	}
	return hypervisor.Errorf(hypervisor.ErrUnavailable, m.id.Ref(), "the connection broke during the migration: the machine is on host %s or %s, look there (%w: %w)", m.src.ID(), m.dst.ID(), errNoOutcome, lost)
}

// active reports whether a host runs a machine.
func active(ctx context.Context, h *fleet.Host, id hypervisor.VMID) (bool, error) {
	on, err := fleet.OnHost(ctx, h, id, 1, func(_ *fleet.Host, _ *libvirt.Connect, dom *libvirt.Domain) (bool, error) { return dom.IsActive() })
	if libvirtx.NotFound(err) {
		return false, nil
	}
	return on, err
}

// undo removes the images that a failed move made on a host, and returns why
// it failed. Images that the machine uses all the same stay, and the images
// that they replace are the leftovers.
func (m *move) undo(ctx context.Context, h *fleet.Host, all []fleet.Copied, why error) error {
	var made []libvirtx.Volume
	for _, k := range all {
		made = append(made, k.To)
	}
	m.j.Left(h.Tidy(ctx, made)...)
	if used, err := diskPaths(ctx, h, m.id); err == nil {
		for _, k := range all {
			if used[k.To.Path] {
				m.j.Left(k.From.Ref())
			}
		}
	}
	return why
}

// retract removes a definition and the images from the destination.
func (m *move) retract(ctx context.Context, all []fleet.Copied, why error) error {
	if err := m.dst.Undefine(ctx, m.id, undefine); err != nil && !libvirtx.NotFound(err) {
		m.j.Left(m.id.Ref())
	}
	return m.undo(ctx, m.dst, all, why)
}

// undefine keeps what the machine's other definition needs.
func undefine(dom *libvirt.Domain) error {
	return dom.UndefineFlags(libvirt.DOMAIN_UNDEFINE_KEEP_NVRAM)
}

// leave removes the definition from the source: a machine must not end with
// two definitions, nor without one.
func (m *move) leave(ctx context.Context) error {
	err := m.src.Undefine(ctx, m.id, undefine)
	if libvirtx.KindOf(err) == hypervisor.ErrUnavailable {
		return hypervisor.Errorf(hypervisor.ErrUnavailable, m.id.Ref(), "the connection broke when the machine left host %s: it may be defined there and on host %s (%w: %w)", m.src.ID(), m.dst.ID(), errNoOutcome, err)
	}
	return err
}

// diskPaths are the images that a machine's definitions on a host name, the
// live one and the next. It is empty if the machine is not there.
func diskPaths(ctx context.Context, h *fleet.Host, id hypervisor.VMID) (fleet.Paths, error) {
	out := fleet.Paths{}
	_, err := fleet.OnHost(ctx, h, id, 3, func(_ *fleet.Host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
		live, _, err := libvirtx.Parse(dom, 0)
		if err != nil {
			return struct{}{}, err
		}
		next, _, err := libvirtx.Inactive(dom)
		if err != nil {
			return struct{}{}, err
		}
		for _, x := range []*libvirtxml.Domain{live, next} {
			for i := range x.Devices.Disks {
				out[libvirtx.DiskPath(&x.Devices.Disks[i])] = true
			}
		}
		return struct{}{}, nil
	})
	if libvirtx.NotFound(err) {
		return out, nil
	}
	return out, err
}
