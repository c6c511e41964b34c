package xapisim

// Network ports follow xen-api's ocaml/xapi/xapi_pif.ml.

var pifHandlers = map[string]handler{
	"PIF.scan": func(c *call) (any, error) { _, err := c.get("host", c.str(0)); return nil, err }, // there are no new ports
	"PIF.plug": func(c *call) (any, error) {
		pif, err := c.get("PIF", c.str(0))
		if err == nil {
			c.set(pif, "currently_attached", true)
		}
		return nil, err
	},
	"PIF.unplug": func(c *call) (any, error) {
		pif, err := c.get("PIF", c.str(0))
		if err != nil {
			return nil, err
		}
		if pif.is("management") {
			return nil, fail("PIF_IS_MANAGEMENT_INTERFACE", pif.ref)
		}
		for _, r := range c.look("network", pif.str("network")).refs("VIFs") {
			vif := c.look("VIF", r)
			if vif.is("currently_attached") && c.look("VM", vif.str("VM")).str("resident_on") == pif.str("host") {
				return nil, fail("VIF_IN_USE", pif.str("network"), vif.ref)
			}
		}
		c.set(pif, "currently_attached", false)
		return nil, nil
	},
}
