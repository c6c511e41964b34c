package vsphere

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

const (
	noClusterHA  = "vSphere HA belongs to clusters: the machine's host is in none"
	noClusters   = "there is no cluster: vSphere HA belongs to clusters"
	noBestEffort = "vSphere HA keeps room for every machine that it restarts: its least priority is low"
)

// priorities of vSphere (API reference, ClusterDasVmSettingsRestartPriority).
// "lowest" and "highest" are reported as low and high, and never set.
var priorities = map[string]hypervisor.RestartPriority{
	string(types.ClusterDasVmSettingsRestartPriorityDisabled): hypervisor.RestartNever,
	string(types.ClusterDasVmSettingsRestartPriorityLowest):   hypervisor.RestartLow,
	string(types.ClusterDasVmSettingsRestartPriorityLow):      hypervisor.RestartLow,
	string(types.ClusterDasVmSettingsRestartPriorityMedium):   hypervisor.RestartMedium,
	string(types.ClusterDasVmSettingsRestartPriorityHigh):     hypervisor.RestartHigh,
	string(types.ClusterDasVmSettingsRestartPriorityHighest):  hypervisor.RestartHigh,
}

var priorityNames = map[hypervisor.RestartPriority]string{
	hypervisor.RestartNever:  string(types.ClusterDasVmSettingsRestartPriorityDisabled),
	hypervisor.RestartLow:    string(types.ClusterDasVmSettingsRestartPriorityLow),
	hypervisor.RestartMedium: string(types.ClusterDasVmSettingsRestartPriorityMedium),
	hypervisor.RestartHigh:   string(types.ClusterDasVmSettingsRestartPriorityHigh),
}

// defaultPriority returns the default of a cluster: "If not specified at
// either the cluster level or the virtual machine level, this will default to
// medium" (API reference, ClusterDasVmSettings.restartPriority).
func defaultPriority(c types.ClusterDasConfigInfo) hypervisor.RestartPriority {
	if s := c.DefaultVmSettings; s != nil && priorities[s.RestartPriority] != "" {
		return priorities[s.RestartPriority]
	}
	return hypervisor.RestartMedium
}

// restarts reports whether HA restarts machines: host monitoring may be
// paused.
func restarts(c types.ClusterDasConfigInfo) bool {
	return c.Enabled != nil && *c.Enabled && c.HostMonitoring != string(types.ClusterDasConfigInfoServiceStateDisabled)
}

// failures is the number of host failures that admission control reserves
// room for (API reference, ClusterDasAdmissionControlPolicy and its kinds; if
// the number is left out it is 1).
func failures(c types.ClusterDasConfigInfo) int {
	if c.AdmissionControlEnabled == nil || !*c.AdmissionControlEnabled {
		return 0
	}
	switch p := c.AdmissionControlPolicy.(type) {
	case *types.ClusterFailoverLevelAdmissionControlPolicy:
		return int(p.FailoverLevel)
	case *types.ClusterFailoverResourcesAdmissionControlPolicy:
		return int(max(p.FailoverLevel, 1))
	case *types.ClusterFailoverHostAdmissionControlPolicy:
		return int(max(p.FailoverLevel, 1))
	}
	return int(c.FailoverLevel)
}

// HA reads the settings of all clusters in one call.
func (d *driver) HA(ctx context.Context) ([]hypervisor.HAInfo, error) {
	if err := d.haAllowed(ctx, hypervisor.Ref{}); err != nil {
		return nil, err
	}
	list, err := d.viewAll(ctx, "ClusterComputeResource", []string{"name", "configurationEx"})
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, hypervisor.Unsupported(hypervisor.Ref{}, capability.HighAvailability, hypervisor.ReasonConfig, noClusters)
	}
	var out []hypervisor.HAInfo
	for _, o := range list {
		p := props(o)
		c := get[types.ClusterConfigInfoEx](p, "configurationEx").DasConfig
		out = append(out, hypervisor.HAInfo{Pool: hypervisor.PoolID(o.Obj.Value), Name: unescape(p.str("name")),
			Enabled: restarts(c), FailuresToTolerate: failures(c), DefaultPriority: defaultPriority(c)})
	}
	slices.SortFunc(out, func(a, b hypervisor.HAInfo) int { return cmp.Compare(a.Pool, b.Pool) })
	return out, nil
}

// protection reads a machine and its cluster.
func (d *driver) protection(ctx context.Context, id hypervisor.VMID) (cluster ref, cfg types.ClusterConfigInfoEx, vm propMap, err error) {
	if err = d.haAllowed(ctx, id.Ref()); err != nil {
		return
	}
	if vm, err = d.one(ctx, vmRef(id), "runtime"); err != nil {
		return
	}
	host := get[types.VirtualMachineRuntimeInfo](vm, "runtime").Host
	if host == nil {
		err = hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the server does not report which host has the machine")
		return
	}
	p, err := d.one(ctx, *host, "parent")
	if err != nil {
		return
	}
	if cluster = p.ref("parent"); cluster.Type != "ClusterComputeResource" {
		err = hypervisor.Unsupported(id.Ref(), capability.HighAvailability, hypervisor.ReasonConfig, noClusterHA)
		return
	}
	if p, err = d.one(ctx, cluster, "configurationEx"); err != nil {
		return
	}
	return cluster, get[types.ClusterConfigInfoEx](p, "configurationEx"), vm, nil
}

