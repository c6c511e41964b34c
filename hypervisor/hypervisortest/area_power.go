package hypervisortest

import (
	"context"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

type ctxT = context.Context

// power: every operation from every state, repeated; memory survives pause
// and suspend.
func power(e *env) {
	vm := e.create("vm")
	do := func(what string, t *hypervisor.Task[hypervisor.None]) {
		e.Helper()
		_, err := t.Wait(e.ctx)
		e.ok(err, "%s", what)
	}
	wrong := func(what string, t *hypervisor.Task[hypervisor.None]) {
		e.Helper()
		_, err := t.Wait(e.ctx)
		e.oneOf(err, what, hypervisor.ErrInvalidState, hypervisor.ErrUnsupported)
	}
	// From Off.
	do("PowerOff of a machine that is off", vm.PowerOff(e.ctx))
	wrong("Resume of a machine that is off", vm.Resume(e.ctx))
	wrong("Pause of a machine that is off", vm.Pause(e.ctx))
	wrong("Suspend of a machine that is off", vm.Suspend(e.ctx))
	wrong("Reset of a machine that is off", vm.Reset(e.ctx))
	e.state(vm, hypervisor.Off, "operations that make no sense")

	e.start(vm)
	e.state(vm, hypervisor.Running, "Start")
	if e.has(hypervisor.BootDirect) && e.Spec("x").Boot != nil {
		e.proved(hypervisor.BootDirect)
	}
	do("Start of a running machine", vm.Start(e.ctx))
	do("Resume of a running machine", vm.Resume(e.ctx))
	if e.info(vm).Host == "" {
		e.Errorf("a running machine has no host")
	}

	if e.has(hypervisor.PowerPause) {
		n := e.uptime(vm)
		for range 2 {
			do("Pause", vm.Pause(e.ctx))
		}
		e.state(vm, hypervisor.Paused, "Pause")
		wrong("Start of a paused machine", vm.Start(e.ctx))
		do("Resume from Paused", vm.Resume(e.ctx))
		e.state(vm, hypervisor.Running, "Resume")
		e.sameBoot(vm, n, "Pause and Resume")
		e.proved(hypervisor.PowerPause)
	}
	if e.has(hypervisor.PowerSuspend) {
		n := e.uptime(vm)
		for range 2 {
			do("Suspend", vm.Suspend(e.ctx))
		}
		e.state(vm, hypervisor.Suspended, "Suspend")
		wrong("Pause of a suspended machine", vm.Pause(e.ctx))
		do("Resume from Suspended", vm.Resume(e.ctx))
		e.state(vm, hypervisor.Running, "Resume")
		e.sameBoot(vm, n, "Suspend and Resume")
		do("Suspend again", vm.Suspend(e.ctx))
		do("Start from Suspended", vm.Start(e.ctx))
		e.state(vm, hypervisor.Running, "Start of a suspended machine")
		e.sameBoot(vm, n, "Suspend and Start")
		do("Suspend a third time", vm.Suspend(e.ctx))
		do("PowerOff of a suspended machine", vm.PowerOff(e.ctx))
		e.state(vm, hypervisor.Off, "PowerOff of a suspended machine")
		e.start(vm)
		e.proved(hypervisor.PowerSuspend)
	}
	if e.has(hypervisor.PowerReset) {
		do("Reset", vm.Reset(e.ctx))
		e.state(vm, hypervisor.Running, "Reset")
		e.booted(vm)
		e.proved(hypervisor.PowerReset)
	}
	if e.has(hypervisor.PowerShutdown) {
		s, err := vm.Supports(e.ctx, hypervisor.PowerShutdown)
		e.ok(err, "Supports(%s) of a running machine", hypervisor.PowerShutdown)
		_, err = vm.Shutdown(e.ctx, &hypervisor.ShutdownOptions{Timeout: 2 * time.Minute}).Wait(e.ctx)
		if s.Level == hypervisor.No {
			e.refused(err, hypervisor.PowerShutdown, hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: string(vm.ID())})
			do("PowerOff", vm.PowerOff(e.ctx))
		} else {
			e.ok(err, "Shutdown")
			e.proved(hypervisor.PowerShutdown)
		}
		e.state(vm, hypervisor.Off, "Shutdown")
		do("Shutdown of a machine that is off", vm.Shutdown(e.ctx, nil))
	} else {
		do("PowerOff", vm.PowerOff(e.ctx))
	}
	e.state(vm, hypervisor.Off, "power off")
	for range e.s.h.Repeat {
		do("PowerOff again", vm.PowerOff(e.ctx))
	}

	absent := e.c.VM(e.AbsentVM)
	for what, t := range map[string]*hypervisor.Task[hypervisor.None]{
		"Start": absent.Start(e.ctx), "PowerOff": absent.PowerOff(e.ctx), "Pause": absent.Pause(e.ctx), "Reset": absent.Reset(e.ctx),
	} {
		_, err := t.Wait(e.ctx)
		e.oneOf(err, what+" of an absent ID", hypervisor.ErrNotFound, hypervisor.ErrUnsupported)
	}
}

