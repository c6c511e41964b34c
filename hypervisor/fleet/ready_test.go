package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/fleet"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

func template(t *testing.T, c *hypervisor.Client) hypervisor.TemplateID {
	t.Helper()
	vm, err := c.CreateVM(t.Context(), hypervisor.VMSpec{Name: "golden", MemoryBytes: hypervisor.MinMemory, Disks: []hypervisor.DiskSpec{{SizeBytes: hypervisor.GiB}}}).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tpl, err := vm.MarkTemplate(t.Context()).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tpl.ID()
}

// TestDeployN makes each machine once, though answers are lost.
func TestDeployN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, c := open(t, 0)
		tpl := template(t, c)
		b.SetDelay(op.TemplateDeploy, time.Minute)
		for n := range 5 {
			b.Fail(fake.Fault{Op: op.TemplateDeploy, Nth: 2 + 3*n, Lost: fake.AfterSend})
		}
		p := fleet.DeployN("deploy", c, tpl, hypervisor.CloneOptions{Labels: map[string]string{"made": "yes"}}, fleet.DeployOptions{N: 20, Name: "web-%02d", Start: true,
			Each: func(i int, o *hypervisor.CloneOptions) { o.Description = fmt.Sprint("number ", i) }})
		p.Steps[0].Tries = 3
		if _, err := fleet.Do(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		all, err := hypervisor.Collect(c.VMs(t.Context(), nil))
		if err != nil || len(all) != 20 {
			t.Errorf("%d machines, %v", len(all), err)
		}
		for _, v := range all {
			var n int
			if _, err := fmt.Sscanf(v.Name, "web-%d", &n); err != nil || v.Description != fmt.Sprint("number ", n) || v.State != hypervisor.StateRunning {
				t.Errorf("%s is %s and has the description %q", v.Name, v.State, v.Description)
			}
		}
	})
}

// TestCleanUp removes what an interrupted deployment left, and nothing else.
func TestCleanUp(t *testing.T) {
	_, c := open(t, 3)
	tpl := template(t, c)
	e := fleet.NewMemory()
	ready := 0
	p := fleet.DeployN("half", c, tpl, hypervisor.CloneOptions{}, fleet.DeployOptions{N: 9, Name: "web-%d", Ready: func(context.Context, *hypervisor.VM) error {
		if ready++; ready > 4 {
			return errors.New("no answer")
		}
		return nil
	}})
	p.Limits, p.StopAfter = fleet.Limits{Total: 1}, 2
	r, err := e.Start(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := fleet.Do(t.Context(), fleet.CleanUp("early", c, r)); err == nil || s.Stopped != fleet.StopTargets {
		t.Errorf("CleanUp of a run that has not ended: %+v, %v", s, err)
	}
	work(t, e, r)
	s, err := fleet.Do(t.Context(), fleet.CleanUp("clean", c, r))
	if err != nil || s.Done != 2 {
		t.Errorf("CleanUp: %+v, %v", s, err)
	}
	all, err := hypervisor.Collect(c.VMs(t.Context(), nil))
	if err != nil || len(all) != 3+4 {
		t.Errorf("%d machines are there, want 3 others and 4 that are ready: %v", len(all), err)
	}
}

// work continues a run to its end.
func work(t *testing.T, e fleet.Engine, r *fleet.Run) fleet.Summary {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Work(ctx) }()
	s, err := r.Wait(t.Context())
	stop()
	<-ended
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestMoveN empties two hosts at a time, and keeps to the limit of a host.
func TestMoveN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, c := open(t, 40)
		b.SetDelay(op.VMMigrate, time.Second)
		begin := time.Now()
		s, err := fleet.Do(t.Context(), fleet.MoveN("move", c, fleet.MoveOptions{From: []hypervisor.HostID{"host-1", "host-2"}, To: []hypervisor.HostID{"host-3"}}))
		if err != nil || s.Done != 20 {
			t.Fatalf("MoveN: %+v, %v", s, err)
		}
		if took := time.Since(begin); took < 5*time.Second {
			t.Errorf("20 moves took %v: the limit of two for each host was exceeded", took)
		}
		n := map[hypervisor.HostID]int{}
		for v, err := range c.VMs(t.Context(), nil) {
			if err != nil {
				t.Fatal(err)
			}
			n[v.Host]++
		}
		if n["host-3"] != 30 || n["host-4"] != 10 {
			t.Errorf("machines by host: %v", n)
		}
	})
}

