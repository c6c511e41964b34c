package vsphere

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// hang is what a call may take at most: long enough for a slow machine, and
// far below the 30 seconds of a long poll.
const hang = 20 * time.Second

func machines(t *testing.T, c *hypervisor.Client) map[hypervisor.VMID]bool {
	t.Helper()
	out := map[hypervisor.VMID]bool{}
	for v, err := range c.VMs(t.Context(), &hypervisor.ListOptions{Detail: hypervisor.DetailBrief}) {
		if err != nil {
			t.Fatal(err)
		}
		out[v.ID] = true
	}
	return out
}

// TestSessionEnds ends all sessions before and in the middle of operations:
// each continues, with one new login.
func TestSessionEnds(t *testing.T) {
	cfg := simConfig(vspheresim.VCenter)
	cfg.TaskDelay = 100 * time.Millisecond
	sim, c := once(t, cfg)
	clone := func(mode hypervisor.CloneMode) func(context.Context, *hypervisor.VM) error {
		return func(ctx context.Context, vm *hypervisor.VM) error {
			_, err := vm.Clone(ctx, "clone "+string(vm.ID()), &hypervisor.CloneOptions{Mode: mode}).Wait(ctx)
			return err
		}
	}
	for name, do := range map[string]func(context.Context, *hypervisor.VM) error{
		"list": func(ctx context.Context, _ *hypervisor.VM) error {
			_, err := hypervisor.Collect(c.VMs(ctx, nil))
			return err
		},
		"start":  func(ctx context.Context, vm *hypervisor.VM) error { _, err := vm.Start(ctx).Wait(ctx); return err },
		"clone":  clone(hypervisor.CloneModeFull),
		"linked": clone(hypervisor.CloneModeLinked),
	} {
		t.Run(name, func(t *testing.T) {
			vm, err := c.CreateVM(t.Context(), spec("session "+name)).Wait(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			sim.DropSessions()
			sim.ResetCalls()
			ctx, stop := context.WithTimeout(t.Context(), hang)
			defer stop()
			if name == "list" { // which needs a view of the new session
				sim.Cut("CreateContainerView", vspheresim.CutAfter)
			}
			done := make(chan error, 1)
			go func() { done <- do(ctx, vm) }()
			if name != "list" {
				time.Sleep(60 * time.Millisecond) // into the task
				sim.DropSessions()
			}
			if err := <-done; err != nil {
				t.Errorf("%v (kind %s)", err, hypervisor.KindOf(err))
			}
			if n := sim.Calls()["Login"]; n < 1 || n > 2 {
				t.Errorf("%d logins for a session that ended at most twice", n)
			}
		})
	}
}

// TestFaultAtDestination breaks the look-up of a machine that has moved to another vCenter: the move is reported as done there.
func TestFaultAtDestination(t *testing.T) {
	_, c := once(t, simConfig(vspheresim.VCenter))
	other, oc := once(t, simConfig(vspheresim.VCenter))
	hosts, err := hypervisor.Collect(oc.Hosts(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	for name, w := range map[string]func(){
		"session refused": func() { other.Fault("FindByUuid", new(types.NotAuthenticated)) },
		"no permission":   func() { other.Fault("FindByUuid", new(types.NoPermission)) },
		"cut before":      func() { other.Cut("FindByUuid", vspheresim.CutBefore) },
		"cut after":       func() { other.Cut("FindByUuid", vspheresim.CutAfter) },
	} {
		t.Run(name, func(t *testing.T) {
			vm, err := c.CreateVM(t.Context(), spec("moves "+name)).Wait(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			w()
			_, err = vm.Migrate(t.Context(), hypervisor.MigrateOptions{To: oc, Host: hosts[0].ID}).Wait(t.Context())
			if refused := name == "no permission"; refused != errors.Is(err, hypervisor.ErrPermission) || !refused && err != nil {
				t.Errorf("ended with %v (kind %s)", err, hypervisor.KindOf(err))
			}
			if err != nil && !strings.Contains(err.Error(), "was moved") {
				t.Errorf("%v does not say where the machine is", err)
			}
			if _, err := oc.FindVM(t.Context(), "moves "+name); err != nil {
				t.Errorf("at the destination: %v", err)
			}
		})
	}
}
