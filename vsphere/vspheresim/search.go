package vspheresim

import (
	"maps"
	"regexp"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// searchFront answers the searches of the browsers of datastores: govmomi's simulator leaves out the sizes of disks, and writes the
// paths of folders in a way of its own. API reference: HostDatastoreBrowserSearchResults.folderPath, VmDiskFileInfo.capacityKb.
type searchFront struct{ receiver }

func (f *searchFront) SearchDatastoreTask(ctx *simulator.Context, req *types.SearchDatastore_Task) soap.HasFault {
	s := f.sim
	b, ok := s.registry().Get(req.This).(*simulator.HostDatastoreBrowser)
	if !ok {
		return &methods.SearchDatastore_TaskBody{Fault_: soapFault(&types.ManagedObjectNotFound{Obj: req.This})}
	}
	return &methods.SearchDatastore_TaskBody{Res: &types.SearchDatastore_TaskResponse{Returnval: s.start(ctx, job{
		method: "SearchDatastore_Task", id: "HostDatastoreBrowser.searchDatastore", entity: req.This,
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			body := b.SearchDatastoreTask(ctx, req)
			return s.completed(s.native(ctx, body, func() ref { return body.(*methods.SearchDatastore_TaskBody).Res.Returnval }))
		},
	})}}
}

func (f *searchFront) SearchDatastoreSubFoldersTask(ctx *simulator.Context, req *types.SearchDatastoreSubFolders_Task) soap.HasFault {
	s := f.sim
	b, ok := s.registry().Get(req.This).(*simulator.HostDatastoreBrowser)
	if !ok {
		return &methods.SearchDatastoreSubFolders_TaskBody{Fault_: soapFault(&types.ManagedObjectNotFound{Obj: req.This})}
	}
	return &methods.SearchDatastoreSubFolders_TaskBody{Res: &types.SearchDatastoreSubFolders_TaskResponse{Returnval: s.start(ctx, job{
		method: "SearchDatastoreSubFolders_Task", id: "HostDatastoreBrowser.searchDatastoreSubFolders", entity: req.This,
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			body := b.SearchDatastoreSubFoldersTask(ctx, req)
			return s.completed(s.native(ctx, body, func() ref { return body.(*methods.SearchDatastoreSubFolders_TaskBody).Res.Returnval }))
		},
	})}}
}

// completed fills in what the search of govmomi's simulator leaves out.
func (s *Sim) completed(res types.AnyType, fault types.BaseMethodFault) (types.AnyType, types.BaseMethodFault) {
	sizes, thin := map[string]int64{}, maps.Clone(s.thin)
	for _, vm := range s.allVMs() {
		for _, d := range vm.Config.Hardware.Device {
			if x, ok := d.(*types.VirtualDisk); ok {
				if b, ok := x.Backing.(types.BaseVirtualDeviceFileBackingInfo); ok {
					f := b.GetVirtualDeviceFileBackingInfo()
					sizes[fileKey(f.Datastore, f.FileName)] = x.CapacityInKB
				}
				if b, ok := x.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok {
					thin[key(b)] = isTrue(b.ThinProvisioned)
				}
			}
		}
	}
	for name, l := range s.loose {
		sizes[name] = l.size >> 10
		thin[name] = isTrue(l.backing.ThinProvisioned)
	}
	switch r := res.(type) {
	case types.HostDatastoreBrowserSearchResults:
		s.complete(&r, sizes, thin)
		return r, fault
	case types.ArrayOfHostDatastoreBrowserSearchResults:
		for i := range r.HostDatastoreBrowserSearchResults {
			s.complete(&r.HostDatastoreBrowserSearchResults[i], sizes, thin)
		}
		return r, fault
	}
	return res, fault
}

func (s *Sim) complete(r *types.HostDatastoreBrowserSearchResults, sizes map[string]int64, thin map[string]bool) {
	// "[name]/dir" is govmomi's way, "[name] dir/" the real one.
	store, dir, _ := strings.Cut(r.FolderPath, "]")
	store, dir = store+"]", strings.Trim(dir, " /")
	r.FolderPath = store
	if dir != "" {
		r.FolderPath, dir = store+" "+dir+"/", dir+"/"
	}
	for _, f := range r.File {
		x, ok := f.(*types.VmDiskFileInfo)
		if !ok {
			continue
		}
		name := fileKey(r.Datastore, store+" "+dir+x.Path)
		if t, ok := thin[name]; ok {
			x.Thin = &t // API reference: VmDiskFileInfo.thin, "Flag to indicate the thin-ness of the disk."
		}
		if n, ok := sizes[name]; ok {
			x.CapacityKb = n
		} else if p := s.fileIn(s.datastore(*r.Datastore), dir+x.Path); p != "" {
			x.CapacityKb = s.descriptorKB(p)
		}
	}
}

var extentPattern = regexp.MustCompile(`(?m)^RW (\d+) `)

// descriptorKB reads the size out of a descriptor: sectors of 512 bytes.
func (s *Sim) descriptorKB(file string) int64 {
	b, err := s.root.ReadFile(file)
	if err != nil {
		return 0
	}
	var n int64
	for _, m := range extentPattern.FindAllSubmatch(b, -1) {
		k, _ := strconv.ParseInt(string(m[1]), 10, 64)
		n += k / 2
	}
	return n
}
