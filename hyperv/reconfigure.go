package hyperv

import (
	"context"
	"errors"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// Reconfigure implements hypervisor.Reconfigurer. While a machine runs,
// Hyper-V can change the amount of fixed memory and extend the limits of
// dynamic memory, but never change processors. It has no settings that wait
// for the next start, so NextStart is refused where it would matter.
func (d *driver) Reconfigure(ctx context.Context, id hypervisor.VMID, ch hypervisor.Changes) (hypervisor.DriverTask, error) {
	m, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	if m.notes.Template && (ch.CPUs > 0 || ch.MemoryBytes > 0 || ch.DynamicMemory != nil) {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "a template keeps its hardware; turn it back with MarkVM first")
	}
	r, _, err := m.resources(ctx)
	if err != nil {
		return nil, err
	}
	if len(r.rows[rowCPU]) == 0 || len(r.rows[rowMemory]) == 0 {
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "the machine is gone")
	}
	if err := m.checkChanges(r, ch); err != nil {
		return nil, err
	}
	return m.start(ctx, "reconfigure", "", func(o *op) (hypervisor.Ref, error) {
		if err := o.resize(m, ch); err != nil {
			if errors.Is(err, cim.ErrLost) {
				o.restore(m, r)
			}
			return hypervisor.Ref{}, err
		}
		o.restore(m, r)
		var kv, back []any
		if ch.Name != "" {
			kv, back = append(kv, "ElementName", ch.Name), append(back, "ElementName", m.name())
		}
		if ch.Description != nil {
			back = append(back, "Notes", m.notes.strings())
			m.notes.Description = *ch.Description
			kv = append(kv, "Notes", m.notes.strings())
		}
		if len(kv) == 0 {
			return m.id.Ref(), nil
		}
		err := m.modifyNow(o.ctx, kv...)
		if errors.Is(err, cim.ErrLost) {
			o.SetBack("its name and description", func(ctx context.Context) error { return m.modifyNow(ctx, back...) })
		}
		return m.id.Ref(), err
	})
}

// restore registers the restoration of CPUs and memory for a failure, so that
// all changes or none are made.
func (o *op) restore(m *machine, r *record) {
	var back []*cim.Embedded
	cpu, mem := r.rows[rowCPU][0], r.rows[rowMemory][0]
	back = append(back, cim.NewEmbedded("Msvm_ProcessorSettingData", "InstanceID", cpu.Str("InstanceID"), "VirtualQuantity", cpu.Uint("VirtualQuantity")))
	back = append(back, cim.NewEmbedded("Msvm_MemorySettingData", "InstanceID", mem.Str("InstanceID"), "VirtualQuantity", mem.Uint("VirtualQuantity"),
		"Reservation", mem.Uint("Reservation"), "Limit", mem.Uint("Limit"), "DynamicMemoryEnabled", mem.Bool("DynamicMemoryEnabled")))
	o.SetBack("its processors and memory", func(ctx context.Context) error { return o.putResource(ctx, m, back...) })
}

// checkChanges refuses before anything is touched.
func (m *machine) checkChanges(r *record, ch hypervisor.Changes) error {
	on := m.id.Ref()
	cpus, mem := int(r.rows[rowCPU][0].Uint("VirtualQuantity")), r.rows[rowMemory][0]
	dynamic := mem.Bool("DynamicMemoryEnabled")
	if ch.MaxCPUs > 0 && ch.MaxCPUs != max(ch.CPUs, cpus) {
		return m.d.refuse(on, capability.CPUHotAdd)
	}
	if err := evenMemory(on, ch.MemoryBytes, ch.MaxMemoryBytes, ch.DynamicMemory); err != nil {
		return err
	}
	if m.state == hypervisor.StateOff {
		return nil
	}
	live := func(c capability.Name, why string) error {
		if ch.NextStart {
			why += "; Hyper-V keeps no changes for the next start"
		}
		return hypervisor.Unsupported(on, c, hypervisor.ReasonPlatform, why)
	}
	if ch.CPUs > 0 && ch.CPUs != cpus {
		return live(capability.CPUHotAdd, "processors change only while the machine is off")
	}
	now := int64(mem.Uint("VirtualQuantity")) * hypervisor.MiB
	if m.state != hypervisor.StateRunning && (ch.MemoryBytes > 0 && ch.MemoryBytes != now || ch.DynamicMemory != nil) {
		return hypervisor.Errorf(hypervisor.ErrInvalidState, on, "memory changes while the machine is off or running, not %s", m.state)
	}
	if ch.MemoryBytes > 0 && ch.MemoryBytes != now && dynamic {
		return live(capability.MemoryHotAdd, "with dynamic memory the amount at start changes only while the machine is off; widen the range instead")
	}
	if ch.DynamicMemory != nil {
		off := ch.DynamicMemory.MaxBytes == 0
		lo, hi := int64(mem.Uint("Reservation"))*hypervisor.MiB, int64(mem.Uint("Limit"))*hypervisor.MiB
		if off == dynamic || !off && (ch.DynamicMemory.MinBytes > lo || ch.DynamicMemory.MaxBytes < hi) {
			return live(capability.MemoryDynamic, "dynamic memory is switched, and its range narrowed, only while the machine is off")
		}
	}
	return nil
}

