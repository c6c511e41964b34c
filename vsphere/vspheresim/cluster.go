package vspheresim

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// clusterFront answers the calls on clusters.
type clusterFront struct{ receiver }

func (s *Sim) cluster(r ref) *simulator.ClusterComputeResource {
	c, _ := s.registry().Get(r).(*simulator.ClusterComputeResource)
	return c
}

// drs returns the behaviour of a cluster's DRS. The edition decides whether there is DRS at all.
func (s *Sim) drs(c *simulator.ClusterComputeResource) (types.DrsBehavior, bool) {
	cfg, ok := c.ConfigurationEx.(*types.ClusterConfigInfoEx)
	if !ok || !s.licensed(FeatureDRS) || !isTrue(cfg.DrsConfig.Enabled) {
		return "", false
	}
	b := cfg.DrsConfig.DefaultVmBehavior
	if b == "" {
		b = types.DrsBehaviorFullyAutomated
	}
	return b, true
}

// ReconfigureComputeResourceTask refuses to switch DRS or HA on without the licence for it, keeps the settings of HA, and otherwise passes the call
// to govmomi's simulator.
func (f *clusterFront) ReconfigureComputeResourceTask(ctx *simulator.Context, req *types.ReconfigureComputeResource_Task) soap.HasFault {
	s := f.sim
	return &methods.ReconfigureComputeResource_TaskBody{Res: &types.ReconfigureComputeResource_TaskResponse{Returnval: s.start(ctx, job{
		method: "ReconfigureComputeResource_Task", id: "ComputeResource.reconfigureEx", entity: req.This, owns: []ref{req.This},
		check: func() types.BaseMethodFault {
			if s.cluster(req.This) == nil {
				return new(types.NotSupported)
			}
			spec, ok := req.Spec.(*types.ClusterConfigSpecEx)
			if !ok {
				return invalid("spec")
			}
			if spec.DrsConfig != nil && isTrue(spec.DrsConfig.Enabled) && !s.licensed(FeatureDRS) {
				return restricted()
			}
			if fault := s.checkHA(s.cluster(req.This), spec); fault != nil {
				return fault
			}
			return checkClusterSpec(spec)
		},
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			c, spec := s.cluster(req.This), req.Spec.(*types.ClusterConfigSpecEx)
			before := clone(c.ClusterComputeResource)
			rest := *spec
			rest.DasVmConfigSpec = nil // it crashes on overrides without settings
			body := c.ReconfigureComputeResourceTask(ctx, &types.ReconfigureComputeResource_Task{This: req.This, Spec: &rest, Modify: req.Modify})
			res, fault := s.native(ctx, body, func() ref { return body.(*methods.ReconfigureComputeResource_TaskBody).Res.Returnval })
			s.lock(ctx, c, func() {
				if cfg, _ := s.das(c); fault == nil && cfg != nil {
					s.applyHA(cfg, spec)
				}
				s.announce(ctx, c, before)
			})
			if fault == nil && (spec.DasConfig != nil || len(spec.DasVmConfigSpec) > 0) {
				s.showHA(ctx, c)
			}
			return res, fault
		},
	})}}
}

// checkClusterSpec refuses specifications on which govmomi's simulator would crash.
func checkClusterSpec(spec *types.ClusterConfigSpecEx) types.BaseMethodFault {
	for _, r := range spec.RulesSpec {
		if r.Operation == types.ArrayUpdateOperationRemove {
			if _, ok := r.RemoveKey.(int32); !ok {
				return invalid("spec.rulesSpec.removeKey")
			}
		} else if r.Info == nil {
			return invalid("spec.rulesSpec.info")
		}
	}
	for _, g := range spec.GroupSpec {
		if g.Operation == types.ArrayUpdateOperationRemove {
			if _, ok := g.RemoveKey.(string); !ok {
				return invalid("spec.groupSpec.removeKey")
			}
		} else if g.Info == nil {
			return invalid("spec.groupSpec.info")
		}
	}
	return nil
}

// load returns the share of its memory that the running machines of a host use, in thousandths. Which numbers DRS weighs is not documented; this is a
// substitute that puts machines where there is most room.
func (s *Sim) load(h *simulator.HostSystem) int64 {
	var mb int64
	for _, r := range h.Vm {
		if vm := s.vm(r); vm != nil && vm.Runtime.PowerState == poweredOn {
			mb += int64(vm.Config.Hardware.MemoryMB)
		}
	}
	return mb * 1000 / max(h.Summary.Hardware.MemorySize>>20, 1)
}

