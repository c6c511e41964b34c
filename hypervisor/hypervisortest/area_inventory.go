package hypervisortest

import (
	"errors"
	"sync"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// inventory: listings agree with each other, with single reads and with the
// platform; pages hide well; absent and ambiguous things are said to be so.
func inventory(e *env) {
	begin := time.Now()
	a := e.create("a", func(s *hypervisor.VMSpec) { s.Description = "first <&> \"one\"" })
	b := e.create("b")
	e.has(hypervisor.VMCreate)
	e.proved(hypervisor.VMCreate)
	want := map[hypervisor.VMID]*hypervisor.VM{a.ID(): a, b.ID(): b}

	for name, o := range map[string]*hypervisor.ListOptions{
		"full": nil, "brief": {Detail: hypervisor.Brief}, "pages of one": {PageSize: 1}, "brief pages of two": {Detail: hypervisor.Brief, PageSize: 2},
	} {
		seen := map[hypervisor.VMID]bool{}
		for v, err := range e.c.VMs(e.ctx, o) {
			e.ok(err, "VMs (%s)", name)
			if seen[v.ID] {
				e.Errorf("VMs (%s) yields %s twice", name, v.ID)
			}
			seen[v.ID] = true
			if v.Template {
				e.Errorf("VMs (%s) yields the template %s", name, v.ID)
			}
			vm := want[v.ID]
			if vm == nil {
				continue
			}
			i := e.info(vm)
			if v.Name != i.Name || v.State != i.State || v.CPUs != i.CPUs || v.MemoryBytes != i.MemoryBytes || v.Host != i.Host {
				e.Errorf("VMs (%s) tells of %s {%s %s %d CPUs %d bytes on %q}, Info {%s %s %d CPUs %d bytes on %q}", name, v.ID,
					v.Name, v.State, v.CPUs, v.MemoryBytes, v.Host, i.Name, i.State, i.CPUs, i.MemoryBytes, i.Host)
			}
			if o == nil && (len(v.Disks) != len(i.Disks) || len(v.NICs) != len(i.NICs)) {
				e.Errorf("VMs (full) tells of %d disks and %d NICs of %s, Info of %d and %d", len(v.Disks), len(v.NICs), v.ID, len(i.Disks), len(i.NICs))
			}
		}
		for id := range want {
			if !seen[id] {
				e.Errorf("VMs (%s) leaves out %s", name, id)
			}
		}
	}

	spec := e.Spec("x")
	i := e.info(a)
	switch {
	case i.ID != a.ID():
		e.Errorf("Info of %s has the ID %s", a.ID(), i.ID)
	case i.State != hypervisor.Off:
		e.Errorf("a new machine is %s, want off", i.State)
	case i.MemoryBytes != spec.MemoryBytes:
		e.Errorf("the machine has %d bytes of memory, asked for %d", i.MemoryBytes, spec.MemoryBytes)
	case i.CPUs != max(spec.CPUs, 1):
		e.Errorf("the machine has %d CPUs, asked for %d", i.CPUs, max(spec.CPUs, 1))
	case len(i.Disks) != len(spec.Disks):
		e.Errorf("the machine has %d disks, asked for %d", len(i.Disks), len(spec.Disks))
	case i.Description != "first <&> \"one\"":
		e.Errorf("the description came back as %q", i.Description)
	case i.ReadAt.Before(begin.Add(-time.Minute)) || i.ReadAt.After(time.Now().Add(time.Minute)):
		e.Errorf("ReadAt is %v", i.ReadAt)
	}
	for n, d := range i.Disks {
		if d.ID == "" || d.Volume == "" || d.SizeBytes <= 0 {
			e.Errorf("disk %d lacks ID, volume or size: %+v", n, d)
		}
	}

	found, err := e.c.FindVM(e.ctx, i.Name)
	e.ok(err, "FindVM(%q)", i.Name)
	if found.ID() != a.ID() {
		e.Errorf("FindVM(%q) is %s, want %s", i.Name, found.ID(), a.ID())
	}
	_, err = e.c.FindVM(e.ctx, e.name("absent"))
	e.kind(err, hypervisor.ErrNotFound, "FindVM of an absent name")
	_, err = e.c.VM(e.AbsentVM).Info(e.ctx)
	e.kind(err, hypervisor.ErrNotFound, "Info of an absent ID")
	_, err = e.c.VM("no/such'<id>&%2f").Info(e.ctx)
	e.oneOf(err, "Info of a malformed ID", hypervisor.ErrNotFound, hypervisor.ErrInvalidArgument)

	// Names need not be unique everywhere; where they aren't, look-up says so.
	s := e.Spec(i.Name)
	twin, err := e.c.CreateVM(e.ctx, s).Wait(e.ctx)
	if err == nil {
		e.keep(twin.ID())
		_, err = e.c.FindVM(e.ctx, i.Name)
		e.kind(err, hypervisor.ErrAmbiguous, "FindVM of a name that two machines have")
	} else {
		e.kind(err, hypervisor.ErrExists, "CreateVM with a taken name")
	}
	if twin != nil && twin.ID() == a.ID() {
		e.Errorf("a second machine got the first one's ID %s", a.ID())
	}

	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := hypervisor.Collect(e.c.VMs(e.ctx, nil)); err != nil {
				e.Errorf("concurrent listing: %v", err)
			}
		})
	}
	wg.Wait()

	for ds, err := range e.c.Datastores(e.ctx) {
		if errors.Is(err, hypervisor.ErrUnsupported) {
			break
		}
		e.ok(err, "Datastores")
		if ds.ID == "" || ds.Name == "" || ds.Accessible && ds.CapacityBytes <= 0 || ds.FreeBytes > ds.CapacityBytes {
			e.Errorf("datastore lacks ID, name or size, or is fuller than full: %+v", ds)
		}
	}
	for n, err := range e.c.Networks(e.ctx) {
		if errors.Is(err, hypervisor.ErrUnsupported) {
			break
		}
		e.ok(err, "Networks")
		if n.ID == "" || n.Name == "" {
			e.Errorf("network lacks ID or name: %+v", n)
		}
	}
	if e.Other != nil {
		for v, err := range e.Other.VMs(e.ctx, nil) {
			e.ok(err, "VMs of the other Client")
			if want[v.ID] != nil {
				e.Errorf("the other Client lists %s, which is not its own", v.ID)
			}
		}
	}
}

