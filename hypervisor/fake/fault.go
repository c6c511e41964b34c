package fake

import (
	"context"
	"path"
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Loss says where a connection is lost.
type Loss uint8

const (
	// BeforeSend: the call never reaches the platform. The driver renews the
	// connection and sends it again, once.
	BeforeSend Loss = iota + 1
	// AfterSend: the platform acts, its answer is lost. Calls that only read
	// are sent again.
	AfterSend
	// Watching: the connection breaks while the task is watched, which goes on.
	Watching
)

// Fault is something that goes wrong.
type Fault struct {
	// Op is the operation as the Observer and the call log name it, or a
	// pattern of package path: "vm.clone", "vm.*", "*". What is sent for a
	// template's deployment is "template.deploy".
	Op string
	// Object narrows the fault to one object's ID or name; empty means any.
	Object string
	Nth    int // strikes first at the Nth matching call; 0 means 1
	Count  int // and at so many in a row; 0 means 1, negative all that follow
	// Err is what the call or task fails with. A *NativeError stands for the
	// platform's own.
	Err error
	// After is the fraction of the task at which it fails; 0 refuses the call
	// unless Leftover is set.
	After float64
	// Leftover lets the task crash: what it had made stays and is named.
	Leftover bool
	Lost     Loss
	// Expire ends the session; the driver logs in again, once, by itself.
	Expire bool
}

// armed is a Fault that counts.
type armed struct {
	Fault
	met int
}

// Fail arms a fault.
func (b *Backend) Fail(f Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f.Nth = max(f.Nth, 1)
	if f.Count == 0 {
		f.Count = 1
	}
	b.faults = append(b.faults, &armed{Fault: f})
}

// Heal disarms all faults.
func (b *Backend) Heal() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = nil
}

// strike returns the fault of a call, if there is one.
func (b *Backend) strike(op string, on hypervisor.Ref) *Fault {
	for _, f := range b.faults {
		if ok, _ := path.Match(f.Op, op); !ok {
			continue
		}
		if f.Object != "" && f.Object != on.ID && f.Object != on.Name && f.Object != b.nameOf(on) {
			continue
		}
		if f.met++; f.met >= f.Nth && (f.Count < 0 || f.met < f.Nth+f.Count) {
			return &f.Fault
		}
	}
	return nil
}

func (b *Backend) nameOf(on hypervisor.Ref) string {
	if m, ok := b.vms[hypervisor.VMID(on.ID)]; ok {
		return m.Name
	}
	return ""
}

// Call is one call that reached the platform or was to reach it.
type Call struct {
	Op     string
	Object hypervisor.Ref
	Args   any // the request: a hypervisor.CloneRequest, VMSpec, …; nil if none
	At     time.Time
}

// Calls returns the call log, oldest first.
func (b *Backend) Calls() []Call {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := b.nCalls % b.cfg.CallLog
	if b.nCalls <= b.cfg.CallLog {
		return slices.Clone(b.calls)
	}
	return slices.Concat(b.calls[at:], b.calls[:at])
}

// ForgetCalls empties the call log.
func (b *Backend) ForgetCalls() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls, b.nCalls = nil, 0
}

func (b *Backend) logCall(op string, on hypervisor.Ref, args any) {
	c := Call{op, on, args, b.now()}
	if len(b.calls) < b.cfg.CallLog {
		b.calls = append(b.calls, c)
	} else {
		b.calls[b.nCalls%b.cfg.CallLog] = c
	}
	b.nCalls++
}

func unavailable(on hypervisor.Ref, unsent bool) *hypervisor.Error {
	e := hypervisor.Errorf(hypervisor.KindUnavailable, on, "the connection to the platform was lost")
	e.Unsent = unsent
	return e
}

// enter is what every call goes through: the session, the log, the latency
// and the faults. A fault that concerns the work itself is returned.
func (d *Driver) enter(ctx context.Context, op string, on hypervisor.Ref, args any) (*Fault, error) {
	b := d.b
	for attempt := 0; ; attempt++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		select {
		case <-d.done:
			return nil, hypervisor.Errorf(hypervisor.KindClosed, on, "%w", hypervisor.ErrClosed)
		default:
		}
		hypervisor.CountCalls(ctx, 1)
		b.mu.Lock()
		b.logCall(op, on, args)
		f := b.strike(op, on)
		b.mu.Unlock()
		if b.cfg.Latency > 0 {
			if err := sleep(ctx, b.cfg.Latency); err != nil {
				return nil, err
			}
		}
		switch {
		case f == nil:
			return nil, nil
		case f.Expire && attempt == 0:
			if err := d.login(ctx); err != nil {
				return nil, err
			}
		case f.Expire:
			return nil, hypervisor.Errorf(hypervisor.KindUnauthenticated, on, "the session expired again right after it was renewed")
		case f.Lost == BeforeSend && attempt == 0:
		case f.Lost == BeforeSend:
			return nil, unavailable(on, true)
		case f.Err != nil && f.After <= 0 && !f.Leftover && f.Lost == 0:
			return nil, f.Err
		default:
			return f, nil
		}
	}
}

// read is enter for calls that only read: an answer that was lost is asked
// for again, once.
func (d *Driver) read(ctx context.Context, op string, on hypervisor.Ref) error {
	for range 2 {
		f, err := d.enter(ctx, op, on, nil)
		if err != nil || f == nil {
			return err
		}
		if f.Err != nil {
			return f.Err
		}
	}
	return unavailable(on, false)
}

// answer is what a change that is made at once returns: the fault may have
// eaten it.
func (f *Fault) answer(on hypervisor.Ref) error {
	switch {
	case f == nil:
		return nil
	case f.Err != nil:
		return f.Err
	case f.Lost != 0 || f.Leftover:
		return unavailable(on, false)
	}
	return nil
}

// login renews the session.
func (d *Driver) login(ctx context.Context) error {
	b := d.b
	hypervisor.CountCalls(ctx, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	on := hypervisor.Ref{Kind: hypervisor.KindOfClient, ID: b.cfg.Name}
	b.logCall("session.login", on, nil)
	if f := b.strike("session.login", on); f != nil {
		return hypervisor.Errorf(hypervisor.KindUnauthenticated, on, "the session can't be renewed: %w", f.Err)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
