package vsphere

import (
	"cmp"
	"context"
	"path"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Datastores lists the datastores.
func (d *driver) Datastores(ctx context.Context) ([]hypervisor.DatastoreInfo, error) {
	list, err := d.viewAll(ctx, "Datastore", []string{"name", "summary", "host"})
	var out []hypervisor.DatastoreInfo
	for _, o := range list {
		p := props(o)
		s := get[types.DatastoreSummary](p, "summary")
		i := hypervisor.DatastoreInfo{ID: hypervisor.DatastoreID(o.Obj.Value), Name: unescape(p.str("name")), Type: s.Type,
			CapacityBytes: s.Capacity, FreeBytes: min(s.FreeSpace, s.Capacity), Accessible: s.Accessible}
		for _, m := range get[types.ArrayOfDatastoreHostMount](p, "host").DatastoreHostMount {
			i.Hosts = append(i.Hosts, hypervisor.HostID(m.Key.Value))
		}
		i.Shared = len(i.Hosts) > 1
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b hypervisor.DatastoreInfo) int { return cmp.Compare(a.ID, b.ID) })
	return out, err
}

// Volumes searches a datastore for disks; an empty ID means all datastores.
func (d *driver) Volumes(ctx context.Context, ds hypervisor.DatastoreID) ([]hypervisor.VolumeInfo, error) {
	stores := []ref{storeRef(ds)}
	if ds == "" {
		all, err := d.Datastores(ctx)
		if err != nil {
			return nil, err
		}
		stores = nil
		for _, s := range all {
			if s.Accessible {
				stores = append(stores, storeRef(s.ID))
			}
		}
	}
	owners, err := d.owners(ctx)
	if err != nil {
		return nil, err
	}
	parent := map[hypervisor.VolumeID]hypervisor.VolumeID{}
	for _, o := range owners {
		for _, c := range o.chains {
			for i := range len(c) - 1 {
				parent[c[i].id] = c[i+1].id
			}
		}
	}
	var out []hypervisor.VolumeInfo
	for _, s := range stores {
		files, err := d.search(ctx, s, "", "*.vmdk")
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			f.Parent = parent[f.ID]
			out = append(out, f)
		}
	}
	return out, nil
}

