// Package fake is a driver without a hypervisor: hosts, machines, disks and
// devices live in memory and behave like the real ones. Disks and memory have
// content, so a test sees that a revert brought the old content back. What
// real platforms refuse is refused. Work takes as long as [Config.Delays]
// says and no real time under testing/synctest. It can be cancelled, fail or
// leave things behind (see [Fault]).
//
//	b := fake.New(fake.Config{})
//	c, err := b.Open(ctx, nil)
//	defer c.Close()
//
// A [Backend] is the platform. Any number of Clients may be open on it, one
// after the other or at once. With two backends, machines can migrate between
// Clients. Tests look behind the API with [Backend.ReadDisk],
// [Backend.ReadMemory], [Backend.Calls] and the like.
//
// # The platform of the zero Config
//
// There are no machines and no templates: make them with the API, as on a new
// installation. Any size fits that the hosts have room for, and disks need no
// image.
//
//	hosts         host-1 (fakehost1), host-2 (fakehost2), see DefaultHosts
//	datastores    ds-shared (shared) and ds-archive (archive) on all hosts,
//	              ds-host-1 (local-fakehost1) and ds-host-2 (local-fakehost2)
//	networks      net-1 (default), net-2 (storage, VLAN 20)
//
// A guest boots at once, with tools, and has an address for each adapter.
// Tasks take no time, live migrations included, unless [Config.Delays] or
// [Backend.SetDelay] set one.
//
// # URLs
//
// The URL fake:// opens a backend of its own. fake://name opens one that all
// Clients in the process with that name share. fake:///path/of/a/file keeps
// the backend in a file, which the last Close in the process writes, so that
// one process after the other can work on it. A process that is killed loses
// its changes. The file path/of/a/file.lock keeps other processes away
// meanwhile. The parameters are hosts (a number), seed, edition, and delay (of
// every task, "2s"). Any user and password are accepted.
package fake

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// Config describes a backend. The zero value is a platform of two hosts with
// GPUs and network cards, two shared datastores, a local one on each host, and
// no machines, where everything works and takes no time. The package
// documentation has the IDs.
type Config struct {
	// Name is the endpoint that Describe returns.
	Name string
	// Edition is "full" (also the empty string), "standard" or "free".
	// "standard" lacks the scheduler, vGPU, instant clones and migration to
	// another Client. "free" also lacks everything that moves running
	// machines, hot-plug of CPUs and memory, maintenance mode, HA and
	// replication. What is lacking is refused with ErrLicense.
	Edition string
	// Disable replaces the answer of Supports for these capabilities. Calls
	// that need one with LevelNo are refused with its reason.
	Disable map[capability.Name]hypervisor.Support

	Hosts      []Host      // nil means DefaultHosts(2)
	Datastores []Datastore // nil means those of the zero Config
	Networks   []Network   // nil means those of the zero Config

	// Delays is the time that tasks take, by operation: op.VMClone for
	// VM.Clone, op.TemplateDeploy for Template.Deploy. "*" applies to all that
	// are not named. Power operations, deletion and the like are tasks too.
	// See Backend.SetDelay.
	Delays map[op.Name]time.Duration
	// Latency is the time that every call takes.
	Latency time.Duration
	// NoTools makes machines without guest tools; see Backend.SetGuest.
	NoTools bool
	// HA restarts machines whose host goes down (Backend.SetHostState) on other
	// hosts, by their restart priority.
	HA bool
	// UniqueNames refuses a machine's name if it is taken.
	UniqueNames bool
	// PageSize is the largest number of machines on a page of a listing; 0
	// means 1000.
	PageSize int
	// Uncancelable names operations ("snapshot.delete") whose tasks can't be
	// cancelled.
	Uncancelable []op.Name
	// CallLog, EventLog and TaskLog are the numbers of calls, events and
	// ended tasks that are kept; 0 means 10,000, 10,000 and 1,000.
	CallLog, EventLog, TaskLog int
	// Seed determines the IDs. Backends with the same seed make the same IDs
	// for the same calls; 0 gives each backend of a process a different seed.
	Seed uint64
	// Clock is the platform's clock; nil means time.Now.
	Clock func() time.Time `json:"-"`
	// Login is the login that Clients need; nil accepts any.
	Login *hypervisor.Credentials `json:"-"`
	// Exec runs programs in guests; nil means a few built-in ones (see
	// Driver.Exec).
	Exec func(hypervisor.VMID, hypervisor.ExecRequest) (hypervisor.ExecResult, error) `json:"-"`
}

// Host describes a host of a Config.
type Host struct {
	ID          hypervisor.HostID
	Name        string
	Pool        hypervisor.PoolID
	Version     string // "8.0"; machines don't migrate live to a lower version
	CPUModel    string
	CPUVendor   string // machines don't migrate live to a different vendor's
	CPUFeatures []string
	Sockets     int
	Cores       int // in all, with two threads each
	MemoryBytes int64
	NoIOMMU     bool // off in the firmware: devices can't be assigned
	State       hypervisor.HostState
	Devices     []Device
}

// Device describes a device of a Host.
type Device struct {
	hypervisor.DeviceInfo        // New fills in ID, Host and what changes
	HostUses              string // the host's use of it: "console"
	VFProduct             string // of the virtual functions, four hex digits
}

