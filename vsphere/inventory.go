package vsphere

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// propMap holds the properties of one object.
type propMap map[string]any

func props(o types.ObjectContent) propMap {
	m := make(propMap, len(o.PropSet))
	for _, p := range o.PropSet {
		m[p.Name] = p.Val
	}
	return m
}

func get[T any](m propMap, name string) T {
	v, _ := m[name].(T)
	return v
}

func (m propMap) str(name string) string { return get[string](m, name) }
func (m propMap) ref(name string) ref    { return get[ref](m, name) }
func (m propMap) refs(name string) []ref {
	return get[types.ArrayOfManagedObjectReference](m, name).ManagedObjectReference
}

// view is a container view of the session, which the server keeps up to date.
type view struct {
	ref ref
	gen uint64
}

// viewOf returns the view of all objects of a type under the root. It makes a
// call the first time in a session.
func (d *driver) viewOf(ctx context.Context, kind string) (view, error) {
	d.mu.Lock()
	v, ok := d.views[kind]
	root := d.root
	d.mu.Unlock()
	if ok && v.gen == d.session.gen.Load() {
		return v, nil
	}
	gen := d.session.gen.Load()
	res, err := methods.CreateContainerView(ctx, d.rt, &types.CreateContainerView{
		This: *d.vc.ServiceContent.ViewManager, Container: root, Type: []string{kind}, Recursive: true})
	if err != nil {
		return view{}, err
	}
	v = view{res.Returnval, gen}
	d.mu.Lock()
	d.views[kind] = v
	d.mu.Unlock()
	return v, nil
}

func (d *driver) dropView(kind string) {
	d.mu.Lock()
	delete(d.views, kind)
	d.mu.Unlock()
}

// viewSpec asks for properties of all objects in a view.
func viewSpec(v ref, kind string, paths []string) types.PropertyFilterSpec {
	return types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: v, Skip: types.NewBool(true), SelectSet: []types.BaseSelectionSpec{
			&types.TraversalSpec{Type: v.Type, Path: "view"}}}},
		PropSet: []types.PropertySpec{{Type: kind, PathSet: paths}},
	}
}

// hopSpec asks for properties of the objects that one property of another
// object refers to.
func hopSpec(from ref, path, kind string, paths []string) types.PropertyFilterSpec {
	return types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: from, Skip: types.NewBool(true), SelectSet: []types.BaseSelectionSpec{
			&types.TraversalSpec{Type: from.Type, Path: path}}}},
		PropSet: []types.PropertySpec{{Type: kind, PathSet: paths}},
	}
}

func refSpec(refs []ref, paths []string) types.PropertyFilterSpec {
	var s types.PropertyFilterSpec
	var kinds []string
	for _, r := range refs {
		s.ObjectSet = append(s.ObjectSet, types.ObjectSpec{Obj: r})
		if !slices.Contains(kinds, r.Type) {
			kinds = append(kinds, r.Type)
			s.PropSet = append(s.PropSet, types.PropertySpec{Type: r.Type, PathSet: paths})
		}
	}
	return s
}

func (d *driver) collector() ref { return d.vc.ServiceContent.PropertyCollector }

// first asks for a first page of properties.
func (d *driver) first(ctx context.Context, spec types.PropertyFilterSpec, page int32) (types.RetrieveResult, error) {
	req := types.RetrievePropertiesEx{This: d.collector(), SpecSet: []types.PropertyFilterSpec{spec}}
	if page > 0 {
		req.Options.MaxObjects = page
	}
	res, err := methods.RetrievePropertiesEx(ctx, d.rt, &req)
	if err != nil || res.Returnval == nil {
		return types.RetrieveResult{}, err
	}
	return *res.Returnval, nil
}

func (d *driver) more(ctx context.Context, token string) (types.RetrieveResult, error) {
	res, err := methods.ContinueRetrievePropertiesEx(ctx, d.rt, &types.ContinueRetrievePropertiesEx{This: d.collector(), Token: token})
	if err != nil {
		return types.RetrieveResult{}, err
	}
	return res.Returnval, nil
}

// all asks for properties to the last page.
func (d *driver) all(ctx context.Context, spec types.PropertyFilterSpec) ([]types.ObjectContent, error) {
	r, err := d.first(ctx, spec, 0)
	out := r.Objects
	for err == nil && r.Token != "" {
		if r, err = d.more(ctx, r.Token); err == nil {
			out = append(out, r.Objects...)
		}
	}
	return out, err
}

// viewAll reads properties of all objects of a type. It starts over if the
// session was lost in between.
func (d *driver) viewAll(ctx context.Context, kind string, paths []string) ([]types.ObjectContent, error) {
	for try := 0; ; try++ {
		gen := d.session.gen.Load()
		v, err := d.viewOf(ctx, kind)
		if err != nil {
			return nil, err
		}
		out, err := d.all(ctx, viewSpec(v.ref, kind, paths))
		if err == nil || try == 1 || !d.viewLost(err, gen) {
			return out, err
		}
		d.dropView(kind)
	}
}

// viewLost reports whether an error may be that of a view or page that was
// lost with its session.
func (d *driver) viewLost(err error, gen uint64) bool {
	if d.session.gen.Load() != gen {
		return faultOf(err) != nil
	}
	m, ok := faultOf(err).(*types.ManagedObjectNotFound)
	return ok && m.Obj.Type == "ContainerView"
}

