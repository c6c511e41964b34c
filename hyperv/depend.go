package hyperv

import (
	"context"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// images lists the image files of some of the machine's snapshots; nil means
// the machine itself and all its snapshots.
func (m *machine) images(ctx context.Context, snaps map[hypervisor.SnapshotID]bool) ([]string, error) {
	var owners []string
	if snaps == nil {
		owners = append(owners, string(m.id))
		for _, s := range m.snaps {
			owners = append(owners, ownerOf(s.Str("InstanceID")))
		}
	}
	for id := range snaps {
		owners = append(owners, string(id))
	}
	if len(owners) == 0 {
		return nil, nil
	}
	rows, err := cim.Collect(m.s.Query(ctx, cim.Virtualization, cim.Select("Msvm_StorageAllocationSettingData", diskProps)))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, r := range rows {
		p := r.Str("HostResource")
		if p != "" && r.Str("ResourceSubType") == subVHD && slices.Contains(owners, ownerOf(r.Str("InstanceID"))) && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out, nil
}

// allImages lists every image that the machine or a snapshot of it wrote:
// those that its settings name, and below images of snapshots (.avhdx) those
// that a deleted snapshot left behind because several others stand on them.
// What an ordinary image stands on belongs to somebody else.
func (m *machine) allImages(ctx context.Context) ([]string, error) {
	out, err := m.images(ctx, nil)
	if err != nil || len(out) == 0 {
		return out, err
	}
	img, err := m.h.images(ctx, m.s)
	if err != nil {
		return nil, err
	}
	known := func(p string) bool {
		return slices.ContainsFunc(append(out, m.notes.Bases...), func(x string) bool { return strings.EqualFold(x, p) })
	}
	for i := 0; i < len(out); i++ {
		if !strings.HasSuffix(strings.ToLower(out[i]), ".avhdx") && !strings.HasSuffix(strings.ToLower(out[i]), ".avhd") {
			continue
		}
		v, err := readImage(ctx, m.s, img, out[i])
		if err != nil {
			if refused(err) {
				continue
			}
			return nil, err
		}
		if p := v.Str("ParentPath"); p != "" && !known(p) {
			out = append(out, p)
		}
	}
	return out, nil
}

// chain lists an image and all that it stands on.
func chain(ctx context.Context, s cim.Session, img cim.Ref, path string) ([]string, error) {
	var out []string
	for path != "" && len(out) < 256 {
		v, err := readImage(ctx, s, img, path)
		if err != nil {
			return out, err
		}
		out = append(out, path)
		path = v.Str("ParentPath")
	}
	return out, nil
}

// disks lists the present images of the machine by disk.
func (m *machine) disks(ctx context.Context) ([]*cim.Instance, error) {
	inv, err := readInventory(ctx, m.h, m.s, []int{rowDisks}, only(m.id))
	if err != nil {
		return nil, err
	}
	var out []*cim.Instance
	for _, r := range inv.record(string(m.id)).rows[rowDisks] {
		if r.Str("ResourceSubType") == subVHD && r.Str("HostResource") != "" {
			out = append(out, r)
		}
	}
	return out, nil
}

// depths counts the images below the present one, by disk.
func (m *machine) depths(ctx context.Context) (map[string]int, error) {
	disks, err := m.disks(ctx)
	if err != nil {
		return nil, err
	}
	if len(disks) == 0 {
		return nil, nil
	}
	img, err := m.h.images(ctx, m.s)
	if err != nil {
		return nil, err
	}
	out := map[string]int{}
	for _, d := range disks {
		c, err := chain(ctx, m.s, img, d.Str("HostResource"))
		if err != nil {
			if refused(err) {
				continue // an image is exchanged at this moment, or missing
			}
			return nil, err
		}
		out[d.Str("InstanceID")] = len(c) - 1
	}
	return out, nil
}

// dependant is a machine that stands on an image of another one.
type dependant struct {
	ref   hypervisor.Ref
	bases []string
}

// dependants finds the linked clones that stand on any of the paths. Local
// paths concern the machines of the same host, shared ones those of all.
func (d *driver) dependants(ctx context.Context, m *machine, paths []string) ([]dependant, error) {
	hosts := []*host{m.h}
	for _, p := range paths {
		if shared(p) {
			hosts = d.hosts
		}
	}
	parts := make([][]dependant, len(hosts))
	err := d.each(ctx, hosts, func(ctx context.Context, i int, h *host, s cim.Session) error {
		inv, err := readInventory(ctx, h, s, []int{rowSettings}, nil)
		if err != nil {
			return err
		}
		for id, r := range inv.byID {
			if r.settings == nil || id == string(m.id) {
				continue
			}
			var on []string
			for _, b := range parseNotes(r.settings.Strs("Notes")).Bases {
				if slices.ContainsFunc(paths, func(p string) bool { return strings.EqualFold(p, b) }) {
					on = append(on, b)
				}
			}
			if len(on) > 0 {
				ref := hypervisor.VMID(id).Ref()
				ref.Name = r.settings.Str("ElementName")
				parts[i] = append(parts[i], dependant{ref, on})
			}
		}
		return nil
	})
	return slices.Concat(parts...), err
}

// unshared refuses if linked clones of other machines stand on the paths.
func (d *driver) unshared(ctx context.Context, m *machine, paths []string) error {
	deps, err := d.dependants(ctx, m, paths)
	if err != nil || len(deps) == 0 {
		return err
	}
	var names []string
	for _, x := range deps {
		names = append(names, x.ref.String())
	}
	slices.Sort(names)
	return hypervisor.Errorf(hypervisor.KindBusy, m.id.Ref(), "linked clones stand on its images: %s", strings.Join(names, ", "))
}

// Dependencies implements hypervisor.DependencyLister.
func (d *driver) Dependencies(ctx context.Context, id hypervisor.VMID) (hypervisor.Dependencies, error) {
	m, err := d.machine(ctx, id)
	if err != nil {
		return hypervisor.Dependencies{}, err
	}
	disks, err := m.disks(ctx)
	if err != nil || len(disks) == 0 {
		return hypervisor.Dependencies{}, err
	}
	img, err := m.h.images(ctx, m.s)
	if err != nil {
		return hypervisor.Dependencies{}, err
	}
	var out hypervisor.Dependencies
	var all []string
	for _, k := range disks {
		c, err := chain(ctx, m.s, img, k.Str("HostResource"))
		if err != nil {
			return out, err
		}
		for n, p := range c {
			v := hypervisor.VolumeDependency{Volume: m.h.volume(p), Disk: hypervisor.DiskID(k.Str("InstanceID")), Depth: len(c) - 1 - n}
			if n+1 < len(c) {
				v.Parent = m.h.volume(c[n+1])
			}
			f, err := fileOf(ctx, m.s, p)
			if err != nil {
				return out, err
			}
			if f != nil {
				v.SizeBytes = int64(f.Uint("FileSize"))
			}
			out.Volumes = append(out.Volumes, v)
			all = append(all, p)
		}
	}
	deps, err := d.dependants(ctx, m, all)
	if err != nil {
		return out, err
	}
	for i := range out.Volumes {
		_, p := splitID(string(out.Volumes[i].Volume))
		for _, x := range deps {
			if slices.ContainsFunc(x.bases, func(b string) bool { return strings.EqualFold(b, p) }) {
				out.Volumes[i].Dependants = append(out.Volumes[i].Dependants, x.ref)
			}
		}
	}
	for _, s := range userSnapshots(m.snaps) {
		sid := hypervisor.SnapshotID(ownerOf(s.Str("InstanceID")))
		paths, err := m.images(ctx, map[hypervisor.SnapshotID]bool{sid: true})
		if err != nil {
			return out, err
		}
		for i := range out.Volumes {
			_, p := splitID(string(out.Volumes[i].Volume))
			if slices.ContainsFunc(paths, func(b string) bool { return strings.EqualFold(b, p) }) {
				ref := sid.Ref()
				ref.Name = s.Str("ElementName")
				out.Volumes[i].Dependants = append(out.Volumes[i].Dependants, ref)
			}
		}
	}
	return out, nil
}
