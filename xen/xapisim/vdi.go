package xapisim

import (
	"slices"
	"strings"
)

// Disks follow xen-api's ocaml/xapi/xapi_vdi.ml.

var vdiHandlers = map[string]handler{
	"VDI.create": func(c *call) (any, error) {
		f := c.dict(0)
		if f["type"] == "cbt_metadata" {
			return nil, fail("VDI_INCOMPATIBLE_TYPE", "", "cbt_metadata")
		}
		sr, err := c.get("SR", f["SR"].(string))
		if err != nil {
			return nil, err
		}
		if err := c.work(1); err != nil {
			return nil, err
		}
		row := map[string]any{}
		for _, k := range []string{"name_label", "name_description", "virtual_size", "type", "sharable", "read_only", "other_config", "xenstore_data", "sm_config", "tags"} {
			row[k] = f[k]
		}
		vdi, err := c.newVDI(sr, row)
		if err != nil {
			return nil, err
		}
		return vdi.ref, nil
	},
	"VDI.destroy": vdiOp("destroy", func(c *call, vdi *object) (any, error) { c.destroyVDI(vdi); return nil, nil }),
	"VDI.snapshot": vdiOp("snapshot", func(c *call, vdi *object) (any, error) {
		snap, err := c.branch(vdi, map[string]any{"is_a_snapshot": true, "snapshot_of": vdi.ref, "snapshot_time": c.now(), "read_only": false})
		if err != nil {
			return nil, err
		}
		return snap.ref, nil
	}),
	"VDI.clone": vdiOp("clone", func(c *call, vdi *object) (any, error) {
		out, err := c.branch(vdi, map[string]any{"is_a_snapshot": false, "snapshot_of": nullRef})
		if err != nil {
			return nil, err
		}
		return out.ref, nil
	}),
	"VDI.copy": func(c *call) (any, error) {
		vdi, err := c.get("VDI", c.str(0))
		if err != nil {
			return nil, err
		}
		into := c.look("VDI", c.str(3))
		var sr *object
		if into == nil {
			if sr, err = c.get("SR", c.str(1)); err != nil {
				return nil, err
			}
		}
		return c.withVDI(vdi, "copy", func() (any, error) {
			if err := c.work(0.1); err != nil {
				return nil, err
			}
			if into != nil {
				if into.num("virtual_size") < vdi.num("virtual_size") {
					return nil, fail("VDI_TOO_SMALL", into.ref, itoa(vdi.num("virtual_size")))
				}
				if err := c.work(1); err != nil {
					c.abandon(into, false)
					return nil, err
				}
				c.disks[into.ref] = c.newLayer(nil)
				c.disks[into.ref].blocks = c.disks[vdi.ref].content()
				return into.ref, nil
			}
			out, err := c.fullCopy(vdi, sr, nil)
			if err != nil {
				return nil, err
			}
			if err := c.work(1); err != nil {
				c.abandon(out, true)
				return nil, err
			}
			return out.ref, nil
		})
	},
	"VDI.resize":        vdiOp("resize", resize),
	"VDI.resize_online": func(c *call) (any, error) { return nil, fail("MESSAGE_REMOVED") },
	"VDI.forget":        vdiOp("forget", func(c *call, vdi *object) (any, error) { c.destroyVDI(vdi); return nil, nil }),
	"VDI.update":        vdiOp("update", func(*call, *object) (any, error) { return nil, nil }),
	"VDI.revert": func(c *call) (any, error) { // no SR type here supports it; VM.revert falls back to clones, as with a real one
		vdi, err := c.get("VDI", c.str(0))
		if err != nil {
			return nil, err
		}
		return nil, fail("SR_OPERATION_NOT_SUPPORTED", vdi.str("SR"))
	},
	"VDI.set_name_label":       inSR(setter("VDI", "name_label")),
	"VDI.set_name_description": inSR(setter("VDI", "name_description")),
	"VDI.set_read_only":        notForUsers,
	"VDI.set_sharable":         notForUsers,
	"VDI.set_allow_caching":    setter("VDI", "allow_caching"),
	"VDI.set_on_boot": vdiOp("set_on_boot", func(c *call, vdi *object) (any, error) {
		c.set(vdi, "on_boot", c.str(1))
		c.put(vdi, "sm_config", "on_boot", c.str(1))
		return nil, nil
	}),
	"VDI.enable_cbt":  vdiOp("enable_cbt", func(c *call, v *object) (any, error) { c.set(v, "cbt_enabled", true); return nil, nil }),
	"VDI.disable_cbt": vdiOp("disable_cbt", func(c *call, v *object) (any, error) { c.set(v, "cbt_enabled", false); return nil, nil }),
}

// vdiOp returns the handler of a message whose first argument is the VDI and whose work is one step.
func vdiOp(op string, f func(*call, *object) (any, error)) handler {
	return func(c *call) (any, error) {
		vdi, err := c.get("VDI", c.str(0))
		if err != nil {
			return nil, err
		}
		return c.withVDI(vdi, op, func() (any, error) {
			if err := c.work(1); err != nil {
				return nil, err
			}
			return f(c, vdi)
		})
	}
}

