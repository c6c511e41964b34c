package xen

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// vgpuSlot is the first free device number of a machine's vGPUs.
func vgpuSlot(inv *inventory, v vmRec) string {
	for n := 0; ; n++ {
		s := strconv.Itoa(n)
		if !slices.ContainsFunc(v.VGPUs, func(r xapi.Ref) bool { return inv.vgpus[r].Device == s }) {
			return s
		}
	}
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
		return d.compose(ctx, "attach GPU", on, k, "", func(ctx context.Context, j *job) (hypervisor.Ref, error) {
			other := map[string]string{}
			ref, err := j.make(ctx, "VGPU", other, vm, gpu.Group, vgpuSlot(inv, v), other, t)
			if err != nil {
				return on, err
			}
			j.undo = append(j.undo, func(ctx context.Context) error { return d.destroy(ctx, "VGPU", ref) })
			var g vgpuRec
			err = d.c.Call(ctx, &g, "VGPU.get_record", ref)
			if r.ID != "" {
				j.notes = append(j.notes, "a GPU of the group of device "+string(r.ID)+" is chosen when the machine starts")
			}
			return hypervisor.Ref{Kind: hypervisor.KindOfDevice, ID: g.UUID}, err
		})
	}
	return d.compose(ctx, "attach device", on, k, "", func(ctx context.Context, j *job) (hypervisor.Ref, error) {
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
