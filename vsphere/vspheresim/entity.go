package vspheresim

import (
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// RenameTask: API reference ManagedEntity.Rename_Task; DuplicateName, InvalidName. govmomi's simulator gives InvalidArgument and stores
// the name as it is, where a vCenter escapes / \ and %.
func (f *vmFront) RenameTask(ctx *simulator.Context, req *types.Rename_Task) soap.HasFault {
	s := f.sim
	return &methods.Rename_TaskBody{Res: &types.Rename_TaskResponse{Returnval: s.start(ctx,
		s.vmJob("Rename_Task", "rename", req.This, false,
			func(vm *simulator.VirtualMachine) types.BaseMethodFault {
				return s.checkName(req.NewName, folderOf(vm), vm.Self)
			},
			func(ctx *simulator.Context, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
				old := vm.Name
				s.mutate(ctx, vm, func() {
					vm.Config.Name = escapeName(req.NewName)
					s.derive(&vm.VirtualMachine)
				})
				s.event(ctx, vm, func(e types.VmEvent) types.BaseEvent {
					return &types.VmRenamedEvent{VmEvent: e, OldName: old, NewName: vm.Name}
				})
				return nil, nil
			}))}}
}

// MoveIntoFolderTask: API reference Folder.MoveIntoFolder_Task; DuplicateName, InvalidFolder "if an object is not allowed in the folder", NotSupported.
func (f *folderFront) MoveIntoFolderTask(ctx *simulator.Context, req *types.MoveIntoFolder_Task) soap.HasFault {
	s := f.sim
	native, ok := s.registry().Get(req.This).(interface {
		MoveIntoFolderTask(*simulator.Context, *types.MoveIntoFolder_Task) soap.HasFault
	})
	if !ok {
		return &methods.MoveIntoFolder_TaskBody{Fault_: soapFault(new(types.NotSupported))}
	}
	machines := len(req.List) > 0
	for _, r := range req.List {
		machines = machines && r.Type == "VirtualMachine"
	}
	return &methods.MoveIntoFolder_TaskBody{Res: &types.MoveIntoFolder_TaskResponse{Returnval: s.start(ctx, job{
		method: "MoveIntoFolder_Task", id: "Folder.moveInto", entity: req.This,
		check: func() types.BaseMethodFault {
			to := s.folder(req.This)
			for _, r := range req.List {
				if !contains(to.ChildType, r.Type) {
					return new(types.NotSupported)
				}
				if vm := s.vm(r); vm != nil {
					if fault := s.checkName(vm.Name, to.Self, r); fault != nil {
						return fault
					}
				}
			}
			return nil
		},
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			if machines {
				for _, r := range req.List {
					s.moveFolder(ctx, s.vm(r), req.This)
				}
				return nil, nil
			}
			body := native.MoveIntoFolderTask(ctx, req)
			return s.native(ctx, body, func() ref { return body.(*methods.MoveIntoFolder_TaskBody).Res.Returnval })
		},
	})}}
}

// PromoteDisksTask: API reference VirtualMachine.PromoteDisks_Task, "If unlink is true, then a disk is consolidated or unlinked from its parent";
// InvalidPowerState is not among its faults: a running machine keeps running.
func (f *vmFront) PromoteDisksTask(ctx *simulator.Context, req *types.PromoteDisks_Task) soap.HasFault {
	s := f.sim
	return &methods.PromoteDisks_TaskBody{Res: &types.PromoteDisks_TaskResponse{Returnval: s.start(ctx,
		s.vmJob("PromoteDisks_Task", "promoteDisks", req.This, true,
			func(vm *simulator.VirtualMachine) types.BaseMethodFault {
				for _, d := range req.Disks {
					if indexOf(vm.Config.Hardware.Device, d.Key) < 0 {
						return invalid("disks")
					}
				}
				if vm.Snapshot != nil {
					return new(types.NotSupported) // believed: the disks of snapshots would have to be promoted too
				}
				return nil
			},
			func(ctx *simulator.Context, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
				wanted := map[int32]bool{}
				for _, d := range req.Disks {
					wanted[d.Key] = true
				}
				before := s.filesOf(vm)
				s.mutate(ctx, vm, func() {
					devices := clone(vm.Config.Hardware.Device)
					for _, d := range disksOf(devices) {
						b := fileBacking(d)
						if b == nil || b.Parent == nil || len(wanted) > 0 && !wanted[d.Key] {
							continue
						}
						if req.Unlink {
							s.fill(key(b), s, keysOf(d))
							b.Parent, b.DeltaDiskFormat = nil, ""
						}
					}
					vm.Config.Hardware.Device = devices
					versioned(vm)
					s.derive(&vm.VirtualMachine)
				})
				s.removeUnused(&vm.VirtualMachine, before, s.filesOf(vm))
				return nil, nil
			}))}}
}

