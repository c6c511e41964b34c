//go:build cgo

package kvm

import (
	"context"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/lab/kvmlab"
)

// running makes a machine of the lab and starts it.
func running(t *testing.T, ctx context.Context, l *kvmlab.Lab, c *hypervisor.Client, s hypervisor.VMSpec) *hypervisor.VM {
	t.Helper()
	vm, err := c.CreateVM(ctx, s).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		if _, err := vm.Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(ctx); err != nil {
			t.Error(err)
		}
	})
	if _, err := vm.Start(ctx).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := uptime(ctx, l, vm.ID()); err != nil {
		t.Fatal(err)
	}
	return vm
}

// TestMigrateWays moves one machine to and fro in every way.
func TestMigrateWays(t *testing.T) {
	l := theLab(t)
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Minute)
	defer stop()
	peers := config(l.Hosts...)
	alone := peers
	alone.Peers = map[string]Peer{} // no host can reach another's libvirtd, as far as configured
	for _, h := range l.Hosts {
		alone.Peers[h.URI] = Peer{Migrate: "tcp://" + h.Address}
	}
	lost := peers
	lost.Peers = map[string]Peer{}
	for _, h := range l.Hosts {
		lost.Peers[h.URI] = Peer{URI: "qemu+tcp://127.0.0.1:9/system", Migrate: "tcp://" + h.Address}
	}
	c, err := Open(ctx, peers, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	vm := running(t, ctx, l, c, spec(l, poolUUID(t, l.Hosts[0], "shared"))("ways"))
	other := func() hypervisor.HostID {
		i, err := vm.Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range l.Hosts {
			if h.UUID != string(i.Host) {
				return hypervisor.HostID(h.UUID)
			}
		}
		return ""
	}
	for _, w := range []struct {
		name, method string
		cfg          Config
		opt          hypervisor.MigrateOptions
	}{
		{"peer to peer", "live, peer to peer", peers, hypervisor.MigrateOptions{}},
		{"driven by the client", "live, driven by this client", alone, hypervisor.MigrateOptions{}},
		{"hosts that can't reach each other", "live, driven by this client", lost, hypervisor.MigrateOptions{}},
	} {
		t.Run(w.name, func(t *testing.T) {
			c, err := Open(ctx, w.cfg, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			before, err := uptime(ctx, l, vm.ID())
			if err != nil {
				t.Fatal(err)
			}
			w.opt.Host = other()
			r, err := c.VM(vm.ID()).Migrate(ctx, w.opt).Wait(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if r.Method != w.method || r.Downtime <= 0 || r.Total <= 0 || r.BytesCopied <= 0 {
				t.Errorf("result %+v, want method %q and measured downtime", r, w.method)
			}
			t.Logf("downtime %v of %v, %d MiB", r.Downtime, r.Total, r.BytesCopied>>20)
			if after, err := uptime(ctx, l, vm.ID()); err != nil || after < before {
				t.Errorf("the guest's counter is %d (%v), it was %d", after, err, before)
			}
		})
	}
}

// TestMigrateCopiesImages compares images after moves of disks.
func TestMigrateCopiesImages(t *testing.T) {
	l := theLab(t)
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Minute)
	defer stop()
	c, err := Open(ctx, config(l.Hosts...), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	a, b := l.Hosts[0], l.Hosts[1]
	local := map[string]hypervisor.DatastoreID{a.UUID: poolUUID(t, a, "default"), b.UUID: poolUUID(t, b, "default")}
	s := spec(l, local[a.UUID])("images")
	vm, err := c.CreateVM(ctx, s).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := vm.Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(ctx); err != nil {
			t.Error(err)
		}
	}()
	image, err := firstDisk(ctx, l, vm.ID())
	if err != nil {
		t.Fatal(err)
	}
	if err := run(ctx, "qemu-io", "-f", "qcow2", "-c", "write -P 90 8M 40M", image); err != nil {
		t.Fatal(err)
	}
	keep := l.Dir + "/reference.qcow2"
	if err := run(ctx, "cp", image, keep); err != nil {
		t.Fatal(err)
	}
	same := func(how string) {
		t.Helper()
		now, err := firstDisk(ctx, l, vm.ID())
		if err != nil {
			t.Fatal(err)
		}
		if now == image {
			t.Errorf("after %s the disk is on the old image", how)
		}
		if out, err := exec.CommandContext(ctx, "qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", keep, now).CombinedOutput(); err != nil {
			t.Errorf("after %s the images differ: %v %s", how, err, out)
		}
		image = now
		files, err := imageFiles(l)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, f := range files {
			if strings.Contains(f, string(vm.ID())) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("after %s there are %d images of the machine: %q", how, n, files)
		}
	}
	move := func(o hypervisor.MigrateOptions, how string) hypervisor.MigrateResult {
		t.Helper()
		rep, err := vm.CheckMigrate(ctx, o)
		if err != nil || !rep.OK() {
			t.Fatalf("CheckMigrate (%s): %+v %v", how, rep, err)
		}
		r, err := vm.Migrate(ctx, o).Wait(ctx)
		if err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		t.Logf("%s: %s, %d bytes", how, r.Method, r.BytesCopied)
		return r
	}
	move(hypervisor.MigrateOptions{Host: hypervisor.HostID(b.UUID), Storage: local[b.UUID]}, "a cold move with its disk")
	same("a cold move with its disk")
	// A host alone can't have it: the disk is not shared.
	rep, err := vm.CheckMigrate(ctx, hypervisor.MigrateOptions{Host: hypervisor.HostID(a.UUID)})
	if err != nil || !slices.ContainsFunc(rep.Blockers, func(b hypervisor.Blocker) bool { return b.Reason == hypervisor.ReasonNoSharedStorage }) {
		t.Errorf("CheckMigrate without shared storage: %+v %v, want %s", rep, err, hypervisor.ReasonNoSharedStorage)
	}
	// Paused, so that nothing is written meanwhile.
	if _, err := vm.Start(ctx).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Pause(ctx).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	move(hypervisor.MigrateOptions{Host: hypervisor.HostID(a.UUID), Storage: local[a.UUID]}, "a live move with its disk")
	move(hypervisor.MigrateOptions{Storage: poolUUID(t, a, "shared")}, "a live move of its disk")
	if i, err := vm.Info(ctx); err != nil || i.State != hypervisor.StatePaused || string(i.Host) != a.UUID {
		t.Errorf("afterwards the machine is %s on %s (%v), want paused on %s", i.State, i.Host, err, a.UUID)
	}
	if _, err := vm.PowerOff(ctx).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	same("live moves of its disk")
	move(hypervisor.MigrateOptions{Storage: local[a.UUID]}, "a cold move of its disk")
	same("a cold move of its disk")
	kept := move(hypervisor.MigrateOptions{Storage: poolUUID(t, a, "shared"), KeepSource: true}, "a move that keeps the source")
	if len(kept.Kept) != 1 {
		t.Errorf("a move that keeps the source names %v", kept.Kept)
	}
	for _, k := range kept.Kept {
		if _, err := c.DeleteVolume(ctx, hypervisor.VolumeID(k.ID)).Wait(ctx); err != nil {
			t.Error(err)
		}
	}
}

// TestPoolsThatPretend gives two folders' pools one UUID: the migration must
// see through it.
func TestPoolsThatPretend(t *testing.T) {
	l := theLab(t)
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Minute)
	defer stop()
	const uuid = "11111111-2222-4333-8444-555555555555"
	for i, h := range l.Hosts {
		dir := l.Dir + "/pretend" // the same path, but on each host another folder
		real := dir + strconv.Itoa(i)
		if err := run(ctx, "mkdir", "-p", dir, real); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Run(ctx, "mount", "--bind", real, dir); err != nil {
			t.Fatal(err)
		}
		doc := l.WriteXML("<pool type='dir'><name>pretend</name><uuid>" + uuid + "</uuid><target><path>" + dir + "</path></target></pool>")
		for _, args := range [][]string{{"pool-define", doc}, {"pool-start", "pretend"}} {
			if _, err := h.Virsh(ctx, args...); err != nil {
				t.Fatal(err)
			}
		}
		defer func() {
			for _, args := range [][]string{{"pool-destroy", "pretend"}, {"pool-undefine", "pretend"}} {
				if _, err := h.Virsh(ctx, args...); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	c, err := Open(ctx, config(l.Hosts...), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	vm, err := c.CreateVM(ctx, spec(l, uuid)("pretend")).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	i, err := vm.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range l.Hosts {
		if h.UUID == string(i.Host) {
			continue
		}
		// A file of the name is there, so that looking for the image is not enough.
		if _, err := h.Run(ctx, "sh", "-c", "qemu-img create -f qcow2 '"+l.Dir+"/pretend/"+strings.SplitN(string(i.Disks[0].Volume), "/", 2)[1]+"' 64M"); err != nil {
			t.Fatal(err)
		}
		_, err := vm.Migrate(ctx, hypervisor.MigrateOptions{Host: hypervisor.HostID(h.UUID)}).Wait(ctx)
		if hypervisor.KindOf(err) != hypervisor.ErrIncompatible {
			t.Errorf("migration between pools that pretend to be one: %v, want ErrIncompatible", err)
		}
	}
	if _, err := vm.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx); err != nil {
		t.Error(err)
	}
}
