package hyperv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/endpoint"
	"github.com/anyvisor/anyvisor/internal/session"
)

// driver implements hypervisor.Driver and the optional interfaces.
type driver struct {
	cfg   Config
	poll  cim.Poll
	hosts []*host
	group hypervisor.TaskGroup
	nonce string // begins the random part of this Client's task IDs
	// closed ends with Close.
	closed context.Context
	stop   context.CancelFunc

	mu    sync.Mutex
	home  map[hypervisor.VMID]*host // the host that had a machine last
	locks map[hypervisor.VMID]chan struct{}
}

// host is one Hyper-V host of the Client.
type host struct {
	id   hypervisor.HostID
	cfg  *Config
	link *session.Keeper[cim.Session]

	// These do not change while connected. They are set when link has a
	// session.
	name    string // computer name
	sku     uint32 // Win32_OperatingSystem.OperatingSystemSKU
	version string // of Windows: "10.0.20348"
	caption string
	vhdPath string // default directory for disk images
	vmPath  string // default directory for machines
	cluster string // the failover cluster that the host belongs to, or ""
	csvRoot string // the folder of its shared volumes, with a backslash at the end, or ""
}

func connect(ctx context.Context, cfg Config, o *hypervisor.Options) (*driver, error) {
	endpoint.Login(o, &cfg.Username, &cfg.Password)
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg.refusals = session.NewRefusals(cfg.Auth == AuthKerberos || strings.ContainsAny(cfg.Username, `\@`))
	d := &driver{cfg: cfg, nonce: randomHex(4), poll: cim.DefaultPoll, home: map[hypervisor.VMID]*host{}, locks: map[hypervisor.VMID]chan struct{}{}}
	d.closed, d.stop = context.WithCancel(context.Background())
	if cfg.PollFirst > 0 {
		d.poll.First = cfg.PollFirst
	}
	if cfg.PollLast > 0 {
		d.poll.Last = cfg.PollLast
	}
	for _, h := range cfg.Hosts {
		d.hosts = append(d.hosts, newHost(hypervisor.HostID(h), &d.cfg))
	}
	errs := make([]error, len(d.hosts))
	var g errgroup.Group
	g.SetLimit(8)
	for i, h := range d.hosts {
		g.Go(func() error { _, errs[i] = h.session(ctx); return nil })
	}
	_ = g.Wait()
	for _, err := range errs {
		if err == nil {
			return d, nil
		}
	}
	d.Close()
	err := errs[0]
	return nil, &hypervisor.Error{Object: d.hosts[0].id.Ref(), Kind: d.ErrorKind(err), Unsent: true, Err: err}
}

// dialLimit bounds making a session with its first queries.
const dialLimit = time.Minute

func newHost(id hypervisor.HostID, cfg *Config) *host {
	h := &host{id: id, cfg: cfg}
	h.link = session.New(dialLimit, h.dial, func(s cim.Session) { s.Close() })
	return h
}

// session returns the connection to the host, and makes one if there is none.
func (h *host) session(ctx context.Context) (cim.Session, error) {
	s, err := h.link.Get(ctx)
	var late *session.LimitError
	switch {
	case errors.Is(err, session.ErrClosed):
		err = cim.ErrClosed
	case errors.As(err, &late):
		err = &hypervisor.Error{Kind: hypervisor.ErrUnavailable, Object: h.id.Ref(), Unsent: true, Err: err}
	}
	return s, err
}

func (h *host) dial(ctx context.Context) (cim.Session, error) {
	s, err := h.cfg.session(ctx, string(h.id))
	if err != nil {
		return nil, err
	}
	if err := h.learn(ctx, s); err != nil {
		s.Close()
		return nil, h.advise(ctx, err)
	}
	return s, nil
}

// up reports whether the host is connected. It makes no call.
func (h *host) up() bool {
	_, ok := h.link.Peek()
	return ok
}

