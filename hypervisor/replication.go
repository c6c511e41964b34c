package hypervisor

import (
	"context"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/op"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// ReplicationRole is a machine's role in a replication.
type ReplicationRole string

const (
	RoleNone        ReplicationRole = ""
	RolePrimary     ReplicationRole = "primary" // the machine whose changes are sent
	RoleReplica     ReplicationRole = "replica" // the copy that waits to take over
	RoleTestReplica ReplicationRole = "test-replica"
	// RoleExtendedReplica is the copy of a copy, on a third host.
	RoleExtendedReplica ReplicationRole = "extended-replica"
)

// ReplicationState is the progress of a replication.
type ReplicationState string

const (
	ReplicationOff         ReplicationState = ""
	ReplicationInitial     ReplicationState = "initial" // the first copy is pending or under way
	ReplicationActive      ReplicationState = "replicating"
	ReplicationSuspended   ReplicationState = "suspended"
	ReplicationResync      ReplicationState = "resync"      // disks are compared and sent again
	ReplicationFailingOver ReplicationState = "failover"    // a failover, or the way back, is under way
	ReplicationFailedOver  ReplicationState = "failed-over" // this copy has taken over
	ReplicationError       ReplicationState = "error"       // stopped until somebody acts
)

// Health is the platform's own verdict.
type Health string

const (
	HealthUnknown  Health = ""
	HealthOK       Health = "ok"
	HealthWarning  Health = "warning"
	HealthCritical Health = "critical"
)

// ReplicationInfo is the state of a machine's replication.
type ReplicationInfo struct {
	Role   ReplicationRole  `json:"role,omitempty"`
	State  ReplicationState `json:"state,omitempty"`
	Health Health           `json:"health,omitempty"`
	LastAt time.Time        `json:"lastAt,omitzero"` // of the last complete replication
	Detail string           `json:"detail,omitempty"`
}

// Replication reads the state of the machine's replication to another site.
// It is not an error if the machine is not replicated: State is then
// ReplicationOff.
func (m *VM) Replication(ctx context.Context) (ReplicationInfo, error) {
	return read(ctx, m.c, op.VMReplication, m.Ref(), capability.ReplicationRead, nil, func(ctx context.Context, d ReplicationReader) (ReplicationInfo, error) {
		return d.Replication(ctx, m.id)
	})
}
