//go:build cgo

package libvirtx

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Facts are known facts about a host that do not change while libvirtd runs.
type Facts struct {
	UUID, Name       string
	Product, Version string // of the hypervisor
	Libvirt          string
	CPU              hypervisor.CPUInfo
	MemoryBytes      int64
	NUMA             []hypervisor.NUMANode
	IOMMU, SRIOV     hypervisor.Fact
	KVM              bool // the host reports support for <domain type='kvm'>
	MaxCPUs          int
	Arch             string
	VFIO, MDev       bool
	Firmware         []string        // "bios", "efi"
	Machines         map[string]bool // those that the hypervisor offers for Arch
	ControlDomains   int             // number of control domains that libvirt lists among the machines
}

// FactCalls is the number of requests that ReadFacts sends.
const FactCalls = 9

// ReadFacts asks for capabilities (libvirt.org/formatcaps.html), domain
// capabilities (formatdomaincaps.html) and node information.
func ReadFacts(c *libvirt.Connect) (*Facts, error) {
	doc, err := c.GetCapabilities()
	if err != nil {
		return nil, err
	}
	var caps libvirtxml.Caps
	if err := caps.Unmarshal(doc); err != nil {
		return nil, err
	}
	f := &Facts{UUID: caps.Host.UUID}
	if f.Name, err = c.GetHostname(); err != nil {
		return nil, err
	}
	node, err := c.GetNodeInfo()
	if err != nil {
		return nil, err
	}
	kind, err := c.GetType()
	if err != nil {
		return nil, err
	}
	// Zero where the driver has no version (test:///).
	version, _ := c.GetVersion()
	lib, err := c.GetLibVersion()
	if err != nil {
		return nil, err
	}
	f.Product, f.Version, f.Libvirt = kind, dotted(version), dotted(lib)
	if f.Version == "" {
		f.Version = f.Libvirt
	}
	f.MemoryBytes = int64(node.Memory) << 10
	// That is the sum of the NUMA nodes, which may lack memory that was
	// plugged in later. The total of the host includes it.
	if s, err := c.GetMemoryStats(libvirt.NODE_MEMORY_STATS_ALL_CELLS, 0); err == nil && s.TotalSet {
		f.MemoryBytes = max(f.MemoryBytes, int64(s.Total)<<10)
	}
	f.CPU = hypervisor.CPUInfo{Model: node.Model, MHz: int(node.MHz), Sockets: int(node.Sockets * max(node.Nodes, 1)),
		Cores: int(node.Sockets * node.Cores * max(node.Nodes, 1)), Threads: int(node.Cpus)}
	f.host(&caps.Host)
	for _, g := range caps.Guests {
		if g.OSType != "hvm" {
			continue
		}
		if f.Arch == "" || caps.Host.CPU != nil && g.Arch.Name == caps.Host.CPU.Arch {
			f.Arch = g.Arch.Name
			f.Machines = map[string]bool{}
			for _, m := range g.Arch.Machines {
				f.Machines[m.Name] = true
			}
			f.KVM = slices.ContainsFunc(g.Arch.Domains, func(d libvirtxml.CapsGuestDomain) bool { return d.Type == "kvm" })
		}
	}
	if f.UUID == "" {
		// libvirt's test driver has none, so the name is used.
		f.UUID = TokenUUID("host " + f.Name + " " + kind)
	}
	f.domainCaps(c)
	f.devices(c)
	return f, nil
}

func dotted(v uint32) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%d.%d.%d", v/1000000, v/1000%1000, v%1000)
}

