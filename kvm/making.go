//go:build cgo

package kvm

import (
	"slices"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// mergeBack commits overlays that a source was given for the duration of a
// copy. Those that the source does not write to now stay: somebody continued
// from them.
func mergeBack(c *libvirt.Connect, b *fleet.Books, source string, overlays []string) error {
	dom, err := c.LookupDomainByUUIDString(source)
	if libvirtx.NotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dom.Free()
	// The maker may have died while it merged.
	if err := endCommits(b.Alive(), dom, func(p string) bool { return slices.Contains(overlays, p) }); err != nil {
		return err
	}
	x, _, err := libvirtx.Parse(dom, 0)
	if err != nil {
		return err
	}
	if b.Images, err = libvirtx.LoadImages(c, b.Pools, b.Images.Outside); err != nil {
		return err
	}
	snaps, err := readSnapshots(dom)
	if err != nil {
		return err
	}
	for _, k := range libvirtx.Writable(x) {
		p := libvirtx.DiskPath(k)
		base := b.Images.ByPath[p].Backing
		if !slices.Contains(overlays, p) || base == "" || len(b.Images.Above[base]) != 1 {
			continue
		}
		if err := commitOverlay(b, c, dom, k.Target.Dev, base, p); err != nil {
			return err
		}
		if err := forgetOverlay(b, c, dom, base, p, snaps); err != nil {
			return err
		}
	}
	return nil
}
