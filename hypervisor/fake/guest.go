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
)

// Guest says how a machine's guest behaves.
type Guest struct {
	NoTools      bool
	Hangs        bool          // doesn't react to Shutdown and Reboot
	ShutdownTime time.Duration // that Shutdown and Reboot take; 0: Config.Delays
	ClockOffset  time.Duration // how far its clock is ahead now
	ClockDrift   float64       // how fast it runs away, in seconds per second
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
	m.Guest.Offset, m.Guest.Drift, m.Guest.Since = g.ClockOffset, g.ClockDrift, b.now()
	return nil
}

// ask finds a running machine whose tools answer.
func (b *Backend) ask(id hypervisor.VMID, k hypervisor.Capability) (*vm, error) {
	m, err := b.machine(id, "be asked")
	if err != nil {
		return nil, err
	}
	if err := b.require(k, m.ref(), m.ref()); err != nil {
		return nil, err
	}
	if m.State != hypervisor.Running {
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, m.ref(), "the machine is %s: its guest can't be asked", m.State)
	}
	return m, nil
}

// GuestInfo tells what the tools tell.
func (d *Driver) GuestInfo(ctx context.Context, id hypervisor.VMID) (hypervisor.GuestInfo, error) {
	if err := d.read(ctx, "guest.info", id.Ref()); err != nil {
		return hypervisor.GuestInfo{}, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.ask(id, hypervisor.GuestFacts)
	if err != nil {
		return hypervisor.GuestInfo{}, err
	}
	return hypervisor.GuestInfo{OS: or(m.GuestOS, "linux"), OSVersion: "1.0", HostName: m.Guest.HostName, Addresses: slices.Clone(m.Guest.Addresses), Tools: "fake tools " + version}, nil
}

// Exec runs a program: Config.Exec if set, else cat, date, echo, false,
// hostname, true, and sh -c with "exit N" or "echo …" behind it.
func (d *Driver) Exec(ctx context.Context, id hypervisor.VMID, r hypervisor.ExecRequest) (hypervisor.ExecResult, error) {
	logged := r
	logged.Password = ""
	f, err := d.enter(ctx, "guest.exec", id.Ref(), logged)
	if err != nil {
		return hypervisor.ExecResult{}, err
	}
	if err := f.answer(id.Ref()); err != nil {
		return hypervisor.ExecResult{}, err
	}
	b := d.b
	b.mu.Lock()
	m, err := b.ask(id, hypervisor.GuestExec)
	if err != nil {
		b.mu.Unlock()
		return hypervisor.ExecResult{}, err
	}
	host, now, takes := m.Guest.HostName, b.clock(m), b.delay("guest.exec")
	b.mu.Unlock()
	if takes > 0 {
		limit := r.Timeout
		if limit <= 0 {
			limit = time.Minute
		}
		if err := sleep(ctx, min(takes, limit)); err != nil {
			return hypervisor.ExecResult{}, err
		}
		if takes > limit {
			return hypervisor.ExecResult{}, hypervisor.Errorf(hypervisor.KindTimeout, id.Ref(), "%s didn't end within %v", r.Path, limit)
		}
	}
	if b.cfg.Exec != nil {
		return b.cfg.Exec(id, r)
	}
	return program(r, host, now), nil
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
			if n, ok := strings.CutPrefix(r.Args[1], "exit "); ok {
				if code, err := strconv.Atoi(strings.TrimSpace(n)); err == nil {
					x.ExitCode = code & 0xff
					return x
				}
			}
			if s, ok := strings.CutPrefix(r.Args[1], "echo "); ok {
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
	if err := d.read(ctx, "guest.clock", id.Ref()); err != nil {
		return hypervisor.ClockReading{}, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.ask(id, hypervisor.GuestClock)
	if err != nil {
		return hypervisor.ClockReading{}, err
	}
	return hypervisor.ClockReading{Guest: b.clock(m), Host: b.now(), Uncertainty: max(b.cfg.Latency/2, time.Microsecond)}, nil
}

// SetGuestClock sets it.
func (d *Driver) SetGuestClock(ctx context.Context, id hypervisor.VMID, t time.Time) error {
	f, err := d.enter(ctx, "guest.clock.set", id.Ref(), t)
	if err != nil {
		return err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.ask(id, hypervisor.GuestClock)
	if err != nil {
		return err
	}
	now := b.now()
	m.Guest.Offset, m.Guest.Since = t.Sub(now), now
	return f.answer(id.Ref())
}

// Freeze quiets the file systems; frozen ones stay so.
func (d *Driver) Freeze(ctx context.Context, id hypervisor.VMID) error {
	return d.setFrozen(ctx, "guest.freeze", id, true)
}

// Thaw ends Freeze; file systems that are not frozen stay so.
func (d *Driver) Thaw(ctx context.Context, id hypervisor.VMID) error {
	return d.setFrozen(ctx, "guest.thaw", id, false)
}

func (d *Driver) setFrozen(ctx context.Context, op string, id hypervisor.VMID, on bool) error {
	f, err := d.enter(ctx, op, id.Ref(), nil)
	if err != nil {
		return err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.ask(id, hypervisor.GuestFreeze)
	if err != nil {
		return err
	}
	m.Guest.Frozen = on
	return f.answer(id.Ref())
}