func (f *Facts) host(h *libvirtxml.CapsHost) {
	if c := h.CPU; c != nil {
		if c.Model != "" {
			f.CPU.Model = c.Model
		}
		f.CPU.Vendor = c.Vendor
		has := func(name string) bool {
			return slices.ContainsFunc(c.FeatureFlags, func(g libvirtxml.CapsHostCPUFeatureFlag) bool { return g.Name == name })
		}
		// The flags are those that libvirt adds to the model. vmx and svm are
		// in no model, so their absence is a fact. EPT and APICv are in VMX
		// registers, which libvirt names vmx-…; AMD has npt and avic.
		f.CPU.Virtualization = hypervisor.FactOf(has("vmx") || has("svm"))
		if has("vmx-ept") || has("npt") {
			f.CPU.NestedPaging = hypervisor.FactPresent
		}
		if has("vmx-apicv-register") || has("vmx-apicv-vid") || has("avic") {
			f.CPU.APICVirtualization = hypervisor.FactPresent
		}
		if f.CPU.Virtualization == hypervisor.FactAbsent {
			f.CPU.NestedPaging, f.CPU.APICVirtualization = hypervisor.FactAbsent, hypervisor.FactAbsent
		}
	}
	if h.IOMMU != nil {
		f.IOMMU = hypervisor.FactOf(h.IOMMU.Support == "yes")
	}
	if h.NUMA != nil && h.NUMA.Cells != nil {
		for _, cell := range h.NUMA.Cells.Cells {
			n := hypervisor.NUMANode{ID: cell.ID}
			if cell.Memory != nil {
				n.MemoryBytes = int64(cell.Memory.Size) << 10 // the unit is always KiB
			}
			if cell.CPUS != nil {
				n.Threads = int(cell.CPUS.Num)
			}
			f.NUMA = append(f.NUMA, n)
		}
	}
}

// domainCaps reads the limits of a machine. They stay unknown if the libvirt
// driver doesn't report them.
func (f *Facts) domainCaps(c *libvirt.Connect) {
	doc, err := c.GetDomainCapabilities("", f.Arch, "", "", 0)
	if err != nil {
		return
	}
	var x libvirtxml.DomainCaps
	if x.Unmarshal(doc) != nil {
		return
	}
	if x.VCPU != nil {
		f.MaxCPUs = int(x.VCPU.Max)
	}
	if x.OS != nil {
		for _, e := range x.OS.Enums {
			if e.Name == "firmware" {
				f.Firmware = e.Values
			}
		}
	}
	if x.Devices != nil && x.Devices.HostDev != nil {
		for _, e := range x.Devices.HostDev.Enums {
			f.VFIO = f.VFIO || e.Name == "pciBackend" && slices.Contains(e.Values, "vfio")
		}
	}
}

// devices finds out whether the host has a device with SR-IOV.
func (f *Facts) devices(c *libvirt.Connect) {
	all, err := c.ListAllNodeDevices(libvirt.CONNECT_LIST_NODE_DEVICES_CAP_PCI_DEV)
	if err != nil {
		return
	}
	f.SRIOV = hypervisor.FactAbsent
	for i := range all {
		doc, err := all[i].GetXMLDesc(0)
		if err == nil && strings.Contains(doc, "'virt_functions'") {
			f.SRIOV = hypervisor.FactPresent
		}
		f.MDev = f.MDev || err == nil && strings.Contains(doc, "'mdev_types'")
		_ = all[i].Free() // a local reference
	}
}

// HostInfo returns the facts in the form of the portable API. The caller adds
// the free memory and the number of machines.
func (f *Facts) HostInfo() hypervisor.HostInfo {
	return hypervisor.HostInfo{ID: hypervisor.HostID(f.UUID), Name: f.Name, State: hypervisor.HostUp,
		Product: f.Product, Version: f.Version, Edition: "libvirt " + f.Libvirt, CPU: f.CPU, MemoryBytes: f.MemoryBytes,
		NUMA: f.NUMA, IOMMU: f.IOMMU, SRIOV: f.SRIOV, Limits: hypervisor.Limits{CPUs: f.MaxCPUs, MemoryBytes: f.MemoryBytes}}
}

// FreeMemory returns the memory that new machines can have, in bytes: free
// memory and, where the host reports them, caches.
func FreeMemory(c *libvirt.Connect) (uint64, error) {
	if s, err := c.GetMemoryStats(libvirt.NODE_MEMORY_STATS_ALL_CELLS, 0); err == nil && s.FreeSet {
		return (s.Free + s.Buffers + s.Cached) << 10, nil
	}
	return c.GetFreeMemory()
}

// Older compares dotted versions.
func Older(a, b string) bool {
	number := func(v string) (out []int) {
		for p := range strings.SplitSeq(v, ".") {
			n, _ := strconv.Atoi(p) // no number counts as 0
			out = append(out, n)
		}
		return out
	}
	return slices.Compare(number(a), number(b)) < 0
}
