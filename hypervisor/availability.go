package hypervisor

import (
	"context"
	"iter"
)

// RestartPriority says what the platform's high availability (HA) does with a
// machine whose host fails.
type RestartPriority string

const (
	RestartNever RestartPriority = "never" // it stays down
	// RestartBestEffort restarts it if there is room when the others run
	// again; no room is kept for it.
	RestartBestEffort RestartPriority = "best-effort"
	RestartLow        RestartPriority = "low"
	RestartMedium     RestartPriority = "medium"
	RestartHigh       RestartPriority = "high" // first
)

// HAInfo is the high availability of one cluster or pool.
type HAInfo struct {
	Pool    PoolID `json:"pool"`
	Name    string `json:"name,omitempty"`
	Enabled bool   `json:"enabled"`
	// FailuresToTolerate is the number of hosts for whose machines room is
	// kept on the others; 0: none is kept.
	FailuresToTolerate int `json:"failuresToTolerate,omitempty"`
	// DefaultPriority is that of machines with none of their own; empty where
	// the platform has no such default.
	DefaultPriority RestartPriority `json:"defaultPriority,omitempty"`
}

// Availability is what HA does for a machine.
type Availability struct {
	Priority RestartPriority `json:"priority"`
	// Inherited means that the machine has no priority of its own: Priority is
	// the cluster's default.
	Inherited bool `json:"inherited,omitempty"`
	// Protected means that HA is on and would restart the machine now.
	Protected bool `json:"protected,omitempty"`
}

// HA lists the high availability of the clusters or pools.
func (c *Client) HA(ctx context.Context) iter.Seq2[HAInfo, error] {
	return list(ctx, c, "ha.list", HighAvailability, func(ctx context.Context, d Protector) ([]HAInfo, error) { return d.HA(ctx) })
}

// Availability reads what HA does for the machine.
func (m *VM) Availability(ctx context.Context) (Availability, error) {
	return read(ctx, m.c, "vm.availability", m.ref(), HighAvailability, nil, func(ctx context.Context, d Protector) (Availability, error) {
		return d.Availability(ctx, m.id)
	})
}

// SetRestartPriority sets the machine's own restart priority. It may be set
// while HA is off, and counts from when it is on. A priority that the
// platform lacks is ErrUnsupported; one that HA could not keep, since too
// little room is left, ErrExhausted.
func (m *VM) SetRestartPriority(ctx context.Context, p RestartPriority) *Task[None] {
	const op = "vm.restart-priority"
	var bad *Error
	switch p {
	case RestartNever, RestartBestEffort, RestartLow, RestartMedium, RestartHigh:
	default:
		bad = invalid(op, m.ref(), "RestartPriority %q: say never, best-effort, low, medium or high", p)
	}
	return start(ctx, m.c, op, m.ref(), HighAvailability, bad, func(ctx context.Context, d Protector) (DriverTask, error) {
		return d.SetRestartPriority(ctx, m.id, p)
	}, noResult)
}
