//go:build cgo

package libxl

import (
	"context"
	"net/url"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/endpoint"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// driver is one Client's view of its hosts.
type driver struct {
	*fleet.Fleet
}

// The Fleet in internal/libvirtx/fleet implements these, in files with the
// same names as in other drivers; DependencyLister is in books.go.
var (
	_ hypervisor.HostLister       = (*driver)(nil)
	_ hypervisor.StorageManager   = (*driver)(nil)
	_ hypervisor.DependencyLister = (*driver)(nil)
	_ hypervisor.NetworkLister    = (*driver)(nil)
	_ hypervisor.NICAttacher      = (*driver)(nil)
	_ hypervisor.DiskAttacher     = (*driver)(nil) // except GrowDisk
	_ hypervisor.Templater        = (*driver)(nil)
	_ hypervisor.Powerer          = (*driver)(nil)
	_ hypervisor.Labeler          = (*driver)(nil)
	_ hypervisor.Watcher          = (*driver)(nil)
)

// platform is Xen's part of what the shared fleet code needs.
var platform = fleet.Platform{
	Name: "libxl", Product: "Xen through libvirt", ReadFacts: readFacts,
	OSType: libvirtxml.DomainOSType{Type: kinds[pv].osType, Machine: kinds[pv].machine}, MACPrefix: "00:16:3e",
	Networks: bridges, AddDisk: addDisk, Fits: fits, Resize: resize,
	Passthrough: passthrough, Suspend: suspend, Reset: reset, Reboot: reboot, Shutdown: shutdown,
	Undefine: libvirt.DOMAIN_UNDEFINE_MANAGED_SAVE,
}

// New makes a Client from connections to libvirt's libxl driver that the
// caller still owns: they are not closed, and not dialled again when they
// break.
func New(ctx context.Context, conns []*libvirt.Connect, o *hypervisor.Options) (*hypervisor.Client, error) {
	f, err := fleet.Wrap(ctx, platform, conns, o)
	if err != nil {
		return endpoint.Client(ctx, nil, err, "", o)
	}
	return hypervisor.New(ctx, &driver{Fleet: f}, o)
}

func open(ctx context.Context, cfg Config) (hypervisor.Driver, error) {
	f, err := fleet.Open(ctx, platform, cfg.Username, cfg.Password, cfg.Hosts)
	if err != nil {
		return nil, err
	}
	for _, h := range f.Members {
		h.Peer = peerOf(cfg, h.URI)
	}
	return &driver{Fleet: f}, nil
}

// peerOf returns how other hosts reach this one: as configured, or by the
// name by which this program reaches it. Without a configured URI this
// program drives migrations, so that hosts need no credentials for each
// other.
func peerOf(cfg Config, uri string) fleet.Peer {
	if p, ok := cfg.Peers[uri]; ok {
		return fleet.Peer(p)
	}
	u, err := url.Parse(uri)
	if err != nil || u.Hostname() == "" {
		return fleet.Peer{}
	}
	return fleet.Peer{Migrate: "tcp://" + u.Hostname()}
}
