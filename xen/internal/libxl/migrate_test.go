//go:build cgo

package libxl

import (
	"errors"
	"slices"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// TestMoveDisks moves the disks of a machine that is off between the datastores
// of its host, with a linked clone depending on the old ones.
func TestMoveDisks(t *testing.T) {
	w := newWorld(t, false)
	h := w.l.Hosts[0]
	vm := w.createOn(pvh, "cargo", w.id(h))
	w.ok(writeDisk(w.ctx, w.l, vm.ID(), "cargo"), "write")
	clone, err := vm.Clone(w.ctx, "cargo-linked", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(w.ctx)
	w.ok(err, "a linked clone")
	w.removeAtEnd(clone, "cargo-linked")
	local := poolUUID(t, h, "default")
	content := func(what string) {
		t.Helper()
		for _, m := range []*hypervisor.VM{vm, clone} {
			if got, err := readDisk(w.ctx, w.l, m.ID()); err != nil || got != "cargo" {
				t.Errorf("after %s the disk of %s holds %q (%v)", what, m.ID(), got, err)
			}
		}
	}
	on := func(ds hypervisor.DatastoreID, what string) hypervisor.DiskInfo {
		t.Helper()
		i, err := vm.Info(w.ctx)
		w.ok(err, "Info")
		if d := i.Disks[0]; d.Datastore != ds || d.Parent != "" || d.SizeBytes != 64*hypervisor.MiB {
			t.Errorf("after %s the disk is %+v, want it whole on %s", what, d, ds)
		}
		return i.Disks[0]
	}
	blocked := func(opt hypervisor.MigrateOptions, want hypervisor.ReasonCode) {
		t.Helper()
		var b *hypervisor.BlockedError
		_, err := vm.Migrate(w.ctx, opt).Wait(w.ctx)
		if !errors.As(err, &b) || !slices.ContainsFunc(b.Blockers, func(x hypervisor.Blocker) bool { return x.Reason == want }) {
			t.Errorf("Migrate(%+v): %v, want it blocked by %s", opt, err, want)
		}
	}
	i, err := clone.Info(w.ctx)
	w.ok(err, "Info of the clone")
	base := i.Disks[0].Parent
	blocked(hypervisor.MigrateOptions{Storage: local, Mode: hypervisor.MigrateModeLive}, hypervisor.ReasonVMState)

	r, err := vm.Migrate(w.ctx, hypervisor.MigrateOptions{Storage: local}).Wait(w.ctx)
	w.ok(err, "Migrate of storage")
	if len(r.Kept) != 1 || r.Kept[0].ID != string(base) || r.Host != w.id(h) || r.BytesCopied <= 0 {
		t.Errorf("Migrate's result is %+v, want %s kept for the clone", r, base)
	}
	there := on(local, "Migrate of storage")
	content("Migrate of storage")
	blocked(hypervisor.MigrateOptions{Storage: local}, hypervisor.ReasonSameHost)

	r, err = vm.Migrate(w.ctx, hypervisor.MigrateOptions{Storage: w.ds, KeepSource: true}).Wait(w.ctx)
	w.ok(err, "Migrate back")
	if len(r.Kept) != 1 || r.Kept[0].ID != string(there.Volume) {
		t.Errorf("with KeepSource %+v was kept, want %s", r.Kept, there.Volume)
	}
	on(w.ds, "Migrate back")
	content("Migrate back")
	_, err = w.c.DeleteVolume(w.ctx, there.Volume).Wait(w.ctx)
	w.ok(err, "DeleteVolume of what was kept")
}
