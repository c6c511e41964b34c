package vsphere

import (
	"context"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
)

// AttachDevice adds a device with what it requires: all memory reserved, and
// for GPUs a 64-bit MMIO window that holds their memory. A request by ID gets
// a fixed device. One by kind gets dynamic DirectPath I/O (vSphere 7), which
// leaves the host free. One by profile gets a vGPU, and a virtual function is
// an SR-IOV adapter.
func (d *driver) AttachDevice(ctx context.Context, id hypervisor.VMID, r hypervisor.DeviceRequest) (hypervisor.DriverTask, error) {
	s, err := d.supports(ctx, r.Capability())
	if err != nil {
		return nil, err
	}
	if s.Level == hypervisor.LevelNo {
		return nil, hypervisor.Unsupported(id.Ref(), r.Capability(), s.Reason, s.Detail)
	}
	v, devs, err := d.read(ctx, id)
	if err != nil {
		return nil, err
	}
	all, err := d.hostDevices(ctx, nil)
	if err != nil {
		return nil, err
	}
	list, err := choose(all, v, r)
	if err != nil {
		return nil, err
	}
	if v.State != hypervisor.StateOff {
		return nil, hypervisor.Unsupported(id.Ref(), capability.DeviceHotplug, hypervisor.ReasonPlatform, noHotDevice)
	}
	b := newBuilder(devs.VirtualDevice)
	switch {
	case r.Profile != "":
		x := &types.VirtualPCIPassthrough{}
		x.Backing = &types.VirtualPCIPassthroughVmiopBackingInfo{Vgpu: r.Profile}
		b.add(x, "")
	case r.VirtualFunction:
		card, err := d.sriovNIC(ctx, v, list[0])
		if err != nil {
			return nil, err
		}
		b.add(card, "")
	case r.ID == "" && d.has("VirtualPCIPassthroughDynamicBackingInfo"):
		back := &types.VirtualPCIPassthroughDynamicBackingInfo{}
		for _, x := range list {
			a := types.VirtualPCIPassthroughAllowedDevice{VendorId: int32(uint16(x.pci.VendorId)), DeviceId: int32(uint16(x.pci.DeviceId))}
			if !slices.Contains(back.AllowedDevice, a) {
				back.AllowedDevice = append(back.AllowedDevice, a)
			}
		}
		x := &types.VirtualPCIPassthrough{}
		x.Backing = back
		b.add(x, "")
	default:
		pick := list[0]
		x := &types.VirtualPCIPassthrough{}
		x.Backing = &types.VirtualPCIPassthroughDeviceBackingInfo{Id: pick.pci.Id, DeviceId: fmt.Sprintf("%x", uint16(pick.pci.DeviceId)),
			SystemId: pick.system, VendorId: pick.pci.VendorId, VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: pick.pci.DeviceName}}
		b.add(x, "")
	}
	spec := types.VirtualMachineConfigSpec{DeviceChange: b.changes, MemoryReservationLockedToMax: types.NewBool(true),
		MemoryAllocation: &types.ResourceAllocationInfo{Reservation: types.NewInt64(v.MemoryBytes / hypervisor.MiB)}}
	notes := []string{fmt.Sprintf("all %d MiB of memory are reserved: vSphere demands it for passed-through devices", v.MemoryBytes/hypervisor.MiB)}
	if extra, note := mmioWindow(all, v, list[0], r); note != "" {
		spec.ExtraConfig = extra
		notes = append(notes, note)
	}
	return d.reconfigJob(ctx, id, spec, func(ctx context.Context) (hypervisor.Ref, error) {
		now, _, err := d.read(ctx, id)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		for _, x := range now.Devices {
			if !slices.ContainsFunc(v.Devices, func(o hypervisor.AttachedDevice) bool { return o.ID == x.ID }) {
				return hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: string(x.ID)}, nil
			}
		}
		return hypervisor.Ref{}, hypervisor.Errorf(hypervisor.ErrUnknown, id.Ref(), "the server reports success and no new device")
	}, notes...)
}

