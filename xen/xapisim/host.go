package xapisim

// Hosts follow xen-api's ocaml/xapi/xapi_host.ml.

var hostHandlers = map[string]handler{
	"host.get_servertime": func(c *call) (any, error) {
		_, err := c.get("host", c.str(0))
		return c.now(), err
	},
	"host.compute_free_memory": func(c *call) (any, error) {
		h, err := c.get("host", c.str(0))
		if err != nil {
			return nil, err
		}
		return c.freeMemory(h), nil
	},
}

var poolHandlers = map[string]handler{}
var migrateHandlers = map[string]handler{}

func (s *Sim) refreshHost(h *object) {}
