package hypervisor

import (
	"context"
	"net/netip"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/op"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// GuestInfo is what the software inside the guest reports.
type GuestInfo struct {
	OS        string       `json:"os,omitempty"` // "linux", "windows", …
	OSVersion string       `json:"osVersion,omitempty"`
	HostName  string       `json:"hostName,omitempty"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Tools     string       `json:"tools,omitempty"` // name and version of the agent or tools
}

// ExecRequest is a program to run in the guest.
type ExecRequest struct {
	Path    string
	Args    []string
	Env     []string // "KEY=value"
	Stdin   []byte
	Timeout time.Duration // 0 means 1 minute
	// MaxOutput is the number of bytes to read of each output stream; 0 means
	// 16 MiB. If a program writes more, the call fails with ErrExhausted, and
	// the result has the exit code and the first MaxOutput bytes.
	MaxOutput int
	// User and Password log in to the guest where the platform requires it
	// (vSphere). They are not logged.
	User     string
	Password Secret
}

// ExecResult is the outcome of a program in the guest.
type ExecResult struct {
	ExitCode       int
	Stdout, Stderr []byte // empty where the platform can't fetch them
}

// maxOutput is the value of MaxOutput where the request leaves it at 0.
const maxOutput = 16 << 20

// Bound cuts the output of a program to the request's MaxOutput, if there is
// one. Drivers return the values that it returns.
func (r ExecRequest) Bound(on Ref, x ExecResult) (ExecResult, error) {
	var err error
	for _, s := range []*[]byte{&x.Stdout, &x.Stderr} {
		if r.MaxOutput > 0 && len(*s) > r.MaxOutput {
			*s = (*s)[:r.MaxOutput:r.MaxOutput]
			err = Errorf(ErrExhausted, on, "the program ended with %d, and its output has more than %d bytes", x.ExitCode, r.MaxOutput)
		}
	}
	return x, err
}

// ClockReading holds the guest's clock and the host's at the same moment,
// with the round trip taken into account.
type ClockReading struct {
	Guest time.Time
	Host  time.Time // the caller's clock in the middle of the call
	// Uncertainty is half the round trip plus the resolution of the source.
	Uncertainty time.Duration
}

// Drift is how far the guest's clock is ahead (negative: behind).
func (r ClockReading) Drift() time.Duration { return r.Guest.Sub(r.Host) }

// Guest queries the software in the guest. Without an agent or tools, and
// until they have started after a boot, it returns ErrUnsupported with
// ReasonToolsMissing. A machine that is not Running is ErrInvalidState. The
// guest may report its addresses later than the rest: to wait for an address,
// repeat the call until Addresses is not empty.
func (m *VM) Guest(ctx context.Context) (GuestInfo, error) {
	return read(ctx, m.c, op.GuestInfo, m.Ref(), capability.GuestFacts, nil, func(ctx context.Context, d GuestAgent) (GuestInfo, error) {
		return d.GuestInfo(ctx, m.id)
	})
}

// Exec runs a program in the guest and waits for it. An exit code other than
// 0 is not an error.
func (m *VM) Exec(ctx context.Context, r ExecRequest) (ExecResult, error) {
	var bad *Error
	if r.Path == "" {
		bad = invalid(op.GuestExec, m.Ref(), "Path is empty: give the program's full path in the guest")
	} else if r.Timeout < 0 {
		bad = invalid(op.GuestExec, m.Ref(), "Timeout %v is negative", r.Timeout)
	} else if r.MaxOutput < 0 {
		bad = invalid(op.GuestExec, m.Ref(), "MaxOutput %d is negative", r.MaxOutput)
	}
	if r.Timeout == 0 {
		r.Timeout = time.Minute
	}
	if r.MaxOutput == 0 {
		r.MaxOutput = maxOutput
	}
	var out ExecResult
	err := call(ctx, m.c, op.GuestExec, m.Ref(), capability.GuestExec, bad, func(ctx context.Context, d GuestAgent) error {
		var err error
		out, err = d.Exec(ctx, m.id, r)
		return err
	})
	return out, err
}

// Clock reads the guest's clock.
func (m *VM) Clock(ctx context.Context) (ClockReading, error) {
	return read(ctx, m.c, op.GuestClock, m.Ref(), capability.GuestClock, nil, func(ctx context.Context, d GuestAgent) (ClockReading, error) {
		return d.GuestClock(ctx, m.id)
	})
}

// SetClock sets the guest's clock; the zero time means now.
func (m *VM) SetClock(ctx context.Context, t time.Time) error {
	return call(ctx, m.c, op.GuestSetClock, m.Ref(), capability.GuestClock, nil, func(ctx context.Context, d GuestAgent) error {
		if t.IsZero() {
			t = time.Now()
		}
		return d.SetGuestClock(ctx, m.id, t)
	})
}

// Freeze flushes and freezes the guest's file systems until Thaw.
func (m *VM) Freeze(ctx context.Context) error {
	return call(ctx, m.c, op.GuestFreeze, m.Ref(), capability.GuestFreeze, nil, func(ctx context.Context, d Freezer) error { return d.Freeze(ctx, m.id) })
}

// Thaw ends a Freeze.
func (m *VM) Thaw(ctx context.Context) error {
	return call(ctx, m.c, op.GuestThaw, m.Ref(), capability.GuestFreeze, nil, func(ctx context.Context, d Freezer) error { return d.Thaw(ctx, m.id) })
}