// RecommendHostsForVm: API reference ClusterComputeResource.RecommendHostsForVm, "Gets a recommendation for where to power on, resume, revert from
// powered-off state to powered on state, or to migrate a specific virtual machine. If no host is found, an empty list is returned"; rating is from 1 to 5.
func (f *clusterFront) RecommendHostsForVm(_ *simulator.Context, req *types.RecommendHostsForVm) soap.HasFault {
	s, body := f.sim, new(methods.RecommendHostsForVmBody)
	s.mu.Lock()
	defer s.mu.Unlock()
	c, vm := s.cluster(req.This), s.vm(req.Vm)
	if c == nil || vm == nil {
		body.Fault_ = soapFault(&types.ManagedObjectNotFound{Obj: req.Vm})
		return body
	}
	body.Res = new(types.RecommendHostsForVmResponse)
	var hosts []*simulator.HostSystem
	for _, r := range c.Host {
		if h := s.host(r); h != nil && s.fits(vm, h) {
			hosts = append(hosts, h)
		}
	}
	slices.SortStableFunc(hosts, func(a, b *simulator.HostSystem) int { return cmp.Compare(s.load(a), s.load(b)) })
	for i, h := range hosts {
		body.Res.Returnval = append(body.Res.Returnval, types.ClusterHostRecommendation{Host: h.Self, Rating: int32(max(1, 5-i))})
	}
	return body
}

// fits reports whether a machine could run on a host.
func (s *Sim) fits(vm *simulator.VirtualMachine, h *simulator.HostSystem) bool {
	if h.Self == *vm.Runtime.Host {
		return usable(h) && (vm.Runtime.PowerState == poweredOn || s.admit(vm, vm.Config, h) == nil)
	}
	pool := s.placeOf(vm).pool
	if c := s.computeOfHost(h); c != nil && !has(c.Host, *vm.Runtime.Host) && c.ResourcePool != nil {
		pool = *c.ResourcePool
	}
	m, fault := s.planMove(vm, &types.VirtualMachineRelocateSpec{Host: &h.Self, Pool: &pool})
	return fault == nil && s.checkMove(vm, m).first() == nil && (vm.Runtime.PowerState == poweredOn || s.admit(vm, vm.Config, h) == nil)
}

// RefreshRecommendation: API reference ClusterComputeResource.RefreshRecommendation, "Make DRS invoke again and return a new list of
// recommendations".
func (f *clusterFront) RefreshRecommendation(ctx *simulator.Context, req *types.RefreshRecommendation) soap.HasFault {
	s, body := f.sim, new(methods.RefreshRecommendationBody)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cluster(req.This)
	if _, on := s.drs(c); !on {
		body.Fault_ = soapFault(new(types.InvalidState))
		return body
	}
	s.recommend(s.fork(ctx), c)
	body.Res = new(types.RefreshRecommendationResponse)
	return body
}

// recommend plans moves from the fullest host to the emptiest one until no move evens out the load any more.
func (s *Sim) recommend(ctx *simulator.Context, c *simulator.ClusterComputeResource) {
	var drs []types.ClusterDrsRecommendation
	var list []types.ClusterRecommendation
	moved := map[ref]bool{}
	loads := map[ref]int64{}
	for _, r := range c.Host {
		if h := s.host(r); h != nil && usable(h) {
			loads[r] = s.load(h)
		}
	}
	for range 16 {
		vm, from, to := s.bestMove(c, loads, moved)
		if vm == nil {
			break
		}
		w := int64(vm.Config.Hardware.MemoryMB) * 1000 / max(s.host(from).Summary.Hardware.MemorySize>>20, 1)
		loads[from] -= w
		loads[to] += w
		moved[vm.Self] = true
		key := fmt.Sprintf("%d", len(list)+1)
		mig := types.ClusterDrsMigration{Key: key, Time: time.Now(), Vm: vm.Self, Source: from, Destination: to, MemoryLoad: int64(vm.Config.Hardware.MemoryMB)}
		drs = append(drs, types.ClusterDrsRecommendation{Key: key, Rating: 3, Reason: string(types.RecommendationReasonCodeFairnessMemAvg),
			ReasonText: "Balance average memory loads", MigrationList: []types.ClusterDrsMigration{mig}})
		act := &types.ClusterMigrationAction{DrsMigration: &mig}
		act.Type, act.Target = "MigrationV1", &vm.Self
		list = append(list, types.ClusterRecommendation{Key: key, Type: "V1", Time: time.Now(), Rating: 3, Target: &c.Self,
			Reason: string(types.RecommendationReasonCodeFairnessMemAvg), ReasonText: "Balance average memory loads", Action: []types.BaseClusterAction{act}})
	}
	s.mutate(ctx, c, func() { c.DrsRecommendation, c.Recommendation = drs, list })
}

