//go:build cgo

package libxl

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/lab"
	"github.com/anyvisor/anyvisor/internal/lab/xenlab"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// world is a Client on both hosts, and what one test made with it.
type world struct {
	*testing.T
	ctx context.Context
	l   *xenlab.Lab
	c   *hypervisor.Client
	ds  hypervisor.DatastoreID
}

func newWorld(t *testing.T, p2p bool) *world {
	l := theLab(t)
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(stop)
	c, err := openHosts(ctx, p2p, l.Hosts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return &world{t, ctx, l, c, poolUUID(t, l.Hosts[0], "shared")}
}

func (w *world) ok(err error, what string) {
	w.Helper()
	if err != nil {
		w.Fatalf("%s: %v", what, err)
	}
}

// do waits for a task without a result.
func (w *world) do(t *hypervisor.Task[hypervisor.None], what string) {
	w.Helper()
	_, err := t.Wait(w.ctx)
	w.ok(err, what)
}

func (w *world) create(kind, name string) *hypervisor.VM { return w.createOn(kind, name, "") }

// createOn makes a machine that is removed when the test ends.
func (w *world) createOn(kind, name string, host hypervisor.HostID) *hypervisor.VM {
	w.Helper()
	spec := guest(kind, name, w.ds)
	spec.Placement.Host = host
	vm, err := w.c.CreateVM(w.ctx, spec).Wait(w.ctx)
	w.ok(err, "create "+name)
	w.removeAtEnd(vm, name)
	return vm
}

func (w *world) removeAtEnd(vm *hypervisor.VM, name string) {
	w.Cleanup(func() {
		ctx, stop := context.WithTimeout(context.Background(), time.Minute)
		defer stop()
		_, err := vm.Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(ctx)
		if err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
			w.Errorf("delete %s: %v", name, err)
		}
	})
}

func (w *world) count(vm *hypervisor.VM) int {
	w.Helper()
	n, err := count(w.ctx, w.l, vm.ID())
	w.ok(err, "the guest's counter")
	return n
}

// goesOn demands that the guest's memory went on from n.
func (w *world) goesOn(vm *hypervisor.VM, n int, after string) int {
	w.Helper()
	got := w.count(vm)
	if got <= n {
		w.Errorf("after %s the guest counts %d, it was at %d: its memory was lost", after, got, n)
	}
	return got
}

// xl returns the state column of "xl list" for a machine on each host, empty
// where xl does not know it.
func (w *world) xl(name string) []string {
	w.Helper()
	out := make([]string, len(w.l.Hosts))
	errs := make([]error, len(w.l.Hosts))
	var wg sync.WaitGroup
	for i, h := range w.l.Hosts {
		wg.Go(func() {
			text, err := h.Run(w.ctx, "xl list")
			errs[i] = err
			for line := range strings.Lines(text) {
				if f := strings.Fields(line); len(f) > 4 && f[0] == name {
					out[i] = f[4]
				}
			}
		})
	}
	wg.Wait()
	w.ok(errors.Join(errs...), "xl list")
	return out
}

// agree demands a state and a host from the API's listing, and the same from
// xl.
func (w *world) agree(vm *hypervisor.VM, name string, want hypervisor.PowerState, after string) hypervisor.HostID {
	w.Helper()
	all, err := hypervisor.Collect(w.c.VMs(w.ctx, &hypervisor.ListOptions{Detail: hypervisor.DetailBrief}))
	w.ok(err, "VMs")
	i := slices.IndexFunc(all, func(v hypervisor.VMInfo) bool { return v.ID == vm.ID() })
	if i < 0 {
		w.Fatalf("after %s the machine is not listed", after)
	}
	if all[i].State != want || all[i].Name != name {
		w.Errorf("after %s the machine is listed as %q, %s; want %q, %s", after, all[i].Name, all[i].State, name, want)
	}
	for n, here := range w.xl(name) {
		h := w.l.Hosts[n]
		on := all[i].Host == w.id(h) && (want == hypervisor.StateRunning || want == hypervisor.StatePaused)
		switch {
		case on != (here != ""):
			w.Errorf("after %s xl on %s has it: %v; the API: %s on %s", after, h.Name, here != "", want, all[i].Host)
		case on && strings.Contains(here, "p") != (want == hypervisor.StatePaused):
			w.Errorf("after %s xl says %q, the API %s", after, here, want)
		}
	}
	return all[i].Host
}

