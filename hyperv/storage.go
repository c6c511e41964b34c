package hyperv

import (
	"context"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
)

// Datastores implements hypervisor.StorageLister: each host's drives, and the
// cluster shared volumes once.
func (d *driver) Datastores(ctx context.Context) ([]hypervisor.DatastoreInfo, error) {
	type part struct{ drives, csv []hypervisor.DatastoreInfo }
	parts := make([]part, len(d.hosts))
	err := d.each(ctx, d.hosts, func(ctx context.Context, i int, h *host, s cim.Session) error {
		rows, err := cim.Collect(s.Query(ctx, cim.CIMV2, cim.Select("Win32_LogicalDisk", []string{"DeviceID", "FileSystem", "Size", "FreeSpace"}, "DriveType = 3")))
		if err != nil {
			return err
		}
		for _, r := range rows {
			drive := strings.ToUpper(r.Str("DeviceID"))
			parts[i].drives = append(parts[i].drives, hypervisor.DatastoreInfo{ID: h.datastoreOf(drive + `\`), Name: string(h.id) + " " + drive, Type: r.Str("FileSystem"),
				CapacityBytes: int64(r.Uint("Size")), FreeBytes: int64(r.Uint("FreeSpace")), Hosts: []hypervisor.HostID{h.id}, Accessible: true})
		}
		parts[i].csv, err = clusterVolumes(ctx, h, s)
		return err
	})
	if err != nil {
		return nil, err
	}
	var out []hypervisor.DatastoreInfo
	for _, p := range parts {
		out = append(out, p.drives...)
	}
	for _, p := range parts {
		for _, v := range p.csv {
			if i := slices.IndexFunc(out, func(x hypervisor.DatastoreInfo) bool { return strings.EqualFold(string(x.ID), string(v.ID)) }); i >= 0 {
				out[i].Hosts = append(out[i].Hosts, v.Hosts...)
				out[i].Shared = true
				continue
			}
			out = append(out, v)
		}
	}
	return out, nil
}

// clusterVolumes lists the cluster shared volumes. There are none outside a
// cluster.
func clusterVolumes(ctx context.Context, h *host, s cim.Session) ([]hypervisor.DatastoreInfo, error) {
	rows, err := cim.Collect(s.Query(ctx, cim.MSCluster, cim.Select("MSCluster_ClusterSharedVolume", nil)))
	if unclustered(err) {
		return nil, nil
	}
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	parts, err := cim.Collect(s.Query(ctx, cim.MSCluster, cim.Select("MSCluster_DiskPartition", nil)))
	if err != nil && !unclustered(err) {
		return nil, err
	}
	var out []hypervisor.DatastoreInfo
	for _, r := range rows {
		path := strings.TrimRight(r.Str("Name"), `\`)
		i := hypervisor.DatastoreInfo{ID: h.datastoreOf(path), Name: base(path), Type: "CSV", Hosts: []hypervisor.HostID{h.id}}
		for _, p := range parts {
			if partitionOf(p, path, r.Str("VolumeName")) {
				i.CapacityBytes, i.FreeBytes, i.Accessible = int64(p.Uint("TotalSize"))*hypervisor.MiB, int64(p.Uint("FreeSpace"))*hypervisor.MiB, true
			}
		}
		out = append(out, i)
	}
	return out, nil
}

// partitionOf reports whether a partition is the one behind a cluster shared
// volume, by its mount point or by the volume's GUID.
func partitionOf(p *cim.Instance, path, volume string) bool {
	for _, m := range append(p.Strs("MountPoints"), p.Str("Path")) {
		if strings.EqualFold(strings.TrimRight(m, `\`), path) {
			return true
		}
	}
	g := p.Str("VolumeGuid")
	return g != "" && strings.Contains(strings.ToLower(volume), strings.ToLower(strings.Trim(g, "{}")))
}

// Volumes implements hypervisor.StorageManager. It lists the images in the
// directory in which a datastore's images are made.
func (d *driver) Volumes(ctx context.Context, ds hypervisor.DatastoreID) ([]hypervisor.VolumeInfo, error) {
	if ds != "" {
		return d.volumes(ctx, ds)
	}
	all, err := d.Datastores(ctx)
	if err != nil {
		return nil, err
	}
	var out []hypervisor.VolumeInfo
	for _, s := range all {
		v, err := d.volumes(ctx, s.ID)
		if err != nil {
			return nil, err
		}
		out = append(out, v...)
	}
	return out, nil
}

func (d *driver) volumes(ctx context.Context, ds hypervisor.DatastoreID) ([]hypervisor.VolumeInfo, error) {
	h, s, _, err := d.open(ctx, string(ds))
	if err != nil {
		return nil, err
	}
	dir, err := h.directory(ds)
	if err != nil {
		return nil, err
	}
	img, err := h.images(ctx, s)
	if err != nil {
		return nil, err
	}
	if len(dir) < 2 || dir[1] != ':' {
		return nil, hypervisor.Unsupported(hypervisor.Ref{Kind: hypervisor.ObjectDatastore, ID: string(ds)}, capability.VolumeManage, hypervisor.ReasonPlatform, "WMI lists no files of a share")
	}
	rows, err := inFolder(ctx, s, "CIM_DataFile", dir)
	if err != nil {
		return nil, err
	}
	var out []hypervisor.VolumeInfo
	for _, r := range rows {
		switch strings.ToLower(r.Str("Extension")) {
		case "vhdx", "avhdx", "vhd", "avhd", "iso":
			p := r.Str("Name")
			out = append(out, hypervisor.VolumeInfo{ID: h.volume(p), Name: strings.TrimSuffix(base(p), ".vhdx"), Datastore: h.datastoreOf(p), UsedBytes: int64(r.Uint("FileSize")), Format: formatOf(p)})
		}
	}
	var g errgroup.Group
	g.SetLimit(4)
	for i := range out {
		if out[i].Format == "iso" {
			out[i].SizeBytes = out[i].UsedBytes
			continue
		}
		g.Go(func() error {
			_, p := splitID(string(out[i].ID))
			v, err := readImage(ctx, s, img, p)
			if err != nil {
				if refused(err) {
					return nil // open for writing elsewhere, or not an image
				}
				return err
			}
			out[i].SizeBytes = int64(v.Uint("MaxInternalSize"))
			out[i].Provisioning = provisioning(v)
			if pp := v.Str("ParentPath"); pp != "" {
				out[i].Parent = h.volume(pp)
			}
			return nil
		})
	}
	return out, g.Wait()
}

// open finds the host through which a volume or datastore is reached.
func (d *driver) open(ctx context.Context, id string) (*host, cim.Session, string, error) {
	on, path := splitID(id)
	h := d.hosts[0]
	if on != "" {
		var err error
		if h, err = d.host(on); err != nil {
			return nil, nil, "", err
		}
	}
	s, err := h.session(ctx)
	return h, s, path, err
}

// CreateVolume implements hypervisor.StorageManager.
func (d *driver) CreateVolume(ctx context.Context, v hypervisor.VolumeSpec) (hypervisor.DriverTask, error) {
	on := hypervisor.Ref{Kind: hypervisor.ObjectVolume, Name: v.Name}
	if why := notName(v.Name); why != "" {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "Windows does not accept such a file name: %s", why)
	}
	h, s, _, err := d.open(ctx, string(v.Datastore))
	if err != nil {
		return nil, err
	}
	dir, err := h.directory(v.Datastore)
	if err != nil {
		return nil, err
	}
	from := ""
	if v.From != "" {
		where, p, err := d.imageID(v.From)
		switch {
		case err != nil:
			return nil, err
		case where != "" && where != h.id:
			return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, v.From.Ref(), "the image is on host %s, the new one goes to %s", where, h.id)
		}
		if err := h.image(ctx, s, v.From, p); err != nil {
			return nil, err
		}
		from = p
	}
	path := join(dir, v.Name)
	if f := formatOf(path); f != "vhdx" {
		path += ".vhdx"
	}
	f, err := fileOf(ctx, s, path)
	if err != nil {
		return nil, err
	}
	if f != nil {
		return nil, hypervisor.Errorf(hypervisor.ErrExists, on, "%s exists", path)
	}
	kind := vhdDynamic
	if v.Provisioning == hypervisor.ProvisioningThick {
		kind = vhdFixed
	}
	return d.start(ctx, h, job.Spec{Op: "create image", Object: on}, func(o *op) (hypervisor.Ref, error) {
		made := hypervisor.Ref{Kind: hypervisor.ObjectVolume, ID: string(h.volume(path))}
		if from == "" {
			return made, o.newImage(path, "Type", kind, "MaxInternalSize", uint64(v.SizeBytes))
		}
		if err := o.copyImage(from, path, kind); err != nil {
			return made, err
		}
		if v.SizeBytes > 0 {
			return made, o.growImage(path, v.SizeBytes)
		}
		return made, nil
	})
}

// DeleteVolume implements hypervisor.StorageManager.
func (d *driver) DeleteVolume(ctx context.Context, id hypervisor.VolumeID) (hypervisor.DriverTask, error) {
	on := id.Ref()
	own := definition.MatchString(string(id))
	if _, _, err := d.imageID(id); err != nil && !own {
		return nil, err
	}
	h, s, path, err := d.open(ctx, string(id))
	if err != nil {
		return nil, err
	}
	if err := h.removable(on, capability.VolumeManage, path); err != nil {
		return nil, err
	}
	if err := h.listed(ctx, s, path); err != nil {
		return nil, err
	}
	if err := h.image(ctx, s, id, path); err != nil {
		return nil, err
	}
	rows, err := cim.Collect(s.Query(ctx, cim.Virtualization, cim.Select("Msvm_StorageAllocationSettingData", diskProps)))
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		if strings.EqualFold(r.Str("HostResource"), path) {
			return nil, hypervisor.Errorf(hypervisor.ErrBusy, on, "machine or snapshot %s uses the image", ownerOf(r.Str("InstanceID")))
		}
	}
	// An image below another one: a linked clone, or a chain made by hand.
	img, err := h.images(ctx, s)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, r := range rows {
		p := r.Str("HostResource")
		if p == "" || r.Str("ResourceSubType") != subVHD || seen[p] {
			continue
		}
		seen[p] = true
		c, err := chain(ctx, s, img, p)
		if err != nil && !refused(err) {
			return nil, err
		}
		if slices.ContainsFunc(c, func(x string) bool { return strings.EqualFold(x, path) }) {
			return nil, hypervisor.Errorf(hypervisor.ErrBusy, on, "image %s depends on it", p)
		}
	}
	if !own && formatOf(path) != "iso" { // the extension may be wrong
		v, err := readImage(ctx, s, img, path)
		switch {
		case refused(err):
			return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "the host does not know this file as an image: %w", err)
		case err != nil:
			return nil, err
		case v.Str("Path") != "" && !strings.EqualFold(v.Str("Path"), path):
			return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "%s is another name of %s: use that", path, v.Str("Path"))
		}
	}
	remove := d.removeFile
	if own {
		remove = d.removeExport
	}
	return d.start(ctx, h, job.Spec{Op: "delete image", Object: id.Ref()}, func(o *op) (hypervisor.Ref, error) { return hypervisor.Ref{}, remove(o.ctx, o.s, path) })
}
