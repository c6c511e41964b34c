package hypervisortest

import (
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// disks: attach, grow, detach. Also adapters.
var disks = area{"disks", []row{
	{name: "attach-and-detach", proves: caps{capability.DiskAttach}, run: disksAttach},
	{name: "grow", proves: caps{capability.DiskGrow}, needs: caps{capability.DiskAttach}, run: disksGrow},
	{name: "nic", proves: caps{capability.NICAttach}, run: disksNIC},
	{name: "hot-plug", proves: caps{capability.DiskHotplug}, run: disksHot},
	{name: "hot-grow", proves: caps{capability.DiskGrowLive}, needs: caps{capability.DiskHotplug}, run: disksHotGrow},
	{name: "hot-nic", proves: caps{capability.NICHotplug}, run: disksHotNIC},
}}

func (e *env) attachDisk(vm *hypervisor.VM, how string) hypervisor.DiskInfo {
	e.Helper()
	n := len(e.info(vm).Disks)
	d := must(e, vm.AttachDisk(e.ctx, hypervisor.DiskSpec{SizeBytes: 8 * hypervisor.MiB}), "AttachDisk (%s)", how)
	if d.ID == "" || d.SizeBytes != 8*hypervisor.MiB || d.Volume == "" {
		e.Errorf("AttachDisk (%s) made %+v, want 8 MiB with ID and volume", how, d)
	}
	if i := e.info(vm); len(i.Disks) != n+1 {
		e.Errorf("after AttachDisk (%s) there are %d disks, want %d", how, len(i.Disks), n+1)
	}
	return d
}

func (e *env) detachDisk(vm *hypervisor.VM, d hypervisor.DiskInfo, how string) {
	e.Helper()
	n := len(e.info(vm).Disks)
	must(e, vm.DetachDisk(e.ctx, d.ID, hypervisor.DeleteDisks), "DetachDisk (%s)", how)
	if i := e.info(vm); len(i.Disks) != n-1 {
		e.Errorf("after DetachDisk (%s) there are %d disks, want %d", how, len(i.Disks), n-1)
	}
	e.kind(errOf(e, vm.DetachDisk(e.ctx, d.ID, hypervisor.DeleteDisks)), hypervisor.ErrNotFound, "DetachDisk again (%s)", how)
}

// grow enlarges a disk of 8 MiB to 16 MiB.
func (e *env) grow(vm *hypervisor.VM, d hypervisor.DiskInfo, how string) {
	e.Helper()
	const size = 16 * hypervisor.MiB
	for range 2 {
		must(e, vm.GrowDisk(e.ctx, d.ID, size), "GrowDisk (%s)", how)
	}
	for _, x := range e.info(vm).Disks {
		if x.ID == d.ID && x.SizeBytes != size {
			e.Errorf("after GrowDisk (%s) the disk has %d bytes, want %d", how, x.SizeBytes, size)
		}
	}
	e.kind(errOf(e, vm.GrowDisk(e.ctx, d.ID, 4*hypervisor.MiB)), hypervisor.ErrInvalidArgument, "GrowDisk to less (%s)", how)
}

func disksAttach(e *env) {
	vm := e.create("vm")
	images := e.listImages()
	e.detachDisk(vm, e.attachDisk(vm, "off"), "off")
	if a := e.added(images); len(a) > 0 {
		e.Errorf("DetachDisk with DeleteDisks left %v", a)
	}
}

func disksGrow(e *env) {
	vm := e.create("vm")
	e.grow(vm, e.attachDisk(vm, "off"), "off")
}

func disksNIC(e *env) {
	const mac = "52:54:00:ab:cd:01"
	vm := e.create("vm")
	before := e.info(vm).NICs
	nic := must(e, vm.AttachNIC(e.ctx, hypervisor.NICSpec{MAC: mac}), "AttachNIC")
	after := e.info(vm).NICs
	if !slices.ContainsFunc(after, func(n hypervisor.NICInfo) bool { return n.ID == nic.ID && strings.EqualFold(n.MAC, mac) }) {
		e.Errorf("after AttachNIC there is no adapter %s with that MAC: %+v", nic.ID, after)
	}
	must(e, vm.DetachNIC(e.ctx, nic.ID), "DetachNIC")
	if n := len(e.info(vm).NICs); n != len(before) {
		e.Errorf("after DetachNIC there are %d adapters, want %d", n, len(before))
	}
	e.kind(errOf(e, vm.DetachNIC(e.ctx, nic.ID)), hypervisor.ErrNotFound, "DetachNIC again")
}

func disksHot(e *env) {
	vm := e.running()
	e.detachDisk(vm, e.attachDisk(vm, "running"), "running")
	e.state(vm, hypervisor.StateRunning, "hot plug")
}

func disksHotGrow(e *env) {
	vm := e.running()
	d := e.attachDisk(vm, "running")
	e.grow(vm, d, "running")
	e.detachDisk(vm, d, "running")
	e.state(vm, hypervisor.StateRunning, "hot plug")
}

func disksHotNIC(e *env) {
	vm := e.running()
	nic := must(e, vm.AttachNIC(e.ctx, hypervisor.NICSpec{}), "AttachNIC (running)")
	must(e, vm.DetachNIC(e.ctx, nic.ID), "DetachNIC (running)")
	e.state(vm, hypervisor.StateRunning, "hot plug")
}
