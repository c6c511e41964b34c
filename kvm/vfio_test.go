//go:build cgo

package kvm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/lab"
	"github.com/anyvisor/anyvisor/internal/lab/vfiolab"
)

// nestedFiles are the files of the nested host.
type nestedFiles struct{ l *vfiolab.Lab }

func (f nestedFiles) ReadFile(ctx context.Context, path string) ([]byte, error) {
	out, err := f.l.Run(ctx, "cat "+path)
	return []byte(out), err
}

func (f nestedFiles) WriteFile(ctx context.Context, path string, data []byte) error {
	// The nested host has no udev, so only a new libvirtd sees new devices.
	_, err := f.l.Run(ctx, fmt.Sprintf("echo %s >%s && kill $(pidof libvirtd)", data, path))
	if err != nil {
		return err
	}
	return lab.WaitFor(ctx, time.Second, func(ctx context.Context) error {
		_, err := f.l.Virsh(ctx, "nodedev-list")
		return err
	})
}

// TestPassthrough gives emulated PCI devices to a guest through VFIO, on a
// nested host with an IOMMU.
func TestPassthrough(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	ctx, stop := context.WithTimeout(t.Context(), 15*time.Minute)
	defer stop()
	l, err := vfiolab.Start(ctx)
	if err != nil {
		lab.Skip(t, err)
	}
	defer func() {
		if err := l.Stop(); err != nil {
			t.Error(err)
		}
	}()
	c, err := Open(ctx, Config{Hosts: []string{l.URI}, DomainType: "qemu", SerialLogDir: "/share", Sysfs: func(string) Sysfs { return nestedFiles{l} },
		Options: &hypervisor.Options{Require: []hypervisor.Capability{hypervisor.DevicePCI, hypervisor.DeviceVF, hypervisor.DevicePrepare}}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	find := func(address string) hypervisor.DeviceInfo {
		t.Helper()
		all, err := hypervisor.Collect(c.Devices(ctx, nil))
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(all, func(d hypervisor.DeviceInfo) bool { return d.Address == address })
		if i < 0 {
			t.Fatalf("no device %s in %+v", address, all)
		}
		return all[i]
	}
	gpu := find(vfiolab.Display)
	if gpu.Class != hypervisor.Display || gpu.Vendor != "1234" || gpu.Product != "1111" || gpu.IOMMUGroup < 0 || !gpu.Assignable || gpu.BARBytes < 16*hypervisor.MiB {
		t.Errorf("the display device is %+v", gpu)
	}
	// Nobody's driver holds the peers here, so whether the group is free is left
	// to TestObstacles.
	if d := find(vfiolab.Shared); len(d.GroupPeers) != 2 || d.IOMMUGroup < 0 || d.IOMMUGroup == gpu.IOMMUGroup {
		t.Errorf("a device that shares its group with two others is %+v", d)
	}
	make := func(name string) *hypervisor.VM {
		t.Helper()
		vm, err := c.CreateVM(ctx, hypervisor.VMSpec{Name: name, MemoryBytes: 128 * hypervisor.MiB, Machine: "pc",
			Boot: &hypervisor.DirectBoot{Kernel: l.Kernel, Initrd: l.Initrd, CommandLine: "console=ttyS0 quiet"}}).Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return vm
	}
	vm, second := make("gpu"), make("second")
	task := vm.AttachDevice(ctx, hypervisor.DeviceRequest{Vendor: "1234", Product: "1111", Class: hypervisor.Display})
	a, err := task.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if a.Address != vfiolab.Display || a.Vendor != "1234" || a.Device != gpu.ID || len(task.Notes()) == 0 {
		t.Errorf("attached %+v, notes %q", a, task.Notes())
	}
	if _, err = vm.Start(ctx).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	pci, err := l.Virsh(ctx, "qemu-monitor-command", string(vm.ID()), "--hmp", "info pci")
	if err != nil || !strings.Contains(pci, "1234:1111") {
		t.Errorf("QEMU does not have the device: %v\n%s", err, pci)
	}
	if driver, err := l.Run(ctx, "basename $(readlink /sys/bus/pci/devices/"+vfiolab.Display+"/driver)"); err != nil || !strings.Contains(driver, "vfio-pci") {
		t.Errorf("the host's driver is %q (%v), want vfio-pci", driver, err)
	}
	used := find(vfiolab.Display)
	if used.Assignable || used.Reason != hypervisor.ReasonDeviceInUse || len(used.UsedBy) != 1 || used.UsedBy[0].ID != string(vm.ID()) {
		t.Errorf("the device in use is %+v", used)
	}
	if _, err = second.AttachDevice(ctx, hypervisor.DeviceRequest{ID: gpu.ID}).Wait(ctx); !errors.Is(err, hypervisor.ErrBusy) {
		t.Errorf("attach of a device in use: %v, want ErrBusy", err)
	}
	refused := func(what string, err error) {
		t.Helper()
		var u *hypervisor.UnsupportedError
		if !errors.As(err, &u) || u.Support.Reason != hypervisor.ReasonVMPassthrough {
			t.Errorf("%s: %v, want Unsupported with %s", what, err, hypervisor.ReasonVMPassthrough)
		}
	}
	_, err = vm.Suspend(ctx).Wait(ctx)
	refused("Suspend", err)
	_, err = vm.CreateSnapshot(ctx, "ram", &hypervisor.SnapshotOptions{Memory: true}).Wait(ctx)
	refused("a snapshot with RAM", err)
	if _, err = vm.PowerOff(ctx).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err = vm.DetachDevice(ctx, a.ID).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if d := find(vfiolab.Display); !d.Assignable || d.Driver == "vfio-pci" {
		t.Errorf("after DetachDevice the device is %+v, want it back at the host and assignable", d)
	}

	// SR-IOV: make functions, give one away, take them back.
	nvme := find(vfiolab.NVMe)
	if nvme.MaxVFs < 2 || nvme.Class != hypervisor.StorageCard {
		t.Fatalf("the NVMe device is %+v, want one with virtual functions", nvme)
	}
	for _, n := range []int{2, 0, 2} {
		if _, err = c.PrepareDevice(ctx, nvme.ID, hypervisor.DevicePreparation{VFs: &n}).Wait(ctx); err != nil {
			t.Fatal(err)
		}
		if d := find(vfiolab.NVMe); d.VFs != n {
			t.Errorf("after PrepareDevice there are %d functions, want %d", d.VFs, n)
		}
	}
	vf, err := second.AttachDevice(ctx, hypervisor.DeviceRequest{Vendor: nvme.Vendor, Product: nvme.Product, VirtualFunction: true}).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if d := find(vf.Address); d.Kind != hypervisor.VirtualFunction || d.Parent != nvme.ID {
		t.Errorf("attached %+v, want a virtual function of %s", d, nvme.ID)
	}
	if _, err = second.DetachDevice(ctx, vf.ID).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*hypervisor.VM{vm, second} {
		if _, err = m.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx); err != nil {
			t.Error(err)
		}
	}
}
