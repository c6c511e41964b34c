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
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// A vGPU is a mediated device (mdev): it is made for the machine when it is
// attached, and removed when it is detached or the machine is deleted.

// mdevSince is the first libvirt that defines mediated devices which start with
// their host (virNodeDeviceSetAutostart).
const mdevSince = "7.8.0"

// mdevPrefix begins the attachment's ID; the mediated device's UUID follows.
const mdevPrefix = "mdev:"

// shareFacts adds the profiles that a device offers, and who has one.
func shareFacts(i *hypervisor.DeviceInfo, p libvirtx.PCIDevice, users map[string][]hypervisor.Ref) {
	for _, t := range p.Types {
		i.Kind = hypervisor.VGPUDevice
		made := 0
		for _, m := range p.Shares {
			if m.Type == t.ID {
				made++
			}
		}
		v := hypervisor.VGPUProfile{ID: t.ID, Name: t.Name, Available: int(t.AvailableInstances)}
		if made == len(p.Shares) { // shares of other types take room too
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

// offers says why a device can't give one more share of a profile.
func offers(v hypervisor.DeviceInfo, want string) error {
	p, ok := profile(v, want)
	if !ok {
		return hypervisor.Errorf(hypervisor.KindNotFound, v.ID.Ref(), "the device has no profile %q: Devices lists those that it has", want)
	}
	if p.Available <= 0 {
		return hypervisor.Errorf(hypervisor.KindExhausted, v.ID.Ref(), "the device has no more room for profile %q: detach a vGPU, or use another device", want)
	}
	return nil
}

// attachShare makes a mediated device and gives it to the machine.
func (d *driver) attachShare(ctx context.Context, h *fleet.Host, id hypervisor.VMID, v hypervisor.DeviceInfo, want string) hypervisor.TaskState {
	p, _ := profile(v, want)
	m := libvirtx.MDev{UUID: libvirtx.NewUUID(), Type: p.ID, Parent: v.Address}
	out := hypervisor.TaskState{Result: hypervisor.Ref{Kind: hypervisor.KindOfDevice, ID: mdevPrefix + m.UUID}, Notes: []string{noteLocked}}
	_, out.Err = fleet.OnHost(ctx, h, id, 8, func(_ *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
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
				out.Leftover, err = append(out.Leftover, out.Result), errors.Join(err, rerr)
			}
		}
		return struct{}{}, err
	})
	return out
}

// nameShares adds which device a machine's vGPUs are parts of.
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
		if m, ok := known[uuid]; ok { // gone from the host: the ID has to do
			a.Device, a.Profile, a.Address = libvirtx.DeviceID(host, m.Parent), m.Type, m.Parent
		}
	}
	return nil
}
