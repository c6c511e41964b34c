package vspheresim

import (
	"path"
	"strings"

	"github.com/google/uuid"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// folderFront answers the calls on folders.
type folderFront struct{ receiver }

// CreateVMTask: API reference Folder.CreateVM_Task; DuplicateName, InvalidName, InvalidDatastore, VmConfigFault, AlreadyExists,
// InvalidState for a host in maintenance mode.
func (f *folderFront) CreateVMTask(ctx *simulator.Context, req *types.CreateVM_Task) soap.HasFault {
	s := f.sim
	var at place
	return &methods.CreateVM_TaskBody{Res: &types.CreateVM_TaskResponse{Returnval: s.start(ctx, job{
		method: "CreateVM_Task", id: "Folder.createVm", entity: req.This, cancel: true,
		check: func() (fault types.BaseMethodFault) {
			at, fault = s.checkCreate(req)
			return fault
		},
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) { return s.create(ctx, req, at) },
	})}}
}

func (s *Sim) checkCreate(req *types.CreateVM_Task) (place, types.BaseMethodFault) {
	spec := &req.Config
	if fault := s.checkName(spec.Name, req.This, ref{}); fault != nil {
		return place{}, fault
	}
	if spec.Files == nil || spec.Files.VmPathName == "" {
		return place{}, &types.InvalidVmConfig{Property: "configSpec.files.vmPathName"}
	}
	d := dsPath(spec.Files.VmPathName)
	dc := s.datacenterOf(s.registry().Get(req.This).(*simulator.Folder))
	if dc == nil {
		return place{}, &types.InvalidFolder{Target: req.This}
	}
	var datastore *ref
	for _, r := range dc.Datastore {
		if ds := s.datastore(r); ds != nil && ds.Name == d.Datastore {
			datastore = &ds.Self
		}
	}
	if datastore == nil {
		return place{}, &types.InvalidDatastore{Name: d.Datastore}
	}
	at, fault := s.choose(place{}, &req.This, &req.Pool, req.Host, datastore, nil)
	if fault != nil {
		return at, fault
	}
	h := s.host(at.host)
	if fault := s.checkSpec(spec, nil, poweredOff, h); fault != nil {
		return at, fault
	}
	if spec.VAppConfig != nil && len(spec.VAppConfig.GetVmConfigSpec().Property) > 0 && spec.VAppConfig.GetVmConfigSpec().Property[0].Info == nil {
		return at, invalid("configSpec.vAppConfig")
	}
	var defaults []types.BaseVirtualDevice
	for _, k := range []int32{200, 201, 100} {
		defaults = append(defaults, defaultController(k))
	}
	return at, s.checkDevices(spec.DeviceChange, defaults, poweredOff, h, ref{})
}

// defaultController is one of the controllers that every machine has.
func defaultController(key int32) types.BaseVirtualDevice {
	if key == 100 {
		c := new(types.VirtualPCIController)
		c.Key = key
		return c
	}
	c := new(types.VirtualIDEController)
	c.Key = key
	return c
}

func (s *Sim) create(ctx *simulator.Context, req *types.CreateVM_Task, at place) (types.AnyType, types.BaseMethodFault) {
	folder, ok := s.registry().Get(req.This).(*simulator.Folder)
	if !ok {
		return nil, &types.InvalidFolder{Target: req.This}
	}
	spec := clone(req.Config)
	spec.Name = escapeName(spec.Name)
	if spec.Version == "" {
		spec.Version = s.release().hardware
	}
	if spec.NumCPUs == 0 {
		spec.NumCPUs = 1
	}
	if spec.MemoryMB == 0 {
		spec.MemoryMB = 128
	}
	if spec.GuestId == "" {
		spec.GuestId = string(types.VirtualMachineGuestOsIdentifierOtherGuest)
	}
	d := dsPath(spec.Files.VmPathName)
	if !strings.HasSuffix(d.Path, ".vmx") {
		dir := d.Path
		if dir == "" {
			dir = s.freeDir(at, spec.Name)
		}
		d.Path = path.Join(dir, spec.Name+".vmx")
	}
	spec.Files.VmPathName = d.String()
	dir := dsJoin(d.Datastore, path.Dir(d.Path))
	spec.Files.LogDirectory, spec.Files.SnapshotDirectory, spec.Files.SuspendDirectory = dir, dir, dir
	after := types.VirtualMachineConfigSpec{}
	disks, keys := splitDisks(&spec)
	for _, c := range disks {
		after.DeviceChange = append(after.DeviceChange, c)
	}

	s.addresses(&spec)
	spec.Name = plainName(spec.Name) // govmomi's simulator escapes every percent sign
	body := folder.CreateVMTask(ctx, &types.CreateVM_Task{This: req.This, Config: spec, Pool: req.Pool, Host: &at.host})
	res, fault := s.native(ctx, body, func() ref { return body.(*methods.CreateVM_TaskBody).Res.Returnval })
	if fault != nil {
		return nil, fault
	}
	vm := s.vm(res.(ref))
	s.mutate(ctx, vm, func() {
		vm.Config.Hardware.Device = append([]types.BaseVirtualDevice(nil), vm.Config.Hardware.Device...)
		for _, c := range disks {
			s.applyDisk(ctx, vm, c, keys)
		}
		if !isTrue(spec.CpuHotAddEnabled) && vm.Config.CpuHotAddEnabled == nil {
			vm.Config.CpuHotAddEnabled, vm.Config.MemoryHotAddEnabled = types.NewBool(false), orFalse(vm.Config.MemoryHotAddEnabled)
		}
		s.settle(vm, &spec)
		s.ownUuid(vm)
	})
	s.linkDatastores(ctx, vm)
	s.touchFiles(&vm.VirtualMachine)
	s.takeSpace(ctx, at.datastore, usedSpace(vm.Config.Hardware.Device))
	return res, nil
}

// ownUuid gives a machine another instance UUID if a machine has the requested one. API reference: VirtualMachineConfigSpec.instanceUuid, "allowing
// the Virtual Infrastructure environment to assign or change it when VirtualCenter detects an identifier conflict between virtual machines". The
// caller holds the machine's lock.
func (s *Sim) ownUuid(vm *simulator.VirtualMachine) {
	for _, o := range s.allVMs() {
		if o.Self != vm.Self && o.Config != nil && o.Config.InstanceUuid == vm.Config.InstanceUuid {
			vm.Config.InstanceUuid = uuid.NewString()
			vm.Summary.Config.InstanceUuid = vm.Config.InstanceUuid
			return
		}
	}
}

func orFalse(b *bool) *bool {
	if b == nil {
		return types.NewBool(false)
	}
	return b
}

// linkDatastores makes exactly the datastores that a machine uses list it.
func (s *Sim) linkDatastores(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	for _, e := range s.registry().All("Datastore") {
		d, ok := e.(*simulator.Datastore)
		if !ok {
			continue
		}
		uses, listed := has(vm.Datastore, d.Self), has(d.Vm, vm.Self)
		switch {
		case uses && !listed:
			s.setList(ctx, d, "vm", append(without(d.Vm, vm.Self), vm.Self))
		case listed && !uses:
			s.setList(ctx, d, "vm", without(d.Vm, vm.Self))
		}
	}
}
