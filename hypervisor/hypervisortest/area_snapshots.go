package hypervisortest

import (
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
)

func equalFold(a, b string) bool { return strings.EqualFold(a, b) }

// snapshots: the tree, content and memory that come back, merges.
func snapshots(e *env) {
	if !e.has(hypervisor.SnapshotDisk) {
		return
	}
	vm := e.create("vm")
	snap := func(name string, o *hypervisor.SnapshotOptions) *hypervisor.Snapshot {
		e.Helper()
		s, err := vm.CreateSnapshot(e.ctx, name, o).Wait(e.ctx)
		e.ok(err, "CreateSnapshot(%q)", name)
		if s.ID() == "" {
			e.Fatalf("CreateSnapshot(%q) returned an empty ID", name)
		}
		return s
	}
	revert := func(s *hypervisor.Snapshot) {
		e.Helper()
		_, err := s.Revert(e.ctx, nil).Wait(e.ctx)
		e.ok(err, "Revert to %s", s.ID())
	}
	// A tree: one - two, one - three (current).
	e.write(vm, "one")
	one := snap("one", &hypervisor.SnapshotOptions{Description: "the <first> & best"})
	e.write(vm, "two")
	two := snap("two", nil)
	e.write(vm, "dirty")
	revert(one)
	e.state(vm, hypervisor.Off, "Revert to a snapshot without RAM")
	e.content(vm, "one", "Revert to one")
	e.write(vm, "three")
	three := snap("three", nil)

	list := func() map[hypervisor.SnapshotID]hypervisor.SnapshotInfo {
		e.Helper()
		l, err := vm.Snapshots(e.ctx)
		e.ok(err, "Snapshots")
		m := map[hypervisor.SnapshotID]hypervisor.SnapshotInfo{}
		for _, s := range l {
			if s.Parent != "" {
				if _, ok := m[s.Parent]; !ok {
					e.Errorf("Snapshots lists %q before its parent", s.Name)
				}
			}
			m[s.ID] = s
		}
		return m
	}
	l := list()
	if len(l) != 3 {
		e.Errorf("Snapshots lists %d, want 3: %+v", len(l), l)
	}
	for _, w := range []struct {
		s       *hypervisor.Snapshot
		name    string
		parent  hypervisor.SnapshotID
		depth   int
		current bool
	}{{one, "one", "", 0, false}, {two, "two", one.ID(), 1, false}, {three, "three", one.ID(), 1, true}} {
		s := l[w.s.ID()]
		if s.Name != w.name || s.Parent != w.parent || s.Depth != w.depth || s.Current != w.current || s.Memory || s.VM != vm.ID() || s.State != hypervisor.Off {
			e.Errorf("snapshot %q is %+v; want parent %q, depth %d, current %v, no memory, state off", w.name, s, w.parent, w.depth, w.current)
		}
		if s.CreatedAt.IsZero() {
			e.Errorf("snapshot %q has no time", w.name)
		}
	}
	if d := l[one.ID()].Description; d != "the <first> & best" {
		e.Errorf("the description came back as %q", d)
	}
	if i := e.info(vm); i.Snapshots != 3 || i.CurrentSnapshot != three.ID() {
		e.Errorf("Info tells of %d snapshots, current %q; want 3, %q", i.Snapshots, i.CurrentSnapshot, three.ID())
	}
	if f, err := vm.FindSnapshot(e.ctx, "two"); err != nil || f.ID() != two.ID() {
		e.Errorf("FindSnapshot(two): %v", err)
	}
	_, err := vm.FindSnapshot(e.ctx, "absent")
	e.kind(err, hypervisor.ErrNotFound, "FindSnapshot of an absent name")

	revert(two)
	e.content(vm, "two", "Revert to two")
	revert(three)
	e.content(vm, "three", "Revert to three")
	e.write(vm, "now")

	// Merging one away keeps its children, their content, and the present.
	_, err = one.Delete(e.ctx, nil).Wait(e.ctx)
	e.ok(err, "Delete of the root snapshot")
	e.content(vm, "now", "Delete of the root snapshot")
	l = list()
	if len(l) != 2 || l[two.ID()].Parent != "" || l[three.ID()].Parent != "" {
		e.Errorf("after Delete of the root: %+v; want two and three as roots", l)
	}
	for range 3 {
		_, err = one.Delete(e.ctx, nil).Wait(e.ctx)
		e.kind(err, hypervisor.ErrNotFound, "Delete of a snapshot that is gone")
	}
	_, err = one.Revert(e.ctx, nil).Wait(e.ctx)
	e.kind(err, hypervisor.ErrNotFound, "Revert to a snapshot that is gone")
	revert(two)
	e.content(vm, "two", "Revert to two after its parent was merged")
	four := snap("four", nil)
	five := snap("five", nil)
	if !e.Failed() {
		_, err = two.Delete(e.ctx, &hypervisor.DeleteSnapshotOptions{Children: true}).Wait(e.ctx)
		e.ok(err, "Delete with children")
		if l = list(); len(l) != 1 || l[three.ID()].ID == "" {
			e.Errorf("after Delete of two with children: %+v; want three only (four was %s, five %s)", l, four.ID(), five.ID())
		}
		e.content(vm, "two", "Delete of two with its children")
	}
	e.proved(hypervisor.SnapshotDisk)
	_, err = vm.CreateSnapshot(e.ctx, "ram", &hypervisor.SnapshotOptions{Memory: true}).Wait(e.ctx)
	e.oneOf(err, "a snapshot with RAM of a machine that is off", hypervisor.ErrInvalidState, hypervisor.ErrUnsupported)
	_, err = e.c.VM(e.AbsentVM).CreateSnapshot(e.ctx, "x", nil).Wait(e.ctx)
	e.kind(err, hypervisor.ErrNotFound, "CreateSnapshot of an absent ID")

	e.start(vm)
	if e.has(hypervisor.SnapshotMemory) {
		n := e.uptime(vm)
		ram := snap("ram", &hypervisor.SnapshotOptions{Memory: true})
		e.state(vm, hypervisor.Running, "CreateSnapshot with RAM")
		if i, err := ram.Info(e.ctx); err != nil || !i.Memory || i.State != hypervisor.Running {
			e.Errorf("the snapshot with RAM is %+v (%v)", i, err)
		}
		e.off(vm)
		revert(ram)
		e.state(vm, hypervisor.Running, "Revert to a snapshot with RAM")
		e.sameBoot(vm, n, "Revert to a snapshot with RAM")
		revert(ram) // from running
		e.state(vm, hypervisor.Running, "Revert of a running machine")
		_, err := ram.Delete(e.ctx, nil).Wait(e.ctx)
		e.ok(err, "Delete of the snapshot with RAM")
		e.state(vm, hypervisor.Running, "Delete of a snapshot")
		e.proved(hypervisor.SnapshotMemory)
	}
	if e.has(hypervisor.SnapshotQuiesce) {
		s, err := vm.CreateSnapshot(e.ctx, "quiet", &hypervisor.SnapshotOptions{Quiesce: true}).Wait(e.ctx)
		if q, serr := vm.Supports(e.ctx, hypervisor.SnapshotQuiesce); serr == nil && q.Level == hypervisor.No {
			e.refused(err, hypervisor.SnapshotQuiesce, vm.ID().Ref())
		} else {
			e.ok(err, "a quiesced snapshot")
			if i, err := s.Info(e.ctx); err != nil || !i.Quiesced && i.Kind == "" {
				e.Errorf("the quiesced snapshot is %+v (%v)", i, err)
			}
			e.proved(hypervisor.SnapshotQuiesce)
		}
	}
	live, err := vm.CreateSnapshot(e.ctx, "live", nil).Wait(e.ctx)
	if err != nil {
		e.oneOf(err, "a snapshot of the disks of a running machine", hypervisor.ErrUnsupported, hypervisor.ErrInvalidState)
	} else {
		revert(live)
		if i := e.info(vm); i.State != hypervisor.Off {
			e.Errorf("after Revert to a snapshot without RAM the machine is %s, want off", i.State)
		}
	}
	images := e.listImages()
	if _, err = vm.Delete(e.ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(e.ctx); err != nil {
		e.Errorf("Delete of a machine with snapshots: %v", err)
	}
	if a := e.added(e.images); len(a) > 0 {
		e.Errorf("Delete of a machine with snapshots left %v of %v", a, images)
	}
}
