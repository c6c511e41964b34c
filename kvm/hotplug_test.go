//go:build cgo

package kvm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/lab"
)

// inGuest is what a guest has, by its own count.
type inGuest struct {
	cpus, kib   int
	balloon     int      // pages that the balloon has taken
	disks, nics []string // disks with their sectors
}

// lookInside asks a guest.
func lookInside(ctx context.Context, vm *hypervisor.VM) (g inGuest, err error) {
	const script = `grep -c ^processor /proc/cpuinfo
while read -r k v _; do [ $k = MemTotal: ] && echo $v; done </proc/meminfo
while read -r k v; do case $k in balloon_inflate) i=$v ;; balloon_deflate) o=$v ;; esac; done </proc/vmstat
echo $((i - o))
for d in /sys/block/vd*; do echo ${d##*/}=$(cat $d/size); done
echo -
for n in /sys/class/net/eth*; do cat $n/address; done`
	r, err := vm.Exec(ctx, hypervisor.ExecRequest{Path: "/bin/sh", Args: []string{"-c", script}})
	if err != nil {
		return g, err
	}
	if _, err := fmt.Sscan(string(r.Stdout), &g.cpus, &g.kib, &g.balloon); err != nil {
		return g, fmt.Errorf("%w: %q", err, r.Stdout)
	}
	disks, nics, _ := strings.Cut(string(r.Stdout), "-\n")
	g.disks, g.nics = strings.Fields(disks)[3:], strings.Fields(nics)
	return g, nil
}

