package hypervisor

import (
	"context"
	"net/netip"

	"github.com/anyvisor/anyvisor/hypervisor/op"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// CloneMode is the relation of a copy to its source. It is never downgraded.
type CloneMode uint8

const (
	CloneModeFull    CloneMode = iota // independent
	CloneModeLinked                   // shares a frozen base with its source
	CloneModeInstant                  // forked from a running machine, RAM and all
)

// String returns "full", "linked" or "instant".
func (m CloneMode) String() string {
	return [...]string{"full", "linked", "instant"}[min(m, CloneModeInstant)]
}

// CloneRequest is what a driver gets for VM.Clone and Template.Deploy.
type CloneRequest struct {
	Name string
	CloneOptions
}

// Customization changes settings inside the guest at its first start.
type Customization struct {
	HostName string // empty leaves the name to the platform
	// Addresses has one address with its prefix length for each adapter, in
	// order. The zero Prefix means DHCP, and so does a missing address at the
	// end. More addresses than adapters are ErrInvalidArgument.
	Addresses []netip.Prefix
	// Gateway is set on the first adapter that has an address of its family.
	// The zero Addr sets none.
	Gateway netip.Addr
	DNS     []netip.Addr // servers, for all adapters
	// Windows is required for a Windows guest (ErrInvalidArgument without it)
	// and must be nil for every other guest.
	Windows *WindowsCustomization
}

// WindowsCustomization holds the settings that Windows asks for at its first
// start. An empty text stays empty in the guest.
type WindowsCustomization struct {
	// TimeZone is Microsoft's index of the time zone: 85 is GMT, 110 is
	// Berlin.
	TimeZone     int
	Workgroup    string // the guest joins it; required
	Owner        string // registered owner; required
	Organization string // registered organization
}

// CloneOptions are the options for VM.Clone and Template.Deploy. Nil means a
// full clone of the machine's present state, placed by the platform and left
// off.
type CloneOptions struct {
	Mode        CloneMode
	From        SnapshotID // a snapshot of the source; not for templates
	Description string
	Placement   Placement
	Start       bool              // power on once made
	Labels      map[string]string // replace the source's labels
	CPUs        int               // 0 means as the source
	MemoryBytes int64             // 0 means as the source
	Customize   *Customization
	// Token makes the call safe to repeat: 1 to 64 letters, digits, '.', '_',
	// ':', '/' or '-'. The clone has the token, and a repeated call with the
	// same token returns that clone instead of making a second one. The
	// other options of the two calls are not compared. A repeated call waits
	// for an earlier one that is still at work, but let one process at a time
	// use a token: only KVM and XAPI keep two apart.
	Token string
}

// Capability returns the capability that the request needs.
// capability.CloneRunning is needed as well for a running machine, and
// capability.CloneCustomize for Customize.
func (o CloneOptions) Capability() capability.Name {
	switch {
	case o.Mode == CloneModeLinked:
		return capability.CloneLinked
	case o.Mode == CloneModeInstant:
		return capability.CloneInstant
	case o.From != "":
		return capability.CloneFromSnapshot
	}
	return capability.CloneFull
}

// Clone copies the machine. The clone has a new ID and new MAC addresses. The
// disks of a running machine's clone are as after a power cut; only
// CloneModeInstant copies the RAM too. When Clone fails, what it made is
// removed again or named in Leftover.
func (m *VM) Clone(ctx context.Context, name string, o *CloneOptions) *Task[*VM] {
	r := CloneRequest{name, orDefault(o)}
	return start(ctx, m.c, op.VMClone, m.Ref(), r.Capability(), checkClone(op.VMClone, m.Ref(), r), func(ctx context.Context, d Cloner) (DriverTask, error) {
		return d.Clone(ctx, m.id, r)
	}, m.c.vmResult)
}
