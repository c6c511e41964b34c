package vspheresim_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// Many clients list and change machines at a time. The race detector watches; what each client does to its own machines must work.
func TestManyClients(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 4, StandaloneHosts: 1, Tools: true})
	folder := w.vmFolder()
	stop := make(chan struct{})
	var listers, workers sync.WaitGroup
	for range 2 {
		c := login(t, w.sim)
		v, err := view.NewManager(c.Client).CreateContainerView(w.ctx, c.ServiceContent.RootFolder, []string{"VirtualMachine"}, true)
		if err != nil {
			t.Fatal(err)
		}
		listers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				var list []mo.VirtualMachine
				// A machine that vanishes while it is being read fails the whole call, as it does with a vCenter.
				_ = v.Retrieve(w.ctx, []string{"VirtualMachine"}, []string{"name", "runtime", "config", "summary", "guest", "snapshot", "layoutEx", "datastore"}, &list)
				_, _ = w.finder.VirtualMachineList(w.ctx, "*")
				_, _ = w.finder.HostSystemList(w.ctx, "*/*")
			}
		})
	}
	for i := range 3 {
		c := login(t, w.sim)
		workers.Go(func() {
			sub := *w
			sub.client = c
			src := object.NewVirtualMachine(c.Client, w.vm(fmt.Sprintf("DC0_C0_RP0_VM%d", i)).Reference())
			for n := range 2 {
				info := sub.done(src.Clone(w.ctx, folder, fmt.Sprintf("w%d-%d", i, n), types.VirtualMachineCloneSpec{
					PowerOn: true, Location: types.VirtualMachineRelocateSpec{DiskMoveType: childDisk}}))
				vm := object.NewVirtualMachine(c.Client, info.Result.(types.ManagedObjectReference))
				sub.done(vm.CreateSnapshot(w.ctx, "s", "", true, false))
				sub.done(vm.Reconfigure(w.ctx, types.VirtualMachineConfigSpec{Annotation: "note"}))
				sub.done(vm.RevertToSnapshot(w.ctx, "s", false))
				sub.done(vm.Migrate(w.ctx, nil, sub.otherHost(vm), types.VirtualMachineMovePriorityDefaultPriority, ""))
				sub.done(vm.RemoveAllSnapshot(w.ctx, nil))
				sub.done(vm.PowerOff(w.ctx))
				sub.done(vm.Destroy(w.ctx))
			}
		})
	}
	workers.Wait()
	close(stop)
	listers.Wait()
}
