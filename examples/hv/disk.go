package main

import (
	"fmt"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

type diskCmd struct {
	Op     string `arg:"" enum:"attach,grow,detach"`
	VM     string `arg:""`
	Disk   string `arg:"" optional:"" help:"ID of the disk, for grow and detach."`
	Size   int64  `help:"MiB."`
	Delete bool   `help:"Remove the image of a detached disk."`
}

func (k *diskCmd) Run(a *app) error {
	vm, err := a.vm(k.VM)
	if err != nil {
		return err
	}
	if a.DryRun {
		return k.rehearse(a, vm)
	}
	switch k.Op {
	case "attach":
		d, err := done(a, vm.AttachDisk(a.ctx, hypervisor.DiskSpec{SizeBytes: k.Size * hypervisor.MiB}))
		if err == nil {
			fmt.Fprintln(a.out, d.ID, d.Volume)
		}
		return err
	case "grow":
		return only(a, vm.GrowDisk(a.ctx, hypervisor.DiskID(k.Disk), k.Size*hypervisor.MiB))
	}
	p := hypervisor.KeepDisks
	if k.Delete {
		p = hypervisor.DeleteDisks
	}
	return only(a, vm.DetachDisk(a.ctx, hypervisor.DiskID(k.Disk), p))
}

// rehearse looks up the disk and asks for what the operation needs.
func (k *diskCmd) rehearse(a *app, vm *hypervisor.VM) error {
	need, live := capability.DiskAttach, capability.DiskHotplug
	if k.Op == "grow" {
		need, live = capability.DiskGrow, capability.DiskGrowLive
	}
	if k.Op != "attach" {
		i, err := vm.Info(a.ctx)
		if err != nil {
			return err
		}
		if err := part(ids(i.Disks, func(d hypervisor.DiskInfo) hypervisor.DiskID { return d.ID }), "disk", hypervisor.DiskID(k.Disk)); err != nil {
			return err
		}
	}
	return a.rehearseVM(vm, fmt.Sprintf("%s a disk of %s", k.Op, k.VM), need, live)
}

type nicCmd struct {
	Op      string `arg:"" enum:"attach,detach"`
	VM      string `arg:""`
	NIC     string `arg:"" optional:"" help:"ID of the adapter, for detach."`
	Network string `help:"For attach; empty for the default one."`
}

func (k *nicCmd) Run(a *app) error {
	vm, err := a.vm(k.VM)
	if err != nil {
		return err
	}
	if a.DryRun {
		return k.rehearse(a, vm)
	}
	if k.Op == "detach" {
		return only(a, vm.DetachNIC(a.ctx, hypervisor.NICID(k.NIC)))
	}
	network, err := a.network(k.Network)
	if err != nil {
		return err
	}
	nic, err := done(a, vm.AttachNIC(a.ctx, hypervisor.NICSpec{Network: network}))
	if err == nil {
		fmt.Fprintln(a.out, nic.ID)
	}
	return err
}

// rehearse looks up the adapter or the network and asks for what the operation
// needs.
func (k *nicCmd) rehearse(a *app, vm *hypervisor.VM) error {
	if k.Op == "attach" {
		if _, err := a.network(k.Network); err != nil {
			return err
		}
	} else {
		i, err := vm.Info(a.ctx)
		if err != nil {
			return err
		}
		if err := part(ids(i.NICs, func(n hypervisor.NICInfo) hypervisor.NICID { return n.ID }), "network adapter", hypervisor.NICID(k.NIC)); err != nil {
			return err
		}
	}
	return a.rehearseVM(vm, fmt.Sprintf("%s a network adapter of %s", k.Op, k.VM), capability.NICAttach, capability.NICHotplug)
}

type volumeCmd struct {
	Op    string `arg:"" enum:"list,create,delete,needs"`
	Name  string `arg:"" optional:"" help:"Name of a new image, or of one to delete; the machine for needs, which lists what its disks depend on and who else does."`
	Store string `help:"Datastore; for list and delete all of them by default."`
	Size  int64  `help:"MiB."`
}

func (k *volumeCmd) Run(a *app) error {
	ds, err := a.store(k.Store)
	if err != nil {
		return err
	}
	switch k.Op {
	case "create":
		if a.DryRun {
			return a.rehearse(hypervisor.Ref{}, "make the disk image "+k.Name, capability.VolumeManage)
		}
		id, err := done(a, a.c.CreateVolume(a.ctx, hypervisor.VolumeSpec{Name: k.Name, Datastore: ds, SizeBytes: k.Size * hypervisor.MiB}))
		if err == nil {
			fmt.Fprintln(a.out, "id:"+id)
		}
		return err
	case "delete":
		id, err := a.volume(k.Name, ds)
		if err != nil {
			return err
		}
		if a.DryRun {
			return a.rehearse(hypervisor.Ref{}, "remove the disk image "+k.Name, capability.VolumeManage)
		}
		return only(a, a.c.DeleteVolume(a.ctx, id))
	case "needs":
		vm, err := a.vm(k.Name)
		if err != nil {
			return err
		}
		d, err := vm.Dependencies(a.ctx)
		if err != nil {
			return err
		}
		var rows [][]any
		for _, b := range forest(d.Volumes, func(v hypervisor.VolumeDependency) (id, parent hypervisor.VolumeID) { return v.Volume, v.Parent }) {
			v := b.item
			rows = append(rows, []any{indent(b.depth, string(v.Volume)), v.Disk, mib(v.SizeBytes), strings.Join(ids(v.Dependants, hypervisor.Ref.String), ", ")})
		}
		return a.print(d, "VOLUME DISK SIZE DEPENDANTS", rows)
	}
	all, err := hypervisor.Collect(a.c.Volumes(a.ctx, ds))
	if err != nil {
		return err
	}
	var rows [][]any
	for _, b := range forest(all, func(v hypervisor.VolumeInfo) (id, parent hypervisor.VolumeID) { return v.ID, v.Parent }) {
		v := b.item
		rows = append(rows, []any{indent(b.depth, v.Name), v.Datastore, mib(v.SizeBytes), mib(v.UsedBytes), "id:" + v.ID})
	}
	return a.print(all, "NAME STORE SIZE USED ID", rows)
}
