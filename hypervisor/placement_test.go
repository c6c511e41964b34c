package hypervisor_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// noScheduler has the portable planner do the work.
var noScheduler = map[capability.Name]hypervisor.Support{
	capability.PlacementNative: {Level: hypervisor.LevelNo, Reason: hypervisor.ReasonConfig, Detail: "switched off"}}

func farm(t *testing.T, hosts, machines int) (*fake.Backend, *hypervisor.Client, []*hypervisor.VM) {
	t.Helper()
	b := fake.New(fake.Config{Disable: noScheduler, Hosts: fake.DefaultHosts(hosts)})
	c, err := b.Open(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	all, err := hypervisor.Collect(c.Hosts(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	var vms []*hypervisor.VM
	for n := range machines {
		vm, err := c.CreateVM(t.Context(), hypervisor.VMSpec{Name: fmt.Sprint("vm-", n), MemoryBytes: 16 * hypervisor.GiB, Start: true,
			Placement: hypervisor.Placement{Host: all[0].ID}}).Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		vms = append(vms, vm)
	}
	return b, c, vms
}

func perHost(t *testing.T, c *hypervisor.Client) map[hypervisor.HostID]int {
	t.Helper()
	out := map[hypervisor.HostID]int{}
	for h, err := range c.Hosts(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		out[h.ID] = h.Running
	}
	return out
}

func TestPlanBalanceEvensOut(t *testing.T) {
	_, c, _ := farm(t, 3, 6)
	plan, err := c.PlanBalance(t.Context(), &hypervisor.BalanceOptions{Spread: 0.05})
	if err != nil {
		t.Fatal(err)
	}
	if len(plan) != 4 {
		t.Errorf("the plan has %d moves, want 4 to spread 6 machines over 3 hosts: %+v", len(plan), plan)
	}
	moved := map[hypervisor.VMID]bool{}
	for _, m := range plan {
		if moved[m.VM] || m.Reason == "" || m.Native {
			t.Errorf("move %+v is a second one of its machine, has no reason or says that it is native", m)
		}
		moved[m.VM] = true
		if _, err := c.VM(m.VM).Migrate(t.Context(), hypervisor.MigrateOptions{Host: m.To}).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for h, n := range perHost(t, c) {
		if n != 2 {
			t.Errorf("host %s has %d machines after the plan, want 2", h, n)
		}
	}
	if plan, err = c.PlanBalance(t.Context(), nil); err != nil || len(plan) != 0 {
		t.Errorf("an even farm gets the plan %+v, %v", plan, err)
	}
}

func TestPlaceCountsDevicesAndRoom(t *testing.T) {
	b, c, vms := farm(t, 2, 1)
	from := mustInfo(t, vms[0]).Host
	recs, err := c.Place(t.Context(), hypervisor.PlaceRequest{CPUs: 1, MemoryBytes: hypervisor.GiB})
	if err != nil || len(recs) != 2 || recs[0].Host == from {
		t.Errorf("the emptier host is not first: %+v, %v", recs, err)
	}
	if _, err := c.Place(t.Context(), hypervisor.PlaceRequest{CPUs: 1, MemoryBytes: hypervisor.GiB, Device: &hypervisor.DeviceRequest{Vendor: "1234"}}); !errors.Is(err, hypervisor.ErrExhausted) {
		t.Errorf("a host is recommended for a device that none has: %v", err)
	}
	if _, err := c.Place(t.Context(), hypervisor.PlaceRequest{CPUs: 1, MemoryBytes: hypervisor.GiB, Datastore: "nowhere"}); !errors.Is(err, hypervisor.ErrNotFound) {
		t.Errorf("an unknown datastore: %v", err)
	}
	for _, r := range recs {
		if r.Host != from {
			if err := b.SetHostState(r.Host, hypervisor.HostDown); err != nil {
				t.Fatal(err)
			}
		}
	}
	if recs, err = c.Place(t.Context(), hypervisor.PlaceRequest{CPUs: 1, MemoryBytes: hypervisor.GiB}); err != nil || len(recs) != 1 || recs[0].Host != from {
		t.Errorf("with one host down: %+v, %v", recs, err)
	}
}

func mustInfo(t *testing.T, vm *hypervisor.VM) hypervisor.VMInfo {
	t.Helper()
	i, err := vm.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// TestEvacuateNamesWhatStays: machines that can't move don't stop the others;
// the result says what moved and the error joins every failure.
func TestEvacuateNamesWhatStays(t *testing.T) {
	_, c, vms := farm(t, 2, 5)
	from := mustInfo(t, vms[0]).Host
	here := perHost(t, c)[from]
	stay := map[string]bool{}
	for _, vm := range vms[1:3] { // a machine with a passed-through device can't move live
		if _, err := vm.PowerOff(t.Context()).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := vm.AttachDevice(t.Context(), hypervisor.DeviceRequest{Class: hypervisor.ClassDisplay}).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := vm.Start(t.Context()).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i := mustInfo(t, vm); i.Host == from {
			stay[string(vm.ID())] = true
		}
	}
	if len(stay) != 2 {
		t.Fatalf("%d machines with a device are on %s, want 2", len(stay), from)
	}
	r, err := c.Host(from).Evacuate(t.Context(), nil).Wait(t.Context())
	var e *hypervisor.Error
	if !errors.As(err, &e) || len(e.Leftover) != 2 {
		t.Fatalf("%v, want an error that names the machines that stay", err)
	}
	for _, left := range e.Leftover {
		if !stay[left.ID] || !strings.Contains(err.Error(), left.ID) {
			t.Errorf("the error doesn't join the failure of %s: %v", left, err)
		}
	}
	if len(r.Moved) != here-2 || len(r.Left) != 2 {
		t.Errorf("moved %+v, left %v; want %d and 2", r.Moved, r.Left, here-2)
	}
	var b *hypervisor.BlockedError
	if !errors.As(err, &b) || b.Blockers[0].Reason != hypervisor.ReasonVMPassthrough {
		t.Errorf("%v, want the blocker", err)
	}
	if n := perHost(t, c)[from]; n != 2 {
		t.Errorf("%d machines are on the host, want the two", n)
	}
}

func TestEvacuateIsCancelledTruly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, c, vms := farm(t, 2, 4)
		b.SetDelay(op.VMMigrate, time.Hour)
		from := mustInfo(t, vms[0]).Host
		task := c.Host(from).Evacuate(t.Context(), &hypervisor.EvacuateOptions{Parallel: 1})
		time.Sleep(90 * time.Minute) // one has moved, the second is on its way
		if err := task.Cancel(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err := task.Wait(t.Context())
		var e *hypervisor.Error
		if !errors.Is(err, hypervisor.ErrCanceled) || !errors.As(err, &e) || len(e.Leftover) != 3 {
			t.Errorf("%v, want ErrCanceled with three machines named", err)
		}
		if n := perHost(t, c)[from]; n != 3 {
			t.Errorf("%d machines are on the host, want 3", n)
		}
	})
}

// picky is a scheduler that places only machines that exist.
type picky struct{ *fake.Driver }

func (p picky) Recommend(ctx context.Context, r hypervisor.PlaceRequest) ([]hypervisor.Recommendation, error) {
	if r.VM == "" {
		return nil, hypervisor.Errorf(hypervisor.ErrUnsupported, hypervisor.Ref{}, "name a VM")
	}
	return p.Driver.Recommend(ctx, r)
}

func TestPlaceWhatTheSchedulerDoesNot(t *testing.T) {
	b := fake.New(fake.Config{Hosts: fake.DefaultHosts(3)})
	c, err := hypervisor.New(t.Context(), picky{b.Driver()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	vm, err := c.CreateVM(t.Context(), hypervisor.VMSpec{Name: "vm", MemoryBytes: hypervisor.GiB}).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for r, native := range map[hypervisor.PlaceRequest]bool{{VM: vm.ID()}: true, {CPUs: 1, MemoryBytes: hypervisor.GiB}: false} {
		if recs, err := c.Place(t.Context(), r); err != nil || len(recs) != 3 || recs[0].Native != native {
			t.Errorf("%+v: %+v, %v", r, recs, err)
		}
	}
}
