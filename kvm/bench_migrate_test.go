//go:build cgo

package kvm

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/lab/kvmlab"
)

// movesEach is how often each side moves the guest: single downtimes differ by
// a factor of three.
const movesEach = 9

// BenchmarkMigrate moves a running guest to and fro, by the driver and by
// virsh in turn. Both tell the downtime that libvirt measured.
func BenchmarkMigrate(b *testing.B) {
	l := theLab(b)
	ctx := context.Background()
	c, err := Open(ctx, config(l.Hosts...), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	vm, err := c.CreateVM(ctx, spec(l, poolUUID(b, l.Hosts[0], "shared"))("bench")).Wait(ctx)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if _, err := vm.Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(ctx); err != nil {
			b.Error(err)
		}
	}()
	if _, err := vm.Start(ctx).Wait(ctx); err != nil {
		b.Fatal(err)
	}
	if _, err := uptime(ctx, l, vm.ID()); err != nil {
		b.Fatal(err)
	}
	to := func() *kvmlab.Host {
		i, err := vm.Info(ctx)
		if err != nil {
			b.Fatal(err)
		}
		return l.Hosts[slices.IndexFunc(l.Hosts, func(h *kvmlab.Host) bool { return h.UUID != string(i.Host) })]
	}
	// The measure is the guest's and the links', so one round is the benchmark.
	var ours, theirs, oursWall, theirsWall []time.Duration
	for b.Loop() {
		for range movesEach {
			began := time.Now()
			r, err := vm.Migrate(ctx, hypervisor.MigrateOptions{Host: hypervisor.HostID(to().UUID)}).Wait(ctx)
			if err != nil {
				b.Fatal(err)
			}
			ours, oursWall = append(ours, r.Downtime), append(oursWall, time.Since(began))

			began = time.Now()
			h := to()
			if _, err := virshOn(ctx, l, vm.ID(), "migrate", "--live", "--p2p", "--unsafe", "--persistent", "--undefinesource", "--desturi", h.TCPURI, "--migrateuri", "tcp://"+h.Address); err != nil {
				b.Fatal(err)
			}
			theirsWall = append(theirsWall, time.Since(began))
			out, err := h.Virsh(ctx, "domjobinfo", "--completed", string(vm.ID()))
			if err != nil {
				b.Fatal(err)
			}
			var ms int
			for line := range strings.Lines(out) {
				if k, v, _ := strings.Cut(line, ":"); k == "Total downtime" {
					fmt.Sscan(v, &ms)
				}
			}
			if ms == 0 {
				b.Fatalf("virsh reports no downtime:\n%s", out)
			}
			theirs = append(theirs, time.Duration(ms)*time.Millisecond)
		}
	}
	b.Logf("downtimes of the driver's moves: %v", ours)
	b.Logf("downtimes of virsh's moves: %v", theirs)
	a, z := median(ours), median(theirs)
	b.ReportMetric(float64(a.Milliseconds()), "ms-downtime/driver")
	b.ReportMetric(float64(z.Milliseconds()), "ms-downtime/virsh")
	b.ReportMetric(a.Seconds()/z.Seconds(), "downtime-ratio")
	b.ReportMetric(median(oursWall).Seconds()/median(theirsWall).Seconds(), "wall-ratio")
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}
