package fake

import (
	"context"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// Reconfigure applies all changes or none.
func (d *Driver) Reconfigure(ctx context.Context, id hypervisor.VMID, ch hypervisor.Changes) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, op.VMReconfigure, id.Ref(), ch)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return nil, err
	}
	hardware := ch.CPUs != 0 || ch.MaxCPUs != 0 || ch.MemoryBytes != 0 || ch.MaxMemoryBytes != 0 || ch.DynamicMemory != nil
	if m.Template && hardware {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, m.ref(), "a template's CPUs and memory can't be changed: turn it into a machine first")
	}
	if err := b.require(capability.Reconfigure, m.ref(), m.ref()); err != nil {
		return nil, err
	}
	if ch.DynamicMemory != nil {
		if err := b.require(capability.MemoryDynamic, m.ref(), m.ref()); err != nil {
			return nil, err
		}
	}
	if err := b.free(vmKey(id), false); err != nil {
		return nil, err
	}
	now, later, err := b.plan(m, ch)
	if err != nil {
		return nil, err
	}
	if ch.Name != "" {
		if err := b.nameFree(ch.Name, m); err != nil {
			return nil, err
		}
	}
	w := work{op: op.VMReconfigure, on: m.ref(), excl: []hypervisor.Ref{vmKey(id)}}
	if later != nil {
		w.notes = []string{"some changes wait for the machine's next start"}
	}
	w.finish = func(*hypervisor.TaskState) error {
		if more := now.MemoryBytes - m.Mem; now.MemoryBytes != 0 && more > 0 && m.active() {
			if h, err := b.host(m.Host); err == nil && h.MemoryBytes-h.Used < more {
				return hypervisor.Errorf(hypervisor.ErrExhausted, m.ref(), "host %q has %d MiB of memory free", h.Name, (h.MemoryBytes-h.Used)/hypervisor.MiB)
			}
		}
		if ch.Name != "" {
			if err := b.nameFree(ch.Name, m); err != nil {
				return err
			}
		}
		b.reshape(m, now)
		if later != nil {
			m.Pending = later
		}
		b.emit(hypervisor.EventVMChanged, m, "reconfigured")
		return nil
	}
	return d.run(f, w)
}

