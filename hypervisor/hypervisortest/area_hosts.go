package hypervisortest

import (
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// hosts: facts and limits, placement, balance, maintenance, evacuation.
func hosts(e *env) {
	all, err := hypervisor.Collect(e.c.Hosts(e.ctx))
	e.ok(err, "Hosts")
	if len(all) == 0 {
		e.Fatalf("Hosts lists none")
	}
	for _, h := range all {
		if h.State != hypervisor.HostUp {
			continue
		}
		if h.ID == "" || h.Name == "" || h.MemoryBytes <= 0 || h.FreeBytes < 0 || h.FreeBytes > h.MemoryBytes || h.CPU.Threads <= 0 || h.Version == "" {
			e.Errorf("host lacks ID, name, memory, CPUs or version: %+v", h)
		}
		i, err := e.c.Host(h.ID).Info(e.ctx)
		if err != nil || i.Name != h.Name {
			e.Errorf("Host(%s).Info: %v", h.ID, err)
		}
	}
	_, err = e.c.Host("no-such-host").Info(e.ctx)
	e.kind(err, hypervisor.ErrNotFound, "Info of an absent host")

	vm := e.create("vm")
	e.has(hypervisor.PlacementNative)
	recs, err := e.c.Place(e.ctx, hypervisor.PlaceRequest{VM: vm.ID()})
	e.ok(err, "Place")
	if len(recs) == 0 {
		e.Errorf("Place recommends no host")
	}
	for n, r := range recs {
		if !slices.ContainsFunc(all, func(h hypervisor.HostInfo) bool { return h.ID == r.Host }) {
			e.Errorf("Place recommends the unknown host %s", r.Host)
		}
		if r.Score < 0 || r.Score > 1 || n > 0 && r.Score > recs[n-1].Score {
			e.Errorf("Place's scores are out of range or order: %+v", recs)
		}
	}
	if e.has(hypervisor.PlacementNative) && len(recs) > 0 && recs[0].Native {
		e.proved(hypervisor.PlacementNative)
	}
	_, err = e.c.Place(e.ctx, hypervisor.PlaceRequest{CPUs: 1, MemoryBytes: 1 << 60})
	e.kind(err, hypervisor.ErrExhausted, "Place of 1 EiB")
	_, err = e.c.Place(e.ctx, hypervisor.PlaceRequest{})
	e.kind(err, hypervisor.ErrInvalidArgument, "Place of nothing")
	if _, err = e.c.PlanBalance(e.ctx, nil); err != nil {
		e.oneOf(err, "PlanBalance", hypervisor.ErrUnsupported)
	}

	if e.has(hypervisor.MigrateLive) {
		e.start(vm)
		up := e.uptime(vm)
		from := e.info(vm).Host
		r, err := e.c.Host(from).Evacuate(e.ctx, nil).Wait(e.ctx)
		e.ok(err, "Evacuate")
		i := e.info(vm)
		if i.Host == from || i.State != hypervisor.Running || len(r.Moved) == 0 {
			e.Errorf("after Evacuate the machine is %s on %s (was on %s), moved: %+v", i.State, i.Host, from, r.Moved)
		}
		e.sameBoot(vm, up, "Evacuate")
	}
	if e.has(hypervisor.HostMaintenance) {
		if e.info(vm).State == hypervisor.Off {
			e.start(vm)
		}
		h := e.c.Host(e.info(vm).Host)
		_, err := h.EnterMaintenance(e.ctx, nil).Wait(e.ctx)
		e.kind(err, hypervisor.ErrBusy, "EnterMaintenance of a host with a running machine, without Evacuate")
		if len(e.hostIDs()) > 1 && e.has(hypervisor.MigrateLive) {
			_, err = h.EnterMaintenance(e.ctx, &hypervisor.MaintenanceOptions{Evacuate: true}).Wait(e.ctx)
			e.ok(err, "EnterMaintenance with Evacuate")
			if i := e.info(vm); i.Host == h.ID() || i.State != hypervisor.Running {
				e.Errorf("after EnterMaintenance the machine is %s on %s", i.State, i.Host)
			}
		} else {
			e.off(vm)
		}
		for range 2 {
			_, err = h.EnterMaintenance(e.ctx, &hypervisor.MaintenanceOptions{Evacuate: true}).Wait(e.ctx)
			e.ok(err, "EnterMaintenance again")
		}
		if i, err := h.Info(e.ctx); err != nil || i.State != hypervisor.HostMaintaining {
			e.Errorf("after EnterMaintenance the host is %s (%v)", i.State, err)
		}
		for range 2 {
			_, err = h.ExitMaintenance(e.ctx).Wait(e.ctx)
			e.ok(err, "ExitMaintenance")
		}
		if i, err := h.Info(e.ctx); err != nil || i.State != hypervisor.HostUp {
			e.Errorf("after ExitMaintenance the host is %s (%v)", i.State, err)
		}
		e.proved(hypervisor.HostMaintenance)
	}
}
