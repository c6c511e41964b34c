package xen

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// quickly shortens the wait for images that the pool never removes.
func quickly(t *testing.T) {
	limit := copyLimit
	copyLimit = 200 * time.Millisecond
	t.Cleanup(func() { copyLimit = limit })
}

// marks counts images that still have a mark of a clone.
func (w *world) marks(t *testing.T) (n int) {
	t.Helper()
	for _, r := range w.sim.Refs("VDI") {
		for k := range w.field(t, "VDI", r, "other_config").(map[string]any) {
			if strings.HasPrefix(k, cloningKey) {
				n++
			}
		}
	}
	return n
}

// TestCancelledCopy cancels clones whose images the pool removes later than it
// ends the task, or never: what stays is named, whoever asks.
func TestCancelledCopy(t *testing.T) {
	quickly(t)
	for name, x := range map[string]struct {
		lost    int
		running bool
	}{"removed": {lost: -1}, "lost": {lost: 1}, "of a running machine, removed": {lost: -1, running: true}, "of a running machine, lost": {lost: 1, running: true}} {
		for _, token := range []string{"", "job-7"} {
			t.Run(name+" "+token, func(t *testing.T) {
				ctx := settled(t)
				w := newWorld(t, xapisim.Config{Hosts: 2, CopyCleanup: 50 * time.Millisecond, LostCopies: x.lost})
				src := w.off
				if x.running {
					src = w.run
				}
				h := w.sim.Hold("VM.copy", 2)
				task := src.Clone(ctx, "copy", &hypervisor.CloneOptions{Token: token})
				<-h.Reached()
				if err := task.Cancel(ctx); err != nil {
					t.Fatal(err)
				}
				_, err := task.Wait(ctx)
				var e *hypervisor.Error
				if !errors.As(err, &e) || hypervisor.KindOf(err) != hypervisor.ErrCanceled {
					t.Fatalf("%v", err)
				}
				got, stays := w.truth(t), max(x.lost, 0)
				if w.accounted(t, e, got); len(got.loose) != stays || len(e.Leftover) != stays || got.snapshots != 0 || got.vbds != w.before.vbds {
					t.Errorf("there is %+v, named %v", got, e.Leftover)
				}
				if n := w.marks(t); n != stays {
					t.Errorf("%d images have a mark", n)
				}
				if token == "" {
					return
				}
				w.c = w.open(t)
				again := w.c.VM(src.ID()).Clone(ctx, "copy", &hypervisor.CloneOptions{Token: token})
				vm := ok[*hypervisor.VM](t)(again.Wait(ctx))
				if i := ok[hypervisor.VMInfo](t)(vm.Info(ctx)); len(i.Disks) != 1 || i.Token != token {
					t.Errorf("%+v", i)
				}
				if n := w.marks(t); n != stays {
					t.Errorf("after the clone %d images have a mark", n)
				}
			})
		}
	}
}

// TestKilledCopy: a process ends after its clone was cancelled in the pool and
// before it could name the image that stays. The next call with the token does.
func TestKilledCopy(t *testing.T) {
	quickly(t)
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2, LostCopies: 1})
	h := w.sim.Hold("VM.copy", 2)
	o := &hypervisor.CloneOptions{Token: "job-7"}
	if err := w.off.Clone(ctx, "copy", o).Err(); err != nil {
		t.Fatal(err)
	}
	<-h.Reached()
	w.killed(t, w.c)
	w.c = w.open(t)
	for _, r := range w.sim.Refs("task") {
		if w.text(t, "task", r, "name_label") == "Async.VM.copy" {
			w.rpc(ctx, t, nil, "task.cancel", r)
		}
	}
	task := w.c.VM(w.off.ID()).Clone(ctx, "copy", o)
	if err := wait(ctx, task); err != nil {
		t.Fatal(err)
	}
	loose := w.truth(t).loose
	if notes := strings.Join(task.Notes(), "; "); len(loose) != 1 || !strings.Contains(notes, loose[0]) {
		t.Errorf("left %v, notes %q", loose, notes)
	}
}

// TestCancelledImage cancels the copy of an image into a new one, which the
// pool detaches only after the task has ended.
func TestCancelledImage(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2, CopyCleanup: 50 * time.Millisecond})
	disk := ok[hypervisor.DiskInfo](t)(diskOf(ctx, w.off))
	h := w.sim.Hold("VDI.copy", 2)
	task := w.c.CreateVolume(ctx, hypervisor.VolumeSpec{Name: "copy", Datastore: disk.Datastore, From: disk.Volume})
	<-h.Reached()
	if err := task.Cancel(ctx); err != nil {
		t.Fatal(err)
	}
	var e *hypervisor.Error
	if err := wait(ctx, task); !errors.As(err, &e) || hypervisor.KindOf(err) != hypervisor.ErrCanceled || len(e.Leftover) != 0 {
		t.Errorf("%v", err)
	}
	if got := w.truth(t); !slices.Equal(got.loose, w.before.loose) {
		t.Errorf("there is %+v", got)
	}
}

// TestCancelledCopyOfMany cancels the clone of a machine with three disks before
// the first one, at each, and after the last. The pool removes the whole copies
// itself. Of the one under way it removes the image, or loses it, or its
// sub-task makes it all the same.
func TestCancelledCopyOfMany(t *testing.T) {
	quickly(t)
	for name, pool := range map[string]xapisim.Config{
		"removed": {LostCopies: -1}, "lost": {LostCopies: 1}, "late": {CopyCleanup: 50 * time.Millisecond, LateCopies: true},
	} {
		for step := 1; step <= 5; step++ {
			t.Run(fmt.Sprint(name, " ", step), func(t *testing.T) {
				ctx := settled(t)
				pool.Hosts = 2
				w := newWorld(t, pool)
				src := w.origin(ctx, t)
				w.before = w.truth(t)
				h := w.sim.Hold("VM.copy", step)
				task := src.Clone(ctx, "copy", nil)
				<-h.Reached()
				if err := task.Cancel(ctx); err != nil {
					t.Fatal(err)
				}
				stays := 0
				if name == "lost" && step > 1 && step < 5 {
					stays = 1
				}
				var e *hypervisor.Error
				if err := wait(ctx, task); !errors.As(err, &e) || hypervisor.KindOf(err) != hypervisor.ErrCanceled || len(e.Leftover) != stays {
					t.Fatalf("%v", err)
				}
				got := w.truth(t)
				if w.accounted(t, e, got); len(got.loose) != stays || w.marks(t) != stays {
					t.Errorf("there is %+v", got)
				}
			})
		}
	}
}

// TestOthersCopies: another tool copies the source's image while a clone is
// under way that is then cancelled. Its image carries the mark too, is named,
// and is not removed.
func TestOthersCopies(t *testing.T) {
	quickly(t)
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2, LostCopies: -1})
	disk := ok[hypervisor.DiskInfo](t)(diskOf(ctx, w.off))
	h := w.sim.Hold("VM.copy", 2)
	task := w.off.Clone(ctx, "copy", nil)
	<-h.Reached()
	var theirs, source, sr string
	w.rpc(ctx, t, &source, "VDI.get_by_uuid", string(disk.Volume))
	w.rpc(ctx, t, &sr, "SR.get_by_uuid", string(disk.Datastore))
	w.rpc(ctx, t, &theirs, "VDI.copy", source, sr, "OpaqueRef:NULL", "OpaqueRef:NULL")
	if err := task.Cancel(ctx); err != nil {
		t.Fatal(err)
	}
	_ = wait(ctx, task)
	if w.text(t, "VDI", theirs, "uuid") == "" {
		t.Error("another tool's copy is gone")
	}
}
