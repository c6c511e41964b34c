package xapisim

import (
	"slices"
	"strconv"
	"strings"
)

// Block devices follow xen-api's ocaml/xapi/xapi_vbd.ml and xapi_vbd_helpers.ml.

var vbdHandlers = map[string]handler{
	"VBD.create": createVBD,
	"VBD.destroy": func(c *call) (any, error) {
		vbd, err := c.get("VBD", c.str(0))
		if err != nil {
			return nil, err
		}
		if vbd.is("currently_attached") {
			return nil, fail("OPERATION_NOT_ALLOWED", "VBD '"+vbd.str("uuid")+"' still attached to '"+c.look("VM", vbd.str("VM")).str("uuid")+"'")
		}
		vdi := c.look("VDI", vbd.str("VDI"))
		c.remove(vbd)
		if vdi != nil {
			c.refreshVDI(vdi)
		}
		return nil, nil
	},
	"VBD.plug":         func(c *call) (any, error) { return c.vbdOp("plug") },
	"VBD.unplug":       func(c *call) (any, error) { return c.vbdOp("unplug") },
	"VBD.unplug_force": func(c *call) (any, error) { return c.vbdOp("unplug_force") },
	"VBD.insert":       func(c *call) (any, error) { return c.vbdOp("insert") },
	"VBD.eject":        func(c *call) (any, error) { return c.vbdOp("eject") },
	"VBD.set_mode": func(c *call) (any, error) {
		vbd, err := c.get("VBD", c.str(0))
		if err != nil {
			return nil, err
		}
		if vm := c.look("VM", vbd.str("VM")); vm.str("power_state") != "Halted" {
			return nil, fail("VM_BAD_POWER_STATE", vm.ref, "halted", strings.ToLower(vm.str("power_state")))
		}
		c.set(vbd, "mode", c.str(1))
		return nil, nil
	},
}

func createVBD(c *call) (any, error) {
	f := c.dict(0)
	vm, err := c.get("VM", f["VM"].(string))
	if err != nil {
		return nil, err
	}
	empty, _ := f["empty"].(bool)
	kind, mode := f["type"].(string), f["mode"].(string)
	vdi := c.look("VDI", f["VDI"].(string))
	if !empty && vdi == nil {
		return nil, fail("HANDLE_INVALID", "VDI", f["VDI"].(string))
	}
	switch {
	case kind == "CD" && mode != "RO":
		return nil, fail("VBD_CDS_MUST_BE_READONLY")
	case kind != "CD" && empty:
		return nil, fail("VBD_NOT_REMOVABLE_MEDIA", "in constructor")
	case mode == "RW" && vdi != nil && vdi.is("read_only"):
		return nil, fail("VDI_READONLY", vdi.ref)
	}
	for task, op := range vm.dict("current_operations") {
		if op == "migrate_send" || op == "pool_migrate" {
			return nil, fail("OTHER_OPERATION_IN_PROGRESS", "VM", vm.ref, op.(string), task)
		}
	}
	dev := f["userdevice"].(string)
	free := c.freeDevices(vm, "VBDs", "VBD", 255)
	number := deviceNumber(dev)
	switch {
	case dev == "autodetect":
		if len(free) == 0 {
			return nil, fail("INVALID_DEVICE", dev)
		}
		dev = free[0]
	case number < 0 || number > 254:
		return nil, fail("INVALID_DEVICE", dev)
	default:
		for _, r := range vm.refs("VBDs") {
			if deviceNumber(c.look("VBD", r).str("userdevice")) == number {
				return nil, fail("DEVICE_ALREADY_EXISTS", dev)
			}
		}
	}
	f["userdevice"], f["currently_attached"], f["device"] = dev, false, ""
	f["metrics"] = c.newObject("VBD_metrics", nil).ref
	if empty {
		f["VDI"] = nullRef
	}
	vbd := c.newObject("VBD", f)
	c.refreshVBD(vbd)
	return vbd.ref, nil
}

