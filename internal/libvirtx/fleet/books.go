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
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Books say which images there are on a host, what stands on what, and whose
// they are. They are read anew before any image is removed.
type Books struct {
	Pools  []libvirtx.Pool
	Images libvirtx.Images

	host *Host
	// users of an image: machines, and snapshots of machines, of every host
	// that answers.
	users map[hypervisor.VolumeID][]User
}

// User is who uses an image.
type User struct {
	VM       hypervisor.Ref
	Snapshot string // empty: the machine's own definition
}

// Paths is a set of image paths on one host.
type Paths map[string]bool

// Books reads the books of a host.
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
				b.Images, err = libvirtx.LoadImages(c, pools)
				return struct{}{}, err
			})
			// What a host that is down uses shows as an image without a name.
			if errs[i] != nil && o != h && libvirtx.KindOf(errs[i]) == hypervisor.KindUnavailable {
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
			u = User{VM: hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: x.UUID, Name: x.Name}}
			if IsTemplate(x, mark) {
				u.VM.Kind = hypervisor.KindOfTemplate
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

// Of returns the images that belong to a machine: those that its
// definition and snapshots name, those with its UUID in their name, and bases
// that were frozen under it.
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

// Dependants names what stands on a set of images and is not of the set:
// machines where the books know them, else the images themselves.
func (b *Books) Dependants(of Paths) []hypervisor.Ref { return b.standing(of, of) }

// Above names what stands on one image, but for what stands there through
// some others.
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

// owners adds who uses an image, directly or through images above it.
func (b *Books) owners(p string, found map[string]hypervisor.Ref, depth int) {
	if depth > 256 {
		return // longer than any chain that QEMU opens: a loop
	}
	n := len(found)
	for _, u := range b.Users(p) {
		found[u.VM.ID] = u.VM
	}
	for _, above := range b.Images.Above[p] {
		b.owners(above, found, depth+1)
	}
	if len(found) == n && len(b.Users(p)) == 0 && len(b.Images.Above[p]) == 0 {
		v := b.Images.ByPath[p]
		found[p] = v.Ref()
	}
}

// Users returns who uses an image directly.
func (b *Books) Users(p string) []User {
	return b.users[libvirtx.ImageID(b.Pools, b.host.ID(), p)]
}

// Others returns users of an image that are not the machine.
func (b *Books) Others(p, uuid string) []hypervisor.Ref {
	var out []hypervisor.Ref
	for _, u := range b.Users(p) {
		if u.VM.ID != uuid && !slices.Contains(out, u.VM) {
			out = append(out, u.VM)
		}
	}
	return out
}

// BusyWith says what stands in the way of removing something.
func BusyWith(on hypervisor.Ref, deps []hypervisor.Ref, what string) error {
	var names []string
	for _, r := range deps {
		names = append(names, r.String())
	}
	return hypervisor.Errorf(hypervisor.KindBusy, on, "%s %s: delete those first", what, strings.Join(names, ", "))
}

// Remove deletes images, those above before those below, and names what could
// not be removed.
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

// Dependencies implements hypervisor.DependencyLister.
func (f *Fleet) Dependencies(ctx context.Context, id hypervisor.VMID) (hypervisor.Dependencies, error) {
	h, err := f.Locate(ctx, id)
	if err != nil {
		return hypervisor.Dependencies{}, err
	}
	b, err := f.Books(ctx, h)
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
						dep.Dependants = append(dep.Dependants, hypervisor.Ref{Kind: hypervisor.KindOfSnapshot, ID: u.Snapshot, Name: u.Snapshot})
					}
				}
				out.Volumes = append(out.Volumes, dep)
			}
		}
		return out, nil
	})
}
