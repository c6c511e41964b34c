//go:build cgo

package kvm

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/lab/kvmlab"
	"github.com/anyvisor/anyvisor/internal/lab/rpcproxy"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// TestMigrateFails breaks what a migration needs while it continues. The machine
// continues at its source, and the error says of what kind it is.
func TestMigrateFails(t *testing.T) {
	l := theLab(t)
	m := newMovingTest(t, config(l.Hosts...), "fails", poolUUID(t, l.Hosts[0], "shared"))
	for _, c := range []struct {
		what        string
		cut, repair func(from, to *kvmlab.Host) error
	}{
		{"the destination's QEMU dies", func(_, to *kvmlab.Host) error {
			_, err := to.Run(m.ctx, "sh", "-c", "kill -9 $(cat /run/libvirt/qemu/fails.pid)")
			return err
		}, nil},
		{"the destination's libvirtd dies", func(_, to *kvmlab.Host) error { return to.Kill(m.ctx) }, func(_, to *kvmlab.Host) error { return to.StartDaemon(m.ctx) }},
		{"the source's libvirtd dies", func(from, _ *kvmlab.Host) error { return from.Kill(m.ctx) }, func(from, _ *kvmlab.Host) error { return from.StartDaemon(m.ctx) }},
	} {
		t.Run(c.what, func(t *testing.T) {
			n := m.count(t)
			from, _ := m.ends(t)
			_, err := m.during(t, hypervisor.MigrateOptions{}, func(_ migration, from, to *kvmlab.Host) {
				if err := c.cut(from, to); err != nil {
					t.Fatal(err)
				}
				if c.repair != nil {
					if err := c.repair(from, to); err != nil {
						t.Fatal(err)
					}
				}
			})
			var e *hypervisor.Error
			if !errors.As(err, &e) || e.Kind == hypervisor.ErrUnknown {
				t.Errorf("the migration ended with %v (kind %s), want an error of some kind", err, hypervisor.KindOf(err))
			}
			t.Logf("%v", err)
			m.runsOn(t, from, n)
		})
	}
	_, to := m.ends(t)
	if _, err := m.vm.Migrate(m.ctx, hypervisor.MigrateOptions{Host: hypervisor.HostID(to.UUID)}).Wait(m.ctx); err != nil {
		t.Errorf("a migration after all that: %v", err)
	}
}

// proxied is both hosts, with this program's connections through proxies.
func proxied(t *testing.T, l *kvmlab.Lab) (Config, []*rpcproxy.Proxy) {
	cfg := Config{DomainType: "qemu", SerialLogDir: serialDir, Peers: map[string]Peer{}}
	var all []*rpcproxy.Proxy
	for _, h := range l.Hosts {
		p := rpcproxy.New(t, "unix", h.Socket)
		all = append(all, p)
		cfg.Hosts = append(cfg.Hosts, socketURI(p))
		cfg.Peers[socketURI(p)] = Peer{URI: h.TCPURI, Migrate: "tcp://" + h.Address}
	}
	return cfg, all
}

// TestMigrateConnectionLost cuts this program's connections while a machine
// moves with its disk. The hosts continue without it, and what they made is no
// leftover of a failure.
func TestMigrateConnectionLost(t *testing.T) {
	l := theLab(t)
	cfg, proxies := proxied(t, l)
	m := newMovingTest(t, cfg, "cut", poolUUID(t, l.Hosts[0], "shared"), func(s *hypervisor.VMSpec) { s.Disks[0].SizeBytes = 6 * hypervisor.MiB })
	n := m.count(t)
	_, to := m.ends(t)
	before, err := imageFiles(l)
	if err != nil {
		t.Fatal(err)
	}
	soon, stop := context.WithCancel(m.ctx)
	defer stop()
	var fast sync.WaitGroup
	r, err := m.during(t, hypervisor.MigrateOptions{Storage: poolUUID(t, to, "default")}, func(_ migration, from, _ *kvmlab.Host) {
		for _, p := range proxies {
			p.Cut()
		}
		// Seen: it may go fast now. The disk comes before the memory, which has its
		// own limit from when it begins.
		fast.Go(func() {
			for soon.Err() == nil {
				_, _ = from.Virsh(soon, "migrate-setspeed", m.id(), "10000") // it may have ended
				_ = fleet.Pause(soon, fleet.PollEvery)
			}
		})
	})
	stop()
	fast.Wait()
	if err != nil || string(r.Host) != to.UUID {
		t.Fatalf("the migration ended with %+v, %v; want it on %s", r, err, to.UUID)
	}
	m.runsOn(t, to, n)
	after, err := imageFiles(l)
	image, derr := firstDisk(m.ctx, l, m.vm.ID())
	if err != nil || derr != nil || len(after) != len(before) || !slices.Contains(after, image) {
		t.Errorf("images before %q, after %q; the machine is on %s (%v, %v)", before, after, image, err, derr)
	}
}

