package xapisim

import (
	"cmp"
	"errors"
	"net"
	"slices"
	"strconv"
)

// Workload Balancing follows xen-api's ocaml/xapi/workload_balancing.ml. How the server computes its stars is not known; here they are by
// free memory.

var wlbHandlers = map[string]handler{
	// wlb_url, wlb_username, wlb_password, xenserver_username, xenserver_password: the server logs in to the pool by the last two.
	"pool.initialize_wlb": func(c *call) (any, error) {
		if err := c.licensed("wlb"); err != nil {
			return nil, err
		}
		if _, _, err := net.SplitHostPort(c.str(0)); err != nil {
			return nil, fail("WLB_URL_INVALID", c.str(0))
		}
		if c.str(3) != c.cfg.User || c.str(4) != c.cfg.Password {
			return nil, fail("WLB_XENSERVER_AUTHENTICATION_FAILED")
		}
		c.set(c.pool, "wlb_url", c.str(0))
		c.set(c.pool, "wlb_username", c.str(1))
		return nil, nil
	},
	"pool.deconfigure_wlb": func(c *call) (any, error) {
		if c.pool.str("wlb_url") == "" {
			return nil, fail("WLB_NOT_INITIALIZED")
		}
		c.set(c.pool, "wlb_url", "")
		c.set(c.pool, "wlb_username", "")
		c.set(c.pool, "wlb_enabled", false)
		return nil, nil
	},
	"pool.retrieve_wlb_recommendations": func(c *call) (any, error) {
		if err := c.wlbEnabled(); err != nil {
			return nil, err
		}
		return c.balance(), nil
	},
	"VM.retrieve_wlb_recommendations": func(c *call) (any, error) {
		vm, err := c.get("VM", c.str(0))
		if err != nil {
			return nil, err
		}
		if err := c.wlbEnabled(); err != nil {
			return nil, err
		}
		out := map[string]any{}
		for _, h := range c.all("host") {
			if !c.hostLive(h) { // only_for_all_live_hosts_or_raise
				continue
			}
			var f *Failure
			if errors.As(c.canBoot(vm, h, true), &f) {
				out[h.ref] = []any{"WLB", "0.0", "0", f.Code}
				continue
			}
			stars := 5 * float64(c.freeMemory(h)) / float64(max(c.hostMetrics(h).num("memory_total"), 1))
			out[h.ref] = []any{"WLB", strconv.FormatFloat(max(stars, 0.5), 'f', 1, 64), "1"}
		}
		return out, nil
	},
}

func (c *call) wlbEnabled() error {
	if err := c.licensed("wlb"); err != nil {
		return err
	}
	if c.pool.str("wlb_url") == "" {
		return fail("WLB_NOT_INITIALIZED")
	}
	if !c.pool.is("wlb_enabled") {
		return fail("WLB_DISABLED")
	}
	return nil
}

// balance is what a WLB server might recommend: moving a machine from the host with the least free memory to the one with the most, in the
// words of get_opt_recommendations (xen-api ocaml/xapi/workload_balancing.ml).
func (c *call) balance() any {
	hosts := slices.DeleteFunc(c.all("host"), func(h *object) bool { return !c.hostLive(h) })
	byFree := func(a, b *object) int { return cmp.Compare(c.freeMemory(a), c.freeMemory(b)) }
	from, to := slices.MinFunc(hosts, byFree), slices.MaxFunc(hosts, byFree)
	for _, r := range from.refs("resident_VMs") {
		vm := c.look("VM", r)
		if gap := c.freeMemory(to) - c.freeMemory(from); !vm.is("is_control_domain") && gap > 2*vm.num("memory_dynamic_max") {
			return map[string]any{r: []any{"WLB", to.str("uuid"), "1", "1", "Memory"}}
		}
	}
	return emptyMap
}
