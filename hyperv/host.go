package hyperv

import (
	"context"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// Hosts implements hypervisor.HostLister. A host that does not answer, or not
// as it should (no Hyper-V, login refused), is listed as down.
func (d *driver) Hosts(ctx context.Context) ([]hypervisor.HostInfo, error) {
	out := make([]hypervisor.HostInfo, len(d.hosts))
	var g errgroup.Group
	g.SetLimit(8)
	for i, h := range d.hosts {
		g.Go(func() error {
			info, err := d.hostInfo(ctx, h)
			if err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				info = hypervisor.HostInfo{ID: h.id, Name: string(h.id), State: hypervisor.HostDown, Detail: err.Error()}
			}
			out[i] = info
			return nil
		})
	}
	return out, g.Wait()
}

// hostInfo reads the facts of one host with one query per class.
func (d *driver) hostInfo(ctx context.Context, h *host) (hypervisor.HostInfo, error) {
	s, err := h.session(ctx)
	if err != nil {
		return hypervisor.HostInfo{}, err
	}
	var sys, os *cim.Instance
	var cpus, nodes, vms, clusters, pci []*cim.Instance
	var g errgroup.Group
	one := func(to **cim.Instance, ns, class string, props ...string) {
		g.Go(func() (err error) {
			*to, err = cim.First(s.Query(ctx, ns, cim.Select(class, props)), class)
			return err
		})
	}
	many := func(to *[]*cim.Instance, optional func(error) bool, ns, class string, props ...string) {
		g.Go(func() (err error) {
			if *to, err = cim.Collect(s.Query(ctx, ns, cim.Select(class, props))); optional(err) {
				return nil
			}
			return err
		})
	}
	never := func(error) bool { return false }
	one(&sys, cim.CIMV2, "Win32_ComputerSystem", "Name", "TotalPhysicalMemory", "HypervisorPresent")
	one(&os, cim.CIMV2, "Win32_OperatingSystem", "Name", "FreePhysicalMemory")
	many(&cpus, never, cim.CIMV2, "Win32_Processor", "DeviceID", "Name", "Manufacturer", "NumberOfCores", "NumberOfLogicalProcessors", "MaxClockSpeed")
	many(&nodes, never, cim.Virtualization, "Msvm_NumaNode", "NodeID", "NumberOfLogicalProcessors", "CurrentlyConsumableMemoryBlocks")
	many(&vms, never, cim.Virtualization, "Msvm_ComputerSystem", systemProps...)
	many(&pci, missingClass, cim.Virtualization, "Msvm_PciExpress", "DeviceID")
	many(&clusters, unclustered, cim.MSCluster, "MSCluster_Cluster", "Name")
	if err := g.Wait(); err != nil {
		return hypervisor.HostInfo{}, err
	}
	i := hypervisor.HostInfo{
		ID: h.id, Name: h.name, State: hypervisor.HostUp, Product: h.caption, Version: h.version, Edition: h.edition(),
		MemoryBytes: int64(sys.Uint("TotalPhysicalMemory")), FreeBytes: int64(os.Uint("FreePhysicalMemory")) * hypervisor.KiB, Limits: h.limits(),
	}
	if len(clusters) > 0 {
		i.Pool = hypervisor.PoolID(clusters[0].Str("Name"))
	}
	for _, c := range cpus {
		i.CPU.Model, i.CPU.Vendor, i.CPU.MHz = strings.TrimSpace(c.Str("Name")), c.Str("Manufacturer"), int(c.Uint("MaxClockSpeed"))
		i.CPU.Sockets++
		i.CPU.Cores += int(c.Uint("NumberOfCores"))
		i.CPU.Threads += int(c.Uint("NumberOfLogicalProcessors"))
	}
	// Win32_Processor's own flags read false below a running hypervisor.
	// Since Windows Server 2016 and Windows 8 Hyper-V does not start without
	// VT-x or AMD-V and SLAT, so a running hypervisor proves both.
	if sys.Bool("HypervisorPresent") {
		i.CPU.Virtualization, i.CPU.NestedPaging = hypervisor.FactPresent, hypervisor.FactPresent
	}
	// A dismounted device proves remapping. Without one this is unknown.
	if len(pci) > 0 {
		i.IOMMU = hypervisor.FactPresent
	}
	for n, x := range nodes {
		id := n
		if k, err := strconv.Atoi(x.Str("NodeID")[strings.LastIndexByte(x.Str("NodeID"), '\\')+1:]); err == nil {
			id = k
		}
		i.NUMA = append(i.NUMA, hypervisor.NUMANode{ID: id, Threads: int(x.Uint("NumberOfLogicalProcessors")), MemoryBytes: int64(x.Uint("CurrentlyConsumableMemoryBlocks")) * hypervisor.MiB})
	}
	for _, v := range vms {
		if guid.MatchString(v.Str("Name")) && state(v) == hypervisor.StateRunning {
			i.Running++
		}
	}
	sw, err := switches(ctx, s)
	if err != nil {
		return i, err
	}
	i.SRIOV = hypervisor.FactAbsent
	for _, x := range sw {
		if x.Uint("MaxIOVOffloads") > 0 {
			i.SRIOV = hypervisor.FactPresent
		}
	}
	return i, nil
}