// evenMemory refuses odd amounts: Hyper-V accepts memory in steps of 2 MiB.
func evenMemory(on hypervisor.Ref, startup, limit int64, d *hypervisor.MemoryRange) error {
	all := []int64{startup, limit}
	if d != nil {
		all = append(all, d.MinBytes, d.MaxBytes)
	}
	for _, n := range all {
		if n%(2*hypervisor.MiB) != 0 {
			return hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "memory of %d bytes: Hyper-V takes memory in steps of 2 MiB", n)
		}
	}
	return nil
}

// resize changes processors and memory in one call, so that both change or none.
func (o *op) resize(m *machine, ch hypervisor.Changes) error {
	if ch.CPUs == 0 && ch.MemoryBytes == 0 && ch.DynamicMemory == nil && ch.MaxMemoryBytes == 0 {
		return nil
	}
	inv, err := readInventory(o.ctx, o.h, o.s, []int{rowCPU, rowMemory}, only(m.id))
	if err != nil {
		return err
	}
	r := inv.record(string(m.id))
	if len(r.rows[rowCPU]) == 0 || len(r.rows[rowMemory]) == 0 {
		return hypervisor.Errorf(hypervisor.ErrNotFound, m.id.Ref(), "the machine is gone")
	}
	var e []*cim.Embedded
	if c := r.rows[rowCPU][0]; ch.CPUs > 0 && uint64(ch.CPUs) != c.Uint("VirtualQuantity") {
		e = append(e, cim.NewEmbedded("Msvm_ProcessorSettingData", "InstanceID", c.Str("InstanceID"), "VirtualQuantity", uint64(ch.CPUs)))
	}
	mem := r.rows[rowMemory][0]
	startup, lo, hi, dynamic := mem.Uint("VirtualQuantity"), mem.Uint("Reservation"), mem.Uint("Limit"), mem.Bool("DynamicMemoryEnabled")
	if ch.MemoryBytes > 0 {
		startup = uint64(ch.MemoryBytes / hypervisor.MiB)
	}
	if d := ch.DynamicMemory; d != nil {
		dynamic, lo, hi = d.MaxBytes > 0, uint64(d.MinBytes/hypervisor.MiB), uint64(d.MaxBytes/hypervisor.MiB)
	}
	if ch.MaxMemoryBytes > 0 {
		hi = uint64(ch.MaxMemoryBytes / hypervisor.MiB)
	}
	if !dynamic {
		lo, hi = startup, max(hi, startup)
	}
	me := cim.NewEmbedded("Msvm_MemorySettingData", "InstanceID", mem.Str("InstanceID"), "VirtualQuantity", startup, "DynamicMemoryEnabled", dynamic)
	if dynamic {
		me.Set("Reservation", lo).Set("Limit", hi)
	} else if mem.Bool("DynamicMemoryEnabled") || hi != mem.Uint("Limit") {
		me.Set("Reservation", lo).Set("Limit", hi)
	}
	if startup != mem.Uint("VirtualQuantity") || dynamic != mem.Bool("DynamicMemoryEnabled") || hi != mem.Uint("Limit") || dynamic && lo != mem.Uint("Reservation") {
		e = append(e, me)
	}
	if len(e) == 0 {
		return nil
	}
	return o.modifyResource(m, e...)
}