func override(cfg types.ClusterConfigInfoEx, vm ref) *types.ClusterDasVmConfigInfo {
	for _, o := range cfg.DasVmConfig {
		if o.Key == vm {
			return &o
		}
	}
	return nil
}

// ownPriority returns the priority in an override. It is empty where the
// cluster's default applies.
func ownPriority(o *types.ClusterDasVmConfigInfo) hypervisor.RestartPriority {
	switch {
	case o == nil:
		return ""
	case o.DasSettings != nil && o.DasSettings.RestartPriority != "":
		return priorities[o.DasSettings.RestartPriority]
	}
	return priorities[string(o.RestartPriority)]
}

// Availability reads the override of the machine, or the cluster's default,
// and runtime.dasVmProtection.
func (d *driver) Availability(ctx context.Context, id hypervisor.VMID) (hypervisor.Availability, error) {
	_, cfg, vm, err := d.protection(ctx, id)
	if err != nil {
		return hypervisor.Availability{}, err
	}
	a := hypervisor.Availability{Priority: ownPriority(override(cfg, vmRef(id)))}
	if a.Priority == "" {
		a.Priority, a.Inherited = defaultPriority(cfg.DasConfig), true
	}
	run := get[types.VirtualMachineRuntimeInfo](vm, "runtime")
	a.Protected = restarts(cfg.DasConfig) && a.Priority != hypervisor.RestartNever &&
		run.PowerState == types.VirtualMachinePowerStatePoweredOn && run.DasVmProtection != nil && run.DasVmProtection.DasProtected
	return a, nil
}

// SetRestartPriority writes an override in the cluster's configuration. The
// other settings of the override stay.
func (d *driver) SetRestartPriority(ctx context.Context, id hypervisor.VMID, p hypervisor.RestartPriority) (hypervisor.DriverTask, error) {
	name, ok := priorityNames[p]
	if !ok {
		return nil, hypervisor.Unsupported(id.Ref(), capability.HighAvailability, hypervisor.ReasonPlatform, noBestEffort)
	}
	cluster, cfg, _, err := d.protection(ctx, id)
	if err != nil {
		return nil, err
	}
	change := types.ClusterDasVmConfigSpec{ArrayUpdateSpec: types.ArrayUpdateSpec{Operation: types.ArrayUpdateOperationAdd},
		Info: &types.ClusterDasVmConfigInfo{Key: vmRef(id)}}
	if o := override(cfg, vmRef(id)); o != nil {
		if ownPriority(o) == p {
			return hypervisor.DoneTask(newID("ha"), hypervisor.TaskState{Result: id.Ref()}), nil
		}
		change.Operation, change.Info = types.ArrayUpdateOperationEdit, o
	}
	settings := types.ClusterDasVmSettings{}
	if s := change.Info.DasSettings; s != nil {
		settings = *s
	}
	settings.RestartPriority = name
	change.Info.DasSettings, change.Info.RestartPriority = &settings, ""
	return d.start(ctx, id.Ref(), func(ctx context.Context) (ref, error) {
		return d.launch(ctx, cluster, "reconfigureEx", nil, func() (ref, error) {
			return taskOf(methods.ReconfigureComputeResource_Task(ctx, d.rt, &types.ReconfigureComputeResource_Task{This: cluster, Modify: true,
				Spec: &types.ClusterConfigSpecEx{DasVmConfigSpec: []types.ClusterDasVmConfigSpec{change}}}))
		})
	}, resulting(id.Ref()))
}

// haAllowed checks that HA is available: it needs a vCenter and a licence.
func (d *driver) haAllowed(ctx context.Context, on hypervisor.Ref) error {
	if !d.isVC() {
		return hypervisor.Unsupported(on, capability.HighAvailability, hypervisor.ReasonPlatform, needsVC)
	}
	r, err := d.licence(ctx)
	if err == nil && !r.has("das") {
		err = hypervisor.Unsupported(on, capability.HighAvailability, hypervisor.ReasonEdition, "vSphere HA is not in the edition "+strconv.Quote(r.edition))
	}
	return err
}

// haSupport reports the support for HA, which need not be on.
func (d *driver) haSupport(ctx context.Context) (hypervisor.Support, error) {
	err := d.haAllowed(ctx, hypervisor.Ref{})
	var u *hypervisor.UnsupportedError
	if errors.As(err, &u) {
		return u.Support, nil
	}
	if err != nil {
		return hypervisor.Support{}, err
	}
	list, err := d.viewAll(ctx, "ClusterComputeResource", []string{"name"})
	if err != nil {
		return hypervisor.Support{}, err
	}
	if len(list) == 0 {
		return no(hypervisor.ReasonConfig, noClusters), nil
	}
	return partly(hypervisor.ReasonPlatform, noBestEffort), nil
}
