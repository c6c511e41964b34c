package xen

import (
	"context"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// VM.set_is_a_template(true) removes a machine's VM_metrics and (false) does
// not restore them. The pool never sees such a blind machine run: it reports
// Halted for ever, so that the machine can be started a second time, and
// cloned and deleted while it runs. A revert gives it the metrics of the
// snapshot. A restart of the toolstack restores them too (dbsync_master.ml).
// A reference to metrics that are gone is the same: the pool fails on the
// missing row. The functions below turn such references into Null.

// blind reports whether the pool would not see the machine run or stop.
func (v *vmBrief) blind() bool { return v.Metrics.IsNull() && !v.IsSnapshot && !v.ControlDomain }

// unseen reports whether a blind machine was started: the pool recorded the
// host, and then lost sight of the machine. One that is not off may have been
// resumed or stopped since.
func (v *vmBrief) unseen() bool {
	return v.blind() && (!v.ResidentOn.IsNull() || v.PowerState != "Halted")
}

const unseenDetail = "the machine was started while the pool kept no metrics of it, so the pool can't see whether it runs: " +
	"restart the toolstack of the pool's coordinator and then of the machine's host (xe-toolstack-restart), which makes the pool see it"

const blindDetail = "the pool keeps no metrics of this machine, which was a template, and would not see it run: Start or MarkVM repairs that; do it first"

// machine is like vm, for callers that will change something: a machine that
// may run unseen is refused.
func (d *driver) machine(ctx context.Context, id hypervisor.VMID) (xapi.Ref, vmRec, error) {
	ref, v, err := d.vm(ctx, id)
	if err == nil {
		err = d.checkMetrics(ctx, &v)
	}
	if err == nil {
		err = d.seen(ctx, v)
	}
	return ref, v, err
}

// checked reads a record with the state of its metrics.
func (d *driver) checked(ctx context.Context, vm xapi.Ref) (v vmRec, err error) {
	if err = d.c.Call(ctx, &v, "VM.get_record", vm); err == nil {
		err = d.checkMetrics(ctx, &v)
	}
	return v, err
}

// checkMetrics makes a reference to metrics that are gone Null.
func (d *driver) checkMetrics(ctx context.Context, v *vmRec) error {
	if v.Metrics.IsNull() {
		return nil
	}
	var uuid string
	err := d.c.Call(ctx, &uuid, "VM_metrics.get_uuid", v.Metrics)
	if kindOf(err) == hypervisor.ErrNotFound {
		v.Metrics, err = xapi.Null, nil
	}
	return err
}

// absent finds out which metrics are gone. A listing may lack some only
// because it does not read all classes at the same time.
func (d *driver) absent(ctx context.Context, metrics []xapi.Ref) (map[xapi.Ref]bool, error) {
	gone := map[xapi.Ref]bool{}
	for _, m := range metrics {
		gone[m] = true
	}
	return gone, d.each(ctx, func(f *fetcher) {
		for _, m := range metrics {
			get(f, "VM_metrics.get_uuid", m, func(string) { delete(gone, m) })
		}
	})
}

// suspect reports whether a machine would be unseen without its metrics.
func (v vmBrief) suspect() bool {
	had := !v.Metrics.IsNull()
	v.Metrics = xapi.Null
	return had && v.unseen()
}

// seen refuses a machine that may run unseen. Templates normally have no
// metrics, so their disks are not queried.
func (d *driver) seen(ctx context.Context, v vmRec) error {
	started := v.unseen()
	if v.blind() && !v.Template && !started {
		vbds, err := records[vbdRec](ctx, d, "VBD", v.VBDs)
		if err != nil {
			return err
		}
		for _, b := range vbds {
			started = started || b.Attached
		}
	}
	if started {
		return hypervisor.Errorf(hypervisor.ErrInvalidState, hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name}, unseenDetail)
	}
	return nil
}

const (
	// blockMark is the reason in blocked_operations while a machine is
	// repaired or deleted, so that no tool starts it meanwhile.
	blockMark = "anyvisor: not while the pool could not see it run; Anyvisor's Start continues the repair"
	// metricsName is the name of the snapshot that a repair reverts to.
	metricsName = "anyvisor: metrics"
)