// deviceNumber reads "3", "xvdd", "hdd" and "sdd" as the same disk.
func deviceNumber(d string) int {
	if n, err := strconv.Atoi(d); err == nil {
		return n
	}
	for _, p := range []string{"xvd", "hd", "sd"} {
		if rest, ok := strings.CutPrefix(d, p); ok && len(rest) == 1 && rest[0] >= 'a' && rest[0] <= 'z' {
			return int(rest[0] - 'a')
		}
	}
	return -1
}

// checkVBD returns the first reason why an operation can't be done to a block device.
func (s *Sim) checkVBD(vbd *object, op string) error {
	for task, cur := range vbd.dict("current_operations") {
		return fail("OTHER_OPERATION_IN_PROGRESS", "VBD", vbd.ref, cur.(string), task)
	}
	vm := s.look("VM", vbd.str("VM"))
	plugging, unplugging := op == "plug", op == "unplug" || op == "unplug_force"
	state := vm.str("power_state")
	attached := vbd.is("currently_attached") || vbd.is("reserved")
	cd, empty := vbd.str("type") == "CD", vbd.is("empty")
	switch {
	case unplugging && !vbd.is("unpluggable"):
		return fail("VBD_NOT_UNPLUGGABLE", vbd.ref)
	case (op == "insert" || op == "eject") && !cd:
		return fail("VBD_NOT_REMOVABLE_MEDIA", vbd.ref)
	case op == "eject" && empty:
		return fail("VBD_IS_EMPTY", vbd.ref)
	case op == "insert" && !empty:
		return fail("VBD_NOT_EMPTY", vbd.ref)
	case state == "Running" && attached && plugging:
		return fail("DEVICE_ALREADY_ATTACHED", vbd.ref)
	case state == "Running" && !attached && unplugging:
		return fail("DEVICE_ALREADY_DETACHED", vbd.ref)
	case state != "Running" && (plugging || unplugging):
		return fail("VM_BAD_POWER_STATE", vm.ref, "running", strings.ToLower(state))
	}
	if plugging || unplugging {
		for _, cur := range vm.dict("current_operations") {
			if slices.Contains([]string{"clean_shutdown", "hard_shutdown", "suspend", "pause"}, cur.(string)) {
				return fail("OPERATION_NOT_ALLOWED", "Current operation on VM:"+vm.ref+" is "+cur.(string))
			}
		}
		if err := s.checkHotplug(vm, "VBD", "can_use_hotplug_vbd"); err != nil {
			return err
		}
		if cd && s.isHVM(vm) {
			return fail("OPERATION_NOT_ALLOWED", "HVM CDROMs cannot be hotplugged/unplugged, only inserted or ejected")
		}
	}
	if cd && state == "Suspended" && (op == "insert" || op == "eject") {
		return fail("VM_BAD_POWER_STATE", vm.ref, "halted, running", "suspended")
	}
	if plugging && !empty {
		return s.checkShare(vbd, s.look("VDI", vbd.str("VDI")))
	}
	return nil
}

func (s *Sim) isHVM(vm *object) bool {
	m := s.look("VM_metrics", vm.str("metrics"))
	return m == nil || m.str("current_domain_type") == "hvm"
}

// checkHotplug checks hot-plug: a running HVM guest needs drivers (VM_MISSING_PV_DRIVERS) and may report that it can't.
func (s *Sim) checkHotplug(vm *object, what, field string) error {
	if !s.isHVM(vm) {
		return nil
	}
	gm := s.look("VM_guest_metrics", vm.str("guest_metrics"))
	if gm == nil {
		return fail("VM_MISSING_PV_DRIVERS", vm.ref)
	}
	if gm.str(field) == "no" {
		return fail("OPERATION_NOT_ALLOWED", "VM states it does not support "+what+" hotplug.")
	}
	return nil
}

// checkShare checks that a disk has only one writer, unless it is sharable.
func (s *Sim) checkShare(vbd, vdi *object) error {
	if vdi == nil {
		return nil
	}
	need := vbd.str("mode") == "RW"
	for _, r := range vdi.refs("VBDs") {
		o := s.look("VBD", r)
		if o == vbd || !o.is("currently_attached") || vdi.is("sharable") || s.look("VM", o.str("VM")).str("power_state") == "Suspended" {
			continue
		}
		if need || o.str("mode") == "RW" {
			return fail("VDI_IN_USE", vdi.ref)
		}
	}
	if need && vdi.is("read_only") {
		return fail("VDI_READONLY", vdi.ref)
	}
	return nil
}

