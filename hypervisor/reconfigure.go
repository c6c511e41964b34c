package hypervisor

import "context"

// Changes to a machine. Zero fields stay as they are.
type Changes struct {
	Name          string
	Description   *string
	CPUs          int
	MaxCPUs       int
	MemoryBytes   int64
	MaxMemory     int64        // limit for hot add, in bytes
	DynamicMemory *MemoryRange // {0, 0} makes the memory fixed
	// NextStart lets changes that can't be made while the machine runs wait
	// for its next start, instead of being refused. Changes that can be made
	// at once are.
	NextStart bool
}

// Reconfigure applies all changes or none. What a running machine can't take
// live is refused with the reason (hot-add-off, platform, vm-state) unless
// NextStart is set.
func (m *VM) Reconfigure(ctx context.Context, ch Changes) *Task[None] {
	return start(ctx, m.c, "vm.reconfigure", m.ref(), Reconfigure, checkChanges(m.ref(), ch), func(ctx context.Context, d Reconfigurer) (DriverTask, error) {
		return d.Reconfigure(ctx, m.id, ch)
	}, noResult)
}

// Rename changes the name.
func (m *VM) Rename(ctx context.Context, name string) *Task[None] {
	return m.Reconfigure(ctx, Changes{Name: name})
}
