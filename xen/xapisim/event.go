package xapisim

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Events follow xen-api's ocaml/xapi/xapi_event.ml: event.from does not replay a log. It compares the generation in the token with those at
// which each object was made, changed and deleted, and returns one event for each object that differs, with the present record. So an
// object that was made and deleted in between is never seen, and ten changes are one. A class remembers its latest deletions (256 to 511 in
// ocaml/database/db_cache_types.ml) and only while xapi runs. Those that it forgot are not told: no token is too old, and event.from never
// answers EVENTS_LOST, which belongs to event.next. Only valid_ref_counts, the number of objects of each class, shows that some are missing.

var eventHandlers = map[string]handler{
	"event.from":           eventFrom,
	"event.get_current_id": func(c *call) (any, error) { return int64(c.gen), nil },
}

type subscription struct{ class, ref string }

// parseSubscriptions reads "VM", "*" and "task/OpaqueRef:…".
func parseSubscriptions(classes []string) []subscription {
	var subs []subscription
	for _, x := range classes {
		if x == "*" {
			subs = append(subs, subscription{})
			continue
		}
		class, ref, _ := strings.Cut(x, "/")
		subs = append(subs, subscription{strings.ToLower(class), ref})
	}
	return subs
}

func wants(subs []subscription, class, ref string) bool {
	for _, x := range subs {
		if (x.class == "" || x.class == class) && (x.ref == "" || x.ref == ref) {
			return true
		}
	}
	return false
}

// parseToken reads "generation,message generation"; the empty token is the beginning.
func parseToken(t string) (uint64, error) {
	if t == "" {
		return 0, nil
	}
	a, b, ok := strings.Cut(t, ",")
	n, err := strconv.ParseUint(a, 10, 63)
	if _, err2 := strconv.ParseUint(b, 10, 63); !ok || err != nil || err2 != nil {
		return 0, fail("EVENT_FROM_TOKEN_PARSE_FAILURE", t)
	}
	return n, nil
}

func eventFrom(c *call) (any, error) {
	subs := parseSubscriptions(c.strs(0))
	since, err := parseToken(c.str(1))
	if err != nil {
		return nil, err
	}
	if since > 0 {
		since += c.counted
	}
	timeout, _ := c.args[2].(float64)
	deadline := time.NewTimer(time.Duration(timeout * float64(time.Second)))
	defer deadline.Stop()
	events, err := c.await(subs, since, deadline.C)
	if err != nil {
		return nil, err
	}
	return c.batch(events), nil
}

// await returns what changed, as soon as something did.
func (c *call) await(subs []subscription, since uint64, deadline <-chan time.Time) ([]any, error) {
	for {
		events := c.collect(subs, since)
		if len(events) > 0 {
			return events, nil
		}
		changed := c.wait()
		c.mu.Unlock()
		over := false
		select {
		case <-changed:
		case <-deadline:
			over = true
		case <-c.ctx.Done():
			over = true
		case <-c.Sim.ctx.Done():
			over = true
		}
		c.mu.Lock()
		if c.session.gone {
			return nil, fail("SESSION_INVALID", c.session.ref)
		}
		if over {
			return c.collect(subs, since), nil
		}
	}
}

func (c *call) collect(subs []subscription, since uint64) []any {
	adds, mods, dels := []any{}, []any{}, []any{}
	event := func(class, op, ref string, at uint64, o *object) any {
		e := map[string]any{"id": strconv.FormatUint(at, 10), "timestamp": "0.0", "class": class, "operation": op, "ref": ref}
		if o != nil {
			e["snapshot"] = o
		}
		return e
	}
	for _, k := range c.model.Classes {
		class := strings.ToLower(k.Name)
		if k.Name == "session" || k.Name == "event" || c.tables[k.Name].lacking { // the first two give no events (gen_events in the datamodel)
			continue
		}
		any := false
		for _, x := range subs {
			any = any || x.class == "" || x.class == class
		}
		if !any {
			continue
		}
		for _, d := range c.tables[k.Name].deleted {
			if d.stamp > since && d.created <= since && wants(subs, class, d.ref) {
				dels = append(dels, event(class, "del", d.ref, d.stamp, nil))
			}
		}
		for el := c.tables[k.Name].recent.Back(); el != nil; el = el.Prev() {
			o := el.Value.(*object)
			if o.modified <= since {
				break
			}
			switch {
			case !wants(subs, class, o.ref):
			case o.created > since:
				adds = append(adds, event(class, "add", o.ref, o.created, o))
			default:
				mods = append(mods, event(class, "mod", o.ref, o.modified, o))
			}
		}
	}
	return append(append(adds, mods...), dels...)
}

// batch is event.from's answer. The token is two 20-digit numbers (Token.to_string).
func (c *call) batch(events []any) any {
	counts := map[string]any{}
	for name, t := range c.tables {
		if t.lacking {
			continue
		}
		counts[strings.ToLower(name)] = int64(len(t.byRef))
	}
	return map[string]any{"events": events, "valid_ref_counts": counts, "token": c.token()}
}

// token is the present generation.
func (c *call) token() string { return fmt.Sprintf("%020d,%020d", c.gen-c.counted, 0) }

// ForgetDeletions makes event.from forget which objects are gone, as a restart of xapi does. Objects that are there stay as they are.
func (s *Sim) ForgetDeletions() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tables {
		t.deleted = nil
	}
}
