package vspheresim_test

import (
	"testing"

	"github.com/vmware/govmomi/license"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

func TestStandAloneHostHasNoCloneOrMigration(t *testing.T) {
	w := start(t, vspheresim.Config{Model: vspheresim.ESXi, VMs: 1})
	list, err := w.finder.VirtualMachineList(w.ctx, "*")
	if err != nil || len(list) != 1 {
		t.Fatalf("%d machines, %v", len(list), err)
	}
	vm := list[0]
	_, err = vm.Clone(w.ctx, w.vmFolder(), "copy", types.VirtualMachineCloneSpec{})
	isFault[*types.NotSupported](w, err)
	_, err = vm.Relocate(w.ctx, types.VirtualMachineRelocateSpec{}, types.VirtualMachineMovePriorityDefaultPriority)
	isFault[*types.NotSupported](w, err)
	w.done(vm.CreateSnapshot(w.ctx, "s", "", true, false))
	w.done(vm.PowerOff(w.ctx))
	isFault[*types.NotSupported](w, vm.MarkAsTemplate(w.ctx))
	w.done(vm.RevertToSnapshot(w.ctx, "s", false))
	if p := w.props(vm); p.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
		t.Errorf("after revert: %s", p.Runtime.PowerState)
	}
	w.done(vm.PowerOff(w.ctx))
	w.done(vm.Destroy(w.ctx))
}

func TestRegisterFindsAMachineAgain(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	vm := w.vm("DC0_C0_RP0_VM0")
	isFault[*types.InvalidPowerState](w, vm.Unregister(w.ctx))
	w.done(vm.PowerOff(w.ctx))
	w.done(vm.Reconfigure(w.ctx, types.VirtualMachineConfigSpec{Annotation: "kept", NumCPUs: 3}))
	w.done(vm.CreateSnapshot(w.ctx, "kept", "", false, false))
	path := w.props(vm).Config.Files.VmPathName
	pool, _ := w.finder.ResourcePool(w.ctx, "*/Resources")
	task, err := w.vmFolder().RegisterVM(w.ctx, path, "", false, pool, nil)
	refused[*types.AlreadyExists](w, task, err)
	if err := vm.Unregister(w.ctx); err != nil {
		t.Fatal(err)
	}
	task, err = w.vmFolder().RegisterVM(w.ctx, "[LocalDS_0] nothing/nothing.vmx", "", false, pool, nil)
	refused[*types.NotFound](w, task, err)
	w.done(w.vmFolder().RegisterVM(w.ctx, path, "again", false, pool, nil))
	if p := w.props(w.vm("again")); p.Config.Annotation != "kept" || p.Config.Hardware.NumCPU != 3 {
		t.Errorf("%+v", p.Summary.Config)
	}
	w.done(w.vm("again").RevertToSnapshot(w.ctx, "kept", false))
}

func TestLicenceSaysWhatTheEditionHas(t *testing.T) {
	for edition, want := range map[string]bool{vspheresim.EnterprisePlus: true, vspheresim.Standard: false} {
		w := start(t, vspheresim.Config{Edition: edition})
		list, err := license.NewManager(w.client.Client).List(w.ctx)
		if err != nil || len(list) != 1 {
			t.Fatalf("%d licences, %v", len(list), err)
		}
		drs := false
		for _, p := range list[0].Properties {
			if kv, ok := p.Value.(types.KeyValue); ok && kv.Key == vspheresim.FeatureDRS {
				drs = true
			}
		}
		if drs != want {
			t.Errorf("%s: DRS %v", edition, drs)
		}
	}
	if _, err := vspheresim.Start(vspheresim.Config{Edition: "gold"}); err == nil {
		t.Error("an edition that does not exist was accepted")
	}
}

func TestHostFacts(t *testing.T) {
	w := start(t, vspheresim.Config{HostCores: 32, HostMemoryMB: 262144})
	var h mo.HostSystem
	w.read(w.host("DC0_C0_H0"), &h, "hardware", "summary", "capability", "config")
	if h.Hardware.CpuInfo.NumCpuThreads != 64 || h.Hardware.MemorySize != 256<<30 || h.Hardware.NumaInfo.NumNodes != 2 {
		t.Errorf("hardware %+v", h.Hardware.CpuInfo)
	}
	if h.Capability.MaxSupportedVcpus != 768 || len(h.Config.FeatureCapability) == 0 || len(h.Config.PciPassthruInfo) != len(h.Hardware.PciDevice) {
		t.Errorf("%d vCPUs, %d features, %d of %d devices", h.Capability.MaxSupportedVcpus, len(h.Config.FeatureCapability),
			len(h.Config.PciPassthruInfo), len(h.Hardware.PciDevice))
	}
	var c mo.ClusterComputeResource
	cl, _ := w.finder.ClusterComputeResource(w.ctx, "DC0_C0")
	w.read(cl, &c, "summary")
	if s := c.Summary.GetComputeResourceSummary(); s.NumEffectiveHosts != 3 || s.TotalMemory != 3*256<<30 {
		t.Errorf("summary %+v", s)
	}
}
