//go:build cgo

package libxl

import (
	"context"
	"net/url"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// driver is one Client's view of its hosts.
type driver struct {
	*fleet.Fleet
}

// These are the Fleet's, in internal/libvirtx/fleet, under the file names that
// other drivers have; DependencyLister is in books.go.
var (
	_ hypervisor.HostLister       = (*driver)(nil)
	_ hypervisor.StorageManager   = (*driver)(nil)
	_ hypervisor.DependencyLister = (*driver)(nil)
	_ hypervisor.NetworkLister    = (*driver)(nil)
	_ hypervisor.NICAttacher      = (*driver)(nil)
	_ hypervisor.DiskAttacher     = (*driver)(nil) // but for GrowDisk
	_ hypervisor.Templater        = (*driver)(nil)
	_ hypervisor.Powerer          = (*driver)(nil)
	_ hypervisor.Labeler          = (*driver)(nil)
	_ hypervisor.Watcher          = (*driver)(nil)
)

// platform is what Xen has that QEMU has not, or has otherwise.
var platform = fleet.Platform{
	Name: "libxl", Product: "Xen through libvirt", ReadFacts: readFacts,
	OSType: libvirtxml.DomainOSType{Type: kinds[pv].osType, Machine: kinds[pv].machine}, MACPrefix: "00:16:3e",
	Networks: bridges, AddDisk: addDisk, Fits: fits, Resize: resize,
	Passthrough: passthrough, Suspend: suspend, Reset: reset, Reboot: reboot, Shutdown: shutdown,
	Undefine: libvirt.DOMAIN_UNDEFINE_MANAGED_SAVE,
}

// New makes a Client of connections that the caller goes on owning: they are
// not closed, and not dialled again when they break.
func New(conns ...*libvirt.Connect) (*hypervisor.Client, error) {
	f, err := fleet.Wrap(platform, conns...)
	if err != nil {
		return nil, err
	}
	return hypervisor.New(context.Background(), &driver{Fleet: f}, nil)
}

func open(ctx context.Context, cfg Config) (hypervisor.Driver, error) {
	f, err := fleet.Open(ctx, platform, cfg.Credentials, cfg.Hosts)
	if err != nil {
		return nil, err
	}
	for _, h := range f.Members {
		h.Peer = peerOf(cfg, h.URI)
	}
	return &driver{Fleet: f}, nil
}

// peerOf returns how other hosts reach this one: as configured, or by the name
// that this program reaches it by. Without a configured URI this program
// drives migrations, so that hosts need no credentials for each other.
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