var startOps = []string{"start", "start_on"}

// ill reports whether a machine is blind, or its repair is not finished.
func (v *vmRec) ill() bool {
	return !v.Template && (v.blind() || v.Blocked[startOps[0]] == blockMark || v.Blocked[startOps[1]] == blockMark)
}

// block prevents the start of a machine until it is unblocked, which also
// happens if the job fails. It waits for work in progress, reads the machine
// again, and refuses one that has been started.
func (j *poolJob) block(ctx context.Context, vm xapi.Ref) (vmRec, error) {
	late, stop := job.Late(ctx)
	defer stop()
	for _, op := range startOps {
		switch err := j.d.c.Call(late, nil, "VM.add_to_blocked_operations", vm, op, blockMark); {
		case err == nil:
			j.SetBack("blocked_operations:"+op, func(ctx context.Context) error {
				return j.d.c.Call(ctx, nil, "VM.remove_from_blocked_operations", vm, op)
			})
		case xapi.Code(err) != "MAP_DUPLICATE_KEY": // already blocked by somebody
			return vmRec{}, err
		}
	}
	for {
		v, err := j.d.checked(ctx, vm)
		if err != nil {
			return v, err
		}
		if len(v.CurrentOperations) == 0 {
			return v, j.d.seen(ctx, v)
		}
		for _, op := range v.CurrentOperations {
			if err := j.d.quiet(ctx, vm, op); err != nil {
				return v, err
			}
		}
	}
}

// unblock ends a block.
func (j *poolJob) unblock(ctx context.Context, vm xapi.Ref, v vmRec) error {
	for _, op := range startOps {
		if v.Blocked[op] != blockMark {
			continue
		}
		if err := j.d.c.Call(ctx, nil, "VM.remove_from_blocked_operations", vm, op); err != nil {
			return err
		}
	}
	return nil
}

// repair turns a template or a blind machine into one that the pool sees, by
// a revert to a snapshot of its present state. An interrupted repair is
// continued: the machine can't be started meanwhile.
func (j *poolJob) repair(ctx context.Context, vm xapi.Ref) error {
	v, err := j.block(ctx, vm)
	if err != nil {
		return err
	}
	if v.Template {
		err := j.d.c.Call(ctx, nil, "VM.set_is_a_template", vm, false)
		// Without metrics it can't become a template again: the pool fails on
		// the missing row. So it stays blocked until it is repaired, and after
		// an answer that did not come too.
		if xapi.Code(err) == "" {
			j.Whole()
		}
		if err != nil {
			return err
		}
	}
	snap, err := j.brokenOff(ctx, v)
	if err != nil {
		return err
	}
	if v.blind() {
		if snap.IsNull() {
			if snap, err = j.metricsSnapshot(ctx, vm, v); err != nil {
				if v.Template {
					err = hypervisor.Errorf(kindOf(err), j.Object, "the template is a machine by now, which can't be started until Start or MarkVM continues this: %w", err)
				}
				return err
			}
		}
		if err := j.revertTo(ctx, vm, v, snap); err != nil {
			return err
		}
	}
	j.Whole()
	ctx, stop := job.Late(ctx)
	defer stop()
	if v, err = j.d.checked(ctx, vm); err != nil {
		return err
	}
	if v.Metrics.IsNull() {
		return hypervisor.Errorf(hypervisor.ErrInvalidState, j.Object, "the revert to the snapshot %q brought no metrics: restart the toolstack of the pool's coordinator, then start the machine", metricsName)
	}
	if !snap.IsNull() {
		if err := j.d.destroyWithDisks(ctx, snap); err != nil {
			return err
		}
	}
	return j.unblock(ctx, vm, v)
}

