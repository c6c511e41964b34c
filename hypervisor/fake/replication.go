package fake

import (
	"context"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// SetReplication sets the state of a machine's replication. The fake itself
// does not replicate.
func (b *Backend) SetReplication(id hypervisor.VMID, r hypervisor.ReplicationInfo) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return err
	}
	m.Replication = r
	b.emit(hypervisor.EventVMChanged, m, "replication "+string(r.State))
	return nil
}

// Replication returns what SetReplication has set.
func (d *Driver) Replication(ctx context.Context, id hypervisor.VMID) (hypervisor.ReplicationInfo, error) {
	if err := d.read(ctx, op.VMReplication, id.Ref()); err != nil {
		return hypervisor.ReplicationInfo{}, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return hypervisor.ReplicationInfo{}, err
	}
	if err := b.require(capability.ReplicationRead, m.ref(), m.ref()); err != nil {
		return hypervisor.ReplicationInfo{}, err
	}
	return m.Replication, nil
}
