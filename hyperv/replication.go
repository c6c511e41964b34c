package hyperv

import (
	"context"
	"fmt"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// replicationStates maps ReplicationState. says is the Detail. The values are
// those of Msvm_ReplicationRelationship (Hyper-V WMI v2 reference), which
// Msvm_ComputerSystem shares.
var replicationStates = map[uint64]struct {
	state hypervisor.ReplicationState
	says  string
}{
	1:  {hypervisor.ReplicationInitial, "ready for the initial replication"},
	2:  {hypervisor.ReplicationInitial, "waiting to complete the initial replication"},
	3:  {hypervisor.ReplicationActive, "replicating"},
	4:  {hypervisor.ReplicationFailingOver, "everything is sent: prepared for a planned failover"},
	5:  {hypervisor.ReplicationFailedOver, "recovered: the failover can be committed or cancelled"},
	6:  {hypervisor.ReplicationFailedOver, "the failover is committed"},
	7:  {hypervisor.ReplicationSuspended, "suspended"},
	8:  {hypervisor.ReplicationError, "critical"},
	9:  {hypervisor.ReplicationResync, "waiting to start resynchronization"},
	10: {hypervisor.ReplicationResync, "resynchronizing"},
	11: {hypervisor.ReplicationSuspended, "resynchronization is suspended"},
	12: {hypervisor.ReplicationFailingOver, "failover in progress"},
	13: {hypervisor.ReplicationFailingOver, "failback in progress"},
	14: {hypervisor.ReplicationFailedOver, "failback is complete"},
	15: {hypervisor.ReplicationActive, "an update of the set of disks is in progress"},
	16: {hypervisor.ReplicationError, "the update of the set of disks is critical"},
	18: {hypervisor.ReplicationFailingOver, "repurposing is in progress"},
	19: {hypervisor.ReplicationFailingOver, "prepared for synchronous replication"},
	20: {hypervisor.ReplicationFailingOver, "prepared for reverse replication of a group"},
	21: {hypervisor.ReplicationActive, "a test failover is in progress"},
}

// Values of ReplicationMode and ReplicationHealth (Hyper-V WMI v2 reference,
// Msvm_ComputerSystem).
var (
	replicationRoles  = map[uint64]hypervisor.ReplicationRole{1: hypervisor.RolePrimary, 2: hypervisor.RoleReplica, 3: hypervisor.RoleTestReplica, 4: hypervisor.RoleExtendedReplica}
	replicationHealth = map[uint64]hypervisor.Health{1: hypervisor.HealthOK, 2: hypervisor.HealthWarning, 3: hypervisor.HealthCritical}
)

// Replication implements hypervisor.ReplicationReader. It returns what
// Hyper-V Replica reports of the machine's first relationship. A replica that
// is itself replicated further has a second one, which is not returned.
func (d *driver) Replication(ctx context.Context, id hypervisor.VMID) (hypervisor.ReplicationInfo, error) {
	m, err := d.machine(ctx, id)
	if err != nil || m.planned {
		return hypervisor.ReplicationInfo{}, err
	}
	if e := m.h.editionFor(capability.ReplicationRead); e.Level == hypervisor.LevelNo {
		return hypervisor.ReplicationInfo{}, hypervisor.Unsupported(id.Ref(), capability.ReplicationRead, e.Reason, e.Detail)
	}
	props := []string{"Name", "ReplicationState", "ReplicationHealth", "ReplicationMode", "LastReplicationTime"}
	r, err := cim.First(m.s.Query(ctx, cim.Virtualization, cim.Select("Msvm_ComputerSystem", props, "Name = "+cim.Quote(string(m.id)))), "the machine")
	if err != nil {
		return hypervisor.ReplicationInfo{}, err
	}
	mode, state := r.Uint("ReplicationMode"), r.Uint("ReplicationState")
	if mode == 0 || state == 0 {
		return hypervisor.ReplicationInfo{}, nil
	}
	s, known := replicationStates[state]
	if !known {
		// 17 is "unknown" to Hyper-V itself. Other values are newer than this
		// table.
		s.state, s.says = hypervisor.ReplicationError, fmt.Sprintf("replication state %d", state)
	}
	return hypervisor.ReplicationInfo{Role: replicationRoles[mode], State: s.state, Health: replicationHealth[r.Uint("ReplicationHealth")],
		LastAt: r.Time("LastReplicationTime"), Detail: s.says}, nil
}
