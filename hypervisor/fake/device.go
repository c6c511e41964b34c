package fake

import (
	"context"
	"fmt"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

type device struct {
	Device
	Unbound bool // given back to the host's own driver
}

func (b *Backend) addDevice(h hypervisor.HostID, d Device) *device {
	d.Host = h
	if d.ID == "" {
		d.ID = hypervisor.DeviceID(fmt.Sprintf("%s/%s", h, d.Address))
	}
	d.Class = hypervisor.ClassOfPCI(d.ClassCode)
	def(&d.Kind, hypervisor.DeviceKindPCI)
	d.Profiles = slices.Clone(d.Profiles)
	n := d.VFs
	d.VFs = 0
	dv := &device{Device: d}
	b.st.Devices = append(b.st.Devices, dv)
	b.setVFs(dv, n)
	return dv
}

// setVFs makes or removes the virtual functions of a device.
func (b *Backend) setVFs(pf *device, n int) {
	b.st.Devices = slices.DeleteFunc(b.st.Devices, func(d *device) bool { return d.Parent == pf.ID })
	pf.VFs = n
	for i := range n {
		b.st.Devices = append(b.st.Devices, &device{Device: Device{DeviceInfo: hypervisor.DeviceInfo{
			ID: hypervisor.DeviceID(fmt.Sprintf("%s.vf%d", pf.ID, i)), Host: pf.Host, Kind: hypervisor.DeviceKindVF, Class: pf.Class, ClassCode: pf.ClassCode,
			Vendor: pf.Vendor, Product: pf.VFProduct, VendorName: pf.VendorName, ProductName: pf.ProductName + " virtual function",
			Address: fmt.Sprintf("%s.vf%d", pf.Address, i), NUMANode: pf.NUMANode, IOMMUGroup: 1000 + pf.IOMMUGroup*100 + i, Parent: pf.ID,
		}}})
	}
}

func (b *Backend) device(id hypervisor.DeviceID) (*device, error) {
	for _, d := range b.st.Devices {
		if d.ID == id {
			return d, nil
		}
	}
	return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such device")
}

// unfit returns why a device can't be assigned, even when it is idle.
func (b *Backend) unfit(d *device) (hypervisor.ReasonCode, string) {
	if h, err := b.host(d.Host); err != nil || h.NoIOMMU {
		return hypervisor.ReasonHostIOMMUOff, "the IOMMU of host " + string(d.Host) + " is off: switch it on in the firmware"
	}
	switch {
	case d.HostUses != "":
		return hypervisor.ReasonHostUsesDevice, "the host needs it for " + d.HostUses
	case d.Unbound:
		return hypervisor.ReasonDevicePrepare, "it belongs to the host's own driver: prepare it for passthrough"
	}
	return "", ""
}

// holders returns the machines that have a device, and its profile.
func (b *Backend) holders(d *device) (out []hypervisor.Ref, profile string) {
	out = d.UsedBy
	for _, r := range d.UsedBy {
		if m := b.vms[hypervisor.VMID(r.ID)]; m != nil {
			for _, a := range m.Devices {
				if a.Device == d.ID {
					profile = a.Profile
				}
			}
		}
	}
	return out, profile
}

// busyWith returns why a device isn't free for a request now.
func (b *Backend) busyWith(d *device, profile string) string {
	used, prof := b.holders(d)
	switch {
	case d.VFs > 0 && slices.ContainsFunc(b.st.Devices, func(v *device) bool { return v.Parent == d.ID && len(v.UsedBy) > 0 }):
		return "virtual functions of it are in use"
	case len(used) == 0:
		return ""
	case profile == "" || prof == "":
		return fmt.Sprintf("it is used by %v", used)
	case prof != profile:
		return fmt.Sprintf("it is split into %q for %v", prof, used)
	}
	for _, p := range d.Profiles {
		if p.ID == profile && len(used) < p.Max {
			return ""
		}
	}
	return "all its " + profile + " are in use"
}

func (b *Backend) deviceInfo(d *device) hypervisor.DeviceInfo {
	i := d.DeviceInfo
	i.UsedBy, i.Profiles = slices.Clone(d.UsedBy), slices.Clone(d.Profiles)
	if d.HostUses != "" {
		i.UsedBy = append(i.UsedBy, d.Host.Ref())
	}
	for _, p := range b.st.Devices {
		if p != d && p.Host == d.Host && p.IOMMUGroup == d.IOMMUGroup && d.IOMMUGroup >= 0 {
			i.GroupPeers = append(i.GroupPeers, p.ID)
		}
	}
	used, prof := b.holders(d)
	for n := range i.Profiles {
		p := &i.Profiles[n]
		switch {
		case len(used) == 0:
			p.Available = p.Max
		case p.ID == prof:
			p.Available = p.Max - len(used)
		}
	}
	i.Driver = "vfio-pci"
	if i.Reason, i.Detail = b.unfit(d); i.Reason == "" {
		if text := b.busyWith(d, ""); text != "" {
			i.Reason, i.Detail = hypervisor.ReasonDeviceInUse, text
			for _, p := range i.Profiles {
				if p.Available > 0 { // another share of it is free
					i.Reason, i.Detail = "", ""
				}
			}
		}
	}
	if d.Unbound || d.HostUses != "" {
		i.Driver = "host"
	}
	i.Assignable = i.Reason == ""
	return i
}

func (b *Backend) attached(a attachment) hypervisor.AttachedDevice {
	out := hypervisor.AttachedDevice{ID: a.ID, Device: a.Device, Profile: a.Profile}
	if d, err := b.device(a.Device); err == nil {
		out.Vendor, out.Product, out.Address = d.Vendor, d.Product, d.Address
	}
	return out
}

func (b *Backend) freeDevice(a attachment) {
	d, err := b.device(a.Device)
	if err != nil {
		return
	}
	i := slices.IndexFunc(d.UsedBy, func(r hypervisor.Ref) bool {
		m := b.vms[hypervisor.VMID(r.ID)]
		return m != nil && slices.ContainsFunc(m.Devices, func(x attachment) bool { return x.ID == a.ID })
	})
	if i >= 0 {
		d.UsedBy = slices.Delete(d.UsedBy, i, i+1)
	}
	b.tell(hypervisor.Event{Type: hypervisor.EventDeviceChanged, Object: d.ID.Ref(), Detail: "free"})
}

// Devices lists host devices.
func (d *Driver) Devices(ctx context.Context, f hypervisor.DeviceFilter) ([]hypervisor.DeviceInfo, error) {
	if err := d.read(ctx, op.DeviceList, f.ID.Ref()); err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []hypervisor.DeviceInfo
	for _, dv := range b.st.Devices {
		if i := b.deviceInfo(dv); f.Match(i) {
			out = append(out, i)
		}
	}
	return out, nil
}

// candidates are the devices that match a request.
func (b *Backend) candidates(r hypervisor.DeviceRequest) ([]*device, error) {
	if r.ID != "" {
		d, err := b.device(r.ID)
		if err != nil {
			return nil, err
		}
		if r.VirtualFunction && d.Kind != hypervisor.DeviceKindVF { // one of its functions
			var out []*device
			for _, v := range b.st.Devices {
				if v.Parent == d.ID {
					out = append(out, v)
				}
			}
			return out, nil
		}
		return []*device{d}, nil
	}
	var out []*device
	for _, d := range b.st.Devices {
		of := d
		if r.VirtualFunction != (d.Kind == hypervisor.DeviceKindVF) {
			continue
		}
		if r.VirtualFunction { // vendor and product may be those of the card
			if p, err := b.device(d.Parent); err == nil && r.Product != "" && r.Product == p.Product {
				of = p
			}
		}
		if (hypervisor.DeviceFilter{Vendor: r.Vendor, Product: r.Product, Class: r.Class, Profile: r.Profile}).Match(of.DeviceInfo) {
			out = append(out, d)
		}
	}
	return out, nil
}

// pick chooses the device for a machine. It must be on the machine's host. A
// machine that is off and not bound to its host may also get one on another
// host that reaches its disks and networks.
func (b *Backend) pick(m *vm, r hypervisor.DeviceRequest) (*device, *host, error) {
	all, err := b.candidates(r)
	if err != nil {
		return nil, nil, err
	}
	k := r.Capability()
	var why error
	worse := func(err error, better bool) {
		if why == nil || better {
			why = err
		}
	}
	slices.SortStableFunc(all, func(x, y *device) int {
		switch {
		case x.Host == m.Host && y.Host != m.Host:
			return -1
		case x.Host != m.Host && y.Host == m.Host:
			return 1
		}
		return 0
	})
	for _, d := range all {
		on := hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: string(d.ID), Name: d.ProductName}
		if reason, text := b.unfit(d); reason != "" {
			worse(hypervisor.Unsupported(on, k, reason, text), false)
			continue
		}
		if r.Profile != "" && !slices.ContainsFunc(d.Profiles, func(p hypervisor.VGPUProfile) bool { return p.ID == r.Profile }) {
			worse(hypervisor.Unsupported(on, k, hypervisor.ReasonNoDevice, "it doesn't offer the profile "+r.Profile), false)
			continue
		}
		if text := b.busyWith(d, r.Profile); text != "" {
			if r.ID != "" {
				return nil, nil, hypervisor.Errorf(hypervisor.ErrBusy, on, "%s", text)
			}
			worse(hypervisor.Errorf(hypervisor.ErrExhausted, m.ref(), "none of %d devices that match is free: %s", len(all), text), true)
			continue
		}
		h, err := b.host(d.Host)
		if err != nil {
			continue
		}
		if d.Host != m.Host {
			if text := b.bound(m, h); text != "" {
				worse(hypervisor.Errorf(hypervisor.ErrExhausted, m.ref(), "device %s is on host %q and the machine on %s: %s", d.ID, h.Name, m.Host, text), true)
				continue
			}
		}
		return d, h, nil
	}
	if why == nil {
		why = hypervisor.Errorf(hypervisor.ErrExhausted, m.ref(), "no device matches %+v", r)
	}
	return nil, nil, why
}

