package hyperv

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// TestFaultAtEveryCall does every operation that changes something with one
// thing going wrong at one call, for each of its calls: the connection breaks
// before the call, or after it, and then for a while or for as long as the
// operation lasts. The outcome must be the whole work, or an error that says Unavailable
// with everything that is left behind named; nothing that was there may be
// lost; and the same operation again ends as it does without faults.
func TestFaultAtEveryCall(t *testing.T) {
	for _, op := range opCases() {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			w, arg := prepared(t, op, true)
			w.sim.ResetCalls()
			if err := op.do(settled(t), w, arg); err != nil {
				t.Fatalf("without faults: %v", err)
			}
			calls, want := w.sim.Calls(), w.truth()
			if got := want.differs(w.before); got == "" && op.name != "reset" {
				t.Error("it changes nothing")
			}
			t.Run("reads", func(t *testing.T) { brokenReads(t, op, calls, want) })
			for _, call := range slices.Sorted(maps.Keys(calls)) {
				what, target, _ := strings.Cut(call, " ")
				n := calls[call]
				switch {
				case what == "Get" && strings.HasSuffix(target, "Job"):
					n = 1 // waiting takes as many calls as it takes
				case what != "Put" && (what != "Invoke" || reads[target]):
					continue
				case testing.Short():
					n = min(n, 1)
				}
				for skip := range min(n, 2) {
					for _, b := range breakages {
						if (skip > 0 || alike[op.name]) && b.name != "after, for long" || what == "Get" && b.name == "after" {
							continue
						}
						f := b.fault()
						f.Op, f.Target, f.Skip = what, target, skip
						t.Run(fmt.Sprintf("%s %d %s", call, skip+1, b.name), func(t *testing.T) { faulty(t, op, f, want) })
					}
				}
			}
		})
	}
}

// alike are operations that make the calls of others; only the longest fault
// strikes them.
var alike = map[string]bool{"clone from snapshot": true, "deploy linked": true}

// breakages are the ways in which a connection breaks at a call.
var breakages = []struct {
	name  string
	fault func() hvsim.Fault
}{
	{"before", func() hvsim.Fault { return hvsim.Fault{DropBefore: true} }},
	{"after", func() hvsim.Fault { return hvsim.Fault{Drop: true} }},
	// Long enough that nobody can look at once what became of the call.
	{"after, for a while", func() hvsim.Fault { return hvsim.Fault{Drop: true, Next: &hvsim.Fault{DropBefore: true, Times: 2}} }},
	{"after, for long", func() hvsim.Fault { return hvsim.Fault{Drop: true, Next: &hvsim.Fault{DropBefore: true, Times: -1}} }},
}

// TestLongerFaults breaks the calls after which there is no way back for longer
// than it takes to look what became of them, before and after.
func TestLongerFaults(t *testing.T) {
	cases := map[string][]string{
		"mark template": {"VirtualSystemManagementService.DestroySystem", "VirtualSystemManagementService.ImportSystemDefinition"},
		"mark machine":  {"VirtualSystemManagementService.RealizePlannedSystem"}, "clone running": {"VirtualSystemManagementService.RealizePlannedSystem"},
		"delete running": {"VirtualSystemManagementService.DestroySystem"}, "detach disk": {"VirtualSystemManagementService.RemoveResourceSettings"},
		"revert": {"VirtualSystemSnapshotService.ApplySnapshot"}, "migrate with storage": {"VirtualSystemMigrationService.MigrateVirtualSystemToHost"},
		"dismount device": {"AssignableDeviceService.DismountAssignableDevice"},
	}
	for _, op := range opCases() {
		if cases[op.name] == nil {
			continue
		}
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			w, arg := prepared(t, op, true)
			if err := op.do(settled(t), w, arg); err != nil {
				t.Fatalf("without faults: %v", err)
			}
			want := w.truth()
			for _, target := range cases[op.name] {
				for _, f := range []hvsim.Fault{{DropBefore: true, Next: &hvsim.Fault{Times: 4}}, {DropBefore: true, Next: &hvsim.Fault{Times: -1}}, {Drop: true, Next: &hvsim.Fault{Times: 4}}, {Drop: true, Next: &hvsim.Fault{Times: 6}}} {
					f.Op, f.Target, f.Next.DropBefore = "Invoke", "Msvm_"+target, true
					t.Run(fmt.Sprintf("%s after %t, %d more", target, f.Drop, f.Next.Times), func(t *testing.T) { faulty(t, op, f, want) })
				}
			}
		})
	}
}

