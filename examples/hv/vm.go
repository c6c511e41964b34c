package main

import (
	"fmt"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

type createCmd struct {
	Name    string            `arg:""`
	CPUs    int               `name:"cpus" default:"1"`
	Memory  int64             `default:"512" help:"MiB."`
	Disk    []int64           `help:"Sizes of blank disks in MiB."`
	Image   string            `help:"Disk image to copy."`
	Network []string          `help:"Networks, an adapter each."`
	UEFI    bool              `name:"uefi" help:"UEFI in place of BIOS."`
	Host    string            `help:"Run it on this host."`
	Store   string            `help:"Datastore for its disks."`
	Start   bool              `help:"Start it too."`
	Token   string            `help:"Makes the call repeatable."`
	Labels  map[string]string `short:"l"`
}

func (k *createCmd) Run(a *app) error {
	h, err := a.host(k.Host)
	if err != nil {
		return err
	}
	ds, err := a.store(k.Store)
	if err != nil {
		return err
	}
	s := hypervisor.VMSpec{Name: k.Name, CPUs: k.CPUs, MemoryBytes: k.Memory * hypervisor.MiB, Start: k.Start, Token: k.Token, Labels: k.Labels,
		Placement: hypervisor.Placement{Host: h, Datastore: ds}}
	if k.UEFI {
		s.Firmware = hypervisor.FirmwareUEFI
	}
	if k.Image != "" {
		image, err := a.volume(k.Image, "")
		if err != nil {
			return err
		}
		s.Disks = append(s.Disks, hypervisor.DiskSpec{Image: image})
	}
	for _, d := range k.Disk {
		s.Disks = append(s.Disks, hypervisor.DiskSpec{SizeBytes: d * hypervisor.MiB})
	}
	for _, n := range k.Network {
		id, err := a.network(n)
		if err != nil {
			return err
		}
		s.NICs = append(s.NICs, hypervisor.NICSpec{Network: id})
	}
	if a.DryRun {
		var scope hypervisor.Ref
		if h != "" {
			scope = h.Ref()
		}
		return a.rehearse(scope, "make the machine "+k.Name, capability.VMCreate)
	}
	return a.made(a.c.CreateVM(a.ctx, s))
}

// made prints the ID of a new machine.
func (a *app) made(t *hypervisor.Task[*hypervisor.VM]) error {
	vm, err := done(a, t)
	if err == nil {
		fmt.Fprintln(a.out, "id:"+vm.ID())
	}
	return err
}

type deleteCmd struct {
	VM        string `arg:""`
	KeepDisks bool
	Force     bool `help:"Even if it runs."`
}

func (k *deleteCmd) Run(a *app) error {
	vm, err := a.vm(k.VM)
	if err != nil {
		return err
	}
	if a.DryRun {
		return a.rehearseVM(vm, fmt.Sprintf("remove the machine %s (disks kept: %v)", k.VM, k.KeepDisks), capability.VMDelete, "")
	}
	p := hypervisor.DeleteDisks
	if k.KeepDisks {
		p = hypervisor.KeepDisks
	}
	return only(a, vm.Delete(a.ctx, p, &hypervisor.DeleteOptions{Force: k.Force}))
}

// powerNeeds is the capability for each power operation.
var powerNeeds = map[string]capability.Name{
	"start": capability.VMStart, "off": capability.VMStart, "resume": capability.VMStart,
	"shutdown": capability.PowerShutdown, "reboot": capability.PowerShutdown,
	"reset": capability.PowerReset, "pause": capability.PowerPause, "suspend": capability.PowerSuspend,
}

type powerCmd struct {
	Op      string        `arg:"" enum:"start,shutdown,reboot,off,reset,pause,suspend,resume"`
	VM      string        `arg:""`
	Timeout time.Duration `default:"5m" help:"Of shutdown and reboot."`
	Force   bool          `help:"After the timeout of shutdown."`
}

func (k *powerCmd) Run(a *app) error {
	vm, err := a.vm(k.VM)
	if err != nil {
		return err
	}
	if a.DryRun {
		return a.rehearseVM(vm, k.Op+" the machine "+k.VM, powerNeeds[k.Op], "")
	}
	o := &hypervisor.ShutdownOptions{Timeout: k.Timeout, Force: k.Force}
	switch k.Op {
	case "shutdown":
		return only(a, vm.Shutdown(a.ctx, o))
	case "reboot":
		return only(a, vm.Reboot(a.ctx, o))
	}
	return only(a, map[string]func() *hypervisor.Task[hypervisor.None]{
		"start":   func() *hypervisor.Task[hypervisor.None] { return vm.Start(a.ctx) },
		"off":     func() *hypervisor.Task[hypervisor.None] { return vm.PowerOff(a.ctx) },
		"reset":   func() *hypervisor.Task[hypervisor.None] { return vm.Reset(a.ctx) },
		"pause":   func() *hypervisor.Task[hypervisor.None] { return vm.Pause(a.ctx) },
		"suspend": func() *hypervisor.Task[hypervisor.None] { return vm.Suspend(a.ctx) },
		"resume":  func() *hypervisor.Task[hypervisor.None] { return vm.Resume(a.ctx) },
	}[k.Op]())
}

type setCmd struct {
	VM        string `arg:""`
	CPUs      int    `name:"cpus"`
	Memory    int64  `help:"MiB."`
	Name      string
	NextStart bool              `help:"Let what can't be done live wait."`
	Labels    map[string]string `short:"l" help:"Replace all labels."`
}

func (k *setCmd) Run(a *app) error {
	vm, err := a.vm(k.VM)
	if err != nil {
		return err
	}
	if a.DryRun {
		return k.rehearse(a, vm)
	}
	if k.Labels != nil {
		if err := vm.SetLabels(a.ctx, k.Labels); err != nil {
			return err
		}
	}
	ch := hypervisor.Changes{CPUs: k.CPUs, MemoryBytes: k.Memory * hypervisor.MiB, Name: k.Name, NextStart: k.NextStart}
	if ch == (hypervisor.Changes{NextStart: k.NextStart}) && k.Labels != nil {
		return nil
	}
	return only(a, vm.Reconfigure(a.ctx, ch))
}

// rehearse asks for the capabilities that the changes need in the machine's
// present state.
func (k *setCmd) rehearse(a *app, vm *hypervisor.VM) error {
	i, err := vm.Info(a.ctx)
	if err != nil {
		return err
	}
	live := (i.State == hypervisor.StateRunning || i.State == hypervisor.StatePaused) && !k.NextStart
	var needs []capability.Name
	if k.Labels != nil {
		needs = append(needs, capability.Labels)
	}
	if k.CPUs != 0 || k.Memory != 0 || k.Name != "" {
		needs = append(needs, capability.Reconfigure)
	}
	if live && k.CPUs != 0 {
		needs = append(needs, capability.CPUHotAdd)
	}
	if live && k.Memory != 0 {
		needs = append(needs, capability.MemoryHotAdd)
	}
	return a.rehearse(vm.Ref(), "change the machine "+k.VM, needs...)
}
