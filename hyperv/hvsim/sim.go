package hvsim

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jcmturner/gokrb5/v8/keytab"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/krbd"
)

// Sim is a running simulation. Its methods may be called from any goroutine.
type Sim struct {
	cfg      Config
	noLogins atomic.Bool // of RefuseLogins

	mu      sync.Mutex // guards everything below and all hosts
	hosts   []*Host
	skew    time.Duration
	pending []*job // unfinished
	retired []*job // finished and still readable, oldest first
	seq     uint64
	shared  *disks // files that every host sees: cluster volumes and UNC paths
	cluster *cluster
	faults  []*Fault
	rand    *rand.Rand // for faults; the same in each run
	struck  int
	calls   map[string]int
	moves   map[string]*cimx.Instance // settings of the last migrations, by machine
	closed  bool
}

// Start builds the hosts and starts a WS-Management server for each on loopback addresses.
func Start(cfg Config) (*Sim, error) {
	cfg.fill()
	s := &Sim{cfg: cfg, shared: newDisks(), rand: rand.New(rand.NewPCG(1, 2)), calls: map[string]int{}, moves: map[string]*cimx.Instance{}}
	names := map[string]bool{}
	for n, hc := range cfg.Hosts {
		hc.fill(n)
		if names[strings.ToLower(hc.Name)] {
			return nil, fmt.Errorf("hvsim: two hosts are named %s", hc.Name)
		}
		names[strings.ToLower(hc.Name)] = true
		h := newHost(s, n, hc)
		s.hosts = append(s.hosts, h)
	}
	if cfg.Cluster != nil {
		s.cluster = newCluster(s, *cfg.Cluster)
	}
	if cfg.Keytab != "" {
		if _, err := keytab.Load(cfg.Keytab); err != nil {
			return nil, fmt.Errorf("hvsim: keytab: %w", err)
		}
		for _, h := range s.hosts {
			h.acceptor = &krbd.Acceptor{Keytab: cfg.Keytab, Now: s.clock}
		}
	}
	for _, h := range s.hosts {
		if err := h.listen(); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// Close stops the servers. The state can still be read.
func (s *Sim) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	hosts := s.hosts
	s.mu.Unlock()
	var errs []error
	for _, h := range hosts {
		errs = append(errs, h.unlisten())
	}
	return errors.Join(errs...)
}

// Password returns the password of the user Administrator, or "" if Config.Users has no such user.
func (s *Sim) Password() string { return s.cfg.Users["Administrator"] }

// Host returns the n-th host.
func (s *Sim) Host(n int) *Host { return s.hosts[n] }

// Hosts returns all hosts.
func (s *Sim) Hosts() []*Host { return append([]*Host(nil), s.hosts...) }

// hostByName finds a host by its name, with or without domain suffix, or nil if there is none. The caller holds s.mu.
func (s *Sim) hostByName(name string) *Host {
	short, _, _ := strings.Cut(name, ".")
	for _, h := range s.hosts {
		if strings.EqualFold(h.cfg.Name, name) || strings.EqualFold(h.cfg.Name, short) || h.cfg.MigrationAddr == name {
			return h
		}
	}
	return nil
}

// Advance moves the simulation's clock forward: jobs end, and finished jobs are removed.
func (s *Sim) Advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skew += d
	s.tick()
}

// now returns the simulated time. The caller holds s.mu.
func (s *Sim) now() time.Time { return s.cfg.Clock().Add(s.skew) }

func (s *Sim) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now()
}

// newID makes a GUID in the form that Hyper-V prints.
func (s *Sim) newID() string { return strings.ToUpper(uuid.NewString()) }

// count counts one call. The caller holds s.mu.
func (s *Sim) count(op, what string) { s.calls[op+" "+what]++ }

// Calls returns the number of calls by operation since the start or the last ResetCalls: "Query Msvm_ComputerSystem", "Get
// Msvm_ConcreteJob", "Invoke Msvm_ComputerSystem.RequestStateChange", and for the wire "HTTP Enumerate", "HTTP Pull", "HTTP Get",
// "HTTP Invoke".
func (s *Sim) Calls() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.calls)
}

// ResetCalls sets all counts to zero.
func (s *Sim) ResetCalls() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.calls)
}
