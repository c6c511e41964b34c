package hypervisor

import (
	"context"
	"iter"
	"time"
)

// PowerState is the state of a machine.
type PowerState string

const (
	Off       PowerState = "off"
	Running   PowerState = "running"
	Paused    PowerState = "paused"    // vCPUs stopped, RAM kept in memory
	Suspended PowerState = "suspended" // RAM on disk
	// StateUnknown is what the platform can't tell, for example because the
	// machine's host doesn't answer.
	StateUnknown PowerState = "unknown"
)

// Detail says how much of a VMInfo a listing fills in.
type Detail uint8

const (
	// Full fills in everything that the platform tells in whole-inventory
	// calls. It is the default.
	Full Detail = iota
	// Brief fills in ID, Name, State, Template, Host, CPUs and MemoryBytes,
	// the cheapest way the platform has.
	Brief
)

// Firmware is what starts a machine.
type Firmware string

const (
	AnyFirmware Firmware = "" // the platform's default
	BIOS        Firmware = "bios"
	UEFI        Firmware = "uefi"
)

// VMInfo is what was known of a machine at ReadAt. The fields below Brief's
// are filled in by VM.Info and by listings with Full.
type VMInfo struct {
	ID          VMID       `json:"id"`
	Name        string     `json:"name"`
	State       PowerState `json:"state"`
	Template    bool       `json:"template,omitempty"`
	Host        HostID     `json:"host,omitempty"` // empty if on none
	CPUs        int        `json:"cpus"`
	MemoryBytes int64      `json:"memoryBytes"` // what the guest has, or gets at start
	ReadAt      time.Time  `json:"readAt"`

	Description string   `json:"description,omitempty"`
	Firmware    Firmware `json:"firmware,omitempty"`
	Machine     string   `json:"machine,omitempty"` // the platform's kind: "q35", "generation 2", "pvh", "vmx-21"
	GuestOS     string   `json:"guestOS,omitempty"` // as configured; what runs is in GuestInfo
	MaxCPUs     int      `json:"maxCPUs,omitempty"` // limit for hot add
	// DynamicMemory is the range in which the platform may balloon, nil if fixed.
	DynamicMemory   *MemoryRange      `json:"dynamicMemory,omitempty"`
	MaxMemoryBytes  int64             `json:"maxMemoryBytes,omitempty"` // limit for hot add
	Disks           []DiskInfo        `json:"disks,omitempty"`
	NICs            []NICInfo         `json:"nics,omitempty"`
	Devices         []AttachedDevice  `json:"devices,omitempty"`
	Snapshots       int               `json:"snapshots,omitempty"` // how many
	CurrentSnapshot SnapshotID        `json:"currentSnapshot,omitempty"`
	Labels          map[string]string `json:"labels,omitempty"`
	Token           string            `json:"token,omitempty"` // of the create or clone call
	Placement       Placement         `json:"placement"`
	CreatedAt       time.Time         `json:"createdAt,omitzero"` // zero where the platform doesn't tell
	// Addresses are the guest's IP addresses where the platform knows them
	// without asking the guest.
	Addresses []string `json:"addresses,omitempty"`
	// Tasks now at work on the machine, as far as the platform tells.
	Tasks []TaskID `json:"tasks,omitempty"`
}

// MemoryRange bounds dynamic memory, in bytes.
type MemoryRange struct {
	MinBytes int64 `json:"minBytes"`
	MaxBytes int64 `json:"maxBytes"`
}

// Placement says where something is or should go. Empty parts are left to
// the platform.
type Placement struct {
	Host      HostID      `json:"host,omitempty"`
	Datastore DatastoreID `json:"datastore,omitempty"`
	Pool      PoolID      `json:"pool,omitempty"`   // cluster or resource pool
	Folder    string      `json:"folder,omitempty"` // inventory folder (vSphere), path by slashes
}

