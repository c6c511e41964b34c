package vsphere

import (
	"context"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
)

const toolsOff = "VMware Tools do not run in the guest: install open-vm-tools or VMware Tools, or power off instead"

// Power maps the operations to the tasks of the same names. vSphere has no
// paused state.
func (d *driver) Power(ctx context.Context, id hypervisor.VMID, r hypervisor.PowerRequest) (hypervisor.DriverTask, error) {
	p, err := d.one(ctx, vmRef(id), "runtime.powerState", "summary.config.template", "guest.toolsRunningStatus", notePath, basePath)
	if err != nil {
		return nil, err
	}
	state := stateOf(get[types.VirtualMachinePowerState](p, "runtime.powerState"))
	if d.isTemplate(vmRef(id), p) {
		return nil, invalidState(id.Ref(), "this is a template: deploy a machine from it, or turn it back into one")
	}
	wrong := func(remedy string) (hypervisor.DriverTask, error) {
		return nil, invalidState(id.Ref(), "the machine is %s: %s", state, remedy)
	}
	done := func() (hypervisor.DriverTask, error) {
		return hypervisor.DoneTask(newID("power"), hypervisor.TaskState{Result: id.Ref()}), nil
	}
	tools := get[string](p, "guest.toolsRunningStatus") == string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
	needTools := func() error {
		return hypervisor.Unsupported(id.Ref(), capability.PowerShutdown, hypervisor.ReasonToolsMissing, toolsOff)
	}
	var begin func(context.Context, hypervisor.VMID) (ref, error)
	switch r.Op {
	case hypervisor.PowerOpStart:
		if state == hypervisor.StateRunning {
			return done()
		}
		begin = d.startPowerOn
	case hypervisor.PowerOpResume:
		switch state {
		case hypervisor.StateRunning:
			return done()
		case hypervisor.StateOff:
			return wrong("start it")
		}
		begin = d.startPowerOn
	case hypervisor.PowerOpOff:
		if state == hypervisor.StateOff {
			return done()
		}
		begin = d.startPowerOff
	case hypervisor.PowerOpReset:
		if state != hypervisor.StateRunning {
			return wrong("only a running one is reset")
		}
		begin = func(ctx context.Context, id hypervisor.VMID) (ref, error) {
			return d.launch(ctx, vmRef(id), "reset", nil, func() (ref, error) {
				return taskOf(methods.ResetVM_Task(ctx, d.rt, &types.ResetVM_Task{This: vmRef(id)}))
			})
		}
	case hypervisor.PowerOpSuspend:
		switch state {
		case hypervisor.StateSuspended:
			return done()
		case hypervisor.StateOff:
			return wrong("only a running one is suspended")
		}
		begin = func(ctx context.Context, id hypervisor.VMID) (ref, error) {
			return d.launchPower(ctx, id, "suspend", types.VirtualMachinePowerStateSuspended, func() (ref, error) {
				return taskOf(methods.SuspendVM_Task(ctx, d.rt, &types.SuspendVM_Task{This: vmRef(id)}))
			})
		}
	case hypervisor.PowerOpPause:
		return nil, hypervisor.Unsupported(id.Ref(), capability.PowerPause, hypervisor.ReasonPlatform, noPause)
	case hypervisor.PowerOpShutdown:
		switch {
		case state == hypervisor.StateOff:
			return done()
		case state != hypervisor.StateRunning:
			return wrong("only a running one can shut down")
		case !tools:
			return nil, needTools()
		}
		return d.shutdown(ctx, id, r)
	case hypervisor.PowerOpReboot:
		switch {
		case state != hypervisor.StateRunning:
			return wrong("only a running one can restart")
		case !tools:
			return nil, needTools()
		}
		return d.compose(ctx, "reboot", id.Ref(), func(ctx context.Context, _ *job.Job) (hypervisor.Ref, error) {
			_, err := methods.RebootGuest(context.WithoutCancel(ctx), d.rt, &types.RebootGuest{This: vmRef(id)})
			return id.Ref(), toolsGone(err, id)
		})
	default:
		return nil, hypervisor.Unsupported(id.Ref(), capability.PowerReset, hypervisor.ReasonNotImplemented, "unknown power operation "+string(r.Op))
	}
	return d.start(ctx, id.Ref(), func(ctx context.Context) (ref, error) { return begin(ctx, id) }, nil)
}

