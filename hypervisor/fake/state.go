package fake

import (
	"maps"
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// state is what Backend.MarshalJSON writes, beside the Config.
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
	Tasks      []taskRecord `json:",omitempty"` // filled for JSON only
}

func newState() state { return state{Volumes: map[hypervisor.VolumeID]*volume{}} }

type host struct {
	Host
	Used    int64 // memory of machines, and of those on their way here
	Running int
}

type datastore struct {
	Datastore
	Used int64
}

// volume is a disk image. Data is nil where it holds only what its parent
// holds. It is frozen while others stand on it.
type volume struct {
	ID        hypervisor.VolumeID
	Name      string
	Datastore hypervisor.DatastoreID
	Size      int64
	Used      int64
	Prov      hypervisor.Provisioning
	Parent    hypervisor.VolumeID `json:",omitempty"`
	Data      *string             `json:",omitempty"`
	Owner     hypervisor.VMID     `json:",omitempty"` // who removes it with DeleteDisks
	Partial   bool                `json:",omitempty"` // a task is making it
}

type disk struct {
	ID              hypervisor.DiskID
	Volume          hypervisor.VolumeID
	Bus             string
	ReadOnly, CDROM bool
	image           *volume // Volume's, once it was looked up
}

type attachment struct {
	ID      hypervisor.AttachmentID
	Device  hypervisor.DeviceID
	Profile string
}

type guest struct {
	Tools        bool
	Hangs        bool          // doesn't react to Shutdown
	ShutdownTime time.Duration // that Shutdown and Reboot take
	HostName     string
	Addresses    []string
	Offset       time.Duration // of the clock, while it runs
	Drift        float64       // seconds per second
	Since        time.Time     // from when Drift counts
	Stopped      time.Time     // the clock stands since then; zero: it runs
	Frozen       bool
	RAM          string
	Boots        int
	Up           time.Time // since when this boot runs, less the pauses
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
	Snaps        []*snapshot // parents before children
	Current      hypervisor.SnapshotID
	Labels       map[string]string
	Token        string
	Created      time.Time
	Guest        guest
	Pending      *hypervisor.Changes        // for the next start
	Restart      hypervisor.RestartPriority `json:",omitempty"` // empty: the default
	Replication  hypervisor.ReplicationInfo `json:",omitzero"`
}

type snapshot struct {
	hypervisor.SnapshotInfo
	Disks   []disk // with the frozen images
	CPUs    int
	MaxCPU  int
	Mem     int64
	MaxMem  int64
	Dynamic *hypervisor.MemoryRange
	NICs    []hypervisor.NICInfo
	Guest   guest
}

// active reports whether the machine has memory on its host.
func (m *vm) active() bool {
	return m.State == hypervisor.Running || m.State == hypervisor.Paused
}

func (m *vm) ref() hypervisor.Ref {
	k := hypervisor.KindOfVM
	if m.Template {
		k = hypervisor.KindOfTemplate
	}
	return hypervisor.Ref{Kind: k, ID: string(m.ID), Name: m.Name}
}

func (v *volume) ref() hypervisor.Ref {
	return hypervisor.Ref{Kind: hypervisor.KindOfVolume, ID: string(v.ID), Name: v.Name}
}

func (m *vm) disk(id hypervisor.DiskID) (int, error) {
	i := slices.IndexFunc(m.Disks, func(d disk) bool { return d.ID == id })
	if i < 0 {
		return 0, hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "machine %q has no such disk", m.Name)
	}
	return i, nil
}

func (m *vm) snap(id hypervisor.SnapshotID) (*snapshot, error) {
	for _, s := range m.Snaps {
		if s.ID == id {
			return s, nil
		}
	}
	return nil, hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "machine %q has no such snapshot", m.Name)
}

func (b *Backend) vm(id hypervisor.VMID) (*vm, error) {
	if m, ok := b.vms[id]; ok {
		return m, nil
	}
	return nil, hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "no such machine")
}

// machine is vm for operations that a template refuses.
func (b *Backend) machine(id hypervisor.VMID, what string) (*vm, error) {
	m, err := b.vm(id)
	if err == nil && m.Template {
		err = hypervisor.Errorf(hypervisor.KindInvalidState, m.ref(), "a template can't %s: turn it into a machine first", what)
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
	return nil, hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "no such host")
}

func (b *Backend) datastore(id hypervisor.DatastoreID) (*datastore, error) {
	for _, d := range b.st.Datastores {
		if d.ID == id {
			return d, nil
		}
	}
	return nil, hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "no such datastore")
}

func (b *Backend) network(id hypervisor.NetworkID) (Network, error) {
	for _, n := range b.st.Networks {
		if n.ID == id {
			return n, nil
		}
	}
	return Network{}, hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "no such network")
}

func (b *Backend) volume(id hypervisor.VolumeID) (*volume, error) {
	if v, ok := b.st.Volumes[id]; ok {
		return v, nil
	}
	return nil, hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "no such disk image")
}

// reaches tells whether a list of hosts, nil for all, has the host.
func reaches(list []hypervisor.HostID, h hypervisor.HostID) bool {
	return list == nil || slices.Contains(list, h)
}

// register puts a machine into the inventory.
func (b *Backend) register(m *vm) {
	b.st.Seq++
	m.Seq = b.st.Seq
	b.index(m)
	b.emit(hypervisor.VMCreated, m, "")
}

func (b *Backend) index(m *vm) {
	b.vms[m.ID] = m
	b.order = append(b.order, m)
	b.names[m.Name]++
	if m.Token != "" {
		b.tokens[m.Token] = m.ID
	}
}

// drop takes a machine out of the inventory.
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
	b.emit(hypervisor.VMDeleted, m, "")
}

// occupy and vacate keep the account of a host's memory.
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

// room demands that a host can take a machine that starts to run.
func (b *Backend) room(m *vm, id hypervisor.HostID) error {
	h, err := b.host(id)
	if err != nil {
		return err
	}
	if err := h.usable(); err != nil {
		return err
	}
	if free := h.MemoryBytes - h.Used; free < m.Mem {
		return hypervisor.Errorf(hypervisor.KindExhausted, m.ref(), "host %q has %d MiB of memory free, the machine needs %d MiB", h.Name, free/hypervisor.MiB, m.Mem/hypervisor.MiB)
	}
	return nil
}

func (h *host) ref() hypervisor.Ref {
	return hypervisor.Ref{Kind: hypervisor.KindOfHost, ID: string(h.ID), Name: h.Name}
}

func (h *host) usable() error {
	switch h.State {
	case hypervisor.HostDown:
		return hypervisor.Errorf(hypervisor.KindUnavailable, h.ref(), "the host doesn't answer")
	case hypervisor.HostMaintaining:
		return hypervisor.Errorf(hypervisor.KindInvalidState, h.ref(), "the host is in maintenance: choose another or end it")
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
