package vspheresim

import (
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// unitsOf returns the number of disks that a controller takes, or zero for anything that is not a disk controller.
func unitsOf(d types.BaseVirtualDevice) int32 {
	switch d.(type) {
	case *types.ParaVirtualSCSIController:
		return maxPVSCSIDisks
	case types.BaseVirtualSCSIController:
		return maxSCSIDisks
	case *types.VirtualNVMEController:
		return maxNVMeDisks
	case types.BaseVirtualSATAController:
		return maxSATADisks
	case *types.VirtualIDEController:
		return maxIDEDisks
	}
	return 0
}

// checkDiskPlace checks the controller and the unit of a new disk. API reference: InvalidController "if there is no such
// controller", InvalidDeviceSpec, TooManyDevices.
func (s *Sim) checkDiskPlace(i int, d *types.VirtualDisk, list object.VirtualDeviceList, changes []types.BaseVirtualDeviceConfigSpec,
	state types.VirtualMachinePowerState) types.BaseMethodFault {
	controller := list.FindByKey(d.ControllerKey)
	if controller == nil {
		for _, c := range changes {
			x := c.GetVirtualDeviceConfigSpec()
			if x.Operation == types.VirtualDeviceConfigSpecOperationAdd && x.Device != nil && x.Device.GetVirtualDevice().Key == d.ControllerKey {
				controller = x.Device
			}
		}
	}
	units := int32(0)
	if controller != nil {
		units = unitsOf(controller)
	}
	if units == 0 {
		return &types.InvalidController{InvalidDeviceSpec: deviceSpec(i, "deviceChange.device.controllerKey"), ControllerKey: d.ControllerKey}
	}
	if _, ide := controller.(*types.VirtualIDEController); ide && state != poweredOff {
		return &types.DeviceHotPlugNotSupported{InvalidDeviceSpec: deviceSpec(i, "deviceChange.device")}
	}
	if d.UnitNumber == nil {
		return nil
	}
	unit := *d.UnitNumber
	_, scsi := controller.(types.BaseVirtualSCSIController)
	if unit < 0 || unit >= units || scsi && unit == controllerUnit {
		f := deviceSpec(i, "deviceChange.device.unitNumber")
		return &f
	}
	for _, o := range list {
		x := o.GetVirtualDevice()
		if x.ControllerKey == d.ControllerKey && x.UnitNumber != nil && *x.UnitNumber == unit {
			f := deviceSpec(i, "deviceChange.device.unitNumber")
			return &f
		}
	}
	return nil
}

// checkNewDisk checks the file of a new disk. API reference: InvalidDatastorePath, InvalidDatastore, FileNotFound, NoDiskSpace,
// InvalidDeviceSpec.
func (s *Sim) checkNewDisk(i int, c *types.VirtualDeviceConfigSpec, d *types.VirtualDisk, h *simulator.HostSystem) types.BaseMethodFault {
	fb, ok := d.Backing.(types.BaseVirtualDeviceFileBackingInfo)
	if !ok {
		return nil // a raw device
	}
	if _, old := d.Backing.(*types.VirtualDiskSparseVer2BackingInfo); old {
		return &types.DeviceUnsupportedForVmPlatform{InvalidDeviceSpec: deviceSpec(i, "deviceChange.device.backing")}
	}
	b := fb.GetVirtualDeviceFileBackingInfo()
	var ds *simulator.Datastore
	if b.FileName != "" {
		var p object.DatastorePath
		if !p.FromString(b.FileName) {
			return &types.InvalidDatastorePath{InvalidDatastore: types.InvalidDatastore{Name: b.FileName}, DatastorePath: b.FileName}
		}
		if ds = s.datastoreByName(h, p.Datastore); ds == nil {
			return &types.InvalidDatastore{Name: p.Datastore}
		}
	}
	if b.Datastore != nil && b.Datastore.Value != "" {
		if ds = s.datastore(*b.Datastore); ds == nil || !has(h.Datastore, ds.Self) {
			return &types.InvalidDatastore{Datastore: b.Datastore}
		}
	}
	if c.FileOperation == "" {
		if !s.diskExists(h, b.FileName) {
			return &types.FileNotFound{FileFault: types.FileFault{File: b.FileName}}
		}
		return nil
	}
	flat, _ := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	if flat != nil && flat.Parent != nil {
		if !s.diskExists(h, flat.Parent.FileName) {
			f := deviceSpec(i, "deviceChange.device.backing.parent.fileName")
			return &f
		}
		return nil // the size is that of the parent
	}
	size := wantedSize(d, nil)
	if size <= 0 || size > maxDiskKB<<10 {
		f := deviceSpec(i, "deviceChange.device.capacityInKB")
		return &f
	}
	thin := flat != nil && isTrue(flat.ThinProvisioned)
	if ds != nil && !thin && size > ds.Summary.FreeSpace {
		return &types.NoDiskSpace{FileFault: types.FileFault{File: b.FileName}, Datastore: ds.Name}
	}
	return nil
}
