package fleet_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/fleet"
	"github.com/anyvisor/anyvisor/hypervisor/fleet/fleettest"
)

func open(t *testing.T, n int) (*fake.Backend, *hypervisor.Client) {
	t.Helper()
	b := fake.New(fake.Config{Hosts: fake.DefaultHosts(4), Seed: 3})
	c, err := b.Open(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := fleettest.Machines(t.Context(), c, n); err != nil {
		t.Fatal(err)
	}
	return b, c
}

func nothing(context.Context, *hypervisor.VM, *fleet.Attempt) error { return nil }

func planOf(id string, c *hypervisor.Client, do func(context.Context, *hypervisor.VM, *fleet.Attempt) error) *fleet.Plan {
	return &fleet.Plan{ID: id, Clients: map[string]*hypervisor.Client{"dc": c}, Steps: []fleet.Step{{Name: "step", Do: do}}}
}

func TestCheck(t *testing.T) {
	_, c := open(t, 0)
	for want, change := range map[string]func(*fleet.Plan){
		"an ID has":            func(p *fleet.Plan) { p.ID = "a/b" },
		"it has no Clients":    func(p *fleet.Plan) { p.Clients = nil },
		"it has no steps":      func(p *fleet.Plan) { p.Steps = nil },
		"does nothing":         func(p *fleet.Plan) { p.Steps[0].Do = nil },
		"two steps":            func(p *fleet.Plan) { p.Undo = &fleet.Step{Name: "step", Do: nothing} },
		"a limit is negative":  func(p *fleet.Plan) { p.Limits.PerHost = -1 },
		"another wave follows": func(p *fleet.Plan) { p.Waves = []fleet.Wave{{}, {Count: 1}} },
		"out of range":         func(p *fleet.Plan) { p.Waves = []fleet.Wave{{Percent: 101}} },
		"Count and Percent":    func(p *fleet.Plan) { p.Waves = []fleet.Wave{{Percent: 10, Count: 1}} },
		"two times from 0":     func(p *fleet.Plan) { p.Window = &fleet.Window{} },
		"give N and Per":       func(p *fleet.Plan) { p.Rate.N = 3 },
		"Targets and Labels": func(p *fleet.Plan) {
			p.Labels = map[string]string{"a": "b"}
			p.Targets = func(context.Context) ([]fleet.Target, error) { return nil, nil }
		},
		"Tries, Wait or Timeout is": func(p *fleet.Plan) { p.Steps[0].Tries = -1 },
	} {
		p := planOf("check", c, nothing)
		change(p)
		if err := p.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Check returns %v, want %q", err, want)
		}
		if _, err := fleet.NewMemory().Start(t.Context(), p); err == nil {
			t.Errorf("%q was started", want)
		}
	}
}

func TestShape(t *testing.T) {
	_, c := open(t, 0)
	shape := planOf("shape", c, nothing).Shape()
	if planOf("shape", c, func(context.Context, *hypervisor.VM, *fleet.Attempt) error { return nil }).Shape() != shape {
		t.Error("another function gives another shape")
	}
	for name, change := range map[string]func(*fleet.Plan){
		"ID":     func(p *fleet.Plan) { p.ID = "other" },
		"step":   func(p *fleet.Plan) { p.Steps[0].Name = "other" },
		"limits": func(p *fleet.Plan) { p.Limits.Total = 3 },
		"wave":   func(p *fleet.Plan) { p.Waves = []fleet.Wave{{Count: 1}} },
		"gate":   func(p *fleet.Plan) { p.Undo = &fleet.Step{Name: "undo", Do: nothing} },
		"window": func(p *fleet.Plan) { p.Window = &fleet.Window{To: time.Hour} },
		"labels": func(p *fleet.Plan) { p.Labels = map[string]string{"a": "b"} },
	} {
		p := planOf("shape", c, nothing)
		if change(p); p.Shape() == shape {
			t.Errorf("another %s gives the same shape", name)
		}
	}
}

func TestWindow(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.Parse("2006-01-02 15:04", s) // 2026-12-01 is a Tuesday
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	night := &fleet.Window{From: 22 * time.Hour, To: 5 * time.Hour, Days: []time.Weekday{time.Monday, time.Friday}}
	for now, want := range map[string]time.Duration{
		"2026-12-01 04:59": 0, // Monday's window
		"2026-12-01 05:00": 3*24*time.Hour + 17*time.Hour,
		"2026-12-04 23:00": 0,
		"2026-12-05 04:00": 0,
		"2026-12-05 22:30": 47*time.Hour + 30*time.Minute,
	} {
		if got := night.Wait(at(now)); got != want {
			t.Errorf("%s: the window opens in %v, want %v", now, got, want)
		}
	}
	if got := (&fleet.Window{To: time.Hour, Days: []time.Weekday{}}).Wait(at("2026-12-01 00:10")); got >= 0 {
		t.Errorf("a window without days opens in %v", got)
	}
}