// bound returns why a machine can't move to another host for a device.
func (b *Backend) bound(m *vm, h *host) string {
	switch {
	case m.State != hypervisor.StateOff:
		return "it is " + string(m.State)
	case len(m.Devices) > 0:
		return "it has devices there"
	case h.usable() != nil:
		return "that host can't be used"
	}
	for _, d := range m.Disks {
		if v := b.st.Volumes[d.Volume]; v != nil {
			if s, err := b.datastore(v.Datastore); err != nil || !reaches(s.Hosts, h.ID) {
				return "its disks aren't reached from there"
			}
		}
	}
	for _, n := range m.NICs {
		if x, err := b.network(n.Network); err != nil || !reaches(x.Hosts, h.ID) {
			return "its networks aren't there"
		}
	}
	return ""
}

// AttachDevice gives a host device, a virtual function or a share of a GPU to
// a machine.
func (d *Driver) AttachDevice(ctx context.Context, id hypervisor.VMID, r hypervisor.DeviceRequest) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, op.DeviceAttach, id.Ref(), r)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.machine(id, "get devices")
	if err != nil {
		return nil, err
	}
	if err := b.require(r.Capability(), hypervisor.Ref{}, m.ref()); err != nil {
		return nil, err
	}
	if err := b.free(vmKey(id), false); err != nil {
		return nil, err
	}
	switch m.State {
	case hypervisor.StateRunning, hypervisor.StatePaused:
		if err := b.require(capability.DeviceHotplug, m.ref(), m.ref()); err != nil {
			return nil, err
		}
	case hypervisor.StateSuspended:
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, m.ref(), "the machine is suspended: resume it or power it off first")
	}
	dv, h, err := b.pick(m, r)
	if err != nil {
		return nil, err
	}
	a := attachment{ID: hypervisor.AttachmentID(b.number("dev")), Device: dv.ID, Profile: r.Profile}
	w := work{op: op.DeviceAttach, on: m.ref(), result: hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: string(a.ID), Name: dv.ProductName},
		excl: []hypervisor.Ref{vmKey(id), dv.ID.Ref()}}
	w.notes = []string{fmt.Sprintf("all %d MiB of memory are reserved", m.Mem/hypervisor.MiB)}
	if dv.BARBytes > 4*hypervisor.GiB && r.Profile == "" {
		w.notes = append(w.notes, fmt.Sprintf("64-bit MMIO window enlarged to %d GiB", 2*dv.BARBytes/hypervisor.GiB))
	}
	if h.ID != m.Host {
		w.notes = append(w.notes, fmt.Sprintf("the machine was placed on host %q, which has the device", h.Name))
	}
	w.finish = func(*hypervisor.TaskState) error {
		m.Host = h.ID
		m.Devices = append(m.Devices, a)
		dv.UsedBy = append(dv.UsedBy, hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: string(m.ID), Name: m.Name})
		b.tell(hypervisor.Event{Type: hypervisor.EventDeviceChanged, Object: dv.ID.Ref(), Detail: "in use"})
		b.emit(hypervisor.EventVMChanged, m, "device attached")
		return nil
	}
	return d.run(f, w)
}

