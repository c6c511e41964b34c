package vspheresim

import (
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// Maximums of the vSphere 8 configuration maximums.
const (
	maxNICs        = 10
	maxPassthrough = 16
	maxDiskKB      = int64(62) << 30 // 62 TB
	maxSCSIDisks   = 16              // unit 7 is the controller
	maxPVSCSIDisks = 65
	maxSATADisks   = 30
	maxNVMeDisks   = 64
	maxIDEDisks    = 2
	controllerUnit = 7
)

func deviceSpec(i int, property string) types.InvalidDeviceSpec {
	return types.InvalidDeviceSpec{InvalidVmConfig: types.InvalidVmConfig{Property: property}, DeviceIndex: int32(i)}
}

// checkDevices checks the device changes of a specification. cur is the devices of the machine.
func (s *Sim) checkDevices(changes []types.BaseVirtualDeviceConfigSpec, cur []types.BaseVirtualDevice,
	state types.VirtualMachinePowerState, h *simulator.HostSystem, self ref) types.BaseMethodFault {
	list := object.VirtualDeviceList(cur)
	after := append(object.VirtualDeviceList(nil), list...)
	for i, bc := range changes {
		if bc == nil || bc.GetVirtualDeviceConfigSpec().Device == nil {
			f := deviceSpec(i, "deviceChange")
			return &f
		}
		c := bc.GetVirtualDeviceConfigSpec()
		key := c.Device.GetVirtualDevice().Key
		switch c.Operation {
		case types.VirtualDeviceConfigSpecOperationAdd:
			if f := s.checkAdd(i, c, after, changes, state, h); f != nil {
				return f
			}
			after = append(after, c.Device)
		case types.VirtualDeviceConfigSpecOperationEdit, types.VirtualDeviceConfigSpecOperationRemove:
			old := list.FindByKey(key)
			if old == nil {
				f := deviceSpec(i, "deviceChange.device.key")
				return &f
			}
			if passthrough(old) && state != poweredOff {
				return &types.DeviceHotPlugNotSupported{InvalidDeviceSpec: deviceSpec(i, "deviceChange.device")}
			}
			if c.Operation == types.VirtualDeviceConfigSpecOperationRemove {
				if f := s.checkRemove(c, old, self); f != nil {
					return f
				}
				after = after.Select(func(d types.BaseVirtualDevice) bool { return d.GetVirtualDevice().Key != key })
				continue
			}
			if f := s.checkEdit(i, c, old, h); f != nil {
				return f
			}
		default:
			f := deviceSpec(i, "deviceChange.operation")
			return &f
		}
	}
	return checkCounts(after)
}

func (s *Sim) checkAdd(i int, c *types.VirtualDeviceConfigSpec, list object.VirtualDeviceList, changes []types.BaseVirtualDeviceConfigSpec,
	state types.VirtualMachinePowerState, h *simulator.HostSystem) types.BaseMethodFault {
	if state == suspended {
		return &types.InvalidPowerState{RequestedState: poweredOff, ExistingState: state}
	}
	switch d := c.Device.(type) {
	case *types.VirtualDisk:
		if f := s.checkDiskPlace(i, d, list, changes, state); f != nil {
			return f
		}
		return s.checkNewDisk(i, c, d, h)
	case *types.VirtualPCIPassthrough:
		if state != poweredOff {
			return &types.DeviceHotPlugNotSupported{InvalidDeviceSpec: deviceSpec(i, "deviceChange.device")}
		}
		return s.checkPassthrough(i, d, h)
	case *types.VirtualSriovEthernetCard:
		if state != poweredOff {
			return &types.DeviceHotPlugNotSupported{InvalidDeviceSpec: deviceSpec(i, "deviceChange.device")}
		}
		if !s.licensed(FeatureSRIOV) {
			return restricted()
		}
		return s.checkNetwork(i, d.GetVirtualEthernetCard(), h)
	case types.BaseVirtualEthernetCard:
		return s.checkNetwork(i, d.GetVirtualEthernetCard(), h)
	}
	return nil
}

// checkPassthrough checks a device of the host that a machine requests. API reference: InvalidDeviceBacking, "if the backing is not valid",
// DeviceBackingNotSupported.
func (s *Sim) checkPassthrough(i int, d *types.VirtualPCIPassthrough, h *simulator.HostSystem) types.BaseMethodFault {
	bad := &types.InvalidDeviceBacking{InvalidDeviceSpec: deviceSpec(i, "deviceChange.device.backing")}
	switch b := d.Backing.(type) {
	case *types.VirtualPCIPassthroughDeviceBackingInfo:
		if known, ready := active(h, b.Id); !known || !ready {
			return bad
		}
	case *types.VirtualPCIPassthroughDynamicBackingInfo:
		if len(b.AllowedDevice) == 0 && b.CustomLabel == "" {
			return bad
		}
	case *types.VirtualPCIPassthroughVmiopBackingInfo:
		if !s.licensed(FeatureVGPU) {
			return restricted()
		}
		if !s.profileKnown(b.Vgpu, h) {
			return bad
		}
	case *types.VirtualPCIPassthroughDvxBackingInfo:
	default:
		return bad
	}
	return nil
}

// profileKnown reports whether a host of the cluster offers a vGPU profile.
func (s *Sim) profileKnown(profile string, h *simulator.HostSystem) bool {
	c := s.computeOfHost(h)
	if c == nil {
		return contains(h.Config.SharedPassthruGpuTypes, profile)
	}
	for _, r := range c.Host {
		if x := s.host(r); x != nil && contains(x.Config.SharedPassthruGpuTypes, profile) {
			return true
		}
	}
	return false
}

// checkNetwork checks that the network of a card exists on the host. govmomi's simulator ends the process over a name that does not exist.
func (s *Sim) checkNetwork(i int, card *types.VirtualEthernetCard, h *simulator.HostSystem) types.BaseMethodFault {
	bad := &types.InvalidDeviceBacking{InvalidDeviceSpec: deviceSpec(i, "deviceChange.device.backing")}
	switch b := card.Backing.(type) {
	case *types.VirtualEthernetCardNetworkBackingInfo:
		for _, r := range s.networksOf(h) {
			if n, ok := s.registry().Get(r).(*mo.Network); ok && n.Name == b.DeviceName {
				return nil
			}
		}
		return bad
	case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
		pg, ok := s.registry().Get(ref{Type: "DistributedVirtualPortgroup", Value: b.Port.PortgroupKey}).(*simulator.DistributedVirtualPortgroup)
		if !ok {
			return bad
		}
		if dvs, ok := s.registry().Get(*pg.Config.DistributedVirtualSwitch).(*simulator.DistributedVirtualSwitch); !ok || dvs.Uuid != b.Port.SwitchUuid {
			return bad
		}
	case *types.VirtualEthernetCardOpaqueNetworkBackingInfo:
		if s.opaqueOf(h, b.OpaqueNetworkId) == nil {
			return bad
		}
	}
	return nil
}

// networksOf is the networks that a host, or the wrapper of a stand-alone host, has.
func (s *Sim) networksOf(h *simulator.HostSystem) []ref {
	list := append([]ref(nil), h.Network...)
	if c := s.computeOfHost(h); c != nil {
		list = append(list, c.Network...)
	}
	if dc := s.datacenterOf(h); dc != nil {
		list = append(list, dc.Network...)
	}
	return list
}

// checkRemove refuses to destroy a disk that backs another machine. vSphere's programming guide, "Removing Snapshots and Deleting Linked Virtual
// Machines": a disk that is shared is not deleted. That it is a fault here is believed.
func (s *Sim) checkRemove(c *types.VirtualDeviceConfigSpec, old types.BaseVirtualDevice, self ref) types.BaseMethodFault {
	d, ok := old.(*types.VirtualDisk)
	if !ok || c.FileOperation != types.VirtualDeviceConfigSpecFileOperationDestroy {
		return nil
	}
	if chain := chainOf(d); len(chain) > 0 {
		if held := s.holders(keysOf(d)[0], self); len(held) > 0 {
			return &types.FileLocked{FileFault: types.FileFault{File: chain[0]}}
		}
	}
	return nil
}

func (s *Sim) checkEdit(i int, c *types.VirtualDeviceConfigSpec, old types.BaseVirtualDevice, h *simulator.HostSystem) types.BaseMethodFault {
	switch d := c.Device.(type) {
	case *types.VirtualDisk:
		o, ok := old.(*types.VirtualDisk)
		if !ok {
			f := deviceSpec(i, "deviceChange.device")
			return &f
		}
		size := wantedSize(d, o)
		switch {
		case size < o.CapacityInBytes:
			return &types.InvalidDeviceOperation{InvalidDeviceSpec: deviceSpec(i, "deviceChange.device.capacityInKB"), BadOp: c.Operation}
		case size > o.CapacityInBytes && len(chainOf(o)) > 1:
			// vSphere documentation: a disk of a machine with snapshots, or of a linked clone, cannot grow.
			return &types.InvalidDeviceOperation{InvalidDeviceSpec: deviceSpec(i, "deviceChange.device.capacityInKB"), BadOp: c.Operation}
		case size > maxDiskKB<<10:
			f := deviceSpec(i, "deviceChange.device.capacityInKB")
			return &f
		}
	case types.BaseVirtualEthernetCard:
		return s.checkNetwork(i, d.GetVirtualEthernetCard(), h)
	}
	return nil
}

// wantedSize returns the size that an edit requests. API reference: VirtualDisk.capacityInBytes; "If both capacityInKB and capacityInBytes are
// specified, capacityInKB is ignored". Clients that read, change capacityInKB and write back send the old capacityInBytes too: a value that has not
// changed does not count (measured at govmomi's simulator, believed of vCenter).
func wantedSize(d, old *types.VirtualDisk) int64 {
	switch {
	case d.CapacityInBytes != 0 && (old == nil || d.CapacityInBytes != old.CapacityInBytes):
		return d.CapacityInBytes
	case d.CapacityInKB != 0:
		return d.CapacityInKB << 10
	case d.CapacityInBytes != 0:
		return d.CapacityInBytes
	case old != nil:
		return old.CapacityInBytes
	}
	return 0
}

// checkCounts checks how many devices of each kind there are. API reference: TooManyDevices.
func checkCounts(list object.VirtualDeviceList) types.BaseMethodFault {
	nics, pci := 0, 0
	for _, d := range list {
		switch d.(type) {
		case types.BaseVirtualEthernetCard:
			nics++
		case *types.VirtualPCIPassthrough:
			pci++
		}
	}
	if nics > maxNICs || pci > maxPassthrough {
		return new(types.TooManyDevices)
	}
	return nil
}
