package hypervisortest

import (
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// lifecycle: create and delete, tokens, disk policies, repeated calls.
var lifecycle = area{"lifecycle", []row{
	{name: "token-repeats", run: lifecycleToken},
	{name: "token-from-a-second-client", run: lifecycleTokenElsewhere},
	{name: "start-at-once", run: lifecycleStart},
	{name: "delete-with-disks", proves: caps{capability.VMDelete}, run: lifecycleDelete},
	{name: "delete-keeps-disks", proves: caps{capability.VMDelete}, run: lifecycleKeepDisks},
	{name: "running-is-protected", proves: caps{capability.VMDelete}, run: lifecycleRunning},
	{name: "delete-absent", run: lifecycleDeleteAbsent},
}}

// lifecycleTokenSpec describes a machine with a token.
func lifecycleTokenSpec(e *env) hypervisor.VMSpec {
	s := e.Spec(e.name("token"))
	s.Token = "tok-" + e.name("t")
	return s
}

func lifecycleToken(e *env) {
	s := lifecycleTokenSpec(e)
	var first hypervisor.VMID
	for n := range e.site.s.h.Repeat {
		vm := must(e, e.c.CreateVM(e.ctx, s), "CreateVM with token, call %d", n+1)
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
}

func lifecycleTokenElsewhere(e *env) {
	if e.Reopen == nil {
		e.unshown("the harness opens no second Client")
		return
	}
	s := lifecycleTokenSpec(e)
	first := must(e, e.c.CreateVM(e.ctx, s), "CreateVM with token")
	e.keep(first.ID())
	c2, err := e.Reopen(e.ctx)
	e.ok(err, "Reopen")
	defer func() { e.ok(c2.Close(), "Close of the second Client") }()
	vm := must(e, c2.CreateVM(e.ctx, s), "CreateVM with token from a second Client")
	if vm.ID() != first.ID() {
		e.keep(vm.ID())
		e.Errorf("a second Client made %s with the same token, the first made %s", vm.ID(), first.ID())
	}
}

func lifecycleStart(e *env) {
	on := e.create("start", func(s *hypervisor.VMSpec) { s.Start = true })
	e.state(on, hypervisor.StateRunning, "CreateVM with Start")
}

// Nothing is left, and the second call reports that.
func lifecycleDelete(e *env) {
	repeat := e.site.s.h.Repeat
	for range max(repeat/3, 1) {
		vm := e.create("gone")
		must(e, vm.Delete(e.ctx, hypervisor.DeleteDisks, nil), "Delete")
		if e.exists(vm.ID()) {
			e.Errorf("%s is there after Delete", vm.ID())
		}
		for range repeat {
			e.kind(errOf(e, vm.Delete(e.ctx, hypervisor.DeleteDisks, nil)), hypervisor.ErrNotFound, "Delete of a machine that is gone")
		}
	}
	if a := e.added(e.images); len(a) > 0 {
		e.Errorf("DeleteDisks left the images %v", a)
	}
}

func lifecycleKeepDisks(e *env) {
	vm := e.create("kept")
	before, images := e.info(vm), e.listImages()
	must(e, vm.Delete(e.ctx, hypervisor.KeepDisks, nil), "Delete with KeepDisks")
	if n := e.listImages(); e.Images != nil && len(n) < len(images) {
		e.Errorf("KeepDisks removed images: %d were there, %d are", len(images), len(n))
	}
	e.removeVolumes(before.Disks)
}

// removeVolumes removes kept disks.
func (e *env) removeVolumes(disks []hypervisor.DiskInfo) {
	e.Helper()
	if !e.has(capability.VolumeManage) {
		e.images = e.listImages() // nothing here can remove them
		return
	}
	for _, d := range disks {
		must(e, e.c.DeleteVolume(e.ctx, d.Volume), "DeleteVolume of the kept disk %s", d.Volume)
	}
}

func lifecycleRunning(e *env) {
	vm := e.create("running")
	e.start(vm)
	e.kind(errOf(e, vm.Delete(e.ctx, hypervisor.DeleteDisks, nil)), hypervisor.ErrInvalidState, "Delete of a running machine without Force")
	e.state(vm, hypervisor.StateRunning, "a refused Delete")
	must(e, vm.Delete(e.ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}), "Delete with Force")
	if e.exists(vm.ID()) {
		e.Errorf("%s is there after Delete with Force", vm.ID())
	}
}

func lifecycleDeleteAbsent(e *env) {
	err := errOf(e, e.c.VM(e.AbsentVM).Delete(e.ctx, hypervisor.DeleteDisks, nil))
	e.kind(err, hypervisor.ErrNotFound, "Delete of an absent ID")
}
