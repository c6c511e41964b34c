//go:build cgo

package kvm

import (
	"context"

	"github.com/anyvisor/anyvisor/hypervisor"
)

func (d *driver) findMigration(ctx context.Context, tid hypervisor.TaskID, id hypervisor.VMID, more []string) (hypervisor.DriverTask, error) {
	return nil, hypervisor.Errorf(hypervisor.KindNotFound, tid.Ref(), "no such task")
}
