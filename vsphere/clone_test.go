package vsphere

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// TestTemplateIsNotRestored: a template that could not be made one again, after it was a machine for its base, is reported, can't be started,
// and is finished by the next deployment. One that could is not reported.
func TestTemplateIsNotRestored(t *testing.T) {
	sim, c := once(t, vspheresim.Config{})
	ctx := t.Context()
	for n, name := range []string{"restored", "not restored"} {
		tpl := nativeTemplate(t, sim, c, name)
		vm := c.VM(hypervisor.VMID(tpl.ID()))
		for range n + 1 {
			sim.Fault("MarkAsTemplate", &types.NoPermission{})
		}
		_, err := tpl.Deploy(ctx, "copy", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(ctx)
		var e *hypervisor.Error
		if !errors.Is(err, hypervisor.ErrPermission) || !errors.As(err, &e) || strings.Contains(err.Error(), "is left as a machine") != (n == 1) || len(e.Leftover) != 0 {
			t.Fatalf("%s: %v, want ErrPermission", name, err)
		}
		if m, err := driverOf(t, c).one(ctx, vmRef(vm.ID()), "summary.config.template"); err != nil || get[bool](m, "summary.config.template") != (n == 0) {
			t.Errorf("%s: after %v it is a template: %v", name, e, m)
		}
		if _, err := vm.Start(ctx).Wait(ctx); !errors.Is(err, hypervisor.ErrInvalidState) {
			t.Errorf("%s: it starts: %v", name, err)
		}
		if _, err := vm.CreateSnapshot(ctx, "s", nil).Wait(ctx); !errors.Is(err, hypervisor.ErrInvalidState) {
			t.Errorf("%s: a snapshot is made of it: %v", name, err)
		}
		if _, err := tpl.Deploy(ctx, "copy of "+name, &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(ctx); err != nil {
			t.Errorf("%s: the next deployment: %v", name, err)
		}
		hasOneBase(t, c, tpl, name)
	}
}

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
			return vm.Clone(ctx, name, &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked})
		}
		if template {
			nativeMark(t, c, vm)
			tpl := c.Template(hypervisor.TemplateID(vm.ID()))
			clone = func(name string) *hypervisor.Task[*hypervisor.VM] {
				return tpl.Deploy(ctx, name, &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked})
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

// TestCloneStartRefused: a clone that can't be started is named, off, and not removed; what it depends on stays until it goes.
func TestCloneStartRefused(t *testing.T) {
	for _, mode := range []hypervisor.CloneMode{hypervisor.CloneModeFull, hypervisor.CloneModeLinked} {
		t.Run(mode.String(), func(t *testing.T) {
			sim, c := once(t, vspheresim.Config{})
			vm, err := c.CreateVM(t.Context(), spec("source")).Wait(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			sim.FaultTask("PowerOnVM_Task", new(types.InsufficientFailoverResourcesFault))
			_, err = vm.Clone(t.Context(), "made", &hypervisor.CloneOptions{Mode: mode, Start: true}).Wait(t.Context())
			if !errors.Is(err, hypervisor.ErrExhausted) {
				t.Errorf("ended with %v (kind %s), want exhausted", err, hypervisor.KindOf(err))
			}
			leftOff(t, c, "made", err) // which deletes it
			if l, err := vm.Snapshots(t.Context()); err != nil || len(l) != 0 {
				t.Errorf("%d snapshots are left of a clone that is gone (%v)", len(l), err)
			}
		})
	}
}

// TestFailedLinkedClone: the base snapshot goes with the clone that was not made.
func TestFailedLinkedClone(t *testing.T) {
	sim, c := once(t, vspheresim.Config{})
	vm, err := c.CreateVM(t.Context(), spec("source")).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sim.FaultTask("CloneVM_Task", new(types.NoDiskSpace))
	_, err = vm.Clone(t.Context(), "never", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(t.Context())
	var e *hypervisor.Error
	if !errors.As(err, &e) || e.Kind != hypervisor.ErrExhausted || len(e.Leftover) != 0 {
		t.Errorf("ended with %v", err)
	}
	if l, err := vm.Snapshots(t.Context()); err != nil || len(l) != 0 {
		t.Errorf("%d snapshots are left (%v)", len(l), err)
	}
	// One that can't be removed is named.
	sim.FaultTask("CloneVM_Task", new(types.NoDiskSpace))
	sim.FaultTask("RemoveSnapshot_Task", new(types.FileLocked))
	_, err = vm.Clone(t.Context(), "never", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(t.Context())
	l, lerr := vm.Snapshots(t.Context())
	if lerr != nil || len(l) != 1 || !errors.As(err, &e) || len(e.Leftover) != 1 || e.Leftover[0].ID != string(l[0].ID) {
		t.Errorf("%v names %v, left is %v (%v)", err, e.Leftover, l, lerr)
	}
}

// TestDeleteDuringClone: a source is not deleted under its clone, and many clones are made of one source at a time.
func TestDeleteDuringClone(t *testing.T) {
	sim, c := once(t, vspheresim.Config{})
	ctx := t.Context()
	vm, err := c.CreateVM(ctx, spec("source")).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sim.SetTaskDelay("CloneVM_Task", time.Hour)
	task := vm.Clone(ctx, "slow", nil)
	if err := task.Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx); !errors.Is(err, hypervisor.ErrBusy) {
		t.Errorf("deletion under a clone: %v, want busy", err)
	}
	if err := task.Cancel(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := task.Wait(ctx); !errors.Is(err, hypervisor.ErrCanceled) {
		t.Errorf("the clone ended with %v", err)
	}
	sim.SetTaskDelay("CloneVM_Task", 5*time.Millisecond)
	before := machines(t, c)
	var tasks []*hypervisor.Task[*hypervisor.VM]
	for n := range 8 {
		tasks = append(tasks, vm.Clone(ctx, fmt.Sprint("many ", n), nil))
	}
	for _, k := range tasks {
		if _, err := k.Wait(ctx); err != nil {
			t.Errorf("one of %d clones at a time: %v", len(tasks), err)
		}
	}
	if n := len(machines(t, c)) - len(before); n != len(tasks) {
		t.Errorf("%d machines were made of %d clones", n, len(tasks))
	}
	if _, err := vm.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx); err != nil {
		t.Errorf("deletion afterwards: %v", err)
	}
}
