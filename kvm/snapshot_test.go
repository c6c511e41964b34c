//go:build cgo

package kvm

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// TestKeptDiskOutlivesItsSnapshot detaches a disk that a snapshot has, keeps
// it, and deletes the snapshot: the disk is neither merged away nor broken.
func TestKeptDiskOutlivesItsSnapshot(t *testing.T) {
	l := theLab(t)
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
	defer stop()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	c, err := Open(ctx, config(l.Hosts...), nil)
	must(err)
	defer c.Close()
	ds := poolUUID(t, l.Hosts[0], "shared")
	before, err := imageFiles(l)
	must(err)
	vm, err := c.CreateVM(ctx, spec(l, ds)("keeper")).Wait(ctx)
	must(err)
	disk, err := vm.AttachDisk(ctx, hypervisor.DiskSpec{SizeBytes: 8 * hypervisor.MiB}).Wait(ctx)
	must(err)
	snap, err := vm.CreateSnapshot(ctx, "both", nil).Wait(ctx)
	must(err)
	i, err := vm.Info(ctx)
	must(err)
	d := i.Disks[slices.IndexFunc(i.Disks, func(d hypervisor.DiskInfo) bool { return d.ID == disk.ID })]
	kept := filepath.Join(l.Shared, filepath.Base(string(d.Volume)))
	must(run(ctx, "qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 0 4096", kept))
	_, err = vm.DetachDisk(ctx, disk.ID, hypervisor.KeepDisks).Wait(ctx)
	must(err)
	task := snap.Delete(ctx, nil)
	_, err = task.Wait(ctx)
	must(err)
	if n := task.Notes(); !slices.ContainsFunc(n, func(n string) bool { return strings.Contains(n, filepath.Base(kept)) }) {
		t.Errorf("the notes are %q, want one that names %s", n, kept)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("the disk that was kept: %v", err)
	}
	must(run(ctx, "qemu-io", "-r", "-f", "qcow2", "-c", "read -P 0x5a 0 4096", kept))
	_, err = vm.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx)
	must(err)
	if after, err := imageFiles(l); err != nil || !slices.Equal(after, before) {
		t.Errorf("images before %q, in the end %q (%v)", before, after, err)
	}
}
