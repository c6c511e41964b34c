package vsphere

import (
	"errors"
	"testing"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/silence"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// begun waits until the simulator has had a call.
func begun(t *testing.T, sim *vspheresim.Sim, method string) {
	t.Helper()
	for end := time.Now().Add(hang); sim.Calls()[method] == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s is never called", method)
		}
	}
}

// created starts the making of a machine that is to run.
func created(t *testing.T, c *hypervisor.Client, name string) *hypervisor.Task[*hypervisor.VM] {
	t.Helper()
	s := spec(name)
	s.Start = true
	return c.CreateVM(t.Context(), s)
}

// leftOff demands that an error names the one machine of a name, which is off and on which no task is at work.
func leftOff(t *testing.T, c *hypervisor.Client, name string, err error) {
	t.Helper()
	vm, ferr := c.FindVM(t.Context(), name)
	if ferr != nil {
		t.Fatal(ferr)
	}
	var e *hypervisor.Error
	if !errors.As(err, &e) || len(e.Leftover) != 1 || e.Leftover[0].ID != string(vm.ID()) {
		t.Errorf("%v names %v, want machine %s", err, e.Leftover, vm.ID())
	}
	if i, err := vm.Info(t.Context()); err != nil || i.State != hypervisor.StateOff {
		t.Errorf("the machine is %s (%v), want off", i.State, err)
	}
	if _, err := vm.Delete(t.Context(), hypervisor.DeleteDisks, nil).Wait(t.Context()); err != nil {
		t.Errorf("deletion: %v", err)
	}
}

// TestCancelDuringStart: CreateVM with Start that is cancelled while the machine starts cancels the start too, and names the
// machine; one whose start wins is done.
func TestCancelDuringStart(t *testing.T) {
	sim, c := once(t, vspheresim.Config{})
	ctx := t.Context()

	t.Run("cancelled", func(t *testing.T) {
		sim.SetTaskDelay("PowerOnVM_Task", time.Hour)
		defer sim.SetTaskDelay("PowerOnVM_Task", 0)
		sim.ResetCalls()
		task := created(t, c, "cancelled")
		begun(t, sim, "PowerOnVM_Task")
		if err := task.Cancel(ctx); err != nil {
			t.Fatal(err)
		}
		_, err := task.Wait(ctx)
		if !errors.Is(err, hypervisor.ErrCanceled) {
			t.Errorf("ended with %v", err)
		}
		leftOff(t, c, "cancelled", err)
	})

	t.Run("the start wins", func(t *testing.T) {
		// The server does not take the cancel: the start is too far.
		sim.SetTaskDelay("PowerOnVM_Task", 200*time.Millisecond)
		defer sim.SetTaskDelay("PowerOnVM_Task", 0)
		sim.Fault("CancelTask", new(types.NotSupported))
		defer sim.ClearFaults()
		sim.ResetCalls()
		task := created(t, c, "winner")
		begun(t, sim, "PowerOnVM_Task")
		if err := task.Cancel(ctx); err != nil {
			t.Fatal(err)
		}
		vm, err := task.Wait(ctx)
		if err != nil {
			t.Fatalf("ended with %v", err)
		}
		if i, err := vm.Info(ctx); err != nil || i.State != hypervisor.StateRunning {
			t.Errorf("the machine is %s (%v), want running", i.State, err)
		}
	})

	t.Run("the answer is late", func(t *testing.T) {
		// Cancelled before the server has answered to the call that starts it.
		sim.Delay("PowerOnVM_Task", 100*time.Millisecond)
		sim.SetTaskDelay("PowerOnVM_Task", time.Hour)
		defer sim.SetTaskDelay("PowerOnVM_Task", 0)
		sim.ResetCalls()
		task := created(t, c, "late")
		begun(t, sim, "PowerOnVM_Task")
		if err := task.Cancel(ctx); err != nil {
			t.Fatal(err)
		}
		_, err := task.Wait(ctx)
		if !errors.Is(err, hypervisor.ErrCanceled) {
			t.Errorf("ended with %v", err)
		}
		sim.ClearFaults()
		leftOff(t, c, "late", err)
	})

	t.Run("refused", func(t *testing.T) {
		sim.FaultTask("PowerOnVM_Task", new(types.InsufficientFailoverResourcesFault))
		_, err := created(t, c, "refused").Wait(ctx)
		if !errors.Is(err, hypervisor.ErrExhausted) {
			t.Errorf("ended with %v (kind %s), want exhausted", err, hypervisor.KindOf(err))
		}
		leftOff(t, c, "refused", err)
	})
}

// TestCloseDuringStart: Close ends composed work at a server that does not answer, and names it.
func TestCloseDuringStart(t *testing.T) {
	sim, c := once(t, vspheresim.Config{})
	sim.Delay("PowerOnVM_Task", time.Hour)
	sim.ResetCalls()
	task := created(t, c, "closed")
	begun(t, sim, "PowerOnVM_Task")
	done := make(chan error, 1)
	go func() { done <- c.Close() }()
	select {
	case err := <-done:
		silence.Unfinished(t, err, task.ID())
	case <-time.After(hang):
		t.Fatal("Close waits for the server")
	}
	if _, err := task.Wait(t.Context()); !errors.Is(err, hypervisor.ErrClosed) {
		t.Errorf("ended with %v (kind %s), want closed", err, hypervisor.KindOf(err))
	}
}
