package vsphere

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// unbroken are the calls that TestFaults does not break.
var unbroken = map[string]string{
	"FindByUuid":                  "asked of the other vCenter: TestFaultAtDestination",
	"GetCurrentTime":              "a part of the recovery from a call that was cut",
	"LoginExtensionByCertificate": "TestLogins",
	"Logout":                      "its failure is not told: the session ends by itself",
	"TerminateProcessInGuest":     "its failure is not told: the program's time is over",
}

// sent finds the SOAP methods that this package sends, in its source.
func sent(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), f, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "methods" {
					out[s.Sel.Name] = true
				}
			}
			return true
		})
	}
	if len(out) < 40 {
		t.Fatalf("the source sends %v alone", slices.Sorted(maps.Keys(out)))
	}
	return out
}

func started(ctx context.Context, _ *hypervisor.Client, vm *hypervisor.VM) error {
	_, err := vm.Start(ctx).Wait(ctx)
	return err
}

// oneTask is a trial of one call that needs no more than the machine.
func oneTask(f func(context.Context, *hypervisor.VM) *hypervisor.Task[hypervisor.None]) func(context.Context, *hypervisor.Client, *hypervisor.VM) error {
	return func(ctx context.Context, _ *hypervisor.Client, vm *hypervisor.VM) error {
		_, err := f(ctx, vm).Wait(ctx)
		return err
	}
}

