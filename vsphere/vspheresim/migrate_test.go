package vspheresim_test

import (
	"net/url"
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

func (w *world) host(name string) *object.HostSystem {
	w.Helper()
	h, err := w.finder.HostSystem(w.ctx, name)
	if err != nil {
		w.Fatal(err)
	}
	return h
}

func (w *world) otherHost(vm *object.VirtualMachine) *object.HostSystem {
	w.Helper()
	list, err := w.finder.HostSystemList(w.ctx, "*/DC0_C0*")
	if err != nil {
		w.Fatal(err)
	}
	at := w.props(vm).Runtime.Host
	for _, h := range list {
		if h.Reference() != *at {
			return h
		}
	}
	w.Fatal("no other host")
	return nil
}

func (w *world) checkMigrate(vm *object.VirtualMachine, h *object.HostSystem) types.CheckResult {
	w.Helper()
	r := h.Reference()
	checker := w.client.ServiceContent.VmProvisioningChecker
	res, err := methods.CheckMigrate_Task(w.ctx, w.client, &types.CheckMigrate_Task{This: *checker, Vm: vm.Reference(), Host: &r})
	if err != nil {
		w.Fatal(err)
	}
	info := w.done(object.NewTask(w.client.Client, res.Returnval), nil)
	return info.Result.(types.ArrayOfCheckResult).CheckResult[0]
}

func TestMigrateMovesEverything(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	vm := w.vm("DC0_C0_RP0_VM0")
	w.done(vm.CreateSnapshot(w.ctx, "s", "", true, false))
	to := w.otherHost(vm)
	if r := w.checkMigrate(vm, to); len(r.Error) != 0 {
		t.Fatalf("check: %+v", r.Error)
	}
	w.done(vm.Migrate(w.ctx, nil, to, types.VirtualMachineMovePriorityDefaultPriority, ""))
	ds, _ := w.finder.Datastore(w.ctx, "LocalDS_1")
	d := ds.Reference()
	w.done(vm.Relocate(w.ctx, types.VirtualMachineRelocateSpec{Datastore: &d}, types.VirtualMachineMovePriorityDefaultPriority))
	p := w.props(vm)
	if *p.Runtime.Host != to.Reference() || p.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
		t.Errorf("on %v, %s", p.Runtime.Host, p.Runtime.PowerState)
	}
	var h mo.HostSystem
	w.read(to, &h, "vm")
	if len(h.Vm) == 0 || h.Vm[len(h.Vm)-1] != p.Self {
		t.Errorf("the host lists %v", h.Vm)
	}
	var store mo.Datastore
	w.read(ds, &store, "vm")
	if len(store.Vm) != 1 || len(p.Datastore) != 1 || p.Datastore[0] != d {
		t.Errorf("datastore lists %v, machine is on %v", store.Vm, p.Datastore)
	}
	b := disk(w, vm)
	for ; b != nil; b = b.Parent {
		var path object.DatastorePath
		path.FromString(b.FileName)
		if path.Datastore != "LocalDS_1" {
			t.Errorf("%s did not move", b.FileName)
		}
	}
	w.done(vm.RevertToSnapshot(w.ctx, "s", false))
}

