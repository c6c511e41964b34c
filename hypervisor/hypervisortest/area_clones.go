package hypervisortest

import (
	"errors"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// clones: independence, shared bases, tokens, dependants.
var clones = area{"clones", []row{
	{name: "full-is-like-its-source", proves: caps{capability.CloneFull}, run: clonesFull},
	{name: "full-is-independent", proves: caps{capability.CloneFull}, run: clonesFullIndependent},
	{name: "carries-labels", needs: caps{capability.CloneFull, capability.Labels}, run: clonesLabels},
	{name: "token-repeats", proves: caps{capability.CloneFull}, run: clonesToken},
	{name: "absent-source", needs: caps{capability.CloneFull}, run: clonesAbsent},
	{name: "of-a-snapshot", proves: caps{capability.CloneFromSnapshot}, run: clonesSnapshot},
	{name: "of-an-absent-snapshot", needs: caps{capability.CloneFromSnapshot}, run: clonesNoSnapshot},
	{name: "linked-is-independent", proves: caps{capability.CloneLinked}, run: clonesLinked},
	{name: "linked-is-named-as-dependant", proves: caps{capability.CloneLinked}, run: clonesDependants},
	{name: "linked-outlives-its-source", proves: caps{capability.CloneLinked}, run: clonesLinkedBase},
	{name: "of-a-running-machine", proves: caps{capability.CloneRunning}, needs: caps{capability.CloneFull}, run: clonesRunning},
	{name: "instant", proves: caps{capability.CloneInstant}, run: clonesInstant},
	{name: "customized", proves: caps{capability.CloneCustomize}, run: clonesCustomized},
}}

// cloneSource makes a machine with disks that can be distinguished.
func (e *env) cloneSource() *hypervisor.VM {
	e.Helper()
	src := e.create("src", moreDisks)
	e.write(src, "base")
	return src
}

func moreDisks(s *hypervisor.VMSpec) {
	s.Disks = append(s.Disks, hypervisor.DiskSpec{SizeBytes: 16 * hypervisor.MiB}, hypervisor.DiskSpec{SizeBytes: 24 * hypervisor.MiB})
}

// clone clones a machine and checks that the clone is like its source.
func (e *env) clone(src *hypervisor.VM, part string, o *hypervisor.CloneOptions) *hypervisor.VM {
	e.Helper()
	name := e.name(part)
	vm := must(e, src.Clone(e.ctx, name, o), "Clone (%s)", part)
	e.keep(vm.ID())
	i, si := e.info(vm), e.info(src)
	if vm.ID() == src.ID() || i.Name != name || i.CPUs != si.CPUs || i.MemoryBytes != si.MemoryBytes || len(i.Disks) != len(si.Disks) || i.Template {
		e.Errorf("the clone (%s) is %+v, its source %+v", part, i, si)
	}
	for _, n := range i.NICs {
		for _, m := range si.NICs {
			if strings.EqualFold(n.MAC, m.MAC) {
				e.Errorf("the clone (%s) has its source's MAC %s", part, n.MAC)
			}
		}
	}
	return vm
}

func clonesFull(e *env) {
	src := e.cloneSource()
	si := e.info(src)
	for n, d := range e.info(e.clone(src, "full", nil)).Disks {
		if d.Parent != "" {
			e.Errorf("disk %d of a full clone depends on %s", n, d.Parent)
		}
		if n < len(si.Disks) && (d.Volume == si.Disks[n].Volume || d.SizeBytes != si.Disks[n].SizeBytes) {
			e.Errorf("disk %d of the full clone is %+v, the source's %+v", n, d, si.Disks[n])
		}
	}
}

func clonesFullIndependent(e *env) {
	src := e.cloneSource()
	full := e.clone(src, "full", nil)
	e.content(full, "base", "a full clone")
	e.write(full, "changed")
	e.content(src, "base", "a write to the full clone")
	e.write(src, "source")
	e.content(full, "changed", "a write to the source of a full clone")
	e.start(full)
	e.state(full, hypervisor.StateRunning, "Start of a full clone")
}

func clonesLabels(e *env) {
	full := e.clone(e.cloneSource(), "labels", &hypervisor.CloneOptions{Labels: map[string]string{"role": "copy"}})
	if i := e.info(full); i.Labels["role"] != "copy" {
		e.Errorf("the clone's labels are %v", i.Labels)
	}
}

func clonesToken(e *env) {
	src, name := e.cloneSource(), e.name("token")
	o := &hypervisor.CloneOptions{Token: "tok-" + e.name("c")}
	var first hypervisor.VMID
	for n := range e.site.s.h.Repeat {
		vm := must(e, src.Clone(e.ctx, name, o), "Clone with token, call %d", n+1)
		if n == 0 {
			first = vm.ID()
			e.keep(first)
		} else if vm.ID() != first {
			e.keep(vm.ID())
			e.Errorf("Clone with the same token made %s, the first call made %s", vm.ID(), first)
		}
	}
}

func clonesAbsent(e *env) {
	err := errOf(e, e.c.VM(e.AbsentVM).Clone(e.ctx, e.name("absent"), nil))
	e.kind(err, hypervisor.ErrNotFound, "Clone of an absent ID")
}

func clonesSnapshot(e *env) {
	src := e.cloneSource()
	s := must(e, src.CreateSnapshot(e.ctx, "then", nil), "CreateSnapshot")
	e.write(src, "later")
	vm := e.clone(src, "fromsnap", &hypervisor.CloneOptions{From: s.ID()})
	e.content(vm, "base", "a clone of a snapshot")
	must(e, vm.Delete(e.ctx, hypervisor.DeleteDisks, nil), "Delete of the clone")
	must(e, s.Revert(e.ctx, nil), "Revert after the clone was deleted")
	e.content(src, "base", "Revert after the clone was deleted")
	must(e, s.Delete(e.ctx, nil), "Delete of the snapshot")
}

func clonesNoSnapshot(e *env) {
	err := errOf(e, e.cloneSource().Clone(e.ctx, e.name("nosnap"), &hypervisor.CloneOptions{From: "no-such-snapshot"}))
	e.kind(err, hypervisor.ErrNotFound, "Clone of an absent snapshot")
}

// linkedClone makes a linked clone and checks that it has a base.
func (e *env) linkedClone(src *hypervisor.VM) *hypervisor.VM {
	e.Helper()
	linked := e.clone(src, "linked", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked})
	if i := e.info(linked); len(i.Disks) > 0 && i.Disks[0].Parent == "" {
		e.Errorf("the linked clone's disk depends on nothing: %+v", i.Disks[0])
	}
	return linked
}

