package hyperv

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// hostDevices is what a host reports about its devices.
type hostDevices struct {
	h       *host
	pnp     []*cim.Instance // Win32_PnPEntity: devices that the host itself uses
	express []*cim.Instance // Msvm_PciExpress: dismounted functions
	gpus    []*cim.Instance // Msvm_PartitionableGpu
	pci     []*cim.Instance // who has which function
	parts   []*cim.Instance // who has partitions
}

func (d *driver) hostDevices(ctx context.Context, h *host, s cim.Session) (*hostDevices, error) {
	x := &hostDevices{h: h}
	var g errgroup.Group
	read := func(to *[]*cim.Instance, ns, wql string) {
		g.Go(func() (err error) {
			if *to, err = cim.Collect(s.Query(ctx, ns, wql)); missingClass(err) {
				return nil
			}
			return err
		})
	}
	read(&x.pnp, cim.CIMV2, cim.Select("Win32_PnPEntity", []string{"DeviceID", "Name", "PNPClass", "ConfigManagerErrorCode", "Service"}, "DeviceID LIKE "+cim.LikePrefix(`PCI\VEN`)))
	read(&x.express, cim.Virtualization, cim.Select("Msvm_PciExpress", nil))
	read(&x.gpus, cim.Virtualization, cim.Select("Msvm_PartitionableGpu", nil))
	read(&x.pci, cim.Virtualization, cim.Select("Msvm_PciExpressSettingData", assignedProps))
	read(&x.parts, cim.Virtualization, cim.Select("Msvm_GpuPartitionSettingData", assignedProps))
	return x, g.Wait()
}

// Devices implements hypervisor.DeviceAssigner with five queries per host.
func (d *driver) Devices(ctx context.Context, f hypervisor.DeviceFilter) ([]hypervisor.DeviceInfo, error) {
	hosts := d.hosts
	if f.Host != "" {
		h, err := d.host(f.Host)
		if err != nil {
			return nil, err
		}
		hosts = []*host{h}
	}
	parts := make([][]hypervisor.DeviceInfo, len(hosts))
	err := d.each(ctx, hosts, func(ctx context.Context, i int, h *host, s cim.Session) error {
		x, err := d.hostDevices(ctx, h, s)
		if err != nil {
			return err
		}
		for _, dev := range x.list() {
			if f.Match(dev) {
				parts[i] = append(parts[i], dev)
			}
		}
		return nil
	})
	return slices.Concat(parts...), err
}

var pciName = regexp.MustCompile(`(?i)VEN_([0-9A-F]{4})&DEV_([0-9A-F]{4})`)

