package vspheresim_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// TestChangeVersion: every change of the configuration has a version of its own (API reference, VirtualMachineConfigInfo.changeVersion).
func TestChangeVersion(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	vm := w.vm("DC0_C0_RP0_VM0")
	w.done(vm.PowerOff(w.ctx))
	pool, err := vm.ResourcePool(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{w.props(vm).Config.ChangeVersion: "the beginning"}
	changed := func(what string) {
		t.Helper()
		v := w.props(vm).Config.ChangeVersion
		if was, ok := seen[v]; ok {
			t.Errorf("after %s the version is that of %s", what, was)
		}
		seen[v] = what
	}
	w.done(vm.CreateSnapshot(w.ctx, "s", "", false, false))
	changed("a snapshot")
	w.done(vm.RevertToSnapshot(w.ctx, "s", true))
	changed("a revert")
	if err := vm.MarkAsTemplate(w.ctx); err != nil {
		t.Fatal(err)
	}
	changed("MarkAsTemplate")
	task, err := vm.RemoveSnapshot(w.ctx, "s", false, nil)
	refused[*types.NotSupported](w, task, err)
	task, err = vm.RemoveAllSnapshot(w.ctx, nil)
	refused[*types.NotSupported](w, task, err)
	for _, bad := range []types.VirtualMachineConfigSpec{
		{ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: "k", Value: "v"}}},
		{Annotation: "x", Tools: &types.ToolsConfigInfo{}},
		{Annotation: "x", ChangeVersion: w.props(vm).Config.ChangeVersion},
	} {
		task, err = vm.Reconfigure(w.ctx, bad)
		refused[*types.NotSupported](w, task, err)
	}
	w.done(vm.Reconfigure(w.ctx, types.VirtualMachineConfigSpec{Annotation: "x"}))
	changed("a reconfiguration of the template")
	if err := vm.MarkAsVirtualMachine(w.ctx, *pool, nil); err != nil {
		t.Fatal(err)
	}
	changed("MarkAsVirtualMachine")
	w.done(vm.RemoveAllSnapshot(w.ctx, nil))
	changed("the snapshot's removal")
}

// TestChangeVersionGuards: of many who change one version of a machine's configuration, one does (API reference,
// VirtualMachineConfigSpec.changeVersion).
func TestChangeVersionGuards(t *testing.T) {
	for _, delay := range []time.Duration{vspheresim.Immediate, 0, 5 * time.Millisecond} {
		w := start(t, vspheresim.Config{VMs: 1})
		vm := w.vm("DC0_C0_RP0_VM0")
		w.done(vm.PowerOff(w.ctx))
		w.sim.SetTaskDelay("ReconfigVM_Task", delay)
		version := w.props(vm).Config.ChangeVersion
		var wg sync.WaitGroup
		var mu sync.Mutex
		won := 0
		for n := range 16 {
			wg.Go(func() {
				task, err := vm.Reconfigure(w.ctx, types.VirtualMachineConfigSpec{ChangeVersion: version,
					ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: "owner", Value: fmt.Sprint(n)}}})
				var end mo.Task // read over and over: a session's waits take updates from one another
				for err == nil && end.Info.State != types.TaskInfoStateSuccess && end.Info.State != types.TaskInfoStateError {
					err = w.client.RetrieveOne(w.ctx, task.Reference(), []string{"info"}, &end)
				}
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil:
					t.Errorf("delay %v: %v", delay, err)
				case end.Info.Error == nil:
					won++
				default:
					switch end.Info.Error.Fault.(type) {
					case *types.ConcurrentAccess, *types.TaskInProgress:
					default:
						t.Errorf("delay %v: %T", delay, end.Info.Error.Fault)
					}
				}
			})
		}
		wg.Wait()
		if won != 1 {
			t.Errorf("delay %v: %d changes of one version were made", delay, won)
		}
	}
}
