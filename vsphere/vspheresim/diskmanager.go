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

// held says that machines need a file, or files below a folder. API reference: VirtualDiskManager.DeleteVirtualDisk_Task and
// FileManager.DeleteDatastoreFile_Task list FileLocked "if the file is locked", which a disk of a machine that is on is; that a disk of
// a machine that is off is refused too is believed to be what users of this package want to know of.
func (s *Sim) held(name string) types.BaseMethodFault {
	below := strings.TrimSuffix(name, "/") + "/"
	held := ""
	for _, vm := range s.allVMs() {
		s.eachFile(vm, func(f string) {
			if f == name || strings.HasPrefix(f, below) {
				held = f
			}
		})
	}
	if held == "" {
		return nil
	}
	return &types.FileLocked{FileFault: types.FileFault{File: held}}
}

func (f *diskFront) DeleteVirtualDiskTask(ctx *simulator.Context, req *types.DeleteVirtualDisk_Task) soap.HasFault {
	s := f.sim
	native, ok := s.registry().Get(req.This).(*simulator.VirtualDiskManager)
	if !ok {
		return &methods.DeleteVirtualDisk_TaskBody{Fault_: soapFault(&types.ManagedObjectNotFound{Obj: req.This})}
	}
	return &methods.DeleteVirtualDisk_TaskBody{Res: &types.DeleteVirtualDisk_TaskResponse{Returnval: s.start(ctx, job{
		method: "DeleteVirtualDisk_Task", id: "VirtualDiskManager.deleteVirtualDisk", entity: req.This,
		check: func() types.BaseMethodFault { return s.held(req.Name) },
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			_, loose := s.loose[req.Name]
			delete(s.loose, req.Name)
			body := native.DeleteVirtualDiskTask(ctx, req)
			_, fault := s.native(ctx, body, func() ref { return body.(*methods.DeleteVirtualDisk_TaskBody).Res.Returnval })
			if loose {
				return nil, nil // its files may never have existed
			}
			return nil, fault
		},
	})}}
}

func (f *fileFront) DeleteDatastoreFileTask(ctx *simulator.Context, req *types.DeleteDatastoreFile_Task) soap.HasFault {
	s := f.sim
	native := s.registry().FileManager()
	return &methods.DeleteDatastoreFile_TaskBody{Res: &types.DeleteDatastoreFile_TaskResponse{Returnval: s.start(ctx, job{
		method: "DeleteDatastoreFile_Task", id: "FileManager.deleteFile", entity: req.This,
		check: func() types.BaseMethodFault { return s.held(req.Name) },
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			body := native.DeleteDatastoreFileTask(ctx, req)
			return s.native(ctx, body, func() ref { return body.(*methods.DeleteDatastoreFile_TaskBody).Res.Returnval })
		},
	})}}
}
