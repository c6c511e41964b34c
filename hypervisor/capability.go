package hypervisor

import (
	"context"
	"fmt"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// Level is the extent to which a capability is supported. LevelUnproven, the
// zero value, means that the code exists but was never run against the real
// platform in this configuration. It may be tried, and is not the same as
// LevelNo. LevelPartial means that a part is missing or composed from other
// operations, as Support.Detail describes.
type Level uint8

const (
	LevelUnproven Level = iota
	LevelNo
	LevelPartial
	LevelYes
)

// String returns "unproven", "no", "partial" or "yes".
func (l Level) String() string {
	return levels[min(l, LevelYes)]
}

var levels = [...]string{"unproven", "no", "partial", "yes"}

// MarshalText returns the same text as String.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText accepts the text that String returns.
func (l *Level) UnmarshalText(text []byte) error {
	i := slices.Index(levels[:], string(text))
	if i < 0 {
		return fmt.Errorf("hypervisor: no level is named %q", text)
	}
	*l = Level(i)
	return nil
}

// ReasonCode is one stable word for why a capability is not LevelYes, why a
// device can't be assigned, or why a machine can't move.
type ReasonCode string

const (
	ReasonEdition         ReasonCode = "edition"         // licence or SKU
	ReasonNotImplemented  ReasonCode = "not-implemented" // the platform can do it, this driver doesn't
	ReasonPlatform        ReasonCode = "platform"        // the platform doesn't have it
	ReasonAPIVersion      ReasonCode = "api-version"     // the server is too old (or too new)
	ReasonEmulated        ReasonCode = "emulated"        // composed from other operations; Detail says how
	ReasonToolsMissing    ReasonCode = "tools-missing"   // no guest agent or tools
	ReasonSingleHost      ReasonCode = "single-host"     // needs a second host in this Client
	ReasonNoSharedStorage ReasonCode = "no-shared-storage"
	ReasonHostIOMMUOff    ReasonCode = "host-iommu-off"
	ReasonNoIOMMUGroup    ReasonCode = "no-iommu-group"
	ReasonGroupShared     ReasonCode = "iommu-group-shared" // other devices of the group are in use
	ReasonNoDevice        ReasonCode = "no-device"
	ReasonDeviceInUse     ReasonCode = "device-in-use"
	ReasonHostUsesDevice  ReasonCode = "host-uses-device" // the host uses it: boot disk, console, management NIC
	ReasonDevicePrepare   ReasonCode = "device-not-prepared"
	ReasonVMPassthrough   ReasonCode = "vm-has-passthrough"
	ReasonVMState         ReasonCode = "vm-state"
	ReasonVMSnapshots     ReasonCode = "vm-has-snapshots"
	ReasonVMLinked        ReasonCode = "vm-has-linked-clones"
	ReasonVMBusy          ReasonCode = "vm-busy"
	ReasonIsTemplate      ReasonCode = "is-template"
	ReasonCPU             ReasonCode = "cpu-incompatible"
	ReasonVersion         ReasonCode = "version-incompatible"
	ReasonNoMemory        ReasonCode = "no-memory"
	ReasonNoSpace         ReasonCode = "no-space"
	ReasonDiskUnreachable ReasonCode = "disk-unreachable"
	ReasonDiskFormat      ReasonCode = "disk-format"
	ReasonNetworkMissing  ReasonCode = "network-missing"
	ReasonNameTaken       ReasonCode = "name-taken"
	ReasonIDTaken         ReasonCode = "id-taken"
	ReasonSameHost        ReasonCode = "same-host"
	ReasonHostDown        ReasonCode = "host-down"
	ReasonMaintenance     ReasonCode = "host-in-maintenance"
	ReasonHotAddOff       ReasonCode = "hot-add-off" // the machine was not made for hot-plug
	ReasonConfig          ReasonCode = "configuration"
	ReasonBuild           ReasonCode = "build" // this program was built without it (cgo, operating system)
)

// Support is the answer of Supports for one capability in one scope.
type Support struct {
	Level  Level      `json:"level"`
	Reason ReasonCode `json:"reason,omitempty"` // empty for LevelYes
	Detail string     `json:"detail,omitempty"` // a sentence for people
}

// Supports reports on one capability for a scope: the whole Client (zero
// Ref), a host, a machine or a device. It changes nothing. The answer for a
// machine takes its state and configuration into account. A name that is not
// one of capability.All is refused with ErrInvalidArgument.
func (c *Client) Supports(ctx context.Context, k capability.Name, scope Ref) (Support, error) {
	ctx, sp, err := c.begin(ctx, op.ClientSupports, scope)
	if err != nil {
		return Support{}, err
	}
	if !slices.Contains(capability.All(), k) {
		return Support{}, sp.end(invalid(op.ClientSupports, scope, "%q is no capability: capability.All lists them", k))
	}
	s, err := retryRead(ctx, c, func() (Support, error) { return c.d.Supports(ctx, k, scope) })
	return s, sp.end(c.wrap(op.ClientSupports, scope, err))
}

// unsupported returns the error for an ability whose interface the driver
// lacks. The reason is the one that the driver's Supports gives.
func (c *Client) unsupported(ctx context.Context, op op.Name, on Ref, k capability.Name) error {
	s, err := c.d.Supports(ctx, k, Ref{})
	if err != nil || s.Reason == "" {
		s = Support{Level: LevelNo, Reason: ReasonNotImplemented}
	}
	e := Unsupported(on, k, s.Reason, s.Detail)
	e.Op = op
	return e
}
