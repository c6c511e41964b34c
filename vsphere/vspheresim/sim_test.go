package vspheresim_test

import (
	"slices"
	"testing"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

func TestStartAndCount(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 2})
	w.sim.ResetCalls()
	vm := w.vm("DC0_C0_RP0_VM0")
	w.done(vm.PowerOff(w.ctx))
	task, err := vm.PowerOff(w.ctx)
	refused[*types.InvalidPowerState](w, task, err)
	if n := w.sim.Calls()["PowerOffVM_Task"]; n != 2 {
		t.Errorf("%d calls of PowerOffVM_Task, want 2", n)
	}
	if p := w.props(vm); p.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff || p.Summary.Runtime.PowerState != p.Runtime.PowerState {
		t.Errorf("power %s, summary %s", p.Runtime.PowerState, p.Summary.Runtime.PowerState)
	}
}

func TestCallsPerOperationAreConstant(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1, TaskDelay: vspheresim.Immediate})
	vm := w.vm("DC0_C0_RP0_VM0")
	want := []string{"PowerOffVM_Task", "CreateFilter", "WaitForUpdatesEx", "DestroyPropertyFilter"}
	for range 20 {
		w.sim.ResetCalls()
		w.done(vm.PowerOff(w.ctx))
		if got := w.sim.CallLog(); !slices.Equal(got, want) {
			t.Fatalf("calls %v, want %v", got, want)
		}
		w.done(vm.PowerOn(w.ctx))
	}
}
