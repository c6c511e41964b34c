//go:build cgo

package kvm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/lab"
	"github.com/anyvisor/anyvisor/internal/lab/kvmlab"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// TestMigrateParams looks at what each option becomes for libvirt.
func TestMigrateParams(t *testing.T) {
	const always = libvirt.MIGRATE_LIVE | libvirt.MIGRATE_PERSIST_DEST | libvirt.MIGRATE_UNDEFINE_SOURCE | libvirt.MIGRATE_ABORT_ON_ERROR
	for _, c := range []struct {
		req   hypervisor.MigrateRequest
		flags libvirt.DomainMigrateFlags
		check func(libvirt.DomainMigrateParameters) bool
	}{
		{hypervisor.MigrateRequest{}, 0, func(p libvirt.DomainMigrateParameters) bool { return !p.BandwidthSet && !p.ParallelConnectionsSet }},
		{hypervisor.MigrateRequest{MigrateOptions: hypervisor.MigrateOptions{AutoConverge: true}}, libvirt.MIGRATE_AUTO_CONVERGE, nil},
		{hypervisor.MigrateRequest{MigrateOptions: hypervisor.MigrateOptions{Compress: true}}, libvirt.MIGRATE_COMPRESSED, nil},
		{hypervisor.MigrateRequest{MigrateOptions: hypervisor.MigrateOptions{PostCopy: true}}, libvirt.MIGRATE_POSTCOPY, nil},
		{hypervisor.MigrateRequest{MigrateOptions: hypervisor.MigrateOptions{Channels: 4}}, libvirt.MIGRATE_PARALLEL, func(p libvirt.DomainMigrateParameters) bool {
			return p.ParallelConnectionsSet && p.ParallelConnections == 4
		}},
		{hypervisor.MigrateRequest{MigrateOptions: hypervisor.MigrateOptions{BandwidthBytes: 5 * hypervisor.MiB}}, 0, func(p libvirt.DomainMigrateParameters) bool { return p.BandwidthSet && p.Bandwidth == 5 }},
		{hypervisor.MigrateRequest{MigrateOptions: hypervisor.MigrateOptions{BandwidthBytes: 1}}, 0, func(p libvirt.DomainMigrateParameters) bool { return p.BandwidthSet && p.Bandwidth == 1 }},
	} {
		m := &move{r: c.req, dst: &fleet.Host{Peer: fleet.Peer{Migrate: "tcp://h"}}}
		p, flags := m.params()
		if flags != always|c.flags || !p.URISet || p.URI != "tcp://h" || c.check != nil && !c.check(p) {
			t.Errorf("%+v gives flags %b and %+v, want flags %b", c.req, flags, p, always|c.flags)
		}
	}
}

// movingTest looks at migrations while they continue. They are slow enough for
// that on any machine: QEMU sends 1 MiB in a second, and the guest has used
// tens of times as much. Once seen, they may end.
type movingTest struct {
	ctx context.Context
	l   *kvmlab.Lab
	vm  *hypervisor.VM
}

type migration = *hypervisor.Task[hypervisor.MigrateResult]

func newMovingTest(t *testing.T, cfg Config, name string, disks hypervisor.DatastoreID, change ...func(*hypervisor.VMSpec)) *movingTest {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 15*time.Minute)
	t.Cleanup(stop)
	c, err := Open(ctx, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	l := theLab(t)
	s := spec(l, disks)(name)
	for _, f := range change {
		f(&s)
	}
	return &movingTest{ctx, l, running(t, ctx, l, c, s)}
}

func (m *movingTest) id() string { return string(m.vm.ID()) }

