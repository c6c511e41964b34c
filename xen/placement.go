package xen

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// mostStars is the rating that Workload Balancing gives the best host
// (VM.retrieve_wlb_recommendations: source, stars, and the recommendation's
// number, or 0.0, a number and the reason).
const mostStars = 5

// Recommend asks the Workload Balancing server which hosts can take a
// machine. The server knows only machines that exist.
func (d *driver) Recommend(ctx context.Context, r hypervisor.PlaceRequest) ([]hypervisor.Recommendation, error) {
	on := r.VM.Ref()
	if r.VM == "" || r.Datastore != "" || r.Device != nil {
		return nil, hypervisor.Errorf(hypervisor.ErrUnsupported, on, "Workload Balancing places machines that exist, by their own needs: name a VM, and leave Datastore and Device out")
	}
	vm, _, err := d.vm(ctx, r.VM)
	if err != nil {
		return nil, err
	}
	var ratings map[xapi.Ref][]string
	if err := d.c.Call(ctx, &ratings, "VM.retrieve_wlb_recommendations", vm); err != nil {
		return nil, native(on, capability.PlacementNative, err)
	}
	var hosts map[xapi.Ref]hostID
	if err := d.c.Call(ctx, &hosts, "host.get_all_records"); err != nil {
		return nil, err
	}
	var out []hypervisor.Recommendation
	for host, rating := range ratings {
		if len(rating) < 2 {
			continue
		}
		stars, err := strconv.ParseFloat(rating[1], 64)
		if err != nil || stars <= 0 {
			continue
		}
		out = append(out, hypervisor.Recommendation{Host: hypervisor.HostID(hosts[host].UUID), Score: min(stars/mostStars, 1),
			Reason: rating[0] + " gives it " + rating[1] + " stars", Native: true})
	}
	if len(out) == 0 {
		return nil, hypervisor.Errorf(hypervisor.ErrExhausted, on, "Workload Balancing finds no host for the machine: %v", ratings)
	}
	slices.SortFunc(out, func(a, b hypervisor.Recommendation) int {
		return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.Host, b.Host))
	})
	return out, nil
}

// BalancePlan asks the Workload Balancing server for the moves that it
// recommends (pool.retrieve_wlb_recommendations: for each machine source, the
// target's uuid, two numbers, and the reason; a control domain means a host
// to be switched on or off, which is not a move).
func (d *driver) BalancePlan(ctx context.Context) ([]hypervisor.Move, error) {
	var moves map[xapi.Ref][]string
	if err := d.c.Call(ctx, &moves, "pool.retrieve_wlb_recommendations"); err != nil {
		return nil, native(hypervisor.Ref{Kind: hypervisor.ObjectClient}, capability.PlacementNative, err)
	}
	vms, err := records[vmBrief](ctx, d, "VM", slices.Collect(maps.Keys(moves)))
	if err != nil {
		return nil, err
	}
	var hosts map[xapi.Ref]hostID
	if err := d.c.Call(ctx, &hosts, "host.get_all_records"); err != nil {
		return nil, err
	}
	var out []hypervisor.Move
	for ref, m := range moves {
		v, ok := vms[ref]
		if !ok || v.ControlDomain || len(m) < 2 {
			continue
		}
		reason := m[0]
		if len(m) > 4 {
			reason += ": " + m[4]
		}
		out = append(out, hypervisor.Move{VM: hypervisor.VMID(v.UUID), From: hypervisor.HostID(hosts[v.ResidentOn].UUID), To: hypervisor.HostID(m[1]), Reason: reason, Native: true})
	}
	slices.SortFunc(out, func(a, b hypervisor.Move) int { return cmp.Compare(a.VM, b.VM) })
	return out, nil
}
