//go:build cgo

package fleet

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Books indexes a host's disk images: their backing chains and the machines
// that use them. It is read anew before any image is removed.
type Books struct {
	Pools  []libvirtx.Pool
	Images libvirtx.Images

	host *Host
	// users of an image: machines and snapshots of machines, on every host
	// that answers.
	users map[hypervisor.VolumeID][]User
}

// Alive is a context that ends when the host's connection is closed.
func (b *Books) Alive() context.Context { return b.host.Conn.Alive() }

// User is a user of an image.
type User struct {
	VM       hypervisor.Ref
	Snapshot string // empty means the machine's own definition
}

// Paths is a set of image paths on one host.
type Paths map[string]bool

// Books reads the index of a host's images.
func (f *Fleet) Books(ctx context.Context, h *Host) (*Books, error) {
	b := &Books{host: h, users: map[hypervisor.VolumeID][]User{}}
	var mu sync.Mutex
	errs := make([]error, len(f.Members))
	var wg sync.WaitGroup
	for i, o := range f.Members {
		wg.Go(func() {
			_, errs[i] = libvirtx.Do(ctx, o.Conn, 4, func(c *libvirt.Connect) (struct{}, error) {
				pools, err := libvirtx.Pools(c)
				if err != nil {
					return struct{}{}, err
				}
				used, err := usedImages(c, f.platform.ReadSnapshots)
				if err != nil {
					return struct{}{}, err
				}
				mu.Lock()
				for p, us := range used {
					id := libvirtx.ImageID(pools, o.ID(), p)
					b.users[id] = append(b.users[id], us...)
				}
				mu.Unlock()
				if o != h {
					return struct{}{}, nil
				}
				b.Pools = pools
				var outside []string
				for p := range used {
					if _, ok := libvirtx.PoolOf(pools, p); !ok && strings.HasPrefix(p, "/") && !strings.HasPrefix(p, "/dev/") {
						outside = append(outside, p)
					}
				}
				b.Images, err = libvirtx.LoadImages(c, pools, outside)
				return struct{}{}, err
			})
			// Images that a host that is down uses appear as images without a
			// name.
			if errs[i] != nil && o != h && libvirtx.KindOf(errs[i]) == hypervisor.ErrUnavailable {
				errs[i] = nil
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return b, nil
}

// usedImages reads every definition and every snapshot.
func usedImages(c *libvirt.Connect, snapshots func(*libvirt.Domain) ([]libvirtxml.DomainSnapshot, error)) (map[string][]User, error) {
	all, err := c.ListAllDomains(0)
	if err != nil {
		return nil, err
	}
	defer func() {
		for i := range all {
			_ = all[i].Free() // a local reference
		}
	}()
	out := map[string][]User{}
	var mu sync.Mutex
	add := func(x *libvirtxml.Domain, u User) {
		mu.Lock()
		defer mu.Unlock()
		for i := range x.Devices.Disks {
			p := libvirtx.DiskPath(&x.Devices.Disks[i])
			if p != "" && !slices.Contains(out[p], u) {
				out[p] = append(out[p], u)
			}
		}
	}
	err = libvirtx.Each(len(all), func(i int) error {
		dom := &all[i]
		var u User
		for _, flags := range []libvirt.DomainXMLFlags{0, libvirt.DOMAIN_XML_INACTIVE} {
			x, mark, err := libvirtx.Parse(dom, flags)
			if libvirtx.NotFound(err) {
				return nil
			}
			if err != nil {
				return err
			}
			u = User{VM: hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: x.UUID, Name: x.Name}}
			if IsTemplate(x, mark) {
				u.VM.Kind = hypervisor.ObjectTemplate
			}
			add(x, u)
			for _, p := range mark.Images {
				mu.Lock()
				out[p] = append(out[p], u)
				mu.Unlock()
			}
		}
		if snapshots == nil {
			return nil
		}
		snaps, err := snapshots(dom)
		if libvirtx.NotFound(err) {
			return nil
		}
		for _, s := range snaps {
			u.Snapshot = s.Name
			if s.Domain != nil && s.Domain.Devices != nil {
				add(s.Domain, u)
			}
		}
		return err
	})
	return out, err
}

// Of returns the images that belong to a machine: those that its definition
// and snapshots name, those with its UUID in their name, and bases that were
// frozen for it.
func (b *Books) Of(uuid string, x *libvirtxml.Domain, m libvirtx.Mark) Paths {
	out := Paths{}
	for _, k := range libvirtx.Writable(x) {
		out[libvirtx.DiskPath(k)] = true
	}
	for _, p := range m.Images {
		out[p] = true
	}
	for p := range b.Images.ByPath {
		if libvirtx.OwnedBy(p, uuid) {
			out[p] = true
		}
		for _, u := range b.Users(p) {
			if u.VM.ID == uuid && u.Snapshot != "" && !readOnlyIn(x, p) {
				out[p] = true
			}
		}
	}
	return out
}

func readOnlyIn(x *libvirtxml.Domain, p string) bool {
	return slices.ContainsFunc(x.Devices.Disks, func(k libvirtxml.DomainDisk) bool {
		return libvirtx.DiskPath(&k) == p && (k.ReadOnly != nil || k.Device == "cdrom")
	})
}

// Dependants names everything outside a set of images that depends on the
// set: machines where they are known, and otherwise the images themselves.
func (b *Books) Dependants(of Paths) []hypervisor.Ref { return b.standing(of, of) }

// Above names everything that depends on one image, except what does so
// through some others.
func (b *Books) Above(p string, but Paths) []hypervisor.Ref { return b.standing(Paths{p: true}, but) }

func (b *Books) standing(on, but Paths) []hypervisor.Ref {
	found := map[string]hypervisor.Ref{}
	for p := range on {
		for _, above := range b.Images.Above[p] {
			if !but[above] {
				b.owners(above, found, 0)
			}
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, c hypervisor.Ref) int { return strings.Compare(a.ID, c.ID) })
}

// owners adds the users of an image, directly or through images above it.
func (b *Books) owners(p string, found map[string]hypervisor.Ref, depth int) {
	if depth > 256 {
		return // longer than any chain that QEMU opens, so it is a loop
	}
	n := len(found)
	for _, u := range b.Users(p) {
		found[u.VM.ID] = u.VM
	}
	for _, above := range b.Images.Above[p] {
		b.owners(above, found, depth+1)
	}
	if len(found) == n && len(b.Users(p)) == 0 && len(b.Images.Above[p]) == 0 {
		r := hypervisor.Ref{Kind: hypervisor.ObjectVolume, ID: p, Name: p}
		if v, ok := b.Images.ByPath[p]; ok {
			r = v.Ref()
		}
		found[p] = r
	}
}

// Users returns the direct users of an image.
func (b *Books) Users(p string) []User {
	return b.users[libvirtx.ImageID(b.Pools, b.host.ID(), p)]
}

// Others returns the users of an image other than the machine.
func (b *Books) Others(p, uuid string) []hypervisor.Ref {
	var out []hypervisor.Ref
	for _, u := range b.Users(p) {
		if u.VM.ID != uuid && !slices.Contains(out, u.VM) {
			out = append(out, u.VM)
		}
	}
	return out
}

// BusyWith returns the error for a removal that others prevent.
func BusyWith(on hypervisor.Ref, deps []hypervisor.Ref, what string) error {
	var names []string
	for _, r := range deps {
		names = append(names, r.String())
	}
	return hypervisor.Errorf(hypervisor.ErrBusy, on, "%s %s: delete those first", what, strings.Join(names, ", "))
}

// Apart names those of some images that are in no storage pool: libvirt can't
// remove them.
func (b *Books) Apart(images Paths) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(images)), func(p string) bool { return !slices.Contains(b.Images.Outside, p) })
}

