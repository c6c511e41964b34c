package vspheresim

import (
	"path/filepath"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// A file of a datastore has a key, "[datastore-52] dir/disk.vmdk". A path with the datastore's name is not a key: the name is unique only within a
// datacenter (API reference, Datastore: "The datastore name is unique within the datacenter"), and changes (Datastore.name, Rename_Task).

func fileKey(ds *ref, name string) string {
	if ds == nil || ds.Value == "" {
		return name
	}
	return dsJoin(ds.Value, dsPath(name).Path)
}

// key identifies the file of one link of a disk.
func key(b *types.VirtualDiskFlatVer2BackingInfo) string { return fileKey(b.Datastore, b.FileName) }

// keysOf is the files of a disk, in the order of chainOf.
func keysOf(d *types.VirtualDisk) []string {
	var out []string
	if b := fileBacking(d); b != nil {
		for ; b != nil; b = b.Parent {
			out = append(out, key(b))
		}
		return out
	}
	if b, ok := d.Backing.(types.BaseVirtualDeviceFileBackingInfo); ok {
		f := b.GetVirtualDeviceFileBackingInfo()
		out = append(out, fileKey(f.Datastore, f.FileName))
	}
	return out
}

// storeOf is the datastore that a disk writes to.
func storeOf(d *types.VirtualDisk) ref {
	if b, ok := d.Backing.(types.BaseVirtualDeviceFileBackingInfo); ok {
		if ds := b.GetVirtualDeviceFileBackingInfo().Datastore; ds != nil {
			return *ds
		}
	}
	return ref{}
}

// keyAt is the file that a host has at a path.
func (s *Sim) keyAt(h *simulator.HostSystem, name string) string {
	if ds := s.datastoreByName(h, dsPath(name).Datastore); ds != nil {
		return fileKey(&ds.Self, name)
	}
	return name
}

// keyIn returns the file that a datacenter has at a path. A stand-alone host has one datacenter, which calls leave out.
func (s *Sim) keyIn(dc *ref, name string) string {
	for _, e := range s.registry().All("Datastore") {
		d, ok := e.(*simulator.Datastore)
		if !ok || d.Name != dsPath(name).Datastore {
			continue
		}
		if at := s.datacenterOf(d); dc == nil || dc.Value == "" || at != nil && at.Self == *dc {
			return fileKey(&d.Self, name)
		}
	}
	return name
}

// keyPath is the file in the simulator's folder behind a key; empty if there is none.
func (s *Sim) keyPath(k string) string {
	d := dsPath(k)
	return s.fileIn(s.datastore(ref{Type: "Datastore", Value: d.Datastore}), d.Path)
}

// fileIn is the file in the simulator's folder at a path of a datastore; empty if there is none. Clients give such paths, so only root opens them.
func (s *Sim) fileIn(ds *simulator.Datastore, name string) string {
	if ds == nil || name == "" {
		return ""
	}
	rel, err := filepath.Rel(s.dir, filepath.Join(ds.Summary.Url, filepath.FromSlash(name)))
	if err != nil {
		return ""
	}
	return rel
}

// datastoreFront answers the calls on datastores.
type datastoreFront struct{ receiver }

// RenameTask: API reference ManagedEntity.Rename_Task; DuplicateName, InvalidName. The paths of all files on the datastore get its new name
// (VirtualDeviceFileBackingInfo.fileName).
func (f *datastoreFront) RenameTask(ctx *simulator.Context, req *types.Rename_Task) soap.HasFault {
	s := f.sim
	return &methods.Rename_TaskBody{Res: &types.Rename_TaskResponse{Returnval: s.start(ctx, job{
		method: "Rename_Task", id: "Datastore.rename", entity: req.This, owns: []ref{req.This},
		check: func() types.BaseMethodFault { return s.checkStoreName(req.This, req.NewName) },
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			s.renameStore(ctx, s.datastore(req.This), req.NewName)
			return nil, nil
		},
	})}}
}

// RenameDatastore: API reference Datastore.RenameDatastore, which Rename_Task replaces.
func (f *datastoreFront) RenameDatastore(ctx *simulator.Context, req *types.RenameDatastore) soap.HasFault {
	s := f.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	if fault := s.checkStoreName(req.This, req.NewName); fault != nil {
		return &methods.RenameDatastoreBody{Fault_: soapFault(fault)}
	}
	s.renameStore(s.fork(ctx), s.datastore(req.This), req.NewName)
	return &methods.RenameDatastoreBody{Res: new(types.RenameDatastoreResponse)}
}

