package xen

import (
	"context"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// Dependencies lists the images that share a hidden base
// (sm_config:vhd-parent) with those of the machine. The storage manager keeps
// a base as long as one of them exists, so nothing breaks when another is
// deleted.
func (d *driver) Dependencies(ctx context.Context, id hypervisor.VMID) (hypervisor.Dependencies, error) {
	vm, _, err := d.vm(ctx, id)
	if err != nil {
		return hypervisor.Dependencies{}, err
	}
	inv, err := d.load(ctx)
	if err != nil {
		return hypervisor.Dependencies{}, err
	}
	owners := map[xapi.Ref][]hypervisor.Ref{} // of images
	for _, b := range inv.vbds {
		v, ok := inv.vms[b.VM]
		if !ok || b.VM == vm {
			continue
		}
		r := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name}
		if v.IsSnapshot {
			r.Kind = hypervisor.ObjectSnapshot
		}
		owners[b.VDI] = append(owners[b.VDI], r)
	}
	byUUID := map[string]vdiRec{}
	for _, img := range inv.vdis {
		byUUID[img.UUID] = img
	}
	base := func(img vdiRec) string { // the deepest image known
		for range len(inv.vdis) {
			p := img.SM["vhd-parent"]
			if p == "" {
				return img.UUID
			}
			next, ok := byUUID[p]
			if !ok {
				return p
			}
			img = next
		}
		return img.UUID
	}
	var out hypervisor.Dependencies
	for _, disk := range inv.disks(inv.vms[vm]) {
		img := byUUID[string(disk.Volume)]
		dep := hypervisor.VolumeDependency{Volume: disk.Volume, Disk: disk.ID, Parent: disk.Parent, SizeBytes: img.Used}
		for p := img.SM["vhd-parent"]; p != "" && dep.Depth <= len(inv.vdis); p = byUUID[p].SM["vhd-parent"] {
			dep.Depth++
		}
		for ref, other := range inv.vdis {
			if other.UUID == img.UUID || base(other) != base(img) {
				continue
			}
			if by := owners[ref]; len(by) > 0 {
				dep.Dependants = append(dep.Dependants, by...)
			} else if other.Managed && len(other.VBDs) == 0 { // it belongs to a tool, not to a machine
				dep.Dependants = append(dep.Dependants, hypervisor.Ref{Kind: hypervisor.ObjectVolume, ID: other.UUID, Name: other.Name})
			}
		}
		out.Volumes = append(out.Volumes, dep)
	}
	return out, nil
}
