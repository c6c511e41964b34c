package hypervisortest

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// verdict judges the outcome of work with one call broken.
type verdict struct {
	*breaking
	*stage
	target
	struck bool // a task's waiting takes any number of calls
	before scene
	told   bool // the error reports the old description, which could not be restored
}

// of judges the outcome, removes what Leftover names, and repeats the work.
func (v *verdict) of(err error) {
	v.Helper()
	var detached *hypervisor.DetachedError
	if errors.As(err, &detached) {
		err = v.found(detached)
	}
	if err == nil {
		if now := v.now(v.trial.templates()); now.shape() != v.want.shape() {
			v.Fatalf("it succeeded, but there is\n%s\nwant\n%s", now.shape(), v.want.shape())
		}
		if v.struck && v.trial.token && v.b.How != Expire {
			v.repeat(nil)
		}
		return
	}
	e := v.typed(err)
	now := v.now(true)
	if v.scattered(now, e) {
		return
	}
	if now.shape() != v.want.shape() && !v.trial.remains {
		v.tidy(e)
		if len(e.Leftover) > 0 {
			now = v.now(true)
		}
	} else {
		v.unharmed(now, e)
	}
	v.taken(e)
	v.nothingHalf(now, err)
	v.told = v.b.Then != 0 && strings.Contains(err.Error(), described)
	v.repeat(&now)
}

// now reads everything that exists, and the guest.
func (v *verdict) now(templates bool) scene {
	v.Helper()
	out := v.breaking.scene(v.stage, templates)
	if m, ok := out.machines[v.vm.ID()]; ok && m.State == hypervisor.StateRunning && v.up != 0 && !v.trial.boots {
		v.sameBoot(v.vm, v.up, string(v.trial.op))
	}
	return out
}

// nothingHalf checks that everything is as before or as requested. Work that
// can't be undone, or whose connection stays broken, may have changed what
// existed (repeating the work has to end it), but has left nothing else.
func (v *verdict) nothingHalf(now scene, err error) {
	v.Helper()
	s := now.shape()
	switch {
	case s == v.before.shape() || s == v.want.shape() || v.trial.freezes && now.frozen(v.before):
	case v.trial.onward || v.b.Then != 0:
		for id, m := range now.machines {
			if _, was := v.before.machines[id]; !was && len(now.machines) > len(v.before.machines) {
				v.Errorf("machine %s (%s) was left and is not named: %v", id, m.Name, err)
			}
		}
		for _, i := range now.loose(v.before) {
			v.Errorf("image %s was left and is not named: %v", i, err)
		}
	default:
		v.Fatalf("%v\nwhat Leftover names was removed, and there is\n%s\nwhich is neither as before\n%s\nnor as wished\n%s", err, s, v.before.shape(), v.want.shape())
	}
}

// found waits for the end of work that continues, and returns its error.
func (v *verdict) found(d *hypervisor.DetachedError) error {
	v.Helper()
	if d.Task == "" {
		v.Fatalf("it is detached, and names no task: %v", d)
	}
	t, err := v.c.Task(v.ctx, d.Task)
	if err != nil {
		t, err = v.calm().Task(v.ctx, d.Task)
	}
	v.ok(err, "find the task of %v", d)
	_, err = t.Wait(v.ctx)
	return err
}

// typed checks that the error has the kind that the breakage leads to.
func (v *verdict) typed(err error) *hypervisor.Error {
	v.Helper()
	var e *hypervisor.Error
	want := hypervisor.ErrUnavailable
	if v.b.How == Refuse {
		want = v.b.Kind
	}
	switch {
	case !errors.As(err, &e):
		v.Fatalf("%v is no *hypervisor.Error", err)
	case v.b.How == Expire:
		v.Errorf("the session was not renewed: %v", err)
	case v.b.How != Refuse && v.b.Then >= 0 && v.b.Then < v.Break.reads(v.call):
		v.Errorf("the call only reads, and was not sent again: %v", err)
	case !errors.Is(err, want):
		v.Errorf("%v is of kind %s, want %s", err, e.Kind, want)
	case e.Op != v.trial.op && e.Op != "task.find":
		v.Errorf("the error names the operation %q, want %q: %v", e.Op, v.trial.op, err)
	case e.Object.Kind == "" || e.Object.ID == "" && e.Object.Name == "":
		v.Errorf("the error names no object: %v", err)
	}
	return e
}

// order is the order in which leftovers are removed.
var order = []hypervisor.ObjectKind{hypervisor.ObjectVM, hypervisor.ObjectTemplate, hypervisor.ObjectSnapshot, hypervisor.ObjectDevice,
	hypervisor.ObjectNIC, hypervisor.ObjectDisk, hypervisor.ObjectVolume}

// tidy removes what Leftover names, like a program would before it tries
// again.
func (v *verdict) tidy(e *hypervisor.Error) {
	v.Helper()
	left := slices.SortedStableFunc(slices.Values(e.Leftover), func(a, b hypervisor.Ref) int {
		return slices.Index(order, a.Kind) - slices.Index(order, b.Kind)
	})
	for _, r := range left {
		r = v.identified(r, e)
		if _, was := v.before.machines[hypervisor.VMID(r.ID)]; was && slices.Contains(order[:2], r.Kind) {
			v.Errorf("Leftover names %v, which was there before: %v", r, e)
			continue
		}
		err := v.remove(r)
		inUse := errors.Is(err, hypervisor.ErrBusy) && slices.Contains(v.before.images, r.ID) // of a machine that still exists
		if err != nil && !errors.Is(err, hypervisor.ErrNotFound) && !inUse {
			v.Errorf("%v of Leftover can't be removed: %v", r, err)
		}
	}
}

