package fake

import (
	"context"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// powered maps each operation to the states that it starts from and leads to.
var powered = map[hypervisor.PowerOp]struct {
	from []hypervisor.PowerState
	to   hypervisor.PowerState
}{
	hypervisor.PowerOpStart:    {[]hypervisor.PowerState{hypervisor.StateOff, hypervisor.StateSuspended}, hypervisor.StateRunning},
	hypervisor.PowerOpShutdown: {[]hypervisor.PowerState{hypervisor.StateRunning}, hypervisor.StateOff},
	hypervisor.PowerOpOff:      {[]hypervisor.PowerState{hypervisor.StateRunning, hypervisor.StatePaused, hypervisor.StateSuspended}, hypervisor.StateOff},
	hypervisor.PowerOpReset:    {[]hypervisor.PowerState{hypervisor.StateRunning, hypervisor.StatePaused}, ""},
	hypervisor.PowerOpReboot:   {[]hypervisor.PowerState{hypervisor.StateRunning}, ""},
	hypervisor.PowerOpPause:    {[]hypervisor.PowerState{hypervisor.StateRunning}, hypervisor.StatePaused},
	hypervisor.PowerOpSuspend:  {[]hypervisor.PowerState{hypervisor.StateRunning}, hypervisor.StateSuspended},
	hypervisor.PowerOpResume:   {[]hypervisor.PowerState{hypervisor.StatePaused, hypervisor.StateSuspended}, hypervisor.StateRunning},
}

// Power changes the power state.
func (d *Driver) Power(ctx context.Context, id hypervisor.VMID, r hypervisor.PowerRequest) (hypervisor.DriverTask, error) {
	name := r.Op.Operation()
	f, err := d.enter(ctx, name, id.Ref(), r)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.machine(id, "change its power state")
	if err != nil {
		return nil, err
	}
	p, ok := powered[r.Op]
	if !ok {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, m.ref(), "unknown power operation %q", r.Op)
	}
	if err := b.free(vmKey(id), false); err != nil {
		return nil, err
	}
	w := work{op: name, on: m.ref(), excl: []hypervisor.Ref{vmKey(id)}}
	if m.State == p.to {
		w.takes = new(time.Duration)
		return d.run(f, w)
	}
	fromHere := false
	for _, s := range p.from {
		fromHere = fromHere || s == m.State
	}
	if err := b.require(r.Op.Capability(), m.ref(), m.ref()); err != nil {
		return nil, err
	}
	if !fromHere {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, m.ref(), "the machine is %s: it can't %s", m.State, r.Op)
	}
	if p.to == hypervisor.StateRunning && m.State != hypervisor.StatePaused {
		if err := b.room(m, m.Host); err != nil {
			return nil, err
		}
	}
	late := false
	if r.Op == hypervisor.PowerOpShutdown || r.Op == hypervisor.PowerOpReboot {
		w.phases = []string{"waiting for the guest"}
		takes := m.Guest.ShutdownTime
		if takes == 0 {
			takes = b.delay(name)
		}
		if late = m.Guest.Hangs || takes > r.Timeout; late {
			takes = r.Timeout
		}
		w.takes = &takes
	}
	w.finish = func(*hypervisor.TaskState) error {
		if late && !r.Force {
			return hypervisor.Errorf(hypervisor.ErrTimeout, m.ref(), "the guest didn't react within %v; the machine is %s", r.Timeout, m.State)
		}
		return b.apply(m, r.Op)
	}
	return d.run(f, w)
}

func (b *Backend) apply(m *vm, op hypervisor.PowerOp) error {
	switch op {
	case hypervisor.PowerOpStart, hypervisor.PowerOpResume:
		return b.start(m)
	case hypervisor.PowerOpShutdown, hypervisor.PowerOpOff:
		b.halt(m)
	case hypervisor.PowerOpReset, hypervisor.PowerOpReboot:
		m.State = hypervisor.StateRunning
		b.boot(m)
		b.emit(hypervisor.EventVMState, m, string(op))
	case hypervisor.PowerOpPause:
		b.stopClock(m)
		b.setState(m, hypervisor.StatePaused)
	case hypervisor.PowerOpSuspend:
		b.stopClock(m)
		b.vacate(m.Host, m.Mem)
		b.setState(m, hypervisor.StateSuspended)
	}
	return nil
}

func (b *Backend) setState(m *vm, s hypervisor.PowerState) {
	if m.State == s {
		return
	}
	m.State = s
	b.emit(hypervisor.EventVMState, m, string(s))
}

// start makes a machine run, from whatever state it is in.
func (b *Backend) start(m *vm) error {
	if m.State == hypervisor.StateRunning {
		return nil
	}
	if m.State == hypervisor.StatePaused {
		b.runClock(m)
		b.setState(m, hypervisor.StateRunning)
		return nil
	}
	if err := b.room(m, m.Host); err != nil {
		return err
	}
	b.occupy(m.Host, m.Mem)
	if m.State == hypervisor.StateSuspended {
		b.runClock(m)
	} else {
		b.boot(m)
	}
	b.setState(m, hypervisor.StateRunning)
	return nil
}

// halt brings a machine to Off. Its RAM is lost.
func (b *Backend) halt(m *vm) {
	if m.State == hypervisor.StateOff {
		return
	}
	if m.active() {
		b.vacate(m.Host, m.Mem)
	}
	g := &m.Guest
	g.RAM, g.Frozen, g.Stopped, g.Up = "", false, time.Time{}, time.Time{}
	b.setState(m, hypervisor.StateOff)
	if p := m.Pending; p != nil {
		m.Pending = nil
		b.reshape(m, *p)
	}
}

// boot starts the guest anew.
func (b *Backend) boot(m *vm) {
	g := &m.Guest
	now := b.now()
	g.RAM, g.Frozen, g.Stopped = "", false, time.Time{}
	g.Boots++
	g.Up, g.Since, g.Offset = now, now, 0
}

// stopClock and runClock: a guest's clock stands still while the guest does.
func (b *Backend) stopClock(m *vm) {
	if m.Guest.Stopped.IsZero() {
		m.Guest.Stopped = b.now()
	}
}

func (b *Backend) runClock(m *vm) {
	g := &m.Guest
	if g.Stopped.IsZero() {
		return
	}
	gap := b.now().Sub(g.Stopped)
	g.Offset -= gap
	g.Since, g.Up = g.Since.Add(gap), g.Up.Add(gap)
	g.Stopped = time.Time{}
}