// bestMove is the machine whose move makes the difference between the fullest and the emptiest host smaller.
func (s *Sim) bestMove(c *simulator.ClusterComputeResource, loads map[ref]int64, moved map[ref]bool) (*simulator.VirtualMachine, ref, ref) {
	var from, to ref
	for _, r := range c.Host {
		l, ok := loads[r]
		if !ok {
			continue
		}
		if from.Value == "" || l > loads[from] {
			from = r
		}
		if to.Value == "" || l < loads[to] {
			to = r
		}
	}
	if from == to || from.Value == "" {
		return nil, from, to
	}
	var best *simulator.VirtualMachine
	gap := loads[from] - loads[to]
	for _, r := range s.host(from).Vm {
		vm := s.vm(r)
		if vm == nil || moved[r] || vm.Runtime.PowerState != poweredOn {
			continue
		}
		w := int64(vm.Config.Hardware.MemoryMB) * 1000 / max(s.host(from).Summary.Hardware.MemorySize>>20, 1)
		if w <= 0 || w*2 > gap+1 || !s.fits(vm, s.host(to)) {
			continue
		}
		if best == nil || vm.Config.Hardware.MemoryMB > best.Config.Hardware.MemoryMB {
			best = vm
		}
	}
	return best, from, to
}

// ApplyRecommendation: API reference ClusterComputeResource.ApplyRecommendation, key "The key field of the Recommendation"; InvalidArgument (believed)
// for one that is not there. The moves are tasks of their own.
func (f *clusterFront) ApplyRecommendation(ctx *simulator.Context, req *types.ApplyRecommendation) soap.HasFault {
	s, body := f.sim, new(methods.ApplyRecommendationBody)
	s.mu.Lock()
	c := s.cluster(req.This)
	var moves []types.ClusterDrsMigration
	var rest []types.ClusterDrsRecommendation
	for _, r := range c.DrsRecommendation {
		if r.Key == req.Key {
			moves = append(moves, r.MigrationList...)
		} else {
			rest = append(rest, r)
		}
	}
	if len(moves) > 0 {
		keep := slices.DeleteFunc(slices.Clone(c.Recommendation), func(r types.ClusterRecommendation) bool { return r.Key == req.Key })
		s.mutate(s.fork(ctx), c, func() { c.DrsRecommendation, c.Recommendation = rest, keep })
	}
	s.mu.Unlock()
	if len(moves) == 0 {
		body.Fault_ = soapFault(invalid("key"))
		return body
	}
	for _, m := range moves {
		s.start(ctx, s.moveJob("MigrateVM_Task", "migrate", m.Vm, &types.VirtualMachineRelocateSpec{Host: &m.Destination}, ""))
	}
	body.Res = new(types.ApplyRecommendationResponse)
	return body
}

// PlaceVm: API reference ClusterComputeResource.PlaceVm; InvalidArgument, InvalidState, and no recommendation where there is no host.
func (f *clusterFront) PlaceVm(ctx *simulator.Context, req *types.PlaceVm) soap.HasFault {
	s, body := f.sim, new(methods.PlaceVmBody)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cluster(req.This)
	spec := &req.PlacementSpec
	if _, on := s.drs(c); !on {
		body.Fault_ = soapFault(new(types.InvalidState))
		return body
	}
	kind := types.PlacementSpecPlacementType(spec.PlacementType)
	var vm *simulator.VirtualMachine
	if spec.Vm != nil {
		vm = s.vm(*spec.Vm)
	}
	if vm == nil && kind != types.PlacementSpecPlacementTypeCreate {
		body.Fault_ = soapFault(invalid("placementSpec.vm"))
		return body
	}
	hosts := spec.Hosts
	if len(hosts) == 0 {
		hosts = c.Host
	}
	var best *simulator.HostSystem
	for _, r := range hosts {
		h := s.host(r)
		if h == nil || !usable(h) || vm != nil && kind != types.PlacementSpecPlacementTypeClone && !s.fits(vm, h) {
			continue
		}
		if best == nil || s.load(h) < s.load(best) {
			best = h
		}
	}
	body.Res = new(types.PlaceVmResponse)
	if best == nil {
		return body
	}
	rs := &types.VirtualMachineRelocateSpec{Host: &best.Self, Pool: c.ResourcePool}
	stores := spec.Datastores
	if len(stores) == 0 {
		stores = best.Datastore
	}
	if vm != nil && kind != types.PlacementSpecPlacementTypeClone {
		p := s.placeOf(vm)
		stores = []ref{p.datastore}
	}
	var roomy *simulator.Datastore
	for _, r := range stores {
		if d := s.datastore(r); d != nil && (roomy == nil || d.Summary.FreeSpace > roomy.Summary.FreeSpace) {
			roomy = d
		}
	}
	if roomy != nil {
		rs.Datastore = &roomy.Self
	}
	act := &types.PlacementAction{Vm: spec.Vm, TargetHost: &best.Self, RelocateSpec: rs}
	act.Type = "PlacementV1"
	body.Res.Returnval.Recommendations = []types.ClusterRecommendation{{
		Key: "1", Type: "V1", Time: time.Now(), Rating: 5, Target: &c.Self,
		Reason: string(types.RecommendationReasonCodeXvmotionPlacement), ReasonText: "Placement", Action: []types.BaseClusterAction{act},
	}}
	return body
}