// DetachDevice takes a device from a machine.
func (d *Driver) DetachDevice(ctx context.Context, id hypervisor.VMID, at hypervisor.AttachmentID) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, op.DeviceDetach, id.Ref(), at)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.machine(id, "lose devices")
	if err != nil {
		return nil, err
	}
	if err := b.free(vmKey(id), false); err != nil {
		return nil, err
	}
	find := func() int {
		return slices.IndexFunc(m.Devices, func(a attachment) bool { return a.ID == at })
	}
	if x := m.device(); x != "" && x == string(at) {
		return nil, hypervisor.Unsupported(m.ref(), capability.DevicePCI, hypervisor.ReasonNotImplemented, "device "+x+" is of a kind that only the tool that gave it can take away")
	}
	if find() < 0 {
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: string(at)}, "machine %q has no such device", m.Name)
	}
	if m.active() {
		if err := b.require(capability.DeviceHotplug, m.ref(), m.ref()); err != nil {
			return nil, err
		}
	}
	return d.run(f, work{op: op.DeviceDetach, on: m.ref(), excl: []hypervisor.Ref{vmKey(id)}, finish: func(*hypervisor.TaskState) error {
		b.freeDevice(m.Devices[find()])
		m.Devices = slices.Delete(m.Devices, find(), find()+1)
		b.emit(hypervisor.EventVMChanged, m, "device detached")
		return nil
	}})
}

