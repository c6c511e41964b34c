package hypervisor

import (
	"context"

	"github.com/anyvisor/anyvisor/hypervisor/op"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// Changes are changes to a machine. Zero fields leave the machine as it is.
type Changes struct {
	Name           string
	Description    *string
	CPUs           int
	MaxCPUs        int
	MemoryBytes    int64
	MaxMemoryBytes int64        // limit for memory hot-plug, in bytes
	DynamicMemory  *MemoryRange // {0, 0} makes the memory fixed
	// NextStart lets changes that can't be made while the machine runs wait
	// for its next start, instead of being refused. Changes that can be made
	// at once are made at once.
	NextStart bool
}

// Reconfigure applies all changes or none. A change that can't be made live
// on a running machine is refused with the reason (hot-add-off, platform,
// vm-state) unless NextStart is set.
func (m *VM) Reconfigure(ctx context.Context, ch Changes) *Task[None] {
	return start(ctx, m.c, op.VMReconfigure, m.Ref(), capability.Reconfigure, checkChanges(m.Ref(), ch), func(ctx context.Context, d Reconfigurer) (DriverTask, error) {
		return d.Reconfigure(ctx, m.id, ch)
	}, noResult)
}

// Rename changes the name.
func (m *VM) Rename(ctx context.Context, name string) *Task[None] {
	return m.Reconfigure(ctx, Changes{Name: name})
}
