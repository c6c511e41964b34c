package xen

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// pciKey is the key of VM.other_config that gives whole PCI functions to a
// machine at its next start: "0/0000:03:00.0,0/0000:03:00.1".
const pciKey = "pci"

// passthrough is the implementation of the vGPU type that is a whole GPU.
const passthrough = "passthrough"

// Devices lists PCI functions. One that is a GPU (class PGPU) has its vGPU
// types as profiles.
func (d *driver) Devices(ctx context.Context, f hypervisor.DeviceFilter) ([]hypervisor.DeviceInfo, error) {
	inv, err := d.loadDevices(ctx)
	if err != nil {
		return nil, err
	}
	var out []hypervisor.DeviceInfo
	for _, ref := range slices.SortedFunc(maps.Keys(inv.pcis), func(a, b xapi.Ref) int {
		return strings.Compare(inv.pcis[a].UUID, inv.pcis[b].UUID)
	}) {
		if i := inv.device(ref); f.Match(i) {
			out = append(out, i)
		}
	}
	return out, nil
}

func (d *driver) loadDevices(ctx context.Context) (*inventory, error) {
	inv := &inventory{}
	g, ctx := errgroup.WithContext(ctx)
	for class, into := range map[string]any{"PCI": &inv.pcis, "PGPU": &inv.pgpus, "VGPU": &inv.vgpus, "VGPU_type": &inv.types, "host": &inv.hosts, "VM": &inv.vms} {
		g.Go(func() error { return d.c.Call(ctx, into, class+".get_all_records") })
	}
	return inv, g.Wait()
}

// device makes the portable value of a PCI function.
func (inv *inventory) device(ref xapi.Ref) hypervisor.DeviceInfo {
	p := inv.pcis[ref]
	h := inv.hosts[p.Host]
	i := hypervisor.DeviceInfo{ID: hypervisor.DeviceID(p.UUID), Host: hypervisor.HostID(h.UUID), Kind: hypervisor.PCIFunction, Vendor: hex4(p.VendorID),
		Product: hex4(p.DeviceID), VendorName: p.VendorName, ProductName: p.DeviceName, Address: p.Address, NUMANode: -1, IOMMUGroup: -1, Driver: p.Driver}
	// class_id is the class and subclass in hex, "0300".
	if c, err := strconv.ParseUint(p.ClassID, 16, 32); err == nil {
		i.ClassCode = uint32(c) << 8
	}
	i.Class = hypervisor.ClassOfPCI(i.ClassCode)
	for _, r := range p.Dependencies {
		i.GroupPeers = append(i.GroupPeers, hypervisor.DeviceID(inv.pcis[r].UUID))
	}
	for _, v := range inv.vms {
		if slices.Contains(v.AttachedPCIs, ref) || inv.names(v, p) {
			i.UsedBy = append(i.UsedBy, hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name})
		}
	}
	no := func(r hypervisor.ReasonCode, format string, args ...any) hypervisor.DeviceInfo {
		i.Reason, i.Detail = r, fmt.Sprintf(format, args...)
		return i
	}
	gpu, isGPU := inv.pgpuOf(ref)
	full := false
	if isGPU {
		i.Profiles = inv.profiles(gpu)
		if len(i.Profiles) > 0 {
			i.Kind = hypervisor.VGPUDevice
		}
		for _, r := range gpu.Resident {
			v := inv.vms[inv.vgpus[r].VM]
			i.UsedBy = append(i.UsedBy, hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name})
			full = full || inv.types[inv.vgpus[r].Type].Implementation == passthrough
		}
		full = full || len(gpu.Resident) > 0 && !slices.ContainsFunc(i.Profiles, func(p hypervisor.VGPUProfile) bool { return p.Available > 0 })
	} else {
		full = len(i.UsedBy) > 0
	}
	i.UsedBy = slices.CompactFunc(i.UsedBy, func(a, b hypervisor.Ref) bool { return a == b })
	switch {
	case h.Chipset["iommu"] != "true":
		return no(hypervisor.ReasonHostIOMMUOff, "the host's IOMMU is off: switch VT-d or AMD-Vi on in its firmware")
	case isGPU && gpu.Display && gpu.Dom0 != "disabled":
		return no(hypervisor.ReasonHostUsesDevice, "the host shows its console on this GPU: take it away with PrepareDevice and restart the host")
	case full:
		return no(hypervisor.ReasonDeviceInUse, "in use by %v", i.UsedBy)
	case i.Class == hypervisor.StorageCard || i.ClassCode>>16 == 0x06:
		return no(hypervisor.ReasonHostUsesDevice, "a bridge or storage controller that the host runs on")
	}
	i.Assignable = true
	return i
}