func clonesLinked(e *env) {
	src := e.cloneSource()
	linked := e.linkedClone(src)
	e.content(linked, "base", "a linked clone")
	e.write(linked, "mine")
	e.content(src, "base", "a write to the linked clone")
	e.write(src, "source's")
	e.content(linked, "mine", "a write to the source of a linked clone")
	must(e, linked.Delete(e.ctx, hypervisor.DeleteDisks, nil), "Delete of the linked clone")
	e.content(src, "source's", "Delete of the linked clone")
}

func clonesDependants(e *env) {
	src := e.cloneSource()
	linked := e.linkedClone(src)
	dep, err := src.Dependencies(e.ctx)
	if errors.Is(err, hypervisor.ErrUnsupported) {
		return
	}
	e.ok(err, "Dependencies")
	named := false
	for _, v := range dep.Volumes {
		for _, d := range v.Dependants {
			named = named || d.Kind == hypervisor.ObjectVM && d.ID == string(linked.ID())
		}
	}
	if !named {
		e.Errorf("Dependencies of the source doesn't name the linked clone %s: %+v", linked.ID(), dep)
	}
}

// The base is protected, or deleting the source leaves the clone intact.
func clonesLinkedBase(e *env) {
	src := e.cloneSource()
	linked := e.linkedClone(src)
	e.write(linked, "mine")
	e.write(src, "source's")
	err := errOf(e, src.Delete(e.ctx, hypervisor.DeleteDisks, nil))
	switch {
	case err != nil:
		e.kind(err, hypervisor.ErrBusy, "Delete of the source of a linked clone")
		if !strings.Contains(err.Error(), string(linked.ID())) && !strings.Contains(err.Error(), e.info(linked).Name) {
			e.Errorf("the refusal doesn't name the dependant %s: %v", linked.ID(), err)
		}
		if !e.exists(src.ID()) {
			e.Errorf("the source is gone after a refused Delete")
		}
		e.content(src, "source's", "a refused Delete")
	case e.exists(src.ID()):
		e.Errorf("the source is there after Delete")
	}
	e.content(linked, "mine", "Delete of the source")
	e.start(linked)
	e.state(linked, hypervisor.StateRunning, "Start of a linked clone")
	e.off(linked)
	must(e, linked.Delete(e.ctx, hypervisor.DeleteDisks, nil), "Delete of the linked clone")
	if err != nil && e.exists(src.ID()) {
		e.content(src, "source's", "Delete of the linked clone")
	}
}

func clonesRunning(e *env) {
	src := e.running(moreDisks)
	n, images := e.uptime(src), e.listImages()
	vm := e.clone(src, "hot", nil)
	e.state(src, hypervisor.StateRunning, "Clone of a running machine")
	e.sameBoot(src, n, "Clone of a running machine")
	if i := e.info(src); i.Snapshots != 0 {
		e.Errorf("Clone of a running machine left %d snapshots", i.Snapshots)
	}
	must(e, vm.Delete(e.ctx, hypervisor.DeleteDisks, nil), "Delete of the clone")
	if a := e.added(images); len(a) > 0 {
		e.Errorf("clone and delete of a running machine left %v", a)
	}
}

func clonesInstant(e *env) {
	src := e.running(moreDisks)
	n := e.uptime(src)
	vm := must(e, src.Clone(e.ctx, e.name("instant"), &hypervisor.CloneOptions{Mode: hypervisor.CloneModeInstant}), "an instant clone")
	e.keep(vm.ID())
	e.state(vm, hypervisor.StateRunning, "an instant clone")
	e.sameBoot(vm, n, "an instant clone")
}

func clonesCustomized(e *env) {
	src := e.cloneSource()
	o := &hypervisor.CloneOptions{Customize: &hypervisor.Customization{HostName: "guest1"}}
	vm, err := src.Clone(e.ctx, e.name("custom"), o).Wait(e.ctx)
	if c, serr := src.Supports(e.ctx, capability.CloneCustomize); serr == nil && c.Level == hypervisor.LevelNo { // no tools in this guest, for example
		e.refused(err, capability.CloneCustomize, src.ID().Ref())
		e.unshown("this guest can't be customized: %s", c.Detail)
		return
	}
	e.ok(err, "a customized clone")
	e.keep(vm.ID())
}
