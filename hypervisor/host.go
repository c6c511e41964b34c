package hypervisor

import (
	"context"
	"iter"
)

// Fact is a property that may be unknown.
type Fact string

const (
	Unknown Fact = ""
	Present Fact = "yes"
	Absent  Fact = "no"
)

// FactOf makes a known Fact.
func FactOf(b bool) Fact {
	if b {
		return Present
	}
	return Absent
}

// HostState is the state of a host.
type HostState string

const (
	HostUp          HostState = "up"
	HostMaintaining HostState = "maintenance"
	HostDown        HostState = "down" // doesn't answer; Detail says why
)

// HostInfo is what is known of a host.
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

// CPUInfo is what is known of a host's processors.
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

// Limits are the maximums of a machine on a host; 0 if unknown.
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

// Host returns the handle for an ID. It asks nobody.
func (c *Client) Host(id HostID) *Host { return &Host{c, id} }

// ID returns the host's ID.
func (h *Host) ID() HostID { return h.id }

// Hosts lists the hosts. One that doesn't answer is listed as HostDown.
func (c *Client) Hosts(ctx context.Context) iter.Seq2[HostInfo, error] {
	return list(ctx, c, "host.list", "host.list", func(ctx context.Context, d HostLister) ([]HostInfo, error) { return d.Hosts(ctx) })
}

// Info reads the host.
func (h *Host) Info(ctx context.Context) (HostInfo, error) {
	for i, err := range h.c.Hosts(ctx) {
		if err != nil {
			return HostInfo{}, err
		}
		if i.ID == h.id {
			return i, nil
		}
	}
	return HostInfo{}, &Error{Op: "host.info", Object: h.id.Ref(), Kind: KindNotFound}
}

// FindHost returns the host with this name: ErrNotFound, ErrAmbiguous.
func (c *Client) FindHost(ctx context.Context, name string) (*Host, error) {
	on := Ref{Kind: KindOfHost, Name: name}
	var found []HostID
	for i, err := range c.Hosts(ctx) {
		if err != nil {
			return nil, err
		}
		if i.Name == name {
			found = append(found, i.ID)
		}
	}
	switch len(found) {
	case 0:
		return nil, &Error{Op: "host.find", Object: on, Kind: KindNotFound}
	case 1:
		return c.Host(found[0]), nil
	}
	e := Errorf(KindAmbiguous, on, "%d hosts have this name: address one by its ID: %v", len(found), found)
	e.Op = "host.find"
	return nil, e
}

// Supports is Client.Supports with this host as the scope.
func (h *Host) Supports(ctx context.Context, k Capability) (Support, error) {
	return h.c.Supports(ctx, k, h.id.Ref())
}

// MaintenanceRequest is what a driver gets for Host.EnterMaintenance.
type MaintenanceRequest struct{ Evacuate bool }

// MaintenanceOptions for Host.EnterMaintenance.
type MaintenanceOptions struct {
	// Evacuate has the platform move the running machines away first. Without
	// it a host with running machines is ErrBusy.
	Evacuate bool
}

// EnterMaintenance keeps new machines away from the host. Only platforms with
// such a mode have it; Evacuate works everywhere.
func (h *Host) EnterMaintenance(ctx context.Context, o *MaintenanceOptions) *Task[None] {
	var r MaintenanceRequest
	if o != nil {
		r.Evacuate = o.Evacuate
	}
	return start(ctx, h.c, "host.maintenance", h.id.Ref(), HostMaintenance, checkID("host.maintenance", h.id.Ref()), func(ctx context.Context, d Maintainer) (DriverTask, error) {
		return d.EnterMaintenance(ctx, h.id, r)
	}, noResult)
}

// ExitMaintenance takes the host back into use.
func (h *Host) ExitMaintenance(ctx context.Context) *Task[None] {
	return start(ctx, h.c, "host.maintenance.exit", h.id.Ref(), HostMaintenance, checkID("host.maintenance.exit", h.id.Ref()), func(ctx context.Context, d Maintainer) (DriverTask, error) {
		return d.ExitMaintenance(ctx, h.id)
	}, noResult)
}
