//go:build cgo

package fleet

import (
	"context"
	"sync"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// List combines the listings that list reads on each host, in parallel. A
// host that is down hides its machines, but not those of others.
func (f *Fleet) List(ctx context.Context, q hypervisor.VMQuery, list func(ctx context.Context, h *Host, q hypervisor.VMQuery) ([]hypervisor.VMInfo, error)) (hypervisor.VMPage, error) {
	hosts := f.Members
	if q.Host != "" {
		h, err := f.Host(q.Host)
		if err != nil {
			return hypervisor.VMPage{}, err
		}
		hosts = []*Host{h}
	}
	parts := make([][]hypervisor.VMInfo, len(hosts))
	errs := make([]error, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() { parts[i], errs[i] = list(ctx, h, q) })
	}
	wg.Wait()
	failed := 0
	for _, err := range errs {
		if err != nil {
			failed++
			if len(hosts) == 1 || libvirtx.KindOf(err) != hypervisor.ErrUnavailable {
				return hypervisor.VMPage{}, err
			}
		}
	}
	if failed == len(hosts) {
		return hypervisor.VMPage{}, errs[0]
	}
	return hypervisor.VMPage{VMs: merge(parts)}, nil
}

// order ranks the states of two definitions of a machine: the one that runs
// counts. The half at the end of a migration under way is paused.
var order = map[hypervisor.PowerState]int{hypervisor.StateSuspended: 1, hypervisor.StatePaused: 2, hypervisor.StateRunning: 3}

// merge keeps one of two definitions of a machine.
func merge(parts [][]hypervisor.VMInfo) []hypervisor.VMInfo {
	if len(parts) == 1 {
		return parts[0]
	}
	at := map[hypervisor.VMID]int{}
	var out []hypervisor.VMInfo
	for _, p := range parts {
		for _, v := range p {
			i, dup := at[v.ID]
			switch {
			case !dup:
				at[v.ID] = len(out)
				out = append(out, v)
			case order[v.State] > order[out[i].State]:
				out[i] = v
			}
		}
	}
	return out
}