// UpgradeVMTask: API reference VirtualMachine.UpgradeVM_Task; AlreadyUpgraded, InvalidPowerState, InvalidState, NotSupported.
func (f *vmFront) UpgradeVMTask(ctx *simulator.Context, req *types.UpgradeVM_Task) soap.HasFault {
	s := f.sim
	version := req.Version
	if version == "" {
		version = s.release().hardware
	}
	return &methods.UpgradeVM_TaskBody{Res: &types.UpgradeVM_TaskResponse{Returnval: s.start(ctx,
		s.vmJob("UpgradeVM_Task", "upgradeVirtualHardware", req.This, false,
			func(vm *simulator.VirtualMachine) types.BaseMethodFault {
				want, err := types.ParseHardwareVersion(version)
				have, _ := types.ParseHardwareVersion(vm.Config.Version)
				most, _ := types.ParseHardwareVersion(s.release().hardware)
				switch {
				case vm.Runtime.PowerState != poweredOff:
					return wrongPower(vm, poweredOff)
				case vm.Config.Template, s.host(*vm.Runtime.Host).Runtime.InMaintenanceMode:
					return new(types.InvalidState)
				case err != nil || !want.IsValid() || want > most:
					return new(types.NotSupported)
				case want <= have:
					return new(types.AlreadyUpgraded)
				}
				return nil
			},
			func(ctx *simulator.Context, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
				s.mutate(ctx, vm, func() {
					vm.Config.Version = version
					s.derive(&vm.VirtualMachine)
				})
				return nil, nil
			}))}}
}

// RefreshStorageInfo: API reference VirtualMachine.RefreshStorageInfo. The numbers are always fresh here.
func (f *vmFront) RefreshStorageInfo(ctx *simulator.Context, req *types.RefreshStorageInfo) soap.HasFault {
	s := f.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	if vm := s.vm(req.This); vm != nil {
		s.mutate(s.fork(ctx), vm, func() { s.derive(&vm.VirtualMachine) })
	}
	return &methods.RefreshStorageInfoBody{Res: new(types.RefreshStorageInfoResponse)}
}

// fieldFront answers the calls on the manager of custom attributes.
type fieldFront struct{ receiver }

// SetField: API reference CustomFieldsManager.SetField; InvalidArgument for a key that is not there or an attribute of another type of object.
func (f *fieldFront) SetField(ctx *simulator.Context, req *types.SetField) soap.HasFault {
	s := f.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.registry().CustomFieldsManager()
	for _, d := range m.Field {
		if d.Key == req.Key && d.ManagedObjectType != "" && d.ManagedObjectType != req.Entity.Type {
			return &methods.SetFieldBody{Fault_: soapFault(invalid("entity"))}
		}
	}
	var res soap.HasFault
	fctx := s.fork(ctx)
	s.observe(fctx, req.Entity, func() { res = m.SetField(fctx, req) })
	return res
}

