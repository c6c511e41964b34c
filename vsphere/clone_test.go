package vsphere

import (
	"errors"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// TestCancelDuringBaseSnapshot: a linked clone that is cancelled while its base snapshot is made leaves neither the snapshot nor a
// task that keeps the source busy.
func TestCancelDuringBaseSnapshot(t *testing.T) {
	for _, template := range []bool{false, true} {
		sim, c := once(t, vspheresim.Config{})
		ctx := t.Context()
		vm, err := c.CreateVM(ctx, spec("source")).Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		clone := func(name string) *hypervisor.Task[*hypervisor.VM] {
			return vm.Clone(ctx, name, &hypervisor.CloneOptions{Mode: hypervisor.Linked})
		}
		if template {
			tpl, err := vm.MarkTemplate(ctx).Wait(ctx)
			if err != nil {
				t.Fatal(err)
			}
			clone = func(name string) *hypervisor.Task[*hypervisor.VM] {
				return tpl.Deploy(ctx, name, &hypervisor.CloneOptions{Mode: hypervisor.Linked})
			}
		}
		sim.SetTaskDelay("CreateSnapshot_Task", 300*time.Millisecond)
		task := clone("cut")
		for _, err := range task.Progress(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		time.Sleep(30 * time.Millisecond) // most often enough for the snapshot to be under way; the rest holds in any case
		if err := task.Cancel(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := task.Wait(ctx); !errors.Is(err, hypervisor.ErrCanceled) {
			t.Errorf("the cancelled clone ended with %v", err)
		}
		sim.SetTaskDelay("CreateSnapshot_Task", 0)
		if l, err := vm.Snapshots(ctx); err != nil || len(l) != 0 {
			t.Errorf("%d snapshots are left (%v)", len(l), err)
		}
		if i, err := vm.Info(ctx); err != nil || i.Template != template {
			t.Errorf("the source: template %v, was %v (%v)", i.Template, template, err)
		}
		if _, err := clone("again").Wait(ctx); err != nil {
			t.Errorf("the next clone: %v", err)
		}
	}
}