func TestEveryBlockerAtOnce(t *testing.T) {
	gpu := vspheresim.GPU{VendorID: 0x10de, DeviceID: 0x2330, Product: "H100", MemoryMB: 81920, Passthrough: true}
	w := start(t, vspheresim.Config{VMs: 1, GPUs: []vspheresim.GPU{gpu}})
	vm := w.vm("DC0_C0_RP0_VM0")
	to := w.otherHost(vm)
	w.done(vm.PowerOff(w.ctx))
	w.addPassthrough(vm)
	w.done(vm.PowerOn(w.ctx))
	name, _ := to.ObjectName(w.ctx)
	if err := w.sim.SetHostCPU(name, "AMD", "AMD EPYC 9654"); err != nil {
		t.Fatal(err)
	}
	w.done(to.EnterMaintenanceMode(w.ctx, 0, false, nil))
	r := w.checkMigrate(vm, to)
	var kinds []string
	for _, e := range r.Error {
		switch e.Fault.(type) {
		case *types.InvalidState:
			kinds = append(kinds, "maintenance")
		case *types.DisallowedMigrationDeviceAttached:
			kinds = append(kinds, "device")
		case *types.FeatureRequirementsNotMet:
			kinds = append(kinds, "cpu")
		default:
			t.Errorf("unexpected %T", e.Fault)
		}
	}
	if len(kinds) != 3 {
		t.Errorf("blockers %v, want maintenance, device and cpu", kinds)
	}
	task, err := vm.Migrate(w.ctx, nil, to, types.VirtualMachineMovePriorityDefaultPriority, "")
	refused[*types.InvalidState](w, task, err)
}

func TestMaintenanceModeEvacuatesWithDRS(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 6})
	h := w.host("DC0_C0_H0")
	w.done(h.EnterMaintenanceMode(w.ctx, 0, true, nil))
	var m mo.HostSystem
	w.read(h, &m, "vm", "runtime")
	if len(m.Vm) != 0 || !m.Runtime.InMaintenanceMode {
		t.Errorf("%d machines left, maintenance %v", len(m.Vm), m.Runtime.InMaintenanceMode)
	}
	vm := w.vm("DC0_C0_RP0_VM0")
	r := h.Reference()
	task, err := vm.Relocate(w.ctx, types.VirtualMachineRelocateSpec{Host: &r}, types.VirtualMachineMovePriorityDefaultPriority)
	refused[*types.InvalidState](w, task, err)

	// Emptied, the host is the one that DRS wants to fill again.
	w.done(h.ExitMaintenanceMode(w.ctx, 0))
	c, _ := w.finder.ClusterComputeResource(w.ctx, "DC0_C0")
	if _, err := methods.RefreshRecommendation(w.ctx, w.client, &types.RefreshRecommendation{This: c.Reference()}); err != nil {
		t.Fatal(err)
	}
}

func TestStandardEditionHasNoDRS(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1, Edition: vspheresim.Standard})
	c, _ := w.finder.ClusterComputeResource(w.ctx, "DC0_C0")
	_, err := methods.RefreshRecommendation(w.ctx, w.client, &types.RefreshRecommendation{This: c.Reference()})
	isFault[*types.InvalidState](w, err)
	task, err := c.Reconfigure(w.ctx, &types.ClusterConfigSpecEx{DrsConfig: &types.ClusterDrsConfigInfo{Enabled: types.NewBool(true)}}, true)
	refused[*types.RestrictedVersion](w, task, err)
}

func TestRecommendations(t *testing.T) {
	w := start(t, vspheresim.Config{HostMemoryMB: 4096})
	if err := w.sim.AddVMs("load", 12); err != nil {
		t.Fatal(err)
	}
	h0 := w.host("DC0_C0_H0")
	list, _ := w.finder.VirtualMachineList(w.ctx, "load*")
	for _, vm := range list {
		w.done(vm.PowerOff(w.ctx))
		w.done(vm.Reconfigure(w.ctx, types.VirtualMachineConfigSpec{MemoryMB: 512}))
		w.done(vm.Migrate(w.ctx, nil, h0, types.VirtualMachineMovePriorityDefaultPriority, ""))
		w.done(vm.PowerOn(w.ctx))
	}
	c, _ := w.finder.ClusterComputeResource(w.ctx, "DC0_C0")
	if _, err := methods.RefreshRecommendation(w.ctx, w.client, &types.RefreshRecommendation{This: c.Reference()}); err != nil {
		t.Fatal(err)
	}
	var m mo.ClusterComputeResource
	w.read(c, &m, "drsRecommendation", "recommendation")
	if len(m.DrsRecommendation) != 8 {
		t.Fatalf("%d recommendations, want 8 to even out 12 machines on 3 hosts", len(m.DrsRecommendation))
	}
	rec := m.DrsRecommendation[0]
	if _, err := methods.ApplyRecommendation(w.ctx, w.client, &types.ApplyRecommendation{This: c.Reference(), Key: rec.Key}); err != nil {
		t.Fatal(err)
	}
	vm := object.NewVirtualMachine(w.client.Client, rec.MigrationList[0].Vm)
	for w.props(vm).Runtime.Host.Value != rec.MigrationList[0].Destination.Value {
	}
	res, err := methods.RecommendHostsForVm(w.ctx, w.client, &types.RecommendHostsForVm{This: c.Reference(), Vm: vm.Reference()})
	if err != nil || len(res.Returnval) != 3 || res.Returnval[0].Host == h0.Reference() {
		t.Errorf("hosts %+v, %v", res, err)
	}
}

