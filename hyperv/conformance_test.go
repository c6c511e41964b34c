package hyperv

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
)

// sharedStore is reached by both hosts, so that machines can move.
const sharedStore = `c:\clusterstorage\volume1`

// site is a simulated site and how to reach it.
type site struct {
	sim    *hvsim.Sim
	config Config
	clock  *clock
}

// jobTime is how long the simulation's jobs take by its clock.
const jobTime = 5 * time.Millisecond

// clock is the simulation's. Making it slower makes jobs take longer.
type clock struct {
	mu   sync.Mutex
	real time.Time // when the rate was set
	sim  time.Time // and the simulated time then
	rate float64
}

func newClock() *clock {
	now := time.Now()
	return &clock{real: now, sim: now, rate: 1}
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sim.Add(time.Duration(float64(time.Since(c.real)) * c.rate))
}

// slow makes jobs take d, or their usual time if d is 0.
func (c *clock) slow(d time.Duration) {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.real, c.sim, c.rate = time.Now(), now, 1
	if d > 0 {
		c.rate = float64(jobTime) / float64(d)
	}
}

// startSite starts a simulation whose hosts are reached over WS-Management
// with HTTPS.
func startSite(t interface {
	Fatalf(format string, args ...any)
	Cleanup(func())
}, c hvsim.Config) *site {
	k := newClock()
	c.Clock, c.JobTime = k.now, jobTime
	sim, err := hvsim.Start(c)
	if err != nil {
		t.Fatalf("hvsim: %v", err)
	}
	t.Cleanup(func() { sim.Close() })
	return &site{sim, wsmanConfig(sim), k}
}

func wsmanConfig(sim *hvsim.Sim) Config {
	cfg := Config{Username: "Administrator", Password: hypervisor.Secret(sim.Password()), tls: &tls.Config{RootCAs: sim.CertPool(), ServerName: "localhost"},
		PollFirst: time.Millisecond, PollLast: 20 * time.Millisecond, EventInterval: 50 * time.Millisecond}
	for _, h := range sim.Hosts() {
		cfg.Hosts = append(cfg.Hosts, hostPort(h.URL()))
	}
	return cfg
}

func hostPort(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u.Host
}

func (s *site) open(ctx context.Context) (*hypervisor.Client, error) {
	return s.openWith(ctx, s.config, &hypervisor.Options{})
}

// openWith opens a Client as Open does.
func (s *site) openWith(ctx context.Context, cfg Config, o *hypervisor.Options) (*hypervisor.Client, error) {
	d, err := connect(ctx, cfg, o)
	if err != nil { // in the form that users get
		return Open(ctx, cfg, o)
	}
	c, err := hypervisor.New(ctx, hypervisortest.Wrap(ctx, d), o)
	if err != nil {
		_ = d.Close()
	}
	return c, err
}

// harness runs the suite on a site of two hosts with GPUs, and a third one to
// migrate to.
func harness(label string, start func(t hypervisortest.T, c hvsim.Config) *site) hypervisortest.Harness {
	return hypervisortest.Harness{
		Driver: "hyperv", Rung: hypervisortest.Simulator, Label: label, Empty: untold, Refused: unheard,
		NotYet: map[string]string{"contexts": "TestContexts runs it, over WS-Management"},
		New: func(t hypervisortest.T) *hypervisortest.Backend {
			s := start(t, conformanceSite())
			// The third host is a domain of its own, to migrate to.
			other := s.config
			other.Hosts, s.config.Hosts = s.config.Hosts[2:], s.config.Hosts[:2]
			c, err := s.open(t.Context())
			if err != nil {
				t.Fatalf("Open: %v", err)
			}
			oc, err := s.openWith(t.Context(), other, &hypervisor.Options{})
			if err != nil {
				t.Fatalf("Open: %v", err)
			}
			t.Cleanup(func() { oc.Close() })
			if err := dismountAll(t.Context(), c, "25b6"); err != nil {
				t.Fatalf("%v", err)
			}
			b := s.backend(t, c)
			b.Other = oc
			if s.config.Username != "" { // COM to the own host takes no login
				b.Credentials = &hypervisor.Credentials{Username: s.config.Username, Password: s.config.Password}
			}
			return b
		},
	}
}

