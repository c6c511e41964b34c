package vspheresim

import (
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// diskFront answers the calls on the manager of virtual disks, and fileFront those on the manager of files.
type (
	diskFront struct{ receiver }
	fileFront struct{ receiver }
)

// held returns the fault if machines need a file, or files below a folder. API reference: VirtualDiskManager.DeleteVirtualDisk_Task and
// FileManager.DeleteDatastoreFile_Task list FileLocked "if the file is locked", which a disk of a running machine is. That a disk of a machine that
// is off is refused too is believed to be what users of this package want to know.
func (s *Sim) held(key, name string) types.BaseMethodFault {
	below := strings.TrimSuffix(key, "/") + "/"
	held := false
	for _, vm := range s.allVMs() {
		s.eachFile(vm, func(f string) { held = held || f == key || strings.HasPrefix(f, below) })
	}
	if !held {
		return nil
	}
	return &types.FileLocked{FileFault: types.FileFault{File: name}}
}

func (f *diskFront) DeleteVirtualDiskTask(ctx *simulator.Context, req *types.DeleteVirtualDisk_Task) soap.HasFault {
	s := f.sim
	native, ok := s.registry().Get(req.This).(*simulator.VirtualDiskManager)
	if !ok {
		return &methods.DeleteVirtualDisk_TaskBody{Fault_: soapFault(&types.ManagedObjectNotFound{Obj: req.This})}
	}
	return &methods.DeleteVirtualDisk_TaskBody{Res: &types.DeleteVirtualDisk_TaskResponse{Returnval: s.start(ctx, job{
		method: "DeleteVirtualDisk_Task", id: "VirtualDiskManager.deleteVirtualDisk", entity: req.This,
		check: func() types.BaseMethodFault { return s.held(s.keyIn(req.Datacenter, req.Name), req.Name) },
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			k := s.keyIn(req.Datacenter, req.Name)
			_, loose := s.loose[k]
			delete(s.loose, k)
			s.wipe(k)
			body := native.DeleteVirtualDiskTask(ctx, req)
			_, fault := s.native(ctx, body, func() ref { return body.(*methods.DeleteVirtualDisk_TaskBody).Res.Returnval })
			if loose {
				return nil, nil // its files may never have existed
			}
			return nil, fault
		},
	})}}
}

// CreateVirtualDiskTask: API reference VirtualDiskManager.CreateVirtualDisk_Task; the new disk is empty.
func (f *diskFront) CreateVirtualDiskTask(ctx *simulator.Context, req *types.CreateVirtualDisk_Task) soap.HasFault {
	s := f.sim
	native, ok := s.registry().Get(req.This).(*simulator.VirtualDiskManager)
	if !ok {
		return &methods.CreateVirtualDisk_TaskBody{Fault_: soapFault(&types.ManagedObjectNotFound{Obj: req.This})}
	}
	return &methods.CreateVirtualDisk_TaskBody{Res: &types.CreateVirtualDisk_TaskResponse{Returnval: s.start(ctx, job{
		method: "CreateVirtualDisk_Task", id: "VirtualDiskManager.createVirtualDisk", entity: req.This,
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			body := native.CreateVirtualDiskTask(ctx, req)
			res, fault := s.native(ctx, body, func() ref { return body.(*methods.CreateVirtualDisk_TaskBody).Res.Returnval })
			if fault == nil {
				k := s.keyIn(req.Datacenter, req.Name)
				s.wipe(k)
				if req.Spec != nil {
					s.thin[k] = req.Spec.GetVirtualDiskSpec().DiskType == string(types.VirtualDiskTypeThin)
				}
			}
			return res, fault
		},
	})}}
}

// CopyVirtualDiskTask: API reference VirtualDiskManager.CopyVirtualDisk_Task, "Copy a virtual disk, performing conversions as specified in the
// spec". The copy has no parent, so that it holds what the whole chain of the source shows.
func (f *diskFront) CopyVirtualDiskTask(ctx *simulator.Context, req *types.CopyVirtualDisk_Task) soap.HasFault {
	s := f.sim
	native, ok := s.registry().Get(req.This).(*simulator.VirtualDiskManager)
	if !ok {
		return &methods.CopyVirtualDisk_TaskBody{Fault_: soapFault(&types.ManagedObjectNotFound{Obj: req.This})}
	}
	return &methods.CopyVirtualDisk_TaskBody{Res: &types.CopyVirtualDisk_TaskResponse{Returnval: s.start(ctx, job{
		method: "CopyVirtualDisk_Task", id: "VirtualDiskManager.copyVirtualDisk", entity: req.This,
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			body := native.CopyVirtualDiskTask(ctx, req)
			res, fault := s.native(ctx, body, func() ref { return body.(*methods.CopyVirtualDisk_TaskBody).Res.Returnval })
			if fault == nil {
				at := req.DestDatacenter
				if at == nil {
					at = req.SourceDatacenter
				}
				k := s.keyIn(at, req.DestName)
				s.fill(k, s, s.chainOfFile(s.keyIn(req.SourceDatacenter, req.SourceName)))
				s.thin[k] = true
			}
			return res, fault
		},
	})}}
}

func (f *fileFront) DeleteDatastoreFileTask(ctx *simulator.Context, req *types.DeleteDatastoreFile_Task) soap.HasFault {
	s := f.sim
	native := s.registry().FileManager()
	return &methods.DeleteDatastoreFile_TaskBody{Res: &types.DeleteDatastoreFile_TaskResponse{Returnval: s.start(ctx, job{
		method: "DeleteDatastoreFile_Task", id: "FileManager.deleteFile", entity: req.This,
		check: func() types.BaseMethodFault { return s.held(s.keyIn(req.Datacenter, req.Name), req.Name) },
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			body := native.DeleteDatastoreFileTask(ctx, req)
			res, fault := s.native(ctx, body, func() ref { return body.(*methods.DeleteDatastoreFile_TaskBody).Res.Returnval })
			if fault == nil {
				s.wipe(s.keyIn(req.Datacenter, req.Name))
			}
			return res, fault
		},
	})}}
}
