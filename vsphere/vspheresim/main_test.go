package vspheresim_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"go.uber.org/goleak"

	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a simulator with a client that is logged in.
type world struct {
	*testing.T
	sim    *vspheresim.Sim
	client *govmomi.Client
	finder *find.Finder
	ctx    context.Context
}

func start(t *testing.T, cfg vspheresim.Config) *world {
	t.Helper()
	sim, err := vspheresim.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.Close)
	w := &world{T: t, sim: sim, ctx: t.Context()}
	w.client = login(t, sim)
	w.finder = find.NewFinder(w.client.Client)
	dcs, err := w.finder.DatacenterList(w.ctx, "*")
	if err != nil {
		t.Fatal(err)
	}
	w.finder.SetDatacenter(dcs[0])
	return w
}

func login(t *testing.T, sim *vspheresim.Sim) *govmomi.Client {
	t.Helper()
	c, err := govmomi.NewClient(t.Context(), sim.URL(), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Logout(context.Background())
		c.CloseIdleConnections()
	})
	return c
}

func (w *world) vm(name string) *object.VirtualMachine {
	w.Helper()
	vm, err := w.finder.VirtualMachine(w.ctx, name)
	if err != nil {
		w.Fatal(err)
	}
	return vm
}

func (w *world) read(r mo.Reference, dst any, props ...string) {
	w.Helper()
	if err := w.client.RetrieveOne(w.ctx, r.Reference(), props, dst); err != nil {
		w.Fatalf("read %v: %v", r.Reference(), err)
	}
}

func (w *world) props(vm mo.Reference) mo.VirtualMachine {
	w.Helper()
	var m mo.VirtualMachine
	w.read(vm, &m)
	return m
}

// done waits for a task that must succeed.
func (w *world) done(t *object.Task, err error) *types.TaskInfo {
	w.Helper()
	if err != nil {
		w.Fatalf("call: %v", err)
	}
	info, err := t.WaitForResultEx(w.ctx)
	if err != nil {
		w.Fatalf("task: %v", err)
	}
	return info
}

// refused checks that a call or its task fails with a fault of type F, and returns the fault.
func refused[F types.BaseMethodFault](w *world, t *object.Task, err error) F {
	w.Helper()
	if err == nil {
		err = t.WaitEx(w.ctx)
	}
	return isFault[F](w, err)
}

func isFault[F types.BaseMethodFault](w *world, err error) F {
	w.Helper()
	var f F
	if err == nil {
		w.Fatalf("no error, want %T", f)
	}
	if _, ok := fault.As(err, &f); !ok {
		w.Fatalf("%v, want %T", describe(err), f)
	}
	return f
}

func describe(err error) string {
	if soap.IsSoapFault(err) {
		return fmt.Sprintf("SOAP fault %T: %v", soap.ToSoapFault(err).VimFault(), err)
	}
	if te, ok := err.(task.Error); ok {
		return fmt.Sprintf("task fault %T: %v", te.Fault(), err)
	}
	return fmt.Sprintf("%T: %v", err, err)
}
