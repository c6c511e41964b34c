package xapisim

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// Clones, copies, snapshots and checkpoints follow xen-api's ocaml/xapi/xapi_vm_clone.ml and xapi_vm_snapshot.ml.

var cloneHandlers = map[string]handler{
	"VM.clone": func(c *call) (any, error) { return c.duplicate("clone", nil, nil) },
	"VM.copy": func(c *call) (any, error) {
		return c.duplicate("copy", c.look("SR", c.str(2)), nil) // one that is gone is treated as none (a real 24.11)
	},
	"VM.snapshot":              func(c *call) (any, error) { return c.duplicate("snapshot", nil, c.strs(2)) },
	"VM.snapshot_with_quiesce": func(c *call) (any, error) { return c.duplicate("snapshot_with_quiesce", nil, nil) },
	"VM.checkpoint":            checkpoint,
	"VM.revert":                revert,
}

// duplicate makes a VM from another one. op determines how the disks are made.
func (c *call) duplicate(op string, sr *object, ignore []string) (any, error) {
	vm, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	return c.withOp(vm, op, func() (any, error) {
		out, err := c.replicate(vm, op, sr, ignore)
		if err != nil {
			return nil, err
		}
		return out.ref, nil
	})
}

// madeDisk is a disk of the new VM and the device it came from.
type madeDisk struct {
	vbd, vdi *object
	fresh    bool
}

// replicate copies the disks, then the record, then the devices. When a disk fails or the task is cancelled, everything that was made is
// removed.
func (c *call) replicate(vm *object, op string, sr *object, ignore []string) (*object, error) {
	snapshot := op == "snapshot" || op == "checkpoint"
	if err := c.work(0.1); err != nil {
		return nil, err
	}
	disks, err := c.duplicateDisks(vm, op, sr, ignore)
	if err == nil {
		err = c.work(0.95)
	}
	if err != nil {
		c.undoDisks(disks)
		return nil, err
	}
	out := c.copyRecord(vm, op)
	for _, d := range disks {
		c.copyVBD(out, d)
	}
	c.copyDevices(vm, out, snapshot)
	// A clone of a suspended machine is suspended too, with an image of its own; one of a snapshot with RAM is shut down at once.
	if image := c.look("VDI", vm.str("suspend_VDI")); image != nil && (op == "clone" || op == "copy") && !vm.is("is_a_snapshot") {
		ram, err := c.branch(image, nil)
		if err != nil {
			c.undoDisks(disks)
			c.destroyVM(out)
			return nil, err
		}
		c.set(out, "suspend_VDI", ram.ref)
		c.set(out, "power_state", "Suspended")
	}
	c.refresh(out)
	return out, nil
}

// copyVBD gives a VM the device for a disk that was made for it. other_config:owner marks such a disk as belonging to the copy.
func (c *call) copyVBD(out *object, d madeDisk) {
	row := map[string]any{}
	for _, k := range []string{"userdevice", "bootable", "mode", "type", "unpluggable", "empty", "qos_algorithm_type", "qos_algorithm_params"} {
		row[k] = d.vbd.val(k)
	}
	oc := maps.Clone(d.vbd.dict("other_config"))
	if d.vbd.str("type") == "Disk" {
		oc["owner"] = ""
	}
	row["other_config"], row["VM"], row["VDI"] = oc, out.ref, nullRef
	if d.vdi != nil {
		row["VDI"] = d.vdi.ref
	}
	c.refreshVBD(c.newObject("VBD", row))
	if d.vdi != nil {
		c.refreshVDI(d.vdi)
	}
}

func (c *call) undoDisks(disks []madeDisk) {
	for _, d := range disks {
		if d.fresh {
			c.destroyVDI(d.vdi)
		}
	}
}

