package hypervisortest

import (
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// snapshots: the tree, restored content and memory, merges.
var snapshots = area{"snapshots", []row{
	{name: "tree", proves: caps{capability.SnapshotDisk}, run: snapshotsTree},
	{name: "find", needs: caps{capability.SnapshotDisk}, run: snapshotsFind},
	{name: "revert", proves: caps{capability.SnapshotDisk}, run: snapshotsRevert},
	{name: "merge-keeps-children", proves: caps{capability.SnapshotDisk}, run: snapshotsMerge},
	{name: "delete-with-children", proves: caps{capability.SnapshotDisk}, run: snapshotsChildren},
	{name: "gone", needs: caps{capability.SnapshotDisk}, run: snapshotsGone},
	{name: "absent", needs: caps{capability.SnapshotDisk}, run: snapshotsAbsent},
	{name: "delete-of-the-machine", needs: caps{capability.SnapshotDisk}, run: snapshotsDeleteVM},
	{name: "memory-while-off", needs: caps{capability.SnapshotDisk}, run: snapshotsMemoryOff},
	{name: "memory", proves: caps{capability.SnapshotMemory}, run: snapshotsMemory},
	{name: "quiesced", proves: caps{capability.SnapshotQuiesce}, run: snapshotsQuiesced},
	{name: "disks-while-running", needs: caps{capability.SnapshotDisk}, run: snapshotsRunning},
}}

func (e *env) snapshot(vm *hypervisor.VM, name string, o *hypervisor.SnapshotOptions) *hypervisor.Snapshot {
	e.Helper()
	s := must(e, vm.CreateSnapshot(e.ctx, name, o), "CreateSnapshot(%q)", name)
	if s.ID() == "" {
		e.Fatalf("CreateSnapshot(%q) returned an empty ID", name)
	}
	return s
}

func (e *env) revert(s *hypervisor.Snapshot) {
	e.Helper()
	must(e, s.Revert(e.ctx, nil), "Revert to %s", s.ID())
}

// tree is a machine that is off with the snapshots one - two and one - three,
// of which three is current. Each holds its name.
type tree3 struct {
	vm              *hypervisor.VM
	one, two, three *hypervisor.Snapshot
}

const treeText = "the <first> & best"

func (e *env) tree() (t tree3) {
	e.Helper()
	t.vm = e.create("vm")
	e.write(t.vm, "one")
	t.one = e.snapshot(t.vm, "one", &hypervisor.SnapshotOptions{Description: treeText})
	e.write(t.vm, "two")
	t.two = e.snapshot(t.vm, "two", nil)
	e.write(t.vm, "dirty")
	e.revert(t.one)
	e.state(t.vm, hypervisor.StateOff, "Revert to a snapshot without RAM")
	e.content(t.vm, "one", "Revert to one")
	e.write(t.vm, "three")
	t.three = e.snapshot(t.vm, "three", nil)
	return t
}

// snapshotsOf lists a machine's snapshots and checks that parents come first.
func (e *env) snapshotsOf(vm *hypervisor.VM) map[hypervisor.SnapshotID]hypervisor.SnapshotInfo {
	e.Helper()
	l, err := vm.Snapshots(e.ctx)
	e.ok(err, "Snapshots")
	m := map[hypervisor.SnapshotID]hypervisor.SnapshotInfo{}
	for _, s := range l {
		if _, ok := m[s.Parent]; s.Parent != "" && !ok {
			e.Errorf("Snapshots lists %q before its parent", s.Name)
		}
		m[s.ID] = s
	}
	return m
}

func snapshotsTree(e *env) {
	t := e.tree()
	l := e.snapshotsOf(t.vm)
	if len(l) != 3 {
		e.Errorf("Snapshots lists %d, want 3: %+v", len(l), l)
	}
	for _, w := range []struct {
		s       *hypervisor.Snapshot
		name    string
		parent  hypervisor.SnapshotID
		depth   int
		current bool
	}{{t.one, "one", "", 0, false}, {t.two, "two", t.one.ID(), 1, false}, {t.three, "three", t.one.ID(), 1, true}} {
		s := l[w.s.ID()]
		if s.Name != w.name || s.Parent != w.parent || s.Depth != w.depth || s.Current != w.current || s.Memory || s.VM != t.vm.ID() || s.State != hypervisor.StateOff {
			e.Errorf("snapshot %q is %+v; want parent %q, depth %d, current %v, no memory, state off", w.name, s, w.parent, w.depth, w.current)
		}
		if s.CreatedAt.IsZero() {
			e.Errorf("snapshot %q has no time", w.name)
		}
	}
	if d := l[t.one.ID()].Description; d != treeText {
		e.Errorf("the description came back as %q", d)
	}
	if i := e.info(t.vm); i.Snapshots != 3 || i.CurrentSnapshot != t.three.ID() {
		e.Errorf("Info reports %d snapshots, current %q; want 3, %q", i.Snapshots, i.CurrentSnapshot, t.three.ID())
	}
}

func snapshotsFind(e *env) {
	vm := e.create("vm")
	e.snapshot(vm, "one", nil)
	two := e.snapshot(vm, "two", nil)
	if f, err := vm.FindSnapshot(e.ctx, "two"); err != nil || f.ID() != two.ID() {
		e.Errorf("FindSnapshot(two): %v", err)
	}
	_, err := vm.FindSnapshot(e.ctx, "absent")
	e.kind(err, hypervisor.ErrNotFound, "FindSnapshot of an absent name")
}

func snapshotsRevert(e *env) {
	t := e.tree()
	e.revert(t.two)
	e.content(t.vm, "two", "Revert to two")
	e.revert(t.three)
	e.content(t.vm, "three", "Revert to three")
}

// Merging one away keeps its children, their content, and the present.
func snapshotsMerge(e *env) {
	t := e.tree()
	e.write(t.vm, "now")
	must(e, t.one.Delete(e.ctx, nil), "Delete of the root snapshot")
	e.content(t.vm, "now", "Delete of the root snapshot")
	l := e.snapshotsOf(t.vm)
	if len(l) != 2 || l[t.two.ID()].Parent != "" || l[t.three.ID()].Parent != "" {
		e.Errorf("after Delete of the root: %+v; want two and three as roots", l)
	}
	e.revert(t.two)
	e.content(t.vm, "two", "Revert to two after its parent was merged")
}

func snapshotsChildren(e *env) {
	t := e.tree()
	e.revert(t.two)
	four, five := e.snapshot(t.vm, "four", nil), e.snapshot(t.vm, "five", nil)
	must(e, t.two.Delete(e.ctx, &hypervisor.DeleteSnapshotOptions{Children: true}), "Delete with children")
	if l := e.snapshotsOf(t.vm); len(l) != 2 || l[t.one.ID()].ID == "" || l[t.three.ID()].ID == "" {
		e.Errorf("after Delete of two with children: %+v; want one and three only (four was %s, five %s)", l, four.ID(), five.ID())
	}
	e.content(t.vm, "two", "Delete of two with its children")
}

func snapshotsGone(e *env) {
	s := e.snapshot(e.create("vm"), "gone", nil)
	must(e, s.Delete(e.ctx, nil), "Delete of a snapshot")
	for range 3 {
		e.kind(errOf(e, s.Delete(e.ctx, nil)), hypervisor.ErrNotFound, "Delete of a snapshot that is gone")
	}
	e.kind(errOf(e, s.Revert(e.ctx, nil)), hypervisor.ErrNotFound, "Revert to a snapshot that is gone")
}

func snapshotsAbsent(e *env) {
	err := errOf(e, e.c.VM(e.AbsentVM).CreateSnapshot(e.ctx, "x", nil))
	e.kind(err, hypervisor.ErrNotFound, "CreateSnapshot of an absent ID")
}

func snapshotsDeleteVM(e *env) {
	t := e.tree()
	images := e.listImages()
	if err := errOf(e, t.vm.Delete(e.ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true})); err != nil {
		e.Errorf("Delete of a machine with snapshots: %v", err)
	}
	if a := e.added(e.images); len(a) > 0 {
		e.Errorf("Delete of a machine with snapshots left %v of %v", a, images)
	}
}

