package xen

import (
	"context"
	"iter"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// inventory holds whole classes, each from one call, whatever the number of
// objects.
type inventory struct {
	vms      map[xapi.Ref]vmRec
	metrics  map[xapi.Ref]vmMetricsRec
	hosts    map[xapi.Ref]hostRec
	guests   map[xapi.Ref]guestMetricsRec
	vbds     map[xapi.Ref]vbdRec
	vdis     map[xapi.Ref]vdiRec
	srs      map[xapi.Ref]srRec
	vifs     map[xapi.Ref]vifRec
	networks map[xapi.Ref]networkRec
	vgpus    map[xapi.Ref]vgpuRec
	pgpus    map[xapi.Ref]pgpuRec
	pcis     map[xapi.Ref]pciRec
	types    map[xapi.Ref]vgpuTypeRec
	gone     map[xapi.Ref]bool // metrics that machines refer to
	pool     hypervisor.PoolID
	read     time.Time
}

// load reads the classes that a listing needs, in parallel.
func (d *driver) load(parent context.Context) (*inventory, error) {
	inv := &inventory{pool: d.id, read: time.Now()}
	g, ctx := errgroup.WithContext(parent)
	get := func(into any, class string) {
		g.Go(func() error { return d.c.Call(ctx, into, class+".get_all_records") })
	}
	get(&inv.vms, "VM")
	get(&inv.metrics, "VM_metrics")
	get(&inv.hosts, "host")
	get(&inv.guests, "VM_guest_metrics")
	get(&inv.vbds, "VBD")
	get(&inv.vdis, "VDI")
	get(&inv.srs, "SR")
	get(&inv.vifs, "VIF")
	get(&inv.networks, "network")
	get(&inv.vgpus, "VGPU")
	get(&inv.pgpus, "PGPU")
	get(&inv.pcis, "PCI")
	get(&inv.types, "VGPU_type")
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return inv, d.blame(parent, inv, maps.Values(inv.vms))
}

// blame finds the machines that may run unseen because their metrics are gone.
func (d *driver) blame(ctx context.Context, inv *inventory, vms iter.Seq[vmRec]) (err error) {
	var missing []xapi.Ref
	for v := range vms {
		if _, ok := inv.metrics[v.Metrics]; !ok && v.suspect() {
			missing = append(missing, v.Metrics)
		}
	}
	inv.gone, err = d.absent(ctx, missing)
	return err
}

// of reads what belongs to some machines, in parallel. The number of calls
// depends on the parts of the machines, not on the pool.
func (d *driver) of(parent context.Context, vms ...vmRec) (*inventory, error) {
	inv := &inventory{pool: d.id, read: time.Now(), metrics: map[xapi.Ref]vmMetricsRec{}, guests: map[xapi.Ref]guestMetricsRec{}, vbds: map[xapi.Ref]vbdRec{},
		vdis: map[xapi.Ref]vdiRec{}, vifs: map[xapi.Ref]vifRec{}, vgpus: map[xapi.Ref]vgpuRec{}, vms: map[xapi.Ref]vmRec{}, hosts: map[xapi.Ref]hostRec{},
		srs: map[xapi.Ref]srRec{}, networks: map[xapi.Ref]networkRec{}}
	g, ctx := errgroup.WithContext(parent)
	g.SetLimit(parallelism)
	all := func(into any, class string) {
		g.Go(func() error { return d.c.Call(ctx, into, class+".get_all_records") })
	}
	if slices.ContainsFunc(vms, func(v vmRec) bool { return len(v.VGPUs) > 0 || len(v.AttachedPCIs) > 0 || v.Other[pciKey] != "" }) {
		all(&inv.hosts, "host")
		all(&inv.pgpus, "PGPU")
		all(&inv.pcis, "PCI")
		all(&inv.types, "VGPU_type")
	}
	one := fetcher{d: d, g: g, ctx: ctx}
	for _, v := range vms {
		fetch(&one, inv.metrics, "VM_metrics", v.Metrics)
		fetch(&one, inv.guests, "VM_guest_metrics", v.GuestMetrics)
		fetch(&one, inv.vms, "VM", v.Parent)
		for _, r := range v.VIFs {
			fetch(&one, inv.vifs, "VIF", r)
		}
		for _, r := range v.VGPUs {
			fetch(&one, inv.vgpus, "VGPU", r)
		}
		for _, r := range v.VBDs {
			fetch(&one, inv.vbds, "VBD", r)
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if err := d.each(parent, func(f *fetcher) {
		for _, b := range inv.vbds {
			fetch(f, inv.vdis, "VDI", b.VDI)
		}
	}); err != nil {
		return nil, err
	}
	// Only the uuid of these is returned, and their records list everything
	// that is on them: thousands of references in a big pool.
	var hosts []xapi.Ref
	for _, v := range vms {
		for _, h := range []xapi.Ref{v.ResidentOn, v.Affinity} {
			if _, ok := inv.hosts[h]; !ok {
				hosts = append(hosts, h)
			}
		}
	}
	if err := d.blame(parent, inv, slices.Values(vms)); err != nil {
		return nil, err
	}
	return inv, d.each(parent, func(f *fetcher) {
		for _, h := range hosts {
			fetchUUID(f, h, "host", func(u string) { inv.hosts[h] = hostRec{hostID: hostID{u}} })
		}
		for _, b := range inv.vdis {
			fetchUUID(f, b.SR, "SR", func(u string) { inv.srs[b.SR] = srRec{UUID: u} })
		}
		for _, b := range inv.vifs {
			fetchUUID(f, b.Network, "network", func(u string) { inv.networks[b.Network] = networkRec{UUID: u} })
		}
	})
}

// surroundings reads what a machine from another pool finds in this one.
func (d *driver) surroundings(ctx context.Context) (*inventory, error) {
	inv := &inventory{pool: d.id, read: time.Now()}
	g, ctx := errgroup.WithContext(ctx)
	for class, into := range map[string]any{"host": &inv.hosts, "SR": &inv.srs, "network": &inv.networks, "PGPU": &inv.pgpus, "VGPU_type": &inv.types} {
		g.Go(func() error { return d.c.Call(ctx, into, class+".get_all_records") })
	}
	return inv, g.Wait()
}
