package hypervisor

import (
	"cmp"
	"context"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/op"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
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
	Op              PowerOp
	ShutdownOptions // Timeout is set for Shutdown and Reboot
}

// ShutdownOptions are the options for VM.Shutdown and VM.Reboot.
type ShutdownOptions struct {
	Timeout time.Duration // how long the guest may take; 0 means 5 minutes
	// Force powers the machine off when the time is up, instead of failing
	// with ErrTimeout. Shutdown only.
	Force bool
}

const defaultShutdown = 5 * time.Minute

// powerOps has the name of each change of the power state and the capability
// that it needs.
var powerOps = map[PowerOp]struct {
	name op.Name
	need capability.Name
}{
	PowerOpStart:    {op.VMStart, capability.VMStart},
	PowerOpOff:      {op.VMPowerOff, capability.VMStart},
	PowerOpShutdown: {op.VMShutdown, capability.PowerShutdown},
	PowerOpReboot:   {op.VMReboot, capability.PowerShutdown},
	PowerOpReset:    {op.VMReset, capability.PowerReset},
	PowerOpPause:    {op.VMPause, capability.PowerPause},
	PowerOpSuspend:  {op.VMSuspend, capability.PowerSuspend},
	PowerOpResume:   {op.VMResume, capability.VMStart},
}

// Operation returns the name of the operation.
func (o PowerOp) Operation() op.Name { return powerOps[o].name }

// Capability returns the capability that the operation needs.
func (o PowerOp) Capability() capability.Name { return powerOps[o].need }

func (m *VM) power(ctx context.Context, r PowerRequest, bad *Error) *Task[None] {
	o := powerOps[r.Op]
	return start(ctx, m.c, o.name, m.Ref(), o.need, bad, func(ctx context.Context, d Powerer) (DriverTask, error) {
		return d.Power(ctx, m.id, r)
	}, noResult)
}

// Start powers the machine on, or resumes it if it is Suspended. It succeeds
// if the machine is Running. A Paused machine (use Resume) or a template is
// ErrInvalidState.
func (m *VM) Start(ctx context.Context) *Task[None] {
	return m.power(ctx, PowerRequest{Op: PowerOpStart}, nil)
}

// PowerOff cuts the power of a Running or Paused machine and drops the saved
// RAM of a Suspended one. It succeeds if the machine is Off.
func (m *VM) PowerOff(ctx context.Context) *Task[None] {
	return m.power(ctx, PowerRequest{Op: PowerOpOff}, nil)
}

// Shutdown asks the guest to shut down and waits until the machine is Off. A
// guest that can't be asked is ErrUnsupported with ReasonToolsMissing. One
// that takes too long is ErrTimeout, and the machine keeps running.
func (m *VM) Shutdown(ctx context.Context, o *ShutdownOptions) *Task[None] {
	r, bad := shutdownRequest(PowerOpShutdown, m.Ref(), o)
	return m.power(ctx, r, bad)
}

// Reboot asks the guest to restart.
func (m *VM) Reboot(ctx context.Context, o *ShutdownOptions) *Task[None] {
	r, bad := shutdownRequest(PowerOpReboot, m.Ref(), o)
	if bad == nil && r.Force {
		bad = invalid(op.VMReboot, m.Ref(), "Force makes no sense for Reboot: use Reset for a hard restart")
	}
	return m.power(ctx, r, bad)
}

func shutdownRequest(op PowerOp, on Ref, o *ShutdownOptions) (PowerRequest, *Error) {
	r := PowerRequest{op, orDefault(o)}
	if r.Timeout < 0 {
		return r, invalid(powerOps[op].name, on, "Timeout %v is negative", r.Timeout)
	}
	r.Timeout = cmp.Or(r.Timeout, defaultShutdown)
	return r, nil
}

// Reset restarts the machine without the guest's help. It must be Running or
// Paused.
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

// Resume lets a Paused or Suspended machine run again. It succeeds if the
// machine is Running. A machine that is Off is ErrInvalidState (use Start).
func (m *VM) Resume(ctx context.Context) *Task[None] {
	return m.power(ctx, PowerRequest{Op: PowerOpResume}, nil)
}
