package hypervisortest

import (
	"errors"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// take makes a snapshot, or returns nil if it is refused.
func (o *odd) take() (*hypervisor.Snapshot, []string) {
	o.Helper()
	t := o.vm.CreateSnapshot(o.ctx, o.name("snap"), nil)
	s, err := t.Wait(o.ctx)
	if o.p == nil {
		o.ok(err, "CreateSnapshot")
		return s, nil
	}
	if !o.done(err, "CreateSnapshot") {
		return nil, nil
	}
	o.same("CreateSnapshot")
	return s, t.Notes()
}

// forget deletes a snapshot at the end of a row. That may be refused too.
func (o *odd) forget(s *hypervisor.Snapshot) {
	o.Helper()
	_, err := s.Delete(o.ctx, nil).Wait(o.ctx)
	if o.done(err, "Delete of the snapshot") {
		o.same("Delete of the snapshot")
	}
}

// snapshot: a snapshot of the machine has the part's content too, or reports
// that it lacks it.
func (o *odd) snapshot() {
	o.add()
	o.fill("then")
	then := o.place.Content
	s, notes := o.take()
	if s == nil {
		return
	}
	o.fill("later")
	t := s.Revert(o.ctx, nil)
	if _, err := t.Wait(o.ctx); !o.done(err, "Revert") {
		return
	}
	if o.f.Kind != PartDependant {
		o.content(o.vm, "then", "Revert")
	}
	at, ok := o.has(o.vm)
	named := o.names(append(notes, t.Notes()...)...)
	switch {
	case o.p.Look == nil:
	case !ok:
		o.Errorf("after Revert to a snapshot with %s the machine has lost it", o.f.Name)
	case at.Content == then:
	case at.Content != o.place.Content:
		o.Errorf("after Revert %s holds %q, want %q, or %q and a note", o.f.Name, at.Content, then, o.place.Content)
	case !named:
		o.Errorf("the snapshot doesn't hold %s, and its notes name none of %q: %q", o.f.Name, o.p.Names, append(notes, t.Notes()...))
	}
	o.look()
	o.forget(s)
}

// revert: a part that came after the snapshot is not lost with it.
func (o *odd) revert() {
	s, _ := o.take()
	o.add()
	o.fill("mine")
	t := s.Revert(o.ctx, nil)
	if _, err := t.Wait(o.ctx); !o.done(err, "Revert to a snapshot from before") {
		return
	}
	at, ok := o.has(o.vm)
	switch {
	case o.p.Look == nil:
	case ok && at.Content != o.place.Content && o.f.Kind != PartSetting:
		o.Errorf("after Revert to a snapshot from before, %s holds %q, want %q", o.f.Name, at.Content, o.place.Content)
	case ok || o.f.Kind == PartSetting: // settings are what a revert reverts
	case o.f.Kind == PartSnapshot:
		o.Errorf("Revert to a snapshot from before took %s away", o.f.Name)
	case !o.names(t.Notes()...):
		o.Errorf("after Revert to a snapshot from before the machine lacks %s, and no note names any of %q: %q", o.f.Name, o.p.Names, t.Notes())
	}
	o.kept("Revert to a snapshot from before")
}

// deleteSnapshot: the part outlives a snapshot from before it.
func (o *odd) deleteSnapshot() {
	s, _ := o.take()
	o.add()
	o.fill("mine")
	o.forget(s)
	if o.f.Kind != PartDependant {
		o.content(o.vm, "mine", "Delete of a snapshot")
	}
}

// revertToIts: a revert to the other tool's snapshot restores what that
// snapshot holds, and does not change what it leaves out.
func (o *odd) revertToIts() {
	o.add()
	for _, content := range []string{"one", "two"} {
		o.fill(content)
		t := o.its().Revert(o.ctx, nil)
		if _, err := t.Wait(o.ctx); !o.done(err, "Revert to another tool's snapshot") {
			return
		}
		o.content(o.vm, "before", "Revert to another tool's snapshot")
		at, ok := o.has(o.vm)
		if o.p.Look != nil && o.f.Kind != PartSetting && (!ok || at.Content != o.place.Content) && !o.names(t.Notes()...) {
			o.Errorf("after Revert to another tool's snapshot %s holds %q, want %q", o.f.Name, at.Content, o.place.Content)
		}
		o.its()
		if o.f.Kind == PartSetting { // a revert reverts those
			return
		}
	}
}

// deleteIts: the other tool's snapshot is deleted, and nothing else.
func (o *odd) deleteIts() {
	o.add()
	o.fill("mine")
	_, err := o.its().Delete(o.ctx, nil).Wait(o.ctx)
	if !o.done(err, "Delete of another tool's snapshot") {
		return
	}
	o.content(o.vm, "mine", "Delete of another tool's snapshot")
	if _, err := o.vm.FindSnapshot(o.ctx, o.f.Snapshot); !errors.Is(err, hypervisor.ErrNotFound) {
		o.Errorf("after Delete of another tool's snapshot it is there: %v", err)
	}
	if o.f.Kind != PartSnapshot {
		o.same("Delete of another tool's snapshot")
	}
}

// cloneOfIts: a clone of the other tool's snapshot has the snapshot's
// content.
func (o *odd) cloneOfIts() {
	o.add()
	o.fill("mine")
	c, err := o.vm.Clone(o.ctx, o.name("fromits"), &hypervisor.CloneOptions{From: o.its().ID()}).Wait(o.ctx)
	if !o.done(err, "Clone of another tool's snapshot") {
		return
	}
	o.keep(c.ID())
	o.content(c, "before", "Clone of another tool's snapshot")
	o.same("Clone of another tool's snapshot")
}
