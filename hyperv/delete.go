package hyperv

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// DeleteVM implements hypervisor.Lifecycle. The host removes the machine's
// definition and saved state; images are files that stay unless removed here.
// With KeepDisks the snapshots are merged first, so that each image that stays
// has the machine's present content.
func (d *driver) DeleteVM(ctx context.Context, id hypervisor.VMID, r hypervisor.DeleteRequest) (hypervisor.DriverTask, error) {
	m, err := d.find(ctx, id, true)
	if err != nil {
		return nil, err
	}
	if m.planned && !m.notes.Template {
		// Left of a clone: until it is finished its disks are its source's.
		return d.start(ctx, m.h, "", func(o *op) (hypervisor.Ref, error) { return hypervisor.Ref{}, m.destroy(o.ctx) })
	}
	if (m.state == hypervisor.Running || m.state == hypervisor.Paused || m.state == hypervisor.StateUnknown) && !r.Force {
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, id.Ref(), "the machine is %s: power it off, or set Force", m.state)
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
	snaps := userSnapshots(m.snaps)
	if r.Disks == hypervisor.DeleteDisks || len(snaps) > 0 {
		if err := d.unshared(ctx, m, images); err != nil {
			return nil, err
		}
	}
	return d.start(ctx, m.h, "", func(o *op) (hypervisor.Ref, error) {
		if m.state == hypervisor.Running || m.state == hypervisor.Paused || m.state == hypervisor.StateUnknown {
			o.phase("powering off", -1)
			if err := o.turnOff(m); err != nil {
				return hypervisor.Ref{}, err
			}
		}
		if r.Disks == hypervisor.KeepDisks && len(snaps) > 0 {
			o.phase("merging", -1)
			if err := o.mergeAll(m); err != nil {
				return hypervisor.Ref{}, err
			}
		}
		if err := o.ctx.Err(); err != nil {
			return hypervisor.Ref{}, err
		}
		o.commit()
		o.phase("removing", -1)
		if !role.IsZero() { // it would stay, and fail for ever
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
				err = hypervisor.Errorf(hypervisor.KindNotFound, m.id.Ref(), "somebody else removed the machine meanwhile: %w", err)
			case now.idle() != nil:
				err = now.idle()
			}
			return hypervisor.Ref{}, err
		}
		d.forget(m.id)
		if m.notes.Definition != "" {
			// The definition file that a template was imported from.
			o.drop(m.notes.Definition)
		}
		if r.Disks != hypervisor.DeleteDisks {
			return hypervisor.Ref{}, nil
		}
		var failed error
		for _, p := range images {
			if err := removeFile(o.ctx, o.s, p); err != nil {
				o.leaveImages(p)
				failed = err
			}
		}
		if len(m.notes.Bases) > 0 && failed == nil {
			if err := o.dropBases(m.notes.Bases); err != nil {
				o.note("the checkpoint that the linked clone stood on stays with its source: " + err.Error())
			}
		}
		return hypervisor.Ref{}, failed
	})
}

// leaveImages names images that are left behind.
func (o *op) leaveImages(paths ...string) {
	for _, p := range paths {
		o.state.Leftover = append(o.state.Leftover, hypervisor.Ref{Kind: hypervisor.KindOfVolume, ID: string(o.h.volume(p))})
	}
}

// underWay is the second value of OperationalStatus of a machine that a job
// works on (Hyper-V WMI v2 reference, Msvm_SummaryInformation).
var underWay = map[uint64]string{32768: "a checkpoint is being made", 32769: "a checkpoint is being applied", 32770: "a checkpoint is being deleted",
	32773: "it is being exported or cloned", 32774: "it is being migrated"}

// idle refuses a machine that the host is at work on. The host itself says no
// more than "invalid state".
func (m *machine) idle() error {
	if m.system == nil {
		return nil
	}
	for _, s := range m.system.Uints("OperationalStatus") {
		if what := underWay[s]; what != "" {
			return hypervisor.Errorf(hypervisor.KindBusy, m.id.Ref(), "%s: wait until that has ended", what)
		}
	}
	return nil
}

// dropBases removes the checkpoints that were made for a linked clone, if no
// other clone stands on them.
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
			t, err := o.d.DeleteSnapshot(o.ctx, src.id, hypervisor.SnapshotID(owner), hypervisor.DeleteSnapshotRequest{})
			if err != nil {
				return err
			}
			for {
				st, err := t.Next(o.ctx)
				if err != nil {
					return err
				}
				if st.Done {
					if st.Err != nil {
						return st.Err
					}
					break
				}
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
