package vspheresim_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

func TestBusyMachineRefusesASecondTask(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	vm := w.vm("DC0_C0_RP0_VM0")
	w.sim.SetTaskDelay("CreateSnapshot_Task", time.Hour)
	first, err := vm.CreateSnapshot(w.ctx, "slow", "", false, false)
	if err != nil {
		t.Fatal(err)
	}
	task, err := vm.PowerOff(w.ctx)
	if f := refused[*types.TaskInProgress](w, task, err); f.Task != first.Reference() {
		t.Errorf("busy with %v, want %v", f.Task, first.Reference())
	}
	task, err = vm.Clone(w.ctx, w.vmFolder(), "copy", types.VirtualMachineCloneSpec{})
	refused[*types.TaskInProgress](w, task, err)

	// A cancelled task has no effect and leaves the machine free.
	if err := first.Cancel(w.ctx); err != nil {
		t.Fatal(err)
	}
	refused[*types.RequestCanceled](w, first, nil)
	var m mo.Task
	w.read(first, &m, "info")
	if !m.Info.Cancelled || m.Info.State != types.TaskInfoStateError {
		t.Errorf("info %+v", m.Info)
	}
	if p := w.props(vm); p.Snapshot != nil {
		t.Error("the cancelled task made its snapshot")
	}
	isFault[*types.InvalidState](w, first.Cancel(w.ctx))
	w.sim.SetTaskDelay("CreateSnapshot_Task", 0)
	w.done(vm.CreateSnapshot(w.ctx, "quick", "", false, false))

	w.sim.SetTaskDelay("PowerOffVM_Task", 100*time.Millisecond)
	off, err := vm.PowerOff(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	isFault[*types.NotSupported](w, off.Cancel(w.ctx)) // a power-off cannot be cancelled
	w.done(off, nil)
}

func TestProgressIsReported(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1, TaskDelay: 100 * time.Millisecond})
	task, err := w.vm("DC0_C0_RP0_VM0").Clone(w.ctx, w.vmFolder(), "copy", types.VirtualMachineCloneSpec{})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int32]bool{}
	err = property.Wait(w.ctx, property.DefaultCollector(w.client.Client), task.Reference(), []string{"info"}, func(list []types.PropertyChange) bool {
		for _, c := range list {
			info, ok := c.Val.(types.TaskInfo)
			if !ok {
				continue
			}
			seen[info.Progress] = true
			return info.State == types.TaskInfoStateSuccess || info.State == types.TaskInfoStateError
		}
		return false
	})
	if err != nil || !seen[100] || len(seen) < 2 {
		t.Errorf("progress %v, %v", seen, err)
	}
	tm := mo.TaskManager{}
	w.read(*w.client.ServiceContent.TaskManager, &tm, "recentTask")
	if last := tm.RecentTask[len(tm.RecentTask)-1]; last != task.Reference() {
		t.Errorf("the last recent task is %v, want %v", last, task.Reference())
	}
}

