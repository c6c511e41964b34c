package hyperv

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
)

// DeleteVM implements hypervisor.Lifecycle. The host removes the machine's
// definition and saved state; images are files that stay unless removed here.
// With KeepDisks the snapshots are merged first, so that each remaining image
// has the machine's present content. With DeleteDisks the images are removed
// once the host no longer merges them.
func (d *driver) DeleteVM(ctx context.Context, id hypervisor.VMID, r hypervisor.DeleteRequest) (hypervisor.DriverTask, error) {
	m, err := d.find(ctx, id, true)
	if err != nil {
		return nil, err
	}
	if m.planned && !m.notes.Template {
		// Left over from a clone: until it is finished its disks are its
		// source's.
		return m.start(ctx, "delete", "", func(o *op) (hypervisor.Ref, error) { return hypervisor.Ref{}, m.destroy(o.ctx) })
	}
	if (m.state == hypervisor.StateRunning || m.state == hypervisor.StatePaused || m.state == hypervisor.StateUnknown) && !r.Force {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine is %s: power it off, or set Force", m.state)
	}
	if err := m.idle(); err != nil {
		return nil, err
	}
	role, err := m.role(ctx)
	if err != nil {
		return nil, err
	}
	images, err := m.allImages(ctx)
	if err != nil {
		return nil, err
	}
	if r.Disks == hypervisor.DeleteDisks {
		if err := m.h.removable(id.Ref(), capability.VMDelete, images...); err != nil {
			return nil, err
		}
	}
	snaps := userSnapshots(m.snaps)
	if r.Disks == hypervisor.DeleteDisks || len(snaps) > 0 {
		if err := d.unshared(ctx, m, images); err != nil {
			return nil, err
		}
	}
	return m.start(ctx, "delete", "", func(o *op) (hypervisor.Ref, error) {
		if m.state == hypervisor.StateRunning || m.state == hypervisor.StatePaused || m.state == hypervisor.StateUnknown {
			o.Phase("powering off", -1)
			if err := o.turnOff(m); err != nil {
				return hypervisor.Ref{}, err
			}
		}
		if r.Disks == hypervisor.KeepDisks && len(snaps) > 0 {
			o.Phase("merging", -1)
			if err := o.mergeAll(m); err != nil {
				return hypervisor.Ref{}, err
			}
		}
		if err := o.ctx.Err(); err != nil {
			return hypervisor.Ref{}, err
		}
		o.ctx = o.Commit(o.ctx)
		o.Phase("removing", -1)
		if !role.IsZero() { // otherwise it would stay, and fail for ever
			if err := m.removeRole(o.ctx, role); err != nil {
				return hypervisor.Ref{}, err
			}
		}
		if err := m.destroy(o.ctx); errors.Is(err, cim.ErrLost) {
			gone, lerr := m.gone(o.ctx)
			if lerr != nil && r.Disks == hypervisor.DeleteDisks {
				o.leaveImages(images...)
			}
			if !gone {
				return hypervisor.Ref{}, err
			}
		} else if err != nil {
			switch now, rerr := d.read(o.ctx, m.h, m.s, m.id); {
			case rerr != nil:
			case now == nil:
				err = hypervisor.Errorf(hypervisor.ErrNotFound, m.id.Ref(), "another program removed the machine at the same time: %w", err)
			case now.idle() != nil:
				err = now.idle()
			}
			return hypervisor.Ref{}, err
		}
		d.forget(m.id)
		if m.notes.Definition != "" {
			// The definition file that a template was imported from.
			o.dropExport(m.notes.Definition)
		}
		if r.Disks != hypervisor.DeleteDisks {
			return hypervisor.Ref{}, nil
		}
		var failed error
		var until time.Time
		if len(snaps) > 0 { // the host may still be merging them
			until = time.Now().Add(mergeGrace)
		}
		for _, p := range images {
			if err := d.removeOpen(o.ctx, o.s, p, until); err != nil {
				o.leaveImages(p)
				failed = err
			}
		}
		if len(m.notes.Bases) > 0 && failed == nil {
			if err := o.dropBases(m.notes.Bases); err != nil {
				o.Note("the checkpoint that the linked clone depended on stays with its source: " + err.Error())
			}
		}
		return hypervisor.Ref{}, failed
	})
}

// leaveImages names images that are left behind.
func (o *op) leaveImages(paths ...string) {
	for _, p := range paths {
		o.Left(hypervisor.Ref{Kind: hypervisor.ObjectVolume, ID: string(o.h.volume(p))})
	}
}