// inSR returns the handler of a message that a host of the disk's SR carries out (forward_vdi_op).
func inSR(h handler) handler {
	return func(c *call) (any, error) {
		if vdi := c.look("VDI", c.str(0)); vdi != nil {
			if _, err := c.srOf(vdi); err != nil {
				return nil, err
			}
		}
		return h(c)
	}
}

// notForUsers answers messages that only the storage manager may send.
func notForUsers(*call) (any, error) { return nil, fail("PERMISSION_DENIED", "") }

func resize(c *call, vdi *object) (any, error) {
	size := (c.num(1) + vhdStep - 1) / vhdStep * vhdStep
	if size < vdi.num("virtual_size") { // SM refuses to shrink
		return nil, fail("SR_BACKEND_FAILURE_79", "", "VDI Invalid size [opterr=shrinking not allowed]", "")
	}
	sr := c.look("SR", vdi.str("SR"))
	if thick(sr) {
		if err := c.fits(sr, size-vdi.num("virtual_size")); err != nil {
			return nil, err
		}
		c.set(vdi, "physical_utilisation", size)
	}
	c.set(vdi, "virtual_size", size)
	c.account(sr)
	return nil, nil
}

var (
	liveVDIOps = strings.Fields("snapshot resize_online blocked clone revert_to mirror enable_cbt disable_cbt data_destroy")
	noCBTOps   = []string{"mirror", "set_on_boot"}
	plainSROps = []string{"copy", "forget", "update", "destroy"} // what an SR without features still does
)

// checkVDI returns the first reason why an operation can't be done to a disk, in the order of check_operation_error.
func (s *Sim) checkVDI(vdi *object, op string) error {
	for task, cur := range vdi.dict("current_operations") {
		if cur != "copy" && (cur != "mirror" || op != "destroy") {
			return fail("OTHER_OPERATION_IN_PROGRESS", "VDI", vdi.ref, cur.(string), task)
		}
	}
	sr, err := s.srOf(vdi)
	if err != nil {
		return err
	}
	if !slices.Contains(liveVDIOps, op) {
		for _, r := range vdi.refs("VBDs") {
			vbd := s.look("VBD", r)
			if vbd != nil && (vbd.is("currently_attached") || vbd.is("reserved")) && (op != "copy" || vbd.str("mode") == "RW") {
				return fail("VDI_IN_USE", vdi.ref, op)
			}
		}
	}
	if readOnlySR(sr) && !slices.Contains(plainSROps, op) {
		return fail("SR_OPERATION_NOT_SUPPORTED", sr.ref)
	}
	if vdi.is("cbt_enabled") && slices.Contains(noCBTOps, op) {
		return fail("VDI_CBT_ENABLED", vdi.ref)
	}
	kept := s.pool.is("ha_enabled") && (vdi.str("type") == "ha_statefile" || vdi.str("type") == "redo_log")
	if kept && slices.Contains([]string{"destroy", "forget", "resize"}, op) {
		return fail("HA_IS_ENABLED")
	}
	switch op {
	case "destroy":
		if sr.str("type") == "udev" {
			return fail("VDI_IS_A_PHYSICAL_DEVICE", vdi.ref)
		}
		if sr.is("is_tools_sr") {
			return fail("SR_OPERATION_NOT_SUPPORTED", sr.ref)
		}
	case "snapshot":
		if vdi.is("sharable") {
			return fail("VDI_IS_SHARABLE", vdi.ref)
		}
		for _, cur := range vdi.dict("current_operations") {
			if cur == "copy" {
				return fail("OPERATION_NOT_ALLOWED", "Snapshot operation not allowed during copy.")
			}
		}
		fallthrough
	case "copy":
		if vdi.str("on_boot") == "reset" {
			return fail("VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION")
		}
	case "enable_cbt", "disable_cbt":
		if vdi.is("is_a_snapshot") {
			return fail("OPERATION_NOT_ALLOWED", "VDI is a snapshot: "+vdi.ref)
		}
	}
	return nil
}

// withVDI runs f as an operation of a disk.
func (c *call) withVDI(vdi *object, op string, f func() (any, error)) (any, error) {
	if err := c.checkVDI(vdi, op); err != nil {
		return nil, err
	}
	if sr := c.look("SR", vdi.str("SR")); op != "forget" {
		if err := c.attachedSR(sr); err != nil {
			return nil, err
		}
	}
	task := c.taskRef()
	c.put(vdi, "current_operations", task, op)
	v, err := f()
	if !vdi.gone {
		c.drop(vdi, "current_operations", task)
		c.refreshVDI(vdi)
	}
	return v, err
}

// refreshVDI lists the operations that are allowed now.
func (s *Sim) refreshVDI(vdi *object) {
	ok := []any{}
	for _, op := range []string{"clone", "copy", "destroy", "disable_cbt", "enable_cbt", "forget", "mirror", "resize", "resize_online", "set_on_boot", "snapshot", "update"} {
		if s.checkVDI(vdi, op) == nil {
			ok = append(ok, op)
		}
	}
	if have, _ := vdi.val("allowed_operations").([]any); !slices.Equal(have, ok) {
		s.set(vdi, "allowed_operations", ok)
	}
}
