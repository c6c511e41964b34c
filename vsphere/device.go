package vsphere

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

func deviceID(host ref, address string) hypervisor.DeviceID {
	return hypervisor.DeviceID(host.Value + "/" + address)
}

func hex4(n int16) string { return fmt.Sprintf("%04x", uint16(n)) }

// hostDevice is a device with facts that only this driver uses.
type hostDevice struct {
	hypervisor.DeviceInfo
	pci     types.HostPciDevice
	system  string // the host's SystemId
	capable bool   // of passthrough
	sriov   bool   // capable of SR-IOV
	memory  int64  // of a GPU, in bytes
}

var devicePaths = []string{"hardware.pciDevice", "hardware.systemInfo", "hardware.numaInfo", "config.pciPassthruInfo", "config.graphicsInfo",
	"config.sharedPassthruGpuTypes", "runtime.connectionState"}

// Devices reads the PCI devices of all hosts and their users, in two calls.
func (d *driver) Devices(ctx context.Context, f hypervisor.DeviceFilter) ([]hypervisor.DeviceInfo, error) {
	list, err := d.hostDevices(ctx, nil)
	var out []hypervisor.DeviceInfo
	for _, x := range list {
		if f.Match(x.DeviceInfo) {
			out = append(out, x.DeviceInfo)
		}
	}
	return out, err
}

