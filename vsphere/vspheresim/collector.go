package vspheresim

import (
	"context"
	"reflect"
	"strconv"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// collector is a property collector that waits for updates as described in API reference PropertyCollector.WaitForUpdatesEx. That of govmomi's
// simulator loses updates when two sessions, or two calls of one session, wait at the same time; it reads objects that others change; and it accepts
// any version. Everything except waiting is still left to it.
type collector struct {
	mo.PropertyCollector

	sim    *Sim
	native *simulator.PropertyCollector

	busy    sync.Mutex // held by the call that waits
	mu      sync.Mutex
	cancel  context.CancelFunc
	wake    chan struct{}
	filters []*filter
	version int
	last    *types.UpdateSet // the answer to version lastFrom, for a client that lost it
	lastFor string
	pending []types.PropertyFilterUpdate
}

func (*collector) Lock()   {}
func (*collector) Unlock() {}

// filter is one thing that a collector watches.
type filter struct {
	mo.PropertyFilter
	owner *collector

	known   map[ref]map[string]types.AnyType
	changed map[ref]bool
	rescan  bool // the set of objects may have changed
}

func (*filter) Lock()   {}
func (*filter) Unlock() {}

func (s *Sim) newCollector(ctx *simulator.Context) *collector {
	c := &collector{sim: s, native: new(simulator.PropertyCollector), wake: make(chan struct{}, 1)}
	c.Self.Type = "PropertyCollector"
	ctx.Session.Put(c)
	c.native.Self = c.Self
	s.hub.add(ctx.Session.Key, c)
	return c
}

func (c *collector) CreatePropertyCollector(ctx *simulator.Context, _ *types.CreatePropertyCollector) soap.HasFault {
	return &methods.CreatePropertyCollectorBody{Res: &types.CreatePropertyCollectorResponse{Returnval: c.sim.newCollector(ctx).Self}}
}

func (c *collector) DestroyPropertyCollector(ctx *simulator.Context, _ *types.DestroyPropertyCollector) soap.HasFault {
	c.stop()
	c.mu.Lock()
	filters := c.filters
	c.filters = nil
	c.mu.Unlock()
	for _, f := range filters {
		ctx.Session.Remove(ctx, f.Self)
	}
	c.sim.hub.remove(c)
	ctx.Session.Remove(ctx, c.Self)
	return &methods.DestroyPropertyCollectorBody{Res: new(types.DestroyPropertyCollectorResponse)}
}

func (c *collector) CreateFilter(ctx *simulator.Context, req *types.CreateFilter) soap.HasFault {
	f := &filter{owner: c, rescan: true, known: map[ref]map[string]types.AnyType{}, changed: map[ref]bool{}}
	f.Self.Type = "PropertyFilter"
	f.Spec, f.PartialUpdates = req.Spec, req.PartialUpdates
	ctx.Session.Put(f)
	c.mu.Lock()
	c.filters = append(c.filters, f)
	c.Filter = append(c.Filter, f.Self)
	c.mu.Unlock()
	c.signal()
	return &methods.CreateFilterBody{Res: &types.CreateFilterResponse{Returnval: f.Self}}
}

func (f *filter) DestroyPropertyFilter(ctx *simulator.Context, _ *types.DestroyPropertyFilter) soap.HasFault {
	c := f.owner
	c.mu.Lock()
	c.Filter = without(c.Filter, f.Self)
	for i, x := range c.filters {
		if x == f {
			c.filters = append(append([]*filter(nil), c.filters[:i]...), c.filters[i+1:]...)
			break
		}
	}
	c.mu.Unlock()
	ctx.Session.Remove(ctx, f.Self)
	return &methods.DestroyPropertyFilterBody{Res: new(types.DestroyPropertyFilterResponse)}
}

// RetrievePropertiesEx reads the objects while none of them changes. It returns a copy.
func (c *collector) RetrievePropertiesEx(ctx *simulator.Context, req *types.RetrievePropertiesEx) soap.HasFault {
	c.sim.mu.RLock()
	defer c.sim.mu.RUnlock()
	return c.native.RetrievePropertiesEx(ctx, req)
}

func (c *collector) RetrieveProperties(ctx *simulator.Context, req *types.RetrieveProperties) soap.HasFault {
	c.sim.mu.RLock()
	defer c.sim.mu.RUnlock()
	return c.native.RetrieveProperties(ctx, req)
}

func (c *collector) ContinueRetrievePropertiesEx(ctx *simulator.Context, req *types.ContinueRetrievePropertiesEx) soap.HasFault {
	return c.native.ContinueRetrievePropertiesEx(ctx, req)
}

func (*collector) CancelRetrievePropertiesEx(*simulator.Context, *types.CancelRetrievePropertiesEx) soap.HasFault {
	return &methods.CancelRetrievePropertiesExBody{Res: new(types.CancelRetrievePropertiesExResponse)}
}

func (c *collector) CancelWaitForUpdates(*simulator.Context, *types.CancelWaitForUpdates) soap.HasFault {
	c.stop()
	return &methods.CancelWaitForUpdatesBody{Res: new(types.CancelWaitForUpdatesResponse)}
}

func (c *collector) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		c.cancel()
	}
}

