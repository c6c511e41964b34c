package vspheresim

import (
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// vSphere HA. Hosts that fail are not simulated. The state that HA would report is shown, and what HA refuses is refused.

// das is the HA of a cluster, and whether it is on.
func (s *Sim) das(c *simulator.ClusterComputeResource) (*types.ClusterConfigInfoEx, bool) {
	cfg, ok := c.ConfigurationEx.(*types.ClusterConfigInfoEx)
	return cfg, ok && s.licensed(FeatureHA) && isTrue(cfg.DasConfig.Enabled)
}

// clusterOf is the cluster of a machine; nil where its host is in none.
func (s *Sim) clusterOf(m *mo.VirtualMachine) *simulator.ClusterComputeResource {
	if m.Runtime.Host == nil {
		return nil
	}
	h := s.host(*m.Runtime.Host)
	if h == nil || h.Parent == nil {
		return nil
	}
	return s.cluster(*h.Parent)
}

// protection: API reference VirtualMachineRuntimeInfo.dasVmProtection, "The vSphere HA protection state for a virtual machine.
// Property is unset if vSphere HA is not enabled." Believed: that a machine whose restart is disabled is not protected.
func (s *Sim) protection(m *mo.VirtualMachine) *types.VirtualMachineRuntimeInfoDasProtectionState {
	c := s.clusterOf(m)
	if c == nil {
		return nil
	}
	cfg, on := s.das(c)
	if !on {
		return nil
	}
	return &types.VirtualMachineRuntimeInfoDasProtectionState{
		DasProtected: m.Runtime.PowerState == poweredOn && restartPriority(cfg, m.Self) != string(types.ClusterDasVmSettingsRestartPriorityDisabled),
	}
}

// restartPriority: API reference ClusterDasVmSettings.restartPriority, "If not specified at either the cluster level or the
// virtual machine level, this will default to medium".
func restartPriority(cfg *types.ClusterConfigInfoEx, vm ref) string {
	for _, o := range cfg.DasVmConfig {
		if o.Key == vm && o.DasSettings != nil && o.DasSettings.RestartPriority != "" &&
			o.DasSettings.RestartPriority != string(types.ClusterDasVmSettingsRestartPriorityClusterRestartPriority) {
			return o.DasSettings.RestartPriority
		}
	}
	if d := cfg.DasConfig.DefaultVmSettings; d != nil && d.RestartPriority != "" {
		return d.RestartPriority
	}
	return string(types.ClusterDasVmSettingsRestartPriorityMedium)
}

// checkHA refuses what HA does not accept. API reference: ClusterDasVmConfigSpec; restart priorities are those of
// ClusterDasVmSettingsRestartPriority, "All values except for clusterRestartPriority are valid for the cluster-wide default";
// ArrayUpdateSpec.operation, add of a key that exists and edit or remove of one that does not are InvalidArgument (as in govmomi's simulator).
func (s *Sim) checkHA(c *simulator.ClusterComputeResource, spec *types.ClusterConfigSpecEx) types.BaseMethodFault {
	known := types.ClusterDasVmSettingsRestartPriority("").Strings()
	if d := spec.DasConfig; d != nil {
		if isTrue(d.Enabled) && !s.licensed(FeatureHA) {
			return restricted()
		}
		if v := d.DefaultVmSettings; v != nil && v.RestartPriority != "" && (!slices.Contains(known, v.RestartPriority) ||
			v.RestartPriority == string(types.ClusterDasVmSettingsRestartPriorityClusterRestartPriority)) {
			return invalid("spec.dasConfig.defaultVmSettings.restartPriority")
		}
		if p, ok := d.AdmissionControlPolicy.(*types.ClusterFailoverLevelAdmissionControlPolicy); ok && p.FailoverLevel < 1 {
			return invalid("spec.dasConfig.admissionControlPolicy.failoverLevel")
		}
	}
	cfg, _ := s.das(c)
	for _, o := range spec.DasVmConfigSpec {
		key, ok := o.RemoveKey.(ref)
		if o.Operation != types.ArrayUpdateOperationRemove {
			if o.Info == nil {
				return invalid("spec.dasVmConfigSpec.info")
			}
			if set := o.Info.DasSettings; set != nil && set.RestartPriority != "" && !slices.Contains(known, set.RestartPriority) {
				return invalid("spec.dasVmConfigSpec.info.dasSettings.restartPriority")
			}
			key, ok = o.Info.Key, true
		}
		vm := s.vm(key)
		there := slices.ContainsFunc(cfg.DasVmConfig, func(x types.ClusterDasVmConfigInfo) bool { return x.Key == key })
		if !ok || vm == nil || s.clusterOf(&vm.VirtualMachine) != c || there == (o.Operation == types.ArrayUpdateOperationAdd) {
			return invalid("spec.dasVmConfigSpec")
		}
	}
	return nil
}

// applyHA keeps what govmomi's simulator leaves out of a cluster's HA. An edited override is replaced as a whole (believed).
func (s *Sim) applyHA(cfg *types.ClusterConfigInfoEx, spec *types.ClusterConfigSpecEx) {
	if d := spec.DasConfig; d != nil {
		set := &cfg.DasConfig
		for _, f := range []struct{ to, from *string }{{&set.HostMonitoring, &d.HostMonitoring}, {&set.VmMonitoring, &d.VmMonitoring},
			{&set.VmComponentProtecting, &d.VmComponentProtecting}} {
			if *f.from != "" {
				*f.to = *f.from
			}
		}
		if d.FailoverLevel != 0 {
			set.FailoverLevel = d.FailoverLevel
		}
		if d.AdmissionControlPolicy != nil {
			set.AdmissionControlPolicy = d.AdmissionControlPolicy
		}
		if d.DefaultVmSettings != nil {
			set.DefaultVmSettings = d.DefaultVmSettings
		}
	}
	list := slices.Clone(cfg.DasVmConfig)
	for _, o := range spec.DasVmConfigSpec {
		key, remove := o.RemoveKey.(ref)
		if !remove {
			key = o.Info.Key
		}
		list = slices.DeleteFunc(list, func(x types.ClusterDasVmConfigInfo) bool { return x.Key == key })
		if !remove {
			list = append(list, *o.Info)
		}
	}
	cfg.DasVmConfig = list
}

// showHA makes the machines of a cluster report whether they are protected.
func (s *Sim) showHA(ctx *simulator.Context, c *simulator.ClusterComputeResource) {
	for _, vm := range s.allVMs() {
		if s.clusterOf(&vm.VirtualMachine) == c {
			s.mutate(ctx, vm, func() { s.derive(&vm.VirtualMachine) })
		}
	}
}

// forgetHA removes the override of a machine that leaves from its cluster's configuration (believed).
func (s *Sim) forgetHA(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	c := s.clusterOf(&vm.VirtualMachine)
	if c == nil {
		return
	}
	cfg, _ := s.das(c)
	mine := func(x types.ClusterDasVmConfigInfo) bool { return x.Key == vm.Self }
	if cfg == nil || !slices.ContainsFunc(cfg.DasVmConfig, mine) {
		return
	}
	s.lock(ctx, c, func() {
		before := clone(c.ClusterComputeResource)
		cfg.DasVmConfig = slices.DeleteFunc(slices.Clone(cfg.DasVmConfig), mine)
		s.announce(ctx, c, before)
	})
}

// slotMB is the minimum that a slot holds: the memory overhead of a machine without a reservation (made up; it depends on the machine's size).
const slotMB = 64

// admitFailover refuses a power-on that would leave too little room for the machines of hosts that fail. API reference:
// ClusterDasConfigInfo.admissionControlEnabled; ClusterFailoverLevelAdmissionControlPolicy, "A slot represents the minimum CPU and
// memory resources that are required to support any powered on virtual machine in the cluster", by the largest reservation;
// InsufficientFailoverResourcesFault. Only memory is counted here.
func (s *Sim) admitFailover(vm *simulator.VirtualMachine, c *types.VirtualMachineConfigInfo, h *simulator.HostSystem) types.BaseMethodFault {
	if h.Parent == nil || s.cluster(*h.Parent) == nil {
		return nil
	}
	cluster := s.cluster(*h.Parent)
	cfg, on := s.das(cluster)
	if !on || !isTrue(cfg.DasConfig.AdmissionControlEnabled) {
		return nil
	}
	p, ok := cfg.DasConfig.AdmissionControlPolicy.(*types.ClusterFailoverLevelAdmissionControlPolicy)
	if !ok {
		return nil
	}
	slot, running := max(slotMB, memoryReservation(c)), 1
	for _, x := range s.allVMs() {
		if x != vm && x.Runtime.PowerState == poweredOn && s.clusterOf(&x.VirtualMachine) == cluster {
			slot, running = max(slot, memoryReservation(x.Config)), running+1
		}
	}
	var room []int
	for _, r := range cluster.Host {
		if x := s.host(r); x != nil && usable(x) {
			room = append(room, int(x.Summary.Hardware.MemorySize>>20/slot))
		}
	}
	slices.Sort(room) // the hosts with most room are those that fail
	left := 0
	for _, n := range room[:max(0, len(room)-int(p.FailoverLevel))] {
		left += n
	}
	if running > left {
		return new(types.InsufficientFailoverResourcesFault)
	}
	return nil
}