// reads are the methods that change nothing.
var reads = map[string]bool{"Msvm_ImageManagementService.GetVirtualHardDiskSettingData": true, "Win32_PnPEntity.GetDeviceProperties": true,
	"Msvm_VirtualSystemMigrationService.CheckVirtualSystemIsMigratable": true}

// prepared makes a site. With jobs every method that may start a job starts
// one, so that most calls that are cut off go on behind the client's back.
func prepared(t *testing.T, op opCase, jobs bool) (*world, any) {
	t.Helper()
	cfg := worldSite()
	cfg.AllJobs = jobs
	w := newWorld(t, cfg)
	arg, err := op.prepare(settled(t), w)
	if err != nil {
		t.Fatalf("prepare: %v", err)
	}
	w.before = w.truth()
	return w, arg
}

// brokenReads breaks the first of each read, which must not be noticed.
func brokenReads(t *testing.T, op opCase, calls map[string]int, want truth) {
	w, arg := prepared(t, op, true)
	for call := range calls {
		what, target, _ := strings.Cut(call, " ")
		if what == "Query" || what == "Get" || reads[target] {
			w.sim.Inject(hvsim.Fault{Op: what, Target: target, DropBefore: true})
		}
	}
	if err := op.do(settled(t), w, arg); err != nil {
		t.Errorf("reads were not repeated: %v", err)
	}
	if w.sim.Struck() == 0 {
		t.Error("no read was broken")
	}
	if got := w.truth().differs(want); got != "" {
		t.Errorf("it succeeded, but there is\n%s", got)
	}
}

func faulty(t *testing.T, op opCase, f hvsim.Fault, want truth) {
	w, arg := prepared(t, op, !f.DropBefore || f.Op == "Get")
	heal := w.sim.Inject(f)
	err := op.do(settled(t), w, arg)
	heal()
	if w.sim.Struck() == 0 {
		t.Fatalf("nothing went wrong (%v)", err)
	}
	got := w.truth()
	var e *hypervisor.Error
	switch {
	case err == nil:
		if d := got.differs(want); d != "" {
			t.Fatalf("it succeeded, but there is\n%s", d)
		}
	case !errors.As(err, &e) || e.Kind != hypervisor.KindUnavailable:
		t.Fatalf("the error is %v (%v), want Unavailable", err, hypervisor.KindOf(err))
	case f.Op == "Get" && (f.Next == nil || f.Next.Times > 0):
		t.Errorf("the wait for a job was given up: %v", err)
	case f.Next == nil:
		if d := got.differs(w.before); d != "" || len(e.Leftover) > 0 {
			t.Errorf("%v\nwas not undone:\n%s", err, d)
		}
	default:
		w.accounted(t, e, got, want)
	}
	if d := got.differs(want); d == "" && (err == nil || !op.creates) {
		return
	}
	w.tidy(t, e, got, want)
	told := "^$"
	if err != nil && strings.Contains(err.Error(), kindOfCheckpoint) || strings.Contains(fmt.Sprint(err), "its own were") {
		told = `UserSnapshotType=[0-9]|Notes=\[[^]]*\]` // by the error alone
	}
	again := op.do(settled(t), w, arg)
	d := w.truth().without(told).differs(want.without(told))
	switch {
	case d == "" && (again == nil || errors.Is(again, hypervisor.ErrNotFound)): // what is removed is not there
	case op.name == "mark template" && errors.Is(again, hypervisor.ErrNotFound): // it is left as its definition file
	default:
		t.Errorf("again: %v, and there is\n%s\nat first: %v %v", again, d, err, e.Leftover)
	}
}

