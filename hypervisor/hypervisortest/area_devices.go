package hypervisortest

import (
	"errors"
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// devices: listings, their users, and what a machine with a device can't do.
var devices = area{"devices", slices.Concat([]row{
	{name: "listed", run: devicesListed},
	{name: "by-class", run: devicesByClass},
	{name: "attach-absent", needs: caps{capability.DevicePCI}, run: devicesAttachAbsent},
},
	deviceRows("pci", capability.DevicePCI, func(e *env) hypervisor.DeviceRequest { return e.Device }),
	deviceRows("vf", capability.DeviceVF, func(e *env) hypervisor.DeviceRequest { return e.VF }),
	deviceRows("vgpu", capability.DeviceVGPU, func(e *env) hypervisor.DeviceRequest { return e.Profile }),
	[]row{
		{name: "prepare", proves: caps{capability.DevicePrepare}, run: devicesPrepare},
		{name: "prepare-absent", needs: caps{capability.DevicePrepare}, run: devicesPrepareAbsent},
	},
)}

// listDevices returns all devices, or false where they can't be listed.
func (e *env) listDevices() ([]hypervisor.DeviceInfo, bool) {
	e.Helper()
	all, err := hypervisor.Collect(e.c.Devices(e.ctx, nil))
	if err != nil {
		e.oneOf(err, "Devices", hypervisor.ErrUnsupported)
		e.unshown("%v", err)
	}
	return all, err == nil
}

func devicesListed(e *env) {
	all, _ := e.listDevices()
	hosts, seen := e.hostIDs(), map[hypervisor.DeviceID]bool{}
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
}

func devicesByClass(e *env) {
	all, ok := e.listDevices()
	if !ok {
		return
	}
	for _, class := range []hypervisor.DeviceClass{hypervisor.ClassDisplay, hypervisor.ClassNetwork} {
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
}

func (e *env) device(id hypervisor.DeviceID) hypervisor.DeviceInfo {
	e.Helper()
	got, err := hypervisor.Collect(e.c.Devices(e.ctx, &hypervisor.DeviceFilter{ID: id}))
	e.ok(err, "Devices by ID")
	if len(got) != 1 {
		e.Fatalf("Devices with ID %s lists %d", id, len(got))
	}
	return got[0]
}

// taker makes a machine that can have devices.
func (e *env) taker(part string) *hypervisor.VM {
	e.Helper()
	return e.create(part, func(s *hypervisor.VMSpec) {
		if e.DeviceSpec != nil {
			*s = e.DeviceSpec(s.Name)
		}
	})
}

func devicesAttachAbsent(e *env) {
	vm := e.taker("absent")
	err := errOf(e, vm.AttachDevice(e.ctx, hypervisor.DeviceRequest{Vendor: "fffe", Product: "fffe"}))
	e.oneOf(err, "AttachDevice of a kind that is not there", hypervisor.ErrExhausted, hypervisor.ErrNotFound)
	err = errOf(e, vm.AttachDevice(e.ctx, hypervisor.DeviceRequest{ID: "no-such-device"}))
	e.kind(err, hypervisor.ErrNotFound, "AttachDevice of an absent ID")
}

func devicesPrepare(e *env) {
	e.unshare()
	all, _ := e.listDevices()
	for _, d := range all {
		if d.MaxVFs > 0 && len(d.UsedBy) == 0 {
			for _, want := range []int{0, min(2, d.MaxVFs), d.VFs} {
				if got, noted := e.prepare(d.ID, hypervisor.DevicePreparation{VFs: &want}); got.VFs != want && !noted {
					e.Errorf("after PrepareDevice there are %d functions, want %d (or a note that a restart is needed)", got.VFs, want)
				}
			}
			return
		}
	}
	sup, err := e.c.Supports(e.ctx, capability.DevicePrepare, hypervisor.Ref{})
	e.ok(err, "Supports")
	partly := sup.Level == hypervisor.LevelPartial
	for _, d := range all {
		if !d.Assignable || d.Kind != hypervisor.DeviceKindPCI && !partly {
			continue
		}
		if err := errOf(e, e.c.PrepareDevice(e.ctx, d.ID, hypervisor.DevicePreparation{Passthrough: new(bool)})); partly && errors.Is(err, hypervisor.ErrUnsupported) {
			continue
		}
		for _, want := range []bool{false, true} {
			if got, noted := e.prepare(d.ID, hypervisor.DevicePreparation{Passthrough: &want}); got.Assignable != want && !noted {
				e.Errorf("after PrepareDevice the device's Assignable is %v, want %v (or a note that a restart is needed)", got.Assignable, want)
			}
		}
		return
	}
	e.unshown("no device here can be prepared")
}

// prepare returns the device after the change, and whether the task has
// notes.
func (e *env) prepare(id hypervisor.DeviceID, p hypervisor.DevicePreparation) (hypervisor.DeviceInfo, bool) {
	e.Helper()
	t := e.c.PrepareDevice(e.ctx, id, p)
	must(e, t, "PrepareDevice with %+v", p)
	return e.device(id), len(t.Notes()) > 0
}

func devicesPrepareAbsent(e *env) {
	err := errOf(e, e.c.PrepareDevice(e.ctx, "no-such-device", hypervisor.DevicePreparation{VFs: new(int)}))
	e.kind(err, hypervisor.ErrNotFound, "PrepareDevice of an absent ID")
}

// guestSees checks that a running machine's guest has a device, or has it no
// longer. It waits, because guests check their slots only from time to time.
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