// TestHotPlug changes a running machine and asks its guest what it has got.
// CPUs aren't taken away: QEMU's emulated ones don't come off.
func TestHotPlug(t *testing.T) {
	l := theLab(t)
	ctx, stop := context.WithTimeout(t.Context(), 15*time.Minute)
	defer stop()
	c, err := Open(ctx, config(l.Hosts...), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s := spec(l, poolUUID(t, l.Hosts[0], "shared"))("hot")
	s.MaxCPUs, s.MemoryBytes, s.MaxMemoryBytes = 2, 256*hypervisor.MiB, hypervisor.GiB
	s.DynamicMemory = &hypervisor.MemoryRange{MinBytes: 160 * hypervisor.MiB, MaxBytes: 256 * hypervisor.MiB}
	vm := running(t, ctx, l, c, s)
	first, err := lookInside(ctx, vm)
	if err != nil {
		t.Fatal(err)
	}
	// sees waits until the guest has it: guests take what is new when they come to it.
	sees := func(what string, ok func(inGuest) bool) inGuest {
		t.Helper()
		var g inGuest
		err := lab.WaitFor(ctx, 200*time.Millisecond, func(ctx context.Context) (err error) {
			if g, err = lookInside(ctx, vm); err == nil && !ok(g) {
				err = fmt.Errorf("after %s the guest has %+v, it had %+v", what, g, first)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	change := func(ch hypervisor.Changes) error {
		_, err := vm.Reconfigure(ctx, ch).Wait(ctx)
		return err
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	ok(change(hypervisor.Changes{CPUs: 2}))
	sees("a CPU more", func(g inGuest) bool { return g.cpus == 2 })
	// A balloon that gives way before the guest runs out of memory does not count
	// in the guest's total.
	ok(change(hypervisor.Changes{MemoryBytes: 224 * hypervisor.MiB}))
	sees("32 MiB less", func(g inGuest) bool { return g.balloon == 32<<20/4096 })
	ok(change(hypervisor.Changes{MemoryBytes: 256 * hypervisor.MiB}))
	sees("them back", func(g inGuest) bool { return g.balloon == 0 })
	// What comes on top of a machine that the balloon has made smaller brings
	// all of it back.
	ok(change(hypervisor.Changes{MemoryBytes: 224 * hypervisor.MiB}))
	ok(change(hypervisor.Changes{MemoryBytes: 384 * hypervisor.MiB}))
	sees("128 MiB more, as a DIMM", func(g inGuest) bool { return g.kib > first.kib+120<<10 && g.balloon == 0 })
	// libvirt hears of the balloon a second late.
	err = lab.WaitFor(ctx, 200*time.Millisecond, func(ctx context.Context) error {
		i, err := vm.Info(ctx)
		if err == nil && i.MemoryBytes != 384*hypervisor.MiB {
			err = fmt.Errorf("with a DIMM the machine has %d MiB, want 384", i.MemoryBytes>>20)
		}
		return err
	})
	ok(err)

	disk, err := vm.AttachDisk(ctx, hypervisor.DiskSpec{SizeBytes: 8 * hypervisor.MiB}).Wait(ctx)
	ok(err)
	sees("a disk more", func(g inGuest) bool { return slices.Contains(g.disks, string(disk.ID)+"=16384") })
	_, err = vm.GrowDisk(ctx, disk.ID, 16*hypervisor.MiB).Wait(ctx)
	ok(err)
	sees("its growth", func(g inGuest) bool { return slices.Contains(g.disks, string(disk.ID)+"=32768") })
	_, err = vm.DetachDisk(ctx, disk.ID, hypervisor.DeleteDisks).Wait(ctx)
	ok(err)
	sees("its end", func(g inGuest) bool { return slices.Equal(g.disks, first.disks) })
	const mac = "52:54:00:ab:cd:77"
	nic, err := vm.AttachNIC(ctx, hypervisor.NICSpec{MAC: mac}).Wait(ctx)
	ok(err)
	sees("an adapter more", func(g inGuest) bool { return slices.Contains(g.nics, mac) })
	_, err = vm.DetachNIC(ctx, nic.ID).Wait(ctx)
	ok(err)
	sees("its end", func(g inGuest) bool { return slices.Equal(g.nics, first.nics) })

	// What can't be live says so and changes nothing, or waits for the next start.
	refused := func(what string, ch hypervisor.Changes, want hypervisor.ReasonCode) {
		t.Helper()
		before, err := vm.Info(ctx)
		ok(err)
		var u *hypervisor.UnsupportedError
		if err := change(ch); !errors.As(err, &u) || u.Support.Reason != want || !strings.Contains(u.Support.Detail, "NextStart") {
			t.Errorf("%s: %v, want Unsupported with %s and the remedy", what, err, want)
		}
		if now, err := vm.Info(ctx); err != nil || now.CPUs != before.CPUs || now.MemoryBytes != before.MemoryBytes || now.MaxCPUs != before.MaxCPUs {
			t.Errorf("%s was refused and changed the machine: %+v (%v)", what, now, err)
		}
	}
	refused("more CPUs than it was made for", hypervisor.Changes{CPUs: 3}, hypervisor.ReasonHotAddOff)
	refused("fewer CPUs", hypervisor.Changes{CPUs: 1}, hypervisor.ReasonPlatform)
	refused("more memory than it was made for", hypervisor.Changes{MemoryBytes: 2 * hypervisor.GiB}, hypervisor.ReasonHotAddOff)
	refused("another limit", hypervisor.Changes{MaxCPUs: 4}, hypervisor.ReasonVMState)
	if err := change(hypervisor.Changes{MemoryBytes: 400 * hypervisor.MiB}); !errors.Is(err, hypervisor.ErrInvalidArgument) {
		t.Errorf("a DIMM of 16 MiB: %v, want ErrInvalidArgument", err)
	}
	// All or none: of two changes the first could be made, the second never. What
	// libvirt says of the memory by now may be older than the DIMM: QEMU holds
	// its news of the balloon back for up to a second.
	before, err := vm.Info(ctx)
	ok(err)
	if err := change(hypervisor.Changes{MemoryBytes: 512 * hypervisor.MiB, MaxCPUs: 1, NextStart: true}); !errors.Is(err, hypervisor.ErrInvalidArgument) {
		t.Errorf("fewer CPUs at most than the machine has: %v, want ErrInvalidArgument", err)
	}
	if i, err := vm.Info(ctx); err != nil || i.MemoryBytes != before.MemoryBytes {
		t.Errorf("of changes that were refused the memory was made: %d MiB, not %d (%v)", i.MemoryBytes>>20, before.MemoryBytes>>20, err)
	}
	ok(change(hypervisor.Changes{CPUs: 3, MaxCPUs: 4, NextStart: true}))
	if g, err := lookInside(ctx, vm); err != nil || g.cpus != 2 {
		t.Errorf("what waits for the next start is there now: %+v (%v)", g, err)
	}
	_, err = vm.PowerOff(ctx).Wait(ctx)
	ok(err)
	_, err = vm.Start(ctx).Wait(ctx)
	ok(err)
	if _, err := uptime(ctx, l, vm.ID()); err != nil {
		t.Fatal(err)
	}
	sees("the next start", func(g inGuest) bool { return g.cpus == 3 })
}

// TestClockDrift reverts a machine to RAM of the past: its clock stands there
// until somebody sets it. A move costs it no time.
func TestClockDrift(t *testing.T) {
	l := theLab(t)
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Minute)
	defer stop()
	c, err := Open(ctx, config(l.Hosts...), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	vm := running(t, ctx, l, c, spec(l, poolUUID(t, l.Hosts[0], "shared"))("clock"))
	drift := func() time.Duration {
		t.Helper()
		var r hypervisor.ClockReading
		err := lab.WaitFor(ctx, 200*time.Millisecond, func(ctx context.Context) (err error) { // the agent comes back when the guest runs
			r, err = vm.Clock(ctx)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return r.Drift()
	}
	const whole = 1500 * time.Millisecond // the guest's hardware clock counts seconds
	set := func() time.Duration {
		t.Helper()
		began := time.Now()
		if err := vm.SetClock(ctx, time.Time{}); err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		d := drift()
		if d.Abs() > took+whole {
			t.Errorf("after SetClock, which took %v, the guest is %v off", took, d)
		}
		return d
	}
	at := set()
	s, err := vm.CreateSnapshot(ctx, "then", &hypervisor.SnapshotOptions{Memory: true}).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	time.Sleep(8 * time.Second) // time that the guest does not see
	if _, err := s.Revert(ctx, nil).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	d := drift()
	if past := time.Since(began); d > -8*time.Second+whole+at.Abs() || d < -past-whole-at.Abs() {
		t.Errorf("%v after the snapshot the reverted guest's clock is %v off, want it to be that much behind", past, d)
	}
	at = set()
	i, err := vm.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	to := hypervisor.HostID(l.Hosts[0].UUID)
	if i.Host == to {
		to = hypervisor.HostID(l.Hosts[1].UUID)
	}
	if _, err := s.Delete(ctx, nil).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	r, err := vm.Migrate(ctx, hypervisor.MigrateOptions{Host: to}).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if d := drift(); (d - at).Abs() > whole+r.Downtime {
		t.Errorf("after a move with a downtime of %v the guest's clock is %v off, it was %v", r.Downtime, d, at)
	}
}
