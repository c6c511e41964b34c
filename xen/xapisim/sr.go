package xapisim

import "slices"

// Storage repositories and their plugs follow xen-api's ocaml/xapi/xapi_sr.ml and xapi_pbd.ml.

var srHandlers = map[string]handler{
	"SR.create": func(c *call) (any, error) {
		h, err := c.get("host", c.str(0))
		if err != nil {
			return nil, err
		}
		kind, content, shared := c.str(5), c.str(6), c.is(7)
		if !slices.ContainsFunc(c.all("SM"), func(o *object) bool { return o.str("type") == kind }) {
			return nil, fail("SR_UNKNOWN_DRIVER", kind)
		}
		if err := c.work(1); err != nil {
			return nil, err
		}
		hosts := []*object{h}
		if shared {
			hosts = c.all("host")
		}
		sr := c.newSR(c.str(3), kind, content, shared, hosts)
		c.set(sr, "name_description", c.str(4))
		if n := c.num(2); n > 0 {
			c.set(sr, "physical_size", n)
		}
		return sr.ref, nil
	},
	"SR.introduce": func(c *call) (any, error) {
		sr := c.newObject("SR", map[string]any{
			"uuid": c.str(0), "name_label": c.str(1), "name_description": c.str(2), "type": c.str(3), "content_type": c.str(4), "shared": c.is(5),
			"physical_size": c.cfg.SRSize,
		})
		return sr.ref, nil
	},
	"SR.destroy": func(c *call) (any, error) {
		sr, err := c.unpluggedSR()
		if err != nil {
			return nil, err
		}
		if len(sr.refs("VDIs")) > 0 {
			return nil, fail("SR_NOT_EMPTY", sr.ref)
		}
		return nil, c.dropSR(sr)
	},
	"SR.forget": func(c *call) (any, error) {
		sr, err := c.unpluggedSR()
		if err != nil {
			return nil, err
		}
		return nil, c.dropSR(sr)
	},
	"SR.scan": func(c *call) (any, error) {
		sr, err := c.get("SR", c.str(0))
		if err == nil {
			err = c.attachedSR(sr)
		}
		if err != nil {
			return nil, err
		}
		c.account(sr)
		return nil, nil
	},
	"SR.probe": func(c *call) (any, error) { // nothing is found: storage drivers answer with a document
		if _, err := c.get("host", c.str(0)); err != nil {
			return nil, err
		}
		if kind := c.str(2); !slices.ContainsFunc(c.all("SM"), func(o *object) bool { return o.str("type") == kind }) {
			return nil, fail("SR_UNKNOWN_DRIVER", kind)
		}
		return `<?xml version="1.0" ?><SRlist/>`, nil
	},
	"SR.update":               func(c *call) (any, error) { _, err := c.get("SR", c.str(0)); return nil, err },
	"SR.set_name_label":       attached(setter("SR", "name_label")),
	"SR.set_name_description": setter("SR", "name_description"),
	"SR.set_shared":           setter("SR", "shared"),
	"SR.set_physical_size":    setter("SR", "physical_size"),
	"SR.get_supported_types": func(c *call) (any, error) {
		out := []any{}
		for _, o := range c.all("SM") {
			out = append(out, o.str("type"))
		}
		return out, nil
	},
	"PBD.plug": func(c *call) (any, error) {
		p, err := c.get("PBD", c.str(0))
		if err == nil {
			c.set(p, "currently_attached", true)
		}
		return nil, err
	},
	"PBD.unplug": func(c *call) (any, error) {
		p, err := c.get("PBD", c.str(0))
		if err != nil {
			return nil, err
		}
		sr, err := c.get("SR", p.str("SR"))
		if err != nil {
			return nil, err
		}
		for _, r := range sr.refs("VDIs") {
			vdi := c.look("VDI", r)
			for _, b := range vdi.refs("VBDs") {
				vbd := c.look("VBD", b)
				if vbd.is("currently_attached") && c.look("VM", vbd.str("VM")).str("resident_on") == p.str("host") {
					return nil, fail("VDI_IN_USE", vdi.ref, "PBD.unplug") // believed: the second parameter
				}
			}
		}
		c.set(p, "currently_attached", false)
		return nil, nil
	},
	"PBD.set_device_config": setter("PBD", "device_config"),
}

// attached returns the handler of a message for an SR that a host must have attached.
func attached(h handler) handler {
	return func(c *call) (any, error) {
		if err := c.attachedSR(c.look("SR", c.str(0))); err != nil {
			return nil, err
		}
		return h(c)
	}
}

func (c *call) unpluggedSR() (*object, error) {
	sr, err := c.get("SR", c.str(0))
	if err != nil {
		return nil, err
	}
	for _, r := range sr.refs("PBDs") {
		if c.look("PBD", r).is("currently_attached") {
			return nil, fail("SR_HAS_PBD", sr.ref)
		}
	}
	return sr, nil
}

func (c *call) dropSR(sr *object) error {
	if err := c.work(1); err != nil {
		return err
	}
	for _, r := range sr.refs("VDIs") {
		c.destroyVDI(c.look("VDI", r))
	}
	for _, r := range sr.refs("PBDs") {
		c.remove(c.look("PBD", r))
	}
	c.remove(sr)
	return nil
}