// hex4 takes the last four hex digits: "10de" of "10de" and "0x10de".
func hex4(s string) string {
	s = strings.ToLower(strings.TrimPrefix(s, "0x"))
	if len(s) < 4 {
		s = strings.Repeat("0", 4-len(s)) + s
	}
	return s
}

// names reports whether other_config:pci of a machine on the function's host,
// or on none, has its address.
func (inv *inventory) names(v vmRec, p pciRec) bool {
	if v.IsSnapshot || !slices.Contains(addresses(v.Other[pciKey]), p.Address) {
		return false
	}
	at := v.ResidentOn
	if at.IsNull() {
		at = v.Affinity
	}
	return at == p.Host
}

// addresses splits "0/0000:03:00.0,0/0000:03:00.1".
func addresses(s string) []string {
	var out []string
	for f := range strings.SplitSeq(s, ",") {
		if _, a, ok := strings.Cut(f, "/"); ok {
			out = append(out, a)
		}
	}
	return out
}

func (inv *inventory) pgpuOf(pci xapi.Ref) (pgpuRec, bool) {
	for _, g := range inv.pgpus {
		if g.PCI == pci {
			return g, true
		}
	}
	return pgpuRec{}, false
}

func (inv *inventory) profiles(g pgpuRec) []hypervisor.VGPUProfile {
	var out []hypervisor.VGPUProfile
	for _, r := range g.Enabled {
		t := inv.types[r]
		if t.Implementation == passthrough || t.UUID == "" {
			continue
		}
		p := hypervisor.VGPUProfile{ID: t.UUID, Name: t.Model, Bytes: t.Framebuffer, Max: int(g.Capacities[r])}
		// A GPU holds vGPUs of one type only (xapi_pgpu_helpers.ml).
		p.Available = p.Max - len(g.Resident)
		for _, v := range g.Resident {
			if inv.vgpus[v].Type != r {
				p.Available = 0
			}
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b hypervisor.VGPUProfile) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (inv *inventory) vgpuOf(uuid string) *vgpuRec {
	for _, v := range inv.vgpus {
		if v.UUID == uuid {
			return &v
		}
	}
	return nil
}

// devices lists what a machine has: its vGPUs and the functions of
// other_config:pci.
func (inv *inventory) devices(v vmRec) []hypervisor.AttachedDevice {
	var out []hypervisor.AttachedDevice
	for _, r := range v.VGPUs {
		g, ok := inv.vgpus[r]
		if !ok {
			continue
		}
		a := hypervisor.AttachedDevice{ID: hypervisor.AttachmentID(g.UUID)}
		if t := inv.types[g.Type]; t.Implementation != passthrough {
			a.Profile = t.UUID
		}
		if p, ok := inv.pcis[inv.pgpus[g.ResidentOn].PCI]; ok {
			a.Device, a.Address, a.Vendor, a.Product = hypervisor.DeviceID(p.UUID), p.Address, hex4(p.VendorID), hex4(p.DeviceID)
		}
		out = append(out, a)
	}
	for _, addr := range addresses(v.Other[pciKey]) {
		a := hypervisor.AttachedDevice{ID: hypervisor.AttachmentID("pci/" + addr), Address: addr}
		for _, p := range inv.pcis {
			if inv.names(v, p) && p.Address == addr {
				a.Device, a.Vendor, a.Product = hypervisor.DeviceID(p.UUID), hex4(p.VendorID), hex4(p.DeviceID)
			}
		}
		out = append(out, a)
	}
	return out
}

// AttachDevice makes a VGPU, of the type "passthrough" for a whole GPU, or
// sets other_config:pci for any other function. The machine must be off.
func (d *driver) AttachDevice(ctx context.Context, id hypervisor.VMID, r hypervisor.DeviceRequest) (hypervisor.DriverTask, error) {
	vm, v, err := d.vm(ctx, id)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name}
	if r.VirtualFunction {
		return nil, hypervisor.Unsupported(on, hypervisor.DeviceVF, hypervisor.ReasonPlatform, vfDetail)
	}
	k := r.Capability()
	if err := d.allowed(ctx, on, k); err != nil {
		return nil, err
	}
	inv, err := d.loadDevices(ctx)
	if err != nil {
		return nil, err
	}
	pci, info, err := inv.choose(on, r)
	if err != nil {
		return nil, err
	}
	if st := state(v.PowerState); st != hypervisor.Off {
		return nil, hypervisor.Unsupported(on, hypervisor.DeviceHotplug, hypervisor.ReasonPlatform, hotplugDetail)
	}
	if gpu, ok := inv.pgpuOf(pci); ok {
		t := inv.vgpuType(gpu, r.Profile)
		if t.IsNull() {
			return nil, hypervisor.Errorf(hypervisor.KindUnsupported, info.ID.Ref(), "this GPU can't be passed through whole: ask for one of its profiles")
		}
		return d.compose(ctx, "attach GPU", on, k, func(ctx context.Context, j *job) (hypervisor.Ref, error) {
			var ref xapi.Ref
			if err := d.c.Call(ctx, &ref, "VGPU.create", vm, gpu.Group, "0", map[string]string{}, t); err != nil {
				return on, err
			}
			var g vgpuRec
			err := d.c.Call(ctx, &g, "VGPU.get_record", ref)
			if r.ID != "" {
				j.notes = append(j.notes, "a GPU of the group of device "+string(r.ID)+" is chosen when the machine starts")
			}
			return hypervisor.Ref{Kind: hypervisor.KindOfDevice, ID: g.UUID}, err
		})
	}
	return d.compose(ctx, "attach device", on, k, func(ctx context.Context, j *job) (hypervisor.Ref, error) {
		other := maps.Clone(v.Other)
		all := []string{info.Address}
		for _, p := range info.GroupPeers { // functions that depend on each other go together
			for _, rec := range inv.pcis {
				if rec.UUID == string(p) {
					all = append(all, rec.Address)
					j.notes = append(j.notes, "device "+rec.Address+" goes along: it depends on "+info.Address)
				}
			}
		}
		have := other[pciKey]
		for _, a := range all {
			if have != "" {
				have += ","
			}
			have += "0/" + a
		}
		other[pciKey] = have
		if err := d.c.Call(ctx, nil, "VM.set_affinity", vm, inv.pcis[pci].Host); err != nil {
			return on, err
		}
		j.notes = append(j.notes, "the machine prefers the device's host from now on (affinity)")
		return hypervisor.Ref{Kind: hypervisor.KindOfDevice, ID: "pci/" + info.Address}, d.c.Call(ctx, nil, "VM.set_other_config", vm, other)
	})
}

// choose finds a function that matches and can be assigned.
func (inv *inventory) choose(on hypervisor.Ref, r hypervisor.DeviceRequest) (xapi.Ref, hypervisor.DeviceInfo, error) {
	f := hypervisor.DeviceFilter{ID: r.ID, Vendor: r.Vendor, Product: r.Product, Class: r.Class, Profile: r.Profile}
	var seen *hypervisor.DeviceInfo
	for _, ref := range slices.Sorted(maps.Keys(inv.pcis)) {
		i := inv.device(ref)
		if !f.Match(i) {
			continue
		}
		if i.Assignable {
			return ref, i, nil
		}
		seen = &i
	}
	switch {
	case seen == nil && r.ID != "":
		return "", hypervisor.DeviceInfo{}, notFound(r.ID.Ref(), "device")
	case seen == nil:
		return "", hypervisor.DeviceInfo{}, hypervisor.Errorf(hypervisor.KindExhausted, on, "no device of the pool matches %+v", r)
	case seen.Reason == hypervisor.ReasonDeviceInUse && r.ID != "":
		return "", *seen, hypervisor.Errorf(hypervisor.KindBusy, seen.ID.Ref(), "%s", seen.Detail)
	case seen.Reason == hypervisor.ReasonDeviceInUse:
		return "", *seen, hypervisor.Errorf(hypervisor.KindExhausted, on, "every device that matches %+v is in use", r)
	}
	return "", *seen, hypervisor.Unsupported(seen.ID.Ref(), r.Capability(), seen.Reason, seen.Detail)
}

func (inv *inventory) vgpuType(g pgpuRec, profile string) xapi.Ref {
	for _, r := range g.Enabled {
		t := inv.types[r]
		if profile == "" && t.Implementation == passthrough || profile != "" && (t.UUID == profile || t.Model == profile) {
			return r
		}
	}
	return xapi.Null
}

// DetachDevice destroys the VGPU, or takes the function out of
// other_config:pci. The machine must be off.
func (d *driver) DetachDevice(ctx context.Context, id hypervisor.VMID, a hypervisor.AttachmentID) (hypervisor.DriverTask, error) {
	vm, v, err := d.vm(ctx, id)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name}
	off := func() error {
		if state(v.PowerState) != hypervisor.Off {
			return hypervisor.Unsupported(on, hypervisor.DeviceHotplug, hypervisor.ReasonPlatform, hotplugDetail)
		}
		return nil
	}
	if addr, ok := strings.CutPrefix(string(a), "pci/"); ok {
		all := addresses(v.Other[pciKey])
		if !slices.Contains(all, addr) {
			return nil, notFound(hypervisor.Ref{Kind: hypervisor.KindOfDevice, ID: string(a)}, "device of this machine")
		}
		if err := off(); err != nil {
			return nil, err
		}
		other := maps.Clone(v.Other)
		all = slices.DeleteFunc(all, func(s string) bool { return s == addr })
		if delete(other, pciKey); len(all) > 0 {
			other[pciKey] = "0/" + strings.Join(all, ",0/")
		}
		if err := d.c.Call(ctx, nil, "VM.set_other_config", vm, other); err != nil {
			return nil, err
		}
		return done(on), nil
	}
	ref, err := d.byUUID(ctx, "VGPU", string(a))
	if err == nil && !slices.Contains(v.VGPUs, ref) {
		err = notFound(hypervisor.Ref{Kind: hypervisor.KindOfDevice, ID: string(a)}, "device of this machine")
	}
	if err == nil {
		err = off()
	}
	if err == nil {
		err = d.c.Call(ctx, nil, "VGPU.destroy", ref)
	}
	if err != nil {
		return nil, err
	}
	return done(on), nil
}