// checkSharing checks all disks of a VM that will start.
func (s *Sim) checkSharing(vm *object) error {
	for _, r := range vm.refs("VBDs") {
		vbd := s.look("VBD", r)
		vdi := s.look("VDI", vbd.str("VDI"))
		for _, other := range vdi.refs("VBDs") { // of this VM: a start attaches both
			o := s.look("VBD", other)
			if o != vbd && o.str("VM") == vm.ref && !vdi.is("sharable") && vbd.str("mode") == "RW" && o.str("mode") == "RW" {
				return fail("VDI_IN_USE", vdi.ref)
			}
		}
		if err := s.checkShare(vbd, vdi); err != nil {
			var params []string
			if f, ok := err.(*Failure); ok {
				params = f.Params
				if f.Code == "VDI_IN_USE" {
					params = append(slices.Clone(params), "attach")
				}
				return fail(f.Code, params...)
			}
			return err
		}
	}
	return nil
}

func (c *call) vbdOp(op string) (any, error) {
	vbd, err := c.get("VBD", c.str(0))
	if err != nil {
		return nil, err
	}
	if err := c.checkVBD(vbd, op); err != nil {
		return nil, err
	}
	var iso *object
	if op == "insert" {
		if iso, err = c.get("VDI", c.str(1)); err != nil {
			return nil, err
		}
	}
	task := c.taskRef()
	c.put(vbd, "current_operations", task, op)
	err = c.work(1)
	c.drop(vbd, "current_operations", task)
	if err != nil {
		return nil, err
	}
	switch op {
	case "plug":
		c.attachVBD(vbd, true)
	case "unplug", "unplug_force":
		c.attachVBD(vbd, false)
	case "insert":
		c.set(vbd, "VDI", iso.ref)
		c.set(vbd, "empty", false)
	case "eject":
		c.set(vbd, "VDI", nullRef)
		c.set(vbd, "empty", true)
	}
	c.refreshVBD(vbd)
	return nil, nil
}

func (s *Sim) attachVBD(vbd *object, on bool) {
	s.set(vbd, "currently_attached", on)
	dev := ""
	if n := deviceNumber(vbd.str("userdevice")); on && n >= 0 && n < 26 {
		dev = "xvd" + string(rune('a'+n))
	}
	s.set(vbd, "device", dev)
	if vdi := s.look("VDI", vbd.str("VDI")); vdi != nil {
		s.refreshVDI(vdi)
	}
}

// plugAll attaches or detaches every device of a VM.
func (s *Sim) plugAll(vm *object, on bool) {
	for _, r := range vm.refs("VBDs") {
		s.attachVBD(s.look("VBD", r), on)
	}
	for _, r := range vm.refs("VIFs") {
		s.set(s.look("VIF", r), "currently_attached", on)
	}
	for _, r := range vm.refs("VGPUs") {
		s.set(s.look("VGPU", r), "currently_attached", on)
	}
}

// refreshDevices updates the devices' allowed_operations after a change of power state.
func (s *Sim) refreshDevices(vm *object) {
	for _, r := range vm.refs("VBDs") {
		s.refreshVBD(s.look("VBD", r))
	}
	for _, r := range vm.refs("VIFs") {
		s.refreshVIF(s.look("VIF", r))
	}
}

func (s *Sim) refreshVBD(vbd *object) {
	ok := []any{"attach"}
	for _, op := range []string{"eject", "unplug", "unplug_force", "insert", "plug"} {
		if s.checkVBD(vbd, op) == nil {
			ok = append(ok, op)
		}
	}
	if vbd.is("currently_attached") && vbd.str("type") == "Disk" {
		ok = append(ok, "pause", "unpause")
	}
	if have, _ := vbd.val("allowed_operations").([]any); !slices.Equal(have, ok) {
		s.set(vbd, "allowed_operations", ok)
	}
}
