package vspheresim_test

import (
	"testing"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

func TestHAOverrides(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	c, err := w.finder.ClusterComputeResource(w.ctx, "DC0_C0")
	if err != nil {
		t.Fatal(err)
	}
	vm := w.vm("DC0_C0_RP0_VM0")
	spec := func(op types.ArrayUpdateOperation, info *types.ClusterDasVmConfigInfo) *types.ClusterConfigSpecEx {
		return &types.ClusterConfigSpecEx{DasVmConfigSpec: []types.ClusterDasVmConfigSpec{{ArrayUpdateSpec: types.ArrayUpdateSpec{Operation: op}, Info: info}}}
	}
	with := func(priority string) *types.ClusterDasVmConfigInfo {
		return &types.ClusterDasVmConfigInfo{Key: vm.Reference(), DasSettings: &types.ClusterDasVmSettings{RestartPriority: priority}}
	}
	protected := func() *types.VirtualMachineRuntimeInfoDasProtectionState { return w.props(vm).Runtime.DasVmProtection }
	for what, s := range map[string]*types.ClusterConfigSpecEx{
		"edit of none":     spec(types.ArrayUpdateOperationEdit, with("low")),
		"no info":          spec(types.ArrayUpdateOperationAdd, nil),
		"unknown priority": spec(types.ArrayUpdateOperationAdd, with("soon")),
		"a default that refers to itself": {DasConfig: &types.ClusterDasConfigInfo{
			DefaultVmSettings: &types.ClusterDasVmSettings{RestartPriority: "clusterRestartPriority"}}},
	} {
		t.Run(what, func(t *testing.T) {
			task, err := c.Reconfigure(w.ctx, s, true)
			refused[*types.InvalidArgument](w, task, err)
		})
	}
	if p := protected(); p != nil {
		t.Errorf("without HA a machine has the protection %+v", p)
	}
	w.done(c.Reconfigure(w.ctx, &types.ClusterConfigSpecEx{DasConfig: &types.ClusterDasConfigInfo{Enabled: types.NewBool(true)}}, true))
	if p := protected(); p == nil || !p.DasProtected {
		t.Errorf("with HA a running machine has the protection %+v", p)
	}
	w.done(c.Reconfigure(w.ctx, spec(types.ArrayUpdateOperationAdd, with("disabled")), true))
	if p := protected(); p == nil || p.DasProtected {
		t.Errorf("a machine that is not restarted has the protection %+v", p)
	}
	task, err := c.Reconfigure(w.ctx, spec(types.ArrayUpdateOperationAdd, with("low")), true)
	refused[*types.InvalidArgument](w, task, err)
	w.done(vm.PowerOff(w.ctx))
	w.done(vm.Destroy(w.ctx))
	var m mo.ClusterComputeResource
	w.read(c, &m, "configurationEx")
	if l := m.ConfigurationEx.(*types.ClusterConfigInfoEx).DasVmConfig; len(l) != 0 {
		t.Errorf("overrides of a machine that is gone: %+v", l)
	}
}

func TestEssentialsHaveNoHA(t *testing.T) {
	w := start(t, vspheresim.Config{Edition: vspheresim.Essentials})
	c, err := w.finder.ClusterComputeResource(w.ctx, "DC0_C0")
	if err != nil {
		t.Fatal(err)
	}
	task, err := c.Reconfigure(w.ctx, &types.ClusterConfigSpecEx{DasConfig: &types.ClusterDasConfigInfo{Enabled: types.NewBool(true)}}, true)
	refused[*types.RestrictedVersion](w, task, err)
}