func freeMemory(ctx context.Context, s cim.Session) (int64, error) {
	i, err := cim.First(s.Query(ctx, cim.CIMV2, cim.Select("Win32_OperatingSystem", []string{"Name", "FreePhysicalMemory"})), "the operating system")
	if err != nil {
		return 0, err
	}
	return int64(i.Uint("FreePhysicalMemory")) * hypervisor.KiB, nil
}

// build is the build number of Windows: 20348 is Server 2022, 26100 Server 2025.
func (h *host) build() int {
	parts := strings.Split(h.version, ".")
	n, err := strconv.Atoi(parts[len(parts)-1])
	if err != nil {
		return 0
	}
	return n
}

func (h *host) atLeast(build int) bool { return h.build() >= build }

// noAutomaticSnapshots returns the value of AutomaticSnapshotsEnabled, which
// came with Windows 10 1709. It is nil, which is not sent, on a host of an
// older build.
func (h *host) noAutomaticSnapshots() any {
	if h.atLeast(16299) {
		return false
	}
	return nil
}

// Editions by Win32_OperatingSystem.OperatingSystemSKU (the PRODUCT_ constants
// of GetProductInfo).
var editions = map[uint32]string{
	4: "Enterprise", 7: "Server Standard", 8: "Server Datacenter", 12: "Server Datacenter Core", 13: "Server Standard Core", 27: "Enterprise N",
	42: "Hyper-V Server", 48: "Professional", 49: "Professional N", 50: "Server Essentials", 79: "Server Standard Evaluation", 80: "Server Datacenter Evaluation",
	121: "Education", 145: "Server Datacenter A Core", 146: "Server Standard A Core", 161: "Pro for Workstations", 406: "Azure Stack HCI", 407: "Server Datacenter Azure Edition",
}

func (h *host) edition() string {
	if e := editions[h.sku]; e != "" {
		return e
	}
	return "SKU " + strconv.Itoa(int(h.sku))
}

// client reports whether Windows is not a server. Those editions have no live
// migration and no device assignment ("Introduction to Hyper-V on Windows":
// features that are on Windows Server only).
func (h *host) client() bool {
	switch h.sku {
	case 4, 27, 48, 49, 121, 122, 161, 162:
		return true
	}
	return false
}

// limits are those of "Plan for Hyper-V scalability in Windows Server".
func (h *host) limits() hypervisor.Limits {
	l := hypervisor.Limits{CPUs: 240, MemoryBytes: 12 * hypervisor.TiB, Disks: 256, NICs: 68, VMs: 1024}
	if h.atLeast(20348) {
		l.CPUs = 1024
	}
	if h.atLeast(26100) {
		l.CPUs, l.MemoryBytes = 2048, 240*hypervisor.TiB
	}
	return l
}
