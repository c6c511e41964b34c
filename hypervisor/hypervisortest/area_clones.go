package hypervisortest

import (
	"errors"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// clones: independence, shared bases, tokens, dependants.
func clones(e *env) {
	src := e.create("src", func(s *hypervisor.VMSpec) { // disks that can be told apart
		s.Disks = append(s.Disks, hypervisor.DiskSpec{SizeBytes: 16 * hypervisor.MiB}, hypervisor.DiskSpec{SizeBytes: 24 * hypervisor.MiB})
	})
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
