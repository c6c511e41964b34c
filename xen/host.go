package xen

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// Hosts reads hosts, their metrics and network ports in one call each.
func (d *driver) Hosts(ctx context.Context) ([]hypervisor.HostInfo, error) {
	var hosts map[xapi.Ref]hostRec
	var metrics map[xapi.Ref]hostMetricsRec
	if err := d.c.Call(ctx, &hosts, "host.get_all_records"); err != nil {
		return nil, err
	}
	if err := d.c.Call(ctx, &metrics, "host_metrics.get_all_records"); err != nil {
		return nil, err
	}
	var pifs map[xapi.Ref]pifRec
	if err := d.c.Call(ctx, &pifs, "PIF.get_all_records"); err != nil {
		return nil, err
	}
	pool, _, err := d.pool(ctx)
	if err != nil {
		return nil, err
	}
	var out []hypervisor.HostInfo
	for _, h := range hosts {
		i := hostInfo(h, metrics[h.Metrics], pool)
		i.SRIOV = hypervisor.FactOf(slices.ContainsFunc(h.PIFs, func(r xapi.Ref) bool { return slices.Contains(pifs[r].Can, "sriov") }))
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b hypervisor.HostInfo) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

func hostInfo(h hostRec, m hostMetricsRec, pool poolRec) hypervisor.HostInfo {
	n := func(k string) int { v, _ := strconv.Atoi(h.CPU[k]); return v } // absent means 0, unknown
	mhz, _ := strconv.ParseFloat(h.CPU["speed"], 64)
	i := hypervisor.HostInfo{ID: hypervisor.HostID(h.UUID), Name: h.Name, State: hypervisor.HostUp, Product: h.Software["product_brand"],
		Version: h.Software["product_version"], Edition: h.Edition, Pool: hypervisor.PoolID(pool.UUID), MemoryBytes: m.Total, FreeBytes: m.Free,
		CPU: hypervisor.CPUInfo{Model: h.CPU["modelname"], Vendor: h.CPU["vendor"], Sockets: n("socket_count"), Cores: n("cpu_count"), Threads: n("cpu_count"), MHz: int(mhz)},
		// XenServer 8 configuration limits.
		Limits:  hypervisor.Limits{CPUs: maxVCPUs, MemoryBytes: 1536 * hypervisor.GiB, Disks: 255, NICs: 7, VMs: 1000},
		Running: max(len(h.Resident)-1, 0)} // the control domain is resident too
	if v, err := strconv.Atoi(h.CPU["threads_per_core"]); err == nil && v > 1 {
		i.CPU.Cores = i.CPU.Threads / v
	}
	hvm := slices.ContainsFunc(h.Capabilities, func(c string) bool { return strings.HasPrefix(c, "hvm-") })
	i.CPU.Virtualization = hypervisor.FactOf(hvm)
	// xen_caps and the flags name hardware-assisted paging where it is known.
	if f := " " + h.CPU["flags"] + " "; strings.Contains(f, " ept ") || strings.Contains(f, " npt ") {
		i.CPU.NestedPaging = hypervisor.FactPresent
	}
	if v, ok := h.Chipset["iommu"]; ok {
		i.IOMMU = hypervisor.FactOf(v == "true")
	}
	switch {
	case !m.Live:
		i.State, i.Detail = hypervisor.HostDown, "the pool's master gets no heartbeat from it"
	case !h.Enabled:
		i.State = hypervisor.HostMaintaining
	}
	return i
}

// EnterMaintenance calls host.disable and, if requested, host.evacuate.
func (d *driver) EnterMaintenance(ctx context.Context, id hypervisor.HostID, r hypervisor.MaintenanceOptions) (hypervisor.DriverTask, error) {
	host, err := d.byUUID(ctx, "host", string(id))
	var h hostRec
	if err == nil {
		err = d.c.Call(ctx, &h, "host.get_record", host)
	}
	if err != nil {
		return nil, err
	}
	vms, err := records[vmRec](ctx, d, "VM", h.Resident)
	if err != nil {
		return nil, err
	}
	n := 0
	for _, v := range vms {
		if !v.ControlDomain {
			n++
		}
	}
	if n > 0 && !r.Evacuate {
		return nil, hypervisor.Errorf(hypervisor.ErrBusy, id.Ref(), "%d machines run on the host: set Evacuate, or move them first", n)
	}
	if !h.Enabled && n == 0 {
		return done(id.Ref()), nil
	}
	if n > 0 {
		if err := d.evacuable(ctx, vms); err != nil {
			return nil, err
		}
	}
	return d.compose(ctx, "maintenance", id.Ref(), capability.HostMaintenance, "", func(ctx context.Context, j *poolJob) (hypervisor.Ref, error) {
		if h.Enabled {
			args := []any{host}
			if d.has(autoEnable) {
				args = append(args, false) // auto_enable: stays disabled over a restart
			}
			if err := d.c.Call(ctx, nil, "host.disable", args...); err != nil {
				return id.Ref(), err
			}
			j.SetBack("the host's state", func(ctx context.Context) error { return d.c.Call(ctx, nil, "host.enable", host) })
		}
		if n == 0 {
			return id.Ref(), nil
		}
		_, err := j.run(ctx, 0.1, 1, "host.evacuate", host)
		return id.Ref(), err
	})
}

// evacuable refuses what host.evacuate would refuse: while HA is on, it moves
// only machines that HA protects.
func (d *driver) evacuable(ctx context.Context, vms map[xapi.Ref]vmRec) error {
	p, _, err := d.pool(ctx)
	if err != nil || !p.HA {
		return err
	}
	for _, v := range vms {
		if !v.ControlDomain && !v.protected() {
			return hypervisor.Errorf(hypervisor.ErrInvalidState, hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name},
				"HA is on and doesn't protect this machine, and then XAPI doesn't evacuate it: give it a restart priority, or move it with Host.Evacuate first")
		}
	}
	return nil
}

// ExitMaintenance calls host.enable.
func (d *driver) ExitMaintenance(ctx context.Context, id hypervisor.HostID) (hypervisor.DriverTask, error) {
	host, err := d.byUUID(ctx, "host", string(id))
	if err != nil {
		return nil, err
	}
	return d.async(ctx, id.Ref(), capability.HostMaintenance, nil, nil, "host.enable", host)
}
