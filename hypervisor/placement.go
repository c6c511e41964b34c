package hypervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor/op"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// PlaceRequest describes a machine that needs a host.
type PlaceRequest struct {
	VM VMID // an existing machine; otherwise CPUs and MemoryBytes

	CPUs        int
	MemoryBytes int64
	Datastore   DatastoreID    // the host must reach it
	Device      *DeviceRequest // the host must have it free
}

// Recommendation is a host that can take the machine.
type Recommendation struct {
	Host   HostID  `json:"host"`
	Score  float64 `json:"score"` // 0 to 1, higher is better
	Reason string  `json:"reason,omitempty"`
	Native bool    `json:"native"` // from the platform's scheduler
}

// Move is one step of a plan.
type Move struct {
	VM     VMID   `json:"vm"`
	From   HostID `json:"from"`
	To     HostID `json:"to"`
	Reason string `json:"reason,omitempty"`
	Native bool   `json:"native"`
}

// Place returns the hosts that can take a machine, the best first. Where
// capability.PlacementNative is supported, the platform's scheduler is asked.
// Elsewhere a host must be up, have the CPUs and free memory, reach the
// datastore and have the device, and the one with the most memory left over is
// best. Requests that the scheduler does not accept, such as one for a machine
// that doesn't exist yet, are ranked in the same way; Recommendation.Native
// reports which ranking was used. If no host fits, the error is ErrExhausted.
//
// The host on which the machine runs now may be in the list. Place does not
// check that the machine can migrate to the others: see VM.CheckMigrate.
func (c *Client) Place(ctx context.Context, r PlaceRequest) ([]Recommendation, error) {
	const op = op.ClientPlace
	on := Ref{Kind: ObjectClient}
	if r.VM != "" {
		on = r.VM.Ref()
	}
	ctx, sp, err := c.begin(ctx, op, on)
	if err != nil {
		return nil, err
	}
	switch {
	case r.VM != "" && (r.CPUs != 0 || r.MemoryBytes != 0):
		return nil, sp.end(invalid(op, on, "VM and CPUs or MemoryBytes contradict each other: a machine's own needs count"))
	case r.VM == "" && (r.CPUs <= 0 || r.MemoryBytes <= 0):
		return nil, sp.end(invalid(op, on, "give a VM, or how many CPUs and how much memory"))
	}
	recs, err := retryRead(ctx, c, func() ([]Recommendation, error) { return c.place(ctx, on, r) })
	return recs, sp.end(c.wrap(op, on, err))
}

func (c *Client) place(ctx context.Context, on Ref, r PlaceRequest) ([]Recommendation, error) {
	if p, ok := Ability[Placer](c.d); ok {
		s, err := c.d.Supports(ctx, capability.PlacementNative, Ref{})
		if err != nil {
			return nil, err
		}
		if s.Level != LevelNo {
			if recs, err := p.Recommend(ctx, r); !errors.Is(err, ErrUnsupported) {
				return recs, err
			}
		}
	}
	hl, ok := Ability[HostLister](c.d)
	if !ok {
		return nil, c.unsupported(ctx, op.ClientPlace, on, capability.HostList)
	}
	hosts, err := hl.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	var here HostID
	if r.VM != "" {
		v, err := c.d.GetVM(ctx, r.VM)
		if err != nil {
			return nil, err
		}
		r.CPUs, r.MemoryBytes = v.CPUs, v.MemoryBytes
		if v.State == StateRunning || v.State == StatePaused {
			here = v.Host
		}
	}
	reach, err := c.reach(ctx, r)
	if err != nil {
		return nil, err
	}
	var out []Recommendation
	for _, h := range hosts {
		free := h.FreeBytes - r.MemoryBytes
		if h.ID == here {
			free = h.FreeBytes // the machine's memory is there already
		}
		if h.State != HostUp || free < 0 || h.CPU.Threads < r.CPUs && h.CPU.Threads > 0 || !reach(h.ID) {
			continue
		}
		s := float64(free) / float64(max(h.MemoryBytes, 1))
		out = append(out, Recommendation{Host: h.ID, Score: min(s, 1), Reason: fmt.Sprintf("%d MiB of memory left over", free/MiB)})
	}
	if len(out) == 0 {
		return nil, Errorf(ErrExhausted, on, "none of %d hosts is up and has %d CPUs, %d MiB of free memory and whatever else was requested",
			len(hosts), r.CPUs, r.MemoryBytes/MiB)
	}
	slices.SortStableFunc(out, func(a, b Recommendation) int { return cmp.Compare(b.Score, a.Score) })
	return out, nil
}

// reach returns a function that reports whether a host has the datastore and
// the device.
func (c *Client) reach(ctx context.Context, r PlaceRequest) (func(HostID) bool, error) {
	hosts := func(ids []HostID) func(HostID) bool { return func(h HostID) bool { return slices.Contains(ids, h) } }
	store, device := func(HostID) bool { return true }, func(HostID) bool { return true }
	if r.Datastore != "" {
		sl, ok := Ability[StorageLister](c.d)
		if !ok {
			return nil, c.unsupported(ctx, op.ClientPlace, r.Datastore.Ref(), capability.DatastoreList)
		}
		all, err := sl.Datastores(ctx)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(all, func(d DatastoreInfo) bool { return d.ID == r.Datastore })
		if i < 0 {
			return nil, Errorf(ErrNotFound, r.Datastore.Ref(), "no such datastore")
		}
		store = hosts(all[i].Hosts)
	}
	if r.Device != nil {
		da, ok := Ability[DeviceAssigner](c.d)
		if !ok {
			return nil, c.unsupported(ctx, op.ClientPlace, Ref{}, capability.DevicePCI)
		}
		q := r.Device
		f := DeviceFilter{ID: q.ID, Vendor: q.Vendor, Product: q.Product, Class: q.Class, Profile: q.Profile, Assignable: true}
		if q.VirtualFunction {
			f.Kind = DeviceKindVF
		}
		devs, err := da.Devices(ctx, f)
		if err != nil {
			return nil, err
		}
		var ids []HostID
		for _, d := range devs {
			ids = append(ids, d.Host)
		}
		device = hosts(ids)
	}
	return func(h HostID) bool { return store(h) && device(h) }, nil
}

