//go:build cgo

package libxl

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/lab/xenlab"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// TestPassthrough gives real PCI functions to PV machines, whose guests see
// them, and takes them back.
func TestPassthrough(t *testing.T) {
	for _, p := range []struct {
		address, guest string
		class          hypervisor.DeviceClass
		driver         string // after it was given back
	}{
		{xenlab.RNG, "0x1af4:0x1044", "", "virtio-pci"},
		// dom0 has no driver for it.
		{xenlab.Display, "0x1234:0x1111", hypervisor.ClassDisplay, stubDriver},
	} {
		t.Run(p.address, func(t *testing.T) {
			w := newWorld(t, false)
			w.passthrough(p.address, p.guest, p.class, p.driver)
		})
	}
	w := newWorld(t, false)
	vm := w.create(pvh, "nodevice")
	if s, err := vm.Supports(w.ctx, capability.DevicePCI); err != nil || s.Level != hypervisor.LevelNo || s.Reason != hypervisor.ReasonPlatform {
		t.Errorf("passthrough for a PVH machine: %+v, %v", s, err)
	}
}

func (w *world) passthrough(address, seen string, class hypervisor.DeviceClass, driver string) {
	host := w.id(w.l.Hosts[0])
	vm := w.createOn(pv, "owner", host)
	device := func() hypervisor.DeviceInfo {
		w.Helper()
		all, err := hypervisor.Collect(w.c.Devices(w.ctx, &hypervisor.DeviceFilter{ID: libvirtx.DeviceID(host, address)}))
		if err != nil || len(all) != 1 {
			w.Fatalf("device %s: %+v, %v", address, all, err)
		}
		return all[0]
	}
	d := device()
	req := hypervisor.DeviceRequest{Vendor: d.Vendor, Product: d.Product}
	if class != "" {
		if req = (hypervisor.DeviceRequest{Class: class}); d.Class != class {
			w.Errorf("device %s is of class %s, want %s", address, d.Class, class)
		}
	}
	var u *hypervisor.UnsupportedError
	if d.Driver == stubDriver {
		w.Logf("%s is prepared already, by an earlier run in this lab", address)
	} else if _, err := vm.AttachDevice(w.ctx, hypervisor.DeviceRequest{ID: d.ID}).Wait(w.ctx); !errors.As(err, &u) || u.Support.Reason != hypervisor.ReasonDevicePrepare || d.Reason != u.Support.Reason {
		w.Errorf("AttachDevice of a device that the control domain has: %v, want %s", err, hypervisor.ReasonDevicePrepare)
	}
	on, off := true, false
	for range 2 {
		w.do(w.c.PrepareDevice(w.ctx, d.ID, hypervisor.DevicePreparation{Passthrough: &on}), "PrepareDevice")
	}
	if d = device(); !d.Assignable || d.Driver != stubDriver {
		w.Errorf("the prepared device is %+v", d)
	}
	a, err := vm.AttachDevice(w.ctx, req).Wait(w.ctx)
	w.ok(err, "AttachDevice")
	if a.Address != address || a.Device != d.ID {
		w.Errorf("attached %+v, want %s", a, address)
	}
	w.do(vm.Start(w.ctx), "Start with a device")
	if list, err := w.l.Hosts[0].Run(w.ctx, "xl pci-list owner"); err != nil || !strings.Contains(list, address) {
		w.Errorf("xl pci-list: %q, %v; want %s", list, err, address)
	}
	n := w.goesOn(vm, 0, "Start with a device")
	w.goesOn(vm, n, "Start with a device")
	if console, err := w.l.Hosts[0].ReadConsole("owner"); err != nil || !strings.Contains(string(console), seen) {
		w.Errorf("the guest does not see %s (%v): %s", seen, err, console)
	}
	w.owned(vm, device(), a)
	w.do(vm.PowerOff(w.ctx), "PowerOff")
	w.do(vm.DetachDevice(w.ctx, a.ID), "DetachDevice")
	if i, err := vm.Info(w.ctx); err != nil || len(i.Devices) != 0 {
		w.Errorf("after DetachDevice the machine has %+v (%v)", i.Devices, err)
	}
	back := w.c.PrepareDevice(w.ctx, d.ID, hypervisor.DevicePreparation{Passthrough: &off})
	_, err = back.Wait(w.ctx)
	w.ok(err, "PrepareDevice back")
	kept := driver == stubDriver
	if d = device(); d.Driver != driver || d.Assignable != kept || (len(back.Notes()) > 0) != kept {
		w.Errorf("the device given back is %+v, notes %q; want it with driver %s", d, back.Notes(), driver)
	}
}

// owned demands what holds while a running machine has a device.
func (w *world) owned(vm *hypervisor.VM, d hypervisor.DeviceInfo, a hypervisor.AttachedDevice) {
	w.Helper()
	if d.Assignable || d.Reason != hypervisor.ReasonDeviceInUse || len(d.UsedBy) != 1 || d.UsedBy[0].ID != string(vm.ID()) {
		w.Errorf("the device of a running machine is %+v", d)
	}
	second := w.createOn(pv, "second", d.Host)
	if _, err := second.AttachDevice(w.ctx, hypervisor.DeviceRequest{ID: d.ID}).Wait(w.ctx); !errors.Is(err, hypervisor.ErrBusy) {
		w.Errorf("AttachDevice of a device in use: %v, want %v", err, hypervisor.ErrBusy)
	}
	var u *hypervisor.UnsupportedError
	if _, err := vm.DetachDevice(w.ctx, a.ID).Wait(w.ctx); !errors.As(err, &u) || u.Capability != capability.DeviceHotplug {
		w.Errorf("DetachDevice of a running machine: %v, want %s unsupported", err, capability.DeviceHotplug)
	}
	if _, err := vm.Suspend(w.ctx).Wait(w.ctx); !errors.As(err, &u) || u.Support.Reason != hypervisor.ReasonVMPassthrough {
		w.Errorf("Suspend with a device: %v, want %s", err, hypervisor.ReasonVMPassthrough)
	}
	rep, err := vm.CheckMigrate(w.ctx, hypervisor.MigrateOptions{Host: w.id(w.l.Hosts[1])})
	if err != nil || !slices.ContainsFunc(rep.Blockers, func(b hypervisor.Blocker) bool { return b.Reason == hypervisor.ReasonVMPassthrough }) {
		w.Errorf("CheckMigrate with a device: %+v, %v; want %s", rep, err, hypervisor.ReasonVMPassthrough)
	}
}
