package hypervisor

import (
	"context"
	"time"
)

// PowerOp is a change of the power state.
type PowerOp string

const (
	PowerOpStart    PowerOp = "start"    // Off or Suspended to Running
	PowerOpShutdown PowerOp = "shutdown" // Running to Off, through the guest
	PowerOpOff      PowerOp = "off"      // anything to Off, at once; a Suspended machine loses its RAM
	PowerOpReset    PowerOp = "reset"    // hard restart of a Running or Paused machine
	PowerOpReboot   PowerOp = "reboot"   // restart through the guest
	PowerOpPause    PowerOp = "pause"    // Running to Paused
	PowerOpSuspend  PowerOp = "suspend"  // Running to Suspended
	PowerOpResume   PowerOp = "resume"   // Paused or Suspended to Running
)

// PowerRequest is what a driver gets. Timeout is above zero for the graceful
// operations.
type PowerRequest struct {
	Op      PowerOp
	Timeout time.Duration
	Force   bool // PowerOpShutdown: power off when the time is up
}

// ShutdownOptions for VM.Shutdown and VM.Reboot.
type ShutdownOptions struct {
	Timeout time.Duration // how long the guest may take; 0 means 5 minutes
	// ThenOff powers the machine off when the time is up, instead of failing
	// with ErrTimeout. Shutdown only.
	ThenOff bool
}

const defaultShutdown = 5 * time.Minute

var powerCapability = map[PowerOp]Capability{
	PowerOpShutdown: PowerShutdown, PowerOpReboot: PowerShutdown, PowerOpReset: PowerReset,
	PowerOpPause: PowerPause, PowerOpSuspend: PowerSuspend, PowerOpStart: VMCreate, PowerOpOff: VMCreate,
	PowerOpResume: PowerPause,
}

func (m *VM) power(ctx context.Context, r PowerRequest, bad *Error) *Task[None] {
	return start(ctx, m.c, "vm."+string(r.Op), m.ref(), powerCapability[r.Op], bad, func(ctx context.Context, d Powerer) (DriverTask, error) {
		return d.Power(ctx, m.id, r)
	}, noResult)
}

// Start powers the machine on, or resumes it if Suspended. A Running machine
// is success. A Paused one is ErrInvalidState (use Resume), a template too.
func (m *VM) Start(ctx context.Context) *Task[None] {
	return m.power(ctx, PowerRequest{Op: PowerOpStart}, nil)
}

// PowerOff cuts the power of a Running or Paused machine and drops the saved
// RAM of a Suspended one. A machine that is Off is success.
func (m *VM) PowerOff(ctx context.Context) *Task[None] {
	return m.power(ctx, PowerRequest{Op: PowerOpOff}, nil)
}

// Shutdown asks the guest to shut down and waits until the machine is Off. A
// guest that can't be asked is ErrUnsupported with ReasonToolsMissing, one
// that takes too long ErrTimeout (the machine goes on running).
func (m *VM) Shutdown(ctx context.Context, o *ShutdownOptions) *Task[None] {
	r, bad := shutdownRequest(PowerOpShutdown, m.ref(), o)
	return m.power(ctx, r, bad)
}

// Reboot asks the guest to restart.
func (m *VM) Reboot(ctx context.Context, o *ShutdownOptions) *Task[None] {
	r, bad := shutdownRequest(PowerOpReboot, m.ref(), o)
	if bad == nil && r.Force {
		bad = invalid("vm.reboot", m.ref(), "ThenOff makes no sense for Reboot: use Reset for a hard restart")
	}
	return m.power(ctx, r, bad)
}

func shutdownRequest(op PowerOp, on Ref, o *ShutdownOptions) (PowerRequest, *Error) {
	r := PowerRequest{Op: op, Timeout: defaultShutdown}
	if o == nil {
		return r, nil
	}
	if o.Timeout < 0 {
		return r, invalid("vm."+string(op), on, "Timeout %v is negative", o.Timeout)
	}
	if o.Timeout > 0 {
		r.Timeout = o.Timeout
	}
	r.Force = o.ThenOff
	return r, nil
}

// Reset restarts the machine the hard way. It must be Running or Paused.
func (m *VM) Reset(ctx context.Context) *Task[None] {
	return m.power(ctx, PowerRequest{Op: PowerOpReset}, nil)
}

// Pause stops the vCPUs and keeps the RAM in memory.
func (m *VM) Pause(ctx context.Context) *Task[None] {
	return m.power(ctx, PowerRequest{Op: PowerOpPause}, nil)
}

// Suspend writes the RAM to disk and frees the host's memory.
func (m *VM) Suspend(ctx context.Context) *Task[None] {
	return m.power(ctx, PowerRequest{Op: PowerOpSuspend}, nil)
}

// Resume lets a Paused or Suspended machine run on. A Running one is success,
// one that is Off ErrInvalidState (use Start).
func (m *VM) Resume(ctx context.Context) *Task[None] {
	return m.power(ctx, PowerRequest{Op: PowerOpResume}, nil)
}