// learn reads what stays the same. The first query finds out whether this is
// a Hyper-V host at all.
func (h *host) learn(ctx context.Context, s cim.Session) error {
	svc, err := cim.First(s.Query(ctx, cim.Virtualization, cim.Select("Msvm_VirtualSystemManagementServiceSettingData",
		[]string{"InstanceID", "DefaultVirtualHardDiskPath", "DefaultExternalDataRoot"})), "the management service's settings")
	if err != nil {
		var ce *cim.Error
		if errors.As(err, &ce) && ce.HResult == cim.WBEMInvalidNamespace { // a class alone may be missing for another reason
			return hypervisor.Errorf(hypervisor.ErrUnsupported, h.id.Ref(), "Hyper-V is not installed on this host (no namespace root\\virtualization\\v2): %w", err)
		}
		if ce != nil && ce.HResult == cim.WBEMNotFound { // the class is there, and shows nothing to this account
			return hypervisor.Errorf(hypervisor.ErrPermission, h.id.Ref(), "the host shows nothing of Hyper-V to this account: make it a member of Hyper-V Administrators, or an administrator of the host: %w", err)
		}
		return err
	}
	h.vhdPath, h.vmPath = strings.TrimRight(svc.Str("DefaultVirtualHardDiskPath"), `\`), strings.TrimRight(svc.Str("DefaultExternalDataRoot"), `\`)
	os, err := cim.First(s.Query(ctx, cim.CIMV2, cim.Select("Win32_OperatingSystem",
		[]string{"CSName", "Caption", "Version", "OperatingSystemSKU"})), "the operating system")
	if err != nil {
		return err
	}
	cluster, err := cim.First(s.Query(ctx, cim.MSCluster, cim.Select("MSCluster_Cluster", []string{"Name", "SharedVolumesRoot"})), "the cluster")
	if err != nil && !unclustered(err) {
		return err
	}
	if err == nil {
		h.cluster = cluster.Str("Name")
		h.csvRoot = strings.TrimRight(cmp.Or(cluster.Str("SharedVolumesRoot"), defaultCSVRoot), `\`) + `\`
	}
	h.name, h.caption, h.version, h.sku = os.Str("CSName"), strings.TrimSpace(os.Str("Caption")), os.Str("Version"), uint32(os.Uint("OperatingSystemSKU"))
	return nil
}

// Describe implements hypervisor.Driver.
func (d *driver) Describe() hypervisor.Description {
	out := hypervisor.Description{Driver: "hyperv", Product: "Microsoft Hyper-V", Endpoint: string(d.cfg.Transport) + "://" + strings.Join(d.cfg.Hosts, ",")}
	for _, h := range d.hosts {
		if out.Version == "" && h.up() {
			out.Version = h.version
		}
	}
	return out
}

// Close implements hypervisor.Driver. There is no logout: a session ends with
// its connections.
func (d *driver) Close() error {
	d.stop()
	err := d.group.Close()
	ctx, stop := context.WithTimeout(context.Background(), time.Second)
	defer stop()
	var wg sync.WaitGroup
	for _, h := range d.hosts {
		wg.Go(func() {
			if s, ok := h.link.Close(ctx); ok {
				s.Close()
			}
		})
	}
	wg.Wait()
	return err
}

// host finds a host by its ID or by its computer name.
func (d *driver) host(id hypervisor.HostID) (*host, error) {
	for _, h := range d.hosts {
		if strings.EqualFold(string(h.id), string(id)) {
			return h, nil
		}
	}
	for _, h := range d.hosts {
		if h.up() && strings.EqualFold(h.name, string(id)) {
			return h, nil
		}
	}
	return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such host in this client")
}

// each runs f for every host in parallel, eight at a time. The first error
// ends it.
func (d *driver) each(ctx context.Context, hosts []*host, f func(ctx context.Context, i int, h *host, s cim.Session) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, h := range hosts {
		g.Go(func() error {
			s, err := h.session(ctx)
			if err != nil {
				return fmt.Errorf("host %s: %w", h.id, err)
			}
			return f(ctx, i, h, s)
		})
	}
	return g.Wait()
}

var guid = regexp.MustCompile(`^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$`)

// lock serializes work of this Client on one machine that needs more than one
// step, such as a setting that is changed for the duration of a snapshot.
func (d *driver) lock(ctx context.Context, id hypervisor.VMID) (unlock func(), err error) {
	d.mu.Lock()
	l := d.locks[id]
	if l == nil {
		l = make(chan struct{}, 1)
		d.locks[id] = l
	}
	d.mu.Unlock()
	select {
	case l <- struct{}{}:
		return func() { <-l }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (d *driver) remember(id hypervisor.VMID, h *host) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.home[id] = h
}

func (d *driver) forget(id hypervisor.VMID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.home, id)
	delete(d.locks, id)
}

// References to the services, of which every host has one. Their key values
// are fixed by the provider; SystemName is the computer's name.
func (h *host) service(class, name string) cim.Ref {
	r := cim.NewRef(class, "CreationClassName", class, "Name", name, "SystemCreationClassName", "Msvm_ComputerSystem", "SystemName", h.name)
	r.Server = h.name
	return r
}

func (h *host) management() cim.Ref { return h.service("Msvm_VirtualSystemManagementService", "vmms") }
func (h *host) snapshots() cim.Ref {
	return h.service("Msvm_VirtualSystemSnapshotService", "vssnapsvc")
}
func (h *host) migration() cim.Ref {
	return h.service("Msvm_VirtualSystemMigrationService", "migrationwmi")
}

// images returns the image service. Its key is a display name, so it is
// looked up.
func (h *host) images(ctx context.Context, s cim.Session) (cim.Ref, error) {
	return h.find(ctx, s, "Msvm_ImageManagementService")
}

func (h *host) find(ctx context.Context, s cim.Session, class string) (cim.Ref, error) {
	i, err := cim.First(s.Query(ctx, cim.Virtualization, cim.Select(class, nil)), class)
	if err != nil {
		return cim.Ref{}, err
	}
	i.Class = class
	return i.Self(h.name), nil
}
