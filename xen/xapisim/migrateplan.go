package xapisim

import "strings"

// The checks of VM.assert_can_migrate follow xen-api's ocaml/xapi/xapi_vm_migrate.ml.

// destination is a parsed dest map.
type destination struct {
	sim  *Sim
	host *object // in sim, which must be locked to read it
	ref  string
	here bool
}

// parseDest reads the result of migrate_receive, here or in another simulated pool of this process.
func (c *call) parseDest(m map[string]any) (destination, error) {
	for _, k := range []string{"host", "session_id", "master", "xenops", "SM"} {
		if _, ok := m[k]; !ok {
			return destination{}, fail("INTERNAL_ERROR", "Not_found")
		}
	}
	ref := m["host"].(string)
	if h := c.look("host", ref); h != nil {
		return destination{c.Sim, h, ref, true}, nil
	}
	master := m["master"].(string)
	other := findSim(master)
	if other == nil {
		return destination{}, fail("CANNOT_CONTACT_HOST", strings.TrimSuffix(strings.TrimPrefix(master, "https://"), "/"))
	}
	return destination{sim: other, ref: ref}, nil
}

// plan is a migration that passed all checks.
type plan struct {
	vm     *object
	dest   destination
	vdis   map[string]string // VDI to SR
	vifs   map[string]string // VIF to network, across pools
	gpus   map[string]string
	copies bool
}

// planMigration does the checks of VM.assert_can_migrate: vm, dest, live, vdi_map, vif_map, options, vgpu_map.
func (c *call) planMigration() (*plan, error) {
	vm, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	if err := c.licensed("storage_xen_motion"); err != nil {
		return nil, err
	}
	dest, err := c.parseDest(c.dict(1))
	if err != nil {
		return nil, err
	}
	p := &plan{vm: vm, dest: dest, vdis: texts(c.dict(3)), vifs: texts(c.dict(4)), gpus: texts(c.dict(6)), copies: c.dict(5)["copy"] == "true"}
	for _, vdi := range c.vdisOf(vm) {
		sr, err := c.srOf(vdi)
		if err != nil {
			return nil, err
		}
		if _, ok := p.vdis[vdi.ref]; !ok && !readOnlySR(sr) {
			return nil, fail("VDI_NOT_IN_MAP", vdi.ref)
		}
	}
	if dest.here {
		if p.copies {
			return nil, fail("OPERATION_NOT_ALLOWED", "Copy mode is disallowed on intra pool storage migration, try efficient alternatives, for example, VM.copy/clone.")
		}
		if err := c.checkMoves(p); err != nil {
			return nil, err
		}
		if err := c.canReceive(vm, dest.host, p); err != nil {
			return nil, err
		}
		if len(p.vifs) > 0 {
			return nil, fail("OPERATION_NOT_ALLOWED", "VIF mapping is not allowed for intra-pool migration -all VIFs must be on the same network")
		}
	} else {
		if err := c.checkMoves(p); err != nil {
			return nil, err
		}
		if state := vm.str("power_state"); p.copies && state != "Halted" {
			return nil, fail("VM_BAD_POWER_STATE", vm.ref, "halted", strings.ToLower(state))
		}
		for _, r := range vm.refs("VIFs") {
			if _, ok := p.vifs[r]; !ok {
				return nil, fail("VIF_NOT_IN_MAP", r)
			}
		}
		if err := c.checkRemote(p); err != nil {
			return nil, err
		}
	}
	for v, sr := range p.vdis {
		vdi := c.look("VDI", v)
		if vdi == nil {
			return nil, fail("HANDLE_INVALID", "VDI", v)
		}
		if vdi.str("SR") == sr {
			continue
		}
		if vdi.is("cbt_enabled") {
			return nil, fail("VDI_CBT_ENABLED", v)
		}
		if _, ok := vdi.dict("sm_config")["key_hash"]; ok {
			return nil, fail("VDI_IS_ENCRYPTED", v)
		}
	}
	return p, nil
}

// checkMoves checks both SRs of each disk that moves.
func (c *call) checkMoves(p *plan) error {
	for v, sr := range p.vdis {
		vdi := c.look("VDI", v)
		if vdi == nil {
			return fail("HANDLE_INVALID", "VDI", v)
		}
		if vdi.str("SR") == sr {
			continue
		}
		from, err := c.srOf(vdi)
		if err != nil {
			return err
		}
		if readOnlySR(from) {
			return fail("SR_DOES_NOT_SUPPORT_MIGRATION", from.ref, "VDI_SNAPSHOT;VDI_MIRROR")
		}
		if p.dest.here {
			to, err := c.get("SR", sr)
			if err != nil {
				return err
			}
			if readOnlySR(to) {
				return fail("SR_DOES_NOT_SUPPORT_MIGRATION", to.ref, "VDI_SNAPSHOT;VDI_MIRROR_IN")
			}
		}
		if vdi.str("on_boot") == "reset" {
			return fail("VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION", v)
		}
	}
	return nil
}

// canReceive is canBoot with the disks at their destination.
func (c *call) canReceive(vm, host *object, p *plan) error {
	if err := c.canBoot(vm, host, true); err != nil {
		if f, ok := err.(*Failure); !ok || f.Code != "VM_REQUIRES_SR" {
			return err
		}
	}
	for _, vdi := range c.vdisOf(vm) {
		sr := vdi.str("SR")
		if to, ok := p.vdis[vdi.ref]; ok {
			sr = to
		}
		if !c.seesSR(host, sr) {
			return fail("VM_REQUIRES_SR", vm.ref, sr)
		}
	}
	return nil
}

func texts(m map[string]any) map[string]string {
	out := map[string]string{}
	for k, v := range m {
		out[k], _ = v.(string)
	}
	return out
}

// migrateReceive prepares to receive a VM from elsewhere.
func migrateReceive(c *call) (any, error) {
	h, err := c.get("host", c.str(0))
	if err != nil {
		return nil, err
	}
	n, err := c.get("network", c.str(1))
	if err != nil {
		return nil, err
	}
	ip := ""
	for _, r := range n.refs("PIFs") {
		if pif := c.look("PIF", r); pif.str("host") == h.ref {
			ip = pif.str("IP")
			if ip == "" {
				return nil, fail("PIF_HAS_NO_NETWORK_CONFIGURATION", pif.ref)
			}
		}
	}
	if ip == "" {
		return nil, fail("HOST_CANNOT_ATTACH_NETWORK", h.ref, n.ref)
	}
	session := c.newObject("session", map[string]any{"this_host": h.ref, "last_active": c.now(), "originator": "host.migrate_receive", "parent": c.session.ref})
	base := "https://" + c.nodes[c.master].web.address()
	return map[string]any{
		"SM": base + "/services/SM?session_id=" + session.ref, "host": h.ref, "xenops": base + "/services/xenops?session_id=" + session.ref,
		"session_id": session.ref, "master": base + "/",
	}, nil
}