// VMSpec describes a machine to make. The zero value of every field but Name
// and MemoryBytes is a usable default.
type VMSpec struct {
	Name        string
	Description string
	CPUs        int // 0 means 1
	MaxCPUs     int // limit for hot add; 0 means CPUs
	// MemoryBytes is needed, at least MinMemory and a multiple of 1 MiB.
	MemoryBytes    int64
	MaxMemoryBytes int64        // limit for hot add; 0 means MemoryBytes
	DynamicMemory  *MemoryRange // contains MemoryBytes
	Firmware       Firmware
	SecureBoot     bool   // UEFI only
	GuestOS        string // "linux", "windows", or the platform's own identifier; empty for other
	Machine        string // the platform's kind of machine, see VMInfo
	Boot           *DirectBoot
	Disks          []DiskSpec
	NICs           []NICSpec
	Placement      Placement
	Labels         map[string]string
	Start          bool // power on when made
	// Token makes CreateVM safe to repeat: the machine carries it, and the
	// same token again finds that machine instead of making a second.
	Token string
}

// DirectBoot starts a kernel without boot loader. Paths are on the host.
type DirectBoot struct {
	Kernel, Initrd, CommandLine string
}

// MinMemory is the least memory of a machine.
const MinMemory = 4 * MiB

// DeleteRequest is what a driver gets for VM.Delete.
type DeleteRequest struct {
	Disks DiskPolicy
	Force bool
}

// DeleteOptions for VM.Delete; nil means that a running machine is refused.
type DeleteOptions struct {
	Force bool // power a running machine off first
}

// ListOptions narrow a listing down; nil lists all in full.
type ListOptions struct {
	Detail   Detail
	Host     HostID            // machines on this host only
	Labels   map[string]string // machines with all of these labels; needs Full
	PageSize int               // a wish for the size of the pages behind the scenes
}

// VM is a handle on a machine: an ID and where to send calls. It holds no
// state that could be out of date, and making one asks nobody.
type VM struct {
	c  *Client
	id VMID
}

// VM returns the handle for an ID.
func (c *Client) VM(id VMID) *VM { return &VM{c, id} }

// ID returns the machine's ID.
func (m *VM) ID() VMID { return m.id }

// Client returns the Client that the handle belongs to.
func (m *VM) Client() *Client { return m.c }

func (m *VM) ref() Ref { return m.id.Ref() }

// VMs lists the machines, not the templates. Pages are fetched as the loop
// goes. An error ends it.
func (c *Client) VMs(ctx context.Context, o *ListOptions) iter.Seq2[VMInfo, error] {
	var q VMQuery
	var labels map[string]string
	if o != nil {
		q = VMQuery{Detail: o.Detail, Host: o.Host, PageSize: o.PageSize}
		labels = o.Labels
	}
	return func(yield func(VMInfo, error) bool) {
		if len(labels) > 0 && q.Detail == Brief {
			yield(VMInfo{}, invalid("vm.list", Ref{}, "labels can't be matched with Brief: ask for Full"))
			return
		}
		c.list(ctx, "vm.list", q, labels, yield)
	}
}

func (c *Client) list(ctx context.Context, op string, q VMQuery, labels map[string]string, yield func(VMInfo, error) bool) {
	ctx, sp, err := c.begin(ctx, op, Ref{})
	if err != nil {
		yield(VMInfo{}, err)
		return
	}
	if q.PageSize < 0 {
		yield(VMInfo{}, sp.end(invalid(op, Ref{}, "PageSize %d is negative", q.PageSize)))
		return
	}
	for {
		p, err := retryRead(ctx, c, func() (VMPage, error) { return c.d.ListVMs(ctx, q) })
		if err != nil {
			yield(VMInfo{}, sp.end(c.wrap(op, Ref{}, err)))
			return
		}
		for i := range p.VMs {
			if hasLabels(p.VMs[i].Labels, labels) && !yield(p.VMs[i], nil) {
				_ = sp.end(nil)
				return
			}
		}
		if p.Next == "" {
			_ = sp.end(nil)
			return
		}
		q.Page = p.Next
	}
}

func hasLabels(have, want map[string]string) bool {
	for k, v := range want {
		if h, ok := have[k]; !ok || h != v {
			return false
		}
	}
	return true
}

// FindVM returns the machine with this name. ErrNotFound if there is none,
// ErrAmbiguous if there are several; the error's text has their IDs.
func (c *Client) FindVM(ctx context.Context, name string) (*VM, error) {
	id, err := c.find(ctx, "vm.find", KindOfVM, VMQuery{Detail: Brief, Name: name})
	if err != nil {
		return nil, err
	}
	return c.VM(id), nil
}