func (c *collector) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// maxUpdates is the number of objects in one answer that vCenter never exceeds (the default of its policy, as govmomi measured it).
const maxUpdates = 100

// WaitForUpdatesEx: API reference PropertyCollector.WaitForUpdatesEx; InvalidCollectorVersion "if the specified version is not valid". A client that
// repeats its last version gets the last answer again, because it may have lost it.
func (c *collector) WaitForUpdatesEx(ctx *simulator.Context, req *types.WaitForUpdatesEx) soap.HasFault {
	body := new(methods.WaitForUpdatesExBody)
	wait, cancel := context.WithCancel(c.sim.ctx)
	defer cancel()
	// A second call ends the first one. API reference: CancelWaitForUpdates, "a WaitForUpdates call in progress is ended by another".
	c.stop()
	c.busy.Lock()
	defer c.busy.Unlock()
	c.mu.Lock()
	c.cancel = cancel
	c.mu.Unlock()

	limit, once := maxUpdates, false
	var over <-chan time.Time
	if o := req.Options; o != nil {
		if o.MaxObjectUpdates > 0 && int(o.MaxObjectUpdates) < limit {
			limit = int(o.MaxObjectUpdates)
		}
		if m := o.MaxWaitSeconds; m != nil {
			once = *m <= 0
			t := time.NewTimer(time.Duration(*m) * time.Second)
			defer t.Stop()
			over = t.C
		}
	}
	switch {
	case req.Version == "":
		c.reset()
	case req.Version == c.lastFor && c.last != nil:
		body.Res = &types.WaitForUpdatesExResponse{Returnval: c.last}
		return body
	case req.Version != strconv.Itoa(c.version):
		body.Fault_ = soapFault(new(types.InvalidCollectorVersion))
		return body
	}
	for {
		if fault := c.collect(ctx); fault != nil {
			body.Fault_ = soapFault(fault)
			return body
		}
		if len(c.pending) > 0 || req.Version == "" {
			body.Res = &types.WaitForUpdatesExResponse{Returnval: c.page(req.Version, limit)}
			return body
		}
		if once {
			body.Res = new(types.WaitForUpdatesExResponse)
			return body
		}
		select {
		case <-c.wake:
		case <-over:
			body.Res = new(types.WaitForUpdatesExResponse)
			return body
		case <-wait.Done():
			body.Fault_ = soapFault(new(types.RequestCanceled))
			return body
		}
	}
}

// WaitForUpdates is the call of old clients.
func (c *collector) WaitForUpdates(ctx *simulator.Context, req *types.WaitForUpdates) soap.HasFault {
	body := new(methods.WaitForUpdatesBody)
	res := c.WaitForUpdatesEx(ctx, &types.WaitForUpdatesEx{This: req.This, Version: req.Version}).(*methods.WaitForUpdatesExBody)
	if res.Fault_ != nil {
		body.Fault_ = res.Fault_
		return body
	}
	body.Res = &types.WaitForUpdatesResponse{Returnval: *res.Res.Returnval}
	return body
}

