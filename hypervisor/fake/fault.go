package fake

import (
	"context"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// Loss is the point at which a connection is lost.
type Loss uint8

const (
	// BeforeSend means that the call never reaches the platform. The driver
	// renews the connection and sends the call again, once.
	BeforeSend Loss = iota + 1
	// AfterSend means that the platform acts and its answer is lost. Calls
	// that only read are sent again.
	AfterSend
	// Watching means that the connection breaks while the task is watched.
	// The task continues.
	Watching
	// NoAnswer means that the platform is silent. The call never reaches it,
	// and ends with its context or with Close. Heal breaks the silent
	// connection; the driver makes a new one and sends the call again.
	NoAnswer
	// LateAnswer means that the platform acts at once, and answers after
	// Heal. It strikes calls that start a task: whoever waits for the task
	// learns nothing of it until then.
	LateAnswer
)

// Fault is a failure to inject.
type Fault struct {
	// Op is the operation by the name in the Observer and the call log, or a
	// pattern of package path: op.VMClone, "vm.*", "*". Fail panics if it
	// matches no operation that reaches the platform.
	Op op.Name
	// Object narrows the fault to one object's ID or name; empty means any.
	// The object is the one that the call is made on: the source of a clone,
	// the template of a deployment. For op.VMCreate it is the name of the new
	// machine.
	Object string
	Nth    int // the first matching call that it strikes; 0 means 1
	Count  int // number of calls in a row that it strikes; 0 means 1, negative means all that follow
	// Err is the error of the call or task. A *NativeError represents the
	// platform's own error. A fault with none of Err, Leftover, Lost and
	// Expire has no effect.
	Err error
	// After is the fraction of the task at which it fails. 0 refuses the
	// call, unless Leftover is set.
	After float64
	// Leftover makes the task crash: what it had made stays and is named. An
	// Err is not needed.
	Leftover bool
	Lost     Loss // where the connection breaks; 0 means that it does not
	// Expire ends the session. The driver logs in again, once, by itself.
	Expire bool
}

// armed is a Fault with the number of matching calls so far.
type armed struct {
	Fault
	met int
}

// Fail arms a fault. It panics if Fault.Op names no operation, since such a
// fault would never strike and a test would prove nothing.
func (b *Backend) Fail(f Fault) {
	if err := isSent(f.Op); err != nil {
		panic(fmt.Sprintf("fake: Fault.Op: %v", err))
	}
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
	if b.healed != nil {
		close(b.healed)
		b.healed = nil
	}
}

// silence returns a channel that Heal closes. The backend is locked.
func (b *Backend) silence() <-chan struct{} {
	if b.healed == nil {
		b.healed = make(chan struct{})
	}
	return b.healed
}

// strike returns the fault that strikes a call, if there is one.
func (b *Backend) strike(op op.Name, on hypervisor.Ref) *Fault {
	for _, f := range b.faults {
		if ok, _ := path.Match(string(f.Op), string(op)); !ok {
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

// Call is one call that reached the platform or should have reached it. A
// call that was sent again is in the log twice.
type Call struct {
	Op     op.Name
	Object hypervisor.Ref
	Args   any // the driver's request: a hypervisor.CloneRequest, hypervisor.VMSpec, …; nil if there is none
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

func (b *Backend) logCall(op op.Name, on hypervisor.Ref, args any) {
	c := Call{op, on, args, b.now()}
	if len(b.calls) < b.cfg.CallLog {
		b.calls = append(b.calls, c)
	} else {
		b.calls[b.nCalls%b.cfg.CallLog] = c
	}
	b.nCalls++
}

func unavailable(on hypervisor.Ref, unsent bool) *hypervisor.Error {
	e := hypervisor.Errorf(hypervisor.ErrUnavailable, on, "the connection to the platform was lost")
	e.Unsent = unsent
	return e
}

// enter is the first step of every call: the session, the log, the latency
// and the faults. It returns a fault that concerns the work itself.
func (d *Driver) enter(ctx context.Context, op op.Name, on hypervisor.Ref, args any) (*Fault, error) {
	b := d.b
	for attempt := 0; ; attempt++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		select {
		case <-d.done:
			return nil, hypervisor.Errorf(hypervisor.ErrClosed, on, "%w", hypervisor.ErrClosed)
		default:
		}
		hypervisor.CountCalls(ctx, 1)
		b.mu.Lock()
		b.logCall(op, on, args)
		f := b.strike(op, on)
		var healed <-chan struct{}
		if f != nil && f.Lost == NoAnswer {
			healed = b.silence()
		}
		b.mu.Unlock()
		if b.cfg.Latency > 0 {
			if err := d.sleep(ctx, b.cfg.Latency); err != nil {
				return nil, err
			}
		}
		switch {
		case f == nil:
			return nil, nil
		case healed != nil:
			if err := wait(ctx, d, healed); err != nil {
				return nil, err
			}
		case f.Expire && attempt == 0:
			if err := d.login(ctx); err != nil {
				return nil, err
			}
		case f.Expire:
			return nil, hypervisor.Errorf(hypervisor.ErrUnauthenticated, on, "the session expired again right after it was renewed")
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

// read is like enter, for calls that only read. If the answer was lost, it
// asks again, once.
func (d *Driver) read(ctx context.Context, op op.Name, on hypervisor.Ref) error {
	for range 2 {
		f, err := d.enter(ctx, op, on, nil)
		if err != nil || f == nil || f.Lost == LateAnswer {
			return err
		}
		if f.Err != nil {
			return f.Err
		}
	}
	return unavailable(on, false)
}

// answer returns the error of a change that is made at once, if the fault has
// swallowed its answer.
func (f *Fault) answer(on hypervisor.Ref) error {
	switch {
	case f == nil:
		return nil
	case f.Err != nil:
		return f.Err
	case f.Lost != 0 && f.Lost != LateAnswer || f.Leftover:
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
	on := hypervisor.Ref{Kind: hypervisor.ObjectClient, ID: b.cfg.Name}
	b.logCall(op.ClientLogin, on, nil)
	if f := b.strike(op.ClientLogin, on); f != nil {
		return hypervisor.Errorf(hypervisor.ErrUnauthenticated, on, "the session can't be renewed: %w", f.Err)
	}
	return nil
}

// sleep waits for delay. It ends early with ctx and with Close.
func (d *Driver) sleep(ctx context.Context, delay time.Duration) error {
	t := time.NewTimer(delay)
	defer t.Stop()
	return wait(ctx, d, t.C)
}

// wait waits for a channel. It ends early with ctx and with Close.
func wait[T any](ctx context.Context, d *Driver, c <-chan T) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-d.done:
		return hypervisor.Errorf(hypervisor.ErrClosed, hypervisor.Ref{}, "%w", hypervisor.ErrClosed)
	}
}
