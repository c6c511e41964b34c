package vsphere

import (
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// builder collects device changes, and assigns controllers, units and the
// negative keys by which changes of one call refer to each other.
type builder struct {
	devices []types.BaseVirtualDevice // existing and added
	changes []types.BaseVirtualDeviceConfigSpec
	key     int32
}

func newBuilder(existing []types.BaseVirtualDevice) *builder {
	return &builder{devices: append([]types.BaseVirtualDevice{}, existing...), key: -100}
}

func (b *builder) add(dev types.BaseVirtualDevice, file types.VirtualDeviceConfigSpecFileOperation) {
	v := dev.GetVirtualDevice()
	b.key--
	v.Key = b.key
	b.devices = append(b.devices, dev)
	b.changes = append(b.changes, &types.VirtualDeviceConfigSpec{
		Operation: types.VirtualDeviceConfigSpecOperationAdd, FileOperation: file, Device: dev})
}

// bus describes a kind of controller. Limits: vSphere configuration maximums.
type bus struct {
	units    int32 // per controller
	reserved int32 // unit of the controller itself, -1 if none
	limit    int   // number of controllers
	is       func(types.BaseVirtualDevice) bool
	make     func() types.BaseVirtualDevice
}

var buses = map[string]bus{
	"scsi": {16, 7, 4, func(d types.BaseVirtualDevice) bool { _, ok := d.(types.BaseVirtualSCSIController); return ok },
		func() types.BaseVirtualDevice {
			c := &types.ParaVirtualSCSIController{}
			c.SharedBus = types.VirtualSCSISharingNoSharing
			c.HotAddRemove = types.NewBool(true)
			return c
		}},
	"nvme": {15, -1, 4, func(d types.BaseVirtualDevice) bool { _, ok := d.(*types.VirtualNVMEController); return ok },
		func() types.BaseVirtualDevice { return &types.VirtualNVMEController{} }},
	"sata": {30, -1, 4, func(d types.BaseVirtualDevice) bool { _, ok := d.(types.BaseVirtualSATAController); return ok },
		func() types.BaseVirtualDevice { return &types.VirtualAHCIController{} }},
	"ide": {2, -1, 2, func(d types.BaseVirtualDevice) bool { _, ok := d.(*types.VirtualIDEController); return ok },
		func() types.BaseVirtualDevice { return &types.VirtualIDEController{} }},
}

func busOf(controller int32, list []types.BaseVirtualDevice) string {
	for _, d := range list {
		if d.GetVirtualDevice().Key == controller {
			for name, b := range buses {
				if b.is(d) {
					return name
				}
			}
		}
	}
	return ""
}

// slot finds a free unit on a controller of the kind, or adds a controller.
func (b *builder) slot(kind string) (key, unit int32, err error) {
	k, ok := buses[kind]
	if !ok {
		return 0, 0, invalidArgument(hypervisor.Ref{Kind: hypervisor.ObjectDisk}, "bus %q: vSphere has scsi, nvme, sata and ide", kind)
	}
	used := map[[2]int32]bool{}
	for _, d := range b.devices {
		if v := d.GetVirtualDevice(); v.UnitNumber != nil {
			used[[2]int32{v.ControllerKey, *v.UnitNumber}] = true
		}
	}
	numbers := map[int32]bool{}
	count := 0
	for _, d := range b.devices {
		if !k.is(d) {
			continue
		}
		count++
		if c, ok := d.(types.BaseVirtualController); ok {
			numbers[c.GetVirtualController().BusNumber] = true
		}
		key := d.GetVirtualDevice().Key
		for u := int32(0); u < k.units; u++ {
			if u != k.reserved && !used[[2]int32{key, u}] {
				return key, u, nil
			}
		}
	}
	if count == k.limit {
		if key, unit, ok := b.wide(used); ok && kind == "scsi" {
			return key, unit, nil
		}
		return 0, 0, hypervisor.Errorf(hypervisor.ErrExhausted, hypervisor.Ref{Kind: hypervisor.ObjectDisk}, "all %d %s controllers are full", count, kind)
	}
	c := k.make()
	for n := int32(0); ; n++ {
		if !numbers[n] {
			c.(types.BaseVirtualController).GetVirtualController().BusNumber = n
			break
		}
	}
	b.add(c, "")
	return c.GetVirtualDevice().Key, 0, nil
}

// wide finds a unit beyond those of all SCSI controllers: a paravirtual one has
// 64 from hardware version 14 on (vSphere configuration maximums).
func (b *builder) wide(used map[[2]int32]bool) (key, unit int32, ok bool) {
	for _, d := range b.devices {
		if _, ok := d.(*types.ParaVirtualSCSIController); !ok {
			continue
		}
		key := d.GetVirtualDevice().Key
		for u := int32(16); u < 64; u++ {
			if !used[[2]int32{key, u}] {
				return key, u, true
			}
		}
	}
	return 0, 0, false
}

func (b *builder) disk(s hypervisor.DiskSpec, back *types.VirtualDiskFlatVer2BackingInfo, op types.VirtualDeviceConfigSpecFileOperation) error {
	kind := s.Bus
	if kind == "" {
		kind = "scsi"
	}
	key, unit, err := b.slot(kind)
	if err != nil {
		return err
	}
	if s.ReadOnly {
		back.DiskMode = string(types.VirtualDiskModeIndependent_nonpersistent)
	}
	x := &types.VirtualDisk{CapacityInBytes: s.SizeBytes, CapacityInKB: s.SizeBytes / hypervisor.KiB}
	x.Backing, x.ControllerKey, x.UnitNumber = back, key, &unit
	b.add(x, op)
	return nil
}

func (b *builder) cdrom(s hypervisor.DiskSpec, back *types.VirtualCdromIsoBackingInfo) error {
	kind := s.Bus
	if kind == "" {
		kind = "sata"
	}
	key, unit, err := b.slot(kind)
	if err != nil {
		return err
	}
	x := &types.VirtualCdrom{}
	x.Backing, x.ControllerKey, x.UnitNumber = back, key, &unit
	x.Connectable = &types.VirtualDeviceConnectInfo{StartConnected: true, Connected: true, AllowGuestControl: true}
	b.add(x, "")
	return nil
}
