//go:build cgo

package kvm

import (
	"context"
	"errors"
	"slices"
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// A vGPU is a mediated device (mdev). It is made for the machine when it is
// attached, and removed when it is detached or the machine is deleted.

// mdevSince is the first libvirt version that defines mediated devices which
// start with their host (virNodeDeviceSetAutostart).
const mdevSince = "7.8.0"

// mdevPrefix is the beginning of the attachment's ID. The mediated device's
// UUID follows.
const mdevPrefix = "mdev:"

// shareFacts adds the profiles that a device offers, and their users.
func shareFacts(i *hypervisor.DeviceInfo, p libvirtx.PCIDevice, users map[string][]hypervisor.Ref) {
	for _, t := range p.Types {
		i.Kind = hypervisor.DeviceKindVGPU
		made := 0
		for _, m := range p.Shares {
			if m.Type == t.ID {
				made++
			}
		}
		v := hypervisor.VGPUProfile{ID: t.ID, Name: t.Name, Available: int(t.AvailableInstances)}
		if made == len(p.Shares) { // shares of other types use capacity too
			v.Max = v.Available + made
		}
		i.Profiles = append(i.Profiles, v)
	}
	for _, m := range p.Shares {
		for _, r := range users[m.UUID] {
			if !slices.Contains(i.UsedBy, r) {
				i.UsedBy = append(i.UsedBy, r)
			}
		}
	}
}

// profile finds a device's profile by ID or name.
func profile(v hypervisor.DeviceInfo, want string) (hypervisor.VGPUProfile, bool) {
	for _, p := range v.Profiles {
		if p.ID == want || p.Name == want {
			return p, true
		}
	}
	return hypervisor.VGPUProfile{}, false
}

// offers returns why a device can't provide one more share of a profile.
func offers(v hypervisor.DeviceInfo, want string) error {
	p, ok := profile(v, want)
	if !ok {
		return hypervisor.Errorf(hypervisor.ErrNotFound, v.ID.Ref(), "the device has no profile %q: Devices lists those that it has", want)
	}
	if p.Available <= 0 {
		return hypervisor.Errorf(hypervisor.ErrExhausted, v.ID.Ref(), "the device has no more room for profile %q: detach a vGPU, or use another device", want)
	}
	return nil
}

// attachShare makes a mediated device and gives it to the machine.
func (d *driver) attachShare(ctx context.Context, j *job.Job, h *fleet.Host, id hypervisor.VMID, v hypervisor.DeviceInfo, want string) (hypervisor.Ref, error) {
	p, _ := profile(v, want)
	m := libvirtx.MDev{UUID: libvirtx.NewUUID(), Type: p.ID, Parent: v.Address}
	share := hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: mdevPrefix + m.UUID}
	j.Note(noteLocked)
	_, err := fleet.OnHost(ctx, h, id, 8, func(_ *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
		if _, err := fleet.Changeable(dom, id); err != nil {
			return struct{}{}, err
		}
		doc, err := (&libvirtxml.DomainHostdev{SubsysMDev: &libvirtxml.DomainHostdevSubsysMDev{Model: "vfio-pci",
			Source: &libvirtxml.DomainHostdevSubsysMDevSource{Address: &libvirtxml.DomainAddressMDev{UUID: m.UUID}}}}).Marshal()
		if err != nil {
			return struct{}{}, err
		}
		if err := libvirtx.CreateMDev(c, m); err != nil {
			return struct{}{}, err
		}
		if err = fleet.Attach(dom, id, doc); err != nil {
			if rerr := libvirtx.RemoveMDev(c, m.UUID); rerr != nil {
				j.Left(share)
				err = errors.Join(err, rerr)
			}
		}
		return struct{}{}, err
	})
	return share, err
}

// nameShares adds the device that each of a machine's vGPUs is part of.
func nameShares(all []hypervisor.AttachedDevice, host hypervisor.HostID, mdevs func() (map[string]libvirtx.MDev, error)) error {
	for i := range all {
		a := &all[i]
		uuid, ok := strings.CutPrefix(string(a.ID), mdevPrefix)
		if !ok {
			continue
		}
		known, err := mdevs()
		if err != nil {
			return err
		}
		if m, ok := known[uuid]; ok { // if it is gone from the host, the ID is used
			a.Device, a.Profile, a.Address = libvirtx.DeviceID(host, m.Parent), m.Type, m.Parent
		}
	}
	return nil
}
