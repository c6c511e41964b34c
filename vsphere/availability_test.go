package vsphere

import (
	"errors"
	"testing"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// setHA configures the HA of a simulator's cluster by govmomi alone, and returns the cluster.
func setHA(t hypervisortest.T, sim *vspheresim.Sim, spec types.ClusterConfigSpecEx) *object.ClusterComputeResource {
	t.Helper()
	ctx := t.Context()
	g, err := govmomi.NewClient(ctx, sim.URL(), true)
	if err != nil {
		t.Fatalf("govmomi: %v", err)
	}
	t.Cleanup(g.CloseIdleConnections)
	c, err := find.NewFinder(g.Client).ClusterComputeResource(ctx, "/DC0/host/DC0_C0")
	if err != nil {
		t.Fatalf("find the cluster: %v", err)
	}
	task, err := c.Reconfigure(ctx, &spec, true)
	if err == nil {
		err = task.Wait(ctx)
	}
	if err != nil {
		t.Fatalf("configure the cluster: %v", err)
	}
	return c
}

func haOn(level int32) types.ClusterConfigSpecEx {
	return types.ClusterConfigSpecEx{DasConfig: &types.ClusterDasConfigInfo{Enabled: types.NewBool(true), AdmissionControlEnabled: types.NewBool(true),
		AdmissionControlPolicy: &types.ClusterFailoverLevelAdmissionControlPolicy{FailoverLevel: level}}}
}

// TestHA reads what vSphere's own clients set, and sets what they read.
func TestHA(t *testing.T) {
	sim, c := once(t, vspheresim.Config{VMs: 1})
	ctx := t.Context()
	first := func() hypervisor.HAInfo {
		t.Helper()
		l, err := hypervisor.Collect(c.HA(ctx))
		if err != nil || len(l) != 1 {
			t.Fatalf("HA lists %v (%v), want one cluster", l, err)
		}
		return l[0]
	}
	if h := first(); h.Enabled || h.FailuresToTolerate != 0 || h.Name != "DC0_C0" || h.DefaultPriority != hypervisor.RestartMedium {
		t.Errorf("off, HA is %+v", h)
	}
	on := haOn(1)
	on.DasConfig.DefaultVmSettings = &types.ClusterDasVmSettings{RestartPriority: "highest"}
	cluster := setHA(t, sim, on)
	if h := first(); !h.Enabled || h.FailuresToTolerate != 1 || h.DefaultPriority != hypervisor.RestartHigh {
		t.Errorf("HA is %+v", h)
	}
	for want, p := range map[int]types.BaseClusterDasAdmissionControlPolicy{
		2: &types.ClusterFailoverLevelAdmissionControlPolicy{FailoverLevel: 2},
		1: &types.ClusterFailoverResourcesAdmissionControlPolicy{CpuFailoverResourcesPercent: 25, MemoryFailoverResourcesPercent: 25},
		3: &types.ClusterFailoverHostAdmissionControlPolicy{FailoverLevel: 3},
	} {
		setHA(t, sim, types.ClusterConfigSpecEx{DasConfig: &types.ClusterDasConfigInfo{AdmissionControlPolicy: p}})
		if h := first(); h.FailuresToTolerate != want {
			t.Errorf("with %T HA tolerates %d failures, want %d", p, h.FailuresToTolerate, want)
		}
	}

	vm := firstVM(t, c, "DC0_C0")
	is := func(want hypervisor.Availability) {
		t.Helper()
		if a, err := vm.Availability(ctx); err != nil || a != want {
			t.Errorf("Availability is %+v (%v), want %+v", a, err, want)
		}
	}
	is(hypervisor.Availability{Priority: hypervisor.RestartHigh, Inherited: true, Protected: true})
	// What another client set beside the priority stays.
	self := vmRef(vm.ID())
	override := func(op types.ArrayUpdateOperation, s types.ClusterDasVmSettings) {
		t.Helper()
		setHA(t, sim, types.ClusterConfigSpecEx{DasVmConfigSpec: []types.ClusterDasVmConfigSpec{{ArrayUpdateSpec: types.ArrayUpdateSpec{Operation: op},
			Info: &types.ClusterDasVmConfigInfo{Key: self, DasSettings: &s}}}})
	}
	override(types.ArrayUpdateOperationAdd, types.ClusterDasVmSettings{RestartPriority: "clusterRestartPriority", IsolationResponse: "shutdown"})
	is(hypervisor.Availability{Priority: hypervisor.RestartHigh, Inherited: true, Protected: true})
	override(types.ArrayUpdateOperationEdit, types.ClusterDasVmSettings{RestartPriority: "lowest", IsolationResponse: "shutdown"})
	is(hypervisor.Availability{Priority: hypervisor.RestartLow, Protected: true})
	if _, err := vm.SetRestartPriority(ctx, hypervisor.RestartNever).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	is(hypervisor.Availability{Priority: hypervisor.RestartNever})
	var m mo.ClusterComputeResource
	if err := cluster.Properties(ctx, cluster.Reference(), []string{"configurationEx"}, &m); err != nil {
		t.Fatal(err)
	}
	l := m.ConfigurationEx.(*types.ClusterConfigInfoEx).DasVmConfig
	if len(l) != 1 || l[0].Key != self || l[0].DasSettings.RestartPriority != "disabled" || l[0].DasSettings.IsolationResponse != "shutdown" {
		t.Errorf("the cluster's overrides are %+v", l)
	}
	// Monitoring that is paused restarts nothing.
	setHA(t, sim, types.ClusterConfigSpecEx{DasConfig: &types.ClusterDasConfigInfo{HostMonitoring: "disabled"}})
	if _, err := vm.SetRestartPriority(ctx, hypervisor.RestartHigh).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	is(hypervisor.Availability{Priority: hypervisor.RestartHigh})
	if first().Enabled {
		t.Error("HA without monitoring of hosts is reported as enabled")
	}
}

// TestHARefused: a host outside of clusters and an edition without HA are refused, with the reason that Supports gives; a
// power-on that HA has no room for is exhaustion.
func TestHARefused(t *testing.T) {
	t.Run("no cluster", func(t *testing.T) {
		_, c := once(t, vspheresim.Config{VMs: 1, StandaloneHosts: 1})
		vm := firstVM(t, c, "DC0_H0")
		refusedFor(t, vm, hypervisor.ReasonConfig)
		if s, err := c.Supports(t.Context(), capability.HighAvailability, vm.ID().Ref()); err != nil || s.Level != hypervisor.LevelNo || s.Reason != hypervisor.ReasonConfig {
			t.Errorf("Supports: %+v (%v)", s, err)
		}
	})
	t.Run("edition", func(t *testing.T) {
		_, c := once(t, vspheresim.Config{VMs: 1, Edition: vspheresim.Essentials})
		refusedFor(t, firstVM(t, c, "DC0_C0"), hypervisor.ReasonEdition)
		if _, err := hypervisor.Collect(c.HA(t.Context())); !errors.Is(err, hypervisor.ErrLicense) {
			t.Errorf("HA: %v", err)
		}
	})
	t.Run("no room", func(t *testing.T) {
		sim, c := once(t, vspheresim.Config{HostsPerCluster: 2, HostMemoryMB: 4096})
		setHA(t, sim, haOn(1))
		s := spec("big")
		s.MemoryBytes, s.Start = 3*hypervisor.GiB, true
		s.DynamicMemory = &hypervisor.MemoryRange{MinBytes: s.MemoryBytes, MaxBytes: s.MemoryBytes}
		if _, err := c.CreateVM(t.Context(), s).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.Name = "second"
		_, err := c.CreateVM(t.Context(), s).Wait(t.Context())
		if !errors.Is(err, hypervisor.ErrExhausted) {
			t.Errorf("ended with %v (kind %s), want exhausted", err, hypervisor.KindOf(err))
		}
		leftOff(t, c, "second", err)
	})
}

func refusedFor(t *testing.T, vm *hypervisor.VM, why hypervisor.ReasonCode) {
	t.Helper()
	_, err := vm.SetRestartPriority(t.Context(), hypervisor.RestartLow).Wait(t.Context())
	_, rerr := vm.Availability(t.Context())
	for _, err := range []error{err, rerr} {
		var u *hypervisor.UnsupportedError
		if !errors.As(err, &u) || u.Support.Reason != why {
			t.Errorf("%v, want unsupported for %s", err, why)
		}
	}
}
