package vsphere

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

var hostPaths = []string{"name", "summary.hardware", "summary.quickStats.overallMemoryUsage", "runtime.connectionState", "runtime.inMaintenanceMode",
	"config.product", "config.pciPassthruInfo", "config.featureCapability", "capability", "hardware.numaInfo", "hardware.cpuPkg", "hardware.cpuFeature", "parent", "vm"}

// Hosts lists the hosts with the facts that the host agent reports.
func (d *driver) Hosts(ctx context.Context) ([]hypervisor.HostInfo, error) {
	list, err := d.viewAll(ctx, "HostSystem", hostPaths)
	if err != nil {
		return nil, err
	}
	vms, err := d.viewAll(ctx, "VirtualMachine", []string{"runtime.host", "runtime.powerState"})
	if err != nil {
		return nil, err
	}
	r, err := d.licence(ctx)
	if err != nil {
		return nil, err
	}
	running := map[ref]int{}
	for _, o := range vms {
		if p := props(o); p["runtime.powerState"] == types.VirtualMachinePowerStatePoweredOn {
			running[p.ref("runtime.host")]++
		}
	}
	out := make([]hypervisor.HostInfo, 0, len(list))
	for _, o := range list {
		h := hostInfo(o)
		h.Running, h.Edition = running[o.Obj], r.edition
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b hypervisor.HostInfo) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

func hostInfo(o types.ObjectContent) hypervisor.HostInfo {
	p := props(o)
	h := hypervisor.HostInfo{ID: hypervisor.HostID(o.Obj.Value), Name: unescape(p.str("name")), State: hypervisor.HostUp, Pool: hypervisor.PoolID(p.ref("parent").Value)}
	switch c := get[types.HostSystemConnectionState](p, "runtime.connectionState"); {
	case c != types.HostSystemConnectionStateConnected:
		h.State, h.Detail = hypervisor.HostDown, "the host is "+string(c)
	case get[bool](p, "runtime.inMaintenanceMode"):
		h.State = hypervisor.HostMaintaining
	}
	a := get[types.AboutInfo](p, "config.product")
	h.Product, h.Version = a.Name, a.Version
	hw := get[types.HostHardwareSummary](p, "summary.hardware")
	h.CPU = hypervisor.CPUInfo{Model: hw.CpuModel, Sockets: int(hw.NumCpuPkgs), Cores: int(hw.NumCpuCores), Threads: int(hw.NumCpuThreads), MHz: int(hw.CpuMhz)}
	h.MemoryBytes = hw.MemorySize
	h.FreeBytes = min(max(hw.MemorySize-int64(get[int32](p, "summary.quickStats.overallMemoryUsage"))*hypervisor.MiB, 0), hw.MemorySize)
	for _, pkg := range get[types.ArrayOfHostCpuPackage](p, "hardware.cpuPkg").HostCpuPackage {
		h.CPU.Vendor = pkg.Vendor
	}
	cpuFacts(&h.CPU, p)
	numa := get[types.HostNumaInfo](p, "hardware.numaInfo")
	for _, n := range numa.NumaNode {
		h.NUMA = append(h.NUMA, hypervisor.NUMANode{ID: int(n.TypeId), Threads: len(n.CpuID), MemoryBytes: n.MemorySize})
	}
	for _, b := range get[types.ArrayOfHostPciPassthruInfo](p, "config.pciPassthruInfo").HostPciPassthruInfo {
		if b.GetHostPciPassthruInfo().PassthruCapable { // only behind an IOMMU that is on
			h.IOMMU = hypervisor.FactPresent
		}
		if v, ok := b.(*types.HostSriovInfo); ok && v.SriovCapable {
			h.SRIOV = hypervisor.FactPresent
		}
	}
	c := get[types.HostCapability](p, "capability")
	h.Limits = hypervisor.Limits{CPUs: int(c.MaxSupportedVcpus), MemoryBytes: int64(c.MaxSupportedVmMemory) * hypervisor.MiB, VMs: int(max(c.MaxRunningVMs, c.MaxHostRunningVms)),
		Disks: 256, NICs: 10} // vSphere configuration maximums
	return h
}

// cpuFacts reads the processor's features: the host's feature list, and CPUID
// as the host saw it (Intel SDM and AMD APM: leaf 1 ECX bit 5 is VMX, leaf
// 8000_0001h ECX bit 2 is SVM).
func cpuFacts(c *hypervisor.CPUInfo, p propMap) {
	set := func(f *hypervisor.Fact, present bool) {
		if *f != hypervisor.FactPresent {
			*f = hypervisor.FactOf(present)
		}
	}
	for _, f := range get[types.ArrayOfHostCpuIdInfo](p, "hardware.cpuFeature").HostCpuIdInfo {
		switch uint32(f.Level) {
		case 1:
			set(&c.Virtualization, cpuidBit(f.Ecx, 5))
		case 0x80000001:
			if strings.EqualFold(c.Vendor, "amd") {
				set(&c.Virtualization, cpuidBit(f.Ecx, 2))
			}
		}
	}
	for _, f := range get[types.ArrayOfHostFeatureCapability](p, "config.featureCapability").HostFeatureCapability {
		on := f.Value != "0" && f.Value != ""
		switch f.Key {
		case "cpuid.VMX", "cpuid.SVM":
			set(&c.Virtualization, on)
		case "cpuid.NPT", "hv.ept", "misc.ept":
			set(&c.NestedPaging, on)
		case "cpuid.AVIC", "misc.apicv":
			set(&c.APICVirtualization, on)
		}
	}
	// Nested virtualization is offered only with both (vSphere documentation,
	// hardware-assisted virtualization for guests).
	if get[types.HostCapability](p, "capability").NestedHVSupported {
		c.Virtualization, c.NestedPaging = hypervisor.FactPresent, hypervisor.FactPresent
	}
}

// cpuidBit reads a bit of a register as the API writes it, bit 31 first with
// a colon after every fourth ("0000:0000:…").
func cpuidBit(register string, bit int) bool {
	s := strings.ReplaceAll(register, ":", "")
	return len(s) == 32 && s[31-bit] == '1'
}

// hostName returns a host's name for texts.
func hostName(id hypervisor.HostID, name string) string {
	if name == "" {
		return string(id)
	}
	return fmt.Sprintf("%s (%s)", id, name)
}