// BalanceOptions are the options for Client.PlanBalance. Nil means a spread
// of 10 percent, or whatever the platform's scheduler treats as balanced, and
// at most 10 moves.
type BalanceOptions struct {
	// Spread is how far the memory load of two hosts may differ, 0 to 1. No
	// platform's scheduler accepts it, so with a Spread this package makes
	// the plan.
	Spread   float64
	MaxMoves int
}

// PlanBalance returns moves that even out the load of the hosts. It changes
// nothing. Where capability.PlacementNative is supported and no Spread is
// given, the platform's scheduler is asked. Otherwise running machines move from the
// host with the highest share of memory in use to the one with the lowest, as
// long as that narrows the gap and each move passes CheckMigrate.
func (c *Client) PlanBalance(ctx context.Context, o *BalanceOptions) ([]Move, error) {
	const op = op.ClientBalance
	on := Ref{Kind: ObjectClient}
	ctx, sp, err := c.begin(ctx, op, on)
	if err != nil {
		return nil, err
	}
	opt := BalanceOptions{Spread: 0.1, MaxMoves: 10}
	if o != nil {
		if o.Spread < 0 || o.Spread > 1 || o.MaxMoves < 0 {
			return nil, sp.end(invalid(op, on, "Spread %v must be 0 to 1 and MaxMoves %d not negative", o.Spread, o.MaxMoves))
		}
		if o.Spread > 0 {
			opt.Spread = o.Spread
		}
		if o.MaxMoves > 0 {
			opt.MaxMoves = o.MaxMoves
		}
	}
	moves, err := retryRead(ctx, c, func() ([]Move, error) { return c.balance(ctx, opt, o == nil || o.Spread == 0) })
	return moves, sp.end(c.wrap(op, on, err))
}

func (c *Client) balance(ctx context.Context, o BalanceOptions, native bool) ([]Move, error) {
	if p, ok := Ability[Placer](c.d); ok && native {
		s, err := c.d.Supports(ctx, capability.PlacementNative, Ref{})
		if err != nil {
			return nil, err
		}
		if s.Level != LevelNo {
			moves, err := p.BalancePlan(ctx)
			return moves[:min(len(moves), o.MaxMoves)], err
		}
	}
	hl, ok := Ability[HostLister](c.d)
	mg, ok2 := Ability[Migrator](c.d)
	if !ok || !ok2 {
		return nil, c.unsupported(ctx, op.ClientBalance, Ref{}, capability.MigrateLive)
	}
	hosts, err := hl.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	hosts = slices.DeleteFunc(hosts, func(h HostInfo) bool { return h.State != HostUp || h.MemoryBytes <= 0 })
	if len(hosts) < 2 {
		return nil, nil
	}
	vms := map[HostID][]VMInfo{}
	used := map[HostID]float64{}
	for q := (VMQuery{Detail: DetailBrief}); ; {
		p, err := c.d.ListVMs(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, v := range p.VMs {
			if v.State == StateRunning {
				vms[v.Host] = append(vms[v.Host], v)
			}
		}
		if q.Page = p.Next; q.Page == "" {
			break
		}
	}
	for _, h := range hosts {
		used[h.ID] = float64(h.MemoryBytes - h.FreeBytes)
	}
	load := func(h HostInfo) float64 { return used[h.ID] / float64(h.MemoryBytes) }
	var plan []Move
	for len(plan) < o.MaxMoves {
		byLoad := func(a, b HostInfo) int { return cmp.Compare(load(a), load(b)) }
		low, high := slices.MinFunc(hosts, byLoad), slices.MaxFunc(hosts, byLoad)
		gap := load(high) - load(low)
		if gap <= o.Spread {
			break
		}
		// The machine that closes most of the gap and is free to move.
		rest := func(v VMInfo) float64 {
			m := float64(v.MemoryBytes)
			g := gap - m/float64(high.MemoryBytes) - m/float64(low.MemoryBytes)
			return max(g, -g)
		}
		cand := slices.Clone(vms[high.ID])
		slices.SortFunc(cand, func(a, b VMInfo) int { return cmp.Or(cmp.Compare(rest(a), rest(b)), cmp.Compare(a.ID, b.ID)) })
		moved := false
		for _, v := range cand {
			if rest(v) >= gap {
				break
			}
			rep, err := mg.CheckMigrate(ctx, v.ID, MigrateRequest{MigrateOptions: MigrateOptions{Host: low.ID, Mode: MigrateModeLive}})
			if err != nil {
				return nil, err
			}
			if !rep.OK() {
				continue
			}
			plan = append(plan, Move{VM: v.ID, From: high.ID, To: low.ID,
				Reason: fmt.Sprintf("memory load %.0f%% against %.0f%%", 100*load(high), 100*load(low))})
			used[high.ID] -= float64(v.MemoryBytes)
			used[low.ID] += float64(v.MemoryBytes)
			vms[high.ID] = slices.DeleteFunc(vms[high.ID], func(x VMInfo) bool { return x.ID == v.ID })
			moved = true // it is not moved again: it isn't in low's list
			break
		}
		if !moved {
			break
		}
	}
	return plan, nil
}
