package xapisim

import (
	"cmp"
	"slices"
	"strconv"
)

// Placement follows xen-api's ocaml/xapi/xapi_vm_helpers.ml (assert_can_boot_here, choose_host_for_vm) and memory_check.ml.

var placementHandlers = map[string]handler{
	"VM.assert_can_boot_here": func(c *call) (any, error) {
		vm, err := c.get("VM", c.str(0))
		if err != nil {
			return nil, err
		}
		h, err := c.get("host", c.str(1))
		if err != nil {
			return nil, err
		}
		return nil, c.canBoot(vm, h, true)
	},
	"VM.get_possible_hosts": func(c *call) (any, error) {
		vm, err := c.get("VM", c.str(0))
		if err != nil {
			return nil, err
		}
		out := []any{}
		for _, h := range c.all("host") {
			if c.canBoot(vm, h, true) == nil {
				out = append(out, h.ref)
			}
		}
		return out, nil
	},
	"VM.assert_agile": func(c *call) (any, error) {
		vm, err := c.get("VM", c.str(0))
		if err != nil {
			return nil, err
		}
		return nil, c.agile(vm)
	},
	"VM.maximise_memory": func(c *call) (any, error) {
		vm, err := c.get("VM", c.str(0))
		if err != nil {
			return nil, err
		}
		return max(c.num(1)-overhead(vm), 0), nil
	},
	"VM.compute_memory_overhead": func(c *call) (any, error) {
		vm, err := c.get("VM", c.str(0))
		if err != nil {
			return nil, err
		}
		return overhead(vm), nil
	},
}

// agile reports whether HA could restart the VM anywhere (agility.ml).
func (s *Sim) agile(vm *object) error {
	if len(vm.refs("VGPUs")) > 0 {
		return fail("VM_HAS_VGPU", vm.ref)
	}
	if len(vm.refs("VUSBs")) > 0 {
		return fail("VM_HAS_VUSBS", vm.ref)
	}
	for _, vdi := range s.vdisOf(vm) {
		if sr := s.look("SR", vdi.str("SR")); sr != nil && !sr.is("shared") {
			return fail("HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", sr.ref)
		}
	}
	for _, r := range vm.refs("VIFs") {
		if s.isSRIOV(s.look("network", s.look("VIF", r).str("network"))) {
			return fail("VM_HAS_SRIOV_VIF", vm.ref)
		}
	}
	return nil
}

// overhead is the memory that a VM costs beyond its own: about 1 % and a little for each vCPU (believed; memory.ml has the formula).
func overhead(vm *object) int64 {
	const mib = 1 << 20
	n := vm.num("memory_static_max")/128 + vm.num("VCPUs_max")*mib + 2*mib
	return (n + mib - 1) / mib * mib
}

func (s *Sim) hostMetrics(h *object) *object { return s.look("host_metrics", h.str("metrics")) }

func (s *Sim) hostLive(h *object) bool {
	m := s.hostMetrics(h)
	return m != nil && m.is("live")
}

// freeMemory is the free memory of a host when its guests shrink to dynamic_min.
func (s *Sim) freeMemory(h *object) int64 {
	m := s.hostMetrics(h)
	if m == nil {
		return 0
	}
	free := m.num("memory_total") - h.num("memory_overhead")
	for _, r := range h.refs("resident_VMs") {
		if vm := s.look("VM", r); vm != nil {
			free -= vm.num("memory_dynamic_min") + vm.num("memory_overhead")
		}
	}
	for vm, host := range s.reserved {
		if v := s.look("VM", vm); host == h.ref && v != nil {
			free -= v.num("memory_dynamic_min") + v.num("memory_overhead")
		}
	}
	return max(free, 0)
}

// updateMemory updates the host's memory gauge.
func (s *Sim) updateMemory(h *object) {
	if m := s.hostMetrics(h); m != nil {
		if n := s.freeMemory(h); n != m.num("memory_free") {
			s.set(m, "memory_free", n)
		}
	}
}

