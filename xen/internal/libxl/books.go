//go:build cgo

package libxl

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

// books say which images there are on a host, what stands on what, and whose
// they are. They are read anew before any image is removed.
type books struct {
	h     *host
	pools []libvirtx.Pool
	im    libvirtx.Images
	// users of an image: machines of every host that answers.
	users map[hypervisor.VolumeID][]hypervisor.Ref
}

// set is a set of image paths on one host.
type set map[string]bool

func (d *driver) books(ctx context.Context, h *host) (*books, error) {
	b := &books{h: h, users: map[hypervisor.VolumeID][]hypervisor.Ref{}}
	var mu sync.Mutex
	errs := make([]error, len(d.hosts))
	var wg sync.WaitGroup
	for i, o := range d.hosts {
		wg.Go(func() {
			_, errs[i] = libvirtx.Do(ctx, o.conn, 4, func(c *libvirt.Connect) (struct{}, error) {
				pools, err := libvirtx.Pools(c)
				if err != nil {
					return struct{}{}, err
				}
				used, err := usedImages(c)
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
				b.pools = pools
				b.im, err = libvirtx.LoadImages(c, pools)
				return struct{}{}, err
			})
			// What a host that is down uses shows as an image without a name.
			if errs[i] != nil && o != h && d.kindOf(errs[i]) == hypervisor.KindUnavailable {
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

// usedImages reads every definition.
func usedImages(c *libvirt.Connect) (map[string][]hypervisor.Ref, error) {
	all, err := c.ListAllDomains(0)
	if err != nil {
		return nil, err
	}
	defer func() {
		for i := range all {
			_ = all[i].Free() // a local reference
		}
	}()
	out := map[string][]hypervisor.Ref{}
	var mu sync.Mutex
	add := func(x *libvirtxml.Domain, u hypervisor.Ref) {
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
		for _, flags := range []libvirt.DomainXMLFlags{0, libvirt.DOMAIN_XML_INACTIVE} {
			x, mark, err := libvirtx.Parse(dom, flags)
			if libvirtx.NotFound(err) {
				return nil
			}
			if err != nil {
				return err
			}
			u := hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: x.UUID, Name: x.Name}
			if isTemplate(x, mark) {
				u.Kind = hypervisor.KindOfTemplate
			}
			add(x, u)
			for _, p := range mark.Images {
				mu.Lock()
				out[p] = append(out[p], u)
				mu.Unlock()
			}
		}
		return nil
	})
	return out, err
}

// images returns the images that belong to a machine: those that its
// definition names, those with its UUID in their name, and bases
// that were frozen under it.
func (b *books) images(uuid string, x *libvirtxml.Domain, m libvirtx.Mark) set {
	out := set{}
	for _, k := range libvirtx.Writable(x) {
		out[libvirtx.DiskPath(k)] = true
	}
	for _, p := range m.Images {
		out[p] = true
	}
	for p := range b.im.ByPath {
		if libvirtx.OwnedBy(p, uuid) {
			out[p] = true
		}
	}
	return out
}

// dependants names what stands on a set of images and is not of the set:
// machines where the books know them, else the images themselves.
func (b *books) dependants(of set) []hypervisor.Ref {
	found := map[string]hypervisor.Ref{}
	for p := range of {
		for _, above := range b.im.Above[p] {
			if !of[above] {
				b.owners(above, found, 0)
			}
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, c hypervisor.Ref) int { return strings.Compare(a.ID, c.ID) })
}

// owners adds who uses an image, directly or through images above it.
func (b *books) owners(p string, found map[string]hypervisor.Ref, depth int) {
	if depth > 256 {
		return // longer than any chain that QEMU opens: a loop
	}
	n := len(found)
	for _, u := range b.usersOf(p) {
		found[u.ID] = u
	}
	for _, above := range b.im.Above[p] {
		b.owners(above, found, depth+1)
	}
	if len(found) == n && len(b.usersOf(p)) == 0 && len(b.im.Above[p]) == 0 {
		v := b.im.ByPath[p]
		found[p] = v.Ref()
	}
}

func (b *books) usersOf(p string) []hypervisor.Ref {
	return b.users[libvirtx.ImageID(b.pools, b.h.ID(), p)]
}

// others returns users of an image that are not the machine.
func (b *books) others(p, uuid string) []hypervisor.Ref {
	var out []hypervisor.Ref
	for _, u := range b.usersOf(p) {
		if u.ID != uuid && !slices.Contains(out, u) {
			out = append(out, u)
		}
	}
	return out
}

func busyWith(on hypervisor.Ref, deps []hypervisor.Ref, what string) error {
	var names []string
	for _, r := range deps {
		names = append(names, r.String())
	}
	return hypervisor.Errorf(hypervisor.KindBusy, on, "%s %s: delete those first", what, strings.Join(names, ", "))
}

// remove deletes images, those above before those below, and names what could
// not be removed.
func (b *books) remove(c *libvirt.Connect, images set) ([]hypervisor.Ref, error) {
	var left []hypervisor.Ref
	var first error
	order := slices.SortedFunc(maps.Keys(images), func(x, y string) int {
		return len(b.im.Chain(y)) - len(b.im.Chain(x))
	})
	for _, p := range order {
		v, ok := b.im.ByPath[p]
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
func (d *driver) Dependencies(ctx context.Context, id hypervisor.VMID) (hypervisor.Dependencies, error) {
	h, err := d.locate(ctx, id)
	if err != nil {
		return hypervisor.Dependencies{}, err
	}
	b, err := d.books(ctx, h)
	if err != nil {
		return hypervisor.Dependencies{}, err
	}
	return onHost(ctx, h, id, 1, func(_ *host, _ *libvirt.Connect, dom *libvirt.Domain) (hypervisor.Dependencies, error) {
		x, _, err := libvirtx.Parse(dom, 0)
		if err != nil {
			return hypervisor.Dependencies{}, err
		}
		var out hypervisor.Dependencies
		for _, k := range libvirtx.Writable(x) {
			chain := b.im.Chain(libvirtx.DiskPath(k))
			for i, p := range chain {
				v := b.im.ByPath[p]
				dep := hypervisor.VolumeDependency{Volume: libvirtx.ImageID(b.pools, h.ID(), p), Disk: hypervisor.DiskID(k.Target.Dev),
					Depth: len(chain) - 1 - i, SizeBytes: v.Allocation}
				if v.Backing != "" {
					dep.Parent = libvirtx.ImageID(b.pools, h.ID(), v.Backing)
				}
				found := map[string]hypervisor.Ref{}
				for _, above := range b.im.Above[p] {
					b.owners(above, found, 0)
				}
				delete(found, string(id))
				dep.Dependants = append(dep.Dependants, slices.SortedFunc(maps.Values(found), func(a, c hypervisor.Ref) int { return strings.Compare(a.ID, c.ID) })...)
				out.Volumes = append(out.Volumes, dep)
			}
		}
		return out, nil
	})
}
