package vsphere

import (
	"context"
	"errors"
	"testing"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// as asks for the native object behind v, and checks that its reference is
// want and that it is of use: name reads it.
func as[T any](t *testing.T, c *hypervisor.Client, v interface{ Ref() hypervisor.Ref }, want string) T {
	t.Helper()
	native, err := hypervisor.As[T](t.Context(), c, v)
	if err != nil {
		t.Errorf("%s: %v", v.Ref(), err)
		return native
	}
	if r, ok := any(native).(interface {
		Reference() types.ManagedObjectReference
	}); ok && r.Reference().Value != want {
		t.Errorf("%s is %s", v.Ref(), r.Reference())
	}
	return native
}

func refused[T any](t *testing.T, c *hypervisor.Client, v interface{ Ref() hypervisor.Ref }, want error) {
	t.Helper()
	if _, err := hypervisor.As[T](t.Context(), c, v); !errors.Is(err, want) {
		t.Errorf("As[%T](%s): %v, want %v", *new(T), v.Ref(), err, want)
	}
}

// TestAs reaches every kind of object, and names those that are not there.
func TestAs(t *testing.T) {
	sim := startSim(t, vspheresim.Config{VMs: 1})
	ctx := t.Context()
	c, err := openSim(ctx, sim.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	vm := firstVM(t, c, "DC0")
	task := vm.CreateSnapshot(ctx, "one", nil)
	snap, err := task.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	mark, err := vm.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}

	if n, err := as[*object.VirtualMachine](t, c, vm, string(vm.ID())).ObjectName(ctx); err != nil || n != mark.Name {
		t.Errorf("the machine's native name is %q (%v)", n, err)
	}
	as[*types.ManagedObjectReference](t, c, snap, string(snap.ID()))
	as[*object.Task](t, c, task, string(task.ID()))
	as[*object.HostSystem](t, c, mark.Host, string(mark.Host))
	for d, err := range c.Datastores(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		as[*object.Datastore](t, c, d.ID, string(d.ID))
	}
	kinds := map[string]int{}
	for n, err := range c.Networks(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		switch r := as[*types.ManagedObjectReference](t, c, n.ID, string(n.ID)); r.Type {
		case "Network":
			kinds[r.Type]++
			as[*object.Network](t, c, n.ID, string(n.ID))
			refused[*object.DistributedVirtualPortgroup](t, c, n.ID, hypervisor.ErrUnsupported)
		case "DistributedVirtualPortgroup":
			kinds[r.Type]++
			as[*object.DistributedVirtualPortgroup](t, c, n.ID, string(n.ID))
			refused[*object.Network](t, c, n.ID, hypervisor.ErrUnsupported)
		}
	}
	if kinds["Network"] == 0 || kinds["DistributedVirtualPortgroup"] == 0 {
		t.Errorf("networks of these kinds were seen: %v", kinds)
	}
	as[*govmomi.Client](t, c, c, "")
	as[*vim25.Client](t, c, c, "")

	refused[*object.HostSystem](t, c, c, hypervisor.ErrUnsupported)
	refused[*object.HostSystem](t, c, vm, hypervisor.ErrUnsupported)
	refused[*vim25.Client](t, c, vm, hypervisor.ErrUnsupported)
	refused[string](t, c, vm, hypervisor.ErrUnsupported)
	refused[*object.Task](t, c, hypervisor.TaskID("anyvisor-clone-1"), hypervisor.ErrUnsupported)
	refused[*types.ManagedObjectReference](t, c, hypervisor.DeviceID("host-1/0000:00:01.0"), hypervisor.ErrUnsupported)
	refused[*object.VirtualMachine](t, c, hypervisor.VMID("vm-999"), hypervisor.ErrNotFound)
	refused[*types.ManagedObjectReference](t, c, hypervisor.SnapshotID("snapshot-999"), hypervisor.ErrNotFound)
	refused[*object.Task](t, c, hypervisor.TaskID("task-999"), hypervisor.ErrNotFound)

	if _, err := snap.Delete(ctx, nil).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.PowerOff(ctx).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	tpl, err := vm.MarkTemplate(ctx).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	as[*object.VirtualMachine](t, c, tpl, string(tpl.ID()))

	gone, stop := context.WithCancel(ctx)
	stop()
	if _, err := hypervisor.As[*object.VirtualMachine](gone, c, tpl); !errors.Is(err, context.Canceled) {
		t.Errorf("As with an ended context: %v", err)
	}
}
