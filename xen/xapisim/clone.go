package xapisim

import (
	"maps"
	"slices"
	"strings"
)

// Clones, copies, snapshots and checkpoints follow xen-api's ocaml/xapi/xapi_vm_clone.ml and xapi_vm_snapshot.ml.

var cloneHandlers = map[string]handler{
	"VM.clone": func(c *call) (any, error) { return c.duplicate("clone", nil, nil) },
	"VM.copy": func(c *call) (any, error) {
		var sr *object
		if r := c.str(2); r != nullRef && r != "" {
			var err error
			if sr, err = c.get("SR", r); err != nil {
				return nil, err
			}
		}
		return c.duplicate("copy", sr, nil)
	},
	"VM.snapshot":              func(c *call) (any, error) { return c.duplicate("snapshot", nil, c.strs(2)) },
	"VM.snapshot_with_quiesce": func(c *call) (any, error) { return c.duplicate("snapshot_with_quiesce", nil, nil) },
	"VM.checkpoint":            checkpoint,
	"VM.revert":                revert,
}

// duplicate makes a VM out of another one; op says how the disks are made.
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

// replicate copies the disks, then the record, then the devices. When a disk fails or the task is cancelled, what was made goes again.
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
		row := map[string]any{}
		for _, k := range []string{"userdevice", "bootable", "mode", "type", "unpluggable", "empty", "other_config", "qos_algorithm_type", "qos_algorithm_params"} {
			row[k] = d.vbd.val(k)
		}
		row["VM"], row["VDI"] = out.ref, nullRef
		if d.vdi != nil {
			row["VDI"] = d.vdi.ref
		}
		row["currently_attached"] = op == "checkpoint" // a checkpoint's devices count as attached, like those of any suspended VM
		vbd := c.newObject("VBD", row)
		c.refreshVBD(vbd)
		if d.vdi != nil {
			c.refreshVDI(d.vdi)
		}
	}
	c.copyDevices(vm, out, snapshot)
	c.refresh(out)
	return out, nil
}

func (c *call) undoDisks(disks []madeDisk) {
	for _, d := range disks {
		if d.fresh {
			c.destroyVDI(d.vdi)
		}
	}
}

