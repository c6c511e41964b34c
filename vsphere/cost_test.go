package vsphere

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// TestCostByMachine: what a verb sends is the same among 10 machines and among 500, once the Client knows which images others depend on.
func TestCostByMachine(t *testing.T) {
	calls := map[int]map[string]string{}
	for _, n := range []int{10, 500} {
		sim, c := once(t, vspheresim.Config{VMs: 1, TaskDelay: vspheresim.Immediate})
		if err := sim.AddVMs("many", n); err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		g := govmomiOf(t, sim)
		vm, err := c.CreateVM(ctx, spec("machine")).Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := vm.Dependencies(ctx); err != nil {
			t.Fatal(err)
		}
		snap, err := vm.CreateSnapshot(ctx, "s", nil).Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		disk, err := vm.AttachDisk(ctx, hypervisor.DiskSpec{SizeBytes: hypervisor.MiB}).Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		linked, err := vm.Clone(ctx, "linked", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		took, sent := map[string]time.Duration{}, map[string]string{}
		for _, verb := range []struct {
			name string
			f    func() error
		}{
			{"create with a token", func() error {
				s := spec("made")
				s.Token = "request"
				_, err := c.CreateVM(ctx, s).Wait(ctx)
				return err
			}},
			{"delete a linked clone", func() error { _, err := linked.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx); return err }},
			{"detach a disk", func() error { _, err := vm.DetachDisk(ctx, disk.ID, hypervisor.DeleteDisks).Wait(ctx); return err }},
			{"delete a snapshot", func() error { _, err := snap.Delete(ctx, nil).Wait(ctx); return err }},
			{"delete", func() error { _, err := vm.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx); return err }},
			{"delete by hand", func() error {
				l, err := hypervisor.Collect(c.VMs(ctx, &hypervisor.ListOptions{Detail: hypervisor.DetailBrief}))
				if err != nil {
					return err
				}
				for _, v := range l {
					if v.Name == "made" {
						task, err := object.NewVirtualMachine(g.Client, vmRef(v.ID)).Destroy(ctx)
						return wait(ctx, task, err)
					}
				}
				return nil
			}},
		} {
			sim.ResetCalls()
			began := time.Now()
			if err := verb.f(); err != nil {
				t.Fatalf("%s: %v", verb.name, err)
			}
			took[verb.name], sent[verb.name] = time.Since(began).Round(time.Millisecond), countsWithoutWaits(sim.Calls())
		}
		delete(sent, "delete by hand") // it lists
		calls[n] = sent
		t.Logf("%d machines: %v", n, took)
	}
	if !maps.Equal(calls[10], calls[500]) {
		t.Errorf("calls among 10 machines:\n%v\nand among 500:\n%v", calls[10], calls[500])
	}
}

// TestOwnersAreNew: what a Client remembers of dependent images is what a fresh reading says, whoever changed it.
func TestOwnersAreNew(t *testing.T) {
	sim, c := once(t, vspheresim.Config{TaskDelay: vspheresim.Immediate})
	ctx := t.Context()
	g := govmomiOf(t, sim)
	d := driverOf(t, c)
	vm, err := c.CreateVM(ctx, spec("machine")).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	o := object.NewVirtualMachine(g.Client, vmRef(vm.ID()))
	var linked hypervisor.VMID
	by := func(task *object.Task, err error) error { return wait(ctx, task, err) }
	other := storeRef(storesNamed(t, c, "LocalDS_1")[0])
	for _, step := range []struct {
		name string
		f    func() error
	}{
		{"nothing", func() error { return nil }},
		{"snapshot", func() error { return by(o.CreateSnapshot(ctx, "a", "", false, false)) }},
		{"snapshot", func() error { return by(o.CreateSnapshot(ctx, "b", "", false, false)) }},
		{"linked clone", func() error {
			l, err := vm.Clone(ctx, "linked", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(ctx)
			if err == nil {
				linked = l.ID()
			}
			return err
		}},
		{"disk", func() error {
			_, err := vm.AttachDisk(ctx, hypervisor.DiskSpec{SizeBytes: hypervisor.MiB}).Wait(ctx)
			return err
		}},
		{"revert", func() error { return by(o.RevertToSnapshot(ctx, "b", false)) }},
		{"another datastore", func() error {
			return by(o.Relocate(ctx, types.VirtualMachineRelocateSpec{Datastore: &other}, types.VirtualMachineMovePriorityDefaultPriority))
		}},
		{"promotion", func() error {
			return by(object.NewVirtualMachine(g.Client, vmRef(linked)).PromoteDisks(ctx, true, nil))
		}},
		{"removal", func() error { return by(o.RemoveAllSnapshot(ctx, nil)) }},
		{"deletion", func() error { return by(o.Destroy(ctx)) }},
	} {
		if err := step.f(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		got, err := d.owners(ctx)
		if err != nil {
			t.Fatal(err)
		}
		d.chains.mu.Lock()
		d.chains.seen = nil
		d.chains.mu.Unlock()
		want, err := d.owners(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range [][]owner{got, want} {
			slices.SortFunc(l, func(a, b owner) int { return strings.Compare(a.self.Value, b.self.Value) })
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("after %s: %+v, want %+v", step.name, got, want)
		}
	}
}
