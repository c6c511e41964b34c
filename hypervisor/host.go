package hypervisor

import (
	"context"
	"iter"

	"github.com/anyvisor/anyvisor/hypervisor/op"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// Fact is a property that may be unknown.
type Fact string

const (
	FactUnknown Fact = ""
	FactPresent Fact = "yes"
	FactAbsent  Fact = "no"
)

// FactOf makes a known Fact.
func FactOf(b bool) Fact {
	if b {
		return FactPresent
	}
	return FactAbsent
}

// HostState is the state of a host.
type HostState string

const (
	HostUp          HostState = "up"
	HostMaintaining HostState = "maintenance"
	HostDown        HostState = "down" // doesn't answer; Detail says why
)

// HostInfo is what is known about a host.
type HostInfo struct {
	ID      HostID    `json:"id"`
	Name    string    `json:"name"`
	State   HostState `json:"state"`
	Detail  string    `json:"detail,omitempty"`
	Product string    `json:"product,omitempty"` // "VMware ESXi", "XCP-ng", "QEMU", …
	Version string    `json:"version,omitempty"`
	Edition string    `json:"edition,omitempty"` // licence or SKU
	Pool    PoolID    `json:"pool,omitempty"`

	CPU         CPUInfo    `json:"cpu"`
	MemoryBytes int64      `json:"memoryBytes"`
	FreeBytes   int64      `json:"freeBytes"` // of memory, for more machines
	NUMA        []NUMANode `json:"numa,omitempty"`
	IOMMU       Fact       `json:"iommu,omitempty"` // on and usable for passthrough
	SRIOV       Fact       `json:"sriov,omitempty"`
	Limits      Limits     `json:"limits"`
	Running     int        `json:"running"` // machines
}

// CPUInfo is what is known about a host's processors.
type CPUInfo struct {
	Model   string `json:"model"`
	Vendor  string `json:"vendor,omitempty"`
	Sockets int    `json:"sockets"`
	Cores   int    `json:"cores"`   // in all
	Threads int    `json:"threads"` // in all
	MHz     int    `json:"mhz,omitempty"`
	// Virtualization is Intel VT-x or AMD-V; NestedPaging is EPT, RVI or SLAT;
	// APICVirtualization is APICv or AVIC.
	Virtualization     Fact `json:"virtualization,omitempty"`
	NestedPaging       Fact `json:"nestedPaging,omitempty"`
	APICVirtualization Fact `json:"apicVirtualization,omitempty"`
}

// NUMANode is one node of a host.
type NUMANode struct {
	ID          int   `json:"id"`
	Threads     int   `json:"threads"`
	MemoryBytes int64 `json:"memoryBytes"`
}

// Limits are the maximums of a machine on a host. 0 means unknown.
type Limits struct {
	CPUs        int   `json:"cpus,omitempty"`
	MemoryBytes int64 `json:"memoryBytes,omitempty"`
	Disks       int   `json:"disks,omitempty"`
	NICs        int   `json:"nics,omitempty"`
	VMs         int   `json:"vms,omitempty"` // machines on the host
}

// Host is a handle on a host.
type Host struct {
	c  *Client
	id HostID
}

// Host returns the handle for an ID. It makes no call.
func (c *Client) Host(id HostID) *Host { return &Host{c, id} }

// ID returns the host's ID.
func (h *Host) ID() HostID { return h.id }

// Ref returns the Ref of the host.
func (h *Host) Ref() Ref { return h.id.Ref() }

// Hosts lists the hosts. A host that doesn't answer is listed as HostDown.
func (c *Client) Hosts(ctx context.Context) iter.Seq2[HostInfo, error] {
	return list(ctx, c, op.HostList, capability.HostList, func(ctx context.Context, d HostLister) ([]HostInfo, error) { return d.Hosts(ctx) })
}

// Info reads the host.
func (h *Host) Info(ctx context.Context) (HostInfo, error) {
	return oneHost(ctx, h.c, op.HostInfo, h.Ref(), func(i HostInfo) bool { return i.ID == h.id })
}

// FindHost returns the host with this name, or ErrNotFound or ErrAmbiguous.
func (c *Client) FindHost(ctx context.Context, name string) (*Host, error) {
	i, err := oneHost(ctx, c, op.HostFind, Ref{Kind: ObjectHost, Name: name}, func(i HostInfo) bool { return i.Name == name })
	if err != nil {
		return nil, err
	}
	return c.Host(i.ID), nil
}

func oneHost(ctx context.Context, c *Client, name op.Name, on Ref, match func(HostInfo) bool) (HostInfo, error) {
	return read(ctx, c, name, on, capability.HostList, nil, func(ctx context.Context, d HostLister) (HostInfo, error) {
		all, err := d.Hosts(ctx)
		if err != nil {
			return HostInfo{}, err
		}
		return only(on, all, match, func(i HostInfo) Ref { return i.ID.Ref() })
	})
}

// Supports is Client.Supports with this host as the scope.
func (h *Host) Supports(ctx context.Context, k capability.Name) (Support, error) {
	return h.c.Supports(ctx, k, h.id.Ref())
}

// MaintenanceOptions are the options for Host.EnterMaintenance.
type MaintenanceOptions struct {
	// Evacuate has the platform move the running machines away first. Without
	// it, a host with running machines is refused with ErrBusy.
	Evacuate bool
}

// EnterMaintenance keeps new machines away from the host. Only platforms with
// such a mode support it. Evacuate works everywhere.
func (h *Host) EnterMaintenance(ctx context.Context, o *MaintenanceOptions) *Task[None] {
	return start(ctx, h.c, op.HostEnterMaintenance, h.id.Ref(), capability.HostMaintenance, nil, func(ctx context.Context, d Maintainer) (DriverTask, error) {
		return d.EnterMaintenance(ctx, h.id, orDefault(o))
	}, noResult)
}

// ExitMaintenance brings the host back into use.
func (h *Host) ExitMaintenance(ctx context.Context) *Task[None] {
	return start(ctx, h.c, op.HostExitMaintenance, h.id.Ref(), capability.HostMaintenance, nil, func(ctx context.Context, d Maintainer) (DriverTask, error) {
		return d.ExitMaintenance(ctx, h.id)
	}, noResult)
}
