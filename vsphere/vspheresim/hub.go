package vspheresim

import (
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// hub reports to the collectors of all sessions which objects changed.
type hub struct {
	receiver
	mu       sync.Mutex
	sessions map[string][]*collector
	root     map[string]*collector // the collector that every session has from the start
}

func newHub(s *Sim) *hub {
	h := &hub{sessions: map[string][]*collector{}, root: map[string]*collector{}}
	h.bind(s, ref{Type: "Vspheresim", Value: "vspheresim-hub"})
	s.registry().AddHandler(h)
	return h
}

func (h *hub) add(session string, c *collector) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sessions[session] = append(h.sessions[session], c)
}

func (h *hub) remove(c *collector) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, list := range h.sessions {
		for i, x := range list {
			if x == c {
				h.sessions[id] = append(append([]*collector(nil), list[:i]...), list[i+1:]...)
				return
			}
		}
	}
}

// collectorOf is the property collector that a session has from the start.
func (s *Sim) collectorOf(ctx *simulator.Context) ref {
	s.hub.mu.Lock()
	c := s.hub.root[ctx.Session.Key]
	s.hub.mu.Unlock()
	if c != nil {
		return c.Self
	}
	c = s.newCollector(ctx)
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if other := s.hub.root[ctx.Session.Key]; other != nil {
		return other.Self
	}
	s.hub.root[ctx.Session.Key] = c
	return c.Self
}

// forgetSession ends the waiting calls of a session that is gone.
func (s *Sim) forgetSession(id string) {
	s.hub.mu.Lock()
	list := s.hub.sessions[id]
	delete(s.hub.sessions, id)
	delete(s.hub.root, id)
	s.hub.mu.Unlock()
	for _, c := range list {
		c.stop()
	}
}

func (h *hub) all() []*collector {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []*collector
	for _, list := range h.sessions {
		out = append(out, list...)
	}
	return out
}

func (h *hub) PutObject(_ *simulator.Context, obj mo.Reference)                  { h.tell(obj.Reference(), true) }
func (h *hub) RemoveObject(_ *simulator.Context, r types.ManagedObjectReference) { h.tell(r, true) }

func (h *hub) UpdateObject(_ *simulator.Context, obj mo.Reference, changes []types.PropertyChange) {
	// A list of references that changed may bring other objects into a filter, or take them out.
	lists := false
	for _, c := range changes {
		switch v := c.Val.(type) {
		case []ref, *types.ArrayOfManagedObjectReference:
			lists = lists || c.Name != "recentTask"
		case ref, *ref:
			_ = v
			lists = true
		case nil:
			lists = true
		}
	}
	h.tell(obj.Reference(), lists)
}

func (h *hub) tell(r ref, lists bool) {
	for _, c := range h.all() {
		if c.note(r, lists) {
			c.signal()
		}
	}
}

// note marks an object as changed in the filters that it concerns, and reports whether there are any.
func (c *collector) note(r ref, lists bool) (concerned bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.filters {
		traverses := false
		for _, o := range f.Spec.ObjectSet {
			traverses = traverses || len(o.SelectSet) > 0
			if o.Obj == r {
				f.changed[r] = true
				concerned = true
			}
		}
		if traverses {
			f.changed[r] = true
			f.rescan = f.rescan || lists
			concerned = true
		}
	}
	return concerned
}
