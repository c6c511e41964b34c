package hypervisortest

import (
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// hostResults: hosts, their resources, and recommendations for placement.
func hostResults() []row {
	hosts := func(e *env, field string) []hypervisor.HostInfo {
		e.running()
		if field == "Detail" {
			if e.Crash == nil {
				e.unshown("no host can be taken down here")
				return nil
			}
			h := e.hostIDs()[0]
			e.ok(e.Crash(e.ctx, h, true), "take a host down")
			defer func() { e.ok(e.Crash(e.ctx, h, false), "take the host up") }()
		}
		all, err := hypervisor.Collect(e.c.Hosts(e.ctx))
		e.ok(err, "Hosts")
		return all
	}
	stores := func(e *env, _ string) []hypervisor.DatastoreInfo { return e.datastores() }
	nets := func(e *env, _ string) []hypervisor.NetworkInfo {
		all, err := hypervisor.Collect(e.c.Networks(e.ctx))
		e.ok(err, "Networks")
		return all
	}
	devs := func(e *env, field string) []hypervisor.DeviceInfo {
		if field == "UsedBy" || field == "Reason" || field == "Detail" {
			_, vm, err := e.attach(e.Device)
			e.ok(err, "AttachDevice")
			e.start(vm)
		}
		return e.devices(nil)
	}
	recs := func(e *env, field string) []hypervisor.Recommendation {
		r, err := e.c.Place(e.ctx, hypervisor.PlaceRequest{VM: e.create("vm").ID()})
		e.ok(err, "Place")
		if field == "Native" && !e.has(capability.PlacementNative) {
			e.unshown("there is no scheduler")
		}
		return made(e, r)
	}
	moves := func(e *env, field string) []hypervisor.Move {
		if !e.unbalance() {
			return nil
		}
		m, err := e.c.PlanBalance(e.ctx, nil)
		e.ok(err, "PlanBalance")
		if len(m) == 0 || field == "Native" && !e.has(capability.PlacementNative) {
			e.unshown("no scheduler moves these")
		}
		return made(e, m)
	}
	ha := func(e *env, _ string) []hypervisor.HAInfo {
		all, err := hypervisor.Collect(e.c.HA(e.ctx))
		e.ok(err, "HA")
		return all
	}
	avail := func(e *env, field string) []hypervisor.Availability {
		vm := e.create("vm")
		e.start(vm)
		if field == "Protected" {
			_, err := vm.SetRestartPriority(e.ctx, hypervisor.RestartHigh).Wait(e.ctx)
			e.ok(err, "SetRestartPriority")
		}
		a, err := vm.Availability(e.ctx)
		e.ok(err, "Availability")
		return []hypervisor.Availability{a}
	}
	evacuated := func(e *env, field string) []hypervisor.EvacuateResult {
		vm, _ := e.traveller(true)
		var o hypervisor.EvacuateOptions
		if field == "Left" {
			o.To = []hypervisor.HostID{"no-such-host"}
		}
		r, err := e.c.Host(e.info(vm).Host).Evacuate(e.ctx, &o).Wait(e.ctx)
		if field != "Left" {
			e.ok(err, "Evacuate")
		}
		return []hypervisor.EvacuateResult{made(e, r)}
	}
	return slices.Concat(
		proof(capability.HostList, hosts, map[string]func(hypervisor.HostInfo) bool{
			"FreeBytes":   func(h hypervisor.HostInfo) bool { return h.FreeBytes > 0 && h.FreeBytes < h.MemoryBytes },
			"CPU.Threads": func(h hypervisor.HostInfo) bool { return h.CPU.Threads >= h.CPU.Cores && h.CPU.Threads > 0 },
			"Running":     func(h hypervisor.HostInfo) bool { return h.Running > 0 },
		}),
		proof(capability.DatastoreList, stores, map[string]func(hypervisor.DatastoreInfo) bool{
			"Shared":    func(d hypervisor.DatastoreInfo) bool { return d.Shared && len(d.Hosts) > 1 },
			"FreeBytes": func(d hypervisor.DatastoreInfo) bool { return d.FreeBytes > 0 && d.FreeBytes <= d.CapacityBytes },
		}),
		proof(capability.NetworkList, nets, nil),
		resultsOf(caps{capability.DevicePCI}, devs, nil),
		resultsOf(caps{capability.HostList}, recs, nil),
		resultsOf(caps{capability.MigrateLive}, moves, nil),
		resultsOf(caps{capability.HighAvailability}, ha, nil),
		resultsOf(caps{capability.HighAvailability}, avail, nil),
		resultsOf(caps{capability.MigrateLive}, evacuated, nil),
	)
}
