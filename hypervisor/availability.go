package hypervisor

import (
	"context"
	"iter"

	"github.com/anyvisor/anyvisor/hypervisor/op"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// RestartPriority is what the platform's high availability (HA) does with a
// machine whose host fails.
type RestartPriority string

const (
	RestartNever RestartPriority = "never" // the machine stays down
	// RestartBestEffort restarts the machine after the others, if there is
	// room. No room is reserved for it.
	RestartBestEffort RestartPriority = "best-effort"
	RestartLow        RestartPriority = "low"
	RestartMedium     RestartPriority = "medium"
	RestartHigh       RestartPriority = "high" // restarted first
)

// HAInfo describes the high availability of one cluster or pool.
type HAInfo struct {
	Pool    PoolID `json:"pool"`
	Name    string `json:"name,omitempty"`
	Enabled bool   `json:"enabled"`
	// FailuresToTolerate is the number of host failures for which room is
	// reserved on the other hosts. 0 means that none is reserved.
	FailuresToTolerate int `json:"failuresToTolerate,omitempty"`
	// DefaultPriority applies to machines without a priority of their own. It
	// is empty where the platform has no such default.
	DefaultPriority RestartPriority `json:"defaultPriority,omitempty"`
}

// Availability is what HA does for one machine.
type Availability struct {
	Priority RestartPriority `json:"priority"`
	// Inherited means that the machine has no priority of its own, and that
	// Priority is the cluster's default.
	Inherited bool `json:"inherited,omitempty"`
	// Protected means that HA is on and would restart the machine now.
	Protected bool `json:"protected,omitempty"`
}

// HA lists the high availability of the clusters or pools.
func (c *Client) HA(ctx context.Context) iter.Seq2[HAInfo, error] {
	return list(ctx, c, op.HAList, capability.HighAvailability, func(ctx context.Context, d Protector) ([]HAInfo, error) { return d.HA(ctx) })
}

// Availability reads what HA does for the machine.
func (m *VM) Availability(ctx context.Context) (Availability, error) {
	return read(ctx, m.c, op.VMAvailability, m.Ref(), capability.HighAvailability, nil, func(ctx context.Context, d Protector) (Availability, error) {
		return d.Availability(ctx, m.id)
	})
}

// SetRestartPriority sets the machine's own restart priority. It may be set
// while HA is off, and takes effect when HA is switched on. A priority that
// the platform lacks is refused with ErrUnsupported. One that HA could not
// honour, because too little room is left, is refused with ErrExhausted.
func (m *VM) SetRestartPriority(ctx context.Context, p RestartPriority) *Task[None] {
	const op = op.VMSetRestartPriority
	var bad *Error
	switch p {
	case RestartNever, RestartBestEffort, RestartLow, RestartMedium, RestartHigh:
	default:
		bad = invalid(op, m.Ref(), "RestartPriority %q: use never, best-effort, low, medium or high", p)
	}
	return start(ctx, m.c, op, m.Ref(), capability.HighAvailability, bad, func(ctx context.Context, d Protector) (DriverTask, error) {
		return d.SetRestartPriority(ctx, m.id, p)
	}, noResult)
}
