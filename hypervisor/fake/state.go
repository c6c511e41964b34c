package fake

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// state is the part of a backend that Backend.MarshalJSON writes, beside the
// Config.
type state struct {
	Serial     uint64 // of short IDs
	Seq        uint64 // of machines, the cursor of listings
	Events     uint64 // number of the last event
	Hosts      []*host
	Datastores []*datastore
	Networks   []Network
	Devices    []*device
	VMs        []*vm `json:",omitempty"` // filled for JSON only
	Volumes    map[hypervisor.VolumeID]*volume
	HostDisks  map[string]*hostDisk `json:",omitempty"` // by path
	Tasks      []taskRecord         `json:",omitempty"` // filled for JSON only
}

func newState() state { return state{Volumes: map[hypervisor.VolumeID]*volume{}} }

type host struct {
	Host
	Used    int64 // memory of machines, including those that are moving here
	Running int
}

type datastore struct {
	Datastore
	Used int64
}

// volume is a disk image. Data is nil where the image holds only what its
// parent holds. The image is frozen while others depend on it.
type volume struct {
	ID        hypervisor.VolumeID
	Name      string
	Datastore hypervisor.DatastoreID
	Size      int64
	Used      int64
	Prov      hypervisor.Provisioning
	Parent    hypervisor.VolumeID `json:",omitempty"`
	Data      *string             `json:",omitempty"`
	Owner     hypervisor.VMID     `json:",omitempty"` // the machine that removes it with DeleteDisks
	Partial   bool                `json:",omitempty"` // a task is making it
}

type disk struct {
	ID              hypervisor.DiskID
	Volume          hypervisor.VolumeID
	Bus             string
	ReadOnly, CDROM bool
	Shared          bool    `json:",omitempty"` // other machines write to the image
	HostDisk        string  `json:",omitempty"` // instead of an image
	image           *volume // Volume's, once it was looked up
}

type attachment struct {
	ID      hypervisor.AttachmentID
	Device  hypervisor.DeviceID
	Profile string
}

// login is a user and a password that are saved with the backend.
type login struct{ Username, Password string }

type guest struct {
	Tools        bool
	Login        login                     // required by programs; empty: none
	Told         *hypervisor.Customization `json:",omitempty"`
	Hangs        bool                      // doesn't react to Shutdown
	ShutdownTime time.Duration             // time that Shutdown and Reboot take
	HostName     string
	Addresses    []netip.Addr
	Offset       time.Duration // of the clock, while it runs
	Drift        float64       // seconds per second
	Since        time.Time     // the start of Drift
	Stopped      time.Time     // the clock has stood still since then; zero: it runs
	Frozen       bool
	RAM          string
	Boots        int
	Up           time.Time // the start of this boot, less the pauses
}

type vm struct {
	Seq          uint64
	ID           hypervisor.VMID
	Name, Desc   string
	State        hypervisor.PowerState
	Template     bool
	Host         hypervisor.HostID
	Datastore    hypervisor.DatastoreID
	Folder       string
	CPUs, MaxCPU int
	Mem, MaxMem  int64
	Dynamic      *hypervisor.MemoryRange
	Firmware     hypervisor.Firmware
	SecureBoot   bool
	GuestOS      string
	Machine      string
	Boot         *hypervisor.DirectBoot
	Disks        []disk
	NICs         []hypervisor.NICInfo
	Devices      []attachment
	Foreign      []Foreign   `json:",omitempty"` // devices and settings
	Snaps        []*snapshot // parents before children
	Current      hypervisor.SnapshotID
	Labels       map[string]string
	Token        string
	Created      time.Time
	Guest        guest
	Pending      *hypervisor.Changes        // for the next start
	Restart      hypervisor.RestartPriority `json:",omitempty"` // empty: the default
	Replication  hypervisor.ReplicationInfo `json:",omitzero"`
	Moved        hypervisor.MigrateOptions  `json:"-"` // as last requested
}

type snapshot struct {
	hypervisor.SnapshotInfo
	Disks   []disk // with their frozen images
	CPUs    int
	MaxCPU  int
	Mem     int64
	MaxMem  int64
	Dynamic *hypervisor.MemoryRange
	NICs    []hypervisor.NICInfo
	Guest   guest
	// Inside holds the contents of the images of a snapshot that another tool
	// took inside them. Disks are then those images, not frozen.
	Inside map[hypervisor.VolumeID]string `json:",omitempty"`
}

// active reports whether the machine has memory on its host.
func (m *vm) active() bool {
	return m.State == hypervisor.StateRunning || m.State == hypervisor.StatePaused
}

func (m *vm) ref() hypervisor.Ref {
	k := hypervisor.ObjectVM
	if m.Template {
		k = hypervisor.ObjectTemplate
	}
	return hypervisor.Ref{Kind: k, ID: string(m.ID), Name: m.Name}
}

func (v *volume) ref() hypervisor.Ref {
	return hypervisor.Ref{Kind: hypervisor.ObjectVolume, ID: string(v.ID), Name: v.Name}
}