// duplicateDisks makes the disks: snapshots and clones share the base, copies share nothing. CDs are used as they are. Each disk is made by a
// sub-task, which xapi destroys when it has succeeded (wait_for_clone); those of clones and snapshots take no time here. A cancel ends the
// sub-task and with it the whole, before the copy's image is cleaned up: see abandon.
func (c *call) duplicateDisks(vm *object, op string, sr *object, ignore []string) ([]madeDisk, error) {
	var out []madeDisk
	vbds := vm.refs("VBDs")
	slices.Reverse(vbds)
	for i, r := range vbds {
		vbd := c.look("VBD", r)
		vdi := c.look("VDI", vbd.str("VDI"))
		if slices.Contains(ignore, vbd.str("VDI")) {
			continue
		}
		if vdi == nil || vbd.str("type") == "CD" {
			out = append(out, madeDisk{vbd, vdi, false})
			continue
		}
		var made, sub *object
		var err error
		switch op {
		case "copy":
			to := sr
			if to == nil {
				to, err = c.srOf(vdi)
			}
			if err == nil {
				made, err = c.fullCopy(vdi, to, nil)
			}
			if err == nil {
				sub = c.subTask("Async.VDI.copy")
			}
		case "clone":
			made, err = c.branch(vdi, map[string]any{"is_a_snapshot": false, "snapshot_of": nullRef, "snapshot_time": "19700101T00:00:00Z"})
		default:
			made, err = c.branch(vdi, map[string]any{"is_a_snapshot": true, "snapshot_of": vdi.ref, "snapshot_time": c.now()})
		}
		if err != nil {
			return out, err
		}
		if op == "copy" {
			if err := c.work(0.1 + 0.8*float64(i+1)/float64(len(vbds))); err != nil {
				if c.cfg.LateCopies {
					c.Sim.afterCleanup(func() {
						c.set(sub, "result", "<value>"+made.ref+"</value>")
						c.set(sub, "status", "success")
					})
				} else {
					c.set(sub, "status", "cancelled")
					c.abandon(made, true)
				}
				return out, err
			}
			c.remove(sub)
		}
		out = append(out, madeDisk{vbd, made, true})
	}
	return out, nil
}

// fromSource are the fields that a copy takes from its source (copy_vm_record).
var fromSource = strings.Fields(`name_description user_version affinity memory_overhead memory_target memory_static_max memory_dynamic_max
memory_dynamic_min memory_static_min VCPUs_max VCPUs_at_startup VCPUs_params actions_after_softreboot actions_after_shutdown
actions_after_reboot actions_after_crash HVM_boot_policy HVM_boot_params HVM_shadow_multiplier platform PV_kernel PV_ramdisk PV_args
PV_bootloader PV_bootloader_args PV_legacy_args PCI_bus last_boot_CPU_flags last_booted_record recommendations xenstore_data
ha_restart_priority tags bios_strings hardware_platform_version has_vendor_device reference_label domain_type NVRAM`)

func (c *call) copyRecord(vm *object, op string) *object {
	snapshot := op == "snapshot" || op == "checkpoint"
	row := map[string]any{}
	for _, k := range fromSource {
		row[k] = vm.val(k)
	}
	oc := maps.Clone(vm.dict("other_config"))
	delete(oc, "default_template")
	delete(oc, "xensource_internal")
	if !snapshot {
		oc["mac_seed"] = randomUUID()
	}
	if vm.is("is_a_template") && oc["base_template_name"] == nil {
		oc["base_template_name"] = vm.str("name_label")
	}
	metrics := map[string]any{}
	if m := c.look("VM_metrics", vm.str("metrics")); m != nil {
		for _, k := range []string{"memory_actual", "VCPUs_number", "start_time", "install_time", "last_updated", "current_domain_type", "hvm"} {
			metrics[k] = m.val(k)
		}
	}
	row["name_label"], row["other_config"], row["domid"], row["power_state"] = c.str(1), oc, int64(-1), "Halted"
	row["metrics"] = c.newObject("VM_metrics", metrics).ref
	row["is_a_template"], row["is_a_snapshot"], row["is_default_template"] = snapshot || vm.is("is_a_template"), snapshot, false
	row["generation_id"] = ""
	if gm := c.look("VM_guest_metrics", vm.str("guest_metrics")); gm != nil && snapshot {
		row["guest_metrics"] = c.copyGuestMetrics(gm).ref
	}
	if snapshot {
		row["snapshot_of"], row["snapshot_time"], row["parent"] = vm.ref, c.now(), vm.str("parent")
		row["snapshot_metadata"] = "(('uuid' '" + vm.str("uuid") + "'))" // the real one holds every field
		row["snapshot_info"] = dictOf("power-state-at-snapshot", vm.str("power_state"), "disk-snapshot-type", "crash_consistent")
	}
	out := c.newObject("VM", row)
	if snapshot {
		c.metadata[out.ref] = slices.Clone(vm.v)
		c.set(vm, "parent", out.ref)
	}
	return out
}

