package xapisim

import "slices"

// event.next is the older way to follow changes (xen-api ocaml/xapi/xapi_event.ml): a session registers the classes that it wants, and each
// call waits for what changed since the last one. A real xapi keeps a queue and answers EVENTS_LOST when it had to shorten it; here a Fault
// does that.

// registration is what a session registered.
type registration struct {
	classes []string
	since   uint64
}

var nextHandlers = map[string]handler{
	"event.register": func(c *call) (any, error) {
		r := c.registered[c.session.ref]
		if r == nil {
			r = &registration{since: c.gen}
			c.registered[c.session.ref] = r
		}
		r.classes = append(r.classes, c.strs(0)...)
		return nil, nil
	},
	"event.unregister": func(c *call) (any, error) {
		if r := c.registered[c.session.ref]; r != nil {
			r.classes = slices.DeleteFunc(r.classes, func(x string) bool { return slices.Contains(c.strs(0), x) })
		}
		return nil, nil
	},
	"event.next": func(c *call) (any, error) {
		r := c.registered[c.session.ref]
		if r == nil {
			return nil, fail("SESSION_NOT_REGISTERED", "trackid="+c.session.ref) // the form of the parameter is believed
		}
		events, err := c.await(parseSubscriptions(r.classes), r.since, nil)
		r.since = c.gen
		return events, err
	},
	"event.inject": func(c *call) (any, error) {
		t := c.tables[c.str(0)]
		if t == nil || t.byRef[c.str(1)] == nil {
			return nil, fail("HANDLE_INVALID", c.str(0), c.str(1))
		}
		before := c.token()
		c.touch(t.byRef[c.str(1)])
		return before, nil
	},
}