// PrepareDevice binds a device to passthrough or back, and sets its functions.
func (d *Driver) PrepareDevice(ctx context.Context, id hypervisor.DeviceID, p hypervisor.DevicePreparation) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, op.DevicePrepare, id.Ref(), p)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	dv, err := b.device(id)
	if err != nil {
		return nil, err
	}
	if err := b.require(capability.DevicePrepare, hypervisor.Ref{}, id.Ref()); err != nil {
		return nil, err
	}
	idle := func() error {
		if text := b.busyWith(dv, ""); text != "" {
			return hypervisor.Errorf(hypervisor.ErrBusy, id.Ref(), "%s", text)
		}
		return nil
	}
	switch {
	case dv.HostUses != "":
		return nil, hypervisor.Unsupported(id.Ref(), capability.DevicePrepare, hypervisor.ReasonHostUsesDevice, "the host needs it for "+dv.HostUses)
	case p.VFs != nil && dv.MaxVFs == 0:
		return nil, hypervisor.Unsupported(id.Ref(), capability.DeviceVF, hypervisor.ReasonNoDevice, "it has no virtual functions (SR-IOV)")
	case p.VFs != nil && *p.VFs > dv.MaxVFs:
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, id.Ref(), "%d functions: at most %d are possible", *p.VFs, dv.MaxVFs)
	}
	if err := idle(); err != nil {
		return nil, err
	}
	return d.run(f, work{op: op.DevicePrepare, on: id.Ref(), excl: []hypervisor.Ref{id.Ref()}, finish: func(*hypervisor.TaskState) error {
		if err := idle(); err != nil {
			return err
		}
		if p.Passthrough != nil {
			dv.Unbound = !*p.Passthrough
		}
		if p.VFs != nil && *p.VFs != dv.VFs {
			b.setVFs(dv, *p.VFs)
		}
		b.tell(hypervisor.Event{Type: hypervisor.EventDeviceChanged, Object: id.Ref(), Detail: "prepared"})
		return nil
	}})
}
