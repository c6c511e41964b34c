package hyperv

import (
	"context"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// images lists the image files of some of the machine's snapshots. nil means
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

// allImages lists every image that the machine or a snapshot of it wrote.
// These are the images that its settings name and, below images of snapshots
// (.avhdx), those that a deleted snapshot left behind because several others
// depend on them. Images below an ordinary image belong to somebody else.
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

// chain lists an image and its whole backing chain.
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
				continue // an image is being exchanged at this moment, or is missing
			}
			return nil, err
		}
		out[d.Str("InstanceID")] = len(c) - 1
	}
	return out, nil
}

// dependant is a machine that depends on an image of another one.
type dependant struct {
	ref   hypervisor.Ref
	bases []string
}

// dependants finds the machines that have any of the paths as an image or
// below one, whoever made it. It reads their notes, and the parent in each
// image. Local paths concern the machines of the same host, shared ones those
// of all.
func (d *driver) dependants(ctx context.Context, m *machine, paths []string) ([]dependant, error) {
	hosts := []*host{m.h}
	for _, p := range paths {
		if m.h.shared(p) {
			hosts = d.hosts
		}
	}
	parts := make([][]dependant, len(hosts))
	err := d.each(ctx, hosts, func(ctx context.Context, i int, h *host, s cim.Session) error {
		inv, err := readInventory(ctx, h, s, []int{rowSettings, rowDisks}, nil)
		if err != nil {
			return err
		}
		below, err := inv.below(ctx, s, m, paths)
		if err != nil {
			return err
		}
		for id, r := range inv.byID {
			if r.settings == nil || id == string(m.id) {
				continue
			}
			n := parseNotes(r.settings.Strs("Notes"))
			// An import in progress names its source's images until its own
			// exist. One that nobody finishes must not hold the source for
			// ever.
			importing := r.settings.Str("VirtualSystemType") == typePlanned && !n.Template
			var on []string
			for _, k := range r.rows[rowDisks] {
				p := k.Str("HostResource")
				if !importing && slices.ContainsFunc(paths, func(x string) bool { return strings.EqualFold(x, p) }) {
					on = append(on, p)
				}
			}
			if !importing {
				on = append(on, below[id]...)
			}
			for _, b := range n.Bases {
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

// below finds which of the paths are below images of other machines and of
// their snapshots, by machine. Only an image itself has its parent, so it
// reads each image of the host.
func (inv *inventory) below(ctx context.Context, s cim.Session, m *machine, paths []string) (map[string][]string, error) {
	owners := map[string]string{} // machines by their own and their snapshots' GUIDs
	for id := range inv.byID {
		owners[id] = id
	}
	for vm, snaps := range inv.snapshot {
		for _, x := range snaps {
			owners[ownerOf(x.Str("InstanceID"))] = vm
		}
	}
	users := map[string][]string{} // machines by image
	for id, r := range inv.byID {
		if owners[id] == string(m.id) {
			continue
		}
		for _, k := range r.rows[rowDisks] {
			if p := strings.ToLower(k.Str("HostResource")); p != "" && k.Str("ResourceSubType") == subVHD {
				users[p] = append(users[p], owners[id])
			}
		}
	}
	if len(users) == 0 || len(paths) == 0 {
		return nil, nil
	}
	img, err := inv.h.images(ctx, s)
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(8)
	for image, vms := range users {
		g.Go(func() error {
			c, err := chain(ctx, s, img, image)
			if err != nil && !refused(err) { // a missing one depends on nothing
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			for _, p := range c {
				if slices.ContainsFunc(paths, func(x string) bool { return strings.EqualFold(x, p) }) {
					for _, vm := range vms {
						out[vm] = append(out[vm], p)
					}
				}
			}
			return nil
		})
	}
	return out, g.Wait()
}

// unshared refuses if linked clones of other machines depend on the paths.
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
	return hypervisor.Errorf(hypervisor.ErrBusy, m.id.Ref(), "other machines have its images or depend on them: %s", strings.Join(names, ", "))
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
