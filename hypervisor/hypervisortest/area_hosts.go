package hypervisortest

import (
	"context"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// hosts: facts and limits, placement, balance, maintenance, evacuation.
var hosts = area{"hosts", []row{
	{name: "facts", proves: caps{capability.HostList}, run: hostsFacts},
	{name: "absent", run: hostsAbsent},
	{name: "place", proves: caps{capability.PlacementNative}, anyway: true, run: hostsPlace},
	{name: "place-refused", run: hostsPlaceRefused},
	{name: "plan-balance", run: hostsPlan},
	{name: "evacuate", needs: caps{capability.MigrateLive}, run: hostsEvacuate},
	{name: "maintenance-without-evacuation", proves: caps{capability.HostMaintenance}, run: hostsBusy},
	{name: "maintenance", proves: caps{capability.HostMaintenance}, run: hostsMaintenance},
}}

func (e *env) allHosts() []hypervisor.HostInfo {
	e.Helper()
	all, err := hypervisor.Collect(e.c.Hosts(e.ctx))
	e.ok(err, "Hosts")
	if len(all) == 0 {
		e.Fatalf("Hosts lists none")
	}
	return all
}

func hostsFacts(e *env) {
	for _, h := range e.allHosts() {
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
}

func hostsAbsent(e *env) {
	_, err := e.c.Host("no-such-host").Info(e.ctx)
	e.kind(err, hypervisor.ErrNotFound, "Info of an absent host")
}

func hostsPlace(e *env) {
	recs, err := e.c.Place(e.ctx, hypervisor.PlaceRequest{VM: e.create("vm").ID()})
	e.ok(err, "Place")
	if len(recs) == 0 {
		e.Fatalf("Place recommends no host")
	}
	all := e.allHosts()
	for n, r := range recs {
		if !slices.ContainsFunc(all, func(h hypervisor.HostInfo) bool { return h.ID == r.Host }) {
			e.Errorf("Place recommends the unknown host %s", r.Host)
		}
		if r.Score < 0 || r.Score > 1 || n > 0 && r.Score > recs[n-1].Score {
			e.Errorf("Place's scores are out of range or order: %+v", recs)
		}
	}
	if e.has(capability.PlacementNative) && !recs[0].Native {
		e.unshown("the platform did not rank the hosts")
	}
}

func hostsPlaceRefused(e *env) {
	_, err := e.c.Place(e.ctx, hypervisor.PlaceRequest{CPUs: 1, MemoryBytes: 1 << 60})
	e.kind(err, hypervisor.ErrExhausted, "Place of 1 EiB")
	_, err = e.c.Place(e.ctx, hypervisor.PlaceRequest{})
	e.kind(err, hypervisor.ErrInvalidArgument, "Place of nothing")
}

func hostsPlan(e *env) {
	if _, err := e.c.PlanBalance(e.ctx, nil); err != nil {
		e.oneOf(err, "PlanBalance", hypervisor.ErrUnsupported)
	}
}

func hostsEvacuate(e *env) {
	vm := e.running()
	up, from := e.uptime(vm), e.info(vm).Host
	r := must(e, e.c.Host(from).Evacuate(e.ctx, nil), "Evacuate")
	i := e.info(vm)
	if i.Host == from || i.State != hypervisor.StateRunning || len(r.Moved) == 0 {
		e.Errorf("after Evacuate the machine is %s on %s (was on %s), moved: %+v", i.State, i.Host, from, r.Moved)
	}
	e.sameBoot(vm, up, "Evacuate")
}

func hostsBusy(e *env) {
	h := e.c.Host(e.info(e.running()).Host)
	defer e.leave(h)
	e.kind(errOf(e, h.EnterMaintenance(e.ctx, nil)), hypervisor.ErrBusy, "EnterMaintenance of a host with a running machine, without Evacuate")
}

func hostsMaintenance(e *env) {
	vm := e.running()
	h := e.c.Host(e.info(vm).Host)
	defer e.leave(h)
	moves := len(e.hostIDs()) > 1 && e.has(capability.MigrateLive)
	if !moves {
		e.off(vm)
	}
	for range 3 {
		must(e, h.EnterMaintenance(e.ctx, &hypervisor.MaintenanceOptions{Evacuate: true}), "EnterMaintenance with Evacuate")
	}
	if i := e.info(vm); moves && (i.Host == h.ID() || i.State != hypervisor.StateRunning) {
		e.Errorf("after EnterMaintenance the machine is %s on %s", i.State, i.Host)
	}
	if i, err := h.Info(e.ctx); err != nil || i.State != hypervisor.HostMaintaining {
		e.Errorf("after EnterMaintenance the host is %s (%v)", i.State, err)
	}
	for range 2 {
		must(e, h.ExitMaintenance(e.ctx), "ExitMaintenance")
	}
	if i, err := h.Info(e.ctx); err != nil || i.State != hypervisor.HostUp {
		e.Errorf("after ExitMaintenance the host is %s (%v)", i.State, err)
	}
}

// leave ends the maintenance of a host that a failed row left in it.
func (e *env) leave(h *hypervisor.Host) {
	if e.Failed() {
		if err := errOf(e, h.ExitMaintenance(context.WithoutCancel(e.ctx))); err != nil {
			e.Logf("clean-up of host %s: %v", h.ID(), err)
		}
	}
}
