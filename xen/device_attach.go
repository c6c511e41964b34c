package xen

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// vgpuSlot returns the first free device number of a machine's vGPUs.
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
	vm, v, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name}
	if r.VirtualFunction {
		return nil, hypervisor.Unsupported(on, capability.DeviceVF, hypervisor.ReasonPlatform, vfDetail)
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
	if st := state(v.PowerState); st != hypervisor.StateOff {
		return nil, hypervisor.Unsupported(on, capability.DeviceHotplug, hypervisor.ReasonPlatform, hotplugDetail)
	}
	if gpu, ok := inv.pgpuOf(pci); ok {
		t := inv.vgpuType(gpu, r.Profile)
		if t.IsNull() {
			return nil, hypervisor.Unsupported(info.ID.Ref(), k, hypervisor.ReasonPlatform, "this GPU can't be passed through whole: ask for one of its profiles")
		}
		if r.ID != "" && !inv.alone(gpu) {
			return nil, hypervisor.Unsupported(info.ID.Ref(), k, hypervisor.ReasonPlatform, "XAPI chooses among the GPUs of a group when the machine starts: ask by vendor and product, or by a profile")
		}
		return d.compose(ctx, "attach GPU", on, k, "", func(ctx context.Context, j *poolJob) (hypervisor.Ref, error) {
			other := map[string]string{}
			ref, err := j.make(ctx, "VGPU", other, vm, gpu.Group, vgpuSlot(inv, v), other, t)
			if err != nil {
				return on, err
			}
			j.SetBack("the machine's vGPUs", func(ctx context.Context) error { return d.destroy(ctx, "VGPU", ref) })
			var g vgpuRec
			err = d.c.Call(ctx, &g, "VGPU.get_record", ref)
			return hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: g.UUID}, err
		})
	}
	return d.compose(ctx, "attach device", on, k, "", func(ctx context.Context, j *poolJob) (hypervisor.Ref, error) {
		other := maps.Clone(v.Other)
		all := []string{info.Address}
		for _, p := range info.GroupPeers { // functions that depend on each other are assigned together
			for _, rec := range inv.pcis {
				if rec.UUID == string(p) {
					all = append(all, rec.Address)
					j.Note("device " + rec.Address + " is attached too: it depends on " + info.Address)
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
		j.Note("the machine prefers the device's host from now on (affinity)")
		return hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: "pci/" + info.Address}, d.c.Call(ctx, nil, "VM.set_other_config", vm, other)
	})
}

// alone reports whether a GPU is the only one of its group.
func (inv *inventory) alone(gpu pgpuRec) bool {
	n := 0
	for _, g := range inv.pgpus {
		if g.Group == gpu.Group {
			n++
		}
	}
	return n == 1
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
		return "", hypervisor.DeviceInfo{}, hypervisor.Errorf(hypervisor.ErrExhausted, on, "no device of the pool matches %+v%s", r, inv.idsHint(r))
	case seen.Reason == hypervisor.ReasonDeviceInUse && r.ID != "":
		return "", *seen, hypervisor.Errorf(hypervisor.ErrBusy, seen.ID.Ref(), "%s", seen.Detail)
	case seen.Reason == hypervisor.ReasonDeviceInUse:
		return "", *seen, hypervisor.Errorf(hypervisor.ErrExhausted, on, "every device that matches %+v is in use", r)
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

// DetachDevice destroys the VGPU, or removes the function from
// other_config:pci. The machine must be off.
func (d *driver) DetachDevice(ctx context.Context, id hypervisor.VMID, a hypervisor.AttachmentID) (hypervisor.DriverTask, error) {
	vm, v, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name}
	off := func() error {
		if state(v.PowerState) != hypervisor.StateOff {
			return hypervisor.Unsupported(on, capability.DeviceHotplug, hypervisor.ReasonPlatform, hotplugDetail)
		}
		return nil
	}
	if addr, ok := strings.CutPrefix(string(a), "pci/"); ok {
		all := addresses(v.Other[pciKey])
		if !slices.Contains(all, addr) {
			return nil, notFound(hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: string(a)}, "device of this machine")
		}
		if err := off(); err != nil {
			return nil, err
		}
		other := maps.Clone(v.Other)
		all = slices.DeleteFunc(all, func(s string) bool { return s == addr })
		if delete(other, pciKey); len(all) > 0 {
			other[pciKey] = "0/" + strings.Join(all, ",0/")
		}
		return d.now(ctx, "detach device", on, capability.DevicePCI, func(ctx context.Context) error {
			return d.c.Call(ctx, nil, "VM.set_other_config", vm, other)
		})
	}
	ref, err := d.byUUID(ctx, "VGPU", string(a))
	if err == nil && !slices.Contains(v.VGPUs, ref) {
		err = notFound(hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: string(a)}, "device of this machine")
	}
	if err == nil {
		err = off()
	}
	if err != nil {
		return nil, err
	}
	return d.now(ctx, "detach device", on, capability.DeviceVGPU, func(ctx context.Context) error { return d.c.Call(ctx, nil, "VGPU.destroy", ref) })
}

// PrepareDevice takes a GPU from the host's control domain or gives it back
// (PGPU.disable_dom0_access, PCI.disable_dom0_access). The change takes
// effect after the host's next restart.
func (d *driver) PrepareDevice(ctx context.Context, id hypervisor.DeviceID, p hypervisor.DevicePreparation) (hypervisor.DriverTask, error) {
	pci, err := d.byUUID(ctx, "PCI", string(id))
	if err != nil {
		return nil, err
	}
	if err := d.allowed(ctx, id.Ref(), capability.DevicePrepare); err != nil {
		return nil, err
	}
	if p.VFs != nil {
		return nil, hypervisor.Unsupported(id.Ref(), capability.DeviceVF, hypervisor.ReasonPlatform, vfDetail)
	}
	var all map[xapi.Ref]pgpuRec
	if err := d.c.Call(ctx, &all, "PGPU.get_all_records"); err != nil {
		return nil, err
	}
	if p.Passthrough == nil {
		return done(id.Ref()), nil
	}
	method, self := "PCI.", pci
	for r, g := range all {
		if g.PCI == pci {
			method, self = "PGPU.", r
		}
	}
	if method == "PCI." && !d.has(pciAccess) {
		return nil, hypervisor.Unsupported(id.Ref(), capability.DevicePrepare, hypervisor.ReasonAPIVersion, pciAccessDetail)
	}
	if *p.Passthrough {
		method += "disable_dom0_access"
	} else {
		method += "enable_dom0_access"
	}
	return d.begin(ctx, "prepare device", id.Ref(), func(ctx context.Context) (hypervisor.DriverTask, error) {
		var now string
		if err := d.c.Call(ctx, &now, method, self); err != nil {
			return nil, native(id.Ref(), capability.DevicePrepare, err)
		}
		var notes []string
		if strings.HasSuffix(now, "_on_reboot") {
			notes = append(notes, "restart the host: until then the device stays as it is ("+now+")")
		}
		if !*p.Passthrough {
			notes = append(notes, "the host's drivers may use the device; machines can still be given it while it is free")
		}
		return done(id.Ref(), notes...), nil
	})
}
