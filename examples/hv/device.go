package main

import (
	"fmt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
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
	if a.DryRun {
		return k.rehearse(a, vm)
	}
	if k.Op == "detach" {
		return only(a, vm.DetachDevice(a.ctx, hypervisor.AttachmentID(k.ID)))
	}
	d, err := done(a, vm.AttachDevice(a.ctx, k.request()))
	if err == nil {
		fmt.Fprintln(a.out, d.ID, d.Device, d.Address)
	}
	return err
}

// request is what attach asks for.
func (k *deviceCmd) request() hypervisor.DeviceRequest {
	return hypervisor.DeviceRequest{ID: hypervisor.DeviceID(k.ID), Vendor: k.Vendor, Product: k.Product, Profile: k.Profile, VirtualFunction: k.VF}
}

// rehearse looks up the device and asks for what the operation needs.
func (k *deviceCmd) rehearse(a *app, vm *hypervisor.VM) error {
	if k.Op == "attach" {
		if k.ID != "" {
			if err := a.deviceThere(hypervisor.DeviceID(k.ID)); err != nil {
				return err
			}
		}
		return a.rehearseVM(vm, "attach a host device to "+k.VM, k.request().Capability(), capability.DeviceHotplug)
	}
	i, err := vm.Info(a.ctx)
	if err != nil {
		return err
	}
	if err := part(ids(i.Devices, func(d hypervisor.AttachedDevice) hypervisor.AttachmentID { return d.ID }), "attached device", hypervisor.AttachmentID(k.ID)); err != nil {
		return err
	}
	return a.rehearseVM(vm, "detach a host device from "+k.VM, capability.DevicePCI, capability.DeviceHotplug)
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
	if a.DryRun {
		if err := a.deviceThere(hypervisor.DeviceID(k.ID)); err != nil {
			return err
		}
		return a.rehearse(hypervisor.DeviceID(k.ID).Ref(), "prepare the host device "+k.ID, capability.DevicePrepare)
	}
	return only(a, a.c.PrepareDevice(a.ctx, hypervisor.DeviceID(k.ID), p))
}
