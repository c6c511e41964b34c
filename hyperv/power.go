package hyperv

import (
	"context"
	"errors"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// Values of RequestStateChange.RequestedState (Hyper-V WMI v2 reference,
// Msvm_ComputerSystem).
const (
	stateEnabled = 2
	stateOff     = 3
	stateSaved   = 6
	statePaused  = 9
	stateReset   = 11
)

// power has for each operation the state to request, the states that it is
// allowed in, and the states in which there is nothing to do.
var power = map[hypervisor.PowerOp]struct {
	request uint16
	from    []hypervisor.PowerState
	done    hypervisor.PowerState
}{
	hypervisor.PowerOpStart:    {stateEnabled, []hypervisor.PowerState{hypervisor.StateOff, hypervisor.StateSuspended}, hypervisor.StateRunning},
	hypervisor.PowerOpResume:   {stateEnabled, []hypervisor.PowerState{hypervisor.StatePaused, hypervisor.StateSuspended}, hypervisor.StateRunning},
	hypervisor.PowerOpOff:      {stateOff, []hypervisor.PowerState{hypervisor.StateRunning, hypervisor.StatePaused, hypervisor.StateSuspended, hypervisor.StateUnknown}, hypervisor.StateOff},
	hypervisor.PowerOpReset:    {stateReset, []hypervisor.PowerState{hypervisor.StateRunning, hypervisor.StatePaused}, ""},
	hypervisor.PowerOpPause:    {statePaused, []hypervisor.PowerState{hypervisor.StateRunning}, hypervisor.StatePaused},
	hypervisor.PowerOpSuspend:  {stateSaved, []hypervisor.PowerState{hypervisor.StateRunning}, hypervisor.StateSuspended},
	hypervisor.PowerOpShutdown: {0, []hypervisor.PowerState{hypervisor.StateRunning}, hypervisor.StateOff},
	hypervisor.PowerOpReboot:   {0, []hypervisor.PowerState{hypervisor.StateRunning}, ""},
}

// Power implements hypervisor.Powerer.
func (d *driver) Power(ctx context.Context, id hypervisor.VMID, r hypervisor.PowerRequest) (hypervisor.DriverTask, error) {
	m, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := m.startable(); err != nil {
		return nil, err
	}
	p := power[r.Op]
	if m.state == p.done {
		return hypervisor.DoneTask(hypervisor.TaskID("op:"+randomHex(16)), hypervisor.TaskState{}), nil
	}
	ok := false
	for _, s := range p.from {
		ok = ok || s == m.state
	}
	if !ok {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine is %s: %s needs it %v", m.state, r.Op, p.from)
	}
	switch {
	case r.Op == hypervisor.PowerOpShutdown || r.Op == hypervisor.PowerOpReboot:
		return m.askGuest(ctx, r)
	case r.Op == hypervisor.PowerOpOff && m.state == hypervisor.StateSuspended:
		return m.start(ctx, string(r.Op), "", func(o *op) (hypervisor.Ref, error) { return hypervisor.Ref{}, o.turnOff(m) })
	case r.Op == hypervisor.PowerOpSuspend:
		if err := m.unpinned(ctx, capability.PowerSuspend); err != nil {
			return nil, err
		}
	}
	look := m.done(m.in(p.done))
	if r.Op == hypervisor.PowerOpReset {
		look = unknown
	}
	return m.native(ctx, string(r.Op), m.request(look, m.ref(), "RequestStateChange", cim.Arg{Name: "RequestedState", Value: p.request}), nil)
}

// unpinned refuses what a machine with an assigned device can't do.
func (m *machine) unpinned(ctx context.Context, c capability.Name) error {
	s, err := m.d.Supports(ctx, c, m.id.Ref())
	if err != nil {
		return err
	}
	if s.Level == hypervisor.LevelNo {
		return hypervisor.Unsupported(m.id.Ref(), c, s.Reason, s.Detail)
	}
	return nil
}

// shutdownComponent finds the guest's shutdown service, which exists only
// while the machine runs with integration services.
func (m *machine) shutdownComponent(ctx context.Context) (cim.Ref, error) {
	i, err := cim.First(m.s.Query(ctx, cim.Virtualization, cim.Select("Msvm_ShutdownComponent", nil, "SystemName = "+cim.Quote(string(m.id)))), "the shutdown component")
	if isGone(err) || err == nil && !answers(i) {
		return cim.Ref{}, hypervisor.Unsupported(m.id.Ref(), capability.PowerShutdown, hypervisor.ReasonToolsMissing,
			"the guest has no shutdown service (integration services missing, switched off, or not started yet)")
	}
	if err != nil {
		return cim.Ref{}, err
	}
	i.Class = "Msvm_ShutdownComponent"
	return i.Self(m.h.name), nil
}

// shutdownUnderWay is the return value of Msvm_ShutdownComponent for a second
// request.
const shutdownUnderWay = 32782

// askGuest shuts down or reboots through the guest. There is no job: the
// machine's state shows the end.
func (m *machine) askGuest(ctx context.Context, r hypervisor.PowerRequest) (hypervisor.DriverTask, error) {
	comp, err := m.shutdownComponent(ctx)
	if err != nil {
		return nil, err
	}
	method, reason := "InitiateShutdown", "requested through the management API"
	if r.Op == hypervisor.PowerOpReboot {
		method = "InitiateReboot"
	}
	// Not forced: a guest with a locked screen and unsaved work may refuse,
	// and then reports it (32781).
	q := m.request(unknown, comp, method, cim.Arg{Name: "Force", Value: false}, cim.Arg{Name: "Reason", Value: reason})
	if r.Op == hypervisor.PowerOpShutdown {
		q.trace = trace{look: func(context.Context) (*cim.Result, error) { return nil, nil }} // a guest that is already shutting down reports it
	}
	return m.begin(ctx, string(r.Op), func(ctx context.Context) (hypervisor.DriverTask, error) {
		_, err := q.call(ctx)
		sent := errors.Is(err, cim.ErrLost)
		_, err = q.follow(ctx, nil, err)
		switch cim.ReturnOf(err) {
		case 32770, 1:
			return nil, hypervisor.Unsupported(m.id.Ref(), capability.PowerShutdown, hypervisor.ReasonToolsMissing, "the guest's shutdown service does not answer")
		case shutdownUnderWay:
			if r.Op == hypervisor.PowerOpShutdown {
				err = nil // as requested, by this call or another
			}
		}
		if sent && isGone(err) {
			err = nil // the service ended with the guest
		}
		if err != nil && !(r.Force && cim.ReturnOf(err) != 0) {
			return nil, err
		}
		refused := err
		return m.start(ctx, string(r.Op), "", func(o *op) (hypervisor.Ref, error) {
			if r.Op == hypervisor.PowerOpReboot {
				return hypervisor.Ref{}, nil // accepted; the machine keeps running throughout
			}
			o.Phase("waiting for the guest", -1)
			wait, cancel := context.WithTimeout(o.ctx, r.Timeout)
			defer cancel()
			if refused == nil {
				err := m.waitState(wait, hypervisor.StateOff)
				if err == nil || o.ctx.Err() != nil || wait.Err() == nil {
					return hypervisor.Ref{}, err
				}
				if !r.Force {
					return hypervisor.Ref{}, hypervisor.Errorf(hypervisor.ErrTimeout, m.id.Ref(), "the guest did not shut down within %v and is still running", r.Timeout)
				}
			}
			o.Phase("powering off", -1)
			_, err := o.call(m.done(m.in(hypervisor.StateOff)), m.ref(), "RequestStateChange", cim.Arg{Name: "RequestedState", Value: uint16(stateOff)})
			if cim.ReturnOf(err) == cim.ReturnInvalidState { // it was powered off meanwhile
				err = m.waitState(o.ctx, hypervisor.StateOff)
			}
			return hypervisor.Ref{}, err
		})
	})
}

// waitState reads the machine until it is in a state.
func (m *machine) waitState(ctx context.Context, want hypervisor.PowerState) error {
	pace := cim.Poll{First: m.d.poll.First, Last: max(m.d.poll.Last, time.Second)}
	for step := 0; ; step++ {
		i, err := cim.Read(ctx, m.s, m.ref())
		if err != nil {
			return err
		}
		if state(i) == want {
			return nil
		}
		if err := pace.Next(ctx, step); err != nil {
			return err
		}
	}
}

// turnOn starts or resumes a machine as a step of other work.
func (o *op) turnOn(m *machine) error {
	_, err := o.call(m.done(m.in(hypervisor.StateRunning)), m.ref(), "RequestStateChange", cim.Arg{Name: "RequestedState", Value: uint16(stateEnabled)})
	return err
}

// turnOff powers a machine off as a step of other work.
func (o *op) turnOff(m *machine) error {
	if m.state == hypervisor.StateOff {
		return nil
	}
	off := m.done(m.in(hypervisor.StateOff))
	_, err := o.call(off, m.ref(), "RequestStateChange", cim.Arg{Name: "RequestedState", Value: uint16(stateOff)})
	if m.state == hypervisor.StateSuspended && cim.ReturnOf(err) == cim.ReturnInvalidState {
		// Off drops the saved memory on most versions (libvirt's driver
		// relies on it). For those on which it does not, there is a separate
		// method.
		_, err = o.call(off, m.h.snapshots(), "ClearSnapshotState", cim.Arg{Name: "SnapshotSettingData", Value: m.settingsRef()})
	}
	return err
}
