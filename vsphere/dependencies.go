package vsphere

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// baseName is the name of snapshots that this driver makes as the base of
// linked clones.
const baseName = "anyvisor: base of linked clones"

var baseSnapshot = hypervisor.SnapshotRequest{Name: baseName, SnapshotOptions: hypervisor.SnapshotOptions{
	Description: "Made by anyvisor. It is removed with the last linked clone, that of a template when the template is made a machine again."}}

// frozen is the state that one snapshot keeps.
type frozen struct {
	self   ref
	name   string
	chains [][]link
}

// frozenImages reads the backing chains that the snapshots of a machine keep.
func (d *driver) frozenImages(ctx context.Context, vm ref) ([]frozen, error) {
	p, err := d.one(ctx, vm, "snapshot")
	if err != nil {
		return nil, err
	}
	return d.frozenOf(ctx, p)
}

// frozenOf is like frozenImages, for a machine whose snapshots were read.
func (d *driver) frozenOf(ctx context.Context, p propMap) ([]frozen, error) {
	var out []frozen
	var refs []ref
	for _, n := range flatten(get[types.VirtualMachineSnapshotInfo](p, "snapshot").RootSnapshotList, "", 0) {
		out = append(out, frozen{self: snapRef(n.ID), name: n.Name})
		refs = append(refs, snapRef(n.ID))
	}
	if len(refs) == 0 {
		return nil, nil
	}
	list, err := d.some(ctx, refs, []string{"config.hardware.device"})
	for _, o := range list {
		for i := range out {
			if out[i].self == o.Obj {
				for _, x := range disksOf(get[types.ArrayOfVirtualDevice](props(o), "config.hardware.device").VirtualDevice) {
					out[i].chains = append(out[i].chains, chain(x.Backing))
				}
			}
		}
	}
	return out, err
}

// imageSet holds the images of one machine: those that it owns, which are
// removed when it is deleted, and those of others that back them.
type imageSet struct {
	owned   []hypervisor.VolumeID
	foreign []hypervisor.VolumeID
}

// imagesOf returns the images that belong to a machine: those that its disks
// write to now, and those of its backing chains and snapshots in the folders
// of those disks or of the machine. The rest of a chain is a base that
// belongs to another machine.
func imagesOf(o owner, snaps []frozen, home hypervisor.VolumeID) imageSet {
	dirs := []string{path.Dir(string(home))}
	var s imageSet
	for _, c := range o.chains {
		if len(c) > 0 {
			dirs = append(dirs, path.Dir(string(c[0].id)))
		}
	}
	chains := slices.Clone(o.chains)
	for _, f := range snaps {
		chains = append(chains, f.chains...)
	}
	for n, c := range chains {
		for i, l := range c {
			top := n < len(o.chains) && i == 0
			list := &s.foreign
			if dir := path.Dir(string(l.id)); top || strings.Contains(dir, "/") && slices.Contains(dirs, dir) {
				list = &s.owned
			}
			if !slices.Contains(*list, l.id) {
				*list = append(*list, l.id)
			}
		}
	}
	return s
}

// dependants returns the other machines that depend on any of the images.
func dependants(all []owner, self ref, images []hypervisor.VolumeID) []hypervisor.Ref {
	var out []hypervisor.Ref
	for _, o := range all {
		if o.self != self && slices.ContainsFunc(images, o.uses) {
			out = append(out, o.ref())
		}
	}
	return out
}

// busyWith returns the error for objects that others need, by their present
// names.
func (d *driver) busyWith(ctx context.Context, on hypervisor.Ref, what string, by []hypervisor.Ref, remedy string) error {
	var names []string
	for _, r := range d.named(ctx, by) {
		names = append(names, r.String())
	}
	return hypervisor.Errorf(hypervisor.ErrBusy, on, "%s: %s; %s", what, strings.Join(names, ", "), remedy)
}

// named fills in the names of machines. Those that can't be read keep what
// they have.
func (d *driver) named(ctx context.Context, by []hypervisor.Ref) []hypervisor.Ref {
	var refs []ref
	for _, r := range by {
		if r.Kind == hypervisor.ObjectVM && r.Name == "" {
			refs = append(refs, vmRef(hypervisor.VMID(r.ID)))
		}
	}
	if len(refs) == 0 {
		return by
	}
	out := slices.Clone(by)
	list, _ := d.some(ctx, refs, []string{"name"})
	for _, o := range list {
		for i := range out {
			if out[i].Kind == hypervisor.ObjectVM && out[i].ID == o.Obj.Value {
				out[i].Name = unescape(props(o).str("name"))
			}
		}
	}
	return out
}