// reconfigure: sizes, names, hot add, dynamic memory.
func reconfigure(e *env) {
	vm := e.create("vm")
	change := func(ch hypervisor.Changes) error {
		_, err := vm.Reconfigure(e.ctx, ch).Wait(e.ctx)
		return err
	}
	i := e.info(vm)
	if e.has(hypervisor.Reconfigure) {
		more := i.MemoryBytes + 64*hypervisor.MiB
		text := "new <text> & \"more\""
		name := e.name("renamed")
		e.ok(change(hypervisor.Changes{CPUs: 2, MemoryBytes: more, Name: name, Description: &text}), "Reconfigure of a machine that is off")
		n := e.info(vm)
		if n.CPUs != 2 || n.MemoryBytes != more || n.Name != name || n.Description != text {
			e.Errorf("after Reconfigure: %d CPUs, %d bytes, %q, %q; want 2, %d, %q, %q", n.CPUs, n.MemoryBytes, n.Name, n.Description, more, name, text)
		}
		if len(n.Disks) != len(i.Disks) || len(n.NICs) != len(i.NICs) {
			e.Errorf("Reconfigure changed disks or NICs: %+v", n)
		}
		e.oneOf(change(hypervisor.Changes{CPUs: 100000}), "Reconfigure to 100,000 CPUs", hypervisor.ErrInvalidArgument, hypervisor.ErrExhausted)
		e.oneOf(change(hypervisor.Changes{MemoryBytes: 1 << 60}), "Reconfigure to 1 EiB", hypervisor.ErrInvalidArgument, hypervisor.ErrExhausted)
		if n = e.info(vm); n.CPUs != 2 || n.MemoryBytes != more {
			e.Errorf("refused changes were made: %d CPUs, %d bytes", n.CPUs, n.MemoryBytes)
		}
		e.ok(change(hypervisor.Changes{CPUs: 1, MemoryBytes: i.MemoryBytes}), "Reconfigure back")
		e.proved(hypervisor.Reconfigure)
	}
	_, err := e.c.VM(e.AbsentVM).Reconfigure(e.ctx, hypervisor.Changes{CPUs: 1}).Wait(e.ctx)
	e.oneOf(err, "Reconfigure of an absent ID", hypervisor.ErrNotFound, hypervisor.ErrUnsupported)

	if e.has(hypervisor.MemoryDynamic) {
		r := &hypervisor.MemoryRange{MinBytes: i.MemoryBytes / 2 / hypervisor.MiB * hypervisor.MiB, MaxBytes: i.MemoryBytes}
		vm := e.create("dynamic", func(s *hypervisor.VMSpec) { s.DynamicMemory = r })
		if n := e.info(vm); n.DynamicMemory == nil || *n.DynamicMemory != *r {
			e.Errorf("the memory range is %+v, asked for %+v", n.DynamicMemory, *r)
		}
		e.proved(hypervisor.MemoryDynamic)
	}
	hot := e.create("hot", func(s *hypervisor.VMSpec) {
		if e.has(hypervisor.CPUHotAdd) {
			s.MaxCPUs = 2
		}
		if e.has(hypervisor.MemoryHotAdd) {
			s.MaxMemoryBytes = s.MemoryBytes + 256*hypervisor.MiB
		}
	})
	e.start(hot)
	i = e.info(hot)
	if e.has(hypervisor.CPUHotAdd) {
		_, err := hot.Reconfigure(e.ctx, hypervisor.Changes{CPUs: 2}).Wait(e.ctx)
		e.ok(err, "hot add of a CPU")
		if n := e.info(hot); n.CPUs != 2 {
			e.Errorf("after hot add the machine has %d CPUs, want 2", n.CPUs)
		}
		e.proved(hypervisor.CPUHotAdd)
	}
	if e.has(hypervisor.MemoryHotAdd) {
		_, err := hot.Reconfigure(e.ctx, hypervisor.Changes{MemoryBytes: i.MemoryBytes + 128*hypervisor.MiB}).Wait(e.ctx)
		e.ok(err, "hot add of memory")
		if n := e.info(hot); n.MemoryBytes != i.MemoryBytes+128*hypervisor.MiB {
			e.Errorf("after hot add the machine has %d bytes, want %d", n.MemoryBytes, i.MemoryBytes+128*hypervisor.MiB)
		}
		e.proved(hypervisor.MemoryHotAdd)
	}
	e.state(hot, hypervisor.Running, "hot add")
}