func (c *call) copyGuestMetrics(gm *object) *object {
	row := map[string]any{}
	for i := range gm.class.Fields {
		if f := gm.class.Fields[i].Name; f != "uuid" {
			row[f] = gm.v[i]
		}
	}
	return c.newObject("VM_guest_metrics", row)
}

// copyDevices gives the copy its own interfaces and vGPUs: a snapshot keeps the addresses, a clone gets new ones.
func (c *call) copyDevices(vm, out *object, keepMAC bool) {
	for _, r := range vm.refs("VIFs") {
		v := c.look("VIF", r)
		row := map[string]any{}
		for _, k := range []string{"device", "network", "MTU", "other_config", "qos_algorithm_type", "qos_algorithm_params", "locking_mode", "ipv4_allowed", "ipv6_allowed"} {
			row[k] = v.val(k)
		}
		row["VM"], row["MAC"], row["MAC_autogenerated"] = out.ref, v.val("MAC"), v.val("MAC_autogenerated")
		if !keepMAC {
			row["MAC"], row["MAC_autogenerated"] = randomMAC(), true
		}
		row["metrics"] = c.newObject("VIF_metrics", nil).ref
		c.refreshVIF(c.newObject("VIF", row))
	}
	for _, r := range vm.refs("VGPUs") {
		v := c.look("VGPU", r)
		c.newObject("VGPU", map[string]any{
			"VM": out.ref, "GPU_group": v.val("GPU_group"), "device": v.val("device"), "type": v.val("type"), "other_config": v.val("other_config"),
		})
	}
}

// subTask makes a task of a call that the pool sends to itself on behalf of this one.
func (c *call) subTask(label string) *object {
	parent := c.taskRef()
	return c.newObject("task", map[string]any{
		"name_label": label, "created": c.now(), "resident_on": c.nodes[c.node].host, "status": "pending", "type": "<none/>", "backtrace": "()",
		"externalpid": int64(-1), "stunnelpid": int64(-1), "subtask_of": parent,
	})
}

// abandon leaves the image of a cancelled copy attached to a control domain until it is cleaned up. A xapi 24.11 ended VM.copy 0.1 to 0.2 s
// after task.cancel, and the image went 0.2 to 1.5 s later where the coordinator had copied. Where another host had, some images stayed for
// good (3 of 24, and 2 of 5), with the other_config of the source. own is false for an image that the caller of VDI.copy made: it is
// detached in the same way and never removed (believed).
func (c *call) abandon(vdi *object, own bool) {
	s, stays := c.Sim, !own
	if own && len(s.nodes) > 1 && s.cfg.LostCopies > 0 {
		s.copies++
		stays = s.copies%s.cfg.LostCopies == 0
	}
	var dom0 string
	for _, r := range s.look("host", s.nodes[c.node].host).refs("resident_VMs") {
		if s.look("VM", r).is("is_control_domain") {
			dom0 = r
		}
	}
	vbd := s.newObject("VBD", map[string]any{"VM": dom0, "VDI": vdi.ref, "userdevice": "autodetect", "mode": "RW", "type": "Disk", "currently_attached": true})
	s.refreshVDI(vdi)
	s.afterCleanup(func() {
		s.remove(vbd)
		if vdi.gone {
			return
		}
		if s.refreshVDI(vdi); !stays {
			s.destroyVDI(vdi)
		}
	})
}

// afterCleanup does f after Config.CopyCleanup.
func (s *Sim) afterCleanup(f func()) {
	s.wg.Go(func() {
		t := time.NewTimer(s.cfg.CopyCleanup)
		defer t.Stop()
		select {
		case <-t.C:
			s.mu.Lock()
			defer s.mu.Unlock()
			f()
		case <-s.ctx.Done():
		}
	})
}