// SetCustomValue: API reference ExtensibleManagedObject.setCustomValue.
func (f *vmFront) SetCustomValue(ctx *simulator.Context, req *types.SetCustomValue) soap.HasFault {
	s := f.sim
	if s.cfg.Model == ESXi {
		return &methods.SetCustomValueBody{Fault_: soapFault(new(types.NotSupported))}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var res soap.HasFault
	fctx := s.fork(ctx)
	s.observe(fctx, req.This, func() { res = simulator.SetCustomValue(fctx, req) })
	return res
}

// observe reports what a call of govmomi's simulator changed in an object to those who watch it.
func (s *Sim) observe(ctx *simulator.Context, r ref, f func()) {
	obj := s.registry().Get(r)
	e, ok := obj.(mo.Entity)
	if !ok {
		f()
		return
	}
	s.lock(ctx, obj, func() {
		before := append([]types.BaseCustomFieldValue(nil), e.Entity().CustomValue...)
		f()
		if len(before) != len(e.Entity().CustomValue) || len(before) > 0 {
			ctx.Update(obj, []types.PropertyChange{
				{Name: "customValue", Val: e.Entity().CustomValue}, {Name: "value", Val: e.Entity().Value},
			})
			return
		}
		s.hub.tell(r, false)
	})
}

// AcquireTicket: API reference VirtualMachine.AcquireTicket; InvalidState "if the virtual machine is not connected", InvalidPowerState for a machine that is off.
func (f *vmFront) AcquireTicket(_ *simulator.Context, req *types.AcquireTicket) soap.HasFault {
	s, body := f.sim, new(methods.AcquireTicketBody)
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, fault := s.live(req.This)
	switch {
	case fault != nil:
	case !contains(types.VirtualMachineTicketType("").Strings(), req.TicketType):
		fault = invalid("ticketType")
	case vm.Runtime.PowerState != poweredOn:
		fault = wrongPower(vm, poweredOn)
	}
	if fault != nil {
		body.Fault_ = soapFault(fault)
		return body
	}
	body.Res = &types.AcquireTicketResponse{Returnval: s.ticket(vm, req.TicketType)}
	return body
}

func (s *Sim) ticket(vm *simulator.VirtualMachine, kind string) types.VirtualMachineTicket {
	id := newContentID()
	t := types.VirtualMachineTicket{Ticket: id, CfgFile: vm.Config.Files.VmPathName, Host: s.host(*vm.Runtime.Host).Name, Port: 443, SslThumbprint: s.Thumbprint()}
	if kind == string(types.VirtualMachineTicketTypeWebmks) {
		t.Url = "wss://" + t.Host + ":443/ticket/" + id
	}
	return t
}

// CreateScreenshotTask: API reference VirtualMachine.CreateScreenshot_Task; the result is the path of the picture.
func (f *vmFront) CreateScreenshotTask(ctx *simulator.Context, req *types.CreateScreenshot_Task) soap.HasFault {
	s := f.sim
	return &methods.CreateScreenshot_TaskBody{Res: &types.CreateScreenshot_TaskResponse{Returnval: s.start(ctx,
		s.vmJob("CreateScreenshot_Task", "createScreenshot", req.This, false,
			func(vm *simulator.VirtualMachine) types.BaseMethodFault {
				if vm.Runtime.PowerState != poweredOn {
					return wrongPower(vm, poweredOn)
				}
				return nil
			},
			func(_ *simulator.Context, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
				dir := vmDir(&vm.VirtualMachine)
				file := dsJoin(dir.Datastore, dir.Path, "screenshot-"+time.Now().UTC().Format("20060102150405")+".png")
				s.touchFile(&vm.VirtualMachine, file)
				return file, nil
			}))}}
}

// MountToolsInstaller and UnmountToolsInstaller: API reference; InvalidState "if the virtual machine is not running".
func (f *vmFront) MountToolsInstaller(ctx *simulator.Context, req *types.MountToolsInstaller) soap.HasFault {
	return &methods.MountToolsInstallerBody{Fault_: f.installer(ctx, req.This, true), Res: new(types.MountToolsInstallerResponse)}
}

func (f *vmFront) UnmountToolsInstaller(ctx *simulator.Context, req *types.UnmountToolsInstaller) soap.HasFault {
	return &methods.UnmountToolsInstallerBody{Fault_: f.installer(ctx, req.This, false), Res: new(types.UnmountToolsInstallerResponse)}
}

func (f *vmFront) installer(ctx *simulator.Context, r ref, in bool) *soap.Fault {
	s := f.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, fault := s.live(r)
	if fault == nil && vm.Runtime.PowerState != poweredOn {
		fault = new(types.InvalidState)
	}
	if fault != nil {
		return soapFault(fault)
	}
	s.mutate(s.fork(ctx), vm, func() {
		vm.Runtime.ToolsInstallerMounted = in
		vm.Summary.Runtime = vm.Runtime
	})
	return nil
}