// noteKept notes which storage of a machine's disks stays: images of no pool,
// images that the machine had read-only, and disks elsewhere.
func (b *Books) noteKept(j *job.Job, images Paths, readOnly, disks []string) {
	for _, p := range readOnly {
		name := p
		if v, ok := b.Images.ByPath[p]; ok {
			name = string(v.ID())
		}
		j.Note("image " + name + " stays: the machine had it read-only")
	}
	for _, p := range b.Apart(images) {
		j.Note("image " + p + " is in no storage pool and stays: remove it by hand")
	}
	for _, d := range disks {
		j.Note("the storage of disk " + d + " is neither a file nor a block device of the host and stays: remove it by hand")
	}
}

// Remove deletes images, starting at the top of each backing chain, and names
// those that could not be removed.
func (b *Books) Remove(c *libvirt.Connect, images Paths) ([]hypervisor.Ref, error) {
	var left []hypervisor.Ref
	var first error
	order := slices.SortedFunc(maps.Keys(images), func(x, y string) int {
		return len(b.Images.Chain(y)) - len(b.Images.Chain(x))
	})
	for _, p := range order {
		v, ok := b.Images.ByPath[p]
		if !ok {
			continue // in no pool, or gone already
		}
		if err := libvirtx.DeleteVolume(c, v.Pool, v.Name); err != nil {
			left = append(left, v.Ref())
			if first == nil {
				first = err
			}
		}
	}
	return left, first
}

// BooksOf finds a machine's host and indexes the images on it.
func (f *Fleet) BooksOf(ctx context.Context, id hypervisor.VMID) (*Host, *Books, error) {
	h, err := f.Locate(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	b, err := f.Books(ctx, h)
	return h, b, err
}

// Dependencies implements hypervisor.DependencyLister.
func (f *Fleet) Dependencies(ctx context.Context, id hypervisor.VMID) (hypervisor.Dependencies, error) {
	h, b, err := f.BooksOf(ctx, id)
	if err != nil {
		return hypervisor.Dependencies{}, err
	}
	return OnHost(ctx, h, id, 1, func(_ *Host, _ *libvirt.Connect, dom *libvirt.Domain) (hypervisor.Dependencies, error) {
		x, _, err := libvirtx.Parse(dom, 0)
		if err != nil {
			return hypervisor.Dependencies{}, err
		}
		var out hypervisor.Dependencies
		for _, k := range libvirtx.Writable(x) {
			chain := b.Images.Chain(libvirtx.DiskPath(k))
			for i, p := range chain {
				v := b.Images.ByPath[p]
				dep := hypervisor.VolumeDependency{Volume: libvirtx.ImageID(b.Pools, h.ID(), p), Disk: hypervisor.DiskID(k.Target.Dev),
					Depth: len(chain) - 1 - i, SizeBytes: v.Allocation}
				if v.Backing != "" {
					dep.Parent = libvirtx.ImageID(b.Pools, h.ID(), v.Backing)
				}
				dep.Dependants = slices.DeleteFunc(b.Above(p, nil), func(r hypervisor.Ref) bool { return r.ID == string(id) })
				for _, u := range b.Users(p) {
					if u.VM.ID == string(id) && u.Snapshot != "" {
						dep.Dependants = append(dep.Dependants, hypervisor.Ref{Kind: hypervisor.ObjectSnapshot, ID: u.Snapshot, Name: u.Snapshot})
					}
				}
				out.Volumes = append(out.Volumes, dep)
			}
		}
		return out, nil
	})
}
