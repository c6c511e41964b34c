package xapisim

import (
	"container/list"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anyvisor/anyvisor/xen/internal/xapidata"
)

// Sim is one simulated pool. Its methods may be used from any goroutine.
type Sim struct {
	cfg      Config
	noLogins atomic.Bool // of RefuseLogins
	model    *xapidata.Model
	blank    map[string][]any
	relation map[string]map[int]relationEnd
	handlers map[string]handler

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	cert              certificate
	mu                sync.Mutex
	tables            map[string]*table
	gen               uint64
	counted           uint64        // gen when the present coordinator began to count
	changed           chan struct{} // closed at the next change; nil while nobody waits
	pool              *object
	nodes             []*node
	master            int
	calls             map[string]int
	strange           map[string]int // calls of an unknown form
	faults            []*faultState
	holds             []*Hold
	durations         map[string]time.Duration
	running           map[string]*call // by task reference
	disks             map[string]*layer
	memory            map[string]string // what is in a VM's RAM, by VM or suspend VDI reference
	layers            int
	localLogins       map[string]bool
	registered        map[string]*registration // by session
	closed            bool
	domid             int64
	reserved          map[string]string // host by VM, while it starts
	full              map[string]bool   // SRs without room
	blocked           map[string]int64  // invisible use of room in an SR
	bulk              bool
	gpu               gpuState
	storageMigrations int
	copies            int                 // that were cancelled
	collecting        map[string]bool     // SRs whose garbage collector is going to start
	unknown           map[string]bool     // messages that this server is too old for
	unseen            map[string][]string // hosts by VM, with domains that the pool can't see; both by uuid
	metadata          map[string][]any    // a VM's record when its snapshot was taken, by snapshot
}

// node is one host's web server.
type node struct {
	host string // reference
	addr string // the IP address that the pool knows it by
	web  webServer
}

// Start makes a pool and serves it until Close.
func Start(cfg Config) (*Sim, error) {
	cfg = cfg.withDefaults()
	s := &Sim{
		cfg: cfg, model: xapidata.Load(), blank: map[string][]any{}, relation: map[string]map[int]relationEnd{},
		tables: map[string]*table{}, calls: map[string]int{}, strange: map[string]int{}, durations: maps.Clone(cfg.Durations), running: map[string]*call{},
		disks: map[string]*layer{}, memory: map[string]string{}, handlers: map[string]handler{}, reserved: map[string]string{},
		full: map[string]bool{}, metadata: map[string][]any{}, blocked: map[string]int64{}, localLogins: map[string]bool{}, registered: map[string]*registration{},
		unseen: map[string][]string{}, collecting: map[string]bool{}, unknown: map[string]bool{},
	}
	if s.durations == nil {
		s.durations = map[string]time.Duration{}
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for _, h := range []map[string]handler{
		sessionHandlers, taskHandlers, eventHandlers, nextHandlers, refusedHandlers, vtpmHandlers, pifHandlers,
		powerHandlers, vmHandlers, cloneHandlers, memoryHandlers, placementHandlers,
		migrateHandlers, haHandlers, wlbHandlers, vdiHandlers, srHandlers, vbdHandlers, vifHandlers, gpuHandlers, hostHandlers, poolHandlers,
	} {
		maps.Copy(s.handlers, h)
	}
	for _, c := range s.model.Classes {
		s.tables[c.Name] = &table{class: c, byRef: map[string]*object{}, byUUID: map[string]*object{}, recent: list.New(), hidden: map[int]bool{}}
		row := make([]any, len(c.Fields))
		for i := range c.Fields {
			row[i] = parseDefault(s.model, &c.Fields[i])
		}
		s.blank[c.Name] = row
		s.relation[c.Name] = map[int]relationEnd{}
	}
	for from, to := range relations {
		if to == "" {
			continue
		}
		fc, ff, _ := strings.Cut(from, ".")
		tc, tf, _ := strings.Cut(to, ".")
		i, j := s.model.Class(fc).FieldIndex(ff), s.model.Class(tc).FieldIndex(tf)
		if i < 0 || j < 0 {
			return nil, fmt.Errorf("xapisim: no relation %s to %s", from, to)
		}
		s.relation[fc][i] = relationEnd{tc, j}
	}
	for name := range s.handlers {
		if s.model.Message(name) == nil {
			return nil, fmt.Errorf("xapisim: %s is not in the data model", name)
		}
	}
	s.forget()
	if err := s.listen(); err != nil {
		s.Close()
		return nil, err
	}
	s.mu.Lock()
	err := s.build()
	s.mu.Unlock()
	if err != nil {
		s.Close()
		return nil, err
	}
	register(s)
	for _, n := range s.nodes {
		s.wg.Go(func() { n.web.serve() })
	}
	return s, nil
}

// Close stops the servers, ends every wait and every running task, and returns when nothing is left running.
func (s *Sim) Close() {
	s.mu.Lock()
	s.closed = true
	nodes := s.nodes
	s.mu.Unlock()
	unregister(s)
	s.cancel()
	for _, n := range nodes {
		n.web.close()
	}
	s.wg.Wait()
}

// URL is the coordinator's address, https://host:port. It changes with Failover.
func (s *Sim) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return "https://" + s.nodes[s.master].web.address()
}

// URLs returns every host's address, in the order of Config.
func (s *Sim) URLs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, n := range s.nodes {
		out = append(out, "https://"+n.web.address())
	}
	return out
}

// Thumbprint is the SHA-256 of the server certificate in lower-case hex.
func (s *Sim) Thumbprint() string { return s.cert.thumbprint }

// CertPool trusts the server's certificate.
func (s *Sim) CertPool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(s.cert.leaf)
	return p
}

// CertPEM returns the server's certificate, for clients that read a file (SSL_CERT_FILE).
func (s *Sim) CertPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cert.leaf.Raw})
}

// User returns the user for session.login_with_password.
func (s *Sim) User() string { return s.cfg.User }

// Password returns the password of User.
func (s *Sim) Password() string { return s.cfg.Password }

// wake wakes all that wait for a change.
func (s *Sim) wake() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// wait returns a channel that is closed at the next change.
func (s *Sim) wait() <-chan struct{} {
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}