// choose returns the devices that match a request, those of the machine's own
// host first.
func choose(all []hostDevice, v hypervisor.VMInfo, r hypervisor.DeviceRequest) ([]hostDevice, error) {
	on := v.ID.Ref()
	f := hypervisor.DeviceFilter{ID: r.ID, Vendor: r.Vendor, Product: r.Product, Class: r.Class, Profile: r.Profile}
	var match, free []hostDevice
	for _, x := range all {
		if !f.Match(x.DeviceInfo) || r.VirtualFunction && !x.sriov {
			continue
		}
		match = append(match, x)
		ok := x.Assignable
		switch {
		case r.Profile != "":
			ok = slices.ContainsFunc(x.Profiles, func(p hypervisor.VGPUProfile) bool { return p.ID == r.Profile && p.Available > 0 })
		case r.VirtualFunction:
			ok = x.VFs > len(x.UsedBy)
		case x.Kind == hypervisor.DeviceKindVGPU:
			ok = false // its host's driver uses it
		}
		if ok {
			free = append(free, x)
		}
	}
	switch {
	case len(match) == 0 && r.ID != "":
		return nil, notFound(r.ID.Ref())
	case len(match) == 0:
		return nil, hypervisor.Errorf(hypervisor.ErrExhausted, on, "no host has a device that matches the request")
	case len(free) == 0:
		x := match[0]
		if x.Reason == hypervisor.ReasonDeviceInUse {
			k := hypervisor.ErrExhausted
			if r.ID != "" {
				k = hypervisor.ErrBusy
			}
			return nil, hypervisor.Errorf(k, x.ID.Ref(), "none of %d devices that match is free: %s", len(match), x.Detail)
		}
		reason, detail := x.Reason, x.Detail
		if reason == "" {
			reason, detail = hypervisor.ReasonDevicePrepare, "the device is not set up for this: prepare it first"
		}
		return nil, hypervisor.Unsupported(x.ID.Ref(), r.Capability(), reason, detail)
	}
	near := slices.IndexFunc(free, func(x hostDevice) bool { return x.Host == v.Host })
	if near > 0 {
		free[0], free[near] = free[near], free[0]
	}
	if near < 0 && (r.ID != "" || r.VirtualFunction) {
		return nil, hypervisor.Errorf(hypervisor.ErrIncompatible, on, "device %s is on host %s and the machine on %s: move the machine there first", free[0].ID, free[0].Host, v.Host)
	}
	return free, nil
}

// mmioWindow computes the 64-bit MMIO window. vSphere needs it above 4 GiB
// for devices with large memory regions. Its size is the next power of two
// above the sum of the GPUs' memory (VMware knowledge base 2142307).
func mmioWindow(all []hostDevice, v hypervisor.VMInfo, pick hostDevice, r hypervisor.DeviceRequest) ([]types.BaseOptionValue, string) {
	if r.Profile != "" || r.VirtualFunction || pick.Class != hypervisor.ClassDisplay && pick.Class != hypervisor.ClassAccelerator || pick.memory == 0 {
		return nil, ""
	}
	sum := pick.memory
	for _, a := range v.Devices {
		for _, x := range all {
			if x.ID == a.Device || a.Device == "" && a.Vendor == x.Vendor && a.Product == x.Product {
				sum += x.memory
				break
			}
		}
	}
	gib := uint64((sum + hypervisor.GiB - 1) / hypervisor.GiB)
	size := uint64(1) << bits.Len64(gib) // the next power of two above
	note := fmt.Sprintf("pciPassthru.use64bitMMIO is on with a window of %d GiB for %d GiB of device memory", size, gib)
	if v.Firmware == hypervisor.FirmwareBIOS {
		note += "; a guest with BIOS firmware may not reach it: use UEFI"
	}
	return []types.BaseOptionValue{
		&types.OptionValue{Key: "pciPassthru.use64bitMMIO", Value: "TRUE"},
		&types.OptionValue{Key: "pciPassthru.64bitMMIOSizeGB", Value: fmt.Sprint(size)},
	}, note
}

// sriovNIC makes an adapter on a virtual function of a card.
func (d *driver) sriovNIC(ctx context.Context, v hypervisor.VMInfo, pick hostDevice) (types.BaseVirtualDevice, error) {
	list, err := d.computes(ctx)
	if err != nil {
		return nil, err
	}
	var c *compute
	for i := range list {
		if slices.Contains(list[i].hosts, hostRef(v.Host)) {
			c = &list[i]
		}
	}
	net, err := d.defaultNetwork(ctx, c)
	if err != nil {
		return nil, err
	}
	back, err := d.netBacking(ctx, net)
	if err != nil {
		return nil, err
	}
	x := &types.VirtualSriovEthernetCard{SriovBacking: &types.VirtualSriovEthernetCardSriovBackingInfo{
		PhysicalFunctionBacking: &types.VirtualPCIPassthroughDeviceBackingInfo{Id: pick.pci.Id, DeviceId: fmt.Sprintf("%x", uint16(pick.pci.DeviceId)),
			SystemId: pick.system, VendorId: pick.pci.VendorId, VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: pick.pci.DeviceName}}}}
	x.Backing = back
	x.AddressType = string(types.VirtualEthernetCardMacTypeGenerated)
	return x, nil
}

