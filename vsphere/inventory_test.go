package vsphere

import (
	"errors"
	"strings"
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// TestNames: vCenter escapes slashes, backslashes and percent signs (API reference, ManagedEntity.name); nobody sees that here.
func TestNames(t *testing.T) {
	_, c := once(t, vspheresim.Config{Datacenters: 2})
	ctx := t.Context()
	for _, name := range []string{"a/b", `a\b`, "50%", "100%25", "a%2fb", "%", "ünï code", "-dash", "a.b,c;d", strings.Repeat("n", 80)} {
		vm, err := c.CreateVM(ctx, spec(name)).Wait(ctx)
		if err != nil {
			t.Errorf("create %q: %v", name, err)
			continue
		}
		found, err := c.FindVM(ctx, name)
		if err != nil || found.ID() != vm.ID() {
			t.Errorf("find %q: %v", name, err)
		}
		copied := name[:len(name)-1] + "~"
		if _, err := vm.Rename(ctx, copied).Wait(ctx); err != nil {
			t.Errorf("rename %q: %v", name, err)
		}
		if i, err := vm.Info(ctx); err != nil || i.Name != copied {
			t.Errorf("renamed to %q it is %q (%v)", copied, i.Name, err)
		}
		x, err := vm.Clone(ctx, name, nil).Wait(ctx)
		if err != nil {
			t.Errorf("clone to %q: %v", name, err)
			continue
		}
		if i, err := x.Info(ctx); err != nil || i.Name != name {
			t.Errorf("cloned to %q it is %q (%v)", name, i.Name, err)
		}
	}
	// A name is unique in its folder, and no further.
	for _, folder := range []string{"DC0/vm", "DC1/vm"} {
		s := spec("twin")
		s.Placement.Folder = folder
		if folder == "DC1/vm" {
			for h, err := range c.Hosts(ctx) {
				if err != nil {
					t.Fatal(err)
				}
				if strings.HasPrefix(h.Name, "DC1") {
					s.Placement.Host = h.ID
				}
			}
		}
		if _, err := c.CreateVM(ctx, s).Wait(ctx); err != nil {
			t.Fatalf("create a twin in %s: %v", folder, err)
		}
	}
	if _, err := c.FindVM(ctx, "twin"); !errors.Is(err, hypervisor.ErrAmbiguous) {
		t.Errorf("find one of twins: %v, want ambiguous", err)
	}
	n := 0
	for v, err := range c.VMs(ctx, nil) {
		if err != nil {
			t.Fatal(err)
		}
		if v.Name == "twin" {
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d of two twins are listed", n)
	}
}

// TestVanishes: what is gone when it is read is left out; the server fails the whole call for it (ManagedObjectNotFound).
func TestVanishes(t *testing.T) {
	sim := startSim(t, vspheresim.Config{VMs: 3})
	d, err := connect(t.Context(), Config{Host: sim.URL().Host, Username: "user", Password: simLogin(sim.URL()).Password, PlainHTTP: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	drv := d.(*driver)
	all, err := d.ListVMs(t.Context(), hypervisor.VMQuery{Detail: hypervisor.DetailBrief})
	if err != nil || len(all.VMs) != 3 {
		t.Fatalf("%d machines (%v)", len(all.VMs), err)
	}
	refs := []ref{vmRef(all.VMs[0].ID), vmRef("vm-99998"), vmRef(all.VMs[1].ID), vmRef("vm-99999"), vmRef(all.VMs[2].ID)}
	for _, paths := range [][]string{drv.vmPaths(hypervisor.DetailFull), drv.vmPaths(hypervisor.DetailBrief)} {
		got, err := drv.some(t.Context(), refs, paths)
		if err != nil || len(got) != 3 {
			t.Errorf("of three machines and two that are gone %d are read (%v)", len(got), err)
		}
	}
	// A server that does not say which.
	sim.Fault("RetrievePropertiesEx", new(types.ManagedObjectNotFound))
	if got, err := drv.some(t.Context(), refs, []string{"name"}); err != nil || len(got) != 3 {
		t.Errorf("of three machines and two that are gone %d are read (%v)", len(got), err)
	}
	if got, err := drv.some(t.Context(), refs[1:2], []string{"name"}); err != nil || len(got) != 0 {
		t.Errorf("of a machine that is gone %d are read (%v)", len(got), err)
	}
	// An object whose properties are gone is none.
	page, err := drv.page(t.Context(), hypervisor.VMQuery{}, nil, types.RetrieveResult{Objects: []types.ObjectContent{{Obj: refs[1]}}}, nil)
	if err != nil || len(page.VMs) != 0 {
		t.Errorf("an object without properties is listed: %+v (%v)", page.VMs, err)
	}
}

// TestDeviceByKind: asked for by vendor and product a device is dynamic DirectPath I/O, which names no host's address; asked for by ID it is fixed.
func TestDeviceByKind(t *testing.T) {
	_, c := once(t, simConfig(vspheresim.VCenter))
	ctx := t.Context()
	backing := func(vm *hypervisor.VM) types.BaseVirtualDeviceBackingInfo {
		t.Helper()
		native, err := hypervisor.As[*object.VirtualMachine](t.Context(), c, vm)
		if err != nil {
			t.Fatal(err)
		}
		var m mo.VirtualMachine
		if err := native.Properties(ctx, native.Reference(), []string{"config.hardware.device"}, &m); err != nil {
			t.Fatal(err)
		}
		for _, x := range m.Config.Hardware.Device {
			if p, ok := x.(*types.VirtualPCIPassthrough); ok {
				return p.Backing
			}
		}
		t.Fatal("the machine has no passed-through device")
		return nil
	}
	vm, err := c.CreateVM(ctx, spec("by kind")).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vm.AttachDevice(ctx, hypervisor.DeviceRequest{Vendor: "10de", Product: "2330"}).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if b, ok := backing(vm).(*types.VirtualPCIPassthroughDynamicBackingInfo); !ok || len(b.AllowedDevice) != 1 ||
		b.AllowedDevice[0].VendorId != 0x10de || b.AllowedDevice[0].DeviceId != 0x2330 {
		t.Errorf("by kind the backing is %+v", backing(vm))
	}
	i, err := vm.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	fixed, err := c.CreateVM(ctx, spec("by ID")).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := fixed.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for x, err := range c.Devices(ctx, &hypervisor.DeviceFilter{Vendor: "10de", Product: "2330", Assignable: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if x.Host != fi.Host {
			continue
		}
		if _, err := fixed.AttachDevice(ctx, hypervisor.DeviceRequest{ID: x.ID}).Wait(ctx); err != nil {
			t.Fatal(err)
		}
		if b, ok := backing(fixed).(*types.VirtualPCIPassthroughDeviceBackingInfo); !ok || b.Id != x.Address {
			t.Errorf("by ID the backing is %+v", backing(fixed))
		}
		return
	}
	t.Fatalf("host %s has no device that is free; the first machine is on %s", fi.Host, i.Host)
}
