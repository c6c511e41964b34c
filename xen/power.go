package xen

import (
	"context"
	"errors"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// Power maps operations to VM.start, resume, hard_shutdown, clean_shutdown,
// hard_reboot, clean_reboot, pause, unpause and suspend. The state that each
// of them needs is in xen-api's ocaml/xapi/xapi_vm_lifecycle.ml.
func (d *driver) Power(ctx context.Context, id hypervisor.VMID, r hypervisor.PowerRequest) (hypervisor.DriverTask, error) {
	vm, v, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name}
	if v.Template {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, on, "this is a template: turn it back with MarkVM, or deploy from it")
	}
	st := state(v.PowerState)
	wrong := func(remedy string) (hypervisor.DriverTask, error) {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, on, "the machine is %s: %s", st, remedy)
	}
	call := func(k capability.Name, to hypervisor.PowerState, method string, args ...any) (hypervisor.DriverTask, error) {
		g := d.inState(vm, method, to)
		if to == st { // after a reboot it looks the same as before
			g = nil
		}
		return d.async(ctx, on, k, g, nil, method, append([]any{vm}, args...)...)
	}
	switch r.Op {
	case hypervisor.PowerOpStart:
		switch st {
		case hypervisor.StateRunning:
			return done(on), nil
		case hypervisor.StatePaused:
			return wrong("use Resume")
		case hypervisor.StateSuspended:
			return call(capability.PowerSuspend, hypervisor.StateRunning, "VM.resume", false, false)
		}
		if v.ill() {
			return d.compose(ctx, "start", on, capability.VMStart, "", func(ctx context.Context, j *poolJob) (hypervisor.Ref, error) {
				if err := j.repair(ctx, vm); err != nil {
					return on, err
				}
				_, err := j.runTo(ctx, 0.8, 1, *d.inState(vm, "VM.start", hypervisor.StateRunning), "VM.start", vm, false, false)
				return on, err
			})
		}
		return call(capability.VMStart, hypervisor.StateRunning, "VM.start", false, false)
	case hypervisor.PowerOpResume:
		switch st {
		case hypervisor.StateRunning:
			return done(on), nil
		case hypervisor.StatePaused:
			return call(capability.PowerPause, hypervisor.StateRunning, "VM.unpause")
		case hypervisor.StateSuspended:
			return call(capability.PowerSuspend, hypervisor.StateRunning, "VM.resume", false, false)
		}
		return wrong("use Start")
	case hypervisor.PowerOpOff:
		if st == hypervisor.StateOff {
			return done(on), nil
		}
		return call(capability.VMStart, hypervisor.StateOff, "VM.hard_shutdown")
	case hypervisor.PowerOpReset:
		if st != hypervisor.StateRunning && st != hypervisor.StatePaused {
			return wrong("start it first")
		}
		return call(capability.PowerReset, hypervisor.StateRunning, "VM.hard_reboot")
	case hypervisor.PowerOpPause:
		if st == hypervisor.StatePaused {
			return done(on), nil
		}
		if st != hypervisor.StateRunning {
			return wrong("only a running machine can be paused")
		}
		return call(capability.PowerPause, hypervisor.StatePaused, "VM.pause")
	case hypervisor.PowerOpSuspend:
		if st == hypervisor.StateSuspended {
			return done(on), nil
		}
		if st != hypervisor.StateRunning {
			return wrong("only a running machine can be suspended")
		}
		return call(capability.PowerSuspend, hypervisor.StateSuspended, "VM.suspend")
	case hypervisor.PowerOpShutdown:
		if st == hypervisor.StateOff {
			return done(on), nil
		}
	}
	// Graceful: through the guest's tools, with a time limit.
	if st != hypervisor.StateRunning {
		return wrong("only a running guest can be asked; use PowerOff or Resume")
	}
	method := "VM.clean_shutdown"
	if r.Op == hypervisor.PowerOpReboot {
		method = "VM.clean_reboot"
	}
	tools, err := d.toolsRun(ctx, v)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(v.AllowedOperations, method[len("VM."):]) && len(v.CurrentOperations) == 0 && r.Op == hypervisor.PowerOpReboot || !tools && !r.Force {
		return nil, hypervisor.Unsupported(on, capability.PowerShutdown, hypervisor.ReasonToolsMissing, toolsDetail)
	}
	return d.compose(ctx, string(r.Op), on, capability.PowerShutdown, "", func(ctx context.Context, j *poolJob) (hypervisor.Ref, error) {
		limited, stop := context.WithTimeoutCause(ctx, r.Timeout, hypervisor.ErrTimeout)
		defer stop()
		var err error
		if r.Op == hypervisor.PowerOpReboot {
			_, err = j.run(limited, 0, 1, method, vm)
		} else {
			_, err = j.runTo(limited, 0, 1, *d.inState(vm, method, hypervisor.StateOff), method, vm)
		}
		if err == nil || ctx.Err() != nil {
			return on, err
		}
		late := errors.Is(context.Cause(limited), hypervisor.ErrTimeout)
		switch {
		case r.Force && (late || xapi.Code(err) == "VM_LACKS_FEATURE"):
			_, err = j.run(ctx, 0.9, 1, "VM.hard_shutdown", vm)
			return on, err
		case late:
			return on, hypervisor.Errorf(hypervisor.ErrTimeout, on, "the guest did not shut down within %v: %w", r.Timeout, hypervisor.ErrTimeout)
		}
		return on, err
	})
}

// toolsRun reports whether the guest can be asked to shut down.
func (d *driver) toolsRun(ctx context.Context, v vmRec) (bool, error) {
	if v.GuestMetrics.IsNull() {
		return false, nil
	}
	var g guestMetricsRec
	err := d.c.Call(ctx, &g, "VM_guest_metrics.get_record", v.GuestMetrics)
	switch {
	case kindOf(err) == hypervisor.ErrNotFound: // the machine has just stopped
		return false, nil
	case err != nil:
		return false, err
	}
	return len(g.PVDrivers) > 0 || g.Other["feature-shutdown"] == "1" || slices.Contains(v.AllowedOperations, "clean_shutdown"), nil
}