func toolsGone(err error, id hypervisor.VMID) error {
	if _, ok := faultOf(err).(*types.ToolsUnavailable); ok {
		return hypervisor.Unsupported(id.Ref(), capability.PowerShutdown, hypervisor.ReasonToolsMissing, toolsOff)
	}
	return err
}

func (d *driver) startPowerOn(ctx context.Context, id hypervisor.VMID) (ref, error) {
	return d.launchPower(ctx, id, "powerOn", types.VirtualMachinePowerStatePoweredOn, func() (ref, error) {
		return taskOf(methods.PowerOnVM_Task(ctx, d.rt, &types.PowerOnVM_Task{This: vmRef(id)}))
	})
}

func (d *driver) startPowerOff(ctx context.Context, id hypervisor.VMID) (ref, error) {
	return d.launchPower(ctx, id, "powerOff", types.VirtualMachinePowerStatePoweredOff, func() (ref, error) {
		return taskOf(methods.PowerOffVM_Task(ctx, d.rt, &types.PowerOffVM_Task{This: vmRef(id)}))
	})
}

// powerOff succeeds if the machine was powered off meanwhile.
func (d *driver) powerOff(ctx context.Context, id hypervisor.VMID) error {
	_, err := d.step(ctx, nil, func(ctx context.Context) (ref, error) { return d.startPowerOff(ctx, id) })
	if f, ok := faultOf(err).(*types.InvalidPowerState); ok && f.ExistingState == types.VirtualMachinePowerStatePoweredOff {
		return nil
	}
	return err
}

// shutdown asks the guest, and waits for the state to change.
func (d *driver) shutdown(ctx context.Context, id hypervisor.VMID, r hypervisor.PowerRequest) (hypervisor.DriverTask, error) {
	return d.compose(ctx, "shutdown", id.Ref(), func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		if _, err := methods.ShutdownGuest(context.WithoutCancel(ctx), d.rt, &types.ShutdownGuest{This: vmRef(id)}); err != nil {
			return id.Ref(), toolsGone(err, id)
		}
		wait, stop := context.WithTimeout(ctx, r.Timeout)
		defer stop()
		err := d.waitState(wait, id, types.VirtualMachinePowerStatePoweredOff)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			err = ctx.Err()
		case wait.Err() == nil:
		case r.Force:
			err = d.powerOff(ctx, id)
			j.Note("the guest did not shut down within " + r.Timeout.String() + " and was powered off")
		default:
			err = hypervisor.Errorf(hypervisor.ErrTimeout, id.Ref(), "the guest did not shut down within %v and is still running", r.Timeout)
		}
		return id.Ref(), err
	})
}

// waitState waits by long poll until a machine has a power state.
func (d *driver) waitState(ctx context.Context, id hypervisor.VMID, want types.VirtualMachinePowerState) error {
	const path = "runtime.powerState"
	for try := 0; ; try++ {
		gen := d.session.gen.Load()
		pc, err := d.newCollector(ctx, refSpec([]ref{vmRef(id)}, []string{path}))
		if err != nil {
			return err
		}
		version := ""
		for {
			var set *types.UpdateSet
			if set, err = d.updates(ctx, pc, version, longPoll); err != nil {
				break
			}
			if set == nil {
				continue
			}
			version = set.Version
			for _, f := range set.FilterSet {
				for _, o := range f.ObjectSet {
					for _, c := range o.ChangeSet {
						if c.Name == path && c.Val == want {
							d.later(func(ctx context.Context) { d.dropCollector(ctx, pc) })
							return nil
						}
					}
				}
			}
		}
		d.later(func(ctx context.Context) { d.dropCollector(ctx, pc) })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if try == 2 || gen == d.session.gen.Load() && kindOf(err) != hypervisor.ErrUnavailable {
			return err
		}
		select { // a server that just vanished needs a moment
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