// disks: attach, grow, detach; adapters too.
func disks(e *env) {
	vm := e.create("vm")
	base := e.info(vm)
	try := func(vm *hypervisor.VM, how string) hypervisor.DiskInfo {
		e.Helper()
		n := len(e.info(vm).Disks)
		d, err := vm.AttachDisk(e.ctx, hypervisor.DiskSpec{SizeBytes: 8 * hypervisor.MiB}).Wait(e.ctx)
		e.ok(err, "AttachDisk (%s)", how)
		if d.ID == "" || d.SizeBytes != 8*hypervisor.MiB || d.Volume == "" {
			e.Errorf("AttachDisk (%s) made %+v, want 8 MiB with ID and volume", how, d)
		}
		if i := e.info(vm); len(i.Disks) != n+1 {
			e.Errorf("after AttachDisk (%s) there are %d disks, want %d", how, len(i.Disks), n+1)
		}
		return d
	}
	detach := func(vm *hypervisor.VM, d hypervisor.DiskInfo, how string) {
		e.Helper()
		n := len(e.info(vm).Disks)
		_, err := vm.DetachDisk(e.ctx, d.ID, hypervisor.DeleteDisks).Wait(e.ctx)
		e.ok(err, "DetachDisk (%s)", how)
		if i := e.info(vm); len(i.Disks) != n-1 {
			e.Errorf("after DetachDisk (%s) there are %d disks, want %d", how, len(i.Disks), n-1)
		}
		_, err = vm.DetachDisk(e.ctx, d.ID, hypervisor.DeleteDisks).Wait(e.ctx)
		e.kind(err, hypervisor.ErrNotFound, "DetachDisk again (%s)", how)
	}
	grow := func(vm *hypervisor.VM, d hypervisor.DiskInfo, size int64, how string) {
		e.Helper()
		for range 2 {
			_, err := vm.GrowDisk(e.ctx, d.ID, size).Wait(e.ctx)
			e.ok(err, "GrowDisk (%s)", how)
		}
		for _, x := range e.info(vm).Disks {
			if x.ID == d.ID && x.SizeBytes != size {
				e.Errorf("after GrowDisk (%s) the disk has %d bytes, want %d", how, x.SizeBytes, size)
			}
		}
		_, err := vm.GrowDisk(e.ctx, d.ID, 4*hypervisor.MiB).Wait(e.ctx)
		e.kind(err, hypervisor.ErrInvalidArgument, "GrowDisk to less (%s)", how)
	}
	if e.has(hypervisor.DiskAttach) {
		images := e.listImages()
		d := try(vm, "off")
		if e.has(hypervisor.DiskGrow) {
			grow(vm, d, 16*hypervisor.MiB, "off")
			e.proved(hypervisor.DiskGrow)
		}
		detach(vm, d, "off")
		if a := e.added(images); len(a) > 0 {
			e.Errorf("DetachDisk with DeleteDisks left %v", a)
		}
		e.proved(hypervisor.DiskAttach)
	}
	if e.has(hypervisor.NICAttach) {
		id, err := vm.AttachNIC(e.ctx, hypervisor.NICSpec{MAC: "52:54:00:ab:cd:01"}).Wait(e.ctx)
		e.ok(err, "AttachNIC")
		found := false
		for _, n := range e.info(vm).NICs {
			found = found || n.ID == id && equalFold(n.MAC, "52:54:00:ab:cd:01")
		}
		if !found {
			e.Errorf("after AttachNIC there is no adapter %s with that MAC: %+v", id, e.info(vm).NICs)
		}
		_, err = vm.DetachNIC(e.ctx, id).Wait(e.ctx)
		e.ok(err, "DetachNIC")
		if n := len(e.info(vm).NICs); n != len(base.NICs) {
			e.Errorf("after DetachNIC there are %d adapters, want %d", n, len(base.NICs))
		}
		_, err = vm.DetachNIC(e.ctx, id).Wait(e.ctx)
		e.kind(err, hypervisor.ErrNotFound, "DetachNIC again")
		e.proved(hypervisor.NICAttach)
	}
	hotDisk, hotGrow, hotNIC := e.has(hypervisor.DiskHotplug), e.has(hypervisor.DiskGrowLive), e.has(hypervisor.NICHotplug)
	if !hotDisk && !hotGrow && !hotNIC {
		return
	}
	e.start(vm)
	if hotDisk {
		d := try(vm, "running")
		if hotGrow {
			grow(vm, d, 16*hypervisor.MiB, "running")
			e.proved(hypervisor.DiskGrowLive)
		}
		detach(vm, d, "running")
		e.proved(hypervisor.DiskHotplug)
	}
	if hotNIC {
		id, err := vm.AttachNIC(e.ctx, hypervisor.NICSpec{}).Wait(e.ctx)
		e.ok(err, "AttachNIC (running)")
		_, err = vm.DetachNIC(e.ctx, id).Wait(e.ctx)
		e.ok(err, "DetachNIC (running)")
		e.proved(hypervisor.NICHotplug)
	}
	e.state(vm, hypervisor.Running, "hot plug")
}
