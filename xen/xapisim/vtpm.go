package xapisim

import "strings"

// Virtual TPMs follow xen-api's ocaml/xapi/xapi_vtpm.ml.

var vtpmHandlers = map[string]handler{
	"VTPM.create": func(c *call) (any, error) {
		vm, err := c.get("VM", c.str(0))
		if err != nil {
			return nil, err
		}
		if err := c.checkOp(vm, "create_vtpm"); err != nil {
			return nil, err
		}
		tpm := c.newObject("VTPM", map[string]any{"VM": vm.ref, "persistence_backend": "xapi", "is_unique": c.is(1)})
		c.refresh(vm)
		return tpm.ref, nil
	},
	"VTPM.destroy": func(c *call) (any, error) {
		tpm, err := c.get("VTPM", c.str(0))
		if err != nil {
			return nil, err
		}
		vm := c.look("VM", tpm.str("VM"))
		if state := vm.str("power_state"); state != "Halted" && state != "Suspended" {
			return nil, fail("VM_BAD_POWER_STATE", vm.ref, "halted, suspended", strings.ToLower(state))
		}
		c.remove(tpm)
		c.refresh(vm)
		return nil, nil
	},
}