// DetachDevice removes a device. The memory's reservation stays as it is:
// only the caller knows whether it was there before.
func (d *driver) DetachDevice(ctx context.Context, id hypervisor.VMID, a hypervisor.AttachmentID) (hypervisor.DriverTask, error) {
	v, devs, err := d.read(ctx, id)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(v.Devices, func(x hypervisor.AttachedDevice) bool { return x.ID == a }) {
		return nil, notFound(hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: string(a)})
	}
	if v.State != hypervisor.StateOff {
		return nil, hypervisor.Unsupported(id.Ref(), capability.DeviceHotplug, hypervisor.ReasonPlatform, noHotDevice)
	}
	return d.reconfigJob(ctx, id, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
		&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: findDevice(devs.VirtualDevice, string(a))}}},
		nil, "the machine's memory stays reserved")
}

// PrepareDevice calls HostPciPassthruSystem.UpdatePassthruConfig with
// applyNow.
func (d *driver) PrepareDevice(ctx context.Context, id hypervisor.DeviceID, p hypervisor.DevicePreparation) (hypervisor.DriverTask, error) {
	h, address, ok := strings.Cut(string(id), "/")
	if !ok {
		return nil, notFound(id.Ref())
	}
	host := hostRef(hypervisor.HostID(h))
	find := func(ctx context.Context) (hostDevice, error) {
		list, err := d.hostDevices(ctx, &host)
		if err != nil {
			return hostDevice{}, err
		}
		i := slices.IndexFunc(list, func(x hostDevice) bool { return x.ID == id })
		if i < 0 {
			return hostDevice{}, notFound(id.Ref())
		}
		return list[i], nil
	}
	x, err := find(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case len(x.UsedBy) > 0:
		return nil, d.busyWith(ctx, id.Ref(), "the device is in use", x.UsedBy, "detach it from them first")
	case !x.capable && p.Passthrough != nil && *p.Passthrough:
		return nil, hypervisor.Unsupported(id.Ref(), capability.DevicePrepare, x.Reason, x.Detail)
	case p.VFs != nil && (!x.sriov || *p.VFs > x.MaxVFs):
		return nil, hypervisor.Unsupported(id.Ref(), capability.DevicePrepare, hypervisor.ReasonPlatform, fmt.Sprintf("the device offers at most %d virtual functions", x.MaxVFs))
	}
	hp, err := d.one(ctx, host, "configManager.pciPassthruSystem")
	if err != nil {
		return nil, err
	}
	change := types.HostPciPassthruConfig{Id: address, ApplyNow: types.NewBool(true), PassthruEnabled: x.Assignable && x.Kind == hypervisor.DeviceKindPCI && !x.sriov}
	if p.Passthrough != nil {
		change.PassthruEnabled = *p.Passthrough
	}
	var config types.BaseHostPciPassthruConfig = &change
	if p.VFs != nil {
		config = &types.HostSriovConfig{HostPciPassthruConfig: change, SriovEnabled: *p.VFs > 0, NumVirtualFunction: int32(*p.VFs)}
	}
	return d.compose(ctx, "prepare", id.Ref(), func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		ctx = context.WithoutCancel(ctx) // the call changes the host, whether it is waited for or not
		if _, err := methods.UpdatePassthruConfig(ctx, d.rt, &types.UpdatePassthruConfig{This: hp.ref("configManager.pciPassthruSystem"),
			Config: []types.BaseHostPciPassthruConfig{config}}); err != nil {
			return id.Ref(), err
		}
		now, err := find(ctx)
		if err == nil && (p.Passthrough != nil && *p.Passthrough != (now.Driver != "") || p.VFs != nil && *p.VFs != now.VFs) {
			j.Note("the change takes effect after the host's next restart")
		}
		return id.Ref(), err
	})
}
