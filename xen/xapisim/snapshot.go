package xapisim

import (
	"slices"
	"strings"
)

// checkpoint suspends a running machine, snapshots it with its RAM and resumes it. A paused one gets a snapshot without RAM
// (xapi_vm_snapshot.ml: only Running is suspended; xapi_vm_clone.ml: new_power_state).
func checkpoint(c *call) (any, error) {
	vm, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	return c.withOp(vm, "checkpoint", func() (any, error) {
		if err := c.licensed("checkpoint"); err != nil {
			return nil, err
		}
		var ram *object
		switch vm.str("power_state") {
		case "Suspended":
			image := c.look("VDI", vm.str("suspend_VDI"))
			if image == nil {
				return nil, fail("SUSPEND_IMAGE_NOT_ACCESSIBLE", vm.str("suspend_VDI"))
			}
			if ram, err = c.branch(image, map[string]any{"is_a_snapshot": true, "snapshot_of": image.ref}); err != nil {
				return nil, err
			}
		case "Running":
			if ram, err = c.saveMemory(vm); err != nil {
				return nil, err
			}
		}
		snap, err := c.replicate(vm, "checkpoint", nil, nil)
		if err != nil {
			if ram != nil {
				c.destroyVDI(ram)
			}
			return nil, err
		}
		if ram != nil {
			c.set(snap, "suspend_VDI", ram.ref)
			c.set(snap, "power_state", "Suspended")
			c.refresh(snap)
		}
		return snap.ref, nil
	})
}

// revertKeeps are the fields that a revert does not change (do_not_copy).
var revertKeeps = strings.Fields(`uuid suspend_VDI power_state parent current_operations allowed_operations metrics guest_metrics
resident_on domid protection_policy snapshot_schedule scheduled_to_be_resident_on snapshots tags affinity groups consoles VBDs VIFs
VGPUs VUSBs VTPMs attached_PCIs is_snapshot_from_vmpp`)

