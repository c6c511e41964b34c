package vspheresim

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/simulator/vpx"
	"github.com/vmware/govmomi/vim25/types"
	// The REST endpoints (tags), the lookup and token services, and storage policies of a vCenter.
	_ "github.com/vmware/govmomi/lookup/simulator"
	_ "github.com/vmware/govmomi/pbm/simulator"
	_ "github.com/vmware/govmomi/ssoadmin/simulator"
	_ "github.com/vmware/govmomi/sts/simulator"
	_ "github.com/vmware/govmomi/vapi/simulator"
)

// Sim is a running simulator. Its methods may be used from many goroutines.
type Sim struct {
	cfg      Config
	noLogins atomic.Bool // of RefuseLogins
	model    *simulator.Model
	server   *simulator.Server
	front    *front

	// mu makes every change of the simulated world one step, and every reading of it too. Code that holds it may take the lock of an object, and
	// never the other way round.
	mu       sync.RWMutex
	busy     map[types.ManagedObjectReference]*jobSet
	cancels  map[types.ManagedObjectReference]context.CancelFunc
	vms      map[types.ManagedObjectReference]*vmState
	hosts    map[types.ManagedObjectReference]*hostState
	loose    map[string]looseDisk // disks that no machine has, by the key of their file
	thin     map[string]bool      // whether a disk of the disk manager's is thin, likewise
	blocks   map[string]string    // content written to disk files, likewise
	issued   map[string]samlToken // by assertion
	tokens   map[string]guestFile // transfers of files of guests
	redirect func(*url.URL)
	parked   map[string]*parkedVM // machines that were unregistered, by the key of their vmx file
	fronts   map[string]methodSet
	nextMAC  atomic.Uint32
	chain    int32 // event chains, atomic

	setMu      sync.Mutex
	taskDelays map[string]time.Duration

	dir     string   // of all files
	root    *os.Root // dir, which paths from clients do not leave
	unlock  func()   // releases the folder
	hub     *hub
	waiter  *taskWaiter
	ctx     context.Context
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	closing sync.Once
}

// Start starts a simulator on a free port of the loopback interface. Close ends it.
func Start(cfg Config) (*Sim, error) {
	cfg = cfg.withDefaults()
	if _, ok := releases[cfg.Version]; !ok {
		return nil, fmt.Errorf("vspheresim: unknown version %q: there are 6.5, 6.7, 7.0 and 8.0", cfg.Version)
	}
	var m *simulator.Model
	switch cfg.Model {
	case VCenter:
		m = simulator.VPX()
		m.Datacenter, m.Cluster, m.ClusterHost = cfg.Datacenters, cfg.Clusters, cfg.HostsPerCluster
		m.Host, m.Pool = cfg.StandaloneHosts, cfg.PoolsPerCluster
		m.ServiceContent = vpx.ServiceContent
		(&Sim{cfg: cfg}).setAbout(&m.ServiceContent.About, "VMware vCenter Server")
	case ESXi:
		m = simulator.ESX()
		(&Sim{cfg: cfg}).setAbout(&m.ServiceContent.About, "VMware ESXi")
	default:
		return nil, fmt.Errorf("vspheresim: unknown model %d", cfg.Model)
	}
	m.ServiceContent.About.InstanceUuid = uuid.NewString()
	if _, ok := editionFeatures[cfg.Edition]; !ok {
		return nil, fmt.Errorf("vspheresim: unknown edition %q", cfg.Edition)
	}
	// First an empty inventory, whose folder is locked before anything is in it.
	datacenters := m.Datacenter
	m.Datacenter, m.Datastore, m.Machine = 0, 0, 0
	if err := m.Create(); err != nil {
		return nil, fmt.Errorf("vspheresim: create the folder: %w", err)
	}
	m.Datacenter, m.Datastore = datacenters, cfg.Datastores

	s := &Sim{
		cfg: cfg, model: m,
		busy:       map[types.ManagedObjectReference]*jobSet{},
		cancels:    map[types.ManagedObjectReference]context.CancelFunc{},
		vms:        map[types.ManagedObjectReference]*vmState{},
		hosts:      map[types.ManagedObjectReference]*hostState{},
		loose:      map[string]looseDisk{},
		thin:       map[string]bool{},
		blocks:     map[string]string{},
		issued:     map[string]samlToken{},
		tokens:     map[string]guestFile{},
		parked:     map[string]*parkedVM{},
		taskDelays: map[string]time.Duration{},
	}
	if err := s.claim(); err != nil {
		m.Remove()
		return nil, err
	}
	if err := m.CreateInfrastructure(s.newContext()); err != nil {
		m.Remove()
		s.unlock()
		return nil, fmt.Errorf("vspheresim: create the inventory: %w", err)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.waiter = newTaskWaiter(s)
	s.hub = newHub(s)
	if err := s.furnish(); err != nil {
		m.Remove()
		s.unlock()
		return nil, err
	}
	s.installFronts()

	if cfg.TLS {
		m.Service.TLS = new(tls.Config)
	}
	m.Service.RegisterEndpoints = true
	m.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword(cfg.User, cfg.Password)}
	s.server = m.Service.NewServer()
	s.front = newFront(s, s.server.Config.Handler)
	s.server.Config.Handler = s.front
	for _, h := range s.allHosts() {
		s.mutate(s.newContext(), h, func() { h.Summary.Config.SslThumbprint = s.Thumbprint() })
	}
	if err := s.addOpaque(s.newContext()); err != nil {
		s.Close()
		return nil, err
	}
	s.tellNetworks(s.newContext())
	running.Store(s.server.URL.Host, s)
	return s, nil
}

// URL is the address of the SDK endpoint with user and password. The caller may change the returned value.
func (s *Sim) URL() *url.URL {
	u := *s.server.URL
	return &u
}

// Thumbprint returns the SHA-1 thumbprint of the server's certificate, or the empty string if Config.TLS is not set.
func (s *Sim) Thumbprint() string {
	if !s.cfg.TLS {
		return ""
	}
	return s.server.CertificateInfo().ThumbprintSHA1
}

// CertificateFile writes the certificate of the server to a file in the simulator's folder, which Close removes.
// It fails when Config.TLS is not set.
func (s *Sim) CertificateFile() (string, error) {
	if !s.cfg.TLS {
		return "", fmt.Errorf("vspheresim: the server has no certificate: Config.TLS is not set")
	}
	return s.writeCertificate()
}

// Close cuts what is still connected, ends every task, stops the server and removes its files.
func (s *Sim) Close() {
	s.closing.Do(func() {
		running.Delete(s.server.URL.Host)
		s.cancel()
		s.front.shutdown()
		s.server.CloseClientConnections()
		s.server.Close()
		s.tasks.Wait()
		s.model.Remove()
		s.unlock()
	})
}

// Registry is govmomi's registry of the simulated objects, for tests that must prepare or read something that no method here offers. Take the lock of
// an object (Registry.WithLock) to change it.
func (s *Sim) Registry() *simulator.Registry { return s.model.Service.Context.Map }

func (s *Sim) registry() *simulator.Registry { return s.model.Service.Context.Map }

// newContext makes the identity under which locks are held; every concurrent piece of work needs its own.
func (s *Sim) newContext() *simulator.Context {
	c := *s.model.Service.Context
	return &c
}

// fork copies the context of a request for work that continues after the request.
func (s *Sim) fork(ctx *simulator.Context) *simulator.Context {
	c := *ctx
	c.Context = s.ctx
	return &c
}
