package vsphere

import (
	"context"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

const toolsOff = "VMware Tools do not run in the guest: install open-vm-tools or VMware Tools, or power off instead"

// Power maps the operations to the tasks of the same names. vSphere has no
// paused state.
func (d *driver) Power(ctx context.Context, id hypervisor.VMID, r hypervisor.PowerRequest) (hypervisor.DriverTask, error) {
	p, err := d.one(ctx, vmRef(id), "runtime.powerState", "summary.config.template", "guest.toolsRunningStatus")
	if err != nil {
		return nil, err
	}
	state := stateOf(get[types.VirtualMachinePowerState](p, "runtime.powerState"))
	if get[bool](p, "summary.config.template") {
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
		return hypervisor.Unsupported(id.Ref(), hypervisor.PowerShutdown, hypervisor.ReasonToolsMissing, toolsOff)
	}
	var self ref
	switch r.Op {
	case hypervisor.PowerOpStart:
		if state == hypervisor.Running {
			return done()
		}
		self, err = d.startPowerOn(ctx, id)
	case hypervisor.PowerOpResume:
		switch state {
		case hypervisor.Running:
			return done()
		case hypervisor.Off:
			return wrong("start it")
		}
		self, err = d.startPowerOn(ctx, id)
	case hypervisor.PowerOpOff:
		if state == hypervisor.Off {
			return done()
		}
		self, err = d.startPowerOff(ctx, id)
	case hypervisor.PowerOpReset:
		if state != hypervisor.Running {
			return wrong("only a running one is reset")
		}
		var res *types.ResetVM_TaskResponse
		if res, err = methods.ResetVM_Task(ctx, d.rt, &types.ResetVM_Task{This: vmRef(id)}); err == nil {
			self = res.Returnval
		}
	case hypervisor.PowerOpSuspend:
		switch state {
		case hypervisor.Suspended:
			return done()
		case hypervisor.Off:
			return wrong("only a running one is suspended")
		}
		var res *types.SuspendVM_TaskResponse
		if res, err = methods.SuspendVM_Task(ctx, d.rt, &types.SuspendVM_Task{This: vmRef(id)}); err == nil {
			self = res.Returnval
		}
	case hypervisor.PowerOpPause:
		return nil, hypervisor.Unsupported(id.Ref(), hypervisor.PowerPause, hypervisor.ReasonPlatform, noPause)
	case hypervisor.PowerOpShutdown:
		switch {
		case state == hypervisor.Off:
			return done()
		case state != hypervisor.Running:
			return wrong("only a running one can shut down")
		case !tools:
			return nil, needTools()
		}
		return d.shutdown(ctx, id, r)
	case hypervisor.PowerOpReboot:
		switch {
		case state != hypervisor.Running:
			return wrong("only a running one can restart")
		case !tools:
			return nil, needTools()
		}
		if _, err := methods.RebootGuest(ctx, d.rt, &types.RebootGuest{This: vmRef(id)}); err != nil {
			return nil, toolsGone(err, id)
		}
		return done()
	default:
		return nil, hypervisor.Unsupported(id.Ref(), hypervisor.PowerReset, hypervisor.ReasonNotImplemented, "unknown power operation "+string(r.Op))
	}
	if err != nil {
		return nil, err
	}
	return d.job(self), nil
}

func toolsGone(err error, id hypervisor.VMID) error {
	if _, ok := faultOf(err).(*types.ToolsUnavailable); ok {
		return hypervisor.Unsupported(id.Ref(), hypervisor.PowerShutdown, hypervisor.ReasonToolsMissing, toolsOff)
	}
	return err
}

func (d *driver) startPowerOn(ctx context.Context, id hypervisor.VMID) (ref, error) {
	return d.launch(ctx, vmRef(id), "powerOn", nil, func() (ref, error) {
		res, err := methods.PowerOnVM_Task(ctx, d.rt, &types.PowerOnVM_Task{This: vmRef(id)})
		if err != nil {
			return ref{}, err
		}
		return res.Returnval, nil
	})
}

func (d *driver) startPowerOff(ctx context.Context, id hypervisor.VMID) (ref, error) {
	return d.launch(ctx, vmRef(id), "powerOff", nil, func() (ref, error) {
		res, err := methods.PowerOffVM_Task(ctx, d.rt, &types.PowerOffVM_Task{This: vmRef(id)})
		if err != nil {
			return ref{}, err
		}
		return res.Returnval, nil
	})
}

// powerOff is success for a machine that went off meanwhile.
func (d *driver) powerOff(ctx context.Context, id hypervisor.VMID) error {
	_, err := d.step(ctx, nil, func(ctx context.Context) (ref, error) { return d.startPowerOff(ctx, id) })
	if f, ok := faultOf(err).(*types.InvalidPowerState); ok && f.ExistingState == types.VirtualMachinePowerStatePoweredOff {
		return nil
	}
	return err
}

// shutdown asks the guest, and waits for the state to change.
func (d *driver) shutdown(ctx context.Context, id hypervisor.VMID, r hypervisor.PowerRequest) (hypervisor.DriverTask, error) {
	if _, err := methods.ShutdownGuest(ctx, d.rt, &types.ShutdownGuest{This: vmRef(id)}); err != nil {
		return nil, toolsGone(err, id)
	}
	return d.group.Go(ctx, newID("shutdown"), func(ctx context.Context, _ func(hypervisor.TaskState)) hypervisor.TaskState {
		wait, stop := context.WithTimeout(ctx, r.Timeout)
		defer stop()
		s := hypervisor.TaskState{Result: id.Ref()}
		err := d.waitState(wait, id, types.VirtualMachinePowerStatePoweredOff)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			s.Err = ctx.Err()
		case wait.Err() == nil:
			s.Err = err
		case r.Force:
			s.Err = d.powerOff(ctx, id)
			s.Notes = []string{"the guest did not shut down within " + r.Timeout.String() + " and was powered off"}
		default:
			s.Err = hypervisor.Errorf(hypervisor.KindTimeout, id.Ref(), "the guest did not shut down within %v and goes on running", r.Timeout)
		}
		return s
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
		if try == 2 || gen == d.session.gen.Load() && kindOf(err) != hypervisor.KindUnavailable {
			return err
		}
		select { // a server that just went away needs a moment
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
