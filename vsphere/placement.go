package vsphere

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// compute is a cluster or a host outside of clusters.
type compute struct {
	self     ref
	name     string
	pool     ref
	hosts    []ref
	stores   []ref
	networks []ref
	parent   ref
	browser  ref
	drs      bool
}

type hostState struct {
	self   ref
	up     bool
	free   int64 // bytes of memory
	stores []ref

	name       string
	networks   []ref
	resting    bool // in maintenance mode
	connection types.HostSystemConnectionState
}

type storeState struct {
	self ref
	name string
	free int64
	ok   bool
}

// world is the information for a placement decision. It takes three calls.
type world struct {
	computes []compute
	hosts    map[ref]hostState
	stores   map[ref]storeState
}

func (d *driver) computes(ctx context.Context) ([]compute, error) {
	list, err := d.viewAll(ctx, "ComputeResource", []string{"name", "resourcePool", "host", "datastore", "network", "parent", "environmentBrowser", "configurationEx"})
	var out []compute
	for _, o := range list {
		p := props(o)
		c := compute{self: o.Obj, name: unescape(p.str("name")), pool: p.ref("resourcePool"), hosts: p.refs("host"), stores: p.refs("datastore"),
			networks: p.refs("network"), parent: p.ref("parent"), browser: p.ref("environmentBrowser")}
		if x, ok := p["configurationEx"].(types.ClusterConfigInfoEx); ok && x.DrsConfig.Enabled != nil {
			c.drs = *x.DrsConfig.Enabled
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b compute) int { return cmp.Compare(a.self.Value, b.self.Value) })
	return out, err
}

func (d *driver) world(ctx context.Context) (*world, error) {
	w := &world{hosts: map[ref]hostState{}, stores: map[ref]storeState{}}
	var err error
	if w.computes, err = d.computes(ctx); err != nil {
		return nil, err
	}
	list, err := d.viewAll(ctx, "HostSystem", []string{"name", "runtime.connectionState", "runtime.inMaintenanceMode", "summary.hardware.memorySize",
		"summary.quickStats.overallMemoryUsage", "datastore", "network"})
	if err != nil {
		return nil, err
	}
	for _, o := range list {
		p := props(o)
		w.hosts[o.Obj] = hostState{self: o.Obj, stores: p.refs("datastore"), name: p.str("name"), networks: p.refs("network"),
			resting: get[bool](p, "runtime.inMaintenanceMode"), connection: get[types.HostSystemConnectionState](p, "runtime.connectionState"),
			up:   p["runtime.connectionState"] == types.HostSystemConnectionStateConnected && !get[bool](p, "runtime.inMaintenanceMode"),
			free: get[int64](p, "summary.hardware.memorySize") - int64(get[int32](p, "summary.quickStats.overallMemoryUsage"))*hypervisor.MiB}
	}
	if list, err = d.viewAll(ctx, "Datastore", []string{"name", "summary"}); err != nil {
		return nil, err
	}
	for _, o := range list {
		p := props(o)
		s := get[types.DatastoreSummary](p, "summary")
		w.stores[o.Obj] = storeState{self: o.Obj, name: unescape(p.str("name")), free: s.FreeSpace,
			ok: s.Accessible && (s.MaintenanceMode == "" || s.MaintenanceMode == "normal")}
	}
	return w, nil
}

// spot is a decided placement.
type spot struct {
	compute *compute
	folder  ref
	pool    ref
	host    *ref
	store   ref
	name    string // of the datastore
}

// settle decides the placement of a new machine. What the caller left open is
// chosen: the first cluster with room, in it the host with the most free
// memory (unless DRS decides) and the datastore with the most free space.
func (d *driver) settle(ctx context.Context, p hypervisor.Placement) (spot, error) {
	folder, err := d.folderNamed(ctx, p.Folder)
	if err != nil {
		return spot{}, err
	}
	return d.settleIn(ctx, p, folder)
}