// Datastore describes a place for disk images.
type Datastore struct {
	ID            hypervisor.DatastoreID
	Name, Type    string
	CapacityBytes int64
	Hosts         []hypervisor.HostID // nil means all
}

// Network describes a network.
type Network struct {
	ID    hypervisor.NetworkID
	Name  string
	VLAN  int
	Hosts []hypervisor.HostID // nil means all
}

// Backend is one platform. Its methods are safe for concurrent use.
type Backend struct {
	serial uint64 // the order of locking
	cfg    Config
	query  string // of the URL that made a state file

	mu     sync.Mutex
	rnd    *rand.PCG
	st     state
	vms    map[hypervisor.VMID]*vm
	order  []*vm // by Seq
	tokens map[string]hypervisor.VMID
	names  map[string]int
	kids   map[hypervisor.VolumeID]map[hypervisor.VolumeID]struct{}
	made   map[string]*task // tokens of work in progress
	holds  map[hypervisor.Ref]*hold
	tasks  map[hypervisor.TaskID]*task
	ended  []hypervisor.TaskID

	events  []hypervisor.Event // the last of them has number st.Events
	waiting chan struct{}      // closed at the next event; nil if nobody waits

	faults []*armed
	healed chan struct{} // closed by Heal; nil if no call waits for an answer
	calls  []Call
	nCalls int
	delays map[op.Name]time.Duration
}

var serials atomic.Uint64

// New makes a backend. It starts nothing that would have to be closed. It
// panics if Delays or Uncancelable name no operation.
func New(cfg Config) *Backend {
	b := newBackend(cfg)
	b.furnish()
	return b
}

func newBackend(cfg Config) *Backend {
	def := func(n *int, v int) {
		if *n <= 0 {
			*n = v
		}
	}
	def(&cfg.PageSize, 1000)
	def(&cfg.CallLog, 10000)
	def(&cfg.EventLog, 10000)
	def(&cfg.TaskLog, 1000)
	b := &Backend{serial: serials.Add(1), cfg: cfg,
		vms: map[hypervisor.VMID]*vm{}, tokens: map[string]hypervisor.VMID{}, names: map[string]int{},
		kids: map[hypervisor.VolumeID]map[hypervisor.VolumeID]struct{}{},
		made: map[string]*task{}, holds: map[hypervisor.Ref]*hold{}, tasks: map[hypervisor.TaskID]*task{},
		delays: map[op.Name]time.Duration{}}
	if b.cfg.Seed == 0 {
		b.cfg.Seed = b.serial
	}
	if b.cfg.Name == "" {
		b.cfg.Name = fmt.Sprintf("fake-%d", b.serial)
	}
	if err := cfg.checkNames(); err != nil {
		panic(fmt.Sprintf("fake: %v", err))
	}
	for name, d := range cfg.Delays {
		b.setDelay(name, d)
	}
	b.rnd = rand.NewPCG(b.cfg.Seed, 0xa11ce)
	b.st = newState()
	return b
}

// Open opens a Client on the backend. With Config.Login, the Options must have
// those Credentials.
func (b *Backend) Open(ctx context.Context, o *hypervisor.Options) (*hypervisor.Client, error) {
	var got *hypervisor.Credentials
	if o != nil {
		got = o.Credentials
	}
	if err := b.admit(got); err != nil {
		return nil, err
	}
	return hypervisor.New(ctx, b.Driver(), o)
}

// admit checks the login of a new Client.
func (b *Backend) admit(got *hypervisor.Credentials) error {
	if want := b.cfg.Login; want == nil || got != nil && *got == *want {
		return nil
	}
	return &hypervisor.Error{Op: op.ClientOpen, Object: hypervisor.Ref{Kind: hypervisor.ObjectClient, ID: b.cfg.Name}, Kind: hypervisor.ErrUnauthenticated,
		Unsent: true, Err: errors.New("wrong user name or password")}
}

// Driver opens a session for callers who want the driver itself, for example
// to wrap it.
func (b *Backend) Driver() *Driver {
	return &Driver{b: b, done: make(chan struct{})}
}

// SetDelay changes the time that tasks of an operation take from now on. The
// name may be a pattern ("vm.*"); "*" applies to all operations that no other
// call names. It panics if the name matches no operation with a task.
func (b *Backend) SetDelay(name op.Name, d time.Duration) {
	if err := takesTime(name); err != nil {
		panic(fmt.Sprintf("fake: SetDelay: %v", err))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.setDelay(name, d)
}

func (b *Backend) now() time.Time {
	if b.cfg.Clock != nil {
		return b.cfg.Clock()
	}
	return time.Now()
}

// uuid makes an ID in the form of a random UUID (RFC 9562, version 4).
func (b *Backend) uuid() string {
	x, y := b.rnd.Uint64(), b.rnd.Uint64()
	return fmt.Sprintf("%08x-%04x-4%03x-%04x-%012x", x>>32, x>>16&0xffff, x&0xfff, 0x8000|y>>48&0x3fff, y&0xffffffffffff)
}

// number makes a short ID that no other object has.
func (b *Backend) number(prefix string) string {
	b.st.Serial++
	return fmt.Sprintf("%s-%d", prefix, b.st.Serial)
}