// plan splits changes into those for now and those for the next start, and
// refuses invalid ones.
func (b *Backend) plan(m *vm, ch hypervisor.Changes) (now hypervisor.Changes, later *hypervisor.Changes, err error) {
	cpus, maxCPU, mem, maxMem := or(ch.CPUs, m.CPUs), or(ch.MaxCPUs, m.MaxCPU), or(ch.MemoryBytes, m.Mem), or(ch.MaxMemoryBytes, m.MaxMem)
	dyn := m.Dynamic
	if ch.DynamicMemory != nil {
		if dyn = ch.DynamicMemory; *dyn == (hypervisor.MemoryRange{}) {
			dyn = nil
		}
	}
	switch {
	case ch.MaxCPUs != 0 && cpus > maxCPU:
		return now, nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, m.ref(), "MaxCPUs %d is below the machine's %d CPUs", maxCPU, cpus)
	case ch.MaxMemoryBytes != 0 && mem > maxMem:
		return now, nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, m.ref(), "MaxMemoryBytes %d is below the machine's %d", maxMem, mem)
	case dyn != nil && (mem < dyn.MinBytes || mem > dyn.MaxBytes):
		return now, nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, m.ref(), "%d bytes of memory are outside the range %d to %d", mem, dyn.MinBytes, dyn.MaxBytes)
	}
	if err := b.sizes(m.ref(), max(cpus, maxCPU), max(mem, maxMem)); err != nil {
		return now, nil, err
	}
	if m.State == hypervisor.StateOff {
		return ch, nil, nil
	}
	// The machine has memory, running or not.
	now = hypervisor.Changes{Name: ch.Name, Description: ch.Description}
	wait := hypervisor.Changes{}
	refuse := func(k capability.Name, r hypervisor.ReasonCode, text string) {
		if err == nil && !ch.NextStart {
			err = hypervisor.Unsupported(m.ref(), k, r, text)
		}
	}
	live := func(k capability.Name) bool {
		return m.State == hypervisor.StateRunning && b.supports(k, hypervisor.Ref{}).Level != hypervisor.LevelNo
	}
	why := func(k capability.Name) (capability.Name, hypervisor.ReasonCode, string) {
		if s := b.supports(k, hypervisor.Ref{}); s.Level == hypervisor.LevelNo {
			return k, s.Reason, s.Detail
		}
		return k, hypervisor.ReasonVMState, "the machine is " + string(m.State) + ": power it off, or set NextStart"
	}
	if ch.CPUs != 0 && ch.CPUs != m.CPUs {
		switch {
		case ch.CPUs > m.CPUs && ch.CPUs <= m.MaxCPU && live(capability.CPUHotAdd):
			now.CPUs = ch.CPUs
		case !live(capability.CPUHotAdd):
			refuse(why(capability.CPUHotAdd))
			wait.CPUs = ch.CPUs
		case ch.CPUs < m.CPUs:
			refuse(capability.CPUHotAdd, hypervisor.ReasonPlatform, "a running machine's CPUs can't be taken away: set NextStart")
			wait.CPUs = ch.CPUs
		default:
			refuse(capability.CPUHotAdd, hypervisor.ReasonHotAddOff, "the machine was made for fewer CPUs (MaxCPUs): raise that while it is off, or set NextStart")
			wait.CPUs = ch.CPUs
		}
	}
	if ch.MemoryBytes != 0 && ch.MemoryBytes != m.Mem {
		switch {
		case dyn != nil && live(capability.MemoryDynamic): // ballooned
			now.MemoryBytes = ch.MemoryBytes
		case ch.MemoryBytes > m.Mem && ch.MemoryBytes <= m.MaxMem && live(capability.MemoryHotAdd):
			now.MemoryBytes = ch.MemoryBytes
		case !live(capability.MemoryHotAdd):
			refuse(why(capability.MemoryHotAdd))
			wait.MemoryBytes = ch.MemoryBytes
		case ch.MemoryBytes < m.Mem:
			refuse(capability.MemoryHotAdd, hypervisor.ReasonPlatform, "a running machine's memory can't be taken away: set NextStart")
			wait.MemoryBytes = ch.MemoryBytes
		default:
			refuse(capability.MemoryHotAdd, hypervisor.ReasonHotAddOff, "the machine was made for less memory (MaxMemoryBytes): raise that while it is off, or set NextStart")
			wait.MemoryBytes = ch.MemoryBytes
		}
	}
	if ch.MaxCPUs != 0 || ch.MaxMemoryBytes != 0 || ch.DynamicMemory != nil {
		refuse(capability.Reconfigure, hypervisor.ReasonVMState, "limits of a machine that isn't off can't be changed: set NextStart")
		wait.MaxCPUs, wait.MaxMemoryBytes, wait.DynamicMemory = ch.MaxCPUs, ch.MaxMemoryBytes, ch.DynamicMemory
	}
	if wait != (hypervisor.Changes{}) {
		later = &wait
	}
	return now, later, err
}

func or[T comparable](a, b T) T {
	var zero T
	if a != zero {
		return a
	}
	return b
}

// reshape makes changes that were checked before.
func (b *Backend) reshape(m *vm, ch hypervisor.Changes) {
	if ch.Name != "" && ch.Name != m.Name {
		if b.names[m.Name]--; b.names[m.Name] <= 0 {
			delete(b.names, m.Name)
		}
		m.Name = ch.Name
		b.names[m.Name]++
	}
	if ch.Description != nil {
		m.Desc = *ch.Description
	}
	if ch.MemoryBytes != 0 && m.active() {
		if h, err := b.host(m.Host); err == nil {
			h.Used += ch.MemoryBytes - m.Mem
		}
	}
	m.CPUs, m.Mem = or(ch.CPUs, m.CPUs), or(ch.MemoryBytes, m.Mem)
	m.MaxCPU, m.MaxMem = max(or(ch.MaxCPUs, m.MaxCPU), m.CPUs), max(or(ch.MaxMemoryBytes, m.MaxMem), m.Mem)
	if ch.DynamicMemory != nil {
		if m.Dynamic = cloneRange(ch.DynamicMemory); *m.Dynamic == (hypervisor.MemoryRange{}) {
			m.Dynamic = nil
		}
	}
}