// TestMoveNSaysWhyNot gives the blockers of a machine that can't move.
func TestMoveNSaysWhyNot(t *testing.T) {
	b, c := open(t, 4)
	b.Fail(fake.Fault{Op: op.VMMigrate, Err: &fake.NativeError{Kind: hypervisor.ErrIncompatible, Text: "no"}})
	s, err := fleet.Do(t.Context(), fleet.MoveN("move", c, fleet.MoveOptions{From: []hypervisor.HostID{"host-1"}}))
	if s.Failed != 1 || !errors.Is(err, hypervisor.ErrIncompatible) {
		t.Errorf("MoveN: %+v, %v", s, err)
	}
}

// TestRolling takes the machine back whose check fails, and drops all
// snapshots.
func TestRolling(t *testing.T) {
	b, c := open(t, 0)
	for i := range 6 {
		vm, err := c.CreateVM(t.Context(), hypervisor.VMSpec{Name: fmt.Sprint("m-", i), MemoryBytes: hypervisor.MinMemory, Start: true, Disks: []hypervisor.DiskSpec{{SizeBytes: hypervisor.GiB}}}).Wait(t.Context())
		if err == nil {
			err = b.WriteDisk(vm.ID(), 0, "old")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	p := fleet.Rolling("patch", c, fleet.RollingOptions{
		Act: func(_ context.Context, vm *hypervisor.VM, a *fleet.Attempt) error {
			return b.WriteDisk(vm.ID(), 0, "new")
		},
		Check: fleet.Step{Tries: 2, Do: func(_ context.Context, _ *hypervisor.VM, a *fleet.Attempt) error {
			if a.Target.Ref.Name == "m-3" {
				return errors.New("the service does not answer")
			}
			return nil
		}}})
	s, err := fleet.Do(t.Context(), p)
	if s.Done != 5 || s.Failed != 1 || err == nil {
		t.Errorf("Rolling: %+v, %v", s, err)
	}
	for v, err := range c.VMs(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		want := map[bool]string{true: "old", false: "new"}[v.Name == "m-3"]
		if got, err := b.ReadDisk(v.ID, 0); err != nil || got != want || v.State != hypervisor.StateRunning || v.Snapshots != 0 {
			t.Errorf("%s has %q, is %s and has %d snapshots, want %q and running (%v)", v.Name, got, v.State, v.Snapshots, want, err)
		}
	}
}

// TestRestartHosts patches one empty host after the other.
func TestRestartHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, c := open(t, 12)
		b.SetDelay(op.VMMigrate, time.Second)
		restarted := 0
		p := fleet.RestartHosts("hosts", c, fleet.HostOptions{Act: func(ctx context.Context, h *hypervisor.Host, _ *fleet.Attempt) error {
			restarted++
			v, err := h.Info(ctx)
			if err != nil || v.Running != 0 || v.State != hypervisor.HostMaintaining {
				t.Errorf("the host is %s with %d machines when it is restarted (%v)", v.State, v.Running, err)
			}
			return nil
		}})
		s, err := fleet.Do(t.Context(), p)
		if err != nil || s.Done != 4 || restarted != 4 {
			t.Errorf("RestartHosts: %+v, %v", s, err)
		}
		for h, err := range c.Hosts(t.Context()) {
			if err != nil || h.State != hypervisor.HostUp {
				t.Errorf("%s is %s (%v)", h.ID, h.State, err)
			}
		}
	})
}

// TestRestartHostsStops leaves a host in maintenance whose restart failed.
func TestRestartHostsStops(t *testing.T) {
	_, c := open(t, 4)
	s, err := fleet.Do(t.Context(), fleet.RestartHosts("hosts", c, fleet.HostOptions{Act: func(context.Context, *hypervisor.Host, *fleet.Attempt) error { return errors.New("power supply") }}))
	if s.Failed != 1 || s.Left != 3 || s.Stopped != fleet.StopFailures || err == nil {
		t.Errorf("RestartHosts: %+v, %v", s, err)
	}
	n := 0
	for h := range c.Hosts(t.Context()) {
		if h.State == hypervisor.HostMaintaining {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d hosts are in maintenance, want 1", n)
	}
}

func TestPlatformLimits(t *testing.T) {
	for _, l := range fleet.PlatformLimits {
		if l.Driver == "" || l.Work == "" || l.Source == "" || l.PerHost+l.PerDatastore == 0 {
			t.Errorf("incomplete: %+v", l)
		}
	}
	_, c := open(t, 0)
	if l := fleet.LimitsFor(c, fleet.WorkMove); l.PerHost != 2 {
		t.Errorf("the limits of a platform without any are %+v", l)
	}
}
