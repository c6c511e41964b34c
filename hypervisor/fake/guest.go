package fake

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// Guest is the behaviour of a machine's guest.
type Guest struct {
	NoTools      bool
	Hangs        bool          // doesn't react to Shutdown and Reboot
	ShutdownTime time.Duration // time that Shutdown and Reboot take; 0 means Config.Delays
	ClockOffset  time.Duration // how far its clock is ahead now
	ClockDrift   float64       // drift of the clock, in seconds per second
	// Login is required to run programs. Without one, anybody may run them,
	// and ExecRequest's User must be empty.
	Login hypervisor.Credentials
}

// SetGuest changes a machine's guest.
func (b *Backend) SetGuest(id hypervisor.VMID, g Guest) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return err
	}
	m.Guest.Tools, m.Guest.Hangs, m.Guest.ShutdownTime = !g.NoTools, g.Hangs, g.ShutdownTime
	m.Guest.Login = login{g.Login.Username, string(g.Login.Password)}
	m.Guest.Offset, m.Guest.Drift, m.Guest.Since = g.ClockOffset, g.ClockDrift, b.now()
	return nil
}

// ask finds a running machine whose tools respond.
func (b *Backend) ask(id hypervisor.VMID, k capability.Name) (*vm, error) {
	m, err := b.machine(id, "be asked")
	if err != nil {
		return nil, err
	}
	if err := b.require(k, m.ref(), m.ref()); err != nil {
		return nil, err
	}
	if m.State != hypervisor.StateRunning {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, m.ref(), "the machine is %s: its guest can't be asked", m.State)
	}
	return m, nil
}

