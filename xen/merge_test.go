package xen

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// depth is how many images a machine's first disk depends on, as the pool
// itself says.
func (w *world) depth(ctx context.Context, t *testing.T, vm *hypervisor.VM) int {
	t.Helper()
	return w.imageDepth(t, string(ok[hypervisor.DiskInfo](t)(diskOf(ctx, vm)).Volume))
}

func (w *world) imageDepth(t *testing.T, image string) (n int) {
	t.Helper()
	for {
		sm, _ := w.field(t, "VDI", image, "sm_config").(map[string]any)
		p, _ := sm["vhd-parent"].(string)
		if p == "" {
			return n
		}
		image = p
		n++
	}
}

func (w *world) snapshots(ctx context.Context, t *testing.T, names ...string) (out []*hypervisor.Snapshot) {
	t.Helper()
	for _, n := range names {
		out = append(out, ok[*hypervisor.Snapshot](t)(w.off.CreateSnapshot(ctx, n, nil).Wait(ctx)))
	}
	return out
}

// TestDoneMeansMerged deletes snapshots of a pool that merges later: the task
// is done when the images are merged, and says so until then.
func TestDoneMeansMerged(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{GCPause: 500 * time.Millisecond})
	s := w.snapshots(ctx, t, "one", "two", "three", "four")
	linked := ok[*hypervisor.VM](t)(w.off.Clone(ctx, "linked", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(ctx))
	before := w.depth(ctx, t, w.off)
	task := s[1].Delete(ctx, nil)
	var phases []string
	for p, err := range task.Progress(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		phases = append(phases, p.Phase)
	}
	if err := wait(ctx, task); err != nil || !slices.Contains(phases, "merging") || len(task.Notes()) != 0 {
		t.Errorf("phases %q, notes %q: %v", phases, task.Notes(), err)
	}
	if d := w.depth(ctx, t, w.off); d != before-1 {
		t.Errorf("one of four deleted, the disk depends on %d images, before on %d", d, before)
	}
	if err := wait(ctx, s[0].Delete(ctx, &hypervisor.DeleteSnapshotOptions{Children: true})); err != nil {
		t.Fatal(err)
	}
	if d := w.depth(ctx, t, w.off); d != 1 { // that the clone depends on too
		t.Errorf("all deleted, the disk depends on %d images", d)
	}
	if err := wait(ctx, linked.Delete(ctx, hypervisor.DeleteDisks, nil)); err != nil {
		t.Fatal(err)
	}
	w.snapshots(ctx, t, "last")
	disk := ok[hypervisor.DiskInfo](t)(diskOf(ctx, w.off))
	if err := wait(ctx, w.off.Delete(ctx, hypervisor.KeepDisks, nil)); err != nil {
		t.Fatal(err)
	}
	if d := w.imageDepth(t, string(disk.Volume)); d != 0 {
		t.Errorf("the kept disk of a deleted machine depends on %d images", d)
	}
}

// TestNotMerged: where nobody merges, the task ends all the same and says so.
func TestNotMerged(t *testing.T) {
	limit := mergeLimit
	t.Cleanup(func() { mergeLimit = limit })
	for name, c := range map[string]struct {
		pause  time.Duration
		limit  time.Duration
		other  map[string]string
		end    func(context.Context, *testing.T, *hypervisor.Task[hypervisor.None])
		detail string
	}{
		"switched off":      {time.Millisecond, time.Hour, map[string]string{"gc": "false"}, nil, "other_config:gc"},
		"no merges":         {time.Millisecond, time.Hour, map[string]string{"coalesce": "false"}, nil, "other_config:coalesce"},
		"no merges of disk": {time.Millisecond, time.Hour, map[string]string{"leaf-coalesce": "false"}, nil, "other_config:leaf-coalesce"},
		"never runs":        {time.Hour, 100 * time.Millisecond, nil, nil, "continues"},
		"cancelled": {time.Hour, time.Hour, nil, func(ctx context.Context, t *testing.T, task *hypervisor.Task[hypervisor.None]) {
			for p, err := range task.Progress(ctx) {
				if err != nil {
					t.Fatal(err)
				}
				if p.Phase == "merging" {
					if err := task.Cancel(ctx); err != nil {
						t.Error(err)
					}
				}
			}
		}, "continues"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := settled(t)
			mergeLimit = c.limit
			w := newWorld(t, xapisim.Config{GCPause: c.pause})
			s := w.snapshots(ctx, t, "one")
			for k, v := range c.other {
				w.rpc(ctx, t, nil, "SR.add_to_other_config", w.text(t, "pool", w.sim.Refs("pool")[0], "default_SR"), k, v)
			}
			task := s[0].Delete(ctx, nil)
			if c.end != nil {
				c.end(ctx, t, task)
			}
			err := wait(ctx, task)
			if notes := strings.Join(task.Notes(), "; "); err != nil || !strings.Contains(notes, c.detail) {
				t.Errorf("notes %q: %v", notes, err)
			}
			if d := w.depth(ctx, t, w.off); d != 1 {
				t.Errorf("the disk depends on %d images", d)
			}
		})
	}
}