// id is the host's ID, found by its name.
func (w *world) id(h *xenlab.Host) hypervisor.HostID {
	w.Helper()
	f, err := w.c.FindHost(w.ctx, h.Name)
	w.ok(err, "FindHost")
	return f.ID()
}

// TestGuests shows PV and PVH machines created, paused, saved, restored and
// listed, and moved with their counter going on, while xl agrees.
func TestGuests(t *testing.T) {
	for _, kind := range []string{pv, pvh} {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(t, true)
			name := "guest-" + kind
			vm := w.create(kind, name)
			if i, err := vm.Info(w.ctx); err != nil || i.Machine != kind {
				t.Errorf("the machine is %q (%v), want %s", i.Machine, err, kind)
			}
			w.agree(vm, name, hypervisor.StateOff, "CreateVM")
			w.do(vm.Start(w.ctx), "Start")
			n := w.goesOn(vm, 0, "Start")
			w.agree(vm, name, hypervisor.StateRunning, "Start")
			w.do(vm.Pause(w.ctx), "Pause")
			w.agree(vm, name, hypervisor.StatePaused, "Pause")
			w.do(vm.Resume(w.ctx), "Resume")
			n = w.goesOn(vm, n, "Resume")
			w.do(vm.Suspend(w.ctx), "Suspend")
			w.agree(vm, name, hypervisor.StateSuspended, "Suspend")
			w.do(vm.Resume(w.ctx), "Resume from disk")
			n = w.goesOn(vm, n, "Resume from disk")
			from := w.agree(vm, name, hypervisor.StateRunning, "Resume from disk")
			w.move(vm, name, kind, from, n)
		})
	}
}

// move migrates a running machine to the other host, peer to peer.
func (w *world) move(vm *hypervisor.VM, name, kind string, from hypervisor.HostID, n int) {
	w.Helper()
	i := slices.IndexFunc(w.l.Hosts, func(h *xenlab.Host) bool { return w.id(h) != from })
	opt := hypervisor.MigrateOptions{Host: w.id(w.l.Hosts[i]), Mode: hypervisor.MigrateModeLive}
	s, err := vm.Supports(w.ctx, capability.MigrateLive)
	w.ok(err, "Supports")
	if kind == pv {
		if s.Level != hypervisor.LevelNo || s.Reason != hypervisor.ReasonPlatform {
			w.Errorf("live migration of a PV machine: %+v, want No with the reason %s", s, hypervisor.ReasonPlatform)
		}
		var b *hypervisor.BlockedError
		if _, err := vm.Migrate(w.ctx, opt).Wait(w.ctx); !errors.As(err, &b) || b.Blockers[0].Reason != hypervisor.ReasonPlatform {
			w.Errorf("live Migrate of a PV machine: %v, want it blocked by %s", err, hypervisor.ReasonPlatform)
		}
		w.goesOn(vm, n, "a refused Migrate")
		opt.Mode = hypervisor.MigrateModeAuto
	} else if s.Level != hypervisor.LevelYes {
		w.Errorf("live migration of a PVH machine: %+v", s)
	}
	rep, err := vm.CheckMigrate(w.ctx, opt)
	if err != nil || !rep.OK() || (len(rep.Warnings) > 0) != (kind == pv) {
		w.Fatalf("CheckMigrate: %+v, %v", rep, err)
	}
	r, err := vm.Migrate(w.ctx, opt).Wait(w.ctx)
	w.ok(err, "Migrate")
	if r.Host != opt.Host || r.Method != rep.Method || r.Total <= 0 {
		w.Errorf("Migrate did %+v, asked for %s by %q", r, opt.Host, rep.Method)
	}
	if at := w.agree(vm, name, hypervisor.StateRunning, "Migrate"); at != opt.Host {
		w.Errorf("after Migrate the machine is on %s, want %s", at, opt.Host)
	}
	n = w.goesOn(vm, n, "Migrate")
	if kind == pvh {
		w.moveOut(vm, name, n)
	}
}

