package hypervisor

import (
	"context"
	"time"
)

// ReplicationRole is a machine's part in a replication.
type ReplicationRole string

const (
	NotReplicated ReplicationRole = ""
	Primary       ReplicationRole = "primary" // the machine whose changes are sent
	Replica       ReplicationRole = "replica" // the copy that waits to take over
	TestReplica   ReplicationRole = "test-replica"
	// ExtendedReplica is the copy of a copy, on a third host.
	ExtendedReplica ReplicationRole = "extended-replica"
)

// ReplicationState is how far a replication is.
type ReplicationState string

const (
	ReplicationOff       ReplicationState = ""
	ReplicationInitial   ReplicationState = "initial" // the first copy is to be made, or under way
	Replicating          ReplicationState = "replicating"
	ReplicationSuspended ReplicationState = "suspended"
	ReplicationResync    ReplicationState = "resync"      // disks are compared and sent again
	FailingOver          ReplicationState = "failover"    // a failover, or the way back, is under way
	FailedOver           ReplicationState = "failed-over" // this copy has taken over
	ReplicationError     ReplicationState = "error"       // it stands until somebody acts
)

// Health is a platform's own verdict.
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
// A machine that is not replicated is no error: State is ReplicationOff.
func (m *VM) Replication(ctx context.Context) (ReplicationInfo, error) {
	return read(ctx, m.c, "vm.replication", m.ref(), ReplicationRead, nil, func(ctx context.Context, d ReplicationReader) (ReplicationInfo, error) {
		return d.Replication(ctx, m.id)
	})
}
