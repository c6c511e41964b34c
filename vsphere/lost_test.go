package vsphere

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// TestLostAnswerNamesTheMachine: the answer to the call that makes a machine is
// lost, and a read of the search for its task fails too. Either the call finds
// the machine, or its error names it.
func TestLostAnswerNamesTheMachine(t *testing.T) {
	named, found := 0, 0
	for n := range 16 {
		for cut, when := range map[string]vspheresim.Cut{"before": vspheresim.CutBefore, "after": vspheresim.CutAfter} {
			name := fmt.Sprintf("lost-%s-%d", cut, n)
			sim, c := once(t, simConfig(vspheresim.VCenter))
			sim.Cut("CreateVM_Task", when)
			for range n { // that pass
				sim.Fault("RetrievePropertiesEx", nil)
			}
			sim.Fault("RetrievePropertiesEx", &types.NoPermission{})
			vm, err := c.CreateVM(t.Context(), spec(name)).Wait(t.Context())
			sim.ClearFaults()
			vms, lerr := hypervisor.Collect(c.VMs(t.Context(), nil))
			if lerr != nil {
				t.Fatal(lerr)
			}
			i := slices.IndexFunc(vms, func(v hypervisor.VMInfo) bool { return v.Name == name })
			var e *hypervisor.Error
			var d *hypervisor.DetachedError
			switch {
			case errors.As(err, &d): // it names a task
			case err == nil:
				if found++; i < 0 || vms[i].ID != vm.ID() {
					t.Errorf("%s: %v was returned, and it is not listed", name, vm.ID())
				}
			case i < 0: // refused before anything was sent, or never received
			case !errors.As(err, &e) || !slices.ContainsFunc(e.Leftover, func(r hypervisor.Ref) bool {
				return r.Kind == hypervisor.ObjectVM && r.Name == name && (r.ID == "" || r.ID == string(vms[i].ID))
			}):
				t.Errorf("%s exists, and the error doesn't name it: %v", name, err)
			default:
				named++
			}
		}
	}
	if named == 0 || found == 0 {
		t.Errorf("%d errors named the machine, %d calls found it: the test shows nothing", named, found)
	}
}

// TestLostCallActsLate: the server reads the call only after its connection
// broke and the client has looked for its task. The machine is not lost.
func TestLostCallActsLate(t *testing.T) {
	sim, c := once(t, simConfig(vspheresim.VCenter))
	sim.Cut("CreateVM_Task", vspheresim.CutLate)
	vm, err := c.CreateVM(t.Context(), spec("late")).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info, err := vm.Info(t.Context()); err != nil || info.Name != "late" {
		t.Errorf("%+v, %v", info, err)
	}
}

// TestOlderTaskIsNotMine: the machine was started and suspended a moment ago by
// another Client. A start that the server never received is no success.
func TestOlderTaskIsNotMine(t *testing.T) {
	sim, c := once(t, simConfig(vspheresim.VCenter))
	other, err := openSim(t.Context(), sim.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	vm, err := c.CreateVM(t.Context(), spec("older")).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []func(context.Context) *hypervisor.Task[hypervisor.None]{other.VM(vm.ID()).Start, other.VM(vm.ID()).Suspend} {
		if _, err := f(t.Context()).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	sim.DelayAnswer("GetCurrentTime", 100*time.Millisecond)
	sim.Cut("PowerOnVM_Task", vspheresim.CutBefore)
	if _, err := vm.Start(t.Context()).Wait(t.Context()); !errors.Is(err, hypervisor.ErrUnavailable) {
		t.Errorf("a start that never arrived: %v", err)
	}
}
