package fake

import (
	"context"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// SetReplication says what a machine's replication is like; the fake itself
// does not replicate.
func (b *Backend) SetReplication(id hypervisor.VMID, r hypervisor.ReplicationInfo) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return err
	}
	m.Replication = r
	b.emit(hypervisor.VMChanged, m, "replication "+string(r.State))
	return nil
}

// Replication tells what SetReplication said.
func (d *Driver) Replication(ctx context.Context, id hypervisor.VMID) (hypervisor.ReplicationInfo, error) {
	if err := d.read(ctx, "vm.replication", id.Ref()); err != nil {
		return hypervisor.ReplicationInfo{}, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return hypervisor.ReplicationInfo{}, err
	}
	if err := b.require(hypervisor.ReplicationRead, m.ref(), m.ref()); err != nil {
		return hypervisor.ReplicationInfo{}, err
	}
	return m.Replication, nil
}