// accounted checks that nothing is lost and that Leftover names what is there
// and was not before.
func (w *world) accounted(t *testing.T, e *hypervisor.Error, got, want truth) {
	t.Helper()
	if got.differs(want) == "" {
		return // it was done, and only nobody heard of it
	}
	kinds, names := map[hypervisor.ObjectKind]int{}, map[string]bool{}
	for _, r := range e.Leftover {
		if r.Kind != hypervisor.KindOfVolume || got.files[r.ID] {
			kinds[r.Kind]++
		}
		names[r.ID], names[r.Name] = true, true
	}
	complain := func(format string, args ...any) {
		t.Errorf("%s; Leftover names %v (%v)", fmt.Sprintf(format, args...), e.Leftover, e)
	}
	machines, files, changed := w.extras(got)
	for _, f := range machines {
		if !names[f.ID] && !names[f.Name] {
			complain("machine %s (%s) is left behind", f.ID, f.Name)
		}
	}
	for _, f := range changed {
		part := kinds[hypervisor.KindOfSnapshot] + kinds[hypervisor.KindOfDisk] + kinds[hypervisor.KindOfNIC] + kinds[hypervisor.KindOfDevice]
		if n := w.before.parts(f.ID); got.parts(f.ID) > n && got.parts(f.ID) != want.partsOf(f.Name) && part == 0 {
			complain("machine %s (%s) has parts that it had not", f.ID, f.Name)
		}
	}
	for _, p := range files {
		owned := slices.ContainsFunc(slices.Collect(maps.Values(got.machines)), func(f hvsim.Fact) bool {
			_, old := w.before.machines[f.Host+"|"+f.ID]
			return (old || names[f.ID]) && strings.Contains(strings.Join(f.Settings, ""), p[strings.IndexByte(p, '|')+1:])
		})
		if !names[p] && !owned {
			complain("file %s is left behind", p)
		}
	}
	for _, l := range got.others {
		if !slices.Contains(w.before.others, l) && !slices.Contains(want.others, l) && kinds[hypervisor.KindOfDevice] == 0 {
			complain("%s is neither as before nor as wished", l)
		}
	}
	for id, f := range w.before.machines {
		if !got.machine(f.ID) && want.named(f.Name) && kinds[hypervisor.KindOfVolume] == 0 {
			complain("machine %s (%s) is lost", id, f.Name)
		}
	}
	for p := range w.before.files {
		if !got.files[p] && want.files[p] {
			complain("file %s is lost", p)
		}
	}
}

// tidy removes what Leftover names, as a user would before he tries again.
func (w *world) tidy(t *testing.T, e *hypervisor.Error, got, want truth) {
	t.Helper()
	if e == nil {
		return
	}
	ctx := settled(t)
	ok := func(r hypervisor.Ref, err error) {
		t.Helper()
		if err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
			t.Errorf("%v of Leftover: %v", r, err)
		}
	}
	first := func(r hypervisor.Ref) int {
		return slices.Index([]hypervisor.ObjectKind{hypervisor.KindOfVM, hypervisor.KindOfSnapshot, hypervisor.KindOfNIC, hypervisor.KindOfDisk, hypervisor.KindOfVolume}, r.Kind)
	}
	for _, r := range slices.SortedFunc(slices.Values(e.Leftover), func(a, b hypervisor.Ref) int { return first(a) - first(b) }) {
		switch r.Kind {
		case hypervisor.KindOfDisk:
			ok(r, wait(ctx, w.owner(r.ID).DetachDisk(ctx, hypervisor.DiskID(r.ID), hypervisor.KeepDisks)))
		case hypervisor.KindOfNIC:
			if r.ID == "" { // it is the one that is not connected
				i, err := w.run.Info(ctx)
				ok(r, err)
				for _, n := range i.NICs {
					if n.Network == "" {
						r.ID = string(n.ID)
					}
				}
			}
			if r.ID != "" {
				ok(r, wait(ctx, w.owner(r.ID).DetachNIC(ctx, hypervisor.NICID(r.ID))))
			}
		case hypervisor.KindOfVM:
			machines, _, _ := w.extras(got)
			for _, f := range machines {
				if r.ID == f.ID || r.ID == "" && r.Name == f.Name {
					ok(r, wait(ctx, w.c.VM(hypervisor.VMID(f.ID)).Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true})))
				}
			}
		case hypervisor.KindOfSnapshot:
			for _, vm := range []*hypervisor.VM{w.off, w.run} {
				all, err := vm.Snapshots(ctx)
				ok(r, err)
				for _, s := range all {
					if r.ID == string(s.ID) || r.ID == "" && !slices.ContainsFunc(w.before.snapshots(vm.ID()), func(l string) bool { return strings.Contains(l, s.Name) }) {
						ok(r, wait(ctx, vm.Snapshot(s.ID).Delete(ctx, nil)))
					}
				}
			}
		case hypervisor.KindOfVolume:
			if want.files[r.ID] {
				continue
			}
			if err := wait(ctx, w.c.DeleteVolume(ctx, hypervisor.VolumeID(r.ID))); !errors.Is(err, hypervisor.ErrBusy) { // its machine is there yet
				ok(r, err)
			}
		}
	}
}
