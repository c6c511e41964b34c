package main

import (
	"fmt"

	"github.com/anyvisor/anyvisor/hypervisor"
)

type deviceCmd struct {
	Op      string `arg:"" enum:"attach,detach"`
	VM      string `arg:""`
	ID      string `help:"Device to attach, or attachment to detach."`
	Vendor  string
	Product string
	Profile string `help:"vGPU profile."`
	VF      bool   `name:"vf" help:"An SR-IOV function."`
}

func (k *deviceCmd) Run(a *app) error {
	vm, err := a.vm(k.VM)
	if err != nil {
		return err
	}
	if k.Op == "detach" {
		return only(a, vm.DetachDevice(a.ctx, hypervisor.AttachmentID(k.ID)))
	}
	d, err := done(a, vm.AttachDevice(a.ctx, hypervisor.DeviceRequest{ID: hypervisor.DeviceID(k.ID), Vendor: k.Vendor, Product: k.Product,
		Profile: k.Profile, VirtualFunction: k.VF}))
	if err == nil {
		fmt.Fprintln(a.out, d.ID, d.Device, d.Address)
	}
	return err
}

type prepareCmd struct {
	ID      string `arg:"" help:"Device."`
	Release bool   `help:"Give it back to the host's own driver."`
	VFs     *int   `name:"vfs" help:"Have so many SR-IOV functions; without it the device is made assignable."`
}

func (k *prepareCmd) Run(a *app) error {
	p := hypervisor.DevicePreparation{VFs: k.VFs}
	if k.VFs == nil {
		on := !k.Release
		p.Passthrough = &on
	}
	return only(a, a.c.PrepareDevice(a.ctx, hypervisor.DeviceID(k.ID), p))
}