func findOwner(all []owner, self ref) owner {
	i := slices.IndexFunc(all, func(o owner) bool { return o.self == self })
	if i < 0 {
		return owner{self: self}
	}
	return all[i]
}

// freeImages refuses when the images of one disk are needed by a snapshot or
// another machine.
func (d *driver) freeImages(ctx context.Context, id hypervisor.VMID, v hypervisor.VMInfo, on hypervisor.Ref, back types.BaseVirtualDeviceBackingInfo) error {
	c := chain(back)
	if len(c) == 0 {
		return nil
	}
	if v.Snapshots > 0 {
		snaps, err := d.frozenImages(ctx, vmRef(id))
		if err != nil {
			return err
		}
		var by []hypervisor.Ref
		for _, s := range snaps {
			for _, sc := range s.chains {
				if slices.ContainsFunc(sc, func(l link) bool { return slices.ContainsFunc(c, func(m link) bool { return m.id == l.id }) }) {
					by = append(by, hypervisor.Ref{Kind: hypervisor.ObjectSnapshot, ID: s.self.Value, Name: s.name})
					break
				}
			}
		}
		if len(by) > 0 {
			return d.busyWith(ctx, on, "snapshots need the disk's image", by, "delete them first")
		}
	}
	all, err := d.owners(ctx)
	if err != nil {
		return err
	}
	if by := dependants(all, vmRef(id), []hypervisor.VolumeID{c[0].id}); len(by) > 0 {
		return d.busyWith(ctx, on, "other machines depend on the disk's image", by, "delete them first")
	}
	return nil
}

// Dependencies lists the backing chains of a machine's disks and who else
// depends on them.
func (d *driver) Dependencies(ctx context.Context, id hypervisor.VMID) (hypervisor.Dependencies, error) {
	p, err := d.one(ctx, vmRef(id), "config.hardware.device")
	if err != nil {
		return hypervisor.Dependencies{}, err
	}
	snaps, err := d.frozenImages(ctx, vmRef(id))
	if err != nil {
		return hypervisor.Dependencies{}, err
	}
	all, err := d.owners(ctx)
	if err != nil {
		return hypervisor.Dependencies{}, err
	}
	var out hypervisor.Dependencies
	for _, x := range disksOf(get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice) {
		c := chain(x.Backing)
		for i, l := range c {
			v := hypervisor.VolumeDependency{Volume: l.id, Disk: hypervisor.DiskID(keyID(x.Key)), Depth: len(c) - 1 - i,
				SizeBytes: capacity(x), Dependants: d.named(ctx, dependants(all, vmRef(id), []hypervisor.VolumeID{l.id}))}
			if i+1 < len(c) {
				v.Parent = c[i+1].id
			}
			for _, s := range snaps {
				if slices.ContainsFunc(s.chains, func(sc []link) bool { return slices.ContainsFunc(sc, func(m link) bool { return m.id == l.id }) }) {
					v.Dependants = append(v.Dependants, hypervisor.Ref{Kind: hypervisor.ObjectSnapshot, ID: s.self.Value, Name: s.name})
				}
			}
			out.Volumes = append(out.Volumes, v)
		}
	}
	return out, nil
}

// sweepBase removes a base snapshot that this driver made for linked clones
// when the last clone that depends on it is gone. It returns a note.
func (d *driver) sweepBase(ctx context.Context, foreign []hypervisor.VolumeID) (string, error) {
	if len(foreign) == 0 {
		return "", nil
	}
	all, err := d.owners(ctx)
	if err != nil {
		return "", err
	}
	for _, o := range all {
		if !slices.ContainsFunc(foreign, o.uses) || len(dependants(all, o.self, foreign)) > 0 {
			continue
		}
		v, err := d.GetVM(ctx, hypervisor.VMID(o.self.Value))
		if err != nil || v.Template { // a template's snapshots can't be removed
			return "", err
		}
		snaps, err := d.frozenImages(ctx, o.self)
		if err != nil {
			return "", err
		}
		var gone []string
		for _, s := range slices.Backward(snaps) { // children first, so that less is merged
			if s.name != baseName || !slices.ContainsFunc(s.chains, func(c []link) bool { return len(c) > 0 && slices.Contains(foreign, c[0].id) }) {
				continue
			}
			if err := d.dropBase(ctx, v.ID, s.self); err != nil {
				return "", err
			}
			gone = append(gone, s.self.Value)
		}
		if len(gone) > 0 {
			return fmt.Sprintf("the base snapshots %s of %s were removed: no linked clone depends on them any more", strings.Join(gone, ", "), hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: o.self.Value, Name: v.Name}), nil
		}
	}
	return "", nil
}
