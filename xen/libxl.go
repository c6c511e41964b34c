package xen

import (
	"context"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/libxl"
)

func init() { hypervisor.Register("xen", libxl.OpenURL) }

// LibxlConfig says how to reach plain Xen hosts, for OpenLibxl. Hosts are
// libvirt URIs such as xen+ssh://root@h1/system.
type LibxlConfig = libxl.Config

// LibxlPeer is a plain Xen host as the other hosts see it.
type LibxlPeer = libxl.Peer

// OpenLibxl connects to one or several plain Xen hosts through libvirt's libxl
// driver, as one Client. It fails only if none answers; the others are listed
// as HostDown and tried again later.
//
// The URLs for [hypervisor.Open] are libvirt's, with several hosts between
// commas:
//
//	xen:///system                  this machine
//	xen+ssh://root@h1,h2/system    two hosts over SSH; tls and tcp likewise
//	xen://h1,h2/system             libvirt's default transport, TLS
//
// It needs libvirt 7.0 or newer at both ends, and a build with cgo and
// libvirt's headers; without cgo it fails as Unsupported with ReasonBuild.
//
// # How things are done
//
// A machine is a persistent domain; its ID is the domain's UUID. Domain-0 is
// none. VMSpec.Machine is "pvh" (the default with Boot), "pv" or "hvm" (the
// default without). A PVH machine needs Boot, a PV machine without Boot is
// started by pygrub from its disk. A datastore is a storage pool, and pools
// with one UUID on several hosts are one shared datastore. Labels and the
// token are in the domain's metadata.
//
// libvirt's Xen driver has no bulk statistics, so a listing takes three
// requests for a host and one for each machine (two if it runs); Full adds
// the storage pools and one look-up for each disk.
//
// A template is a domain whose definition can't start: it has an adapter on
// the network "anyvisor-template", which nobody defines, and 1 KiB of memory.
// xl does not know definitions, so it can't start one either.
//
// Suspend is libvirt's managed save. Reset is composed: the domain is
// destroyed and created anew. Rename is composed too: the definition is
// removed and made again under the new name, so that watchers of other
// processes see a deletion and a creation. There are no snapshots: libvirt's
// Xen driver has none, it restores saved RAM only onto the disks that it was
// saved with, and it merges no disks.
//
// A running PVH or HVM machine migrates live. A PV machine migrates live only
// where Xen has shadow paging, which Debian's is built without and libvirt
// does not tell: Mode Live is refused for it, and AutoMigrate moves it while
// it stands still, RAM and all. The host copies the disks of a machine that is
// off to another of its datastores.
//
// Host devices can be given to PV and HVM machines that are off; Xen has no
// passthrough for PVH, and needs an IOMMU for the others, of which libvirt does
// not tell. The control domain needs the module xen-pciback, and udevd: without
// it libvirt 9.0 was seen to lose a device that PrepareDevice took.
//
// As gives *libvirt.Connect for a Client of one host and for a Host, and
// *libvirt.Domain for a VM (Free it).
func OpenLibxl(ctx context.Context, cfg LibxlConfig, o *hypervisor.Options) (*hypervisor.Client, error) {
	return libxl.Open(ctx, cfg, o)
}