// brokenOff finds the snapshot of a repair whose revert has removed disks of
// the machine. Snapshots of other repairs are of no use any more and are
// removed.
func (j *poolJob) brokenOff(ctx context.Context, v vmRec) (xapi.Ref, error) {
	old, err := records[vmRec](ctx, j.d, "VM", v.Snapshots)
	if err != nil {
		return "", err
	}
	found := xapi.Null
	for ref, s := range old {
		if s.Name != metricsName {
			continue
		}
		needed, err := j.d.lacks(ctx, v, s)
		switch {
		case err != nil:
			return "", err
		case needed && v.blind():
			found = ref
		default:
			if err := j.d.destroyWithDisks(ctx, ref); err != nil {
				return "", err
			}
		}
	}
	return found, nil
}

// lacks reports whether a machine lacks a disk that its snapshot has.
func (d *driver) lacks(ctx context.Context, v, snap vmRec) (bool, error) {
	var disks [2][]attached
	for n, m := range []vmRec{v, snap} {
		vbds, err := records[vbdRec](ctx, d, "VBD", m.VBDs)
		if err == nil {
			disks[n], err = d.attachedImages(ctx, vbds)
		}
		if err != nil {
			return false, err
		}
	}
	return slices.ContainsFunc(disks[1], func(then attached) bool {
		return !slices.ContainsFunc(disks[0], func(now attached) bool { return now.ref == then.vdi.SnapshotOf })
	}), nil
}

// revertTo reverts to the snapshot. VM.revert first removes the machine's
// drives. An error before that is returned as it is, since nothing is lost.
// After that only the snapshot has everything, and the next repair continues
// from it.
func (j *poolJob) revertTo(ctx context.Context, vm xapi.Ref, v vmRec, snap xapi.Ref) error {
	_, err := j.runTo(ctx, 0.3, 0.8, goal{vm: vm, there: func(ctx context.Context) (xapi.Ref, bool, error) {
		now, err := j.d.checked(ctx, vm)
		return vm, !now.Metrics.IsNull(), err
	}}, "VM.revert", snap)
	if err == nil {
		return nil
	}
	late, stop := job.Late(ctx)
	defer stop()
	var now, s vmRec
	if !job.Closed(ctx) && j.d.c.Call(late, &now, "VM.get_record", vm) == nil && slices.Equal(now.VBDs, v.VBDs) {
		return err
	}
	j.Whole()
	left := hypervisor.Ref{Kind: hypervisor.ObjectSnapshot, Name: metricsName}
	if j.d.c.Call(late, &s, "VM.get_record", snap) == nil {
		left.ID = s.UUID
	}
	j.Left(left)
	return hypervisor.Errorf(kindOf(err), j.Object, "the pool could not be made to see the machine; its disks are in the snapshot %q, and Start or MarkVM continues the repair: %w", metricsName, err)
}

// metricsSnapshot makes the snapshot. The revert will destroy the machine's
// images, so they must be its own.
func (j *poolJob) metricsSnapshot(ctx context.Context, vm xapi.Ref, v vmRec) (xapi.Ref, error) {
	vbds, err := records[vbdRec](ctx, j.d, "VBD", v.VBDs)
	if err != nil {
		return "", err
	}
	disks, err := j.d.attachedImages(ctx, vbds)
	if err != nil {
		return "", err
	}
	if i := slices.IndexFunc(disks, attached.stays); i >= 0 {
		img := disks[i].vdi
		return "", hypervisor.Errorf(hypervisor.ErrInvalidState, j.Object, "image %s (%s) is not the machine's alone, and the pool would delete it to see the machine again: detach it first (KeepDisks)", img.UUID, img.Name)
	}
	snap, err := j.runTo(ctx, 0, 0.3, goal{vm: vm, there: func(ctx context.Context) (xapi.Ref, bool, error) {
		return j.d.newSnapshot(ctx, vm, v.Snapshots, metricsName)
	}}, "VM.snapshot", vm, metricsName)
	if err == nil {
		j.Remove(hypervisor.Ref{Kind: hypervisor.ObjectSnapshot, Name: metricsName}, func(ctx context.Context) error { return j.d.destroyWithDisks(ctx, snap) })
	}
	return snap, err
}