// search lists the disks of a datastore, all or those with a name in one
// folder.
func (d *driver) search(ctx context.Context, store ref, dir, pattern string) ([]hypervisor.VolumeInfo, error) {
	p, err := d.one(ctx, store, "browser", "name")
	if err != nil {
		return nil, err
	}
	spec := types.HostDatastoreBrowserSearchSpec{
		Query:   []types.BaseFileQuery{&types.VmDiskFileQuery{Details: &types.VmDiskFileQueryFlags{DiskType: true, CapacityKb: true, Thin: types.NewBool(true)}}},
		Details: &types.FileQueryFlags{FileType: true, FileSize: true}, MatchPattern: []string{pattern},
	}
	at := "[" + p.str("name") + "]"
	var self ref
	if dir == "" {
		res, err := methods.SearchDatastoreSubFolders_Task(ctx, d.rt, &types.SearchDatastoreSubFolders_Task{This: p.ref("browser"), DatastorePath: at, SearchSpec: &spec})
		if err != nil {
			return nil, err
		}
		self = res.Returnval
	} else {
		res, err := methods.SearchDatastore_Task(ctx, d.rt, &types.SearchDatastore_Task{This: p.ref("browser"), DatastorePath: at + " " + strings.TrimPrefix(dir, "."), SearchSpec: &spec})
		if err != nil {
			return nil, err
		}
		self = res.Returnval
	}
	info, err := d.await(ctx, self)
	if err != nil {
		if isNotFound(err) && dir != "" { // no such folder: no such file
			return nil, nil
		}
		return nil, err
	}
	var found []types.HostDatastoreBrowserSearchResults
	switch r := info.Result.(type) {
	case types.ArrayOfHostDatastoreBrowserSearchResults:
		found = r.HostDatastoreBrowserSearchResults
	case types.HostDatastoreBrowserSearchResults:
		found = append(found, r)
	}
	var out []hypervisor.VolumeInfo
	for _, r := range found {
		for _, b := range r.File {
			f := b.GetFileInfo()
			base := path.Base(f.Path)
			if !strings.HasSuffix(base, ".vmdk") || strings.HasSuffix(base, "-flat.vmdk") {
				continue
			}
			_, folder, _ := strings.Cut(r.FolderPath, "]")
			v := hypervisor.VolumeInfo{ID: hypervisor.VolumeID(store.Value + "/" + path.Join(strings.Trim(folder, " /"), f.Path)), Name: strings.TrimSuffix(base, ".vmdk"),
				Datastore: hypervisor.DatastoreID(store.Value), UsedBytes: f.FileSize, Format: "vmdk"}
			if x, ok := b.(*types.VmDiskFileInfo); ok {
				v.SizeBytes = x.CapacityKb * hypervisor.KiB
			}
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b hypervisor.VolumeInfo) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// CreateVolume makes a disk in the datastore's root, or copies one there.
func (d *driver) CreateVolume(ctx context.Context, s hypervisor.VolumeSpec) (hypervisor.DriverTask, error) {
	store := storeRef(s.Datastore)
	name, err := d.storeName(ctx, store)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(s.Name, `/\`) {
		return nil, invalidArgument(hypervisor.Ref{Kind: hypervisor.KindOfVolume, Name: s.Name}, "the name is a file name: it can't have slashes")
	}
	dc, err := d.datacenterOf(ctx, store)
	if err != nil {
		return nil, err
	}
	to := "[" + name + "] " + strings.TrimSuffix(s.Name, ".vmdk") + ".vmdk"
	adapter := types.VirtualDiskSpec{AdapterType: string(types.VirtualDiskAdapterTypeLsiLogic), DiskType: string(types.VirtualDiskTypeThin)}
	if s.Provisioning == hypervisor.Thick {
		adapter.DiskType = string(types.VirtualDiskTypePreallocated)
	}
	m := *d.vc.ServiceContent.VirtualDiskManager
	made := volumeID(store, to).Ref()
	if s.From == "" {
		res, err := methods.CreateVirtualDisk_Task(ctx, d.rt, &types.CreateVirtualDisk_Task{This: m, Name: to, Datacenter: dc,
			Spec: &types.FileBackedVirtualDiskSpec{VirtualDiskSpec: adapter, CapacityKb: s.SizeBytes / hypervisor.KiB}})
		if err != nil {
			return nil, err
		}
		return d.resultJob(res.Returnval, made), nil
	}
	_, from, err := d.volumePath(ctx, s.From)
	if err != nil {
		return nil, err
	}
	start := func(ctx context.Context) (ref, error) { return d.startCopy(ctx, from, to, dc) }
	if s.SizeBytes == 0 {
		self, err := start(ctx)
		if err != nil {
			return nil, err
		}
		return d.resultJob(self, made), nil
	}
	return d.group.Go(ctx, newID("volume"), func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		if _, err := d.step(ctx, report, start); err != nil {
			return hypervisor.TaskState{Err: err}
		}
		extend := func(ctx context.Context) (ref, error) {
			res, err := methods.ExtendVirtualDisk_Task(ctx, d.rt, &types.ExtendVirtualDisk_Task{This: m, Name: to, Datacenter: dc, NewCapacityKb: s.SizeBytes / hypervisor.KiB})
			if err != nil {
				return ref{}, err
			}
			return res.Returnval, nil
		}
		if _, err := d.step(ctx, report, extend); err != nil { // the copy is complete: it stays, and is named
			return hypervisor.TaskState{Err: err, Leftover: []hypervisor.Ref{made}}
		}
		return hypervisor.TaskState{Result: made}
	})
}

// resultJob is a task whose result the server doesn't tell as a reference.
func (d *driver) resultJob(self ref, result hypervisor.Ref) *job {
	j := d.job(self)
	j.finish = func(_ context.Context, _ types.TaskInfo, s *hypervisor.TaskState) { s.Result = result }
	return j
}

// DeleteVolume refuses what a machine or snapshot has in a chain.
func (d *driver) DeleteVolume(ctx context.Context, id hypervisor.VolumeID) (hypervisor.DriverTask, error) {
	store, file, err := d.volumePath(ctx, id)
	if err != nil {
		return nil, err
	}
	all, err := d.owners(ctx)
	if err != nil {
		return nil, err
	}
	if by := dependants(all, ref{}, []hypervisor.VolumeID{id}); len(by) > 0 {
		return nil, busyWith(id.Ref(), "machines have it in a disk's chain", by)
	}
	_, rel, _ := splitVolume(id)
	dir := path.Dir(rel)
	var found []hypervisor.VolumeInfo
	if dir == "." {
		found, err = d.search(ctx, store, ".", path.Base(rel))
	} else {
		found, err = d.search(ctx, store, dir, path.Base(rel))
	}
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(found, func(v hypervisor.VolumeInfo) bool { return v.ID == id }) {
		return nil, notFound(id.Ref())
	}
	dc, err := d.datacenterOf(ctx, store)
	if err != nil {
		return nil, err
	}
	res, err := methods.DeleteVirtualDisk_Task(ctx, d.rt, &types.DeleteVirtualDisk_Task{This: *d.vc.ServiceContent.VirtualDiskManager, Name: file, Datacenter: dc})
	if err != nil {
		return nil, err
	}
	return d.resultJob(res.Returnval, id.Ref()), nil
}