// identified requires an ID. While the connection stays broken nobody can
// learn the ID, and the name of a new machine is enough.
func (v *verdict) identified(r hypervisor.Ref, e *hypervisor.Error) hypervisor.Ref {
	v.Helper()
	if r.ID != "" {
		return r
	}
	switch {
	case v.b.Then == 0:
		v.Errorf("Leftover names %v without an ID: %v", r, e)
		return r
	case r.Kind == hypervisor.ObjectSnapshot:
		r.ID = v.newSnapshot()
		return r
	case r.Kind == hypervisor.ObjectNIC || r.Kind == hypervisor.ObjectDisk:
		r.ID = v.newPart(r.Kind)
		return r
	}
	for id, m := range v.now(true).machines {
		if _, was := v.before.machines[id]; !was && m.Name == r.Name {
			r.ID = string(id)
		}
	}
	return r
}

// newSnapshot returns a snapshot of the machine that no stage has made.
func (v *verdict) newSnapshot() string {
	v.Helper()
	all, err := v.sure().Snapshots(v.ctx)
	v.ok(err, "Snapshots")
	for _, p := range all {
		if p.Name != "snap" && p.Name != "child" {
			return string(p.ID)
		}
	}
	return ""
}

// newPart returns a disk or an adapter that the machine did not have at
// first.
func (v *verdict) newPart(kind hypervisor.ObjectKind) string {
	v.Helper()
	i, was := v.look(), v.was
	if kind == hypervisor.ObjectDisk {
		for _, d := range i.Disks {
			if !slices.ContainsFunc(was.Disks, func(w hypervisor.DiskInfo) bool { return w.ID == d.ID }) {
				return string(d.ID)
			}
		}
		return ""
	}
	for _, n := range i.NICs {
		if !slices.ContainsFunc(was.NICs, func(w hypervisor.NICInfo) bool { return w.ID == n.ID }) {
			return string(n.ID)
		}
	}
	return ""
}

// scattered reports whether the connection stayed broken while the machine
// was not defined, and Leftover names the files that remain of it.
func (v *verdict) scattered(now scene, e *hypervisor.Error) bool {
	_, is := now.machines[v.vm.ID()]
	return v.b.Then != 0 && !is && len(v.want.machines) == len(v.before.machines) &&
		slices.ContainsFunc(e.Leftover, func(r hypervisor.Ref) bool { return r.Kind == hypervisor.ObjectVolume })
}

// unharmed checks that Leftover names no machine or image that existed before
// and must stay.
func (v *verdict) unharmed(now scene, e *hypervisor.Error) {
	v.Helper()
	if v.trial.remains {
		return
	}
	for _, r := range e.Leftover {
		_, was := v.before.machines[hypervisor.VMID(r.ID)]
		_, is := now.machines[hypervisor.VMID(r.ID)]
		if was && is || slices.Contains(v.before.images, r.ID) && slices.Contains(now.images, r.ID) {
			v.Errorf("Leftover names %v, which was there before: %v", r, e)
		}
	}
}

func (v *verdict) remove(r hypervisor.Ref) error {
	if r.ID == "" {
		return nil
	}
	ctx, c, vm := v.ctx, v.calm(), v.sure()
	switch r.Kind {
	case hypervisor.ObjectVM, hypervisor.ObjectTemplate:
		return done(ctx, c.VM(hypervisor.VMID(r.ID)).Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}))
	case hypervisor.ObjectSnapshot:
		return done(ctx, vm.Snapshot(hypervisor.SnapshotID(r.ID)).Delete(ctx, nil))
	case hypervisor.ObjectDevice:
		return done(ctx, vm.DetachDevice(ctx, hypervisor.AttachmentID(r.ID)))
	case hypervisor.ObjectNIC:
		return done(ctx, vm.DetachNIC(ctx, hypervisor.NICID(r.ID)))
	case hypervisor.ObjectDisk:
		return done(ctx, vm.DetachDisk(ctx, hypervisor.DiskID(r.ID), hypervisor.DeleteDisks))
	case hypervisor.ObjectVolume:
		return done(ctx, c.DeleteVolume(ctx, hypervisor.VolumeID(r.ID)))
	}
	return nil
}

// repeat does the work again. It must end as it does without faults. now is
// the scene, or nil after a success.
func (v *verdict) repeat(now *scene) {
	v.Helper()
	whole := now == nil || now.shape() == v.want.shape() && !v.trial.same
	if whole && v.trial.adds {
		return
	}
	err := v.trial.do(v.ctx, v.stage)
	switch {
	case whole && v.trial.again != 0:
		if !errors.Is(err, v.trial.again) {
			v.Errorf("the work was done; the same again: %v, want %s", err, v.trial.again)
		}
	case err != nil && !(v.trial.again != 0 && errors.Is(err, v.trial.again)): // all of it was done except for the traces
		v.Errorf("the same again: %v", err)
	}
	got, want := v.now(v.trial.templates()).shape(), v.want.shape()
	if v.told {
		got, want = undescribed(got), undescribed(want)
	}
	if got != want {
		v.Errorf("after the same again there is\n%s\nwant\n%s", got, want)
	}
}

// undescribed leaves out the description and the labels.
func undescribed(shape string) string {
	return strings.NewReplacer(fmt.Sprintf("%q, labels map[old:label]", described), "", `"", labels map[]`, "").Replace(shape)
}