// some reads properties of several objects. Those that are gone are left out.
func (d *driver) some(ctx context.Context, refs []ref, paths []string) ([]types.ObjectContent, error) {
	refs = slices.Clone(refs)
	for len(refs) > 0 {
		out, err := d.all(ctx, refSpec(refs, paths))
		if err == nil {
			return out, nil
		}
		m, ok := faultOf(err).(*types.ManagedObjectNotFound)
		if !ok {
			return nil, err
		}
		n := len(refs)
		refs = slices.DeleteFunc(refs, func(r ref) bool { return r == m.Obj })
		if len(refs) == n { // the server doesn't report which, so read them one by one
			var out []types.ObjectContent
			for _, r := range refs {
				one, err := d.all(ctx, refSpec([]ref{r}, paths))
				if err != nil && !isNotFound(err) {
					return nil, err
				}
				out = append(out, one...)
			}
			return out, nil
		}
	}
	return nil, nil
}

// one reads properties of one object.
func (d *driver) one(ctx context.Context, r ref, paths ...string) (propMap, error) {
	out, err := d.all(ctx, refSpec([]ref{r}, paths))
	if err != nil {
		if m, ok := faultOf(err).(*types.ManagedObjectNotFound); ok && m.Obj == r {
			return nil, hypervisor.Errorf(hypervisor.ErrNotFound, refOf(r), "no such %s (%w)", refOf(r).Kind, err)
		}
		return nil, err
	}
	if len(out) == 0 {
		return nil, notFound(refOf(r))
	}
	return props(out[0]), nil
}

// folderBook caches the folders and datacenters for a short while, so that
// the folder of a machine is found without a call for each.
type folderBook struct {
	mu   sync.Mutex
	at   time.Time
	info map[ref]folder
	// clusters maps root pools to their clusters.
	clusters map[ref]ref
}

type folder struct {
	name     string
	parent   ref
	vmFolder ref // of a datacenter
}

var folderAge = 30 * time.Second // tests change it

func (b *folderBook) load(ctx context.Context, d *driver) error {
	info := map[ref]folder{}
	for _, kind := range []string{"Folder", "Datacenter"} {
		paths := []string{"name", "parent"}
		if kind == "Datacenter" {
			paths = append(paths, "vmFolder")
		}
		list, err := d.viewAll(ctx, kind, paths)
		if err != nil {
			return err
		}
		for _, o := range list {
			p := props(o)
			info[o.Obj] = folder{unescape(p.str("name")), p.ref("parent"), p.ref("vmFolder")}
		}
	}
	if d.root.Type == "Datacenter" { // a view leaves out its root
		p, err := d.one(ctx, d.root, "name", "parent", "vmFolder")
		if err != nil {
			return err
		}
		info[d.root] = folder{unescape(p.str("name")), p.ref("parent"), p.ref("vmFolder")}
	}
	list, err := d.viewAll(ctx, "ComputeResource", []string{"resourcePool"})
	if err != nil {
		return err
	}
	clusters := map[ref]ref{}
	for _, o := range list {
		clusters[props(o).ref("resourcePool")] = o.Obj
	}
	b.mu.Lock()
	b.info, b.clusters, b.at = info, clusters, time.Now()
	b.mu.Unlock()
	return nil
}

// fresh makes sure that the folders are known and recent.
func (b *folderBook) fresh(ctx context.Context, d *driver) error {
	b.mu.Lock()
	ok := time.Since(b.at) < folderAge
	b.mu.Unlock()
	if ok {
		return nil
	}
	return b.load(ctx, d)
}

// cluster returns the cluster or lone host that has this root pool, or the
// pool itself.
func (b *folderBook) cluster(pool ref) ref {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c, ok := b.clusters[pool]; ok {
		return c
	}
	return pool
}

// path returns a folder's path from the root: "DC0/vm/team". The root folder
// has none.
func (b *folderBook) path(r ref) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var parts []string
	for range 64 {
		f, ok := b.info[r]
		if !ok {
			break
		}
		parts = append(parts, strings.ReplaceAll(f.name, "/", "%2f"))
		r = f.parent
	}
	slices.Reverse(parts)
	return strings.Join(parts, "/")
}

// find returns the folder with a path. The leading datacenter and "vm" may be
// left out where there is one datacenter.
func (b *folderBook) find(path string) []ref {
	want := strings.Trim(path, "/")
	var out []ref
	b.mu.Lock()
	refs := make([]ref, 0, len(b.info))
	for r := range b.info {
		refs = append(refs, r)
	}
	b.mu.Unlock()
	for _, r := range refs {
		p := b.path(r)
		_, below, _ := strings.Cut(p, "/vm/")
		if r.Type == "Folder" && (p == want || below == want) {
			out = append(out, r)
		}
	}
	return out
}

// machines returns the folder for machines of a datacenter.
func (b *folderBook) machines(dc ref) ref {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.info[dc].vmFolder
}

// datacenterOf returns the datacenter above an object whose parent chain is
// folders.
func (b *folderBook) datacenterOf(r ref) ref {
	b.mu.Lock()
	defer b.mu.Unlock()
	for range 64 {
		if r.Type == "Datacenter" {
			return r
		}
		f, ok := b.info[r]
		if !ok {
			return ref{}
		}
		r = f.parent
	}
	return ref{}
}
