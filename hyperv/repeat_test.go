package hyperv

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// TestRefusalsThatPass: a host that is still at work on a machine, and files
// that it still has open, are asked again.
func TestRefusalsThatPass(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	c, ctx := openSite(t, s), t.Context()
	for target, code := range map[string]uint32{"*.*Settings": 32775, "*.ExportSystemDefinition": 32775, "*.RealizePlannedSystem": 32774, "*.DestroySystem": 32775,
		"*.DestroySnapshot*": 32775, "CIM_DataFile.Delete": 15} {
		s.sim.Inject(hvsim.Fault{Op: "Invoke", Target: target, Return: code, Chance: 0.4, Times: -1})
	}
	done := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	spec := small("busy")
	spec.Disks = []hypervisor.DiskSpec{{SizeBytes: hypervisor.GiB}}
	spec.NICs = []hypervisor.NICSpec{{}}
	vm := create(t, c, spec)
	for range 5 {
		_, err := vm.Reconfigure(ctx, hypervisor.Changes{CPUs: 2, MemoryBytes: 128 * hypervisor.MiB}).Wait(ctx)
		done("Reconfigure", err)
		disk, err := vm.AttachDisk(ctx, hypervisor.DiskSpec{SizeBytes: hypervisor.GiB}).Wait(ctx)
		done("AttachDisk", err)
		_, err = vm.DetachDisk(ctx, disk.ID, hypervisor.DeleteDisks).Wait(ctx)
		done("DetachDisk", err)
		nic, err := vm.AttachNIC(ctx, hypervisor.NICSpec{}).Wait(ctx)
		done("AttachNIC", err)
		_, err = vm.DetachNIC(ctx, nic.ID).Wait(ctx)
		done("DetachNIC", err)
	}
	snap, err := vm.CreateSnapshot(ctx, "s", nil).Wait(ctx)
	done("CreateSnapshot", err)
	copied, err := vm.Clone(ctx, "copy", nil).Wait(ctx)
	done("Clone", err)
	_, err = snap.Delete(ctx, nil).Wait(ctx)
	done("delete snapshot", err)
	for _, v := range []*hypervisor.VM{copied, vm} {
		_, err = v.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx)
		done("Delete", err)
	}
	if n := s.sim.Struck(); n < 20 {
		t.Errorf("%d refusals", n)
	}
	if f := s.sim.Host(0).Files(); len(f) > 0 {
		t.Errorf("files that stay: %v", f)
	}
}

// TestRefusalsThatStay: there is a limit, and the error says what was done.
func TestRefusalsThatStay(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	c, ctx := openSite(t, s), t.Context()
	spec := small("busy")
	spec.Disks = []hypervisor.DiskSpec{{SizeBytes: hypervisor.GiB}}
	vm := create(t, c, spec)
	for code, want := range map[uint32]error{32774: hypervisor.ErrBusy, 32775: hypervisor.ErrInvalidState} {
		s.sim.ResetCalls()
		remove := s.sim.Inject(hvsim.Fault{Op: "Invoke", Target: "*.ModifyResourceSettings", Return: code, Times: -1})
		_, err := vm.Reconfigure(ctx, hypervisor.Changes{CPUs: 3}).Wait(ctx)
		if !errors.Is(err, want) || !strings.Contains(err.Error(), "12 times") {
			t.Errorf("%d: %v", code, err)
		}
		if n := s.sim.Calls()["Invoke Msvm_VirtualSystemManagementService.ModifyResourceSettings"]; n != refusals {
			t.Errorf("%d: %d calls", code, n)
		}
		remove()
	}
	image := s.sim.Host(0).Files()
	s.sim.Inject(hvsim.Fault{Op: "Invoke", Target: "CIM_DataFile.Delete", Return: 15, Times: -1})
	_, err := vm.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx)
	var e *hypervisor.Error
	if !errors.As(err, &e) || e.Kind != hypervisor.ErrBusy || len(e.Leftover) != 1 || len(image) == 0 {
		t.Errorf("an image that stays open: %v", err)
	}
}

// TestDeleteWithCheckpoints: the host merges, and has the images open, after
// the machine is gone. What can't be removed in time is named.
func TestDeleteWithCheckpoints(t *testing.T) {
	for _, grace := range []time.Duration{30 * time.Second, 100 * time.Millisecond} {
		s := startSite(t, hvsim.Config{JobTimes: map[string]time.Duration{"Merge": time.Second}})
		c, ctx := openSite(t, s), t.Context()
		spec := small("merged")
		spec.Disks = []hypervisor.DiskSpec{{SizeBytes: hypervisor.GiB}, {SizeBytes: hypervisor.GiB}}
		vm := create(t, c, spec)
		for _, name := range []string{"a", "b"} {
			if _, err := vm.CreateSnapshot(ctx, name, nil).Wait(ctx); err != nil {
				t.Fatal(err)
			}
		}
		before := mergeGrace
		mergeGrace = grace
		_, err := vm.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx)
		mergeGrace = before
		left := s.sim.Host(0).Files()
		var e *hypervisor.Error
		switch {
		case grace > time.Second && (err != nil || len(left) > 0):
			t.Errorf("%v, files that stay: %v", err, left)
		case grace < time.Second && (!errors.As(err, &e) || e.Kind != hypervisor.ErrBusy || len(e.Leftover) != len(left) || len(left) == 0):
			t.Errorf("%v, files that stay: %v", err, left)
		}
	}
}