// TestRateAndWindow lets 12 targets begin, two a minute, in a window that
// closes after three minutes each day.
func TestRateAndWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := open(t, 12)
		var begun []time.Time
		p := planOf("rate", c, func(context.Context, *hypervisor.VM, *fleet.Attempt) error {
			begun = append(begun, time.Now())
			return nil
		})
		p.Limits.Total = 1
		p.Rate = fleet.Rate{N: 2, Per: time.Minute}
		p.Window = &fleet.Window{From: 0, To: 3 * time.Minute}
		if _, err := fleet.Do(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		for i, at := range begun {
			if at.UTC().Hour() != 0 || at.UTC().Minute() >= 3 {
				t.Errorf("target %d began at %v, outside the window", i, at)
			}
			if i > 0 && at.Sub(begun[i-1]) < 30*time.Second {
				t.Errorf("target %d began %v after the one before", i, at.Sub(begun[i-1]))
			}
		}
		if days := begun[11].Sub(begun[0]).Hours() / 24; days < 0.9 || days > 2.1 {
			t.Errorf("it took %.1f days", days)
		}
	})
}

func TestDoJoinsFailures(t *testing.T) {
	_, c := open(t, 5)
	s, err := fleet.Do(t.Context(), planOf("join", c, func(_ context.Context, vm *hypervisor.VM, a *fleet.Attempt) error {
		switch a.Target.Ref.Name {
		case "m-0001":
			return hypervisor.Errorf(hypervisor.ErrBusy, vm.Ref(), "a backup runs")
		case "m-0003":
			return hypervisor.Errorf(hypervisor.ErrExhausted, vm.Ref(), "no room")
		}
		return nil
	}))
	var inc *fleet.IncompleteError
	if !errors.As(err, &inc) || len(inc.Failures) != 2 || !errors.Is(err, hypervisor.ErrBusy) || !errors.Is(err, hypervisor.ErrExhausted) || s.Done != 3 {
		t.Errorf("Do returns %+v, %v", s, err)
	}
	if !strings.Contains(err.Error(), "m-0003") || !strings.Contains(err.Error(), "a backup runs") {
		t.Errorf("the error doesn't name the machine and the reason: %v", err)
	}
}

// TestDoEndsWithItsContext returns when the steps have returned.
func TestDoEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := open(t, 5)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := fleet.Do(ctx, planOf("end", c, func(ctx context.Context, _ *hypervisor.VM, _ *fleet.Attempt) error {
			<-ctx.Done()
			return ctx.Err()
		}))
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Do returns %v", err)
		}
	})
}

func TestTargetsThatCannotBeChosen(t *testing.T) {
	b, c := open(t, 1)
	b.Fail(fake.Fault{Op: "vm.list", Count: -1, Err: &fake.NativeError{Kind: hypervisor.ErrPermission, Text: "no"}})
	s, err := fleet.Do(t.Context(), planOf("choose", c, nothing))
	if s.Stopped != fleet.StopTargets || err == nil || !strings.Contains(err.Error(), "no") {
		t.Errorf("Do returns %+v, %v", s, err)
	}
}

// TestMachineThatMoves counts on the host where it is when its turn comes.
func TestMachineThatMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, c := open(t, 8)
		b.SetDelay("vm.reset", time.Second)
		p := planOf("moves", c, func(ctx context.Context, vm *hypervisor.VM, a *fleet.Attempt) error {
			if a.Target.Ref.Name == "m-0000" { // the first: all others go to one host
				for v, err := range c.VMs(ctx, nil) {
					if err != nil {
						return err
					}
					if v.Name != "m-0000" && v.Host != "host-4" {
						if _, err := c.VM(v.ID).Migrate(ctx, hypervisor.MigrateOptions{Host: "host-4"}).Wait(ctx); err != nil {
							return err
						}
					}
				}
				return nil
			}
			_, err := vm.Reset(ctx).Wait(ctx)
			return err
		})
		p.Limits.PerHost = 1
		p.Waves = []fleet.Wave{{Count: 1}, {}}
		begin := time.Now()
		if _, err := fleet.Do(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took < 7*time.Second {
			t.Errorf("7 machines of one host took %v with a second each: two were at work at a time", took)
		}
	})
}
