package hypervisor

import (
	"context"
	"iter"
	"net/netip"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/op"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// PowerState is the state of a machine.
type PowerState string

const (
	StateOff       PowerState = "off"
	StateRunning   PowerState = "running"
	StatePaused    PowerState = "paused"    // vCPUs stopped, RAM kept in memory
	StateSuspended PowerState = "suspended" // RAM on disk
	// StateUnknown means that the platform can't report the state, for
	// example because the machine's host doesn't answer.
	StateUnknown PowerState = "unknown"
)

// Detail is how much of a VMInfo a listing fills in.
type Detail uint8

const (
	// DetailFull fills in everything that the platform returns in whole-inventory
	// calls. It is the default.
	DetailFull Detail = iota
	// DetailBrief fills in ID, Name, State, Template, Host, CPUs, MemoryBytes
	// and ReadAt, in the cheapest way that the platform offers.
	DetailBrief
)

// Firmware is the software that boots a machine.
type Firmware string

const (
	FirmwareAny  Firmware = "" // the platform's default
	FirmwareBIOS Firmware = "bios"
	FirmwareUEFI Firmware = "uefi"
)

// VMInfo is what was known about a machine at ReadAt. VM.Info and listings
// with DetailFull fill in all fields; DetailBrief names those that a brief
// listing fills in.
type VMInfo struct {
	ID          VMID       `json:"id"`
	Name        string     `json:"name"`
	State       PowerState `json:"state"`
	Template    bool       `json:"template,omitempty"`
	Host        HostID     `json:"host,omitempty"` // empty if on none
	CPUs        int        `json:"cpus"`
	MemoryBytes int64      `json:"memoryBytes"` // memory that the guest has, or gets at its next start
	ReadAt      time.Time  `json:"readAt"`

	Description string   `json:"description,omitempty"`
	Firmware    Firmware `json:"firmware,omitempty"`
	SecureBoot  bool     `json:"secureBoot,omitempty"`
	Machine     string   `json:"machine,omitempty"` // the platform's machine type: "q35", "generation 2", "pvh", "vmx-21"
	GuestOS     string   `json:"guestOS,omitempty"` // as configured; GuestInfo has what really runs
	// Boot is the kernel that the machine starts without a boot loader, or
	// nil if it uses one.
	Boot    *DirectBoot `json:"boot,omitempty"`
	MaxCPUs int         `json:"maxCPUs,omitempty"` // limit for CPU hot-plug
	// DynamicMemory is the range in which the platform may balloon, or nil if
	// the memory is fixed.
	DynamicMemory   *MemoryRange      `json:"dynamicMemory,omitempty"`
	MaxMemoryBytes  int64             `json:"maxMemoryBytes,omitempty"` // limit for memory hot-plug
	Disks           []DiskInfo        `json:"disks,omitempty"`
	NICs            []NICInfo         `json:"nics,omitempty"`
	Devices         []AttachedDevice  `json:"devices,omitempty"`
	Snapshots       int               `json:"snapshots,omitempty"` // number of snapshots
	CurrentSnapshot SnapshotID        `json:"currentSnapshot,omitempty"`
	Labels          map[string]string `json:"labels,omitempty"`
	Token           string            `json:"token,omitempty"` // token of the create or clone call
	Placement       Placement         `json:"placement"`
	CreatedAt       time.Time         `json:"createdAt,omitzero"` // zero where the platform doesn't report it
	// Addresses are the guest's IP addresses where the platform knows them
	// without asking the guest.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// Tasks are at work on the machine now, as far as the platform reports
	// them.
	Tasks []TaskID `json:"tasks,omitempty"`
}

// MemoryRange bounds dynamic memory, in bytes.
type MemoryRange struct {
	MinBytes int64 `json:"minBytes"`
	MaxBytes int64 `json:"maxBytes"`
}

// Placement is where something is or should be placed. Empty parts are left
// to the platform.
type Placement struct {
	Host      HostID      `json:"host,omitempty"`
	Datastore DatastoreID `json:"datastore,omitempty"`
	Pool      PoolID      `json:"pool,omitempty"`   // cluster or resource pool
	Folder    string      `json:"folder,omitempty"` // inventory folder (vSphere), a path with slashes
}

// VMSpec describes a machine to make. The zero value of every field but Name
// and MemoryBytes is a usable default.
type VMSpec struct {
	Name        string
	Description string
	CPUs        int // 0 means 1
	MaxCPUs     int // limit for CPU hot-plug; 0 means CPUs
	// MemoryBytes is required. It is at least MinMemory and a multiple of 1
	// MiB.
	MemoryBytes    int64
	MaxMemoryBytes int64        // limit for memory hot-plug; 0 means MemoryBytes
	DynamicMemory  *MemoryRange // a range that contains MemoryBytes
	Firmware       Firmware
	SecureBoot     bool   // UEFI only
	GuestOS        string // "linux", "windows", or the platform's own identifier; empty means another
	Machine        string // the platform's machine type, see VMInfo
	Boot           *DirectBoot
	Disks          []DiskSpec
	NICs           []NICSpec
	Placement      Placement
	Labels         map[string]string
	Start          bool // power on once made
	// Token makes CreateVM safe to repeat: 1 to 64 letters, digits, '.', '_',
	// ':', '/' or '-'. The machine has the token, and a repeated call with the
	// same token returns that machine instead of making a second one. The
	// other fields of the two calls are not compared. A repeated call waits
	// for an earlier one that is still at work, but let one process at a time
	// use a token: only KVM and XAPI keep two apart.
	Token string
}

// DirectBoot starts a kernel without a boot loader. Paths are on the host.
type DirectBoot struct {
	Kernel      string `json:"kernel"`
	Initrd      string `json:"initrd,omitempty"`
	CommandLine string `json:"commandLine,omitempty"`
}

// MinMemory is the smallest memory of a machine.
const MinMemory = 4 * MiB

// DeleteRequest is what a driver gets for VM.Delete.
type DeleteRequest struct {
	Disks DiskPolicy
	DeleteOptions
}

// DeleteOptions are the options for VM.Delete. Nil means that a running machine is refused.
type DeleteOptions struct {
	Force bool // power a running machine off first
}

// ListOptions narrow a listing. Nil lists all machines with
// DetailFull.
type ListOptions struct {
	Detail   Detail
	Host     HostID            // machines on this host only
	Labels   map[string]string // machines with all of these labels; not with DetailBrief
	PageSize int               // preferred size of the pages behind the scenes
}

// VM is a handle on a machine: an ID and the Client that its calls use. It
// holds no state that could be out of date. Making one makes no call.
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

// Ref returns the Ref of the machine.
func (m *VM) Ref() Ref { return m.id.Ref() }

// VMs lists the machines, not the templates. Pages are fetched as the loop
// proceeds. An error ends the loop.
func (c *Client) VMs(ctx context.Context, o *ListOptions) iter.Seq2[VMInfo, error] {
	var q VMQuery
	var labels map[string]string
	if o != nil {
		q = VMQuery{Detail: o.Detail, Host: o.Host, PageSize: o.PageSize}
		labels = o.Labels
	}
	return func(yield func(VMInfo, error) bool) {
		if len(labels) > 0 && q.Detail == DetailBrief {
			yield(VMInfo{}, invalid(op.VMList, Ref{}, "labels can't be matched with DetailBrief: ask for DetailFull"))
			return
		}
		c.list(ctx, op.VMList, q, labels, yield)
	}
}

func (c *Client) list(ctx context.Context, op op.Name, q VMQuery, labels map[string]string, yield func(VMInfo, error) bool) {
	ctx, sp, err := c.begin(ctx, op, Ref{})
	if err != nil {
		yield(VMInfo{}, err)
		return
	}
	if q.PageSize < 0 {
		yield(VMInfo{}, sp.end(invalid(op, Ref{}, "PageSize %d is negative", q.PageSize)))
		return
	}
	err = c.pages(ctx, op, q, func(v VMInfo) bool { return !hasLabels(v.Labels, labels) || yield(v, nil) })
	if err = sp.end(err); err != nil {
		yield(VMInfo{}, err)
	}
}

// pages calls each for every machine until it returns false.
func (c *Client) pages(ctx context.Context, op op.Name, q VMQuery, each func(VMInfo) bool) error {
	for {
		p, err := retryRead(ctx, c, func() (VMPage, error) { return c.d.ListVMs(ctx, q) })
		if err != nil {
			return c.wrap(op, Ref{}, err)
		}
		for _, v := range p.VMs {
			if !each(v) {
				return nil
			}
		}
		if p.Next == "" {
			return nil
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

// FindVM returns the machine with this name. It returns ErrNotFound if there
// is none, and ErrAmbiguous if there are several; the error's text has their
// IDs.
func (c *Client) FindVM(ctx context.Context, name string) (*VM, error) {
	id, err := c.find(ctx, op.VMFind, ObjectVM, VMQuery{Detail: DetailBrief, Name: name})
	if err != nil {
		return nil, err
	}
	return c.VM(id), nil
}

func (c *Client) find(ctx context.Context, op op.Name, kind ObjectKind, q VMQuery) (VMID, error) {
	on := Ref{Kind: kind, Name: q.Name}
	if err := checkName(op, on, "name", q.Name); err != nil {
		return "", err
	}
	ctx, sp, err := c.begin(ctx, op, on)
	if err != nil {
		return "", err
	}
	var found []VMID
	err = c.pages(ctx, op, q, func(v VMInfo) bool {
		if v.Name == q.Name {
			found = append(found, v.ID)
		}
		return true
	})
	switch {
	case err != nil:
		return "", sp.end(err)
	case len(found) == 0:
		return "", sp.end(&Error{Op: op, Object: on, Kind: ErrNotFound})
	case len(found) > 1:
		e := Errorf(ErrAmbiguous, on, "%d objects have this name: address one by its ID: %v", len(found), found)
		e.Op = op
		return "", sp.end(e)
	}
	return found[0], sp.end(nil)
}

// Info reads the machine in full.
func (m *VM) Info(ctx context.Context) (VMInfo, error) {
	ctx, sp, err := m.c.begin(ctx, op.VMInfo, m.Ref())
	if err != nil {
		return VMInfo{}, err
	}
	v, err := retryRead(ctx, m.c, func() (VMInfo, error) { return m.c.d.GetVM(ctx, m.id) })
	return v, sp.end(m.c.wrap(op.VMInfo, m.Ref(), err))
}

// CreateVM makes a machine, which is off unless Start is set. When it fails,
// what was made is removed again or named in the error's Leftover. A machine
// that was made and could not be started stays and is named there.
func (c *Client) CreateVM(ctx context.Context, s VMSpec) *Task[*VM] {
	on := Ref{Kind: ObjectVM, Name: s.Name}
	return start(ctx, c, op.VMCreate, on, capability.VMCreate, checkSpec(&s), func(ctx context.Context, d Lifecycle) (DriverTask, error) {
		return d.CreateVM(ctx, s)
	}, c.vmResult)
}

func (c *Client) vmResult(_ context.Context, s TaskState) (*VM, error) {
	return c.VM(VMID(s.Result.ID)), nil
}

// Delete removes the machine with its snapshots, and deletes or keeps its
// disks. A machine that is not off is refused unless Force is set. If a disk
// backs another machine's linked clone, Delete returns ErrBusy, which names
// the dependants, before anything is removed. A machine that does not exist
// (any more) is ErrNotFound.
func (m *VM) Delete(ctx context.Context, disks DiskPolicy, o *DeleteOptions) *Task[None] {
	r := DeleteRequest{disks, orDefault(o)}
	return start(ctx, m.c, op.VMDelete, m.Ref(), capability.VMDelete, checkPolicy(op.VMDelete, m.Ref(), disks), func(ctx context.Context, d Lifecycle) (DriverTask, error) {
		return d.DeleteVM(ctx, m.id, r)
	}, noResult)
}

// SetLabels replaces the machine's labels. Keys have 1 to 63 letters, digits,
// '.', '_', '-' or '/', values at most 255 characters.
func (m *VM) SetLabels(ctx context.Context, labels map[string]string) error {
	return setLabels(ctx, m.c, op.VMSetLabels, m.Ref(), m.id, labels)
}

func setLabels(ctx context.Context, c *Client, op op.Name, on Ref, id VMID, labels map[string]string) error {
	return call(ctx, c, op, on, capability.Labels, checkLabels(op, on, labels), func(ctx context.Context, d Labeler) error {
		return d.SetLabels(ctx, id, labels)
	})
}

// Supports is Client.Supports with this machine as the scope.
func (m *VM) Supports(ctx context.Context, k capability.Name) (Support, error) {
	return m.c.Supports(ctx, k, m.Ref())
}

// Dependencies lists the backing chains of the machine's disks, their
// lengths, and which clones and snapshots use the same images.
func (m *VM) Dependencies(ctx context.Context) (Dependencies, error) {
	return read(ctx, m.c, op.VMDependencies, m.Ref(), capability.CloneLinked, nil, func(ctx context.Context, d DependencyLister) (Dependencies, error) {
		return d.Dependencies(ctx, m.id)
	})
}
