package vsphere

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// lateStart is a call whose context ends between the server's act and its
// answer.
type lateStart struct {
	method string
	start  func(ctx context.Context) (wait func(context.Context) error, id func() hypervisor.TaskID)
}

func started[T any](k *hypervisor.Task[T]) (func(context.Context) error, func() hypervisor.TaskID) {
	return func(ctx context.Context) error { _, err := k.Wait(ctx); return err }, k.ID
}

// TestLateAnswer: the work is not lost. The error has a task, which is found
// again and ends well.
func TestLateAnswer(t *testing.T) {
	sim, c := once(t, simConfig(vspheresim.VCenter))
	machine := func(name string) *hypervisor.VM {
		vm, err := c.CreateVM(t.Context(), spec(name)).Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return vm
	}
	vm, tpl := machine("late"), machine("late template")
	if _, err := tpl.MarkTemplate(t.Context()).Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	snap, err := vm.CreateSnapshot(t.Context(), "first", nil).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	info, err := vm.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var store hypervisor.DatastoreID
	for s, err := range c.Datastores(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if s.ID != info.Disks[0].Datastore {
			store = s.ID
		}
	}
	for name, k := range map[string]lateStart{
		"create": {"CreateVM_Task", func(ctx context.Context) (func(context.Context) error, func() hypervisor.TaskID) {
			return started(c.CreateVM(ctx, spec("late create")))
		}},
		"create and start": {"CreateVM_Task", func(ctx context.Context) (func(context.Context) error, func() hypervisor.TaskID) {
			s := spec("late start")
			s.Start = true
			return started(c.CreateVM(ctx, s))
		}},
		"clone": {"CloneVM_Task", func(ctx context.Context) (func(context.Context) error, func() hypervisor.TaskID) {
			return started(vm.Clone(ctx, "late clone", nil))
		}},
		"linked clone": {"CloneVM_Task", func(ctx context.Context) (func(context.Context) error, func() hypervisor.TaskID) {
			return started(vm.Clone(ctx, "late linked", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked, From: snap.ID()}))
		}},
		"deploy": {"CloneVM_Task", func(ctx context.Context) (func(context.Context) error, func() hypervisor.TaskID) {
			return started(c.Template(hypervisor.TemplateID(tpl.ID())).Deploy(ctx, "late deploy", nil))
		}},
		"snapshot": {"CreateSnapshot_Task", func(ctx context.Context) (func(context.Context) error, func() hypervisor.TaskID) {
			return started(vm.CreateSnapshot(ctx, "late", nil))
		}},
		"migrate": {"RelocateVM_Task", func(ctx context.Context) (func(context.Context) error, func() hypervisor.TaskID) {
			return started(vm.Migrate(ctx, hypervisor.MigrateOptions{Storage: store}))
		}},
		"volume": {"CreateVirtualDisk_Task", func(ctx context.Context) (func(context.Context) error, func() hypervisor.TaskID) {
			return started(c.CreateVolume(ctx, hypervisor.VolumeSpec{Name: "late", Datastore: store, SizeBytes: hypervisor.MiB}))
		}},
		"reconfigure": {"ReconfigVM_Task", func(ctx context.Context) (func(context.Context) error, func() hypervisor.TaskID) {

			return started(vm.Reconfigure(ctx, hypervisor.Changes{CPUs: 2}))
		}},
		"start": {"PowerOnVM_Task", func(ctx context.Context) (func(context.Context) error, func() hypervisor.TaskID) {
			return started(machine("late power").Start(ctx))
		}},
		"delete snapshot": {"RemoveSnapshot_Task", func(ctx context.Context) (func(context.Context) error, func() hypervisor.TaskID) {
			other := machine("late merge")
			s, err := other.CreateSnapshot(context.WithoutCancel(ctx), "s", nil).Wait(context.WithoutCancel(ctx))
			if err != nil {
				t.Fatal(err)
			}
			return started(s.Delete(ctx, nil))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			const late = time.Second
			sim.DelayAnswer(k.method, late)
			defer sim.DelayAnswer(k.method, 0)
			sim.ResetCalls()
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var ended time.Time
			go func() {
				for sim.Calls()[k.method] == 0 {
					time.Sleep(time.Millisecond)
				}
				time.Sleep(50 * time.Millisecond)
				ended = time.Now()
				stop()
			}()
			wait, id := k.start(ctx)
			err := wait(ctx)
			if d := time.Since(ended); d > late/2 {
				t.Errorf("the call ended %v after its context", d)
			}
			var detached *hypervisor.DetachedError
			if !errors.As(err, &detached) || detached.Task == "" || detached.Task != id() {
				t.Fatalf("the task is %q, the error %v, want a DetachedError with it", id(), err)
			}
			again, err := c.Task(t.Context(), detached.Task)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := again.Wait(t.Context()); err != nil {
				t.Errorf("the work: %v", err)
			}
		})
	}
}