// lifecycle: create and delete, tokens, disk policies, repeated calls.
func lifecycle(e *env) {
	repeat := e.s.h.Repeat
	// The same token finds the same machine.
	s := e.Spec(e.name("token"))
	s.Token = "tok-" + e.name("t")
	var first hypervisor.VMID
	for n := range repeat {
		vm, err := e.c.CreateVM(e.ctx, s).Wait(e.ctx)
		e.ok(err, "CreateVM with token, call %d", n+1)
		if n == 0 {
			first = vm.ID()
			e.keep(first)
		} else if vm.ID() != first {
			e.keep(vm.ID())
			e.Errorf("CreateVM with the same token made %s, the first call made %s", vm.ID(), first)
		}
	}
	if got := e.info(e.c.VM(first)).Token; got != s.Token {
		e.Errorf("the machine carries token %q, want %q", got, s.Token)
	}
	if e.Reopen != nil {
		c2, err := e.Reopen(e.ctx)
		e.ok(err, "Reopen")
		vm, err := c2.CreateVM(e.ctx, s).Wait(e.ctx)
		e.ok(err, "CreateVM with token from a second Client")
		if vm.ID() != first {
			e.keep(vm.ID())
			e.Errorf("a second Client made %s with the same token, the first made %s", vm.ID(), first)
		}
		e.ok(c2.Close(), "Close of the second Client")
	}

	// Delete with disks: nothing is left, and the second call says so.
	images := e.listImages()
	for range max(repeat/3, 1) {
		vm := e.create("gone")
		_, err := vm.Delete(e.ctx, hypervisor.DeleteDisks, nil).Wait(e.ctx)
		e.ok(err, "Delete")
		if e.exists(vm.ID()) {
			e.Errorf("%s is there after Delete", vm.ID())
		}
		for range repeat {
			_, err = vm.Delete(e.ctx, hypervisor.DeleteDisks, nil).Wait(e.ctx)
			e.kind(err, hypervisor.ErrNotFound, "Delete of a machine that is gone")
		}
	}
	if a := e.added(images); len(a) > 0 {
		e.Errorf("DeleteDisks left the images %v", a)
	}
	e.has(hypervisor.VMDelete)

	// Keep the disks: they stay with their content.
	vm := e.create("kept")
	before := e.info(vm)
	images = e.listImages()
	_, err := vm.Delete(e.ctx, hypervisor.KeepDisks, nil).Wait(e.ctx)
	e.ok(err, "Delete with KeepDisks")
	if n := e.listImages(); e.Images != nil && len(n) < len(images) {
		e.Errorf("KeepDisks removed images: %d were there, %d are", len(images), len(n))
	}
	if len(before.Disks) > 0 && e.has(hypervisor.VolumeManage) {
		_, err = e.c.DeleteVolume(e.ctx, before.Disks[0].Volume).Wait(e.ctx)
		e.ok(err, "DeleteVolume of the kept disk %s", before.Disks[0].Volume)
		for _, d := range before.Disks[1:] {
			_, err = e.c.DeleteVolume(e.ctx, d.Volume).Wait(e.ctx)
			e.ok(err, "DeleteVolume of the kept disk %s", d.Volume)
		}
	} else {
		e.images = e.listImages() // nothing here can remove it
	}

	// A running machine is protected.
	vm = e.create("running")
	e.start(vm)
	_, err = vm.Delete(e.ctx, hypervisor.DeleteDisks, nil).Wait(e.ctx)
	e.kind(err, hypervisor.ErrInvalidState, "Delete of a running machine without Force")
	e.state(vm, hypervisor.Running, "a refused Delete")
	_, err = vm.Delete(e.ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(e.ctx)
	e.ok(err, "Delete with Force")
	if e.exists(vm.ID()) {
		e.Errorf("%s is there after Delete with Force", vm.ID())
	}
	e.proved(hypervisor.VMDelete)

	_, err = e.c.VM(e.AbsentVM).Delete(e.ctx, hypervisor.DeleteDisks, nil).Wait(e.ctx)
	e.kind(err, hypervisor.ErrNotFound, "Delete of an absent ID")

	// Start: true.
	on := e.create("start", func(s *hypervisor.VMSpec) { s.Start = true })
	e.state(on, hypervisor.Running, "CreateVM with Start")
}