// rareTrials are operations with calls that no other operation has; those are broken, and what they share is not again.
func rareTrials(sim *vspheresim.Sim) []trial {
	snapshotted := func(ctx context.Context, _ *hypervisor.Client, vm *hypervisor.VM) error {
		_, err := vm.CreateSnapshot(ctx, "s", nil).Wait(ctx)
		return err
	}
	snapshot := func(f func(context.Context, *hypervisor.Snapshot) *hypervisor.Task[hypervisor.None]) func(context.Context, *hypervisor.Client, *hypervisor.VM) error {
		return func(ctx context.Context, _ *hypervisor.Client, vm *hypervisor.VM) error {
			s, err := vm.FindSnapshot(ctx, "s")
			if err == nil {
				_, err = f(ctx, s).Wait(ctx)
			}
			return err
		}
	}
	volume := func(ctx context.Context, c *hypervisor.Client, vm *hypervisor.VM) error {
		v, err := vm.Info(ctx)
		if err != nil {
			return err
		}
		made, err := c.CreateVolume(ctx, hypervisor.VolumeSpec{Name: "blank " + string(vm.ID()), Datastore: v.Placement.Datastore, SizeBytes: hypervisor.MiB}).Wait(ctx)
		if err != nil {
			return err
		}
		grown, err := c.CreateVolume(ctx, hypervisor.VolumeSpec{Name: "copy " + string(vm.ID()), Datastore: v.Placement.Datastore, From: made, SizeBytes: 2 * hypervisor.MiB}).Wait(ctx)
		if err != nil {
			return err
		}
		for _, id := range []hypervisor.VolumeID{made, grown} {
			if _, err := c.DeleteVolume(ctx, id).Wait(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	return []trial{
		{name: "power off", calls: []string{"PowerOffVM_Task"}, setup: started, f: oneTask(func(ctx context.Context, vm *hypervisor.VM) *hypervisor.Task[hypervisor.None] {
			return vm.PowerOff(ctx)
		})},
		{name: "reset", calls: []string{"ResetVM_Task"}, setup: started, f: oneTask(func(ctx context.Context, vm *hypervisor.VM) *hypervisor.Task[hypervisor.None] { return vm.Reset(ctx) })},
		{name: "suspend", calls: []string{"SuspendVM_Task"}, setup: started, f: oneTask(func(ctx context.Context, vm *hypervisor.VM) *hypervisor.Task[hypervisor.None] { return vm.Suspend(ctx) })},
		{name: "shut down", calls: []string{"ShutdownGuest"}, setup: started, f: oneTask(func(ctx context.Context, vm *hypervisor.VM) *hypervisor.Task[hypervisor.None] {
			return vm.Shutdown(ctx, nil)
		})},
		{name: "reboot", calls: []string{"RebootGuest"}, setup: started, f: oneTask(func(ctx context.Context, vm *hypervisor.VM) *hypervisor.Task[hypervisor.None] {
			return vm.Reboot(ctx, nil)
		})},
		{name: "revert", calls: []string{"RevertToSnapshot_Task"}, setup: snapshotted, f: snapshot(func(ctx context.Context, s *hypervisor.Snapshot) *hypervisor.Task[hypervisor.None] {
			return s.Revert(ctx, nil)
		})},
		{name: "delete snapshot", calls: []string{"RemoveSnapshot_Task"}, setup: snapshotted, f: snapshot(func(ctx context.Context, s *hypervisor.Snapshot) *hypervisor.Task[hypervisor.None] {
			return s.Delete(ctx, nil)
		})},
		{name: "keep disks of snapshots", calls: []string{"RemoveAllSnapshots_Task"}, setup: snapshotted, f: oneTask(func(ctx context.Context, vm *hypervisor.VM) *hypervisor.Task[hypervisor.None] {
			return vm.Delete(ctx, hypervisor.KeepDisks, nil)
		})},
		{name: "instant clone", calls: []string{"InstantClone_Task"}, setup: started, f: func(ctx context.Context, _ *hypervisor.Client, vm *hypervisor.VM) error {
			_, err := vm.Clone(ctx, "fork "+string(vm.ID()), &hypervisor.CloneOptions{Mode: hypervisor.Instant}).Wait(ctx)
			return err
		}},
		{name: "machine of a template", calls: []string{"MarkAsVirtualMachine"}, setup: func(ctx context.Context, _ *hypervisor.Client, vm *hypervisor.VM) error {
			_, err := vm.MarkTemplate(ctx).Wait(ctx)
			return err
		}, f: func(ctx context.Context, c *hypervisor.Client, vm *hypervisor.VM) error {
			_, err := c.Template(hypervisor.TemplateID(vm.ID())).MarkVM(ctx, hypervisor.Placement{}).Wait(ctx)
			return err
		}},
		{name: "volume", calls: []string{"CreateVirtualDisk_Task", "CopyVirtualDisk_Task", "ExtendVirtualDisk_Task", "DeleteVirtualDisk_Task", "SearchDatastore_Task"}, f: volume},
		{name: "maintenance", calls: []string{"EnterMaintenanceMode_Task", "ExitMaintenanceMode_Task"}, f: func(ctx context.Context, c *hypervisor.Client, _ *hypervisor.VM) error {
			h, err := c.FindHost(ctx, "DC0_C0_H2")
			if err != nil {
				return err
			}
			if _, err = h.EnterMaintenance(ctx, &hypervisor.MaintenanceOptions{Evacuate: true}).Wait(ctx); err != nil {
				return err
			}
			_, err = h.ExitMaintenance(ctx).Wait(ctx)
			return err
		}},
		{name: "prepare", calls: []string{"UpdatePassthruConfig"}, f: func(ctx context.Context, c *hypervisor.Client, _ *hypervisor.VM) error {
			for x, err := range c.Devices(ctx, &hypervisor.DeviceFilter{Vendor: "8086", Product: "1572"}) {
				if err == nil {
					n := 4 - x.VFs
					_, err = c.PrepareDevice(ctx, x.ID, hypervisor.DevicePreparation{VFs: &n}).Wait(ctx)
				}
				return err
			}
			return errors.New("no device")
		}},
		{name: "HA", calls: []string{"ReconfigureComputeResource_Task"}, f: oneTask(func(ctx context.Context, vm *hypervisor.VM) *hypervisor.Task[hypervisor.None] {
			return vm.SetRestartPriority(ctx, hypervisor.RestartHigh)
		})},
		{name: "exec", calls: []string{"CreateTemporaryFileInGuest", "StartProgramInGuest", "ListProcessesInGuest", "InitiateFileTransferFromGuest", "DeleteFileInGuest"}, setup: started,
			f: func(ctx context.Context, _ *hypervisor.Client, vm *hypervisor.VM) error {
				_, err := vm.Exec(ctx, hypervisor.ExecRequest{Path: "/bin/true", User: "root", Password: "x"})
				return err
			}},
		{name: "place", calls: []string{"RecommendHostsForVm"}, f: func(ctx context.Context, c *hypervisor.Client, vm *hypervisor.VM) error {
			_, err := c.Place(ctx, hypervisor.PlaceRequest{VM: vm.ID()})
			return err
		}},
		{name: "balance", calls: []string{"RefreshRecommendation"}, f: func(ctx context.Context, c *hypervisor.Client, _ *hypervisor.VM) error {
			_, err := c.PlanBalance(ctx, nil)
			return err
		}},
		{name: "first listing", calls: []string{"CreateContainerView"}, reads: true, f: func(ctx context.Context, c *hypervisor.Client, _ *hypervisor.VM) error {
			sim.DropSessions() // views go with their session
			_, err := hypervisor.Collect(c.VMs(ctx, nil))
			return err
		}},
		{name: "cancel", calls: []string{"CancelTask"}, f: func(ctx context.Context, _ *hypervisor.Client, vm *hypervisor.VM) error {
			sim.SetTaskDelay("CloneVM_Task", hang)
			task := vm.Clone(ctx, "cancelled "+string(vm.ID()), nil)
			err := task.Cancel(ctx)
			if err != nil { // once more, so that nothing goes on
				_ = task.Cancel(ctx)
			}
			if _, werr := task.Wait(ctx); !errors.Is(werr, hypervisor.ErrCanceled) {
				return fmt.Errorf("cancelled, the clone ended with %w", werr)
			}
			return err
		}},
	}
}

// TestFaultAtDestination breaks the look-up of a machine that has moved to another vCenter: the move is told as done there.
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