func snapshotsMemoryOff(e *env) {
	err := errOf(e, e.create("vm").CreateSnapshot(e.ctx, "ram", &hypervisor.SnapshotOptions{Memory: true}))
	e.oneOf(err, "a snapshot with RAM of a machine that is off", hypervisor.ErrInvalidState, hypervisor.ErrUnsupported)
}

func snapshotsMemory(e *env) {
	vm := e.running()
	n := e.uptime(vm)
	ram := e.snapshot(vm, "ram", &hypervisor.SnapshotOptions{Memory: true})
	e.state(vm, hypervisor.StateRunning, "CreateSnapshot with RAM")
	if i, err := ram.Info(e.ctx); err != nil || !i.Memory || i.State != hypervisor.StateRunning {
		e.Errorf("the snapshot with RAM is %+v (%v)", i, err)
	}
	e.off(vm)
	e.revert(ram)
	e.state(vm, hypervisor.StateRunning, "Revert to a snapshot with RAM")
	e.sameBoot(vm, n, "Revert to a snapshot with RAM")
	e.revert(ram) // from running
	e.state(vm, hypervisor.StateRunning, "Revert of a running machine")
	must(e, ram.Delete(e.ctx, nil), "Delete of the snapshot with RAM")
	e.state(vm, hypervisor.StateRunning, "Delete of a snapshot")
}

func snapshotsQuiesced(e *env) {
	vm := e.running()
	s, err := vm.CreateSnapshot(e.ctx, "quiet", &hypervisor.SnapshotOptions{Quiesce: true}).Wait(e.ctx)
	if q, serr := vm.Supports(e.ctx, capability.SnapshotQuiesce); serr == nil && q.Level == hypervisor.LevelNo {
		e.refused(err, capability.SnapshotQuiesce, vm.ID().Ref())
		e.unshown("this guest's disks can't be made quiet: %s", q.Detail)
		return
	}
	e.ok(err, "a quiesced snapshot")
	if i, err := s.Info(e.ctx); err != nil || !i.Quiesced && i.Kind == "" {
		e.Errorf("the quiesced snapshot is %+v (%v)", i, err)
	}
	e.unshare()
}

func snapshotsRunning(e *env) {
	vm := e.running()
	live, err := vm.CreateSnapshot(e.ctx, "live", nil).Wait(e.ctx)
	if err != nil {
		e.oneOf(err, "a snapshot of the disks of a running machine", hypervisor.ErrUnsupported, hypervisor.ErrInvalidState)
		return
	}
	e.revert(live)
	if i := e.info(vm); i.State != hypervisor.StateOff {
		e.Errorf("after Revert to a snapshot without RAM the machine is %s, want off", i.State)
	}
	e.unshare()
}