// GuestInfo returns what the tools report.
func (d *Driver) GuestInfo(ctx context.Context, id hypervisor.VMID) (hypervisor.GuestInfo, error) {
	if err := d.read(ctx, op.GuestInfo, id.Ref()); err != nil {
		return hypervisor.GuestInfo{}, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.ask(id, capability.GuestFacts)
	if err != nil {
		return hypervisor.GuestInfo{}, err
	}
	return hypervisor.GuestInfo{OS: or(m.GuestOS, "linux"), OSVersion: "1.0", HostName: m.Guest.HostName, Addresses: slices.Clone(m.Guest.Addresses), Tools: "fake tools " + version}, nil
}

// Exec runs a program. It calls Config.Exec if that is set. Otherwise the
// programs are cat, date, echo, false, hostname, true, and sh -c with "exit
// N", "exit $NAME", "read NAME; exit $NAME", "echo …" or "echo … >&2" behind
// it.
func (d *Driver) Exec(ctx context.Context, id hypervisor.VMID, r hypervisor.ExecRequest) (hypervisor.ExecResult, error) {
	logged := r
	logged.Password = ""
	f, err := d.enter(ctx, op.GuestExec, id.Ref(), logged)
	if err != nil {
		return hypervisor.ExecResult{}, err
	}
	if err := f.answer(id.Ref()); err != nil {
		return hypervisor.ExecResult{}, err
	}
	b := d.b
	b.mu.Lock()
	m, err := b.ask(id, capability.GuestExec)
	if err != nil {
		b.mu.Unlock()
		return hypervisor.ExecResult{}, err
	}
	if err := m.login(r); err != nil {
		b.mu.Unlock()
		return hypervisor.ExecResult{}, err
	}
	host, now, takes := m.Guest.HostName, b.clock(m), b.delay(op.GuestExec)
	b.mu.Unlock()
	if takes > 0 {
		limit := r.Timeout
		if limit <= 0 {
			limit = time.Minute
		}
		if err := d.sleep(ctx, min(takes, limit)); err != nil {
			return hypervisor.ExecResult{}, err
		}
		if takes > limit {
			return hypervisor.ExecResult{}, hypervisor.Errorf(hypervisor.ErrTimeout, id.Ref(), "%s didn't end within %v", r.Path, limit)
		}
	}
	if b.cfg.Exec != nil {
		x, err := b.cfg.Exec(id, r)
		if err != nil {
			return x, err
		}
		return r.Bound(id.Ref(), x)
	}
	return r.Bound(id.Ref(), program(r, host, now))
}

// login requires the guest's user and password, or none.
func (m *vm) login(r hypervisor.ExecRequest) error {
	want := m.Guest.Login
	switch {
	case want == (login{}) && r.User+string(r.Password) != "":
		return hypervisor.Unsupported(m.ref(), capability.GuestExec, hypervisor.ReasonPlatform, "this guest has no logins: leave User and Password out")
	case want != (login{r.User, string(r.Password)}):
		return hypervisor.Errorf(hypervisor.ErrUnauthenticated, m.ref(), "the guest does not let %q in", r.User)
	}
	return nil
}

func program(r hypervisor.ExecRequest, host string, now time.Time) (x hypervisor.ExecResult) {
	switch path.Base(r.Path) {
	case "true":
	case "false":
		x.ExitCode = 1
	case "echo":
		x.Stdout = []byte(strings.Join(r.Args, " ") + "\n")
	case "cat":
		x.Stdout = r.Stdin
	case "hostname":
		x.Stdout = []byte(host + "\n")
	case "date":
		x.Stdout = []byte(now.UTC().Format(time.RFC3339) + "\n")
	case "sh":
		if len(r.Args) == 2 && r.Args[0] == "-c" {
			env := r.Env
			script := r.Args[1]
			if name, rest, ok := strings.Cut(strings.TrimPrefix(script, "read "), "; "); ok {
				env, script = append(slices.Clone(env), name+"="+strings.TrimSpace(string(r.Stdin))), rest
			}
			if n, ok := strings.CutPrefix(script, "exit "); ok {
				for _, kv := range env {
					if k, v, _ := strings.Cut(kv, "="); n == "$"+k {
						n = v
					}
				}
				if code, err := strconv.Atoi(strings.TrimSpace(n)); err == nil {
					x.ExitCode = code & 0xff
					return x
				}
			}
			if s, ok := strings.CutPrefix(script, "echo "); ok {
				if s, ok := strings.CutSuffix(s, " >&2"); ok {
					x.Stderr = []byte(s + "\n")
					return x
				}
				x.Stdout = []byte(s + "\n")
				return x
			}
		}
		fallthrough
	default:
		x.ExitCode = 127
		x.Stderr = fmt.Appendf(nil, "%s: not found\n", r.Path)
	}
	return x
}

// clock is the guest's clock now.
func (b *Backend) clock(m *vm) time.Time {
	g := &m.Guest
	now := b.now()
	if !g.Stopped.IsZero() {
		now = g.Stopped
	}
	return now.Add(g.Offset + time.Duration(g.Drift*float64(now.Sub(g.Since))))
}

// GuestClock reads the guest's clock.
func (d *Driver) GuestClock(ctx context.Context, id hypervisor.VMID) (hypervisor.ClockReading, error) {
	if err := d.read(ctx, op.GuestClock, id.Ref()); err != nil {
		return hypervisor.ClockReading{}, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.ask(id, capability.GuestClock)
	if err != nil {
		return hypervisor.ClockReading{}, err
	}
	return hypervisor.ClockReading{Guest: b.clock(m), Host: b.now(), Uncertainty: max(b.cfg.Latency/2, time.Microsecond)}, nil
}

// SetGuestClock sets the guest's clock.
func (d *Driver) SetGuestClock(ctx context.Context, id hypervisor.VMID, t time.Time) error {
	f, err := d.enter(ctx, op.GuestSetClock, id.Ref(), t)
	if err != nil {
		return err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.ask(id, capability.GuestClock)
	if err != nil {
		return err
	}
	now := b.now()
	m.Guest.Offset, m.Guest.Since = t.Sub(now), now
	return f.answer(id.Ref())
}

// Freeze quiesces the file systems. It does nothing if they are frozen.
func (d *Driver) Freeze(ctx context.Context, id hypervisor.VMID) error {
	return d.setFrozen(ctx, op.GuestFreeze, id, true)
}

// Thaw ends a Freeze. It does nothing if the file systems are not frozen.
func (d *Driver) Thaw(ctx context.Context, id hypervisor.VMID) error {
	return d.setFrozen(ctx, op.GuestThaw, id, false)
}

func (d *Driver) setFrozen(ctx context.Context, op op.Name, id hypervisor.VMID, on bool) error {
	f, err := d.enter(ctx, op, id.Ref(), nil)
	if err != nil {
		return err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.ask(id, capability.GuestFreeze)
	if err != nil {
		return err
	}
	m.Guest.Frozen = on
	return f.answer(id.Ref())
}
