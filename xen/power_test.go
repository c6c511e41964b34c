package xen

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestShutdown asks guests that go, that don't hear, and that have no tools.
func TestShutdown(t *testing.T) {
	const soon = 50 * time.Millisecond
	for _, c := range []struct {
		name  string
		guest func(*testing.T, *world) // before the request
		o     hypervisor.ShutdownOptions
		kind  hypervisor.Kind // KindUnknown: it is done
		state hypervisor.PowerState
	}{
		{"goes", nil, hypervisor.ShutdownOptions{}, hypervisor.ErrUnknown, hypervisor.StateOff},
		{"too late", deaf, hypervisor.ShutdownOptions{Timeout: soon}, hypervisor.ErrTimeout, hypervisor.StateRunning},
		{"too late, then off", deaf, hypervisor.ShutdownOptions{Timeout: soon, Force: true}, hypervisor.ErrUnknown, hypervisor.StateOff},
		{"no tools", noTools, hypervisor.ShutdownOptions{}, hypervisor.ErrUnsupported, hypervisor.StateRunning},
		{"no tools, then off", noTools, hypervisor.ShutdownOptions{Force: true}, hypervisor.ErrUnknown, hypervisor.StateOff},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := settled(t)
			w := newWorld(t, xapisim.Config{Hosts: 2})
			if c.guest != nil {
				c.guest(t, w)
			}
			err := wait(ctx, w.run.Shutdown(ctx, &c.o))
			if hypervisor.KindOf(err) != c.kind || (err == nil) != (c.kind == hypervisor.ErrUnknown) {
				t.Errorf("%v (%v), want %v", err, hypervisor.KindOf(err), c.kind)
			}
			if c.kind == hypervisor.ErrUnsupported && reasonOf(err) != hypervisor.ReasonToolsMissing {
				t.Errorf("%v, want the reason %s", err, hypervisor.ReasonToolsMissing)
			}
			if i := ok[hypervisor.VMInfo](t)(w.run.Info(ctx)); i.State != c.state {
				t.Errorf("it is %s, want %s", i.State, c.state)
			}
			s := ok[hypervisor.Support](t)(w.run.Supports(ctx, capability.PowerShutdown))
			if c.state == hypervisor.StateRunning && (s.Level == hypervisor.LevelYes) != (c.kind == hypervisor.ErrTimeout) {
				t.Errorf("Supports: %+v", s)
			}
		})
	}
}

// TestToolsUnread: metrics that can't be read are no sign that a guest has no
// tools.
func TestToolsUnread(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{})
	defer w.sim.Fault(xapisim.Fault{Method: "VM_guest_metrics.get_record", Count: -1, Err: &xapisim.Failure{Code: "INTERNAL_ERROR", Params: []string{"x"}}})()
	if err := wait(ctx, w.run.Shutdown(ctx, nil)); err == nil || errors.Is(err, hypervisor.ErrUnsupported) {
		t.Errorf("Shutdown: %v", err)
	}
	if s, err := w.run.Supports(ctx, capability.PowerShutdown); err == nil {
		t.Errorf("Supports: %+v", s)
	}
}

// deaf makes guests slow to shut down: far slower than any test waits.
func deaf(_ *testing.T, w *world) { w.sim.SetDuration("VM.clean_shutdown", time.Hour) }

// noTools takes the running guest's tools away.
func noTools(t *testing.T, w *world) {
	g := w.text(t, "VM", string(w.run.ID()), "guest_metrics")
	for f, v := range map[string]any{"other": map[string]any{}, "PV_drivers_version": map[string]any{}, "os_version": map[string]any{}, "PV_drivers_detected": false} {
		if err := w.sim.SetField("VM_guest_metrics", g, f, v); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGuestFacts reads what the tools tell, and says so where there are none.
func TestGuestFacts(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	g := ok[hypervisor.GuestInfo](t)(w.run.Guest(ctx))
	if g.OS != "debian" || g.OSVersion != "Debian GNU/Linux 12 (bookworm)" || g.Tools != "XenServer VM Tools 8.4.0" || len(g.Addresses) != 1 {
		t.Errorf("%+v", g)
	}
	if i := ok[hypervisor.VMInfo](t)(w.run.Info(ctx)); !slices.Equal(i.Addresses, g.Addresses) {
		t.Errorf("Info reports %v, Guest %v", i.Addresses, g.Addresses)
	}
	if _, err := w.off.Guest(ctx); hypervisor.KindOf(err) != hypervisor.ErrInvalidState {
		t.Errorf("of a machine that is off: %v", err)
	}
	noTools(t, w)
	if _, err := w.run.Guest(ctx); reasonOf(err) != hypervisor.ReasonToolsMissing {
		t.Errorf("without tools: %v", err)
	}
}
