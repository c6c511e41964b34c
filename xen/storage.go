package xen

import (
	"cmp"
	"context"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// Datastores lists storage repositories, including ISO libraries.
func (d *driver) Datastores(ctx context.Context) ([]hypervisor.DatastoreInfo, error) {
	var srs map[xapi.Ref]srRec
	var pbds map[xapi.Ref]pbdRec
	var hosts map[xapi.Ref]hostRec
	for class, into := range map[string]any{"SR": &srs, "PBD": &pbds, "host": &hosts} {
		if err := d.c.Call(ctx, into, class+".get_all_records"); err != nil {
			return nil, err
		}
	}
	var out []hypervisor.DatastoreInfo
	for _, s := range srs {
		if s.ContentType == "iso" || s.ContentType == "disk" { // ISO libraries and physical drives hold no machines' disks
			continue
		}
		i := hypervisor.DatastoreInfo{ID: hypervisor.DatastoreID(s.UUID), Name: s.Name, Type: s.Type, CapacityBytes: s.Size, FreeBytes: max(s.Size-s.Used, 0)}
		for _, p := range s.PBDs {
			if b, ok := pbds[p]; ok && b.Attached {
				i.Hosts = append(i.Hosts, hypervisor.HostID(hosts[b.Host].UUID))
			}
		}
		slices.Sort(i.Hosts)
		i.Shared, i.Accessible = s.Shared && len(i.Hosts) > 1, len(i.Hosts) > 0 && s.Size > 0
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b hypervisor.DatastoreInfo) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// Volumes lists the images that the storage manager shows. The hidden bases
// of clones and snapshots are not among them.
func (d *driver) Volumes(ctx context.Context, ds hypervisor.DatastoreID) ([]hypervisor.VolumeInfo, error) {
	sr, err := d.byUUID(ctx, "SR", string(ds))
	if err != nil {
		return nil, err
	}
	var vdis map[xapi.Ref]vdiRec
	var srs map[xapi.Ref]srRec
	if err := d.c.Call(ctx, &vdis, "VDI.get_all_records"); err != nil {
		return nil, err
	}
	if err := d.c.Call(ctx, &srs, "SR.get_all_records"); err != nil {
		return nil, err
	}
	var out []hypervisor.VolumeInfo
	for _, v := range vdis {
		if !v.Managed || v.Missing || !sr.IsNull() && v.SR != sr {
			continue
		}
		out = append(out, hypervisor.VolumeInfo{ID: hypervisor.VolumeID(v.UUID), Name: v.Name, Datastore: hypervisor.DatastoreID(srs[v.SR].UUID),
			SizeBytes: v.Size, UsedBytes: v.Used, Format: v.SM["vdi_type"], Parent: hypervisor.VolumeID(v.SM["vhd-parent"])})
	}
	slices.SortFunc(out, func(a, b hypervisor.VolumeInfo) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// CreateVolume calls VDI.create and, to copy another image, VDI.copy into it.
func (d *driver) CreateVolume(ctx context.Context, s hypervisor.VolumeSpec) (hypervisor.DriverTask, error) {
	on := hypervisor.Ref{Kind: hypervisor.ObjectVolume, Name: s.Name}
	p, err := d.planDisk(ctx, on, hypervisor.DiskSpec{SizeBytes: s.SizeBytes, Provisioning: s.Provisioning, Datastore: s.Datastore, Image: s.From}, "")
	if err != nil {
		return nil, err
	}
	return d.compose(ctx, "create image", on, capability.VolumeManage, "", func(ctx context.Context, j *poolJob) (hypervisor.Ref, error) {
		j.Bound = true
		vdi, err := j.newImage(ctx, s.Name, p.sr, p.from, s.SizeBytes)
		if err != nil {
			return on, err
		}
		var v vdiRec
		err = d.c.Call(ctx, &v, "VDI.get_record", vdi)
		return hypervisor.VolumeID(v.UUID).Ref(), err
	})
}

// DeleteVolume calls VDI.destroy. XAPI itself would refuse only images of
// running machines; here any machine's disk is refused.
func (d *driver) DeleteVolume(ctx context.Context, id hypervisor.VolumeID) (hypervisor.DriverTask, error) {
	ref, err := d.byUUID(ctx, "VDI", string(id))
	var v vdiRec
	if err == nil {
		err = d.c.Call(ctx, &v, "VDI.get_record", ref)
	}
	if err != nil {
		return nil, err
	}
	if v.Type != "user" && v.Type != "system" {
		if err := d.noDisk(ctx, id, ref, v); err != nil {
			return nil, err
		}
	}
	vbds, err := records[vbdRec](ctx, d, "VBD", v.VBDs)
	if err != nil {
		return nil, err
	}
	for _, b := range vbds {
		var vm vmRec
		if err := d.c.Call(ctx, &vm, "VM.get_record", b.VM); err != nil {
			return nil, err
		}
		return nil, hypervisor.Errorf(hypervisor.ErrBusy, id.Ref(), "machine %s (%q) has this image as a disk: detach it first", vm.UUID, vm.Name)
	}
	return d.async(ctx, id.Ref(), capability.VolumeManage, nil, nil, "VDI.destroy", ref)
}

// noDisk refuses an image that is no disk and in use: the memory of a
// suspended machine or of a snapshot, or what XAPI keeps for itself. XAPI
// would destroy the memory (xapi_vdi.ml looks at VBDs).
func (d *driver) noDisk(ctx context.Context, id hypervisor.VolumeID, ref xapi.Ref, v vdiRec) error {
	if v.Type != "suspend" && v.Type != "crashdump" {
		return hypervisor.Errorf(hypervisor.ErrInvalidArgument, id.Ref(), "the image is not a disk: XAPI keeps data of its own in it (type %s)", v.Type)
	}
	var users map[xapi.Ref]vmRec
	err := d.c.Call(ctx, &users, "VM.get_all_records")
	for _, vm := range users {
		if vm.SuspendVDI == ref {
			return hypervisor.Errorf(hypervisor.ErrBusy, id.Ref(), "the memory of %s (%q) is in this image", vm.UUID, vm.Name)
		}
	}
	return err
}

// Networks lists the pool's networks.
func (d *driver) Networks(ctx context.Context) ([]hypervisor.NetworkInfo, error) {
	var nets map[xapi.Ref]networkRec
	var pifs map[xapi.Ref]pifRec
	var hosts map[xapi.Ref]hostRec
	for class, into := range map[string]any{"network": &nets, "PIF": &pifs, "host": &hosts} {
		if err := d.c.Call(ctx, into, class+".get_all_records"); err != nil {
			return nil, err
		}
	}
	var out []hypervisor.NetworkInfo
	for _, n := range nets {
		i := hypervisor.NetworkInfo{ID: hypervisor.NetworkID(n.UUID), Name: n.Name, Type: "internal", SRIOV: hypervisor.FactAbsent}
		for _, r := range n.PIFs {
			p := pifs[r]
			i.Type = "bridged"
			i.Hosts = append(i.Hosts, hypervisor.HostID(hosts[p.Host].UUID))
			if p.VLAN > 0 { // -1 for none
				i.VLAN = int(p.VLAN)
			}
			if len(p.SRIOVlog) > 0 {
				i.SRIOV = hypervisor.FactPresent
			}
		}
		slices.Sort(i.Hosts)
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b hypervisor.NetworkInfo) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}