func (c *Client) find(ctx context.Context, op string, kind ObjectKind, q VMQuery) (VMID, error) {
	on := Ref{Kind: kind, Name: q.Name}
	if err := checkName(op, on, "name", q.Name); err != nil {
		return "", err
	}
	var found []VMID
	var failed error
	c.list(ctx, op, q, nil, func(v VMInfo, err error) bool {
		if err != nil {
			failed = err
		} else if v.Name == q.Name {
			found = append(found, v.ID)
		}
		return err == nil
	})
	switch {
	case failed != nil:
		return "", failed
	case len(found) == 0:
		return "", &Error{Op: op, Object: on, Kind: KindNotFound}
	case len(found) > 1:
		e := Errorf(KindAmbiguous, on, "%d objects have this name: address one by its ID: %v", len(found), found)
		e.Op = op
		return "", e
	}
	return found[0], nil
}

// Info reads the machine in full.
func (m *VM) Info(ctx context.Context) (VMInfo, error) {
	ctx, sp, err := m.c.begin(ctx, "vm.info", m.ref())
	if err != nil {
		return VMInfo{}, err
	}
	if m.id == "" {
		return VMInfo{}, sp.end(invalid("vm.info", m.ref(), "the machine's ID is empty"))
	}
	v, err := retryRead(ctx, m.c, func() (VMInfo, error) { return m.c.d.GetVM(ctx, m.id) })
	return v, sp.end(m.c.wrap("vm.info", m.ref(), err))
}

// CreateVM makes a machine, off unless Start is set. When it fails, what was
// made is removed again or named in the error's Leftover; a machine that was
// made and could not be started stays and is named there.
func (c *Client) CreateVM(ctx context.Context, s VMSpec) *Task[*VM] {
	on := Ref{Kind: KindOfVM, Name: s.Name}
	return start(ctx, c, "vm.create", on, VMCreate, checkSpec(&s), func(ctx context.Context, d Lifecycle) (DriverTask, error) {
		return d.CreateVM(ctx, s)
	}, c.vmResult)
}

func (c *Client) vmResult(_ context.Context, s TaskState) (*VM, error) {
	return c.VM(VMID(s.Result.ID)), nil
}

// Delete removes the machine with its snapshots, and its disks or not. A
// machine that is not off is refused unless Force is set; a disk that another
// machine's linked clone stands on is refused with ErrBusy, naming the
// dependants, before anything is removed. A machine that is not there (any
// more): ErrNotFound.
func (m *VM) Delete(ctx context.Context, disks DiskPolicy, o *DeleteOptions) *Task[None] {
	r := DeleteRequest{Disks: disks}
	if o != nil {
		r.Force = o.Force
	}
	return start(ctx, m.c, "vm.delete", m.ref(), VMDelete, checkPolicy("vm.delete", m.ref(), disks), func(ctx context.Context, d Lifecycle) (DriverTask, error) {
		return d.DeleteVM(ctx, m.id, r)
	}, noResult)
}

// SetLabels replaces the machine's labels. Keys have 1 to 63 letters, digits,
// '.', '_', '-' or '/', values at most 255 characters.
func (m *VM) SetLabels(ctx context.Context, labels map[string]string) error {
	return setLabels(ctx, m.c, m.ref(), m.id, labels)
}

func setLabels(ctx context.Context, c *Client, on Ref, id VMID, labels map[string]string) error {
	return call(ctx, c, "vm.labels", on, Labels, checkLabels("vm.labels", on, labels), func(ctx context.Context, d Labeler) error {
		return d.SetLabels(ctx, id, labels)
	})
}

// Supports is Client.Supports with this machine as the scope.
func (m *VM) Supports(ctx context.Context, k Capability) (Support, error) {
	return m.c.Supports(ctx, k, m.ref())
}

// Dependencies tells which disk images the machine stands on, how long their
// chains are, and which clones and snapshots stand on the same images.
func (m *VM) Dependencies(ctx context.Context) (Dependencies, error) {
	return read(ctx, m.c, "vm.dependencies", m.ref(), CloneLinked, nil, func(ctx context.Context, d DependencyLister) (Dependencies, error) {
		return d.Dependencies(ctx, m.id)
	})
}
