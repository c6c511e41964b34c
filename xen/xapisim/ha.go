package xapisim

import (
	"cmp"
	"slices"
)

// High availability follows xen-api's ocaml/xapi/xapi_ha.ml and xapi_ha_vm_failover.ml.

var haHandlers = map[string]handler{
	"pool.enable_ha":  enableHA,
	"pool.disable_ha": disableHA,
	"pool.set_ha_host_failures_to_tolerate": func(c *call) (any, error) {
		p, err := c.get("pool", c.str(0))
		if err != nil {
			return nil, err
		}
		n := c.num(1)
		if n < 0 {
			return nil, fail("INVALID_VALUE", "ha_host_failures_to_tolerate", itoa(n))
		}
		if p.num("ha_plan_exists_for") > 0 { // without any plan, changes are not blocked
			if err := c.keepsPlan(haChange{failures: &n}); err != nil {
				return nil, err
			}
		}
		c.set(p, "ha_host_failures_to_tolerate", n)
		c.updateHA()
		return nil, nil
	},
	"pool.ha_compute_max_host_failures_to_tolerate": func(c *call) (any, error) { return c.mostFailures(), nil },
	"pool.ha_failover_plan_exists":                  func(c *call) (any, error) { return c.planExists(c.num(0), haChange{}), nil },

	"VM.set_ha_restart_priority": func(c *call) (any, error) {
		vm, err := c.get("VM", c.str(0))
		if err != nil {
			return nil, err
		}
		return nil, c.setRestartPriority(vm, c.str(1))
	},
	"VM.set_ha_always_run": func(c *call) (any, error) { // deprecated: it sets the priority
		vm, err := c.get("VM", c.str(0))
		if err != nil {
			return nil, err
		}
		return nil, c.setRestartPriority(vm, map[bool]string{true: haRestart}[c.is(1)])
	},
	"VM.set_order":          notNegative("order"),
	"VM.set_start_delay":    notNegative("start_delay"),
	"VM.set_shutdown_delay": notNegative("shutdown_delay"),
}

// The values of VM.ha_restart_priority, "" besides them.
const (
	haRestart    = "restart"
	haBestEffort = "best-effort"
)

func notNegative(field string) handler {
	set := setter("VM", field)
	return func(c *call) (any, error) {
		if c.num(1) < 0 {
			return nil, fail("INVALID_VALUE", field+" must be non-negative", itoa(c.num(1)))
		}
		return set(c)
	}
}

// The images that HA keeps on shared storage, and their sizes (ocaml/xapi/xha_statefile.ml, ocaml/database/redo_log.ml).
const (
	stateFileSize = 65 << 12
	redoLogSize   = 951 << 22
)

func enableHA(c *call) (any, error) {
	if c.pool.is("ha_enabled") {
		return nil, fail("HA_IS_ENABLED")
	}
	if err := c.licensed("xha"); err != nil {
		return nil, err
	}
	for _, h := range c.all("host") {
		if !c.hostLive(h) {
			return nil, fail("HOST_OFFLINE", h.ref)
		}
	}
	var sr *object
	for _, r := range c.strs(0) {
		o, err := c.get("SR", r)
		if err == nil {
			err = c.holdsStateFile(o)
		}
		if err != nil {
			return nil, err
		}
		if sr == nil {
			sr = o
		}
	}
	for _, o := range c.all("SR") {
		if sr == nil && len(c.strs(0)) == 0 && c.holdsStateFile(o) == nil {
			sr = o
		}
	}
	if sr == nil {
		return nil, fail("CANNOT_CREATE_STATE_FILE")
	}
	state, err := c.newVDI(sr, map[string]any{"name_label": "Statefile for HA", "type": "ha_statefile", "sharable": true, "virtual_size": int64(stateFileSize)})
	if err != nil {
		return nil, err
	}
	log, err := c.newVDI(sr, map[string]any{"name_label": "Metadata for HA", "type": "redo_log", "sharable": true, "virtual_size": int64(redoLogSize)})
	if err == nil {
		err = c.work(1)
	}
	if err != nil {
		c.destroyVDI(state)
		if log != nil {
			c.destroyVDI(log)
		}
		return nil, err
	}
	c.set(c.pool, "ha_statefiles", []any{state.ref})
	c.set(c.pool, "ha_configuration", c.dict(1))
	c.set(c.pool, "ha_cluster_stack", "xhad")
	c.set(c.pool, "ha_enabled", true)
	c.updateHA()
	return nil, nil
}

// holdsStateFile requires an SR that every host has plugged and whose driver can attach disks before xapi runs.
func (s *Sim) holdsStateFile(sr *object) error {
	for _, h := range s.all("host") {
		if !s.seesSR(h, sr.ref) {
			return fail("SR_NO_PBDS", sr.ref)
		}
	}
	for _, sm := range s.all("SM") {
		if _, ok := sm.dict("features")["VDI_GENERATE_CONFIG"]; ok && sm.str("type") == sr.str("type") {
			return nil
		}
	}
	return fail("SR_OPERATION_NOT_SUPPORTED", sr.ref)
}

func disableHA(c *call) (any, error) {
	if !c.pool.is("ha_enabled") {
		return nil, fail("HA_NOT_ENABLED")
	}
	if err := c.work(1); err != nil {
		return nil, err
	}
	c.set(c.pool, "ha_enabled", false)
	for _, vdi := range c.all("VDI") {
		if k := vdi.str("type"); k == "ha_statefile" || k == "redo_log" {
			c.destroyVDI(vdi)
		}
	}
	c.set(c.pool, "ha_statefiles", emptySet)
	c.set(c.pool, "ha_cluster_stack", "")
	return nil, nil
}