// moveOut migrates live to another Client, which has the other host alone.
func (w *world) moveOut(vm *hypervisor.VM, name string, n int) {
	w.Helper()
	at, err := look(w.ctx, w.l, vm.ID())
	w.ok(err, "find the machine")
	target := w.l.Hosts[0]
	if at.host == target {
		target = w.l.Hosts[1]
	}
	source, err := openHosts(w.ctx, false, at.host)
	w.ok(err, "open one host")
	defer source.Close()
	other, err := openHosts(w.ctx, false, target)
	w.ok(err, "open the other host")
	defer other.Close()
	if s, err := source.Supports(w.ctx, capability.MigrateLive, hypervisor.Ref{}); err != nil || s.Reason != hypervisor.ReasonSingleHost {
		w.Errorf("live migration with one host: %+v, %v", s, err)
	}
	r, err := source.VM(vm.ID()).Migrate(w.ctx, hypervisor.MigrateOptions{To: other, Host: w.id(target), Mode: hypervisor.MigrateModeLive}).Wait(w.ctx)
	w.ok(err, "Migrate to another Client")
	if i, err := other.VM(r.VM).Info(w.ctx); err != nil || i.State != hypervisor.StateRunning {
		w.Errorf("the other Client's machine is %s (%v)", i.State, err)
	}
	if _, err := source.VM(vm.ID()).Info(w.ctx); !errors.Is(err, hypervisor.ErrNotFound) {
		w.Errorf("the source still has the machine: %v", err)
	}
	w.goesOn(vm, n, "Migrate to another Client")
	w.agree(vm, name, hypervisor.StateRunning, "Migrate to another Client")
}

// TestLibvirtdEnds shows that machines run on when libvirtd ends, and that the
// Client is of use again when it is back.
func TestLibvirtdEnds(t *testing.T) {
	w := newWorld(t, false)
	vm := w.create(pvh, "survivor")
	w.do(vm.Start(w.ctx), "Start")
	n := w.goesOn(vm, 0, "Start")
	at, err := look(w.ctx, w.l, vm.ID())
	w.ok(err, "find the machine")
	ends := len(at.host.Ends())
	_, err = at.host.Run(w.ctx, "kill -KILL $(pidof libvirtd)")
	w.ok(err, "end libvirtd")
	err = lab.WaitFor(w.ctx, 200*time.Millisecond, func(ctx context.Context) error {
		_, err := vm.Info(ctx)
		if err == nil && len(at.host.Ends()) == ends {
			err = errors.New("libvirtd has not ended")
		} else if err != nil && !errors.Is(err, hypervisor.ErrUnavailable) {
			t.Errorf("Info without libvirtd: %v (kind %s), want %v", err, hypervisor.KindOf(err), hypervisor.ErrUnavailable)
			return nil
		}
		return err
	})
	w.ok(err, "wait for libvirtd")
	n = w.goesOn(vm, n, "an end of libvirtd")
	w.agree(vm, "survivor", hypervisor.StateRunning, "an end of libvirtd")
	w.do(vm.Pause(w.ctx), "Pause")
	w.agree(vm, "survivor", hypervisor.StatePaused, "Pause after an end of libvirtd")
	w.do(vm.Resume(w.ctx), "Resume")
	w.goesOn(vm, n, "Resume")
}

// TestTemplateCannotStart shows that virsh can't start a template either.
func TestTemplateCannotStart(t *testing.T) {
	w := newWorld(t, false)
	vm := w.create(pvh, "golden")
	_, err := vm.MarkTemplate(w.ctx).Wait(w.ctx)
	w.ok(err, "MarkTemplate")
	at, err := look(w.ctx, w.l, vm.ID())
	w.ok(err, "find the template")
	if out, err := at.host.Virsh(w.ctx, "start", "golden"); err == nil || !strings.Contains(err.Error(), fleet.GuardNetwork) {
		t.Errorf("virsh start of a template: %q, %v; want an error that names %s", out, err, fleet.GuardNetwork)
	}
	if s := w.xl("golden"); s[0]+s[1] != "" {
		t.Errorf("xl knows the template: %q", s)
	}
}