// canBoot returns the first reason why a VM can't run on a host, in xapi's order.
func (s *Sim) canBoot(vm, h *object, memory bool) error {
	if err := s.validateStart(vm); err != nil {
		return err
	}
	if !s.hostLive(h) {
		return fail("HOST_NOT_LIVE")
	}
	if !h.is("enabled") && vm.str("resident_on") != h.ref {
		return fail("HOST_DISABLED", h.ref)
	}
	if want := vm.num("hardware_platform_version"); want > s.cfg.MaxHardwareVersion {
		return fail("VM_HOST_INCOMPATIBLE_VIRTUAL_HARDWARE_PLATFORM_VERSION", h.ref, strconv.FormatInt(s.cfg.MaxHardwareVersion, 10), vm.ref, strconv.FormatInt(want, 10))
	}
	for _, vdi := range s.vdisOf(vm) {
		if !s.seesSR(h, vdi.str("SR")) {
			return fail("VM_REQUIRES_SR", vm.ref, vdi.str("SR"))
		}
	}
	if vdi := s.look("VDI", vm.str("suspend_VDI")); vdi != nil && vm.str("power_state") == "Suspended" && !s.seesSR(h, vdi.str("SR")) {
		return fail("VM_REQUIRES_SR", vm.ref, vdi.str("SR"))
	}
	for _, r := range vm.refs("VIFs") {
		if n := s.look("VIF", r).str("network"); !s.seesNetwork(h, n) {
			return fail("VM_REQUIRES_NETWORK", vm.ref, n)
		}
	}
	if err := s.canHaveGPUs(vm, h); err != nil {
		return err
	}
	if err := s.checkSRIOV(vm, h); err != nil && vm.str("resident_on") != h.ref {
		return err
	}
	if k := vm.str("domain_type"); k != "pv" && !slices.Contains(h.refs("capabilities"), "hvm-3.0-x86_64") {
		return fail("VM_HVM_REQUIRED", vm.ref)
	}
	if memory && vm.str("resident_on") != h.ref {
		need, free := vm.num("memory_dynamic_min")+overhead(vm), s.freeMemory(h)
		if free < need {
			return fail("HOST_NOT_ENOUGH_FREE_MEMORY", strconv.FormatInt(need, 10), strconv.FormatInt(free, 10))
		}
	}
	if n := int64(len(h.refs("host_CPUs"))); vm.num("VCPUs_at_startup") > n && n > 0 && s.cfg.StrictPCPUs {
		return fail("HOST_NOT_ENOUGH_PCPUS", strconv.FormatInt(vm.num("VCPUs_at_startup"), 10), strconv.FormatInt(n, 10))
	}
	return nil
}

func (s *Sim) seesSR(h *object, sr string) bool {
	for _, r := range h.refs("PBDs") {
		if p := s.look("PBD", r); p != nil && p.str("SR") == sr && p.is("currently_attached") {
			return true
		}
	}
	return false
}

// seesNetwork reports whether a host has a network: one without PIFs is internal and everywhere; another needs a PIF on the host.
func (s *Sim) seesNetwork(h *object, network string) bool {
	n := s.look("network", network)
	if n == nil {
		return false
	}
	pifs := n.refs("PIFs")
	if len(pifs) == 0 {
		return true
	}
	return slices.ContainsFunc(pifs, func(p string) bool { return s.look("PIF", p).str("host") == h.ref })
}

// allocate finds the host for a start or a resume and reserves the memory there. If there is none, the error is NO_HOSTS_AVAILABLE (seen).
func (c *call) allocate(vm *object, host string) (*object, error) {
	var h *object
	if host != nullRef {
		h = c.look("host", host)
		if h == nil {
			return nil, fail("HANDLE_INVALID", "host", host)
		}
		if err := c.canBoot(vm, h, true); err != nil {
			return nil, err
		}
	} else if h = c.chooseHost(vm, ""); h == nil {
		return nil, fail("NO_HOSTS_AVAILABLE")
	}
	ch := haChange{start: vm, at: h}
	if vm.str("ha_restart_priority") == haRestart && !vm.is("ha_always_run") {
		ch.protect = vm
	}
	if err := c.keepsPlan(ch); err != nil {
		return nil, err
	}
	return h, c.reserve(vm, h)
}

// reserve takes memory and GPUs on a host for a VM that will run there.
func (s *Sim) reserve(vm, h *object) error {
	if err := s.reserveGPUs(vm, h); err != nil {
		return err
	}
	s.reserved[vm.ref] = h.ref
	s.set(vm, "scheduled_to_be_resident_on", h.ref)
	return nil
}

// chooseHost prefers the VM's affinity, then the most free memory.
func (s *Sim) chooseHost(vm *object, except string) *object {
	var fit []*object
	for _, h := range s.all("host") {
		if h.ref != except && s.canBoot(vm, h, true) == nil {
			fit = append(fit, h)
		}
	}
	if len(fit) == 0 {
		return nil
	}
	for _, h := range fit {
		if h.ref == vm.str("affinity") {
			return h
		}
	}
	return slices.MaxFunc(fit, func(a, b *object) int { return cmp.Compare(s.freeMemory(a), s.freeMemory(b)) })
}

// release releases what allocate reserved.
func (s *Sim) release(vm *object) {
	delete(s.reserved, vm.ref)
	s.set(vm, "scheduled_to_be_resident_on", nullRef)
	for _, r := range vm.refs("VGPUs") {
		s.set(s.look("VGPU", r), "scheduled_to_be_resident_on", nullRef)
	}
}
