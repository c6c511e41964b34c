package hyperv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// RevertSnapshot implements hypervisor.Snapshotter.
func (d *driver) RevertSnapshot(ctx context.Context, id hypervisor.VMID, snap hypervisor.SnapshotID, r hypervisor.RevertOptions) (hypervisor.DriverTask, error) {
	m, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	s, err := m.snapshot(snap)
	if err != nil {
		return nil, err
	}
	if err := m.unpinned(ctx, capability.SnapshotDisk); err != nil {
		return nil, err
	}
	before, _, err := m.resources(ctx)
	if err != nil {
		return nil, err
	}
	var now []string // the images that the revert discards
	for _, k := range before.rows[rowDisks] {
		if p := k.Str("HostResource"); p != "" && k.Str("ResourceSubType") == subVHD {
			now = append(now, p)
		}
	}
	if err := d.unshared(ctx, m, now); err != nil {
		return nil, err
	}
	return m.start(ctx, "revert", "", func(o *op) (hypervisor.Ref, error) {
		// A running machine can't be reverted, and its present state is lost
		// anyway.
		if m.state != hypervisor.StateOff && m.state != hypervisor.StateSuspended {
			o.Phase("powering off", -1)
			if err := o.turnOff(m); err != nil {
				return hypervisor.Ref{}, err
			}
		}
		if err := o.ctx.Err(); err != nil {
			return hypervisor.Ref{}, err
		}
		o.ctx = o.Commit(o.ctx) // a machine that was turned off for the revert must not stay off
		o.Phase("reverting", -1)
		if _, err := o.call(m.repeat(), m.h.snapshots(), "ApplySnapshot", cim.Arg{Name: "Snapshot", Value: m.snapshotRef(s)}); err != nil {
			if errors.Is(err, cim.ErrLost) {
				err = notesLost(m, err)
			}
			return hypervisor.Ref{}, err
		}
		// The settings brought their old notes back. Labels and token belong
		// to the machine, not to a point in its past.
		if err := m.modifyNow(o.ctx, "Notes", m.notes.strings()); err != nil {
			return hypervisor.Ref{}, notesLost(m, err)
		}
		if err := o.gone(m, before); err != nil {
			return hypervisor.Ref{}, err
		}
		if !s.Bool("IsSaved") || r.KeepOff {
			return hypervisor.Ref{}, nil
		}
		o.Phase("resuming", -1)
		return hypervisor.Ref{}, o.turnOn(m)
	})
}

// gone notes the disks that a revert removed from the machine: those that
// were added after the snapshot. Their images stay.
func (o *op) gone(m *machine, before *record) error {
	now, _, err := m.resources(o.ctx)
	if err != nil {
		return err
	}
	left := disksOf(m.h, now)
	for _, d := range disksOf(m.h, before) {
		if !slices.ContainsFunc(left, func(x hypervisor.DiskInfo) bool { return strings.EqualFold(string(x.ID), string(d.ID)) }) {
			o.Note(fmt.Sprintf("disk %s came after the snapshot and is no longer attached; its image %s stays", d.ID, d.Volume))
		}
	}
	return nil
}

// notesLost reports the machine's notes, which may not exist anywhere else
// now.
func notesLost(m *machine, err error) error {
	return fmt.Errorf("%w (the machine may have the snapshot's notes, with its labels and token; its own were %q)", err, m.notes.strings())
}
