package fake

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// Hosts lists all hosts, including those that are down.
func (d *Driver) Hosts(ctx context.Context) ([]hypervisor.HostInfo, error) {
	if err := d.read(ctx, called(ctx, op.HostList, op.HostFind, op.HostInfo), hypervisor.Ref{}); err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.require(capability.HostList, hypervisor.Ref{}, hypervisor.Ref{}); err != nil {
		return nil, err
	}
	out := make([]hypervisor.HostInfo, 0, len(b.st.Hosts))
	for _, h := range b.st.Hosts {
		out = append(out, b.hostInfo(h))
	}
	return out, nil
}

func (b *Backend) hostInfo(h *host) hypervisor.HostInfo {
	threads := 2 * h.Cores
	i := hypervisor.HostInfo{ID: h.ID, Name: h.Name, State: h.State, Product: "Anyvisor fake", Version: h.Version, Edition: or(b.cfg.Edition, "full"), Pool: h.Pool,
		CPU: hypervisor.CPUInfo{Model: h.CPUModel, Vendor: h.CPUVendor, Sockets: h.Sockets, Cores: h.Cores, Threads: threads, MHz: 2800,
			Virtualization: hypervisor.FactPresent, NestedPaging: hypervisor.FactPresent, APICVirtualization: hypervisor.FactPresent},
		MemoryBytes: h.MemoryBytes, FreeBytes: max(h.MemoryBytes-h.Used, 0), IOMMU: hypervisor.FactOf(!h.NoIOMMU), SRIOV: hypervisor.FactAbsent,
		Limits: limits, Running: h.Running}
	if h.State == hypervisor.HostDown {
		i.Detail = "it doesn't answer"
	}
	for n := range h.Sockets {
		i.NUMA = append(i.NUMA, hypervisor.NUMANode{ID: n, Threads: threads / h.Sockets, MemoryBytes: h.MemoryBytes / int64(h.Sockets)})
	}
	for _, d := range b.st.Devices {
		if d.Host == h.ID && d.MaxVFs > 0 {
			i.SRIOV = hypervisor.FactPresent
		}
	}
	return i
}

// SetHostState takes a host down or up. With Config.HA the machines of a host
// that goes down restart on other hosts. Without it, their state is unknown
// until the host is back.
func (b *Backend) SetHostState(id hypervisor.HostID, s hypervisor.HostState) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	h, err := b.host(id)
	if err != nil {
		return err
	}
	b.setHost(h, s)
	return nil
}

func (b *Backend) setHost(h *host, s hypervisor.HostState) {
	if h.State != s {
		h.State = s
		b.tell(hypervisor.Event{Type: hypervisor.EventHostChanged, Object: h.ref(), Detail: string(s)})
		if s == hypervisor.HostDown && b.cfg.HA {
			b.failOver(h)
		}
	}
}

// running returns the machines that have memory on a host.
func (b *Backend) running(id hypervisor.HostID) (out []*vm) {
	for _, m := range b.order {
		if m.Host == id && m.active() {
			out = append(out, m)
		}
	}
	return out
}

// EnterMaintenance keeps new machines away from the host. With Evacuate the
// running ones first move to other hosts, all or none.
func (d *Driver) EnterMaintenance(ctx context.Context, id hypervisor.HostID, r hypervisor.MaintenanceOptions) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, op.HostEnterMaintenance, id.Ref(), r)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	h, err := b.host(id)
	if err != nil {
		return nil, err
	}
	if err := b.require(capability.HostMaintenance, id.Ref(), h.ref()); err != nil {
		return nil, err
	}
	if h.State == hypervisor.HostDown {
		return nil, h.usable()
	}
	if err := b.free(id.Ref(), false); err != nil {
		return nil, err
	}
	w := work{op: op.HostEnterMaintenance, on: h.ref(), excl: []hypervisor.Ref{id.Ref()}, phases: []string{"evacuating"}}
	vms := b.running(id)
	if len(vms) > 0 && !r.Evacuate {
		var names []hypervisor.Ref
		for _, m := range vms {
			names = append(names, m.ref())
		}
		return nil, hypervisor.Errorf(hypervisor.ErrBusy, h.ref(), "machines run on it: %v; set Evacuate or stop them", names)
	}
	var moves []work
	undo := func() {
		for _, x := range moves {
			x.undo()
		}
	}
	for _, m := range vms {
		x, err := b.leave(m)
		if err != nil {
			undo()
			return nil, err
		}
		moves = append(moves, x)
		w.excl, w.bytes = append(w.excl, vmKey(m.ID)), w.bytes+x.bytes
	}
	w.undo = undo
	w.finish = func(*hypervisor.TaskState) error {
		for _, x := range moves {
			if err := x.finish(&hypervisor.TaskState{}); err != nil {
				return err
			}
		}
		if late := b.running(id); len(late) > 0 {
			return hypervisor.Errorf(hypervisor.ErrBusy, h.ref(), "machine %s was started on it meanwhile", late[0].ref())
		}
		b.setHost(h, hypervisor.HostMaintaining)
		return nil
	}
	return d.run(f, w)
}

// leave reserves a place on another host for a machine.
func (b *Backend) leave(m *vm) (w work, err error) {
	for _, h := range b.byRoom() {
		if h.ID == m.Host {
			continue
		}
		x, e := b.depart(m.ID, hypervisor.MigrateRequest{MigrateOptions: hypervisor.MigrateOptions{Host: h.ID, Mode: hypervisor.MigrateModeLive}}, b)
		if e == nil {
			return x, nil
		}
		err = e
	}
	if err == nil {
		err = hypervisor.Errorf(hypervisor.ErrExhausted, m.ref(), "no other host takes the machine")
	}
	return w, err
}

