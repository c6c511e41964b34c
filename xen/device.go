package xen

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// pciKey is the key of VM.other_config that gives whole PCI functions to a
// machine at its next start: "0/0000:03:00.0,0/0000:03:00.1".
const pciKey = "pci"

// passthrough is the implementation of the vGPU type that is a whole GPU.
const passthrough = "passthrough"

// Devices lists PCI functions. One that is a GPU (class PGPU) has its vGPU
// types as profiles.
func (d *driver) Devices(ctx context.Context, f hypervisor.DeviceFilter) ([]hypervisor.DeviceInfo, error) {
	inv, err := d.loadDevices(ctx)
	if err != nil {
		return nil, err
	}
	var out []hypervisor.DeviceInfo
	for _, ref := range slices.SortedFunc(maps.Keys(inv.pcis), func(a, b xapi.Ref) int {
		return strings.Compare(inv.pcis[a].UUID, inv.pcis[b].UUID)
	}) {
		if i := inv.device(ref); f.Match(i) {
			out = append(out, i)
		}
	}
	return out, nil
}

func (d *driver) loadDevices(ctx context.Context) (*inventory, error) {
	inv := &inventory{}
	g, ctx := errgroup.WithContext(ctx)
	for class, into := range map[string]any{"PCI": &inv.pcis, "PGPU": &inv.pgpus, "VGPU": &inv.vgpus, "VGPU_type": &inv.types, "host": &inv.hosts, "VM": &inv.vms} {
		g.Go(func() error { return d.c.Call(ctx, into, class+".get_all_records") })
	}
	return inv, g.Wait()
}

// device makes the portable value of a PCI function.
func (inv *inventory) device(ref xapi.Ref) hypervisor.DeviceInfo {
	p := inv.pcis[ref]
	h := inv.hosts[p.Host]
	i := hypervisor.DeviceInfo{ID: hypervisor.DeviceID(p.UUID), Host: hypervisor.HostID(h.UUID), Kind: hypervisor.DeviceKindPCI, Vendor: p.vendor(),
		Product: p.product(), VendorName: p.VendorName, ProductName: p.DeviceName, Address: p.Address, NUMANode: -1, IOMMUGroup: -1, Driver: p.Driver}
	known := false
	i.ClassCode, known = p.classCode()
	i.Class = hypervisor.ClassOfPCI(i.ClassCode)
	for _, r := range p.Dependencies {
		i.GroupPeers = append(i.GroupPeers, hypervisor.DeviceID(inv.pcis[r].UUID))
	}
	for _, v := range inv.vms {
		if slices.Contains(v.AttachedPCIs, ref) || inv.names(v, p) {
			i.UsedBy = append(i.UsedBy, hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name})
		}
	}
	no := func(r hypervisor.ReasonCode, format string, args ...any) hypervisor.DeviceInfo {
		i.Reason, i.Detail = r, fmt.Sprintf(format, args...)
		return i
	}
	gpu, isGPU := inv.pgpuOf(ref)
	full := false
	if isGPU {
		i.Profiles = inv.profiles(gpu)
		if len(i.Profiles) > 0 {
			i.Kind = hypervisor.DeviceKindVGPU
		}
		for _, r := range gpu.Resident {
			v := inv.vms[inv.vgpus[r].VM]
			i.UsedBy = append(i.UsedBy, hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name})
			full = full || inv.types[inv.vgpus[r].Type].Implementation == passthrough
		}
		full = full || len(gpu.Resident) > 0 && !slices.ContainsFunc(i.Profiles, func(p hypervisor.VGPUProfile) bool { return p.Available > 0 })
	} else {
		full = len(i.UsedBy) > 0
	}
	i.UsedBy = slices.CompactFunc(i.UsedBy, func(a, b hypervisor.Ref) bool { return a == b })
	switch {
	case h.Chipset["iommu"] != "true":
		return no(hypervisor.ReasonHostIOMMUOff, "the host's IOMMU is off: switch VT-d or AMD-Vi on in its firmware")
	case isGPU && gpu.Display && gpu.Dom0 != "disabled":
		return no(hypervisor.ReasonHostUsesDevice, "the host shows its console on this GPU: take it away with PrepareDevice and restart the host")
	case full:
		return no(hypervisor.ReasonDeviceInUse, "in use by %v", i.UsedBy)
	case i.Class == hypervisor.ClassStorage || i.ClassCode>>16 == 0x06:
		return no(hypervisor.ReasonHostUsesDevice, "a bridge or storage controller that the host runs on")
	case !known:
		return no(hypervisor.ReasonAPIVersion, "the server does not report what the host uses this function for (class %q): xapi 25.10 and later do", p.ClassName)
	}
	if i.Assignable = true; i.Product == "" {
		i.Detail = idsDetail
	}
	return i
}

