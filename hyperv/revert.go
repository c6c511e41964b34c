package hyperv

import (
	"context"
	"errors"
	"fmt"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// RevertSnapshot implements hypervisor.Snapshotter.
func (d *driver) RevertSnapshot(ctx context.Context, id hypervisor.VMID, snap hypervisor.SnapshotID, r hypervisor.RevertRequest) (hypervisor.DriverTask, error) {
	m, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	s, err := m.snapshot(snap)
	if err != nil {
		return nil, err
	}
	if err := m.unpinned(ctx, hypervisor.SnapshotDisk); err != nil {
		return nil, err
	}
	return d.start(ctx, m.h, "", func(o *op) (hypervisor.Ref, error) {
		// A machine that runs can't be reverted; what it did is lost anyway.
		if m.state != hypervisor.Off && m.state != hypervisor.Suspended {
			o.phase("powering off", -1)
			if err := o.turnOff(m); err != nil {
				return hypervisor.Ref{}, err
			}
		}
		if err := o.ctx.Err(); err != nil {
			return hypervisor.Ref{}, err
		}
		o.commit() // a machine that was turned off for it is not left so
		o.phase("reverting", -1)
		if _, err := o.call(m.repeat, m.h.snapshots(), "ApplySnapshot", cim.Arg{Name: "Snapshot", Value: m.snapshotRef(s)}); err != nil {
			if errors.Is(err, cim.ErrLost) {
				err = notesLost(m, err)
			}
			return hypervisor.Ref{}, err
		}
		// The notes came back with the settings; labels and token belong to
		// the machine, not to a point in its past.
		if err := m.modifyNow(o.ctx, "Notes", m.notes.strings()); err != nil {
			return hypervisor.Ref{}, notesLost(m, err)
		}
		if !s.Bool("IsSaved") || r.KeepOff {
			return hypervisor.Ref{}, nil
		}
		o.phase("resuming", -1)
		return hypervisor.Ref{}, o.turnOn(m)
	})
}

// notesLost tells the machine's notes, which may exist nowhere else now.
func notesLost(m *machine, err error) error {
	return fmt.Errorf("%w (the machine may have the snapshot's notes, with its labels and token; its own were %q)", err, m.notes.strings())
}
