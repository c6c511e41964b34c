//go:build cgo

package kvm

import (
	"context"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Task implements hypervisor.Driver. Creating, cloning and migrating are
// found again whoever started them. Other work is found only by its own
// Client.
func (d *driver) Task(ctx context.Context, tid hypervisor.TaskID) (hypervisor.DriverTask, error) {
	t, err := d.Fleet.Task(ctx, tid)
	if op, id, ends, ok := d.SplitTaskID(tid); err != nil && ok && op == "migrate" {
		return d.findMigration(ctx, tid, id, ends)
	}
	return t, err
}