func (m *vm) disk(id hypervisor.DiskID) (int, error) {
	i := slices.IndexFunc(m.Disks, func(d disk) bool { return d.ID == id })
	if i < 0 {
		return 0, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "machine %q has no such disk", m.Name)
	}
	return i, nil
}

func (m *vm) snap(id hypervisor.SnapshotID) (*snapshot, error) {
	for _, s := range m.Snaps {
		if s.ID == id {
			return s, nil
		}
	}
	return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "machine %q has no such snapshot", m.Name)
}

func (b *Backend) vm(id hypervisor.VMID) (*vm, error) {
	if m, ok := b.vms[id]; ok {
		return m, nil
	}
	return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such machine")
}

// machine is like vm, for operations that are refused for a template.
func (b *Backend) machine(id hypervisor.VMID, what string) (*vm, error) {
	m, err := b.vm(id)
	if err == nil && m.Template {
		err = hypervisor.Errorf(hypervisor.ErrInvalidState, m.ref(), "a template can't %s: turn it into a machine first", what)
	}
	if err != nil {
		return nil, err
	}
	if h, herr := b.host(m.Host); herr == nil && h.State == hypervisor.HostDown {
		return nil, h.usable()
	}
	return m, nil
}

func (b *Backend) host(id hypervisor.HostID) (*host, error) {
	for _, h := range b.st.Hosts {
		if h.ID == id {
			return h, nil
		}
	}
	return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such host")
}

func (b *Backend) datastore(id hypervisor.DatastoreID) (*datastore, error) {
	for _, d := range b.st.Datastores {
		if d.ID == id {
			return d, nil
		}
	}
	return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such datastore")
}

func (b *Backend) network(id hypervisor.NetworkID) (Network, error) {
	for _, n := range b.st.Networks {
		if n.ID == id {
			return n, nil
		}
	}
	return Network{}, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such network")
}

func (b *Backend) volume(id hypervisor.VolumeID) (*volume, error) {
	if v, ok := b.st.Volumes[id]; ok {
		return v, nil
	}
	return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such disk image")
}

// reaches reports whether a list of hosts, nil for all, has the host.
func reaches(list []hypervisor.HostID, h hypervisor.HostID) bool {
	return list == nil || slices.Contains(list, h)
}

// register adds a machine to the inventory.
func (b *Backend) register(m *vm) {
	b.st.Seq++
	m.Seq = b.st.Seq
	b.index(m)
	b.emit(hypervisor.EventVMCreated, m, "")
}

func (b *Backend) index(m *vm) {
	b.vms[m.ID] = m
	b.order = append(b.order, m)
	b.names[m.Name]++
	if m.Token != "" {
		b.tokens[m.Token] = m.ID
	}
}

// drop removes a machine from the inventory.
func (b *Backend) drop(m *vm) {
	delete(b.vms, m.ID)
	if i, ok := slices.BinarySearchFunc(b.order, m.Seq, func(x *vm, s uint64) int { return int(int64(x.Seq) - int64(s)) }); ok {
		b.order = slices.Delete(b.order, i, i+1)
	}
	if b.names[m.Name]--; b.names[m.Name] <= 0 {
		delete(b.names, m.Name)
	}
	if b.tokens[m.Token] == m.ID {
		delete(b.tokens, m.Token)
	}
	b.emit(hypervisor.EventVMDeleted, m, "")
}

// occupy and vacate account for a host's memory.
func (b *Backend) occupy(id hypervisor.HostID, mem int64) {
	if h, err := b.host(id); err == nil {
		h.Used += mem
		h.Running++
	}
}

func (b *Backend) vacate(id hypervisor.HostID, mem int64) {
	if h, err := b.host(id); err == nil {
		h.Used -= mem
		h.Running--
	}
}

// room checks that a host has room for a machine that starts to run.
func (b *Backend) room(m *vm, id hypervisor.HostID) error {
	h, err := b.host(id)
	if err != nil {
		return err
	}
	if err := h.usable(); err != nil {
		return err
	}
	if free := h.MemoryBytes - h.Used; free < m.Mem {
		return hypervisor.Errorf(hypervisor.ErrExhausted, m.ref(), "host %q has %d MiB of memory free, the machine needs %d MiB", h.Name, free/hypervisor.MiB, m.Mem/hypervisor.MiB)
	}
	return nil
}

func (h *host) ref() hypervisor.Ref {
	return hypervisor.Ref{Kind: hypervisor.ObjectHost, ID: string(h.ID), Name: h.Name}
}

func (h *host) usable() error {
	switch h.State {
	case hypervisor.HostDown:
		return hypervisor.Errorf(hypervisor.ErrUnavailable, h.ref(), "the host doesn't answer")
	case hypervisor.HostMaintaining:
		return hypervisor.Errorf(hypervisor.ErrInvalidState, h.ref(), "the host is in maintenance: choose another or end it")
	}
	return nil
}

func cloneRange(r *hypervisor.MemoryRange) *hypervisor.MemoryRange {
	if r == nil {
		return nil
	}
	c := *r
	return &c
}

func cloneLabels(l map[string]string) map[string]string {
	if len(l) == 0 {
		return nil
	}
	return maps.Clone(l)
}
