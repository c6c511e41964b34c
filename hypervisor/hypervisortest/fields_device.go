package hypervisortest

import (
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

func (e *env) devices(f *hypervisor.DeviceFilter) []hypervisor.DeviceInfo {
	e.Helper()
	all, err := hypervisor.Collect(e.c.Devices(e.ctx, f))
	e.ok(err, "Devices")
	return all
}

// deviceSpec makes CreateVM create a machine that can have devices.
func (e *env) deviceSpec(s *hypervisor.VMSpec) {
	if e.DeviceSpec != nil {
		*s = e.DeviceSpec(s.Name)
	}
}

// attach gives a device to a new machine.
func (e *env) attach(r hypervisor.DeviceRequest, at ...hypervisor.HostID) (hypervisor.AttachedDevice, *hypervisor.VM, error) {
	e.Helper()
	vm := e.create("dev", e.deviceSpec, func(s *hypervisor.VMSpec) {
		if len(at) > 0 {
			s.Placement = e.with(s.Placement, hypervisor.Placement{Host: at[0]})
		}
	})
	a, err := vm.AttachDevice(e.ctx, r).Wait(e.ctx)
	return a, vm, err
}

// sample returns a device that matches Backend.Device.
func (e *env) sample() hypervisor.DeviceInfo {
	e.Helper()
	r := e.Device
	for _, d := range e.devices(&hypervisor.DeviceFilter{ID: r.ID, Vendor: r.Vendor, Product: r.Product, Class: r.Class, Assignable: true}) {
		if d.Kind != hypervisor.DeviceKindVF {
			return d
		}
	}
	e.Fatalf("no device matches Backend.Device %+v", r)
	return hypervisor.DeviceInfo{}
}

func deviceFieldRows() []row {
	type filter = hypervisor.DeviceFilter
	type info = hypervisor.DeviceInfo
	type request = hypervisor.DeviceRequest
	pci := caps{capability.DevicePCI}
	var rows []row
	for _, f := range []struct {
		name string
		of   func(info) filter // matches the device
		none filter            // matches no device
	}{
		{"Host", func(d info) filter { return filter{Host: d.Host} }, filter{Host: "no-such-host"}},
		{"ID", func(d info) filter { return filter{ID: d.ID} }, filter{ID: "no-such-device"}},
		{"Class", func(d info) filter { return filter{Class: d.Class} }, filter{Class: "no-such-class"}},
		{"Kind", func(d info) filter { return filter{Kind: d.Kind} }, filter{Kind: "no-such-kind"}},
		{"Vendor", func(d info) filter { return filter{Vendor: d.Vendor} }, filter{Vendor: "fffe"}},
		{"Product", func(d info) filter { return filter{Product: d.Product} }, filter{Product: "fffe"}},
		{"Profile", func(d info) filter {
			if len(d.Profiles) == 0 {
				return filter{}
			}
			return filter{Profile: d.Profiles[0].ID}
		}, filter{Profile: "no-such-profile"}},
	} {
		rows = append(rows, row{name: "DeviceFilter." + f.name, needs: pci, run: func(e *env) {
			all := e.devices(nil)
			for _, q := range append([]filter{f.none}, f.of(all[0])) {
				want := 0
				for _, d := range all {
					if q.Match(d) {
						want++
					}
				}
				got, err := hypervisor.Collect(e.c.Devices(e.ctx, &q))
				if err != nil {
					e.notThere(err, "Devices of what is not there")
				}
				e.same(len(got), want, "the number of devices with the filter %+v", q)
			}
		}})
	}
	rows = append(rows, row{name: "DeviceFilter.Assignable", needs: pci, run: func(e *env) {
		if d := e.sample(); !slices.ContainsFunc(e.devices(nil), func(d info) bool { return !d.Assignable }) { // a device in use is not assignable
			_, vm, err := e.attach(request{ID: d.ID}, d.Host)
			e.ok(err, "AttachDevice")
			e.start(vm)
		}
		for _, d := range e.devices(&filter{Assignable: true}) {
			if !d.Assignable {
				e.Errorf("device %s is listed, and can't be assigned: %s", d.ID, d.Detail)
			}
		}
		if len(e.devices(&filter{Assignable: true})) == len(e.devices(nil)) {
			e.Errorf("the filter keeps all devices")
		}
	}})
	for _, f := range []struct {
		name string
		of   func(info) request
		none request // added to what the device has: matches no device
		see  func(hypervisor.AttachedDevice, info) (any, any)
	}{
		{"ID", func(d info) request { return request{ID: d.ID} }, request{ID: "no-such-device"},
			func(a hypervisor.AttachedDevice, d info) (any, any) { return a.Device, d.ID }},
		{"Vendor", func(d info) request { return request{Vendor: d.Vendor, Product: d.Product} }, request{Vendor: "fffe"},
			func(a hypervisor.AttachedDevice, d info) (any, any) { return a.Vendor, d.Vendor }},
		{"Product", func(d info) request { return request{Vendor: d.Vendor, Product: d.Product} }, request{Product: "fffe"},
			func(a hypervisor.AttachedDevice, d info) (any, any) { return a.Product, d.Product }},
		{"Class", func(d info) request { return request{Product: d.Product, Vendor: d.Vendor, Class: d.Class} }, request{Class: "no-such-class"},
			func(a hypervisor.AttachedDevice, d info) (any, any) { return a.Product, d.Product }},
	} {
		rows = append(rows, row{name: "DeviceRequest." + f.name, needs: pci, run: func(e *env) {
			d := e.sample()
			a, vm, err := e.attach(f.of(d), d.Host)
			if !e.honoured(err) {
				return
			}
			if a.Device == "" { // it is chosen at start
				e.start(vm)
				if l := e.info(vm).Devices; len(l) == 1 {
					a = l[0]
				}
			}
			got, want := f.see(a, d)
			e.same(got, want, "%s of the device", f.name)
			r := f.of(d)
			switch {
			case f.none.ID != "":
				r.ID = f.none.ID
			case f.none.Vendor != "":
				r.Vendor = f.none.Vendor
			case f.none.Product != "":
				r.Product = f.none.Product
			case f.none.Class != "":
				r.Class = f.none.Class
			}
			_, err = vm.Delete(e.ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(e.ctx)
			e.ok(err, "Delete") // the device is free again
			vm2 := e.create("dev", e.deviceSpec)
			_, err = vm2.AttachDevice(e.ctx, r).Wait(e.ctx)
			e.oneOf(err, "AttachDevice of what is not there", hypervisor.ErrExhausted, hypervisor.ErrNotFound, hypervisor.ErrInvalidArgument)
		}})
	}
	return append(rows,
		row{name: "DeviceRequest.Profile", run: func(e *env) {
			r := e.Profile
			if r.Profile == "" {
				r.Profile = "any"
			}
			a, _, err := e.attach(r)
			if e.honoured(err, capability.DeviceVGPU) {
				e.same(a.Profile, e.Profile.Profile, "Profile")
			}
		}},
		row{name: "DeviceRequest.VirtualFunction", run: func(e *env) {
			r := e.VF
			if r == (request{}) {
				r = request{Class: hypervisor.ClassNetwork, VirtualFunction: true}
			}
			a, vm, err := e.attach(r)
			if !e.honoured(err, capability.DeviceVF) {
				return
			}
			if a.Device == "" {
				e.start(vm)
				a = e.info(vm).Devices[0]
			}
			i := e.info(vm)
			for _, d := range e.devices(&filter{ID: a.Device}) { // the device itself, or its card where it is an adapter
				if d.Kind != hypervisor.DeviceKindVF && len(i.NICs) == len(e.Spec("x").NICs) {
					e.Errorf("the device is %+v, want a virtual function", d)
				}
			}
		}},
		row{name: "DevicePreparation.Passthrough", run: func(e *env) {
			if !e.has(capability.DevicePrepare) {
				e.prepareRefused(hypervisor.DevicePreparation{Passthrough: new(bool)})
				return
			}
			d := e.sample()
			for _, want := range []bool{false, true} {
				t := e.c.PrepareDevice(e.ctx, d.ID, hypervisor.DevicePreparation{Passthrough: &want})
				_, err := t.Wait(e.ctx)
				if !e.honoured(err) {
					return
				}
				if now := e.devices(&filter{ID: d.ID}); now[0].Assignable != want && len(t.Notes()) == 0 {
					e.Errorf("after PrepareDevice Assignable is %v, want %v", now[0].Assignable, want)
				}
			}
		}},
		row{name: "DevicePreparation.VFs", run: func(e *env) {
			all, err := hypervisor.Collect(e.c.Devices(e.ctx, nil))
			i := slices.IndexFunc(all, func(d info) bool { return d.MaxVFs > 0 && len(d.UsedBy) == 0 })
			if err != nil || i < 0 || !e.has(capability.DevicePrepare) {
				e.prepareRefused(hypervisor.DevicePreparation{VFs: new(int)})
				return
			}
			old := all[i].VFs
			for _, want := range []int{min(2, all[i].MaxVFs), min(1, all[i].MaxVFs), old} {
				t := e.c.PrepareDevice(e.ctx, all[i].ID, hypervisor.DevicePreparation{VFs: &want})
				_, err := t.Wait(e.ctx)
				if !e.honoured(err) {
					return
				}
				if now := e.devices(&filter{ID: all[i].ID}); now[0].VFs != want && len(t.Notes()) == 0 {
					e.Errorf("after PrepareDevice there are %d functions, want %d", now[0].VFs, want)
				}
			}
		}})
}

// prepareRefused checks that a preparation is refused with a reason.
func (e *env) prepareRefused(p hypervisor.DevicePreparation) {
	e.Helper()
	id := hypervisor.DeviceID("any")
	if all, err := hypervisor.Collect(e.c.Devices(e.ctx, nil)); err == nil && len(all) > 0 {
		id = all[0].ID
	}
	_, err := e.c.PrepareDevice(e.ctx, id, p).Wait(e.ctx)
	if e.has(capability.DevicePrepare) {
		e.oneOf(err, "PrepareDevice", hypervisor.ErrUnsupported, hypervisor.ErrInvalidArgument)
	} else {
		e.refused(err, capability.DevicePrepare, hypervisor.Ref{})
	}
	e.unshown("no device here can be prepared so")
}