// protected reports whether HA keeps the VM running at all costs (vm_should_always_run).
func protected(vm *object) bool {
	return vm.is("ha_always_run") && vm.str("ha_restart_priority") == haRestart
}

func (c *call) setRestartPriority(vm *object, p string) error {
	if p != "" && p != haRestart && p != haBestEffort {
		return fail("INVALID_VALUE", "ha_restart_priority", p)
	}
	if now := vm.str("ha_restart_priority"); now != haRestart && p == haRestart && vm.str("power_state") != "Halted" {
		if err := c.keepsPlan(haChange{protect: vm}); err != nil {
			return err
		}
	}
	c.set(vm, "ha_restart_priority", p)
	if vm.str("power_state") == "Running" {
		c.set(vm, "ha_always_run", p == haRestart)
	}
	c.updateHA()
	return nil
}

// haChange is a pending change of what the planner considers.
type haChange struct {
	failures *int64
	protect  *object // a VM
	disable  *object // a host
	start    *object // a VM that takes memory of the host at
	at       *object
}

// planExists reports whether any n hosts could fail and their protected VMs would fit on the others. A protected VM that can't run anywhere
// else means that there is no plan. Only memory counts; packing is by size, first fit (xapi's binpack.ml is more exact).
func (s *Sim) planExists(n int64, ch haChange) bool {
	var hosts, vms []*object
	for _, h := range s.all("host") {
		if s.hostLive(h) && h.is("enabled") && h != ch.disable {
			hosts = append(hosts, h)
		}
	}
	for _, vm := range s.all("VM") {
		if protected(vm) || vm == ch.protect {
			if s.agile(vm) != nil {
				return false
			}
			vms = append(vms, vm)
		}
	}
	slices.SortFunc(vms, func(a, b *object) int {
		return cmp.Or(cmp.Compare(b.num("memory_dynamic_min"), a.num("memory_dynamic_min")), cmp.Compare(a.created, b.created))
	})
	failed := map[string]bool{}
	var survives func(from int, n int64) bool
	survives = func(from int, n int64) bool {
		if n == 0 || from == len(hosts) {
			return s.packs(hosts, failed, vms, ch)
		}
		for i := from; i < len(hosts); i++ {
			failed[hosts[i].ref] = true
			ok := survives(i+1, n-1)
			delete(failed, hosts[i].ref)
			if !ok {
				return false
			}
		}
		return true
	}
	return survives(0, n)
}

// packs finds room on the remaining hosts for those VMs that run on none of them.
func (s *Sim) packs(hosts []*object, failed map[string]bool, vms []*object, ch haChange) bool {
	free := map[string]int64{}
	for _, h := range hosts {
		if !failed[h.ref] {
			free[h.ref] = s.freeMemory(h)
			if ch.at == h {
				free[h.ref] -= ch.start.num("memory_dynamic_min") + overhead(ch.start)
			}
		}
	}
	for _, vm := range vms {
		at := vm.str("resident_on")
		if vm == ch.start {
			at = ch.at.ref
		}
		if _, left := free[at]; left || at != nullRef && !failed[at] {
			continue
		}
		need, placed := vm.num("memory_dynamic_min")+overhead(vm), false
		for _, h := range hosts {
			if n, left := free[h.ref]; left && n >= need && !placed {
				free[h.ref], placed = n-need, true
			}
		}
		if !placed {
			return false
		}
	}
	return true
}

func (s *Sim) mostFailures() int64 {
	n := int64(0)
	for n+1 < int64(len(s.nodes)) && s.planExists(n+1, haChange{}) {
		n++
	}
	return n
}

// keepsPlan refuses a change that would invalidate an existing plan (assert_configuration_change_preserves_ha_plan).
func (s *Sim) keepsPlan(ch haChange) error {
	if !s.pool.is("ha_enabled") || s.pool.is("ha_allow_overcommit") {
		return nil
	}
	now := s.pool.num("ha_plan_exists_for")
	then := now
	if ch.failures != nil {
		then = *ch.failures
	}
	if s.planExists(now, haChange{}) && !s.planExists(then, ch) {
		return fail("HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN")
	}
	return nil
}

// updateHA updates the pool's record (update_pool_status).
func (s *Sim) updateHA() {
	if !s.pool.is("ha_enabled") {
		return
	}
	want := s.pool.num("ha_host_failures_to_tolerate")
	ok := s.planExists(want, haChange{})
	if !ok {
		want = min(want, s.mostFailures())
	}
	s.set(s.pool, "ha_overcommitted", !ok)
	s.set(s.pool, "ha_plan_exists_for", want)
}

// guard sets whether HA protects a VM, as starting and stopping it do.
func (s *Sim) guard(vm *object, on bool) {
	if want := on && vm.str("ha_restart_priority") == haRestart; vm.is("ha_always_run") != want {
		s.set(vm, "ha_always_run", want)
	}
}

// failOver restarts VMs that ended with their host, or by themselves: the protected ones by their order, then, if possible, the others that
// want it (restart_auto_run_vms).
func (s *Sim) failOver(ended []*object) {
	if !s.pool.is("ha_enabled") {
		return
	}
	order := func(vm *object) uint64 { return uint64(vm.num("order")) } // a negative one is the last
	slices.SortStableFunc(ended, func(a, b *object) int { return cmp.Compare(order(a), order(b)) })
	for _, first := range []bool{true, false} {
		for _, vm := range ended {
			wanted := protected(vm) || !first && vm.str("ha_restart_priority") == haBestEffort
			if vm.str("power_state") != "Halted" || !wanted {
				continue
			}
			if to := s.chooseHost(vm, ""); to != nil && s.reserve(vm, to) == nil {
				s.memory[vm.ref] = "boot-" + randomUUID()
				s.boot(vm, to, false)
			}
		}
	}
	s.updateHA()
}
