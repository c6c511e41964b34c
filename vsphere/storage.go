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
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
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

// Volumes searches a datastore for disks. An empty ID means all datastores.
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
		if isNotFound(err) && dir != "" { // without the folder there is no such file
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
				if x.Thin != nil {
					v.Provisioning = hypervisor.ProvisioningThick
					if *x.Thin {
						v.Provisioning = hypervisor.ProvisioningThin
					}
				}
			}
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b hypervisor.VolumeInfo) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

const copiesAreAlike = "vCenter copies disks as they are: leave Provisioning out"

// CreateVolume makes a disk in the datastore's root, or copies one there.
func (d *driver) CreateVolume(ctx context.Context, s hypervisor.VolumeSpec) (hypervisor.DriverTask, error) {
	if strings.ContainsAny(s.Name, `/\[]`) {
		return nil, invalidArgument(hypervisor.Ref{Kind: hypervisor.ObjectVolume, Name: s.Name}, "the name is a file name: it can't have slashes and brackets")
	}
	if s.From != "" && s.Provisioning != "" {
		return nil, hypervisor.Unsupported(s.From.Ref(), capability.VolumeManage, hypervisor.ReasonPlatform, copiesAreAlike)
	}
	to := hypervisor.VolumeID(string(s.Datastore) + "/" + strings.TrimSuffix(s.Name, ".vmdk") + ".vmdk")
	if _, _, ok := splitVolume(to); !ok {
		return nil, invalidArgument(hypervisor.Ref{Kind: hypervisor.ObjectVolume, Name: s.Name}, "the name is a file name: it can't begin or end with spaces, and can't have characters that are not seen")
	}
	if _, _, err := d.storeAt(ctx, storeRef(s.Datastore)); err != nil {
		return nil, err
	}
	adapter := types.VirtualDiskSpec{AdapterType: string(types.VirtualDiskAdapterTypeLsiLogic), DiskType: string(types.VirtualDiskTypeThin)}
	if s.Provisioning == hypervisor.ProvisioningThick {
		adapter.DiskType = string(types.VirtualDiskTypePreallocated)
	}
	m := *d.vc.ServiceContent.VirtualDiskManager
	made := to.Ref()
	if s.From == "" {
		return d.start(ctx, made, func(ctx context.Context) (ref, error) {
			file, dc, err := d.volumePath(ctx, to)
			if err != nil {
				return ref{}, err
			}
			return d.launchNewDisk(ctx, to, "createVirtualDisk", func() (ref, error) {
				return taskOf(methods.CreateVirtualDisk_Task(ctx, d.rt, &types.CreateVirtualDisk_Task{This: m, Name: file, Datacenter: dc,
					Spec: &types.FileBackedVirtualDiskSpec{VirtualDiskSpec: adapter, CapacityKb: s.SizeBytes / hypervisor.KiB}}))
			})
		}, resulting(made))
	}
	start := func(ctx context.Context) (ref, error) { return d.startCopy(ctx, s.From, to) }
	if s.SizeBytes == 0 {
		return d.start(ctx, made, start, resulting(made))
	}
	return d.compose(ctx, "volume", made, func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		if _, err := d.step(ctx, j.Report, start); err != nil {
			return made, err
		}
		_, err := d.step(ctx, j.Report, func(ctx context.Context) (ref, error) {
			file, dc, err := d.volumePath(ctx, to)
			if err != nil {
				return ref{}, err
			}
			grown := func(v *hypervisor.VolumeInfo) bool { return v != nil && v.SizeBytes >= s.SizeBytes }
			return d.launchDisk(ctx, to, "extendVirtualDisk", grown, func() (ref, error) {
				return taskOf(methods.ExtendVirtualDisk_Task(ctx, d.rt, &types.ExtendVirtualDisk_Task{This: m, Name: file, Datacenter: dc, NewCapacityKb: s.SizeBytes / hypervisor.KiB}))
			})
		})
		if err != nil { // the copy is complete, so it stays and is named
			j.Left(made)
		}
		return made, err
	})
}

// resulting is for tasks whose result the server doesn't give as a reference.
func resulting(result hypervisor.Ref) func(*serverTask) {
	return func(j *serverTask) {
		j.finish = func(_ context.Context, _ types.TaskInfo, s *hypervisor.TaskState) { s.Result = result }
	}
}

// DeleteVolume refuses an image that is in a backing chain of a machine or
// snapshot.
func (d *driver) DeleteVolume(ctx context.Context, id hypervisor.VolumeID) (hypervisor.DriverTask, error) {
	store, rel, ok := splitVolume(id)
	if !ok {
		return nil, notFound(id.Ref())
	}
	if _, _, err := d.storeAt(ctx, store); err != nil {
		if isNotFound(err) {
			err = notFound(id.Ref())
		}
		return nil, err
	}
	all, err := d.owners(ctx)
	if err != nil {
		return nil, err
	}
	if by := dependants(all, ref{}, []hypervisor.VolumeID{id}); len(by) > 0 {
		return nil, d.busyWith(ctx, id.Ref(), "machines have it in a disk's chain", by, "delete them first")
	}
	found, err := d.search(ctx, store, path.Dir(rel), path.Base(rel))
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(found, func(v hypervisor.VolumeInfo) bool { return v.ID == id }) {
		return nil, notFound(id.Ref())
	}
	return d.start(ctx, id.Ref(), func(ctx context.Context) (ref, error) { return d.deleteDisk(ctx, id) }, resulting(id.Ref()))
}
