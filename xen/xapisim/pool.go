package xapisim

import (
	"fmt"
)

// The pool follows xen-api's ocaml/xapi/xapi_pool.ml.

var poolHandlers = map[string]handler{
	"pool.set_default_SR":       setter("pool", "default_SR"),
	"pool.set_suspend_image_SR": setter("pool", "suspend_image_SR"),
	"pool.designate_new_master": func(c *call) (any, error) {
		h, err := c.get("host", c.str(0))
		if err != nil {
			return nil, err
		}
		for i, n := range c.nodes {
			if n.host == h.ref && i != c.master {
				c.promote(i)
			}
		}
		return nil, nil
	},
	"pool.get_license_state": func(c *call) (any, error) {
		_, err := c.get("pool", c.str(0))
		return dictOf("edition", c.cfg.Edition, "expiry", "never"), err
	},
	"pool.sync_database": func(*call) (any, error) { return nil, nil },
	"network.destroy": func(c *call) (any, error) {
		n, err := c.get("network", c.str(0))
		if err != nil {
			return nil, err
		}
		if pifs := n.refs("PIFs"); len(pifs) > 0 {
			return nil, fail("NETWORK_CONTAINS_PIF", pifs...)
		}
		for _, r := range n.refs("VIFs") {
			if c.look("VIF", r).is("currently_attached") {
				return nil, fail("NETWORK_CONTAINS_VIF", n.refs("VIFs")...)
			}
		}
		for _, r := range n.refs("VIFs") { // of machines that are off
			c.remove(c.look("VIF", r))
		}
		c.remove(n)
		return nil, nil
	},
	"message.create": func(c *call) (any, error) {
		if k := c.model.ClassFold(c.str(2)); k == nil || c.tables[k.Name].byUUID[c.str(3)] == nil {
			return nil, fail("UUID_INVALID", c.str(2), c.str(3))
		}
		o := c.newObject("message", map[string]any{
			"name": c.str(0), "priority": c.num(1), "cls": c.str(2), "obj_uuid": c.str(3), "timestamp": c.now(), "body": c.str(4),
		})
		return o.ref, nil
	},
	"message.destroy": func(c *call) (any, error) {
		o, err := c.get("message", c.str(0))
		if err == nil {
			c.remove(o)
		}
		return nil, err
	},
	"message.get_all": func(c *call) (any, error) {
		out := []any{}
		for _, o := range c.all("message") {
			out = append(out, o.ref)
		}
		return out, nil
	},
	"message.get_all_records": func(c *call) (any, error) { return records(c.all("message")), nil },
	"message.get_record":      func(c *call) (any, error) { return c.get("message", c.str(0)) },
}

// promote makes another host the coordinator. Sessions and tasks exist only in the coordinator's memory, so both are gone; the rest of the
// database is shared. Its event tokens count from elsewhere, and it remembers no deletions (believed). Work in progress continues, since xenopsd on the hosts does it (believed), but no task reports it.
func (s *Sim) promote(i int) {
	s.master = i
	s.set(s.pool, "master", s.nodes[i].host)
	s.dropSessions()
	s.counted = s.gen
	for _, t := range s.tables {
		t.deleted = nil
	}
	for _, t := range s.all("task") {
		s.remove(t)
	}
}

// Failover makes another host the coordinator: the old one answers HOST_IS_SLAVE from then on, sessions and tasks are gone.
func (s *Sim) Failover() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for step := 1; step < len(s.nodes); step++ {
		i := (s.master + step) % len(s.nodes)
		if s.hostLive(s.look("host", s.nodes[i].host)) {
			s.promote(i)
			return nil
		}
	}
	return fmt.Errorf("xapisim: no other live host")
}

// AbortWork makes every call that is in the middle of its work fail, as when its host went down.
func (s *Sim) AbortWork() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.running {
		if !c.stopped {
			c.stopped, c.aborted = true, true
			close(c.stop)
		}
	}
}

// KillHost takes a host (by uuid, reference or name) down: its machines are halted, and it is not live. With HA, those that want it restart
// where there is room.
func (s *Sim) KillHost(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, err := s.find("host", id)
	for _, o := range s.all("host") {
		if err != nil && o.str("name_label") == id {
			h, err = o, nil
		}
	}
	if err != nil {
		return err
	}
	s.set(s.hostMetrics(h), "live", false)
	var ended []*object
	for _, r := range h.refs("resident_VMs") {
		if vm := s.look("VM", r); !vm.is("is_control_domain") {
			s.halt(vm)
			ended = append(ended, vm)
		}
	}
	s.failOver(ended)
	return nil
}