func TestNetworkFaults(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	vm := w.vm("DC0_C0_RP0_VM0")
	w.sim.Fault("PowerOffVM_Task", new(types.NoPermission))
	_, err := vm.PowerOff(w.ctx)
	isFault[*types.NoPermission](w, err)
	w.sim.FaultTask("PowerOffVM_Task", new(types.InsufficientResourcesFault))
	task, err := vm.PowerOff(w.ctx)
	refused[*types.InsufficientResourcesFault](w, task, err)

	for _, cut := range []struct {
		where vspheresim.Cut
		acted bool
	}{{vspheresim.CutBefore, false}, {vspheresim.CutInside, true}, {vspheresim.CutAfter, true}} {
		w.sim.Cut("CreateSnapshot_Task", cut.where)
		if _, err := vm.CreateSnapshot(w.ctx, "cut", "", false, false); err == nil {
			t.Errorf("cut %d: no error", cut.where)
		}
		w.settled(vm)
		if acted := w.props(vm).Snapshot != nil; acted != cut.acted {
			t.Errorf("cut %d: the server acted: %v", cut.where, acted)
		}
		w.done(vm.RemoveAllSnapshot(w.ctx, nil))
	}

	w.sim.Delay("PowerOffVM_Task", time.Hour)
	ctx, cancel := context.WithTimeout(w.ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := vm.PowerOff(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a call that is delayed gave %v", err)
	}
}

// settled waits until a machine has no task that runs.
func (w *world) settled(vm *object.VirtualMachine) {
	w.Helper()
	for {
		busy := false
		for _, r := range w.props(vm).RecentTask {
			var m mo.Task
			w.read(r, &m, "info.state")
			busy = busy || m.Info.State == types.TaskInfoStateRunning || m.Info.State == types.TaskInfoStateQueued
		}
		if !busy {
			return
		}
	}
}

func TestDropSessions(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	vm := w.vm("DC0_C0_RP0_VM0")
	w.sim.SetTaskDelay("PowerOffVM_Task", time.Hour)
	task, err := vm.PowerOff(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	go func() { failed <- task.WaitEx(w.ctx) }()
	for w.sim.Calls()["WaitForUpdatesEx"] < 2 {
		time.Sleep(time.Millisecond)
	}
	w.sim.DropSessions()
	isFault[*types.NotAuthenticated](w, <-failed)
	if n := w.sim.Sessions(); n != 0 {
		t.Errorf("%d sessions left", n)
	}
	var m mo.VirtualMachine
	isFault[*types.NotAuthenticated](w, w.client.RetrieveOne(w.ctx, vm.Reference(), []string{"name"}, &m))
	_, err = methods.GetCurrentTime(w.ctx, w.client)
	isFault[*types.NotAuthenticated](w, err)
}

func TestSessionTTL(t *testing.T) {
	w := start(t, vspheresim.Config{SessionTTL: 2 * time.Second})
	time.Sleep(2200 * time.Millisecond)
	_, err := methods.GetCurrentTime(w.ctx, w.client)
	isFault[*types.NotAuthenticated](w, err)
}

// Two clients wait for the same task at the same time; both must hear of its end.
func TestTwoClientsWait(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1, TaskDelay: 50 * time.Millisecond})
	second := login(t, w.sim)
	task, err := w.vm("DC0_C0_RP0_VM0").PowerOff(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 2)
	go func() { errs <- task.WaitEx(w.ctx) }()
	go func() { errs <- object.NewTask(second.Client, task.Reference()).WaitEx(w.ctx) }()
	for range 2 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestMissingReferencesDoNotEndTheProcess(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	vm := w.vm("DC0_C0_RP0_VM0")
	gone := func(kind string) *types.ManagedObjectReference {
		return &types.ManagedObjectReference{Type: kind, Value: "gone-1"}
	}
	for _, spec := range []types.VirtualMachineRelocateSpec{
		{Host: gone("HostSystem")}, {Datastore: gone("Datastore")}, {Pool: gone("ResourcePool")}, {Folder: gone("Folder")},
		{Disk: []types.VirtualMachineRelocateSpecDiskLocator{{DiskId: 2000, Datastore: *gone("Datastore")}}},
	} {
		_, err := vm.Relocate(w.ctx, spec, types.VirtualMachineMovePriorityDefaultPriority)
		isFault[*types.ManagedObjectNotFound](w, err)
	}
	nic, _ := object.EthernetCardTypes().CreateEthernetCard("vmxnet3", &types.VirtualEthernetCardNetworkBackingInfo{
		VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: "gone"}})
	task, err := vm.Reconfigure(w.ctx, addDevice(nic))
	refused[*types.InvalidDeviceBacking](w, task, err)
	w.done(vm.CreateSnapshot(w.ctx, "s", "", false, false))
	snap := *w.props(vm).Snapshot.CurrentSnapshot
	w.done(vm.RemoveSnapshot(w.ctx, "s", false, nil))
	_, err = methods.RemoveSnapshot_Task(w.ctx, w.client, &types.RemoveSnapshot_Task{This: snap})
	isFault[*types.ManagedObjectNotFound](w, err)
	w.done(vm.PowerOff(w.ctx))
	w.done(vm.Destroy(w.ctx))
	_, err = vm.PowerOn(w.ctx)
	isFault[*types.ManagedObjectNotFound](w, err)
}
