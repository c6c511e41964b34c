//go:build cgo

package kvm

import (
	"context"
	"net/url"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/endpoint"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// driver is one Client's view of its hosts.
type driver struct {
	*fleet.Fleet
	cfg   Config
	files map[*fleet.Host]Sysfs
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

// platform is QEMU's part of what the shared fleet code needs.
var platform = fleet.Platform{
	Name: "kvm", Product: "QEMU/KVM through libvirt", ReadFacts: libvirtx.ReadFacts,
	OSType: libvirtxml.DomainOSType{Type: "hvm"}, MACPrefix: "52:54:00", NICModel: "virtio",
	Networks: userNetwork, AddDisk: addDisk, Fits: fits, Resize: resize,
	Passthrough: passthrough, Suspend: suspend, Reset: reset, Reboot: reboot, Shutdown: shutdown,
	Undefine: libvirt.DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.DOMAIN_UNDEFINE_SNAPSHOTS_METADATA |
		libvirt.DOMAIN_UNDEFINE_CHECKPOINTS_METADATA | libvirt.DOMAIN_UNDEFINE_NVRAM,
	ReadSnapshots: readSnapshots, EndJobs: endJobs, MergeBack: mergeBack,
}

// New makes a Client from connections to libvirt that the caller still owns:
// they are not closed, and not dialled again when they break.
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
	d := &driver{Fleet: f, cfg: cfg, files: map[*fleet.Host]Sysfs{}}
	for _, h := range f.Members {
		h.Peer, d.files[h] = peerOf(cfg, h.URI), sysfsOf(cfg, h.URI)
	}
	return d, nil
}

// peerOf returns how other hosts reach this one: as configured, or like this
// program does if that is over a network.
func peerOf(cfg Config, uri string) fleet.Peer {
	if p, ok := cfg.Peers[uri]; ok {
		return fleet.Peer(p)
	}
	u, err := url.Parse(uri)
	if err != nil || u.Hostname() == "" {
		return fleet.Peer{}
	}
	return fleet.Peer{URI: uri, Migrate: "tcp://" + u.Hostname()}
}