// revert restores one of a VM's snapshots: the VM is then Halted, or Suspended when the snapshot has RAM. It is destructive and can't be
// cancelled: the VM's disks are destroyed before the snapshot's are cloned, so a revert that fails for lack of room leaves a halted VM
// without disks. The snapshot still exists.
func revert(c *call) (any, error) {
	snap, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	if !snap.is("is_a_snapshot") { // in any power state
		return nil, fail("VM_REVERT_FAILED", snap.ref, nullRef)
	}
	if err := c.checkOp(snap, "revert"); err != nil {
		return nil, err
	}
	vm := c.look("VM", snap.str("snapshot_of"))
	if vm == nil {
		if vm, err = c.resurrect(snap); err != nil {
			return nil, err
		}
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
	c.uncancellable = true
	if s := vm.str("power_state"); s != "Halted" {
		c.halt(vm)
	}
	if err := c.work(0.2); err != nil {
		return nil, err
	}
	for _, r := range vm.refs("VBDs") { // of a VM that runs unseen; VBD.destroy refuses
		if c.look("VBD", r).is("currently_attached") {
			return nil, fail("VM_REVERT_FAILED", snap.ref, vm.ref)
		}
	}
	c.dropDisks(vm, snap)
	disks, err := c.duplicateDisks(snap, "clone", nil, nil)
	if err != nil {
		c.undoDisks(disks)
		return nil, revertFailed(err, snap, vm)
	}
	for _, d := range disks {
		if d.fresh {
			c.adopt(c.look("VDI", d.vbd.str("VDI")), d.vdi)
		}
		c.copyVBD(vm, d)
	}
	if image := c.look("VDI", snap.str("suspend_VDI")); image != nil {
		ram, err := c.branch(image, map[string]any{"is_a_snapshot": false, "snapshot_of": nullRef})
		if err != nil {
			return nil, revertFailed(err, snap, vm)
		}
		c.set(vm, "suspend_VDI", ram.ref)
	}
	if err := c.work(0.7); err != nil {
		return nil, err
	}
	for _, x := range []struct{ field, class string }{{"VIFs", "VIF"}, {"VGPUs", "VGPU"}, {"VUSBs", "VUSB"}} {
		for _, r := range vm.refs(x.field) {
			c.remove(c.look(x.class, r))
		}
	}
	c.copyDevices(snap, vm, true)
	c.restoreFields(vm, snap)
	c.set(vm, "parent", snap.ref)
	c.revertMetrics(vm, snap)
	c.set(vm, "power_state", snap.str("power_state"))
	c.refreshDevices(vm)
	return nil, nil
}

func revertFailed(err error, snap, vm *object) error {
	if f, ok := err.(*Failure); ok && (f.Code == srFull || f.Code == "TASK_CANCELLED") {
		return err
	}
	return fail("VM_REVERT_FAILED", snap.ref, vm.ref)
}

// restoreFields restores the fields of the VM's record at the time of the snapshot, including its name.
func (c *call) restoreFields(vm, snap *object) {
	then := c.metadata[snap.ref]
	for i := range vm.class.Fields {
		f := vm.class.Fields[i].Name
		_, one := c.relation["VM"][i]
		_, other := vm.v[i].(*refSet)
		if then == nil || one || other || slices.Contains(revertKeeps, f) {
			continue
		}
		if _, set := then[i].(*refSet); !set {
			c.set(vm, f, then[i])
		}
	}
	c.set(vm, "ha_always_run", false)
}

// revertMetrics gives the VM a copy of the snapshot's VM_metrics (update_metrics).
func (c *call) revertMetrics(vm, snap *object) {
	m := c.look("VM_metrics", snap.str("metrics"))
	if m == nil {
		return
	}
	row := map[string]any{}
	for i := range m.class.Fields {
		if f := m.class.Fields[i].Name; f != "uuid" {
			row[f] = m.v[i]
		}
	}
	c.remove(c.look("VM_metrics", vm.str("metrics")))
	c.set(vm, "metrics", c.newObject("VM_metrics", row).ref)
}

// resurrect recreates the VM of a snapshot, with its old uuid (create_vm_from_snapshot).
func (c *call) resurrect(snap *object) (*object, error) {
	then := c.metadata[snap.ref]
	if then == nil {
		return nil, fail("VM_REVERT_FAILED", snap.ref, snap.str("snapshot_of"))
	}
	gone := snap.str("snapshot_of")
	row := map[string]any{"metrics": c.newObject("VM_metrics", nil).ref, "domid": int64(-1)}
	for _, k := range append(slices.Clone(fromSource), "uuid", "name_label", "other_config") {
		row[k] = then[snap.class.FieldIndex(k)]
	}
	vm := c.newObject("VM", row)
	for _, o := range c.all("VM") {
		if o.str("snapshot_of") == gone {
			c.set(o, "snapshot_of", vm.ref)
		}
	}
	return vm, nil
}

// dropDisks destroys those of the VM's disks that the snapshot has a state of, and removes all its drives. Disks that were added after the
// snapshot lose their drive and stay.
func (c *call) dropDisks(vm, snap *object) {
	had := map[string]bool{}
	for _, vdi := range c.vdisOf(snap) {
		had[vdi.str("snapshot_of")] = true
	}
	for _, r := range vm.refs("VBDs") {
		vbd := c.look("VBD", r)
		vdi := c.look("VDI", vbd.str("VDI"))
		kind := vbd.str("type")
		c.remove(vbd)
		switch {
		case vdi == nil:
		case had[vdi.ref] && kind != "CD":
			c.destroyVDI(vdi)
		default:
			c.refreshVDI(vdi)
		}
	}
}

// adopt makes the new disk the one that the snapshots of the old one are snapshots of.
func (c *call) adopt(from, to *object) {
	old := from.str("snapshot_of")
	for _, r := range c.snapshotsOf(old) {
		c.set(r, "snapshot_of", to.ref)
	}
}

// snapshotsOf finds the snapshots by their own field, since their source may be gone.
func (s *Sim) snapshotsOf(vdi string) []*object {
	var out []*object
	for _, o := range s.all("VDI") {
		if o.str("snapshot_of") == vdi && vdi != nullRef {
			out = append(out, o)
		}
	}
	return out
}