// settleIn is like settle, for a folder that was found. An empty one is left
// open.
func (d *driver) settleIn(ctx context.Context, p hypervisor.Placement, folder ref) (spot, error) {
	w, err := d.world(ctx)
	if err != nil {
		return spot{}, err
	}
	var s spot
	if p.Pool != "" {
		if s.pool, err = d.poolOf(ctx, p.Pool, w); err != nil {
			return spot{}, err
		}
	}
	if p.Host != "" {
		if _, ok := w.hosts[hostRef(p.Host)]; !ok {
			return spot{}, notFound(p.Host.Ref())
		}
	}
	if p.Datastore != "" {
		st, ok := w.stores[storeRef(p.Datastore)]
		if !ok {
			return spot{}, notFound(p.Datastore.Ref())
		}
		s.store, s.name = st.self, st.name
	}
	owner := ref{}
	if s.pool.Value != "" {
		pp, err := d.one(ctx, s.pool, "owner")
		if err != nil {
			return spot{}, err
		}
		owner = pp.ref("owner")
	}
	for i := range w.computes {
		c := &w.computes[i]
		if folder.Value != "" && d.folders.datacenterOf(c.parent) != d.folders.datacenterOf(folder) ||
			owner.Value != "" && c.self != owner || p.Host != "" && !slices.Contains(c.hosts, hostRef(p.Host)) ||
			s.store.Value != "" && !slices.Contains(c.stores, s.store) {
			continue
		}
		host, ok := w.pickHost(c, p.Host, s.store)
		if !ok {
			continue
		}
		s.compute = c
		if p.Host != "" || !c.drs {
			s.host = &host.self
		}
		if s.store.Value == "" {
			st, ok := w.pickStore(host)
			if !ok {
				s.compute = nil
				continue
			}
			s.store, s.name = st.self, st.name
		}
		break
	}
	if s.compute == nil {
		return spot{}, hypervisor.Errorf(hypervisor.ErrExhausted, hypervisor.Ref{Kind: hypervisor.ObjectClient},
			"no host that is up fits the placement (host %q, pool %q, datastore %q, folder %q)", p.Host, p.Pool, p.Datastore, p.Folder)
	}
	if s.pool.Value == "" {
		s.pool = s.compute.pool
	}
	if s.folder = folder; folder.Value == "" {
		s.folder = d.folders.machines(d.folders.datacenterOf(s.compute.parent))
	}
	return s, nil
}

func (w *world) pickHost(c *compute, want hypervisor.HostID, store ref) (hostState, bool) {
	var best hostState
	for _, r := range c.hosts {
		h, ok := w.hosts[r]
		if !ok || want != "" && r != hostRef(want) || store.Value != "" && !slices.Contains(h.stores, store) {
			continue
		}
		if want != "" {
			return h, true // the server will report what is wrong with it
		}
		if h.up && (best.self.Value == "" || h.free > best.free) {
			best = h
		}
	}
	return best, best.self.Value != ""
}

func (w *world) pickStore(h hostState) (storeState, bool) {
	var best storeState
	for _, r := range h.stores {
		if s, ok := w.stores[r]; ok && s.ok && (best.self.Value == "" || s.free > best.free || s.free == best.free && s.self.Value < best.self.Value) {
			best = s
		}
	}
	return best, best.self.Value != ""
}

// poolOf returns the resource pool of an ID. For a cluster's ID that is its
// root pool.
func (d *driver) poolOf(_ context.Context, id hypervisor.PoolID, w *world) (ref, error) {
	r := poolRef(id)
	if r.Type == "ResourcePool" || r.Type == "VirtualApp" {
		return r, nil
	}
	for _, c := range w.computes {
		if c.self.Value == r.Value {
			return c.pool, nil
		}
	}
	return ref{}, notFound(hypervisor.Ref{Kind: hypervisor.ObjectPool, ID: string(id)})
}

// folderNamed finds a folder by its path, which is looked up now. An empty
// path has none.
func (d *driver) folderNamed(ctx context.Context, path string) (ref, error) {
	if path == "" {
		return ref{}, d.folders.fresh(ctx, d)
	}
	if err := d.folders.load(ctx, d); err != nil {
		return ref{}, err
	}
	found := d.folders.find(path)
	on := hypervisor.Ref{Kind: "folder", Name: path}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return ref{}, notFound(on)
	}
	var paths []string
	for _, r := range found {
		paths = append(paths, d.folders.path(r))
	}
	slices.Sort(paths)
	return ref{}, hypervisor.Errorf(hypervisor.ErrAmbiguous, on, "these folders have this path: %s; begin it with the datacenter", strings.Join(paths, ", "))
}