// instanceKey returns the part of a Plug and Play path that stays the same
// when a device is dismounted: the enumerator changes from PCI to PCIP.
func instanceKey(path string) string {
	path = strings.ToUpper(path)
	path = strings.TrimPrefix(path, `\\?\`)
	path = strings.ReplaceAll(path, "#", `\`)
	_, rest, _ := strings.Cut(path, `\`)
	if i := strings.Index(rest, `\{`); i >= 0 {
		rest = rest[:i]
	}
	return rest
}

func (h *host) deviceID(key string) hypervisor.DeviceID {
	return hypervisor.DeviceID(string(h.id) + "|" + key)
}

// blank fills in the facts in a path.
func (x *hostDevices) blank(path, name string) hypervisor.DeviceInfo {
	i := hypervisor.DeviceInfo{ID: x.h.deviceID(instanceKey(path)), Host: x.h.id, Kind: hypervisor.DeviceKindPCI, Class: hypervisor.ClassOther, ProductName: name, NUMANode: -1, IOMMUGroup: -1}
	if m := pciName.FindStringSubmatch(path); m != nil {
		i.Vendor, i.Product = strings.ToLower(m[1]), strings.ToLower(m[2])
	}
	return i
}

var pnpClasses = map[string]hypervisor.DeviceClass{
	"display": hypervisor.ClassDisplay, "net": hypervisor.ClassNetwork, "scsiadapter": hypervisor.ClassStorage, "hdc": hypervisor.ClassStorage,
	"computeaccelerator": hypervisor.ClassAccelerator,
}

// gpuVendors are the vendors of display devices that are assigned to guests.
// A dismounted function no longer reports its class.
var gpuVendors = map[string]bool{"10de": true, "1002": true}

func (x *hostDevices) list() []hypervisor.DeviceInfo {
	var out []hypervisor.DeviceInfo
	users := map[string][]hypervisor.Ref{}
	for _, s := range x.pci {
		if r := s.Get("HostResource").Refs(); len(r) > 0 {
			users[strings.ToUpper(r[0].Key("DeviceID"))] = append(users[strings.ToUpper(r[0].Key("DeviceID"))], hypervisor.VMID(ownerOf(s.Str("InstanceID"))).Ref())
		}
	}
	gpus := map[string]*cim.Instance{}
	for _, g := range x.gpus {
		gpus[instanceKey(g.Str("Name"))] = g
	}
	for _, p := range x.pnp {
		i := x.blank(p.Str("DeviceID"), p.Str("Name"))
		if c, ok := pnpClasses[strings.ToLower(p.Str("PNPClass"))]; ok {
			i.Class = c
		}
		i.Driver = p.Str("Service")
		i.Reason, i.Detail = hypervisor.ReasonDevicePrepare, "the host uses the device: PrepareDevice with Passthrough dismounts it"
		if x.h.client() {
			i.Reason, i.Detail = hypervisor.ReasonEdition, "only server editions assign devices to machines"
		}
		if g := gpus[instanceKey(p.Str("DeviceID"))]; g != nil {
			i.Kind = hypervisor.DeviceKindVGPU
			x.partitions(&i, g)
		}
		out = append(out, i)
	}
	for _, e := range x.express {
		if !strings.EqualFold(e.Str("SystemName"), x.h.name) {
			continue // the same function as a machine sees it
		}
		i := x.blank(e.Str("DeviceInstancePath"), e.Str("ElementName"))
		i.Address = e.Str("LocationPath")
		if gpuVendors[i.Vendor] {
			i.Class = hypervisor.ClassDisplay
		}
		i.UsedBy = users[strings.ToUpper(e.Str("DeviceID"))]
		i.Assignable = len(i.UsedBy) == 0
		if !i.Assignable {
			i.Reason, i.Detail = hypervisor.ReasonDeviceInUse, "assigned to "+i.UsedBy[0].String()
		}
		out = append(out, i)
	}
	return out
}

// AttachDevice implements hypervisor.DeviceAssigner.
func (d *driver) AttachDevice(ctx context.Context, id hypervisor.VMID, r hypervisor.DeviceRequest) (hypervisor.DriverTask, error) {
	if r.VirtualFunction {
		return nil, d.refuse(id.Ref(), capability.DeviceVF)
	}
	m, err := d.changeable(ctx, id)
	if err != nil {
		return nil, err
	}
	if sup := m.h.editionFor(r.Capability()); sup.Level == hypervisor.LevelNo {
		return nil, hypervisor.Unsupported(id.Ref(), r.Capability(), sup.Reason, sup.Detail)
	}
	x, err := d.hostDevices(ctx, m.h, m.s)
	if err != nil {
		return nil, err
	}
	dev, err := choose(id, x.list(), r)
	if err != nil {
		return nil, err
	}
	if m.state != hypervisor.StateOff {
		return nil, hypervisor.Unsupported(id.Ref(), capability.DeviceHotplug, hypervisor.ReasonPlatform, "Hyper-V gives devices only to machines that are off")
	}
	if r.Profile != "" {
		return d.attachPartition(ctx, m, x, dev)
	}
	if len(userSnapshots(m.snaps)) > 0 {
		return nil, hypervisor.Unsupported(id.Ref(), capability.DevicePCI, hypervisor.ReasonVMSnapshots, "a machine with snapshots can't have an assigned device: delete them first")
	}
	return d.attachFunction(ctx, m, x, dev)
}

// choose picks an assignable device, or reports why there is none.
func choose(id hypervisor.VMID, all []hypervisor.DeviceInfo, r hypervisor.DeviceRequest) (hypervisor.DeviceInfo, error) {
	f := hypervisor.DeviceFilter{ID: r.ID, Class: r.Class, Vendor: r.Vendor, Product: r.Product, Profile: r.Profile}
	var best *hypervisor.DeviceInfo
	for i := range all {
		if !f.Match(all[i]) {
			continue
		}
		free := all[i].Assignable
		if r.Profile != "" {
			free = slices.ContainsFunc(all[i].Profiles, func(p hypervisor.VGPUProfile) bool {
				return (p.ID == r.Profile || p.Name == r.Profile) && p.Available > 0
			})
		}
		if free {
			return all[i], nil
		}
		if best == nil || best.Reason == hypervisor.ReasonDevicePrepare {
			best = &all[i]
		}
	}
	on := hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: string(r.ID)}
	switch {
	case best == nil && r.ID != "":
		return hypervisor.DeviceInfo{}, hypervisor.Errorf(hypervisor.ErrNotFound, on, "the machine's host has no such device")
	case best == nil:
		return hypervisor.DeviceInfo{}, hypervisor.Errorf(hypervisor.ErrExhausted, on, "no device of the machine's host matches the request")
	case r.Profile != "":
		return hypervisor.DeviceInfo{}, hypervisor.Errorf(hypervisor.ErrExhausted, on, "no partition of profile %s is free", r.Profile)
	case best.Reason == hypervisor.ReasonDeviceInUse && r.ID != "":
		return hypervisor.DeviceInfo{}, hypervisor.Errorf(hypervisor.ErrBusy, best.ID.Ref(), "%s", best.Detail)
	case best.Reason == hypervisor.ReasonDeviceInUse:
		return hypervisor.DeviceInfo{}, hypervisor.Errorf(hypervisor.ErrExhausted, best.ID.Ref(), "every matching device is %s", best.Detail)
	}
	return hypervisor.DeviceInfo{}, hypervisor.Unsupported(best.ID.Ref(), capability.DevicePCI, best.Reason, best.Detail)
}

// Values of AutomaticShutdownAction.
const actionTurnOff = uint16(2)

// MMIO space that one assigned function may need, in MiB. For a GPU these are
// the values of Microsoft's guide "Deploy graphics devices by using Discrete
// Device Assignment", and for smaller functions what is enough.
const (
	lowGPU, highGPU     = uint64(3072), uint64(33280)
	lowOther, highOther = uint64(256), uint64(1024)
	lowDefault          = uint64(128)
	highDefault         = uint64(512)
)

// attachFunction assigns a dismounted function. Settings that the platform
// requires of the machine are made first, and the task's notes list them.
func (d *driver) attachFunction(ctx context.Context, m *machine, x *hostDevices, dev hypervisor.DeviceInfo) (hypervisor.DriverTask, error) {
	var fn *cim.Instance
	for _, e := range x.express {
		if x.h.deviceID(instanceKey(e.Str("DeviceInstancePath"))) == dev.ID && strings.EqualFold(e.Str("SystemName"), m.h.name) {
			fn = e
		}
	}
	if fn == nil {
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, dev.ID.Ref(), "the device is gone")
	}
	rec, inv, err := m.resources(ctx)
	if err != nil {
		return nil, err
	}
	fn.Class = "Msvm_PciExpress"
	ref := fn.Self(m.h.name)
	return m.start(ctx, "attach device", "", func(o *op) (hypervisor.Ref, error) {
		low, high := mmio(inv.devicesOf(rec), dev)
		if err := o.ready(m, low, high); err != nil {
			return hypervisor.Ref{}, err
		}
		if mem := rec.rows[rowMemory]; len(mem) > 0 && mem[0].Bool("DynamicMemoryEnabled") && mem[0].Uint("Reservation") != mem[0].Uint("VirtualQuantity") {
			minimum := func(n uint64) *cim.Embedded {
				return cim.NewEmbedded("Msvm_MemorySettingData", "InstanceID", mem[0].Str("InstanceID"), "Reservation", n)
			}
			o.SetBack("the machine's minimum memory", func(ctx context.Context) error { return o.putResource(ctx, m, minimum(mem[0].Uint("Reservation"))) })
			if err := o.modifyResource(m, minimum(mem[0].Uint("VirtualQuantity"))); err != nil {
				return hypervisor.Ref{}, err
			}
			o.Note("minimum memory was raised to the memory at start, as assigned devices demand")
		}
		a, err := o.addResource(m, dev.ID.Ref(), cim.NewEmbedded("Msvm_PciExpressSettingData", "HostResource", []cim.Ref{ref}, "VirtualFunctions", []uint16{0}))
		return hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: a.Key("InstanceID")}, err
	})
}

// mmio sums the space that all assigned functions may need.
func mmio(have []hypervisor.AttachedDevice, dev hypervisor.DeviceInfo) (low, high uint64) {
	low, high = lowDefault, highDefault
	add := func(gpu bool) {
		if gpu {
			low, high = max(low, lowGPU), high+highGPU
			return
		}
		low, high = max(low, lowOther), high+highOther
	}
	for _, a := range have {
		add(gpuVendors[a.Vendor])
	}
	add(dev.Class == hypervisor.ClassDisplay || dev.Class == hypervisor.ClassAccelerator)
	return low, high
}

// ready makes the settings that assigned devices require of the machine. The
// undo restores them.
func (o *op) ready(m *machine, low, high uint64) error {
	var kv, back []any
	set := func(name string, now, want any) { kv, back = append(kv, name, want), append(back, name, now) }
	if now := uint16(m.settings.Uint("AutomaticShutdownAction")); now != actionTurnOff {
		set("AutomaticShutdownAction", now, actionTurnOff)
		o.Note("the machine is now turned off, not saved, when the host shuts down (automatic stop action), as assigned devices demand")
	}
	all, err := cim.Read(o.ctx, o.s, m.settingsRef())
	if err != nil {
		return err
	}
	// Not every build has the gap above 4 GiB (the reference says 1703).
	gap := func(name string, want uint64) {
		if now := all.Uint(name); all.Has(name) && now < want {
			set(name, now, want)
		}
	}
	gap("LowMmioGapSize", low)
	gap("HighMmioGapSize", high)
	if all.Has("GuestControlledCacheTypes") && !all.Bool("GuestControlledCacheTypes") {
		set("GuestControlledCacheTypes", false, true)
	}
	if len(kv) == 0 {
		return nil
	}
	if all.Has("HighMmioGapSize") {
		o.Note(fmt.Sprintf("memory-mapped I/O space is at least %d MiB below and %d MiB above 4 GiB", low, high))
	} else {
		o.Note(fmt.Sprintf("memory-mapped I/O space is at least %d MiB below 4 GiB; this build of Windows can't set the space above", low))
	}
	o.Phase("preparing the machine", -1)
	o.SetBack("the machine's settings", func(ctx context.Context) error { return m.modifyNow(ctx, back...) })
	return m.modifyNow(o.ctx, kv...)
}

// DetachDevice implements hypervisor.DeviceAssigner.
func (d *driver) DetachDevice(ctx context.Context, id hypervisor.VMID, a hypervisor.AttachmentID) (hypervisor.DriverTask, error) {
	m, err := d.changeable(ctx, id)
	if err != nil {
		return nil, err
	}
	rec, _, err := m.resources(ctx)
	if err != nil {
		return nil, err
	}
	for _, t := range []int{rowPCI, rowPartitions} {
		for _, x := range rec.rows[t] {
			if !strings.EqualFold(x.Str("InstanceID"), string(a)) {
				continue
			}
			if m.state != hypervisor.StateOff {
				return nil, hypervisor.Unsupported(id.Ref(), capability.DeviceHotplug, hypervisor.ReasonPlatform, "Hyper-V takes devices only from machines that are off")
			}
			ref := m.h.settingRef(tables[t].class, x.Str("InstanceID"))
			return m.native(ctx, "detach device", m.request(m.done(absent(m.s, ref)), m.h.management(), "RemoveResourceSettings", cim.Arg{Name: "ResourceSettings", Value: []cim.Ref{ref}}), nil)
		}
	}
	return nil, hypervisor.Errorf(hypervisor.ErrNotFound, hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: string(a)}, "machine %s has no such device", id)
}

// devicesOf lists a machine's devices.
func (inv *inventory) devicesOf(r *record) []hypervisor.AttachedDevice {
	var out []hypervisor.AttachedDevice
	for _, t := range []int{rowPCI, rowPartitions} {
		for _, x := range r.rows[t] {
			a := hypervisor.AttachedDevice{ID: hypervisor.AttachmentID(x.Str("InstanceID"))}
			if refs := x.Get("HostResource").Refs(); len(refs) > 0 {
				path := refs[0].Key("DeviceID")
				if t == rowPartitions {
					path = refs[0].Key("Name")
					a.Profile = partitionProfile
				} else if i := strings.Index(strings.ToUpper(path), `PCIP\`); i >= 0 {
					path = path[i:]
				}
				a.Device = inv.h.deviceID(instanceKey(path))
				if m := pciName.FindStringSubmatch(path); m != nil {
					a.Vendor, a.Product = strings.ToLower(m[1]), strings.ToLower(m[2])
				}
			} else if t == rowPartitions {
				a.Profile = partitionProfile
			}
			out = append(out, a)
		}
	}
	return out
}
