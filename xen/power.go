package xen

import (
	"context"
	"errors"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// Power maps to VM.start, resume, hard_shutdown, clean_shutdown, hard_reboot,
// clean_reboot, pause, unpause and suspend. Which state each needs is
// xen-api's ocaml/xapi/xapi_vm_lifecycle.ml.
func (d *driver) Power(ctx context.Context, id hypervisor.VMID, r hypervisor.PowerRequest) (hypervisor.DriverTask, error) {
	vm, v, err := d.vm(ctx, id)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name}
	if v.Template {
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, on, "this is a template: turn it back with MarkVM, or deploy from it")
	}
	st := state(v.PowerState)
	wrong := func(remedy string) (hypervisor.DriverTask, error) {
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, on, "the machine is %s: %s", st, remedy)
	}
	call := func(k hypervisor.Capability, to hypervisor.PowerState, method string, args ...any) (hypervisor.DriverTask, error) {
		g := d.inState(vm, method, to)
		if to == st { // after a reboot it looks as before
			g = nil
		}
		return d.async(ctx, on, k, g, nil, method, append([]any{vm}, args...)...)
	}
	switch r.Op {
	case hypervisor.PowerOpStart:
		switch st {
		case hypervisor.Running:
			return done(on), nil
		case hypervisor.Paused:
			return wrong("use Resume")
		case hypervisor.Suspended:
			return call(hypervisor.PowerSuspend, hypervisor.Running, "VM.resume", false, false)
		}
		return call(hypervisor.VMCreate, hypervisor.Running, "VM.start", false, false)
	case hypervisor.PowerOpResume:
		switch st {
		case hypervisor.Running:
			return done(on), nil
		case hypervisor.Paused:
			return call(hypervisor.PowerPause, hypervisor.Running, "VM.unpause")
		case hypervisor.Suspended:
			return call(hypervisor.PowerSuspend, hypervisor.Running, "VM.resume", false, false)
		}
		return wrong("use Start")
	case hypervisor.PowerOpOff:
		if st == hypervisor.Off {
			return done(on), nil
		}
		return call(hypervisor.VMCreate, hypervisor.Off, "VM.hard_shutdown")
	case hypervisor.PowerOpReset:
		if st != hypervisor.Running && st != hypervisor.Paused {
			return wrong("start it first")
		}
		return call(hypervisor.PowerReset, hypervisor.Running, "VM.hard_reboot")
	case hypervisor.PowerOpPause:
		if st == hypervisor.Paused {
			return done(on), nil
		}
		if st != hypervisor.Running {
			return wrong("only a running machine can be paused")
		}
		return call(hypervisor.PowerPause, hypervisor.Paused, "VM.pause")
	case hypervisor.PowerOpSuspend:
		if st == hypervisor.Suspended {
			return done(on), nil
		}
		if st != hypervisor.Running {
			return wrong("only a running machine can be suspended")
		}
		return call(hypervisor.PowerSuspend, hypervisor.Suspended, "VM.suspend")
	case hypervisor.PowerOpShutdown:
		if st == hypervisor.Off {
			return done(on), nil
		}
	}
	// Graceful: through the guest's tools, with a time limit.
	if st != hypervisor.Running {
		return wrong("only a running guest can be asked; use PowerOff or Resume")
	}
	method := "VM.clean_shutdown"
	if r.Op == hypervisor.PowerOpReboot {
		method = "VM.clean_reboot"
	}
	if !slices.Contains(v.AllowedOperations, method[len("VM."):]) && len(v.CurrentOperations) == 0 && r.Op == hypervisor.PowerOpReboot || !d.toolsRun(ctx, v) && !r.Force {
		return nil, hypervisor.Unsupported(on, hypervisor.PowerShutdown, hypervisor.ReasonToolsMissing, toolsDetail)
	}
	return d.compose(ctx, string(r.Op), on, hypervisor.PowerShutdown, "", func(ctx context.Context, j *job) (hypervisor.Ref, error) {
		limited, stop := context.WithTimeoutCause(ctx, r.Timeout, hypervisor.ErrTimeout)
		defer stop()
		var err error
		if r.Op == hypervisor.PowerOpReboot {
			_, err = j.run(limited, 0, 1, method, vm)
		} else {
			_, err = j.runTo(limited, 0, 1, *d.inState(vm, method, hypervisor.Off), method, vm)
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
			return on, hypervisor.Errorf(hypervisor.KindTimeout, on, "the guest did not shut down within %v: %w", r.Timeout, hypervisor.ErrTimeout)
		}
		return on, err
	})
}

// toolsRun reports whether the guest can be asked to shut down.
func (d *driver) toolsRun(ctx context.Context, v vmRec) bool {
	if v.GuestMetrics.IsNull() {
		return false
	}
	var g guestMetricsRec
	if err := d.c.Call(ctx, &g, "VM_guest_metrics.get_record", v.GuestMetrics); err != nil {
		return false
	}
	return len(g.PVDrivers) > 0 || g.Other["feature-shutdown"] == "1" || slices.Contains(v.AllowedOperations, "clean_shutdown")
}
