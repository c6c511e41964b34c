package xen

import (
	"context"
	"errors"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// Reconfigure changes names at any time, sizes of a machine that is off
// (VM.set_memory_limits, VCPUs_max, VCPUs_at_startup), and sizes of a running
// one within its static maximums (set_VCPUs_number_live,
// set_memory_dynamic_range).
func (d *driver) Reconfigure(ctx context.Context, id hypervisor.VMID, ch hypervisor.Changes) (hypervisor.DriverTask, error) {
	vm, v, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name}
	st := state(v.PowerState)
	if err := d.sizes(ctx, on, int64(max(ch.CPUs, ch.MaxCPUs)), max(ch.MemoryBytes, ch.MaxMemoryBytes)); err != nil {
		return nil, err
	}
	var steps []step
	if st == hypervisor.StateOff {
		steps, err = d.offSteps(ctx, on, v, ch)
	} else {
		steps, err = d.liveSteps(ctx, on, v, ch)
	}
	if err != nil {
		return nil, err
	}
	if ch.Name != "" {
		steps = append(steps, step{"VM.set_name_label", []any{ch.Name}, "VM.set_name_label", []any{v.Name}})
	}
	if ch.Description != nil {
		steps = append(steps, step{"VM.set_name_description", []any{*ch.Description}, "VM.set_name_description", []any{v.Description}})
	}
	return d.compose(ctx, "reconfigure", on, capability.Reconfigure, "", func(ctx context.Context, j *poolJob) (hypervisor.Ref, error) {
		return on, j.apply(ctx, vm, steps)
	})
}