// TestMoveAnswerLost loses the answer to a request that a move can't do twice.
// The machine is never without a definition and never without its disk.
func TestMoveAnswerLost(t *testing.T) {
	l := theLab(t)
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Minute)
	defer stop()
	cfg, proxies := proxied(t, l)
	c, err := Open(ctx, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	from, to := l.Hosts[0], l.Hosts[1]
	here, there := poolUUID(t, from, "default"), poolUUID(t, to, "default")
	s := spec(l, here)("answers")
	vm, err := c.CreateVM(ctx, s).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := vm.Delete(context.WithoutCancel(ctx), hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	})
	if err := writeDisk(ctx, l, vm.ID(), "kept"); err != nil {
		t.Fatal(err)
	}
	// is demands that one host has the machine, on an image there with its
	// content, and returns the lab's images.
	is := func(where *kvmlab.Host, after string) []string {
		t.Helper()
		for _, h := range l.Hosts {
			if out, err := h.Virsh(ctx, "list", "--all", "--uuid"); err != nil || strings.Contains(out, string(vm.ID())) != (h == where) {
				t.Errorf("after %s: %s has the machine, want it on %s alone (%v)", after, h.Name, where.Name, err)
			}
		}
		if s, err := platformState(ctx, l, vm.ID()); err == nil && s == hypervisor.StateOff {
			if got, err := readDisk(ctx, l, vm.ID()); err != nil || got != "kept" {
				t.Errorf("after %s the disk holds %q (%v)", after, got, err)
			}
		}
		files, err := imageFiles(l)
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	before := is(from, "nothing")
	host := func(h *kvmlab.Host) hypervisor.HostID { return hypervisor.HostID(h.UUID) }

	// There and back, and there again: each request is asked for twice, and in
	// the second round its first copy arrives last.
	for i, lose := range []func(p *rpcproxy.Proxy, procedure uint32){func(p *rpcproxy.Proxy, q uint32) { p.LoseAnswer(q, 0) }, (*rpcproxy.Proxy).Delay, (*rpcproxy.Proxy).Delay} {
		a, b, pool := from, to, there
		if i == 1 {
			a, b, pool = to, from, here
		}
		pa, pb := proxies[i%2], proxies[1-i%2]
		lose(pb, rpcproxy.Define)
		lose(pa, rpcproxy.Undefine)
		if _, err = vm.Migrate(ctx, hypervisor.MigrateOptions{Host: host(b), Storage: pool}).Wait(ctx); err != nil {
			t.Errorf("a cold move from %s without the answers to two requests: %v", a.Name, err)
		}
		if !pa.Struck() || !pb.Struck() {
			t.Error("no answer was lost")
		}
		if now := is(b, "lost answers"); len(now) != len(before) {
			t.Errorf("images before %q, now %q", before, now)
		}
	}
	if _, err := vm.Start(ctx).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	proxies[1].LoseAnswer(rpcproxy.BlockJobAbort, 0)
	_, err = vm.Migrate(ctx, hypervisor.MigrateOptions{Storage: poolUUID(t, to, "shared")}).Wait(ctx)
	var e *hypervisor.Error
	if !errors.As(err, &e) || e.Kind != hypervisor.ErrUnavailable || len(e.Leftover) != 1 {
		t.Fatalf("a live move of a disk whose switch-over's answer was lost: %v, want ErrUnavailable with one leftover", err)
	}
	image, err := firstDisk(ctx, l, vm.ID())
	if now := is(to, "a lost answer to the switch-over"); err != nil || len(now) != len(before)+1 || !slices.Contains(now, image) || !strings.HasPrefix(image, l.Shared) {
		t.Errorf("images before %q, now %q; the machine is on %s (%v), left is %v", before, now, image, err, e.Leftover)
	}
	if _, err := vm.PowerOff(ctx).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	is(to, "power off")
	for _, k := range e.Leftover {
		if _, err := c.DeleteVolume(ctx, hypervisor.VolumeID(k.ID)).Wait(ctx); err != nil {
			t.Error(err)
		}
	}
	is(to, "the leftover's end")
}
