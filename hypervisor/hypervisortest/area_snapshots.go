package hypervisortest

import (
	"errors"
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

// clones: independence, shared bases, tokens, dependants.
func clones(e *env) {
	src := e.create("src")
	e.write(src, "base")
	si := e.info(src)
	clone := func(part string, o *hypervisor.CloneOptions) *hypervisor.VM {
		e.Helper()
		name := e.name(part)
		vm, err := src.Clone(e.ctx, name, o).Wait(e.ctx)
		e.ok(err, "Clone (%s)", part)
		e.keep(vm.ID())
		i := e.info(vm)
		if vm.ID() == src.ID() || i.Name != name || i.CPUs != si.CPUs || i.MemoryBytes != si.MemoryBytes || len(i.Disks) != len(si.Disks) || i.Template {
			e.Errorf("the clone (%s) is %+v, its source %+v", part, i, si)
		}
		for _, n := range i.NICs {
			for _, m := range si.NICs {
				if equalFold(n.MAC, m.MAC) {
					e.Errorf("the clone (%s) has its source's MAC %s", part, n.MAC)
				}
			}
		}
		return vm
	}
	absent := e.c.VM(e.AbsentVM)
	if e.has(hypervisor.CloneFull) {
		o := &hypervisor.CloneOptions{}
		if e.has(hypervisor.Labels) {
			o.Labels = map[string]string{"role": "copy"}
		}
		full := clone("full", o)
		i := e.info(full)
		for n, d := range i.Disks {
			if d.Parent != "" {
				e.Errorf("disk %d of a full clone stands on %s", n, d.Parent)
			}
			if n < len(si.Disks) && (d.Volume == si.Disks[n].Volume || d.SizeBytes != si.Disks[n].SizeBytes) {
				e.Errorf("disk %d of the full clone is %+v, the source's %+v", n, d, si.Disks[n])
			}
		}
		if e.has(hypervisor.Labels) && i.Labels["role"] != "copy" {
			e.Errorf("the clone's labels are %v", i.Labels)
		}
		e.content(full, "base", "a full clone")
		e.write(full, "changed")
		e.content(src, "base", "a write to the full clone")
		e.write(src, "source")
		e.content(full, "changed", "a write to the source of a full clone")
		e.write(src, "base")
		e.start(full)
		e.state(full, hypervisor.Running, "Start of a full clone")
		e.off(full)

		tok := &hypervisor.CloneOptions{Token: "tok-" + e.name("c")}
		name := e.name("token")
		var first hypervisor.VMID
		for n := range e.s.h.Repeat {
			vm, err := src.Clone(e.ctx, name, tok).Wait(e.ctx)
			e.ok(err, "Clone with token, call %d", n+1)
			if n == 0 {
				first = vm.ID()
				e.keep(first)
			} else if vm.ID() != first {
				e.keep(vm.ID())
				e.Errorf("Clone with the same token made %s, the first call made %s", vm.ID(), first)
			}
		}
		_, err := absent.Clone(e.ctx, e.name("absent"), nil).Wait(e.ctx)
		e.kind(err, hypervisor.ErrNotFound, "Clone of an absent ID")
		e.proved(hypervisor.CloneFull)
	}
	if e.has(hypervisor.CloneFromSnapshot) {
		s, err := src.CreateSnapshot(e.ctx, "then", nil).Wait(e.ctx)
		e.ok(err, "CreateSnapshot")
		e.write(src, "later")
		vm := clone("fromsnap", &hypervisor.CloneOptions{From: s.ID()})
		e.content(vm, "base", "a clone of a snapshot")
		_, err = src.Clone(e.ctx, e.name("nosnap"), &hypervisor.CloneOptions{From: "no-such-snapshot"}).Wait(e.ctx)
		e.kind(err, hypervisor.ErrNotFound, "Clone of an absent snapshot")
		_, err = vm.Delete(e.ctx, hypervisor.DeleteDisks, nil).Wait(e.ctx)
		e.ok(err, "Delete of the clone")
		_, err = s.Revert(e.ctx, nil).Wait(e.ctx)
		e.ok(err, "Revert after the clone was deleted")
		e.content(src, "base", "Revert after the clone was deleted")
		_, err = s.Delete(e.ctx, nil).Wait(e.ctx)
		e.ok(err, "Delete of the snapshot")
		e.proved(hypervisor.CloneFromSnapshot)
	}
	if e.has(hypervisor.CloneLinked) {
		linked := clone("linked", &hypervisor.CloneOptions{Mode: hypervisor.Linked})
		if i := e.info(linked); len(i.Disks) > 0 && i.Disks[0].Parent == "" {
			e.Errorf("the linked clone's disk stands on nothing: %+v", i.Disks[0])
		}
		e.content(linked, "base", "a linked clone")
		e.write(linked, "mine")
		e.content(src, "base", "a write to the linked clone")
		e.write(src, "source's")
		e.content(linked, "mine", "a write to the source of a linked clone")
		dep, err := src.Dependencies(e.ctx)
		if err == nil {
			named := false
			for _, v := range dep.Volumes {
				for _, d := range v.Dependants {
					named = named || d.Kind == hypervisor.KindOfVM && d.ID == string(linked.ID())
				}
			}
			if !named {
				e.Errorf("Dependencies of the source doesn't name the linked clone %s: %+v", linked.ID(), dep)
			}
		} else if !errors.Is(err, hypervisor.ErrUnsupported) {
			e.Errorf("Dependencies: %v", err)
		}
		// The base is protected, or deleting the source leaves the clone whole.
		_, err = src.Delete(e.ctx, hypervisor.DeleteDisks, nil).Wait(e.ctx)
		if err != nil {
			e.kind(err, hypervisor.ErrBusy, "Delete of the source of a linked clone")
			if !strings.Contains(err.Error(), string(linked.ID())) && !strings.Contains(err.Error(), e.info(linked).Name) {
				e.Errorf("the refusal doesn't name the dependant %s: %v", linked.ID(), err)
			}
			if !e.exists(src.ID()) {
				e.Errorf("the source is gone after a refused Delete")
			}
			e.content(src, "source's", "a refused Delete")
		} else if e.exists(src.ID()) {
			e.Errorf("the source is there after Delete")
		}
		e.content(linked, "mine", "Delete of the source")
		e.start(linked)
		e.state(linked, hypervisor.Running, "Start of a linked clone")
		e.off(linked)
		_, err = linked.Delete(e.ctx, hypervisor.DeleteDisks, nil).Wait(e.ctx)
		e.ok(err, "Delete of the linked clone")
		if e.exists(src.ID()) {
			e.content(src, "source's", "Delete of the linked clone")
		} else {
			src = e.create("src2")
			si = e.info(src)
		}
		e.proved(hypervisor.CloneLinked)
	}
	if e.has(hypervisor.CloneRunning) && e.has(hypervisor.CloneFull) {
		e.start(src)
		n := e.uptime(src)
		images := e.listImages()
		vm := clone("hot", nil)
		e.state(src, hypervisor.Running, "Clone of a running machine")
		e.sameBoot(src, n, "Clone of a running machine")
		if i := e.info(src); i.Snapshots != 0 {
			e.Errorf("Clone of a running machine left %d snapshots", i.Snapshots)
		}
		_, err := vm.Delete(e.ctx, hypervisor.DeleteDisks, nil).Wait(e.ctx)
		e.ok(err, "Delete of the clone")
		if a := e.added(images); len(a) > 0 {
			e.Errorf("clone and delete of a running machine left %v", a)
		}
		e.proved(hypervisor.CloneRunning)
	}
	if e.has(hypervisor.CloneInstant) {
		e.start(src)
		n := e.uptime(src)
		name := e.name("instant")
		vm, err := src.Clone(e.ctx, name, &hypervisor.CloneOptions{Mode: hypervisor.Instant}).Wait(e.ctx)
		e.ok(err, "an instant clone")
		e.keep(vm.ID())
		e.state(vm, hypervisor.Running, "an instant clone")
		e.sameBoot(vm, n, "an instant clone")
		e.off(vm)
		e.proved(hypervisor.CloneInstant)
	}
	if e.has(hypervisor.CloneCustomize) {
		e.off(src)
		vm, err := src.Clone(e.ctx, e.name("custom"), &hypervisor.CloneOptions{Customize: &hypervisor.Customization{HostName: "guest1"}}).Wait(e.ctx)
		if c, serr := src.Supports(e.ctx, hypervisor.CloneCustomize); serr == nil && c.Level == hypervisor.No { // no tools in this guest, say
			e.refused(err, hypervisor.CloneCustomize, src.ID().Ref())
		} else {
			e.ok(err, "a customized clone")
			e.keep(vm.ID())
			e.proved(hypervisor.CloneCustomize)
		}
	}
}

// templates: both ways, and never started.
func templates(e *env) {
	vm := e.create("vm")
	if !e.has(hypervisor.Templates) {
		return
	}
	e.write(vm, "golden")
	e.start(vm)
	_, err := vm.MarkTemplate(e.ctx).Wait(e.ctx)
	e.kind(err, hypervisor.ErrInvalidState, "MarkTemplate of a running machine")
	e.off(vm)
	var t *hypervisor.Template
	for range 3 {
		t, err = vm.MarkTemplate(e.ctx).Wait(e.ctx)
		e.ok(err, "MarkTemplate")
	}
	tid := hypervisor.VMID(t.ID())
	e.keep(tid)
	name := ""
	found := false
	for i, err := range e.c.Templates(e.ctx) {
		e.ok(err, "Templates")
		if i.ID == t.ID() {
			found, name = true, i.Name
		}
	}
	if !found {
		e.Errorf("Templates leaves out %s", t.ID())
	}
	for v, err := range e.c.VMs(e.ctx, nil) {
		e.ok(err, "VMs")
		if v.ID == tid {
			e.Errorf("VMs lists the template %s", tid)
		}
	}
	if f, err := e.c.FindTemplate(e.ctx, name); err != nil || f.ID() != t.ID() {
		e.Errorf("FindTemplate(%q): %v", name, err)
	}
	_, err = e.c.VM(tid).Start(e.ctx).Wait(e.ctx)
	e.kind(err, hypervisor.ErrInvalidState, "Start of a template")
	if i, err := e.c.VM(tid).Info(e.ctx); err != nil || !i.Template || i.State != hypervisor.Off {
		e.Errorf("after a refused Start the template is %+v (%v)", i, err)
	}
	if e.has(hypervisor.CloneFull) {
		n := e.name("deployed")
		d, err := t.Deploy(e.ctx, n, nil).Wait(e.ctx)
		e.ok(err, "Deploy")
		e.keep(d.ID())
		if i := e.info(d); i.Template || i.Name != n || i.State != hypervisor.Off {
			e.Errorf("the deployed machine is %+v", i)
		}
		e.content(d, "golden", "Deploy")
		e.start(d)
		e.state(d, hypervisor.Running, "Start of a deployed machine")
		e.off(d)
	}
	if e.has(hypervisor.CloneLinked) {
		d, err := t.Deploy(e.ctx, e.name("linked"), &hypervisor.CloneOptions{Mode: hypervisor.Linked}).Wait(e.ctx)
		e.ok(err, "Deploy linked")
		e.keep(d.ID())
		e.content(d, "golden", "Deploy linked")
		if i := e.info(d); len(i.Disks) > 0 && i.Disks[0].Parent == "" {
			e.Errorf("the linked machine's disk stands on nothing")
		}
		_, err = t.Delete(e.ctx, hypervisor.DeleteDisks).Wait(e.ctx)
		if err != nil {
			e.kind(err, hypervisor.ErrBusy, "Delete of a template with a linked clone")
		} else {
			e.content(d, "golden", "Delete of its template")
		}
		_, err = d.Delete(e.ctx, hypervisor.DeleteDisks, nil).Wait(e.ctx)
		e.ok(err, "Delete of the linked machine")
	}
	if !e.exists(tid) { // the platform keeps bases by itself, so it could go
		again := e.create("again")
		e.write(again, "golden")
		t, err = again.MarkTemplate(e.ctx).Wait(e.ctx)
		e.ok(err, "MarkTemplate")
	}
	back, err := t.MarkVM(e.ctx, hypervisor.Placement{}).Wait(e.ctx)
	e.ok(err, "MarkVM")
	e.keep(back.ID())
	if i := e.info(back); i.Template {
		e.Errorf("after MarkVM it is a template still")
	}
	e.content(back, "golden", "MarkVM")
	e.start(back)
	e.state(back, hypervisor.Running, "Start after MarkVM")
	_, err = t.Info(e.ctx)
	e.kind(err, hypervisor.ErrNotFound, "Info of a template that is a machine again")
	e.proved(hypervisor.Templates)
}