func (s *Sim) checkStoreName(self ref, name string) types.BaseMethodFault {
	ds := s.datastore(self)
	switch {
	case ds == nil:
		return &types.ManagedObjectNotFound{Obj: self}
	case name == "" || len(name) > 80 || strings.ContainsAny(name, "[]"):
		return &types.InvalidName{Name: name, Entity: &self}
	}
	for _, e := range s.registry().All("Datastore") {
		if d, ok := e.(*simulator.Datastore); ok && d.Self != self && d.Name == escapeName(name) && s.datacenterOf(d) == s.datacenterOf(ds) {
			return &types.DuplicateName{Name: name, Object: d.Self}
		}
	}
	return nil
}

// renameStore gives a datastore another name, and changes the paths of the machines' files accordingly.
func (s *Sim) renameStore(ctx *simulator.Context, ds *simulator.Datastore, name string) {
	name = escapeName(name)
	old := ds.Name
	rename := func(file *string) {
		if d := dsPath(*file); d.Datastore == old {
			*file = dsJoin(name, d.Path)
		}
	}
	devices := func(list []types.BaseVirtualDevice) []types.BaseVirtualDevice {
		list = clone(list)
		for _, d := range list {
			if x, ok := d.(*types.VirtualDisk); ok && fileBacking(x) != nil {
				renameChain(fileBacking(x), ds.Self, rename)
			} else if b, ok := d.GetVirtualDevice().Backing.(types.BaseVirtualDeviceFileBackingInfo); ok {
				if f := b.GetVirtualDeviceFileBackingInfo(); f.Datastore != nil && *f.Datastore == ds.Self {
					rename(&f.FileName)
				}
			}
		}
		return list
	}
	var home []*simulator.VirtualMachine
	for _, vm := range s.allVMs() {
		if vm.Config != nil && s.placeOf(vm).datastore == ds.Self {
			home = append(home, vm)
		}
	}
	s.mutate(ctx, ds, func() {
		ds.Name, ds.Summary.Name = name, name
		if ds.Info != nil {
			ds.Info.GetDatastoreInfo().Name = name
		}
	})
	for _, vm := range s.allVMs() {
		if vm.Config == nil {
			continue
		}
		s.mutate(ctx, vm, func() {
			vm.Config.Hardware.Device = devices(vm.Config.Hardware.Device)
			for _, snap := range s.snapshotsOf(vm) {
				s.lock(ctx, snap, func() { snap.Config.Hardware.Device = devices(snap.Config.Hardware.Device) })
			}
			for _, h := range home {
				if h == vm {
					renameFiles(vm.Config, rename)
				}
			}
			s.derive(&vm.VirtualMachine)
		})
	}
	for _, l := range s.loose {
		renameChain(l.backing, ds.Self, rename)
	}
	for k, p := range s.parked {
		p.vm.Config.Hardware.Device = devices(p.vm.Config.Hardware.Device)
		for r, c := range p.snapshots {
			c.Hardware.Device = devices(c.Hardware.Device)
			p.snapshots[r] = c
		}
		if dsPath(k).Datastore == ds.Self.Value {
			renameFiles(p.vm.Config, rename)
		}
	}
}

func renameChain(b *types.VirtualDiskFlatVer2BackingInfo, ds ref, rename func(*string)) {
	for ; b != nil; b = b.Parent {
		if b.Datastore != nil && *b.Datastore == ds {
			rename(&b.FileName)
		}
	}
}

func renameFiles(c *types.VirtualMachineConfigInfo, rename func(*string)) {
	for _, f := range []*string{&c.Files.VmPathName, &c.Files.SnapshotDirectory, &c.Files.SuspendDirectory, &c.Files.LogDirectory} {
		rename(f)
	}
}

// datacenterRef is the datacenter of a folder.
func (s *Sim) datacenterRef(folder ref) *ref {
	if e, ok := s.registry().Get(folder).(mo.Entity); ok {
		if dc := s.datacenterOf(e); dc != nil {
			return &dc.Self
		}
	}
	return nil
}
