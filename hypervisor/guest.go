package hypervisor

import (
	"context"
	"time"
)

// GuestInfo is what the software inside the guest tells.
type GuestInfo struct {
	OS        string   `json:"os,omitempty"` // "linux", "windows", …
	OSVersion string   `json:"osVersion,omitempty"`
	HostName  string   `json:"hostName,omitempty"`
	Addresses []string `json:"addresses,omitempty"`
	Tools     string   `json:"tools,omitempty"` // name and version of the agent or tools
}

// ExecRequest is a program to run in the guest.
type ExecRequest struct {
	Path    string
	Args    []string
	Env     []string // "KEY=value"
	Stdin   []byte
	Timeout time.Duration // 0 means 1 minute
	// User and Password log in to the guest where the platform demands it
	// (vSphere). They are not logged.
	User, Password string
}

// ExecResult is what a program in the guest did.
type ExecResult struct {
	ExitCode       int
	Stdout, Stderr []byte // empty where the platform can't fetch them
}

// ClockReading is the guest's clock and the host's at the same moment, with
// the round trip taken out.
type ClockReading struct {
	Guest time.Time
	Host  time.Time // the caller's clock in the middle of the call
	// Uncertainty is half the round trip plus the resolution of the source.
	Uncertainty time.Duration
}

// Drift is how far the guest's clock is ahead (negative: behind).
func (r ClockReading) Drift() time.Duration { return r.Guest.Sub(r.Host) }

// Guest asks the guest. Without an agent or tools: ErrUnsupported with
// ReasonToolsMissing.
func (m *VM) Guest(ctx context.Context) (GuestInfo, error) {
	return read(ctx, m.c, "guest.info", m.ref(), GuestFacts, nil, func(ctx context.Context, d GuestAgent) (GuestInfo, error) {
		return d.GuestInfo(ctx, m.id)
	})
}

// Exec runs a program in the guest and waits for it.
func (m *VM) Exec(ctx context.Context, r ExecRequest) (ExecResult, error) {
	var bad *Error
	if r.Path == "" {
		bad = invalid("guest.exec", m.ref(), "Path is empty: give the program's full path in the guest")
	} else if r.Timeout < 0 {
		bad = invalid("guest.exec", m.ref(), "Timeout %v is negative", r.Timeout)
	}
	if r.Timeout == 0 {
		r.Timeout = time.Minute
	}
	var out ExecResult
	err := call(ctx, m.c, "guest.exec", m.ref(), GuestExec, bad, func(ctx context.Context, d GuestAgent) error {
		var err error
		out, err = d.Exec(ctx, m.id, r)
		return err
	})
	return out, err
}

// Clock reads the guest's clock.
func (m *VM) Clock(ctx context.Context) (ClockReading, error) {
	return read(ctx, m.c, "guest.clock", m.ref(), GuestClock, nil, func(ctx context.Context, d GuestAgent) (ClockReading, error) {
		return d.GuestClock(ctx, m.id)
	})
}

// SetClock sets the guest's clock; the zero time means now.
func (m *VM) SetClock(ctx context.Context, t time.Time) error {
	return call(ctx, m.c, "guest.clock.set", m.ref(), GuestClock, nil, func(ctx context.Context, d GuestAgent) error {
		if t.IsZero() {
			t = time.Now()
		}
		return d.SetGuestClock(ctx, m.id, t)
	})
}

// Freeze flushes and freezes the guest's file systems until Thaw.
func (m *VM) Freeze(ctx context.Context) error {
	return call(ctx, m.c, "guest.freeze", m.ref(), GuestFreeze, nil, func(ctx context.Context, d Freezer) error { return d.Freeze(ctx, m.id) })
}

// Thaw ends Freeze.
func (m *VM) Thaw(ctx context.Context) error {
	return call(ctx, m.c, "guest.thaw", m.ref(), GuestFreeze, nil, func(ctx context.Context, d Freezer) error { return d.Thaw(ctx, m.id) })
}
