//go:build cgo

package kvm

import (
	"context"
	"slices"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// checkChain compares the headers of new overlays with the backing chain of a
// running machine. An overlay is made on the image that the machine wrote to
// a moment before, and another program may have replaced that image since.
// QEMU then continues with the right chain, and whoever follows the headers
// later would miss what was written in between. So the overlays are merged
// into the images below them, and the change is refused.
func checkChain(ctx context.Context, c *libvirt.Connect, dom *libvirt.Domain, id hypervisor.VMID, made []libvirtx.Volume) error {
	x, _, err := libvirtx.Parse(dom, 0)
	if err != nil {
		return err
	}
	type layer struct {
		dev, below string
		v          libvirtx.Volume
	}
	var layers []layer
	right := true
	for _, v := range made {
		i := slices.IndexFunc(x.Devices.Disks, func(k libvirtxml.DomainDisk) bool { return libvirtx.DiskPath(&k) == v.Path })
		if i < 0 {
			return hypervisor.Errorf(hypervisor.ErrUnknown, id.Ref(), "the machine does not write to the image %s that it was given", v.Path)
		}
		k := &x.Devices.Disks[i]
		below := ""
		if k.BackingStore != nil {
			below = libvirtx.DiskPath(&libvirtxml.DomainDisk{Source: k.BackingStore.Source})
		}
		layers = append(layers, layer{k.Target.Dev, below, v})
		right = right && below == v.Backing
	}
	if right {
		return nil
	}
	for _, l := range layers {
		if err := commit(ctx, dom, l.dev, l.below, l.v.Path, true); err != nil {
			return err
		}
		if err := libvirtx.DeleteVolume(c, l.v.Pool, l.v.Name); err != nil {
			return err
		}
	}
	return hypervisor.Errorf(hypervisor.ErrBusy, id.Ref(), "another program changed the machine's disks at the same time: nothing was done, repeat the call")
}

// maxDepth is the longest backing chain that a disk may have. libvirt opens
// no more than 200 images (virstoragefile's limit), and a machine that it
// can't start is lost to its user.
const maxDepth = 150

// shallow refuses another image on a backing chain that is too long already.
func shallow(c *libvirt.Connect, pools []libvirtx.Pool, k *libvirtxml.DomainDisk) error {
	depth := 0
	if k.BackingStore != nil { // only of a running machine
		for b := k.BackingStore; b != nil && b.Source != nil; b = b.BackingStore {
			depth++
		}
	} else {
		for p := libvirtx.DiskPath(k); p != "" && depth < maxDepth; depth++ {
			v, err := libvirtx.FindImage(c, pools, p)
			if err != nil {
				break // in no pool: its length is not known
			}
			p = v.Backing
		}
	}
	if depth >= maxDepth {
		return hypervisor.Errorf(hypervisor.ErrExhausted, hypervisor.DiskID(k.Target.Dev).Ref(),
			"the disk's backing chain has %d images, and a machine with more than 200 can't start: make a full clone and use that one, or delete snapshots", depth)
	}
	return nil
}