// hex4 returns the last four hex digits: "10de" of "10de" and "0x10de".
func hex4(s string) string {
	s = strings.ToLower(strings.TrimPrefix(s, "0x"))
	if len(s) < 4 {
		s = strings.Repeat("0", 4-len(s)) + s
	}
	return s
}

// names reports whether other_config:pci of a machine on the function's host,
// or on none, contains its address.
func (inv *inventory) names(v vmRec, p pciRec) bool {
	if v.IsSnapshot || !slices.Contains(addresses(v.Other[pciKey]), p.Address) {
		return false
	}
	at := v.ResidentOn
	if at.IsNull() {
		at = v.Affinity
	}
	return at == p.Host
}

// addresses splits "0/0000:03:00.0,0/0000:03:00.1".
func addresses(s string) []string {
	var out []string
	for f := range strings.SplitSeq(s, ",") {
		if _, a, ok := strings.Cut(f, "/"); ok {
			out = append(out, a)
		}
	}
	return out
}

func (inv *inventory) pgpuOf(pci xapi.Ref) (pgpuRec, bool) {
	for _, g := range inv.pgpus {
		if g.PCI == pci {
			return g, true
		}
	}
	return pgpuRec{}, false
}

func (inv *inventory) profiles(g pgpuRec) []hypervisor.VGPUProfile {
	var out []hypervisor.VGPUProfile
	for _, r := range g.Enabled {
		t := inv.types[r]
		if t.Implementation == passthrough || t.UUID == "" {
			continue
		}
		p := hypervisor.VGPUProfile{ID: t.UUID, Name: t.Model, Bytes: t.Framebuffer, Max: int(g.Capacities[r])}
		// A GPU holds vGPUs of one type only (xapi_pgpu_helpers.ml).
		p.Available = p.Max - len(g.Resident)
		for _, v := range g.Resident {
			if inv.vgpus[v].Type != r {
				p.Available = 0
			}
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b hypervisor.VGPUProfile) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// movable reports whether a device's state can be kept and moved. That is an
// NVIDIA vGPU whose host driver reports the vGPUs that it is compatible with
// (xapi_vm_lifecycle.ml).
func (inv *inventory) movable(a hypervisor.AttachedDevice) bool {
	for _, v := range inv.vgpus {
		if v.UUID == string(a.ID) {
			return strings.HasPrefix(inv.types[v.Type].Implementation, "nvidia") && inv.pgpus[v.ResidentOn].Compat["nvidia"] != ""
		}
	}
	return false
}

// devices lists a machine's devices: its vGPUs and the functions of
// other_config:pci.
func (inv *inventory) devices(v vmRec) []hypervisor.AttachedDevice {
	var out []hypervisor.AttachedDevice
	for _, r := range v.VGPUs {
		g, ok := inv.vgpus[r]
		if !ok {
			continue
		}
		a := hypervisor.AttachedDevice{ID: hypervisor.AttachmentID(g.UUID)}
		if t := inv.types[g.Type]; t.Implementation != passthrough {
			a.Profile = t.UUID
		}
		if p, ok := inv.pcis[inv.pgpus[g.ResidentOn].PCI]; ok {
			a.Device, a.Address, a.Vendor, a.Product = hypervisor.DeviceID(p.UUID), p.Address, p.vendor(), p.product()
		}
		out = append(out, a)
	}
	for _, addr := range addresses(v.Other[pciKey]) {
		a := hypervisor.AttachedDevice{ID: hypervisor.AttachmentID("pci/" + addr), Address: addr}
		for _, p := range inv.pcis {
			if inv.names(v, p) && p.Address == addr {
				a.Device, a.Vendor, a.Product = hypervisor.DeviceID(p.UUID), p.vendor(), p.product()
			}
		}
		out = append(out, a)
	}
	return out
}