// TestMergeOfMany deletes a snapshot of a machine with several disks, of which
// one never merges: a disk that is reset at each start keeps its parent.
func TestMergeOfMany(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{GCPause: 50 * time.Millisecond})
	w.off = w.origin(ctx, t)
	s := w.snapshots(ctx, t, "one")
	disks := ok[hypervisor.VMInfo](t)(w.off.Info(ctx)).Disks
	if err := w.sim.SetField("VDI", string(disks[1].Volume), "on_boot", "reset"); err != nil {
		t.Fatal(err)
	}
	task := s[0].Delete(ctx, nil)
	if err := wait(ctx, task); err != nil || len(task.Notes()) != 0 {
		t.Errorf("notes %q: %v", task.Notes(), err)
	}
	for n, want := range []int{0, 1, 0} {
		if d := w.imageDepth(t, string(disks[n].Volume)); d != want {
			t.Errorf("disk %d depends on %d images, want %d", n, d, want)
		}
	}
}

// TestMergeCost waits for merges in pools of different size: the images of the
// pool are read once, and then only those of the machine.
func TestMergeCost(t *testing.T) {
	var seen []int
	for _, n := range []int{0, 300} {
		ctx := settled(t)
		w := newWorld(t, xapisim.Config{GCPause: 100 * time.Millisecond})
		if _, err := w.sim.AddVMs(xapisim.Bulk{Count: n}); err != nil {
			t.Fatal(err)
		}
		s := w.snapshots(ctx, t, "one", "two", "three")
		w.sim.ResetCalls()
		if err := wait(ctx, s[0].Delete(ctx, &hypervisor.DeleteSnapshotOptions{Children: true})); err != nil {
			t.Fatal(err)
		}
		if d := w.depth(ctx, t, w.off); d != 0 {
			t.Errorf("the disk depends on %d images", d)
		}
		calls := w.sim.Calls()
		if calls["VDI.get_all_records"] != 1 {
			t.Errorf("all images of %d machines were read %d times", n+2, calls["VDI.get_all_records"])
		}
		seen = append(seen, calls["VDI.get_record"])
	}
	if seen[1] > 2*seen[0] {
		t.Errorf("%d records were read in a small pool, %d in a large one", seen[0], seen[1])
	}
}

// TestMergeMeanwhile takes a snapshot and makes a linked clone while images are
// waiting to be merged: the task sees the images that come between.
func TestMergeMeanwhile(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{GCPause: 400 * time.Millisecond})
	s := w.snapshots(ctx, t, "one", "two", "three")
	task := s[1].Delete(ctx, nil)
	for p, err := range task.Progress(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if p.Phase == "merging" {
			w.snapshots(ctx, t, "late")
			ok[*hypervisor.VM](t)(w.off.Clone(ctx, "linked", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(ctx))
			break
		}
	}
	if err := wait(ctx, task); err != nil || len(task.Notes()) != 0 {
		t.Errorf("notes %q: %v", task.Notes(), err)
	}
	if d := w.depth(ctx, t, w.off); d != 4 { // one, three, late and the clone's
		t.Errorf("the disk depends on %d images", d)
	}
}
