package main

import (
	"fmt"

	"github.com/anyvisor/anyvisor/hypervisor"
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
	if k.Op == "detach" {
		return only(a, vm.DetachNIC(a.ctx, hypervisor.NICID(k.NIC)))
	}
	id, err := done(a, vm.AttachNIC(a.ctx, hypervisor.NICSpec{Network: hypervisor.NetworkID(k.Network)}))
	if err == nil {
		fmt.Fprintln(a.out, id)
	}
	return err
}

type volumeCmd struct {
	Op    string `arg:"" enum:"list,create,delete,needs"`
	Name  string `arg:"" optional:"" help:"Of a new image; ID of one to delete; the machine for needs, which lists what its disks stand on and who else does."`
	Store string
	Size  int64 `help:"MiB."`
}

func (k *volumeCmd) Run(a *app) error {
	switch k.Op {
	case "create":
		id, err := done(a, a.c.CreateVolume(a.ctx, hypervisor.VolumeSpec{Name: k.Name, Datastore: hypervisor.DatastoreID(k.Store), SizeBytes: k.Size * hypervisor.MiB}))
		if err == nil {
			fmt.Fprintln(a.out, id)
		}
		return err
	case "delete":
		return only(a, a.c.DeleteVolume(a.ctx, hypervisor.VolumeID(k.Name)))
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
		for _, v := range d.Volumes {
			rows = append(rows, []any{v.Volume, v.Parent, v.Depth, v.Dependants})
		}
		return a.print(d, "VOLUME PARENT DEPTH DEPENDANTS", rows)
	}
	all, err := hypervisor.Collect(a.c.Volumes(a.ctx, hypervisor.DatastoreID(k.Store)))
	if err != nil {
		return err
	}
	var rows [][]any
	for _, v := range all {
		rows = append(rows, []any{v.Name, v.Datastore, mib(v.SizeBytes), mib(v.UsedBytes), v.ID})
	}
	return a.print(all, "NAME STORE SIZE USED ID", rows)
}
