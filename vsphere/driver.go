package vsphere

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync"

	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
)

type ref = types.ManagedObjectReference

// driver implements hypervisor.Driver and all optional interfaces.
type driver struct {
	vc       *vim25.Client // its RoundTripper is session
	rt       *session
	session  *session
	owned    bool   // this driver made the session, and Close ends it
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
	folders folderBook
	// launched is used while the answer to another call is looked for.
	launched taskBook
	tokens   job.Tokens
	bases    baseBook
	chains   ownerBook
	rights   *rights
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
	d := &driver{views: map[string]view{}}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.session = newSession(vc.RoundTripper, login, d.ctx)
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
		return hypervisor.Errorf(hypervisor.ErrNotFound, hypervisor.Ref{Kind: hypervisor.ObjectPool, Name: datacenter}, "no such datacenter")
	case 1:
		d.root = found[0]
		d.mu.Lock()
		d.views = map[string]view{}
		d.mu.Unlock()
		return nil
	}
	return hypervisor.Errorf(hypervisor.ErrAmbiguous, hypervisor.Ref{Kind: hypervisor.ObjectPool, Name: datacenter},
		"%d datacenters have this name: give the path", len(found))
}

func (d *driver) isVC() bool { return d.vc.IsVC() }

func (d *driver) Describe() hypervisor.Description {
	a := d.vc.ServiceContent.About
	return hypervisor.Description{Driver: "vsphere", Product: a.Name, Version: a.Version, Endpoint: d.endpoint}
}

func (d *driver) ErrorKind(err error) hypervisor.Kind { return kindOf(err) }

func (d *driver) Close() error {
	d.mu.Lock()
	if d.closing {
		d.mu.Unlock()
		return nil
	}
	d.closing = true
	d.mu.Unlock()
	err := d.group.Close()
	d.cancel() // ends every call that is still under way
	d.background.Wait()
	ctx, stop := context.WithTimeout(context.Background(), logoutLimit)
	defer stop()
	_, up := d.session.link.Close(ctx)
	if d.owned && up {
		lerr := logout(ctx, d.vc)
		if kindOf(transportError(lerr)) != hypervisor.ErrUnavailable && ctx.Err() == nil { // otherwise no server has a session of this driver
			err = errors.Join(err, lerr)
		}
	}
	if d.owned {
		hangUp(d.vc.Client)
	}
	return err
}

// newID makes the ID of work that this package composes.
func newID(what string) hypervisor.TaskID {
	return hypervisor.TaskID("anyvisor-" + what + "-" + rand.Text())
}
