//go:build cgo

package kvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/internal/lab"
	"github.com/anyvisor/anyvisor/internal/lab/vfiolab"
)

// nestedFiles are the files of the nested host. What the driver reads of its
// devices does not change while they are there: it is read at once.
type nestedFiles struct {
	l     *vfiolab.Lab
	mu    sync.Mutex
	known map[string]string
}

func (f *nestedFiles) ReadFile(ctx context.Context, path string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known == nil {
		out, err := f.l.Run(ctx, "for f in /sys/bus/pci/devices/*/{resource,reset_method}; do [ -e $f ] && echo =$f && cat $f; done; :")
		if err != nil {
			return nil, err
		}
		f.known = map[string]string{}
		for part := range strings.SplitSeq("\n"+out, "\n=") {
			name, text, _ := strings.Cut(part, "\n")
			f.known[name] = text
		}
	}
	if text, ok := f.known[path]; ok {
		return []byte(text), nil
	}
	return nil, os.ErrNotExist
}

func (f *nestedFiles) WriteFile(ctx context.Context, path string, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known = nil
	_, err := f.l.Run(ctx, fmt.Sprintf("echo %s >%s", data, path))
	return err
}

// TestPassthrough runs the suite's devices area, and more, on a nested host
// with an IOMMU: emulated PCI devices are given to guests through VFIO.
func TestPassthrough(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	ctx, stop := context.WithTimeout(t.Context(), 25*time.Minute)
	defer stop()
	l, err := vfiolab.Start(ctx)
	if err != nil {
		lab.Skip(t, err)
	}
	defer func() {
		if err := l.Stop(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(l.Dir); !os.IsNotExist(err) {
			t.Errorf("%s is still there (%v)", l.Dir, err)
		}
	}()
	files := &nestedFiles{l: l}
	open := func(ctx context.Context) (*hypervisor.Client, error) {
		return Open(ctx, Config{Hosts: []string{l.URI}, DomainType: "qemu", SerialLogDir: "/share", Sysfs: func(string) Sysfs { return files }},
			&hypervisor.Options{Require: []capability.Name{capability.DevicePCI, capability.DeviceVF, capability.DeviceVGPU, capability.DeviceHotplug, capability.DevicePrepare}})
	}
	c, err := open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := passthroughTest{t, ctx, l, c}
	p.inventory()
	p.functions()
	hypervisortest.Run(t, hypervisortest.Harness{Driver: "kvm", Rung: hypervisortest.Real, Label: "nested host with IOMMU", Limit: 20 * time.Minute,
		Only: []string{"devices"},
		New: func(st hypervisortest.T) *hypervisortest.Backend {
			c, err := open(ctx)
			if err != nil {
				t.Fatal(err)
			}
			guest := func(ctx context.Context, id hypervisor.VMID) ([]string, error) { return l.WaitDevices(ctx, string(id)) }
			return &hypervisortest.Backend{Client: c, Reopen: open, Spec: p.spec, AbsentVM: "0c0ffee0-0000-4000-8000-000000000000",
				Booted: func(ctx context.Context, id hypervisor.VMID) error {
					_, err := guest(ctx, id)
					return err
				},
				Device:  hypervisor.DeviceRequest{Vendor: "1234", Product: "1111", Class: hypervisor.ClassDisplay},
				VF:      hypervisor.DeviceRequest{Vendor: "1b36", Product: "0010", VirtualFunction: true},
				Profile: hypervisor.DeviceRequest{Profile: vfiolab.Profile}, ProfileDevice: "1b36:000f", GuestDevices: guest}
		}})
	vm, second := p.create("gpu"), p.create("second")
	p.refusals(vm, second)
	p.vgpus(vm, second)
	p.gone(vm, second)
}

type passthroughTest struct {
	*testing.T
	ctx context.Context
	l   *vfiolab.Lab
	c   *hypervisor.Client
}

func (p passthroughTest) spec(name string) hypervisor.VMSpec {
	return hypervisor.VMSpec{Name: name, MemoryBytes: 128 * hypervisor.MiB, Machine: "pc", Disks: []hypervisor.DiskSpec{{SizeBytes: hypervisor.MiB}},
		Boot: &hypervisor.DirectBoot{Kernel: p.l.Kernel, Initrd: p.l.Initrd, CommandLine: "console=ttyS0 quiet mitigations=off nokaslr tsc=reliable no_timer_check random.trust_cpu=on cryptomgr.notests"}}
}

func (p passthroughTest) find(address string) hypervisor.DeviceInfo {
	p.Helper()
	all, err := hypervisor.Collect(p.c.Devices(p.ctx, nil))
	if err != nil {
		p.Fatal(err)
	}
	i := slices.IndexFunc(all, func(d hypervisor.DeviceInfo) bool { return d.Address == address })
	if i < 0 {
		p.Fatalf("no device %s in %+v", address, all)
	}
	return all[i]
}

func (p passthroughTest) create(name string) *hypervisor.VM {
	p.Helper()
	vm, err := p.c.CreateVM(p.ctx, p.spec(name)).Wait(p.ctx)
	if err != nil {
		p.Fatal(err)
	}
	return vm
}

func (p passthroughTest) remove(vm *hypervisor.VM) {
	p.Helper()
	if _, err := vm.Delete(p.ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(p.ctx); err != nil {
		p.Error(err)
	}
}

// inventory looks at what the host has before anything is done.
func (p passthroughTest) inventory() {
	gpu := p.find(vfiolab.Display)
	if gpu.Class != hypervisor.ClassDisplay || gpu.Vendor != "1234" || gpu.Product != "1111" || gpu.IOMMUGroup < 0 || !gpu.Assignable || gpu.BARBytes < 16*hypervisor.MiB {
		p.Errorf("the display device is %+v", gpu)
	}
	// Nobody's driver holds the peers here, so whether the group is free is left
	// to TestObstacles.
	if d := p.find(vfiolab.Shared); len(d.GroupPeers) != 2 || d.IOMMUGroup < 0 || d.IOMMUGroup == gpu.IOMMUGroup {
		p.Errorf("a device that shares its group with two others is %+v", d)
	}
	if d := p.find(vfiolab.Uncovered); d.Class != hypervisor.ClassDisplay || d.Assignable || d.IOMMUGroup >= 0 || d.Reason != hypervisor.ReasonNoIOMMUGroup || d.Detail == "" {
		p.Errorf("a display device that the IOMMU does not cover is %+v", d)
	}
	if nvme := p.find(vfiolab.NVMe); nvme.MaxVFs < 2 || nvme.Class != hypervisor.ClassStorage {
		p.Errorf("the NVMe device is %+v, want one with virtual functions", nvme)
	}
	card := p.find(vfiolab.VGA)
	i := slices.IndexFunc(card.Profiles, func(v hypervisor.VGPUProfile) bool { return v.ID == vfiolab.Profile })
	if card.Kind != hypervisor.DeviceKindVGPU || card.Class != hypervisor.ClassDisplay || i < 0 || card.Profiles[i].Available < 2 || card.Profiles[i].Max != card.Profiles[i].Available {
		p.Errorf("the card with vGPUs is %+v", card)
	}
}

// functions makes virtual functions and takes them back. Those of the end are
// for the suite.
func (p passthroughTest) functions() {
	nvme := p.find(vfiolab.NVMe)
	for _, n := range []int{3, 0, 2} {
		if _, err := p.c.PrepareDevice(p.ctx, nvme.ID, hypervisor.DevicePreparation{VFs: &n}).Wait(p.ctx); err != nil {
			p.Fatal(err)
		}
		vfs, err := hypervisor.Collect(p.c.Devices(p.ctx, &hypervisor.DeviceFilter{Kind: hypervisor.DeviceKindVF}))
		if err != nil {
			p.Fatal(err)
		}
		for _, f := range vfs {
			if f.Parent != nvme.ID || f.Vendor != nvme.Vendor {
				p.Errorf("a virtual function of %s is %+v", nvme.ID, f)
			}
		}
		if d := p.find(vfiolab.NVMe); d.VFs != n || len(vfs) != n {
			p.Errorf("after PrepareDevice there are %d functions, %d are listed, want %d", d.VFs, len(vfs), n)
		}
	}
	many := nvme.MaxVFs + 1
	if _, err := p.c.PrepareDevice(p.ctx, nvme.ID, hypervisor.DevicePreparation{VFs: &many}).Wait(p.ctx); !errors.Is(err, hypervisor.ErrInvalidArgument) {
		p.Errorf("PrepareDevice with %d functions: %v, want ErrInvalidArgument", many, err)
	}
}

// refusals starts a machine with a device and looks at what it can't do, and
// who has the device.
func (p passthroughTest) refusals(vm, second *hypervisor.VM) {
	ctx, gpu := p.ctx, p.find(vfiolab.Display)
	task := vm.AttachDevice(ctx, hypervisor.DeviceRequest{ID: gpu.ID})
	a, err := task.Wait(ctx)
	if err != nil {
		p.Fatal(err)
	}
	if a.Address != vfiolab.Display || a.Vendor != "1234" || a.Device != gpu.ID || len(task.Notes()) == 0 {
		p.Errorf("attached %+v, notes %q", a, task.Notes())
	}
	if _, err = vm.Start(ctx).Wait(ctx); err != nil {
		p.Fatal(err)
	}
	if used := p.find(vfiolab.Display); used.Assignable || used.Driver != "vfio-pci" || used.Reason != hypervisor.ReasonDeviceInUse || len(used.UsedBy) != 1 || used.UsedBy[0].ID != string(vm.ID()) {
		p.Errorf("the device in use is %+v", used)
	}
	if _, err = second.AttachDevice(ctx, hypervisor.DeviceRequest{ID: gpu.ID}).Wait(ctx); !errors.Is(err, hypervisor.ErrBusy) {
		p.Errorf("attach of a device in use: %v, want ErrBusy", err)
	}
	if _, err = p.c.PrepareDevice(ctx, gpu.ID, hypervisor.DevicePreparation{Passthrough: ptr(false)}).Wait(ctx); !errors.Is(err, hypervisor.ErrBusy) {
		p.Errorf("PrepareDevice of a device in use: %v, want ErrBusy", err)
	}
	refused := func(what string, err error) {
		p.Helper()
		var u *hypervisor.UnsupportedError
		if !errors.As(err, &u) || u.Support.Reason != hypervisor.ReasonVMPassthrough {
			p.Errorf("%s: %v, want Unsupported with %s", what, err, hypervisor.ReasonVMPassthrough)
		}
	}
	_, err = vm.Suspend(ctx).Wait(ctx)
	refused("Suspend", err)
	_, err = vm.CreateSnapshot(ctx, "ram", &hypervisor.SnapshotOptions{Memory: true}).Wait(ctx)
	refused("a snapshot with RAM", err)
	// Two functions of one device are apart: one comes off alone.
	var got []hypervisor.AttachedDevice
	for range 2 {
		vf, err := second.AttachDevice(ctx, hypervisor.DeviceRequest{Vendor: "1b36", Product: "0010", VirtualFunction: true}).Wait(ctx)
		if err != nil {
			p.Fatal(err)
		}
		got = append(got, vf)
	}
	if _, err := second.AttachDevice(ctx, hypervisor.DeviceRequest{Vendor: "1b36", Product: "0010", VirtualFunction: true}).Wait(ctx); !errors.Is(err, hypervisor.ErrExhausted) {
		p.Errorf("a third function of two: %v, want ErrExhausted", err)
	}
	if _, err = p.c.PrepareDevice(ctx, p.find(vfiolab.NVMe).ID, hypervisor.DevicePreparation{VFs: ptr(0)}).Wait(ctx); !errors.Is(err, hypervisor.ErrBusy) {
		p.Errorf("PrepareDevice without functions, of which two are in use: %v, want ErrBusy", err)
	}
	if _, err := second.DetachDevice(ctx, got[0].ID).Wait(ctx); err != nil {
		p.Fatal(err)
	}
	if i, err := second.Info(ctx); err != nil || len(i.Devices) != 1 || i.Devices[0].ID != got[1].ID {
		p.Errorf("after one of two functions was detached the machine has %+v (%v), want %+v", i.Devices, err, got[1])
	}
}

// mdevs demands that the host has so many mediated devices, each there and
// defined.
func (p passthroughTest) mdevs(want int) {
	p.Helper()
	out, err := p.l.Run(p.ctx, "ls /sys/bus/mdev/devices; ls -R /etc/mdevctl.d | grep -- -....-....-....- || :")
	if n := len(strings.Fields(out)); err != nil || n != 2*want {
		p.Errorf("the host has %q (%v), want %d mediated devices, each there and defined", out, err, want)
	}
}

// vgpus gives shares of a card to two machines, one of which runs.
func (p passthroughTest) vgpus(vm, second *hypervisor.VM) {
	ctx, card := p.ctx, p.find(vfiolab.VGA)
	p.mdevs(0)
	if _, err := p.l.WaitDevices(ctx, string(vm.ID())); err != nil {
		p.Fatal(err)
	}
	a, err := vm.AttachDevice(ctx, hypervisor.DeviceRequest{ID: card.ID, Profile: vfiolab.Profile}).Wait(ctx)
	if err != nil {
		p.Fatal(err)
	}
	b, err := second.AttachDevice(ctx, hypervisor.DeviceRequest{Profile: vfiolab.Profile}).Wait(ctx)
	if err != nil {
		p.Fatal(err)
	}
	p.mdevs(2)
	if a.ID == b.ID || a.Device != card.ID || a.Profile != vfiolab.Profile {
		p.Errorf("attached %+v and %+v, want two shares of %s", a, b, card.ID)
	}
	now := p.find(vfiolab.VGA)
	before, _ := profile(card, vfiolab.Profile)
	if left, ok := profile(now, vfiolab.Profile); now.Assignable || len(now.UsedBy) != 2 || !ok || left.Available != before.Available-2 || left.Max != before.Max {
		p.Errorf("the card with two vGPUs is %+v", now)
	}
	if _, err := second.AttachDevice(ctx, hypervisor.DeviceRequest{ID: card.ID}).Wait(ctx); !errors.Is(err, hypervisor.ErrUnsupported) {
		p.Errorf("attach of a whole card that is split up: %v, want ErrUnsupported", err)
	}
	if _, err := second.AttachDevice(ctx, hypervisor.DeviceRequest{ID: card.ID, Profile: "no-such"}).Wait(ctx); !errors.Is(err, hypervisor.ErrNotFound) {
		p.Errorf("attach of a profile that is not there: %v, want ErrNotFound", err)
	}
	sees := func(want bool) {
		p.Helper()
		err := lab.WaitFor(ctx, 200*time.Millisecond, func(ctx context.Context) error {
			ids, err := p.l.WaitDevices(ctx, string(vm.ID()))
			if err == nil && slices.Contains(ids, "1b36:000f") != want {
				err = fmt.Errorf("the guest has %v", ids)
			}
			return err
		})
		if err != nil {
			p.Fatal(err)
		}
	}
	sees(true)
	if _, err := vm.DetachDevice(ctx, a.ID).Wait(ctx); err != nil {
		p.Fatal(err)
	}
	sees(false)
	p.mdevs(1)
}

// gone deletes machines with the devices that they have, which are the host's
// again afterwards.
func (p passthroughTest) gone(vm, second *hypervisor.VM) {
	p.remove(second)
	p.remove(vm)
	p.mdevs(0)
	if d := p.find(vfiolab.Display); !d.Assignable || d.Driver == "vfio-pci" || len(d.UsedBy) != 0 {
		p.Errorf("after its machine was deleted the display device is %+v, want it back at the host and assignable", d)
	}
	d := p.find(vfiolab.VGA)
	if v, ok := profile(d, vfiolab.Profile); !ok || v.Available != v.Max || !d.Assignable || len(d.UsedBy) != 0 {
		p.Errorf("after the machine with its vGPU was deleted the card is %+v", d)
	}
}
