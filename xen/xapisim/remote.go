package xapisim

import (
	"slices"
	"strings"
	"sync"
)

// Migration to another pool. The other pool must be a Sim of the same process: the messages between real hosts (xenops, SM and metadata
// import) are not simulated on the wire. A VM's description is passed as plain values, and two pools are never locked at the same time.

var registry struct {
	sync.Mutex
	sims []*Sim
}

func register(s *Sim) {
	registry.Lock()
	defer registry.Unlock()
	registry.sims = append(registry.sims, s)
}

func unregister(s *Sim) {
	registry.Lock()
	defer registry.Unlock()
	registry.sims = slices.DeleteFunc(registry.sims, func(x *Sim) bool { return x == s })
}

// findSim finds a pool by the address of any of its hosts.
func findSim(url string) *Sim {
	addr := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(url, "https://"), "http://"), "/")
	registry.Lock()
	defer registry.Unlock()
	for _, s := range registry.sims {
		for _, n := range s.nodes {
			if n.web.address() == addr {
				return s
			}
		}
	}
	return nil
}

// outside runs f with the other pool locked instead of this one, if it still exists.
func (c *call) outside(other *Sim, f func() error) error {
	c.mu.Unlock()
	other.mu.Lock()
	err := error(fail("CANNOT_CONTACT_HOST", other.nodes[other.master].addr))
	if !other.closed {
		err = f()
	}
	other.mu.Unlock()
	c.mu.Lock()
	return err
}

// checkRemote does the checks that need the other pool.
func (c *call) checkRemote(p *plan) error {
	version, cpus := p.vm.num("hardware_platform_version"), p.vm.num("VCPUs_at_startup")
	need := p.vm.num("memory_dynamic_min") + overhead(p.vm)
	live := p.vm.str("power_state") == "Running"
	session := c.dict(1)["session_id"].(string)
	vmRef, product := p.vm.ref, c.cfg.ProductVersion
	return c.outside(p.dest.sim, func() error {
		d := p.dest.sim
		if d.look("session", session) == nil {
			return fail("SESSION_INVALID", session)
		}
		h := d.look("host", p.dest.ref)
		switch {
		case h == nil:
			return fail("HANDLE_INVALID", "host", p.dest.ref)
		case d.cfg.ProductVersion < product:
			return fail("VM_HOST_INCOMPATIBLE_VERSION_MIGRATE", vmRef, p.dest.ref)
		case version > d.cfg.MaxHardwareVersion:
			return fail("VM_HOST_INCOMPATIBLE_VIRTUAL_HARDWARE_PLATFORM_VERSION", h.ref, itoa(d.cfg.MaxHardwareVersion), vmRef, itoa(version))
		case !h.is("enabled"):
			return fail("HOST_DISABLED", h.ref)
		case cpus > int64(len(h.refs("host_CPUs"))):
			return fail("HOST_NOT_ENOUGH_PCPUS", itoa(cpus), itoa(int64(len(h.refs("host_CPUs")))))
		case live && d.freeMemory(h) < need:
			return fail("HOST_NOT_ENOUGH_FREE_MEMORY", itoa(need), itoa(d.freeMemory(h)))
		}
		for _, sr := range p.vdis {
			o, err := d.get("SR", sr)
			if err != nil {
				return err
			}
			if readOnlySR(o) {
				return fail("SR_DOES_NOT_SUPPORT_MIGRATION", sr, "VDI_SNAPSHOT;VDI_MIRROR_IN")
			}
			if !d.seesSR(h, sr) {
				return fail("VM_REQUIRES_SR", vmRef, sr)
			}
		}
		for _, n := range p.vifs {
			if _, err := d.get("network", n); err != nil {
				return err
			}
		}
		return nil
	})
}

// sendAway moves (or copies) a VM to another pool: its disks one by one, then the record and the RAM. At the end the source is removed.
// When anything fails before the end, the other pool removes what it has, and the VM continues here.
func (c *call) sendAway(p *plan) (any, error) {
	d, vm := p.dest.sim, p.vm
	made := map[string]string{} // VDI here to VDI there
	undo := func(err error) (any, error) {
		_ = c.outside(d, func() error {
			for _, ref := range made {
				if v := d.look("VDI", ref); v != nil {
					d.destroyVDI(v)
				}
			}
			return nil
		})
		return nil, err
	}
	cargo := c.pack(p)
	all := slices.Clone(cargo.disks)
	for _, snap := range cargo.snaps {
		all = append(all, snap.disks...)
	}
	total := len(all) + 1
	for i, disk := range all {
		if disk.vdi == nil {
			continue
		}
		if err := c.inject(c.name + "/mirror"); err != nil {
			return undo(err)
		}
		err := c.outside(d, func() error {
			sr, err := d.get("SR", disk.sr)
			if err != nil {
				return err
			}
			v, err := d.newVDI(sr, disk.vdi)
			if err == nil {
				made[disk.ref] = v.ref
			}
			return err
		})
		if err == nil {
			err = c.work(0.9 * float64(i+1) / float64(total))
		}
		if err != nil {
			return undo(err)
		}
	}
	if err := c.inject(c.name + "/memory"); err != nil {
		return undo(err)
	}
	if err := c.work(1); err != nil {
		return undo(err)
	}
	if vm.gone || vm.str("power_state") != cargo.state {
		return undo(fail("VM_BAD_POWER_STATE", vm.ref, strings.ToLower(cargo.state), strings.ToLower(vm.str("power_state"))))
	}
	cargo = c.pack(p) // what the guest wrote meanwhile is moved too
	var ref string
	if err := c.outside(d, func() (err error) { ref, err = d.unpack(p.dest.ref, cargo, made); return err }); err != nil {
		return undo(err)
	}
	if !p.copies {
		for _, snap := range cargo.snaps {
			o := c.look("VM", snap.ref)
			for _, vdi := range append(c.vdisOf(o), c.look("VDI", o.str("suspend_VDI"))) {
				if vdi != nil && (p.target(vdi) != "" || vdi.ref == o.str("suspend_VDI")) {
					c.destroyVDI(vdi)
				}
			}
			c.destroyVM(o)
		}
		for _, vdi := range c.vdisOf(vm) {
			if p.vdis[vdi.ref] != "" {
				c.destroyVDI(vdi)
			}
		}
		host := c.look("host", vm.str("resident_on"))
		c.unbind(vm)
		if host != nil {
			c.updateMemory(host)
		}
		c.destroyVM(vm)
	}
	return ref, nil
}