// hostDevices reads the devices of one host or all.
func (d *driver) hostDevices(ctx context.Context, host *ref) ([]hostDevice, error) {
	var hosts []types.ObjectContent
	var err error
	if host != nil {
		hosts, err = d.some(ctx, []ref{*host}, devicePaths)
	} else {
		hosts, err = d.viewAll(ctx, "HostSystem", devicePaths)
	}
	if err != nil {
		return nil, err
	}
	var out []hostDevice
	for _, o := range hosts {
		p := props(o)
		if c, ok := p["runtime.connectionState"]; ok && c != types.HostSystemConnectionStateConnected {
			continue
		}
		out = append(out, devicesOf(o.Obj, p)...)
	}
	vms, err := d.viewAll(ctx, "VirtualMachine", []string{"name", "runtime.host", "runtime.powerState", "config.hardware.device"})
	if err != nil {
		return nil, err
	}
	holders(out, vms)
	for i := range out {
		judge(&out[i])
	}
	slices.SortFunc(out, func(a, b hostDevice) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// devicesOf maps HostPciDevice, HostPciPassthruInfo and HostGraphicsInfo (API
// reference) of one host.
func devicesOf(host ref, p propMap) []hostDevice {
	pass := map[string]types.BaseHostPciPassthruInfo{}
	for _, b := range get[types.ArrayOfHostPciPassthruInfo](p, "config.pciPassthruInfo").HostPciPassthruInfo {
		pass[b.GetHostPciPassthruInfo().Id] = b
	}
	graphics := map[string]types.HostGraphicsInfo{}
	for _, g := range get[types.ArrayOfHostGraphicsInfo](p, "config.graphicsInfo").HostGraphicsInfo {
		graphics[g.PciId] = g
	}
	node := map[string]int{}
	for _, n := range get[types.HostNumaInfo](p, "hardware.numaInfo").NumaNode {
		for _, id := range n.PciId {
			node[id] = int(n.TypeId)
		}
	}
	profiles := get[types.ArrayOfString](p, "config.sharedPassthruGpuTypes").String
	system := get[types.HostSystemInfo](p, "hardware.systemInfo").Uuid
	var out []hostDevice
	for _, x := range get[types.ArrayOfHostPciDevice](p, "hardware.pciDevice").HostPciDevice {
		code := uint32(uint16(x.ClassId)) << 8
		h := hostDevice{pci: x, system: system, DeviceInfo: hypervisor.DeviceInfo{
			ID: deviceID(host, x.Id), Host: hypervisor.HostID(host.Value), Kind: hypervisor.DeviceKindPCI, Class: hypervisor.ClassOfPCI(code), ClassCode: code,
			Vendor: hex4(x.VendorId), Product: hex4(x.DeviceId), VendorName: x.VendorName, ProductName: x.DeviceName, Address: x.Id,
			NUMANode: -1, IOMMUGroup: -1,
		}}
		if n, ok := node[x.Id]; ok {
			h.NUMANode = n
		}
		if b, ok := pass[x.Id]; ok {
			i := b.GetHostPciPassthruInfo()
			h.capable = i.PassthruCapable
			switch {
			case i.PassthruActive:
				h.Driver = "vfio passthrough"
				h.Assignable = true
			case !i.PassthruCapable:
				h.Reason, h.Detail = hypervisor.ReasonPlatform, "the host says that this device can't be passed through"
			case i.PassthruEnabled:
				h.Reason, h.Detail = hypervisor.ReasonDevicePrepare, "passthrough is set and counts after the host's next restart"
			default:
				h.Reason, h.Detail = hypervisor.ReasonDevicePrepare, "the host's own driver has it: prepare it for passthrough first"
			}
			if v, ok := b.(*types.HostSriovInfo); ok && v.SriovCapable {
				h.sriov, h.MaxVFs = true, int(v.MaxVirtualFunctionSupported)
				if v.SriovActive {
					h.VFs = int(v.NumVirtualFunction)
				}
			}
		} else {
			h.Reason, h.Detail = hypervisor.ReasonPlatform, "the host does not offer this device for passthrough"
		}
		if g, ok := graphics[x.Id]; ok {
			h.memory = g.MemorySizeInKB * hypervisor.KiB
			if !h.Assignable && g.GraphicsType == string(types.HostGraphicsInfoGraphicsTypeSharedDirect) && len(profiles) > 0 {
				h.Kind = hypervisor.DeviceKindVGPU
				for _, name := range profiles {
					v := hypervisor.VGPUProfile{ID: name, Name: name, Bytes: profileBytes(name)}
					if v.Bytes > 0 && h.memory > 0 {
						v.Max = int(h.memory / v.Bytes)
					}
					v.Available = v.Max
					h.Profiles = append(h.Profiles, v)
				}
			}
		}
		out = append(out, h)
	}
	return out
}

// profileBytes reads the frame buffer's size from a profile's name: the
// number after the last dash is in GiB ("grid_h100-40c"; NVIDIA's virtual GPU
// software documentation).
func profileBytes(name string) int64 {
	i := strings.LastIndexByte(name, '-')
	n, err := strconv.ParseInt(strings.TrimRightFunc(name[i+1:], func(r rune) bool { return r < '0' || r > '9' }), 10, 64)
	if err != nil {
		return 0
	}
	return n * hypervisor.GiB
}

// holders records who has which device. A machine that is off holds none.
func holders(list []hostDevice, vms []types.ObjectContent) {
	for _, o := range vms {
		p := props(o)
		if p["runtime.powerState"] == types.VirtualMachinePowerStatePoweredOff {
			continue
		}
		host := p.ref("runtime.host")
		who := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: o.Obj.Value, Name: unescape(p.str("name"))}
		for _, dev := range get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice {
			switch x := dev.(type) {
			case *types.VirtualPCIPassthrough:
				a := attached(x, host)
				for i := range list {
					d := &list[i]
					if d.ID == a.Device && a.Device != "" {
						d.UsedBy = append(d.UsedBy, who)
					} else if a.Profile != "" && d.Kind == hypervisor.DeviceKindVGPU && d.Host == hypervisor.HostID(host.Value) &&
						slices.ContainsFunc(d.Profiles, func(v hypervisor.VGPUProfile) bool { return v.ID == a.Profile && v.Available > 0 }) {
						d.UsedBy = append(d.UsedBy, who)
						take(d, a.Profile)
						break
					}
				}
			case *types.VirtualSriovEthernetCard:
				for i := range list {
					if a := attachedVF(x, host); list[i].ID == a.Device {
						list[i].UsedBy = append(list[i].UsedBy, who)
					}
				}
			}
		}
	}
}

// take counts one vGPU: time-sliced ones of a GPU all have the same profile.
func take(d *hostDevice, profile string) {
	for i := range d.Profiles {
		if d.Profiles[i].ID == profile {
			d.Profiles[i].Available--
		} else {
			d.Profiles[i].Available = 0
		}
	}
}

// judge determines whether a device can be assigned now, or why not.
func judge(d *hostDevice) {
	free := slices.ContainsFunc(d.Profiles, func(v hypervisor.VGPUProfile) bool { return v.Available > 0 })
	switch {
	case d.Kind == hypervisor.DeviceKindVGPU && free, d.sriov && d.VFs > 0 && len(d.UsedBy) == 0:
		d.Assignable, d.Reason, d.Detail = true, "", ""
	case d.sriov && d.VFs > len(d.UsedBy): // it can't be assigned as a whole, but its functions can
		d.Assignable, d.Reason, d.Detail = false, hypervisor.ReasonDeviceInUse, fmt.Sprintf("%d of its %d virtual functions are in use", len(d.UsedBy), d.VFs)
	case len(d.UsedBy) > 0:
		d.Assignable, d.Reason, d.Detail = false, hypervisor.ReasonDeviceInUse, "in use by "+d.UsedBy[0].String()
	case d.Kind == hypervisor.DeviceKindVGPU:
		d.Assignable, d.Reason, d.Detail = false, hypervisor.ReasonDeviceInUse, "no vGPU is left"
	}
}

// attached returns the device behind a machine's passthrough device.
func attached(x *types.VirtualPCIPassthrough, host ref) hypervisor.AttachedDevice {
	a := hypervisor.AttachedDevice{ID: hypervisor.AttachmentID(keyID(x.Key))}
	address := ""
	switch b := x.Backing.(type) {
	case *types.VirtualPCIPassthroughDeviceBackingInfo:
		address = b.Id
		a.Vendor, a.Product = hex4(b.VendorId), strings.TrimPrefix(strings.ToLower(b.DeviceId), "0x")
		if n, err := strconv.ParseUint(a.Product, 16, 64); err == nil {
			a.Product = fmt.Sprintf("%04x", uint16(n))
		}
	case *types.VirtualPCIPassthroughDynamicBackingInfo:
		address = b.AssignedId
		if len(b.AllowedDevice) == 1 {
			a.Vendor, a.Product = fmt.Sprintf("%04x", uint16(b.AllowedDevice[0].VendorId)), fmt.Sprintf("%04x", uint16(b.AllowedDevice[0].DeviceId))
		}
	case *types.VirtualPCIPassthroughVmiopBackingInfo:
		a.Profile = b.Vgpu
	}
	if address != "" {
		a.Address, a.Device = address, deviceID(host, address)
	}
	return a
}

func attachedVF(x *types.VirtualSriovEthernetCard, host ref) hypervisor.AttachedDevice {
	a := hypervisor.AttachedDevice{ID: hypervisor.AttachmentID(keyID(x.Key))}
	if x.SriovBacking != nil && x.SriovBacking.PhysicalFunctionBacking != nil {
		a.Address = x.SriovBacking.PhysicalFunctionBacking.Id
		a.Device = deviceID(host, a.Address)
	}
	return a
}

// passthroughLabel names a device that prevents a machine from being saved or
// moved while it runs. It is empty if there is none. A vGPU's state can be
// moved.
func passthroughLabel(list []types.BaseVirtualDevice) string {
	for _, dev := range list {
		switch x := dev.(type) {
		case *types.VirtualPCIPassthrough:
			if _, vgpu := x.Backing.(*types.VirtualPCIPassthroughVmiopBackingInfo); vgpu {
				continue
			}
		case *types.VirtualSriovEthernetCard:
		default:
			continue
		}
		if i := dev.GetVirtualDevice().DeviceInfo; i != nil {
			return i.GetDescription().Label
		}
		return "device " + keyID(dev.GetVirtualDevice().Key)
	}
	return ""
}
