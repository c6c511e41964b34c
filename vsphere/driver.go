package vsphere

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	vimsession "github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

type ref = types.ManagedObjectReference

// driver implements hypervisor.Driver and all optional interfaces.
type driver struct {
	vc       *vim25.Client // its RoundTripper is session
	rt       *session
	session  *session
	owned    bool   // the session is ours, and ended by Close
	config   Config // as given to Open; zero with New
	endpoint string
	root     ref // a datacenter, or the root folder
	group    hypervisor.TaskGroup

	ctx        context.Context // ends with Close
	cancel     context.CancelFunc
	background sync.WaitGroup

	mu      sync.Mutex
	closing bool
	views   map[string]view
	pages   pageBook
	stores  map[ref]string // datastore names
	folders folderBook
	tokens  tokenBook
	rights  *rights
}

var _ interface {
	hypervisor.Driver
	hypervisor.Lifecycle
	hypervisor.Powerer
	hypervisor.Reconfigurer
	hypervisor.Labeler
	hypervisor.DiskAttacher
	hypervisor.NICAttacher
	hypervisor.Snapshotter
	hypervisor.Cloner
	hypervisor.Templater
	hypervisor.Migrator
	hypervisor.DeviceAssigner
	hypervisor.DevicePreparer
	hypervisor.HostLister
	hypervisor.Maintainer
	hypervisor.StorageManager
	hypervisor.DependencyLister
	hypervisor.NetworkLister
	hypervisor.Watcher
	hypervisor.GuestAgent
	hypervisor.Placer
	hypervisor.Protector
} = (*driver)(nil)

func newDriver(vc *vim25.Client, login func(context.Context) error) *driver {
	d := &driver{views: map[string]view{}, stores: map[ref]string{}}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.session = &session{next: vc.RoundTripper, login: login, closed: d.ctx, turn: make(chan struct{}, 1)}
	d.rt = d.session
	own := *vc
	own.RoundTripper = d.session
	d.vc = &own
	d.root = vc.ServiceContent.RootFolder
	return d
}

// begin finds the datacenter that the Client is limited to.
func (d *driver) begin(ctx context.Context, datacenter string) error {
	if datacenter == "" {
		return nil
	}
	list, err := d.viewAll(ctx, "Datacenter", []string{"name", "parent"})
	if err != nil {
		return err
	}
	if err := d.folders.load(ctx, d); err != nil {
		return err
	}
	var found []ref
	for _, o := range list {
		p := props(o)
		name := unescape(p.str("name"))
		path := strings.TrimPrefix(d.folders.path(p.ref("parent"))+"/"+name, "/")
		if name == datacenter || path == strings.Trim(datacenter, "/") {
			found = append(found, o.Obj)
		}
	}
	switch len(found) {
	case 0:
		return hypervisor.Errorf(hypervisor.KindNotFound, hypervisor.Ref{Kind: hypervisor.KindOfPool, Name: datacenter}, "no such datacenter")
	case 1:
		d.root = found[0]
		d.mu.Lock()
		d.views = map[string]view{}
		d.mu.Unlock()
		return nil
	}
	return hypervisor.Errorf(hypervisor.KindAmbiguous, hypervisor.Ref{Kind: hypervisor.KindOfPool, Name: datacenter},
		"%d datacenters have this name: give the path", len(found))
}

func (d *driver) isVC() bool { return d.vc.IsVC() }

func (d *driver) Describe() hypervisor.Description {
	a := d.vc.ServiceContent.About
	return hypervisor.Description{Driver: "vsphere", Product: a.Name, Version: a.Version, Endpoint: d.endpoint}
}

func (d *driver) ErrorKind(err error) hypervisor.Kind { return kindOf(err) }

// As gives out *govmomi.Client, *vim25.Client, *object.VirtualMachine and
// *object.HostSystem.
func (d *driver) As(on hypervisor.Ref, target any) bool {
	switch t := target.(type) {
	case **vim25.Client:
		*t = d.vc
		return on == hypervisor.Ref{}
	case **govmomi.Client:
		*t = &govmomi.Client{Client: d.vc, SessionManager: vimsession.NewManager(d.vc)}
		return on == hypervisor.Ref{}
	case **object.VirtualMachine:
		if on.ID == "" || on.Kind != hypervisor.KindOfVM && on.Kind != hypervisor.KindOfTemplate {
			return false
		}
		*t = object.NewVirtualMachine(d.vc, vmRef(hypervisor.VMID(on.ID)))
		return true
	case **object.HostSystem:
		if on.ID == "" || on.Kind != hypervisor.KindOfHost {
			return false
		}
		*t = object.NewHostSystem(d.vc, hostRef(hypervisor.HostID(on.ID)))
		return true
	}
	return false
}

func (d *driver) Close() error {
	d.mu.Lock()
	if d.closing {
		d.mu.Unlock()
		return nil
	}
	d.closing = true
	d.mu.Unlock()
	// Work that this package composes may undo itself, but not for ever.
	late := time.AfterFunc(5*time.Second, d.cancel)
	d.group.Close()
	late.Stop()
	d.cancel()
	d.background.Wait()
	var err error
	if d.owned {
		if d.session.loggedIn.Load() {
			ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
			defer stop()
			// A server that is gone has no session of ours to end.
			if err = logout(ctx, d.vc); kindOf(transportError(err)) == hypervisor.KindUnavailable || ctx.Err() != nil {
				err = nil
			}
		}
		d.vc.CloseIdleConnections()
	}
	return err
}

// newID makes the ID of work that this package composes.
func newID(what string) hypervisor.TaskID {
	return hypervisor.TaskID("anyvisor-" + what + "-" + rand.Text())
}