// duplicateDisks makes the disks: snapshots and clones share the base, copies share nothing. CDs are used as they are.
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
		var made *object
		var err error
		switch op {
		case "copy":
			to := sr
			if to == nil {
				to = c.look("SR", vdi.str("SR"))
			}
			made, err = c.fullCopy(vdi, to, nil)
		case "clone":
			made, err = c.branch(vdi, map[string]any{"is_a_snapshot": false, "snapshot_of": nullRef, "snapshot_time": "19700101T00:00:00Z"})
		default:
			made, err = c.branch(vdi, map[string]any{"is_a_snapshot": true, "snapshot_of": vdi.ref, "snapshot_time": c.now()})
		}
		if err != nil {
			return out, err
		}
		out = append(out, madeDisk{vbd, made, true})
		if op == "copy" {
			if err := c.work(0.1 + 0.8*float64(i+1)/float64(len(vbds))); err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

// fromSource are the fields that a copy takes over (copy_vm_record).
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
		row["snapshot_info"] = dictOf("power-state-at-snapshot", vm.str("power_state"), "disk-snapshot-type", "crash_consistent")
	}
	out := c.newObject("VM", row)
	if snapshot {
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

// checkpoint suspends a running machine, snapshots it with its RAM and resumes it.
func checkpoint(c *call) (any, error) {
	vm, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	return c.withOp(vm, "checkpoint", func() (any, error) {
		if c.restricted("checkpoint") {
			return nil, fail("LICENCE_RESTRICTION", "checkpoint")
		}
		state := vm.str("power_state")
		var ram *object
		if state == "Suspended" {
			image := c.look("VDI", vm.str("suspend_VDI"))
			if image == nil {
				return nil, fail("SUSPEND_IMAGE_NOT_ACCESSIBLE", vm.str("suspend_VDI"))
			}
			if ram, err = c.branch(image, map[string]any{"is_a_snapshot": true, "snapshot_of": image.ref}); err != nil {
				return nil, err
			}
		} else if ram, err = c.saveMemory(vm); err != nil {
			return nil, err
		}
		snap, err := c.replicate(vm, "checkpoint", nil, nil)
		if err != nil {
			c.destroyVDI(ram)
			return nil, err
		}
		c.set(snap, "suspend_VDI", ram.ref)
		c.set(snap, "power_state", "Suspended")
		c.refresh(snap)
		return snap.ref, nil
	})
}

// revertKeeps are the fields that a revert leaves alone (do_not_copy and its extension).
var revertKeeps = strings.Fields(`uuid suspend_VDI power_state parent current_operations allowed_operations metrics guest_metrics
resident_on domid protection_policy snapshot_schedule scheduled_to_be_resident_on snapshots tags affinity groups consoles VBDs VIFs
VGPUs VUSBs VTPMs attached_PCIs is_snapshot_from_vmpp name_label is_a_snapshot is_a_template is_default_template snapshot_of
snapshot_time transportable_snapshot_id children snapshot_info snapshot_metadata blocked_operations crash_dumps appliance`)

// revert brings a VM back to one of its snapshots: the disks are clones of the snapshot's, the machine is Halted, or Suspended when
// the snapshot has RAM. A running machine is stopped.
func revert(c *call) (any, error) {
	snap, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	if err := c.checkOp(snap, "revert"); err != nil {
		return nil, err
	}
	vm := c.look("VM", snap.str("snapshot_of"))
	if vm == nil { // the machine is gone: xapi makes a new one out of the snapshot's metadata; here it is refused
		return nil, fail("HANDLE_INVALID", "VM", snap.str("snapshot_of"))
	}
	if err := c.checkCurrent(vm, "reverting"); err != nil {
		return nil, err
	}
	task := c.taskRef()
	c.put(vm, "current_operations", task, "reverting")
	c.put(snap, "current_operations", task, "revert")
	c.refresh(vm)
	c.refresh(snap)
	defer func() {
		for _, o := range []*object{vm, snap} {
			if !o.gone {
				c.drop(o, "current_operations", task)
				c.refresh(o)
			}
		}
	}()
	if err := c.work(0.2); err != nil {
		return nil, err
	}
	if s := vm.str("power_state"); s != "Halted" {
		c.halt(vm)
	}
	disks, err := c.duplicateDisks(snap, "clone", nil, nil)
	if err == nil {
		err = c.work(0.6)
	}
	if err != nil {
		c.undoDisks(disks)
		return nil, err
	}
	c.replaceDisks(vm, snap, disks)
	for _, x := range []struct{ field, class string }{{"VIFs", "VIF"}, {"VGPUs", "VGPU"}} {
		for _, r := range vm.refs(x.field) {
			c.remove(c.look(x.class, r))
		}
	}
	c.copyDevices(snap, vm, true)
	for i := range vm.class.Fields {
		f := vm.class.Fields[i].Name
		if _, rel := c.relation["VM"][i]; rel || slices.Contains(revertKeeps, f) {
			continue
		}
		if _, set := vm.v[i].(*refSet); set {
			continue
		}
		c.set(vm, f, snap.v[i])
	}
	c.set(vm, "parent", snap.ref)
	if image := c.look("VDI", snap.str("suspend_VDI")); image != nil && snap.str("power_state") == "Suspended" {
		ram, err := c.branch(image, map[string]any{"is_a_snapshot": false, "snapshot_of": nullRef})
		if err != nil {
			return nil, err
		}
		c.set(vm, "suspend_VDI", ram.ref)
		c.set(vm, "power_state", "Suspended")
	}
	if err := c.work(0.95); err != nil {
		return nil, err
	}
	c.refreshDevices(vm)
	return nil, nil
}

// replaceDisks destroys the disks that the snapshot knows and puts the new ones in their place. Disks that came after the snapshot are
// detached and stay, as orphans. All snapshots of a replaced disk become snapshots of the new one.
func (c *call) replaceDisks(vm, snap *object, disks []madeDisk) {
	old := map[string]bool{}
	for _, d := range disks {
		if d.fresh {
			old[c.look("VDI", d.vbd.str("VDI")).str("snapshot_of")] = true
		}
	}
	for _, r := range vm.refs("VBDs") {
		vbd := c.look("VBD", r)
		vdi := c.look("VDI", vbd.str("VDI"))
		c.remove(vbd)
		if vdi != nil && old[vdi.ref] {
			var kin []*object
			for _, k := range vdi.refs("snapshots") {
				kin = append(kin, c.look("VDI", k))
			}
			for _, d := range disks {
				if d.fresh && c.look("VDI", d.vbd.str("VDI")).str("snapshot_of") == vdi.ref {
					for _, k := range kin {
						c.set(k, "snapshot_of", d.vdi.ref)
					}
					break
				}
			}
			c.destroyVDI(vdi)
		} else if vdi != nil {
			c.refreshVDI(vdi)
		}
	}
	for _, d := range disks {
		row := map[string]any{}
		for _, k := range []string{"userdevice", "bootable", "mode", "type", "unpluggable", "empty", "other_config", "qos_algorithm_type", "qos_algorithm_params"} {
			row[k] = d.vbd.val(k)
		}
		row["VM"], row["VDI"] = vm.ref, nullRef
		if d.vdi != nil {
			row["VDI"] = d.vdi.ref
		}
		c.refreshVBD(c.newObject("VBD", row))
	}
	_ = snap
}