// page cuts an answer of at most limit objects from the pending updates.
func (c *collector) page(from string, limit int) *types.UpdateSet {
	c.version++
	set := &types.UpdateSet{Version: strconv.Itoa(c.version)}
	for len(c.pending) > 0 && limit > 0 {
		p := &c.pending[0]
		n := min(limit, len(p.ObjectSet))
		set.FilterSet = append(set.FilterSet, types.PropertyFilterUpdate{Filter: p.Filter, ObjectSet: p.ObjectSet[:n:n]})
		limit -= n
		if n == len(p.ObjectSet) {
			c.pending = c.pending[1:]
		} else {
			p.ObjectSet = p.ObjectSet[n:]
		}
	}
	if len(c.pending) > 0 {
		set.Truncated = types.NewBool(true)
	}
	c.last, c.lastFor = set, from
	return set
}

func (c *collector) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending, c.last = nil, nil
	for _, f := range c.filters {
		f.known, f.changed, f.rescan = map[ref]map[string]types.AnyType{}, map[ref]bool{}, true
	}
}

// collect compares the present values in the filters with those that the client knows.
func (c *collector) collect(ctx *simulator.Context) types.BaseMethodFault {
	c.mu.Lock()
	filters := append([]*filter(nil), c.filters...)
	c.mu.Unlock()
	for _, f := range filters {
		c.mu.Lock()
		rescan, changed := f.rescan, f.changed
		f.rescan, f.changed = false, map[ref]bool{}
		c.mu.Unlock()
		var list []types.ObjectUpdate
		if rescan {
			objects, fault := c.retrieve(ctx, f.Spec)
			if fault != nil {
				return fault
			}
			list = f.compareAll(objects)
		}
		for r := range changed {
			if _, ok := f.known[r]; !ok || rescan {
				continue
			}
			spec := types.PropertyFilterSpec{PropSet: f.Spec.PropSet, ObjectSet: []types.ObjectSpec{{Obj: r}}}
			objects, fault := c.retrieve(ctx, spec)
			if fault != nil || len(objects) == 0 {
				list = append(list, f.leave(r))
				continue
			}
			list = append(list, f.compare(objects[0])...)
		}
		if len(list) > 0 {
			c.pending = append(c.pending, types.PropertyFilterUpdate{Filter: f.Self, ObjectSet: list})
		}
	}
	return nil
}

func (c *collector) retrieve(ctx *simulator.Context, spec types.PropertyFilterSpec) ([]types.ObjectContent, types.BaseMethodFault) {
	res := c.RetrievePropertiesEx(ctx, &types.RetrievePropertiesEx{This: c.Self, SpecSet: []types.PropertyFilterSpec{spec}})
	if f := res.Fault(); f != nil {
		fault, _ := f.VimFault().(types.BaseMethodFault)
		if fault == nil {
			fault = &types.SystemErrorFault{Reason: f.String}
		}
		return nil, fault
	}
	return res.(*methods.RetrievePropertiesExBody).Res.Returnval.Objects, nil
}

func (f *filter) compareAll(objects []types.ObjectContent) []types.ObjectUpdate {
	var out []types.ObjectUpdate
	seen := map[ref]bool{}
	for _, o := range objects {
		seen[o.Obj] = true
		out = append(out, f.compare(o)...)
	}
	for r := range f.known {
		if !seen[r] {
			out = append(out, f.leave(r))
		}
	}
	return out
}

func (f *filter) leave(r ref) types.ObjectUpdate {
	delete(f.known, r)
	return types.ObjectUpdate{Obj: r, Kind: types.ObjectUpdateKindLeave}
}

func (f *filter) compare(o types.ObjectContent) []types.ObjectUpdate {
	old, known := f.known[o.Obj]
	u := types.ObjectUpdate{Obj: o.Obj, Kind: types.ObjectUpdateKindModify}
	if !known {
		u.Kind, u.MissingSet = types.ObjectUpdateKindEnter, o.MissingSet
	}
	now := make(map[string]types.AnyType, len(o.PropSet))
	for _, p := range o.PropSet {
		now[p.Name] = p.Val
		if was, ok := old[p.Name]; !ok || !reflect.DeepEqual(was, p.Val) {
			u.ChangeSet = append(u.ChangeSet, types.PropertyChange{Name: p.Name, Op: types.PropertyChangeOpAssign, Val: p.Val})
		}
	}
	for name := range old {
		if _, ok := now[name]; !ok {
			u.ChangeSet = append(u.ChangeSet, types.PropertyChange{Name: name, Op: types.PropertyChangeOpRemove})
		}
	}
	f.known[o.Obj] = now
	if known && len(u.ChangeSet) == 0 {
		return nil
	}
	return []types.ObjectUpdate{u}
}