// byRoom returns the hosts sorted by free memory, the most first.
func (b *Backend) byRoom() []*host {
	out := slices.Clone(b.st.Hosts)
	slices.SortStableFunc(out, func(x, y *host) int { return cmp.Compare(y.MemoryBytes-y.Used, x.MemoryBytes-x.Used) })
	return out
}

// ExitMaintenance brings the host back into use.
func (d *Driver) ExitMaintenance(ctx context.Context, id hypervisor.HostID) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, op.HostExitMaintenance, id.Ref(), nil)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	h, err := b.host(id)
	if err != nil {
		return nil, err
	}
	if err := b.require(capability.HostMaintenance, id.Ref(), h.ref()); err != nil {
		return nil, err
	}
	if h.State == hypervisor.HostDown {
		return nil, h.usable()
	}
	return d.run(f, work{op: op.HostExitMaintenance, on: h.ref(), excl: []hypervisor.Ref{id.Ref()}, finish: func(*hypervisor.TaskState) error {
		b.setHost(h, hypervisor.HostUp)
		return nil
	}})
}

// Recommend is the fake's own scheduler. It prefers the host with the most
// memory left.
func (d *Driver) Recommend(ctx context.Context, r hypervisor.PlaceRequest) ([]hypervisor.Recommendation, error) {
	if err := d.read(ctx, op.ClientPlace, r.VM.Ref()); err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.require(capability.PlacementNative, hypervisor.Ref{}, r.VM.Ref()); err != nil {
		return nil, err
	}
	var at *vm
	if r.VM != "" {
		m, err := b.vm(r.VM)
		if err != nil {
			return nil, err
		}
		at, r.CPUs, r.MemoryBytes = m, m.CPUs, m.Mem
	}
	if r.Datastore != "" {
		if _, err := b.datastore(r.Datastore); err != nil {
			return nil, err
		}
	}
	var out []hypervisor.Recommendation
	for _, h := range b.st.Hosts {
		left := h.MemoryBytes - h.Used - r.MemoryBytes
		if at != nil && at.active() && at.Host == h.ID {
			left += r.MemoryBytes
		}
		if h.State != hypervisor.HostUp || left < 0 || r.CPUs > 2*h.Cores || !b.offers(h, r) {
			continue
		}
		out = append(out, hypervisor.Recommendation{Host: h.ID, Score: float64(left) / float64(h.MemoryBytes), Native: true,
			Reason: fmt.Sprintf("%d MiB of memory left over", left/hypervisor.MiB)})
	}
	if len(out) == 0 {
		return nil, hypervisor.Errorf(hypervisor.ErrExhausted, hypervisor.Ref{Kind: hypervisor.ObjectClient, ID: b.cfg.Name}, "no host takes a machine of %d CPUs and %d MiB", r.CPUs, r.MemoryBytes/hypervisor.MiB)
	}
	slices.SortStableFunc(out, func(x, y hypervisor.Recommendation) int { return cmp.Compare(y.Score, x.Score) })
	return out, nil
}

// offers reports whether a host has the requested datastore and device.
func (b *Backend) offers(h *host, r hypervisor.PlaceRequest) bool {
	if r.Datastore != "" {
		if s, err := b.datastore(r.Datastore); err != nil || !reaches(s.Hosts, h.ID) {
			return false
		}
	}
	if r.Device == nil {
		return true
	}
	all, err := b.candidates(*r.Device)
	return err == nil && slices.ContainsFunc(all, func(d *device) bool {
		reason, _ := b.unfit(d)
		return d.Host == h.ID && reason == "" && b.busyWith(d, r.Device.Profile) == ""
	})
}

// BalancePlan moves the smallest machines from the fullest host to the
// emptiest until they differ by less than 10 percent of their memory.
func (d *Driver) BalancePlan(ctx context.Context) ([]hypervisor.Move, error) {
	if err := d.read(ctx, op.ClientBalance, hypervisor.Ref{}); err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.require(capability.PlacementNative, hypervisor.Ref{}, hypervisor.Ref{}); err != nil {
		return nil, err
	}
	var up []*host
	load := map[hypervisor.HostID]float64{}
	for _, h := range b.st.Hosts {
		if h.State == hypervisor.HostUp {
			up = append(up, h)
			load[h.ID] = float64(h.Used) / float64(h.MemoryBytes)
		}
	}
	if len(up) < 2 {
		return nil, nil
	}
	byLoad := func(x, y *host) int { return cmp.Compare(load[x.ID], load[y.ID]) }
	low, high := slices.MinFunc(up, byLoad), slices.MaxFunc(up, byLoad)
	vms := b.running(high.ID)
	slices.SortStableFunc(vms, func(x, y *vm) int { return cmp.Compare(x.Mem, y.Mem) })
	var plan []hypervisor.Move
	for _, m := range vms {
		from, to := float64(m.Mem)/float64(high.MemoryBytes), float64(m.Mem)/float64(low.MemoryBytes)
		if load[high.ID]-load[low.ID] <= 0.1 || load[low.ID]+to > load[high.ID]-from+0.1 {
			break
		}
		v, err := b.look(m, hypervisor.MigrateRequest{MigrateOptions: hypervisor.MigrateOptions{Host: low.ID, Mode: hypervisor.MigrateModeLive}}, b)
		if err != nil || !v.OK() {
			continue
		}
		plan = append(plan, hypervisor.Move{VM: m.ID, From: high.ID, To: low.ID, Native: true,
			Reason: fmt.Sprintf("memory load %.0f%% against %.0f%%", 100*load[high.ID], 100*load[low.ID])})
		load[high.ID] -= from
		load[low.ID] += to
	}
	return plan, nil
}