// underWay is the second value of OperationalStatus of a machine that a job
// works on (Hyper-V WMI v2 reference, Msvm_SummaryInformation).
var underWay = map[uint64]string{32768: "a checkpoint is being made", 32769: "a checkpoint is being applied", 32770: "a checkpoint is being deleted",
	32773: "it is being exported or cloned", 32774: "it is being migrated"}

// idle refuses a machine that the host is at work on. The host itself reports
// no more than "invalid state".
func (m *machine) idle() error {
	if m.system == nil {
		return nil
	}
	for _, s := range m.system.Uints("OperationalStatus") {
		if what := underWay[s]; what != "" {
			return hypervisor.Errorf(hypervisor.ErrBusy, m.id.Ref(), "%s: wait until that has ended", what)
		}
	}
	return nil
}

// contended reports that other work is under way, if that is why a method
// refused. Hyper-V has one code both for a wrong state and for a machine that
// it is at work on (os-win and microsoft/wmi repeat 32775). The driver has
// checked the state before, so a state that is still the same is not the
// reason. For a machine that has moved to another host meanwhile, Hyper-V
// reports an invalid parameter.
func (m *machine) contended(ctx context.Context, err error) error {
	var e *cim.Error
	if !errors.As(err, &e) || cim.KindOf(err) != cim.InvalidState && cim.KindOf(err) != cim.InvalidArgument {
		return err
	}
	late, cancel := job.Late(ctx)
	defer cancel()
	now, rerr := m.d.read(late, m.h, m.s, m.id)
	if cim.KindOf(err) == cim.InvalidArgument {
		if rerr != nil || now != nil {
			return err
		}
		return hypervisor.Errorf(hypervisor.ErrBusy, m.id.Ref(), "the machine left its host at the same time: %w", err)
	}
	if rerr != nil || now == nil || now.state != m.state {
		return err
	}
	return hypervisor.Errorf(hypervisor.ErrBusy, m.id.Ref(), "the host is working on the machine: wait until it has finished: %w", err)
}

// dropBases removes the checkpoints that were made for a linked clone, if no
// other clone depends on them.
func (o *op) dropBases(paths []string) error {
	inv, err := readInventory(o.ctx, o.h, o.s, []int{rowSettings, rowSystems, rowDisks}, nil)
	if err != nil {
		return err
	}
	for vm, snaps := range inv.snapshot {
		for _, s := range snaps {
			owner := ownerOf(s.Str("InstanceID"))
			if !parseNotes(s.Strs("Notes")).Base {
				continue
			}
			var on []string
			for _, r := range inv.record(owner).rows[rowDisks] {
				if p := r.Str("HostResource"); slices.ContainsFunc(paths, func(b string) bool { return strings.EqualFold(b, p) }) {
					on = append(on, p)
				}
			}
			if len(on) == 0 {
				continue
			}
			src, err := o.d.machine(o.ctx, hypervisor.VMID(vm))
			if err != nil {
				return err
			}
			if o.d.unshared(o.ctx, src, on) != nil {
				continue // another clone needs it
			}
			t, err := o.d.DeleteSnapshot(o.ctx, src.id, hypervisor.SnapshotID(owner), hypervisor.DeleteSnapshotOptions{})
			if err != nil {
				return err
			}
			if _, err := o.Follow(o.ctx, t, 1, 1); err != nil {
				return err
			}
		}
	}
	return nil
}

// mergeAll deletes all snapshots and waits for the merge.
func (o *op) mergeAll(m *machine) error {
	before, err := m.depths(o.ctx)
	if err != nil {
		return err
	}
	current, err := m.currentSnapshot(o.ctx)
	if err != nil {
		return err
	}
	depth := 0
	for _, i := range m.tree(current) {
		if i.Current {
			depth = i.Depth + 1
		}
	}
	for _, i := range m.tree(current) {
		if i.Parent != "" {
			continue
		}
		s, err := m.snapshot(i.ID)
		if err != nil {
			return err
		}
		if _, err := o.call(m.done(absent(o.s, m.snapshotRef(s))), o.h.snapshots(), "DestroySnapshotTree", cim.Arg{Name: "SnapshotSettingData", Value: m.snapshotRef(s)}); err != nil {
			return err
		}
	}
	return o.merged(m, before, depth)
}