// PrepareDevice takes a GPU from the host's control domain or gives it back
// (PGPU.disable_dom0_access, PCI.disable_dom0_access). It counts after the
// host's next restart.
func (d *driver) PrepareDevice(ctx context.Context, id hypervisor.DeviceID, p hypervisor.DevicePreparation) (hypervisor.DriverTask, error) {
	pci, err := d.byUUID(ctx, "PCI", string(id))
	if err != nil {
		return nil, err
	}
	if p.VFs != nil {
		return nil, hypervisor.Unsupported(id.Ref(), hypervisor.DeviceVF, hypervisor.ReasonPlatform, vfDetail)
	}
	var all map[xapi.Ref]pgpuRec
	if err := d.c.Call(ctx, &all, "PGPU.get_all_records"); err != nil {
		return nil, err
	}
	method, self := "PCI.", pci
	for r, g := range all {
		if g.PCI == pci {
			method, self = "PGPU.", r
		}
	}
	if *p.Passthrough {
		method += "disable_dom0_access"
	} else {
		method += "enable_dom0_access"
	}
	var now string
	if err := d.c.Call(ctx, &now, method, self); err != nil {
		return nil, native(id.Ref(), hypervisor.DevicePrepare, err)
	}
	var notes []string
	if strings.HasSuffix(now, "_on_reboot") {
		notes = append(notes, "restart the host: until then the device stays as it is ("+now+")")
	}
	if !*p.Passthrough {
		notes = append(notes, "the host's drivers may use the device; machines can still be given it while it is free")
	}
	return done(id.Ref(), notes...), nil
}