// dismountAll makes the devices of a product assignable.
func dismountAll(ctx context.Context, c *hypervisor.Client, product string) error {
	yes := true
	for d, err := range c.Devices(ctx, &hypervisor.DeviceFilter{Product: product}) {
		if err != nil {
			return err
		}
		if _, err := c.PrepareDevice(ctx, d.ID, hypervisor.DevicePreparation{Passthrough: &yes}).Wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

func conformanceSite() hvsim.Config {
	gpu := func(name string, product uint16, counts ...uint16) hvsim.GPU {
		return hvsim.GPU{Device: hvsim.Device{Name: name, Vendor: 0x10DE, Product: product}, PartitionCounts: counts}
	}
	h := hvsim.HostConfig{Build: 20348, GPUs: []hvsim.GPU{gpu("NVIDIA A2", 0x25B6), gpu("NVIDIA A16", 0x2236, 1, 2, 4)}}
	return hvsim.Config{Hosts: []hvsim.HostConfig{h, h, {}}, Cluster: &hvsim.ClusterConfig{Volumes: []string{"Volume1"}}}
}

func (s *site) backend(t hypervisortest.T, c *hypervisor.Client) *hypervisortest.Backend {
	sim := s.sim
	host := s.config.Hosts[0]
	fact := func(id hypervisor.VMID) (hvsim.Fact, error) {
		for _, f := range sim.Machines() {
			if strings.EqualFold(f.ID, string(id)) {
				return f, nil
			}
		}
		return hvsim.Fact{}, fmt.Errorf("%w: %s", hypervisor.ErrNotFound, id)
	}
	const iso = `C:\ClusterStorage\Volume1\iso\install.iso`
	sim.Host(0).AddFile(iso, 1<<20)
	b := &hypervisortest.Backend{
		Client: c, Reopen: s.open, ISO: iso,
		Open: func(ctx context.Context, o *hypervisor.Options) (*hypervisor.Client, error) {
			return s.openWith(ctx, s.config, o)
		},
		AbsentVM: "00000000-0000-4000-8000-00000000DEAD", EventWait: 10 * time.Second,
		Spec: func(name string) hypervisor.VMSpec {
			return hypervisor.VMSpec{Name: name, MemoryBytes: 512 * hypervisor.MiB, Disks: []hypervisor.DiskSpec{{SizeBytes: hypervisor.GiB}},
				NICs: []hypervisor.NICSpec{{}}, Placement: hypervisor.Placement{Host: hypervisor.HostID(host), Datastore: sharedStore}}
		},
		Booted: func(ctx context.Context, id hypervisor.VMID) error {
			g := hvsim.Guest{FQDN: "guest.example.org", OSName: "Windows Server 2022 Datacenter", OSVersion: "10.0.20348", IPv4: []string{"192.0.2.9"}}
			if err := sim.SetGuest(string(id), g); err != nil {
				return err
			}
			return sim.WriteMemory(string(id), "boot", "1")
		},
		WriteDisk: func(_ context.Context, id hypervisor.VMID, content string) error {
			f, err := fact(id)
			if err != nil {
				return err
			}
			return s.host(f.Host).WriteDisk(f.Disks[0], "content", content)
		},
		ReadDisk: func(_ context.Context, id hypervisor.VMID) (string, error) {
			f, err := fact(id)
			if err != nil {
				return "", err
			}
			return s.host(f.Host).ReadDisk(f.Disks[0])["content"], nil
		},
		Uptime: func(_ context.Context, id hypervisor.VMID) (int, error) {
			// The guest's memory holds a counter that each reading moves on.
			m := sim.Memory(string(id))
			if m == nil {
				return 0, fmt.Errorf("machine %s has no memory", id)
			}
			n, _ := strconv.Atoi(m["uptime"])
			n++
			return n, sim.WriteMemory(string(id), "uptime", strconv.Itoa(n))
		},
		State: func(_ context.Context, id hypervisor.VMID) (hypervisor.PowerState, error) {
			f, err := fact(id)
			switch {
			case err != nil:
				return "", err
			case f.Planned:
				return hypervisor.StateOff, nil
			}
			s, ok := map[int]hypervisor.PowerState{2: hypervisor.StateRunning, 3: hypervisor.StateOff, 6: hypervisor.StateSuspended, 9: hypervisor.StatePaused}[f.State]
			if !ok {
				return hypervisor.StateUnknown, nil
			}
			return s, nil
		},
		Images: func(context.Context) ([]string, error) {
			var out []string
			for _, h := range sim.Hosts() {
				for _, p := range h.Files() {
					p = strings.ToLower(p)
					id := h.Name() + "|" + p
					if node.shared(p) {
						id = p
					}
					if f := formatOf(p); (f == "vhdx" || f == "vhd") && !slices.Contains(out, id) {
						out = append(out, id)
					}
				}
			}
			return out, nil
		},
		Device:  hypervisor.DeviceRequest{Vendor: "10de", Product: "25b6"},
		Profile: hypervisor.DeviceRequest{Profile: partitionProfile},
	}
	b.Hang = func(_ context.Context, id hypervisor.VMID) error {
		return sim.SetGuest(string(id), hvsim.Guest{IgnoresShutdown: true})
	}
	b.Tuned = func(_ context.Context, id hypervisor.VMID) (o hypervisor.MigrateOptions, err error) {
		o.Compress, err = sim.Compressed(string(id))
		return o, err
	}
	b.Replicate = s.replicate
	b.Foreign = s.foreignCases(t)
	b.Slow = s.clock.slow
	return b
}

// replicate has a machine say what the suite wants to read, by one of the
// values that mean it.
func (s *site) replicate(_ context.Context, id hypervisor.VMID, r hypervisor.ReplicationInfo) error {
	return s.sim.SetReplication(string(id), hvsim.Replication{
		State: map[hypervisor.ReplicationState]uint16{hypervisor.ReplicationInitial: 2, hypervisor.ReplicationActive: 3, hypervisor.ReplicationFailedOver: 5, hypervisor.ReplicationSuspended: 7,
			hypervisor.ReplicationError: 8, hypervisor.ReplicationResync: 10, hypervisor.ReplicationFailingOver: 12}[r.State],
		Mode:   map[hypervisor.ReplicationRole]uint16{hypervisor.RolePrimary: 1, hypervisor.RoleReplica: 2, hypervisor.RoleTestReplica: 3, hypervisor.RoleExtendedReplica: 4}[r.Role],
		Health: map[hypervisor.Health]uint16{hypervisor.HealthOK: 1, hypervisor.HealthWarning: 2, hypervisor.HealthCritical: 3}[r.Health],
		Last:   r.LastAt})
}

func (s *site) host(name string) *hvsim.Host {
	for _, h := range s.sim.Hosts() {
		if h.Name() == name {
			return h
		}
	}
	return nil
}

// TestConformanceJobs: every method that may start a job starts one, as a busy
// host does.
func TestConformanceJobs(t *testing.T) {
	h := harness("jobs", func(t hypervisortest.T, c hvsim.Config) *site {
		c.AllJobs = true
		return startSite(t, c)
	})
	h.Only = []string{"inventory", "lifecycle", "power", "reconfigure", "disks", "snapshots", "clones", "templates", "migration", "devices", "tasks", "cancel"}
	hypervisortest.Run(t, h)
}

func TestConformance(t *testing.T) {
	hypervisortest.Run(t, harness("WS-Man", func(t hypervisortest.T, c hvsim.Config) *site { return startSite(t, c) }))
}
