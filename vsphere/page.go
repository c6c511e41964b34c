package vsphere

import (
	"context"
	"slices"
	"sync"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// pageSize is the number of machines in one answer unless the caller prefers
// another number. Larger pages save no time and cost memory.
const pageSize = 500

// pageBook remembers listings that are under way, so that one that loses its
// session continues where it was.
type pageBook struct {
	mu    sync.Mutex
	open  map[string]*listing
	order []string
}

const openPages = 64

// listing is a listing under way.
type listing struct {
	query hypervisor.VMQuery
	gen   uint64
	given []ref
}

func (b *pageBook) put(token string, l *listing) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open == nil {
		b.open = map[string]*listing{}
	}
	b.open[token] = l
	b.order = append(b.order, token)
	if len(b.order) > openPages {
		delete(b.open, b.order[0])
		b.order = b.order[1:]
	}
}

func (b *pageBook) take(token string) *listing {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.open[token]
	if l != nil {
		delete(b.open, token)
		b.order = slices.DeleteFunc(b.order, func(t string) bool { return t == token })
	}
	return l
}

// ListVMs reads one page through a container view and the property collector.
// A look-up by name reads that one property of all machines first.
func (d *driver) ListVMs(ctx context.Context, q hypervisor.VMQuery) (hypervisor.VMPage, error) {
	paths := d.vmPaths(q.Detail)
	if q.Detail == hypervisor.DetailBrief && (q.Templates || q.Name != "") {
		paths = append(slices.Clone(paths), notePath, basePath)
	}
	switch {
	case q.Page != "":
		l := d.pages.take(q.Page)
		if l == nil {
			l = &listing{query: q, gen: d.session.gen.Load()}
		}
		r, err := d.more(ctx, q.Page)
		if err == nil {
			return d.page(ctx, q, l, r, nil)
		}
		if !d.viewLost(err, l.gen) && faultOf(err) == nil || len(l.given) == 0 {
			d.pages.put(q.Page, l)
			return hypervisor.VMPage{}, err
		}
		// The server has lost the page with the session: start again, and
		// leave out what was returned already.
		rest, err := d.viewAll(ctx, "VirtualMachine", paths)
		if err != nil {
			return hypervisor.VMPage{}, err
		}
		return d.page(ctx, q, l, types.RetrieveResult{Objects: rest}, l.given)
	case q.Host != "":
		list, err := d.all(ctx, hopSpec(hostRef(q.Host), "vm", "VirtualMachine", paths))
		if isNotFound(err) { // a host that does not exist has no machines
			return hypervisor.VMPage{}, nil
		}
		if err != nil {
			return hypervisor.VMPage{}, err
		}
		return d.page(ctx, q, nil, types.RetrieveResult{Objects: list}, nil)
	case q.Name != "" || q.Token != "":
		var refs []ref
		var err error
		if q.Token != "" {
			var id hypervisor.VMID
			if id, err = d.findToken(ctx, q.Token); id != "" {
				refs = append(refs, vmRef(id))
			}
		} else {
			refs, err = d.matching(ctx, "name", func(v any) bool { s, _ := v.(string); return unescape(s) == q.Name })
		}
		if err != nil || len(refs) == 0 {
			return hypervisor.VMPage{}, err
		}
		list, err := d.some(ctx, refs, paths)
		if err != nil {
			return hypervisor.VMPage{}, err
		}
		return d.page(ctx, q, nil, types.RetrieveResult{Objects: list}, nil)
	}
	size := int32(pageSize)
	if q.PageSize > 0 {
		size = int32(min(q.PageSize, 100000))
	}
	for try := 0; ; try++ {
		gen := d.session.gen.Load()
		v, err := d.viewOf(ctx, "VirtualMachine")
		if err != nil {
			return hypervisor.VMPage{}, err
		}
		r, err := d.first(ctx, viewSpec(v.ref, "VirtualMachine", paths), size)
		if err == nil {
			return d.page(ctx, q, &listing{query: q, gen: gen}, r, nil)
		}
		if try == 1 || !d.viewLost(err, gen) {
			return hypervisor.VMPage{}, err
		}
		d.dropView("VirtualMachine")
	}
}

// matching returns the machines whose property matches.
func (d *driver) matching(ctx context.Context, path string, match func(any) bool) ([]ref, error) {
	list, err := d.viewAll(ctx, "VirtualMachine", []string{path})
	var out []ref
	for _, o := range list {
		if len(o.PropSet) == 1 && match(o.PropSet[0].Val) {
			out = append(out, o.Obj)
		}
	}
	return out, err
}

// page makes machines from one answer. An object without a name vanished
// while it was read.
func (d *driver) page(ctx context.Context, q hypervisor.VMQuery, l *listing, r types.RetrieveResult, skip []ref) (hypervisor.VMPage, error) {
	out := hypervisor.VMPage{VMs: make([]hypervisor.VMInfo, 0, len(r.Objects)), Next: r.Token}
	conv, err := d.converter(ctx, q.Detail, r.Objects)
	if err != nil {
		return hypervisor.VMPage{}, err
	}
	var gone map[ref]bool
	if len(skip) > 0 {
		gone = make(map[ref]bool, len(skip))
		for _, s := range skip {
			gone[s] = true
		}
	}
	for i := range r.Objects {
		v := conv.vm(&r.Objects[i])
		if v.Name == "" || v.Template != q.Templates || gone[r.Objects[i].Obj] ||
			q.Name != "" && v.Name != q.Name || q.Host != "" && v.Host != q.Host || q.Token != "" && q.Detail == hypervisor.DetailFull && v.Token != q.Token {
			continue
		}
		out.VMs = append(out.VMs, v)
	}
	if r.Token != "" && l != nil {
		for i := range r.Objects {
			l.given = append(l.given, r.Objects[i].Obj)
		}
		d.pages.put(r.Token, l)
	}
	return out, nil
}
