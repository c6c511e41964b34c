//go:build cgo

package kvm

import (
	"slices"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// mergeBack commits overlays that a source was given for the time of a copy,
// and removes those that it did not come to use. Those that are not what the
// source writes to now stay: somebody went on from there.
func mergeBack(c *libvirt.Connect, b *fleet.Books, source string, overlays []string) error {
	dom, err := c.LookupDomainByUUIDString(source)
	if libvirtx.NotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dom.Free()
	x, _, err := libvirtx.Parse(dom, 0)
	if err != nil {
		return err
	}
	for _, k := range libvirtx.Writable(x) { // the maker may have died while it merged
		j, err := dom.GetBlockJobInfo(k.Target.Dev, 0)
		if err == nil && j.Type == libvirt.DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT && slices.Contains(overlays, libvirtx.DiskPath(k)) {
			if err := finish(dom, k.Target.Dev, true, nil); err != nil {
				return err
			}
		}
	}
	if x, _, err = libvirtx.Parse(dom, 0); err != nil {
		return err
	}
	if b.Images, err = libvirtx.LoadImages(c, b.Pools); err != nil {
		return err
	}
	snaps, err := readSnapshots(dom)
	if err != nil {
		return err
	}
	used := fleet.Paths{}
	for _, k := range libvirtx.Writable(x) {
		p := libvirtx.DiskPath(k)
		base := b.Images.ByPath[p].Backing
		if !slices.Contains(overlays, p) || base == "" || len(b.Images.Above[base]) != 1 {
			used[p] = true
			continue
		}
		if err := mergeOverlay(b, c, dom, source, k.Target.Dev, base, p, snaps); err != nil {
			return err
		}
		used[base] = true
	}
	for p, v := range b.Images.ByPath { // made and never used
		if libvirtx.OwnedBy(p, source) && used[v.Backing] && !used[p] && len(b.Images.Above[p]) == 0 && (len(b.Users(p)) == 0 || slices.Contains(overlays, p)) {
			if err := libvirtx.DeleteVolume(c, v.Pool, v.Name); err != nil {
				return err
			}
		}
	}
	return nil
}
