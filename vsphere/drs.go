package vsphere

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Recommend asks DRS for an existing machine. A machine that does not exist
// yet goes to the host with the most free memory.
func (d *driver) Recommend(ctx context.Context, r hypervisor.PlaceRequest) ([]hypervisor.Recommendation, error) {
	w, err := d.world(ctx)
	if err != nil {
		return nil, err
	}
	var out []hypervisor.Recommendation
	if r.VM != "" {
		v, err := d.GetVM(ctx, r.VM)
		if err != nil {
			return nil, err
		}
		if c := w.computeOf(hostRef(v.Host)); c != nil && c.drs {
			res, err := methods.RecommendHostsForVm(ctx, d.rt, &types.RecommendHostsForVm{This: c.self, Vm: vmRef(r.VM), Pool: &c.pool})
			if err != nil && kindOf(err) != hypervisor.ErrUnsupported {
				return nil, err
			}
			if err == nil {
				for _, h := range res.Returnval {
					// Ratings are one to five stars.
					out = append(out, hypervisor.Recommendation{Host: hypervisor.HostID(h.Host.Value), Score: min(max(float64(h.Rating)/5, 0), 1),
						Reason: fmt.Sprintf("DRS gives it %d of 5", h.Rating), Native: true})
				}
			}
		}
		r.CPUs, r.MemoryBytes = v.CPUs, v.MemoryBytes
	}
	if len(out) == 0 {
		if out, err = d.byMemory(ctx, w, r); err != nil {
			return nil, err
		}
	}
	if r.Datastore != "" {
		if _, ok := w.stores[storeRef(r.Datastore)]; !ok {
			return nil, notFound(r.Datastore.Ref())
		}
		out = slices.DeleteFunc(out, func(x hypervisor.Recommendation) bool {
			return !slices.Contains(w.hosts[hostRef(x.Host)].stores, storeRef(r.Datastore))
		})
	}
	if r.Device != nil {
		q := *r.Device
		devs, err := d.Devices(ctx, hypervisor.DeviceFilter{ID: q.ID, Vendor: q.Vendor, Product: q.Product, Class: q.Class, Profile: q.Profile, Assignable: true})
		if q.VirtualFunction {
			devs = slices.DeleteFunc(devs, func(v hypervisor.DeviceInfo) bool { return v.VFs == 0 })
		}
		if err != nil {
			return nil, err
		}
		out = slices.DeleteFunc(out, func(x hypervisor.Recommendation) bool {
			return !slices.ContainsFunc(devs, func(v hypervisor.DeviceInfo) bool { return v.Host == x.Host })
		})
	}
	if len(out) == 0 {
		return nil, hypervisor.Errorf(hypervisor.ErrExhausted, hypervisor.Ref{Kind: hypervisor.ObjectClient}, "no host has room for %d CPUs and %d MiB and has whatever else was requested",
			r.CPUs, r.MemoryBytes/hypervisor.MiB)
	}
	slices.SortStableFunc(out, func(a, b hypervisor.Recommendation) int { return cmp.Compare(b.Score, a.Score) })
	return out, nil
}

func (d *driver) byMemory(ctx context.Context, w *world, r hypervisor.PlaceRequest) ([]hypervisor.Recommendation, error) {
	hosts, err := d.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	var out []hypervisor.Recommendation
	for _, h := range hosts {
		left := h.FreeBytes - r.MemoryBytes
		if h.State != hypervisor.HostUp || left < 0 || r.CPUs > h.CPU.Threads || !w.hosts[hostRef(h.ID)].up {
			continue
		}
		out = append(out, hypervisor.Recommendation{Host: h.ID, Score: min(float64(left)/float64(max(h.MemoryBytes, 1)), 1),
			Reason: fmt.Sprintf("%d MiB of memory left over", left/hypervisor.MiB)})
	}
	return out, nil
}

// BalancePlan makes DRS check every cluster again and returns the moves that
// it recommends.
func (d *driver) BalancePlan(ctx context.Context) ([]hypervisor.Move, error) {
	list, err := d.computes(ctx)
	if err != nil {
		return nil, err
	}
	var out []hypervisor.Move
	for _, c := range list {
		if !c.drs {
			continue
		}
		if _, err := methods.RefreshRecommendation(ctx, d.rt, &types.RefreshRecommendation{This: c.self}); err != nil {
			if kindOf(err) == hypervisor.ErrUnsupported {
				continue
			}
			return nil, err
		}
		p, err := d.one(ctx, c.self, "recommendation")
		if err != nil {
			return nil, err
		}
		for _, r := range get[types.ArrayOfClusterRecommendation](p, "recommendation").ClusterRecommendation {
			for _, a := range r.Action {
				m, ok := a.(*types.ClusterMigrationAction)
				if !ok || m.DrsMigration == nil {
					continue
				}
				mv := hypervisor.Move{From: hypervisor.HostID(m.DrsMigration.Source.Value), To: hypervisor.HostID(m.DrsMigration.Destination.Value), Reason: r.ReasonText, Native: true}
				if t := m.Target; t != nil {
					mv.VM = hypervisor.VMID(t.Value)
				} else {
					mv.VM = hypervisor.VMID(m.DrsMigration.Vm.Value)
				}
				out = append(out, mv)
			}
		}
	}
	return out, nil
}