func TestCrossVCenter(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	other := start(t, vspheresim.Config{User: "root", Password: "secret"})
	vm := w.vm("DC0_C0_RP0_VM0")
	h := other.host("DC0_C0_H1").Reference()
	ds, _ := other.finder.Datastore(w.ctx, "LocalDS_0")
	d, f := ds.Reference(), other.vmFolder().Reference()
	u := other.sim.URL()
	spec := func(password string) types.VirtualMachineRelocateSpec {
		return types.VirtualMachineRelocateSpec{Host: &h, Datastore: &d, Folder: &f, Service: &types.ServiceLocator{
			InstanceUuid: other.client.ServiceContent.About.InstanceUuid, Url: (&url.URL{Scheme: u.Scheme, Host: u.Host}).String(),
			Credential: &types.ServiceLocatorNamePassword{Username: "root", Password: password},
		}}
	}
	task, err := vm.Relocate(w.ctx, spec("wrong"), types.VirtualMachineMovePriorityDefaultPriority)
	refused[*types.InvalidLogin](w, task, err)
	w.write(vm, "cargo")
	memory := w.memory(vm)
	w.done(vm.Relocate(w.ctx, spec("secret"), types.VirtualMachineMovePriorityDefaultPriority))
	moved := other.vm("DC0_C0_RP0_VM0")
	other.holds(moved, "cargo", "a move to another vCenter")
	if got := other.memory(moved); got != memory {
		t.Errorf("after a move to another vCenter the memory is %q, it was %q", got, memory)
	}
	if _, err := w.finder.VirtualMachine(w.ctx, "DC0_C0_RP0_VM0"); err == nil {
		t.Error("the source still has the machine")
	}
	p := other.props(other.vm("DC0_C0_RP0_VM0"))
	if p.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn || *p.Runtime.Host != h {
		t.Errorf("at the destination: %s on %v", p.Runtime.PowerState, p.Runtime.Host)
	}
}

func TestInstantClone(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	vm := w.vm("DC0_C0_RP0_VM0")
	base := disk(w, vm).FileName
	w.write(vm, "shared")
	res, err := methods.InstantClone_Task(w.ctx, w.client, &types.InstantClone_Task{This: vm.Reference(), Spec: types.VirtualMachineInstantCloneSpec{Name: "fork"}})
	if err != nil {
		t.Fatal(err)
	}
	w.done(object.NewTask(w.client.Client, res.Returnval), nil)
	fork := w.vm("fork")
	if p := w.props(fork); p.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
		t.Errorf("the clone is %s", p.Runtime.PowerState)
	}
	if a, b := disk(w, vm), disk(w, fork); a.Parent == nil || b.Parent == nil || a.Parent.FileName != base || b.Parent.FileName != base {
		t.Errorf("source on %+v, clone on %+v", a, b)
	}
	if a, b := w.memory(vm), w.memory(fork); a != b {
		t.Errorf("the clone has the memory %q, its source %q", b, a)
	}
	w.write(vm, "source")
	w.holds(fork, "shared", "a write to the source of an instant clone")
}
