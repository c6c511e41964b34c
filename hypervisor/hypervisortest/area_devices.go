package hypervisortest

import (
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// devices: what is there, who has it, and what a machine with one can't do.
func devices(e *env) {
	pci, vf, vgpu := e.has(hypervisor.DevicePCI), e.has(hypervisor.DeviceVF), e.has(hypervisor.DeviceVGPU)
	hot, prepare := e.has(hypervisor.DeviceHotplug), e.has(hypervisor.DevicePrepare)
	all, err := hypervisor.Collect(e.c.Devices(e.ctx, nil))
	if err != nil {
		e.oneOf(err, "Devices", hypervisor.ErrUnsupported)
		return
	}
	hosts := e.hostIDs()
	seen := map[hypervisor.DeviceID]bool{}
	for _, d := range all {
		switch {
		case d.ID == "" || !slices.Contains(hosts, d.Host):
			e.Errorf("device without ID or of an unknown host: %+v", d)
		case seen[d.ID]:
			e.Errorf("device %s is listed twice", d.ID)
		case !d.Assignable && d.Reason == "":
			e.Errorf("device %s can't be assigned and no reason is given", d.ID)
		case d.Assignable && d.Reason != "":
			e.Errorf("device %s can be assigned, with a reason why not: %s", d.ID, d.Reason)
		case d.Kind == "" || d.Class == "":
			e.Errorf("device %s lacks kind or class", d.ID)
		}
		seen[d.ID] = true
	}
	for _, class := range []hypervisor.DeviceClass{hypervisor.Display, hypervisor.NetworkCard} {
		got, err := hypervisor.Collect(e.c.Devices(e.ctx, &hypervisor.DeviceFilter{Class: class}))
		e.ok(err, "Devices of class %s", class)
		n := 0
		for _, d := range all {
			if d.Class == class {
				n++
			}
		}
		if len(got) != n {
			e.Errorf("Devices of class %s lists %d, the whole list has %d", class, len(got), n)
		}
	}
	find := func(id hypervisor.DeviceID) hypervisor.DeviceInfo {
		e.Helper()
		got, err := hypervisor.Collect(e.c.Devices(e.ctx, &hypervisor.DeviceFilter{ID: id}))
		e.ok(err, "Devices by ID")
		if len(got) != 1 {
			e.Fatalf("Devices with ID %s lists %d", id, len(got))
		}
		return got[0]
	}
	taker := func(s *hypervisor.VMSpec) {
		if e.DeviceSpec != nil {
			*s = e.DeviceSpec(s.Name)
		}
	}
	if pci {
		vm := e.create("absent", taker)
		_, err = vm.AttachDevice(e.ctx, hypervisor.DeviceRequest{Vendor: "fffe", Product: "fffe"}).Wait(e.ctx)
		e.oneOf(err, "AttachDevice of a kind that is not there", hypervisor.ErrExhausted, hypervisor.ErrNotFound)
		_, err = vm.AttachDevice(e.ctx, hypervisor.DeviceRequest{ID: "no-such-device"}).Wait(e.ctx)
		e.kind(err, hypervisor.ErrNotFound, "AttachDevice of an absent ID")
	}
	cycle := func(req hypervisor.DeviceRequest, k hypervisor.Capability) {
		e.Helper()
		if req == (hypervisor.DeviceRequest{}) {
			return
		}
		vm := e.create("dev", taker)
		t := vm.AttachDevice(e.ctx, req)
		a, err := t.Wait(e.ctx)
		e.ok(err, "AttachDevice(%+v)", req)
		seen := e.ProfileDevice
		if req.Profile == "" {
			seen = a.Vendor + ":" + a.Product
		}
		i := e.info(vm)
		if len(i.Devices) != 1 || i.Devices[0].ID != a.ID {
			e.Errorf("after AttachDevice the machine has %+v, want %+v", i.Devices, a)
		}
		e.start(vm)
		e.guestSees(vm, seen, true, "Start")
		i = e.info(vm)
		if len(i.Devices) == 1 && i.Devices[0].Device != "" {
			d := find(i.Devices[0].Device)
			if !slices.ContainsFunc(d.UsedBy, func(r hypervisor.Ref) bool { return r.ID == string(vm.ID()) }) {
				e.Errorf("device %s of a running machine is used by %+v, want %s among them", d.ID, d.UsedBy, vm.ID())
			}
			if req.Profile == "" {
				if d.Assignable {
					e.Errorf("device %s is in use and said to be assignable", d.ID)
				}
				second := e.create("second", taker)
				_, err = second.AttachDevice(e.ctx, hypervisor.DeviceRequest{ID: d.ID, VirtualFunction: k == hypervisor.DeviceVF}).Wait(e.ctx)
				e.oneOf(err, "AttachDevice of a device in use", hypervisor.ErrBusy, hypervisor.ErrExhausted)
			}
		} else {
			e.Errorf("a running machine's device is not named: %+v", i.Devices)
		}
		if e.has(hypervisor.SnapshotMemory) && req.Profile == "" {
			_, err := vm.CreateSnapshot(e.ctx, "ram", &hypervisor.SnapshotOptions{Memory: true}).Wait(e.ctx)
			e.oneOf(err, "a snapshot with RAM with a passed-through device", hypervisor.ErrUnsupported, hypervisor.ErrInvalidState, hypervisor.ErrIncompatible)
		}
		if e.has(hypervisor.MigrateLive) && req.Profile == "" {
			for _, h := range e.hostIDs() {
				if h == i.Host {
					continue
				}
				rep, err := vm.CheckMigrate(e.ctx, hypervisor.MigrateOptions{Host: h, Mode: hypervisor.Live})
				e.ok(err, "CheckMigrate with a passed-through device")
				if !slices.ContainsFunc(rep.Blockers, func(b hypervisor.Blocker) bool { return b.Reason == hypervisor.ReasonVMPassthrough }) {
					e.Errorf("CheckMigrate with a passed-through device: %+v, want %q", rep, hypervisor.ReasonVMPassthrough)
				}
				_, err = vm.Migrate(e.ctx, hypervisor.MigrateOptions{Host: h, Mode: hypervisor.Live}).Wait(e.ctx)
				e.oneOf(err, "live Migrate with a passed-through device", hypervisor.ErrIncompatible, hypervisor.ErrUnsupported)
			}
			e.state(vm, hypervisor.Running, "refused migrations")
		}
		if hot && k == hypervisor.DevicePCI {
			_, err = vm.DetachDevice(e.ctx, a.ID).Wait(e.ctx)
			e.ok(err, "DetachDevice of a running machine")
			e.guestSees(vm, seen, false, "DetachDevice of a running machine")
			_, err = vm.AttachDevice(e.ctx, req).Wait(e.ctx)
			e.ok(err, "AttachDevice to a running machine")
			e.guestSees(vm, seen, true, "AttachDevice to a running machine")
			e.proved(hypervisor.DeviceHotplug)
			if i = e.info(vm); len(i.Devices) != 1 {
				e.Fatalf("after hot plug the machine has %+v", i.Devices)
			}
			a = i.Devices[0]
		}
		e.off(vm)
		_, err = vm.DetachDevice(e.ctx, a.ID).Wait(e.ctx)
		e.ok(err, "DetachDevice")
		if i := e.info(vm); len(i.Devices) != 0 {
			e.Errorf("after DetachDevice the machine has %+v", i.Devices)
		}
		_, err = vm.DetachDevice(e.ctx, a.ID).Wait(e.ctx)
		e.kind(err, hypervisor.ErrNotFound, "DetachDevice again")
		e.proved(k)
	}
	if pci {
		cycle(e.Device, hypervisor.DevicePCI)
	}
	if vf {
		cycle(e.VF, hypervisor.DeviceVF)
	}
	if vgpu {
		cycle(e.Profile, hypervisor.DeviceVGPU)
	}
	if prepare {
		i := slices.IndexFunc(all, func(d hypervisor.DeviceInfo) bool { return d.MaxVFs > 0 && len(d.UsedBy) == 0 })
		if i >= 0 {
			n := all[i].VFs
			for _, want := range []int{0, min(2, all[i].MaxVFs), n} {
				t := e.c.PrepareDevice(e.ctx, all[i].ID, hypervisor.DevicePreparation{VFs: &want})
				_, err := t.Wait(e.ctx)
				e.ok(err, "PrepareDevice with %d functions", want)
				if d := find(all[i].ID); d.VFs != want && len(t.Notes()) == 0 {
					e.Errorf("after PrepareDevice there are %d functions, want %d (or a note that a restart is needed)", d.VFs, want)
				}
			}
			e.proved(hypervisor.DevicePrepare)
		} else if i = slices.IndexFunc(all, func(d hypervisor.DeviceInfo) bool { return d.Assignable && d.Kind == hypervisor.PCIFunction }); i >= 0 {
			for _, want := range []bool{false, true} {
				t := e.c.PrepareDevice(e.ctx, all[i].ID, hypervisor.DevicePreparation{Passthrough: &want})
				_, err := t.Wait(e.ctx)
				e.ok(err, "PrepareDevice with Passthrough %v", want)
				if d := find(all[i].ID); d.Assignable != want && len(t.Notes()) == 0 {
					e.Errorf("after PrepareDevice the device's Assignable is %v, want %v (or a note that a restart is needed)", d.Assignable, want)
				}
			}
			e.proved(hypervisor.DevicePrepare)
		}
		_, err := e.c.PrepareDevice(e.ctx, "no-such-device", hypervisor.DevicePreparation{VFs: new(int)}).Wait(e.ctx)
		e.kind(err, hypervisor.ErrNotFound, "PrepareDevice of an absent ID")
	}
}

// guestSees demands that a running machine's guest has a device, or has it no
// more. It is given time: guests look at their slots when they come to it.
func (e *env) guestSees(vm *hypervisor.VM, device string, want bool, after string) {
	e.Helper()
	if e.GuestDevices == nil || device == "" {
		return
	}
	var all []string
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		var err error
		all, err = e.GuestDevices(e.ctx, vm.ID())
		e.ok(err, "the guest's devices")
		if slices.Contains(all, device) == want {
			return
		}
	}
	e.Errorf("after %s the guest has the devices %v; %s among them should be %v", after, all, device, want)
}
