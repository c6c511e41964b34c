package hyperv

import (
	"errors"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// exports are the files and folders of exports that are on the host.
func exports(s *site) []string {
	var out []string
	for _, p := range append(s.sim.Host(0).Files(), s.sim.Host(0).Folders()...) {
		if strings.Contains(p, `\anyvisor\`) {
			out = append(out, p)
		}
	}
	return out
}

// TestExportsAreRemoved: of what a clone or a template exports, nothing stays
// once it is not needed, by build: the definition, the guest's and the
// runtime state beside it, and the folders.
func TestExportsAreRemoved(t *testing.T) {
	for _, build := range []int{14393, 20348} {
		s := startSite(t, hvsim.Config{Hosts: []hvsim.HostConfig{{Build: build}}})
		ctx, c := t.Context(), openSite(t, s)
		vm := create(t, c, small("source"))
		empty := func(after string) {
			t.Helper()
			if l := exports(s); len(l) > 0 {
				t.Errorf("build %d, after %s: %q", build, after, l)
			}
		}
		if _, err := vm.Clone(ctx, "copy", nil).Wait(ctx); err != nil {
			t.Fatal(err)
		}
		empty("a clone")
		tpl, err := vm.MarkTemplate(ctx).Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if l := exports(s); len(l) == 0 {
			t.Errorf("build %d: a template keeps its definition", build)
		}
		back, err := tpl.MarkVM(ctx, hypervisor.Placement{}).Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		empty("the template became a machine")
		if tpl, err = back.MarkTemplate(ctx).Wait(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := tpl.Delete(ctx, hypervisor.DeleteDisks).Wait(ctx); err != nil {
			t.Fatal(err)
		}
		empty("the template was deleted")
	}
}

// TestPlannedMachinesAreValidated: the host says what is wrong with a clone
// before it is realized, and nothing of it stays.
func TestPlannedMachinesAreValidated(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	ctx, c := t.Context(), openSite(t, s)
	vm := create(t, c, small("source"))
	before := s.sim.Host(0).Files()
	s.sim.Inject(hvsim.Fault{Op: "Job", Target: "ValidatePlannedSystem", JobError: "Could not find Ethernet switch 'blue'.", JobCode: 32768})
	s.sim.ResetCalls()
	_, err := vm.Clone(ctx, "copy", nil).Wait(ctx)
	if !errors.Is(err, hypervisor.ErrIncompatible) || !strings.Contains(err.Error(), "blue") {
		t.Errorf("%v", err)
	}
	calls := s.sim.Calls()
	if calls["Invoke Msvm_VirtualSystemManagementService.ValidatePlannedSystem"] != 1 || calls["Invoke Msvm_VirtualSystemManagementService.RealizePlannedSystem"] != 0 {
		t.Errorf("%v", calls)
	}
	if after := s.sim.Host(0).Files(); len(after) != len(before) || len(exports(s)) > 0 {
		t.Errorf("files before %q, after %q", before, after)
	}
	// A template becomes a machine in the same way.
	tpl, err := vm.MarkTemplate(ctx).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s.sim.ResetCalls()
	if _, err := tpl.MarkVM(ctx, hypervisor.Placement{}).Wait(ctx); err != nil || s.sim.Calls()["Invoke Msvm_VirtualSystemManagementService.ValidatePlannedSystem"] != 1 {
		t.Errorf("%v, %v", err, s.sim.Calls())
	}
}

// TestExportKeepsFilesOfOthers: a machine's notes, which others can write,
// lead to the removal of nothing but an export's files.
func TestExportKeepsFilesOfOthers(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	ctx, c := t.Context(), openSite(t, s)
	tpl, err := create(t, c, small("source")).MarkTemplate(ctx).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var folder string
	for _, p := range s.sim.Host(0).Folders() {
		if strings.HasSuffix(p, `\Virtual Machines`) {
			folder = p
		}
	}
	s.sim.Host(0).AddFile(folder+`\mine.vhdx`, 1<<30)
	if _, err := tpl.Delete(ctx, hypervisor.DeleteDisks).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	for _, p := range exports(s) {
		if p == folder+`\mine.vhdx` {
			return
		}
	}
	t.Errorf("the file of others is gone: %q", exports(s))
}