// apply sends the messages. If one fails, those that were sent are undone.
func (j *poolJob) apply(ctx context.Context, vm xapi.Ref, steps []step) error {
	for _, s := range steps {
		err := j.d.c.Call(ctx, nil, s.method, append([]any{vm}, s.args...)...)
		if err == nil || xapi.Lost(err) { // after a lost answer the change may have been made
			j.SetBack("the machine's configuration", func(ctx context.Context) error {
				return j.d.c.Call(ctx, nil, s.undo, append([]any{vm}, s.back...)...)
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// step is one message and the message that undoes it.
type step struct {
	method string
	args   []any
	undo   string
	back   []any
}

func (d *driver) offSteps(ctx context.Context, on hypervisor.Ref, v vmRec, ch hypervisor.Changes) ([]step, error) {
	var out []step
	cpus, most := v.VCPUsStart, v.VCPUsMax
	if ch.CPUs > 0 {
		cpus = int64(ch.CPUs)
		if most == v.VCPUsStart && ch.MaxCPUs == 0 || most < cpus {
			most = cpus // a machine without room for hot-plug remains one
		}
	}
	if ch.MaxCPUs > 0 {
		most = int64(ch.MaxCPUs)
	}
	if most > cpus && most > v.VCPUsMax {
		if err := d.allowed(ctx, on, capability.CPUHotAdd); err != nil {
			return nil, err
		}
	}
	if cpus > most {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "MaxCPUs %d is below the machine's %d CPUs", most, cpus)
	}
	if cpus != v.VCPUsStart || most != v.VCPUsMax {
		// At every step VCPUs_at_startup must not be above VCPUs_max.
		lift := step{"VM.set_VCPUs_max", []any{most}, "VM.set_VCPUs_max", []any{v.VCPUsMax}}
		set := step{"VM.set_VCPUs_at_startup", []any{cpus}, "VM.set_VCPUs_at_startup", []any{v.VCPUsStart}}
		if most >= v.VCPUsStart {
			out = append(out, lift, set)
		} else {
			out = append(out, set, lift)
		}
	}
	smin, dmin, dmax, smax := v.StaticMin, v.DynamicMin, v.DynamicMax, v.StaticMax
	if ch.MemoryBytes > 0 {
		if smax == dmax || smax < ch.MemoryBytes {
			smax = ch.MemoryBytes
		}
		dmin, dmax = ch.MemoryBytes, ch.MemoryBytes
	}
	if r := ch.DynamicMemory; r != nil {
		if *r == (hypervisor.MemoryRange{}) {
			dmin = dmax
		} else {
			if err := d.allowed(ctx, on, capability.MemoryDynamic); err != nil {
				return nil, err
			}
			dmin, dmax = r.MinBytes, r.MaxBytes
			smax = max(smax, dmax)
		}
	}
	if ch.MaxMemoryBytes > 0 {
		smax = ch.MaxMemoryBytes
		if smax > dmax {
			if err := d.allowed(ctx, on, capability.MemoryHotAdd); err != nil {
				return nil, err
			}
		}
	}
	smin = min(smin, dmin)
	if smax < dmax {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "MaxMemoryBytes %d is below the machine's memory %d", smax, dmax)
	}
	if smin != v.StaticMin || dmin != v.DynamicMin || dmax != v.DynamicMax || smax != v.StaticMax {
		out = append(out, step{"VM.set_memory_limits", []any{smin, smax, dmin, dmax},
			"VM.set_memory_limits", []any{v.StaticMin, v.StaticMax, v.DynamicMin, v.DynamicMax}})
	}
	return out, nil
}

func (d *driver) liveSteps(ctx context.Context, on hypervisor.Ref, v vmRec, ch hypervisor.Changes) ([]step, error) {
	refuse := func(k capability.Name, detail string) ([]step, error) {
		if ch.NextStart {
			return nil, hypervisor.Unsupported(on, capability.Reconfigure, hypervisor.ReasonPlatform, "XAPI keeps no changes for the next start, and now "+detail)
		}
		return nil, hypervisor.Unsupported(on, k, hypervisor.ReasonHotAddOff, detail)
	}
	if ch.MaxCPUs > 0 && int64(ch.MaxCPUs) != v.VCPUsMax || ch.MaxMemoryBytes > 0 && ch.MaxMemoryBytes != v.StaticMax {
		return refuse(capability.Reconfigure, "the maximums can be changed only while the machine is off")
	}
	allowed := func(k capability.Name) error {
		err := d.allowed(ctx, on, k)
		var u *hypervisor.UnsupportedError
		if ch.NextStart && errors.As(err, &u) {
			_, err = refuse(k, u.Support.Detail)
		}
		return err
	}
	running := state(v.PowerState) == hypervisor.StateRunning
	if !running && (ch.CPUs > 0 || ch.MemoryBytes > 0 || ch.DynamicMemory != nil) {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, on, "the machine is %s: sizes are changed while it is off or running", state(v.PowerState))
	}
	var out []step
	if ch.CPUs > 0 && int64(ch.CPUs) != v.VCPUsStart {
		if err := allowed(capability.CPUHotAdd); err != nil {
			return nil, err
		}
		if int64(ch.CPUs) > v.VCPUsMax {
			return refuse(capability.CPUHotAdd, "the machine was made for fewer CPUs (VCPUs_max): raise MaxCPUs while it is off")
		}
		out = append(out, step{"VM.set_VCPUs_number_live", []any{ch.CPUs}, "VM.set_VCPUs_number_live", []any{v.VCPUsStart}})
	}
	dmin, dmax := v.DynamicMin, v.DynamicMax
	if ch.MemoryBytes > 0 {
		dmin, dmax = ch.MemoryBytes, ch.MemoryBytes
	}
	if r := ch.DynamicMemory; r != nil && *r != (hypervisor.MemoryRange{}) {
		dmin, dmax = r.MinBytes, r.MaxBytes
	}
	if dmin != v.DynamicMin || dmax != v.DynamicMax {
		if err := allowed(capability.MemoryHotAdd); err != nil {
			return nil, err
		}
		if dmax > v.StaticMax {
			return refuse(capability.MemoryHotAdd, "the machine was made for less memory (memory_static_max): raise MaxMemoryBytes while it is off")
		}
		if dmin < v.StaticMin {
			return refuse(capability.MemoryDynamic, "the machine was made for more memory (memory_static_min): change it while it is off")
		}
		out = append(out, step{"VM.set_memory_dynamic_range", []any{dmin, dmax}, "VM.set_memory_dynamic_range", []any{v.DynamicMin, v.DynamicMax}})
	}
	return out, nil
}