// ends are the host that has the machine, and the other.
func (m *movingTest) ends(t *testing.T) (from, to *kvmlab.Host) {
	t.Helper()
	i, err := m.vm.Info(m.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if m.l.Hosts[0].UUID == string(i.Host) {
		return m.l.Hosts[0], m.l.Hosts[1]
	}
	return m.l.Hosts[1], m.l.Hosts[0]
}

// during starts a migration, calls see when something is being sent, and
// returns the migration's end.
func (m *movingTest) during(t *testing.T, o hypervisor.MigrateOptions, see func(task migration, from, to *kvmlab.Host)) (hypervisor.MigrateResult, error) {
	t.Helper()
	from, to := m.ends(t)
	o.Host, o.BandwidthBytes = hypervisor.HostID(to.UUID), hypervisor.MiB
	task := m.vm.Migrate(m.ctx, o)
	seen := false
	for s, err := range task.Progress(m.ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if !seen && !s.Done && s.BytesTotal > 0 {
			seen = true
			see(task, from, to)
		}
	}
	r, err := task.Wait(m.ctx)
	if !seen {
		t.Errorf("%+v: nobody saw it going on (%v)", o, err)
	}
	return r, err
}

// faster lets a migration end soon.
func (m *movingTest) faster(t *testing.T, from *kvmlab.Host) {
	t.Helper()
	if _, err := from.Virsh(m.ctx, "migrate-setspeed", m.id(), "10000"); err != nil {
		t.Error(err)
	}
}

func (m *movingTest) count(t *testing.T) int {
	t.Helper()
	n, err := uptime(m.ctx, m.l, m.vm.ID())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// runsOn demands that the machine continues where it should, with its memory,
// and nowhere else.
func (m *movingTest) runsOn(t *testing.T, where *kvmlab.Host, n int) {
	t.Helper()
	if i, err := m.vm.Info(m.ctx); err != nil || string(i.Host) != where.UUID || i.State != hypervisor.StateRunning {
		t.Errorf("the machine is %s on %s (%v), want running on %s", i.State, i.Host, err, where.UUID)
	}
	if now, err := uptime(m.ctx, m.l, m.vm.ID()); err != nil || now < n {
		t.Errorf("the guest's counter is %d (%v), it was %d", now, err, n)
	}
	ctx, stop := context.WithTimeout(m.ctx, 2*time.Minute)
	defer stop()
	for _, h := range m.l.Hosts {
		err := lab.WaitFor(ctx, 100*time.Millisecond, func(ctx context.Context) error { // a libvirtd that restarted clears up
			out, err := h.Virsh(ctx, "list", "--all", "--uuid")
			if err == nil && h != where && strings.Contains(out, m.id()) {
				err = fmt.Errorf("%s has the machine too", h.Name)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestMigrateOptions looks whether options come to the hosts.
func TestMigrateOptions(t *testing.T) {
	l := theLab(t)
	m := newMovingTest(t, config(l.Hosts...), "options", poolUUID(t, l.Hosts[0], "shared"))
	ctx, vm := m.ctx, m.vm
	t.Run("channels and downtime", func(t *testing.T) {
		n := m.count(t)
		_, to := m.ends(t)
		_, err := m.during(t, hypervisor.MigrateOptions{Channels: 3, AutoConverge: true, MaxDowntime: 700 * time.Millisecond}, func(_ migration, from, to *kvmlab.Host) {
			if out, err := from.Virsh(ctx, "migrate-getmaxdowntime", m.id()); err != nil || out != "700" {
				t.Errorf("the limit of downtime is %q (%v), want 700", out, err)
			}
			if got, err := connections(ctx, from, to); err != nil || got != 4 {
				t.Errorf("the hosts have %d connections for the guest's memory (%v), want one and three channels", got, err)
			}
			m.faster(t, from)
		})
		if err != nil {
			t.Fatal(err)
		}
		m.runsOn(t, to, n)
	})
	t.Run("compression", func(t *testing.T) {
		n := m.count(t)
		_, to := m.ends(t)
		_, err := m.during(t, hypervisor.MigrateOptions{Compress: true}, func(_ migration, from, _ *kvmlab.Host) {
			if out, err := from.Virsh(ctx, "domjobinfo", m.id()); err != nil || !strings.Contains(out, "Compression cache:") {
				t.Errorf("the job has no compression cache (%v):\n%s", err, out)
			}
			m.faster(t, from)
		})
		if err != nil {
			t.Fatal(err)
		}
		m.runsOn(t, to, n)
	})
	t.Run("post-copy", func(t *testing.T) {
		n := m.count(t)
		_, to := m.ends(t)
		_, err := m.during(t, hypervisor.MigrateOptions{PostCopy: true}, func(_ migration, from, to *kvmlab.Host) {
			// The guest continues there before its memory is there.
			for h, want := range map[*kvmlab.Host]string{from: "paused (post-copy)", to: "running (post-copy)"} {
				err := lab.WaitFor(ctx, 100*time.Millisecond, func(ctx context.Context) error {
					s, err := h.Virsh(ctx, "domstate", m.id(), "--reason")
					if err == nil && s != want {
						err = fmt.Errorf("at %s the guest is %s, want %s", h.Name, s, want)
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			if _, err := from.Virsh(ctx, "migrate-setspeed", m.id(), "10000", "--postcopy"); err != nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		m.runsOn(t, to, n)
	})
	t.Run("cancel under way", func(t *testing.T) {
		n := m.count(t)
		from, _ := m.ends(t)
		_, err := m.during(t, hypervisor.MigrateOptions{}, func(task migration, from, to *kvmlab.Host) {
			// What runs blocks another move, and says so.
			rep, err := vm.CheckMigrate(ctx, hypervisor.MigrateOptions{Host: hypervisor.HostID(to.UUID)})
			if err != nil || !blocks(rep, hypervisor.ReasonVMBusy) {
				t.Errorf("CheckMigrate during a migration: %+v %v, want %s", rep, err, hypervisor.ReasonVMBusy)
			}
			if err := task.Cancel(ctx); err != nil {
				t.Error(err)
			}
		})
		if !errors.Is(err, hypervisor.ErrCanceled) {
			t.Errorf("a migration cancelled under way: %v, want ErrCanceled", err)
		}
		m.runsOn(t, from, n)
	})
	t.Run("time limit", func(t *testing.T) {
		n := m.count(t)
		from, to := m.ends(t)
		_, err := vm.Migrate(ctx, hypervisor.MigrateOptions{Host: hypervisor.HostID(to.UUID), BandwidthBytes: hypervisor.MiB, Timeout: time.Second}).Wait(ctx)
		if hypervisor.KindOf(err) != hypervisor.ErrTimeout {
			t.Errorf("a migration beyond its time limit: %v, want ErrTimeout", err)
		}
		m.runsOn(t, from, n)
	})
}

// connections counts the established TCP connections from one host to the
// ports of another on which QEMU takes migrations: libvirt's default range is
// 49152 to 49215 (qemu.conf, migration_port_min and max).
func connections(ctx context.Context, from, to *kvmlab.Host) (int, error) {
	out, err := from.Run(ctx, "cat", "/proc/net/tcp")
	if err != nil {
		return 0, err
	}
	var a, b, c, d byte
	if _, err := fmt.Sscanf(to.Address, "%d.%d.%d.%d", &a, &b, &c, &d); err != nil {
		return 0, err
	}
	n := 0
	for line := range strings.Lines(out) { // sl local remote state …, hexadecimal (proc(5))
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != "01" {
			continue
		}
		addr, port, _ := strings.Cut(f[2], ":")
		var p int
		fmt.Sscanf(port, "%x", &p)
		if addr == fmt.Sprintf("%02X%02X%02X%02X", d, c, b, a) && p >= 49152 && p <= 49215 {
			n++
		}
	}
	return n, nil
}

// blocks reports whether a blocker has a reason.
func blocks(rep hypervisor.MigrateReport, r hypervisor.ReasonCode) bool {
	for _, b := range rep.Blockers {
		if b.Reason == r && b.Detail != "" {
			return true
		}
	}
	return false
}
