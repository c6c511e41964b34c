//go:build cgo

package fleet

import (
	"context"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Platform is the part of the shared code that differs between hypervisors.
type Platform struct {
	Name    string // of the driver; it begins the IDs of tasks
	Product string // for Describe
	// ReadFacts reads a host's facts with libvirtx.FactCalls requests.
	ReadFacts func(*libvirt.Connect) (*libvirtx.Facts, error)

	OSType    libvirtxml.DomainOSType // of a domain that only reserves its name
	MACPrefix string                  // three bytes
	NICModel  string                  // of adapters; empty leaves it to libvirt
	// Networks lists the networks besides libvirt's own. The first is for
	// adapters where libvirt has no network "default".
	Networks func(*libvirt.Connect, hypervisor.HostID) ([]hypervisor.NetworkInfo, error)
	// AddDisk adds a disk under a free target name.
	AddDisk func(x *libvirtxml.Domain, s hypervisor.DiskSpec, image, format string) (*libvirtxml.DomainDisk, error)
	// Fits refuses a machine that a host could never run, for reasons other
	// than too many CPUs and too much memory.
	Fits func(facts *libvirtx.Facts, on hypervisor.Ref, s hypervisor.VMSpec) error
	// Resize gives a clone the requested CPUs and memory; 0 leaves them
	// unchanged.
	Resize func(x *libvirtxml.Domain, cpus int, kib int64)
	// Undefine are the flags that remove everything that libvirt keeps for a
	// domain.
	Undefine libvirt.DomainUndefineFlagsValues

	// Passthrough reports whether a machine has a device of its host.
	Passthrough func(*libvirtxml.Domain) bool
	// Suspend and Reset act on a machine that is running or paused. The
	// others ask the guest of a running machine to reboot and to shut down.
	Suspend  func(*libvirt.Domain, hypervisor.VMID, hypervisor.PowerState) error
	Reset    func(*libvirt.Connect, *libvirt.Domain, *libvirtxml.Domain) error
	Reboot   func(*libvirt.Domain, *libvirtxml.Domain) error
	Shutdown func(*libvirt.Domain, *libvirtxml.Domain) error

	// ReadSnapshots reads a machine's snapshots, parents before children. It
	// is nil where there are no snapshots.
	ReadSnapshots func(*libvirt.Domain) ([]libvirtxml.DomainSnapshot, error)
	// EndJobs waits for a machine's block jobs whose process died. It is nil
	// where there are none.
	EndJobs func(ctx context.Context, c *libvirt.Connect, dom *libvirt.Domain, uuid string) error
	// MergeBack merges the overlays back that the source of a clone was
	// given, after the maker died. It is nil where clones have none to
	// record.
	MergeBack func(c *libvirt.Connect, b *Books, source string, overlays []string) error
}
