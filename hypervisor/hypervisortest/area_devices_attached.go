package hypervisortest

import (
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// holder is a running machine with a device of one kind, which the rows about
// that kind share.
type holder struct {
	*env
	k   capability.Name
	req hypervisor.DeviceRequest
	vm  *hypervisor.VM
}

// deviceRows returns the rows about one kind of devices.
func deviceRows(kind string, k capability.Name, req func(*env) hypervisor.DeviceRequest) (out []row) {
	add := func(name string, proves, needs caps, f func(holder)) {
		out = append(out, row{name: kind + "-" + name, proves: proves, needs: needs, run: func(e *env) {
			if req(e) == (hypervisor.DeviceRequest{}) {
				e.unshown("the harness has no such device")
				return
			}
			h := holder{env: e, k: k, req: req(e)}
			h.vm = e.shared(kind, func() *hypervisor.VM {
				vm := e.taker("dev")
				a := must(e, vm.AttachDevice(e.ctx, h.req), "AttachDevice(%+v)", h.req)
				if i := e.info(vm); len(i.Devices) != 1 || i.Devices[0].ID != a.ID {
					e.Errorf("after AttachDevice the machine has %+v, want %+v", i.Devices, a)
				}
				return vm
			})
			f(h)
		}})
	}
	add("attach", caps{k}, nil, holder.attached)
	add("used-by", caps{k}, nil, holder.usedBy)
	if k != capability.DeviceVGPU { // which may be shared, saved and moved
		add("used-once", caps{k}, nil, holder.usedOnce)
		add("no-memory-snapshot", nil, caps{k, capability.SnapshotMemory}, holder.noMemorySnapshot)
		add("no-live-migration", nil, caps{k, capability.MigrateLive}, holder.noMigration)
	}
	if k == capability.DevicePCI {
		add("hot-plug", caps{capability.DeviceHotplug}, caps{k}, holder.hotPlug)
	}
	add("detach", caps{k}, nil, holder.detach)
	return out
}

// attachment returns the machine's one device.
func (h holder) attachment() hypervisor.AttachedDevice {
	h.Helper()
	i := h.info(h.vm)
	if len(i.Devices) != 1 {
		h.Fatalf("the machine has %+v, want one device", i.Devices)
	}
	return i.Devices[0]
}

// function returns the host's device that the running machine has.
func (h holder) function() hypervisor.DeviceInfo {
	h.Helper()
	a := h.attachment()
	if a.Device == "" {
		h.Fatalf("a running machine's device is not named: %+v", a)
	}
	return h.device(a.Device)
}

// seen is what the guest sees of the device.
func (h holder) seen(a hypervisor.AttachedDevice) string {
	if h.req.Profile != "" {
		return h.ProfileDevice
	}
	return a.Vendor + ":" + a.Product
}

func (h holder) attached() { h.guestSees(h.vm, h.seen(h.attachment()), true, "Start") }

func (h holder) usedBy() {
	d := h.function()
	if !slices.ContainsFunc(d.UsedBy, func(r hypervisor.Ref) bool { return r.ID == string(h.vm.ID()) }) {
		h.Errorf("device %s of a running machine is used by %+v, want %s among them", d.ID, d.UsedBy, h.vm.ID())
	}
}

func (h holder) usedOnce() {
	d := h.function()
	if d.Assignable {
		h.Errorf("device %s is in use and said to be assignable", d.ID)
	}
	again := hypervisor.DeviceRequest{ID: d.ID, VirtualFunction: h.k == capability.DeviceVF}
	err := errOf(h.env, h.taker("second").AttachDevice(h.ctx, again))
	h.oneOf(err, "AttachDevice of a device in use", hypervisor.ErrBusy, hypervisor.ErrExhausted)
}

func (h holder) noMemorySnapshot() {
	err := errOf(h.env, h.vm.CreateSnapshot(h.ctx, "ram", &hypervisor.SnapshotOptions{Memory: true}))
	h.oneOf(err, "a snapshot with RAM with a passed-through device", hypervisor.ErrUnsupported, hypervisor.ErrInvalidState, hypervisor.ErrIncompatible)
}

func (h holder) noMigration() {
	here := h.info(h.vm).Host
	for _, host := range h.hostIDs() {
		if host == here {
			continue
		}
		o := hypervisor.MigrateOptions{Host: host, Mode: hypervisor.MigrateModeLive}
		rep, err := h.vm.CheckMigrate(h.ctx, o)
		h.ok(err, "CheckMigrate with a passed-through device")
		if !slices.ContainsFunc(rep.Blockers, func(b hypervisor.Blocker) bool { return b.Reason == hypervisor.ReasonVMPassthrough }) {
			h.Errorf("CheckMigrate with a passed-through device: %+v, want %q", rep, hypervisor.ReasonVMPassthrough)
		}
		h.oneOf(errOf(h.env, h.vm.Migrate(h.ctx, o)), "live Migrate with a passed-through device", hypervisor.ErrIncompatible, hypervisor.ErrUnsupported)
	}
	h.state(h.vm, hypervisor.StateRunning, "refused migrations")
}

func (h holder) hotPlug() {
	a := h.attachment()
	must(h.env, h.vm.DetachDevice(h.ctx, a.ID), "DetachDevice of a running machine")
	h.guestSees(h.vm, h.seen(a), false, "DetachDevice of a running machine")
	must(h.env, h.vm.AttachDevice(h.ctx, h.req), "AttachDevice to a running machine")
	h.guestSees(h.vm, h.seen(a), true, "AttachDevice to a running machine")
	h.attachment()
}

func (h holder) detach() {
	a := h.attachment()
	h.off(h.vm)
	must(h.env, h.vm.DetachDevice(h.ctx, a.ID), "DetachDevice")
	if i := h.info(h.vm); len(i.Devices) != 0 {
		h.Errorf("after DetachDevice the machine has %+v", i.Devices)
	}
	h.kind(errOf(h.env, h.vm.DetachDevice(h.ctx, a.ID)), hypervisor.ErrNotFound, "DetachDevice again")
	h.unshare() // it has no device any more
}
