package xapisim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/anyvisor/anyvisor/xen/internal/xapidata"
)

// handler processes one message. It runs with s.mu held, which only work, event.from and faults release.
type handler func(c *call) (any, error)

// call is one message in progress.
type call struct {
	*Sim
	ctx           context.Context
	node          int
	msg           *xapidata.Message
	name          string // class.message
	session       *object
	args          []any
	task          *object
	async         bool
	step          int
	progress      float64
	stop          chan struct{} // closed by task.cancel
	stopped       bool
	uncancellable bool
	aborted       bool
}

func (c *call) str(i int) string {
	if i < len(c.args) {
		v, _ := c.args[i].(string)
		return v
	}
	return ""
}

func (c *call) num(i int) int64 {
	if i < len(c.args) {
		v, _ := c.args[i].(int64)
		return v
	}
	return 0
}

func (c *call) is(i int) bool {
	if i < len(c.args) {
		v, _ := c.args[i].(bool)
		return v
	}
	return false
}

func (c *call) dict(i int) map[string]any {
	if i < len(c.args) {
		v, _ := c.args[i].(map[string]any)
		return v
	}
	return nil
}

func (c *call) strs(i int) []string {
	var out []string
	if i < len(c.args) {
		v, _ := c.args[i].([]any)
		for _, x := range v {
			t, _ := x.(string)
			out = append(out, t)
		}
	}
	return out
}

var errDrop = errors.New("connection dropped")

// dispatch processes one call in the order of xapi's generated dispatcher (xen-api ocaml/idl/ocaml_backend/gen_server.ml): name, arity,
// types, session, async support, then the work. answer is called with the lock held.
func (s *Sim) dispatch(ctx context.Context, node int, full string, params []any, answer func(any, *xapidata.Type, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[full]++
	name, async := strings.CutPrefix(full, "Async.")
	if !async {
		name, async = strings.CutPrefix(full, "InternalAsync.")
	}
	msg := s.model.Message(name)
	if msg == nil || s.unknown[name] {
		if name == "system.listMethods" {
			answer(anys(s.methods()), nil, nil)
			return nil
		}
		s.strange[full]++
		answer(nil, nil, fail("MESSAGE_METHOD_UNKNOWN", name))
		return nil
	}
	c := &call{Sim: s, ctx: ctx, node: node, msg: msg, name: name, async: async, stop: make(chan struct{})}
	if err := c.prepare(params); err != nil {
		answer(nil, nil, err)
		return nil
	}
	if async {
		if err := c.inject(full); err != nil {
			if errors.Is(err, errDrop) {
				return err
			}
			answer(nil, nil, err)
			return nil
		}
		ref := "DummyRef:|" + randomUUID() + "|" + full
		if msg.Class != "task" && msg.Class != "event" { // these have no tasks of their own (no_task_id_for in datamodel.ml)
			ref = c.startTask()
		}
		c.ctx = s.ctx
		s.wg.Go(c.runAsync)
		if c.injectAfter(full) {
			return errDrop
		}
		answer(ref, nil, nil)
		return nil
	}
	v, err := c.run()
	if errors.Is(err, errDrop) || c.injectAfter(name) {
		return errDrop
	}
	answer(v, msg.Result, err)
	return nil
}

// methods returns the methods that system.listMethods lists.
func (s *Sim) methods() []string {
	var out []string
	for _, c := range s.model.Classes {
		for _, m := range c.Messages {
			out = append(out, c.Name+"."+m.Name)
		}
	}
	return out
}

// prepare checks arity, types and the session.
func (c *call) prepare(params []any) error {
	known := slices.Clone(c.msg.Params)
	known = slices.DeleteFunc(known, func(p xapidata.Param) bool { return slices.Contains(c.cfg.Lacks, c.name+"."+p.Name) })
	need := c.msg.Required()
	got := len(params)
	if c.msg.Session {
		got--
	}
	// A message that has parameters with defaults accepts any number of further ones; the others accept exactly theirs.
	if got < need || (got > need && need == len(known)) {
		c.strange[c.name]++
		return fail("MESSAGE_PARAMETER_COUNT_MISMATCH", c.name, strconv.Itoa(need), strconv.Itoa(got))
	}
	args := params
	session := ""
	if c.msg.Session {
		v, ok := params[0].(string)
		if !ok {
			return typeError("string", params[0])
		}
		session, args = v, params[1:]
	}
	if !c.msg.Removed {
		for i, p := range known {
			if i >= len(args) {
				break
			}
			v, err := c.convert(p.Type, args[i])
			if err != nil {
				return err
			}
			c.args = append(c.args, v)
		}
	}
	if c.msg.Session {
		if err := c.checkSession(session); err != nil {
			return err
		}
	}
	if c.async && !c.msg.Async {
		return fail("Fault", "No async mode for this operation (rpc: "+c.name+")")
	}
	if c.msg.Removed {
		return fail("MESSAGE_REMOVED")
	}
	return nil
}

// checkSession follows xen-api's ocaml/xapi/session_check.ml.
func (c *call) checkSession(ref string) error {
	if c.node != c.master {
		if c.localLogins[ref] {
			return nil
		}
		return fail("HOST_IS_SLAVE", c.nodes[c.master].addr)
	}
	o := c.look("session", ref)
	if o == nil {
		return fail("SESSION_INVALID", ref)
	}
	c.session = o
	return nil
}

// run does the message's work and removes the task of a call that was not asynchronous.
func (c *call) run() (any, error) {
	if err := c.inject(c.name); err != nil {
		return nil, err
	}
	h := c.handlers[c.name]
	if h == nil {
		h = generic(c.msg)
	}
	if h == nil {
		h = notImplemented(cmp.Or(refusedAs[c.name], c.name))
	}
	v, err := safely(h, c)
	if c.task != nil && !c.async {
		delete(c.running, c.task.ref)
		c.remove(c.task)
	}
	if v == nil && err == nil {
		v = ""
	}
	return v, err
}

// safely turns a handler's panic into INTERNAL_ERROR, as xapi's dispatcher does with any exception, so that a mistake here doesn't end the
// user's test binary.
func safely(h handler, c *call) (v any, err error) {
	defer func() {
		if r := recover(); r != nil {
			v, err = nil, fail("INTERNAL_ERROR", fmt.Sprint("xapisim: ", c.name, ": ", r))
		}
	}()
	return h(c)
}

// Serves reports whether the simulator implements a message ("VM.start"). Messages of the data model that it does not implement are checked
// for arity, types and session, and then refused as NOT_IMPLEMENTED.
func (s *Sim) Serves(method string) bool {
	m := s.model.Message(strings.TrimPrefix(method, "Async."))
	return m != nil && (s.handlers[m.Class+"."+m.Name] != nil || generic(m) != nil)
}

// Served lists the messages that the simulator implements.
func (s *Sim) Served() []string {
	return slices.DeleteFunc(s.methods(), func(m string) bool { return !s.Serves(m) })
}

// Calls returns the number of calls so far by method; "VM.start" and "Async.VM.start" are counted separately.
func (s *Sim) Calls() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]int, len(s.calls))
	for k, v := range s.calls {
		out[k] = v
	}
	return out
}

// Strange returns the messages that this server's version does not know, or not with so many parameters, and how often they came.
func (s *Sim) Strange() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.strange)
}

// TotalCalls returns the number of all calls so far.
func (s *Sim) TotalCalls() int {
	n := 0
	for _, v := range s.Calls() {
		n += v
	}
	return n
}

// ResetCalls restarts the counts.
func (s *Sim) ResetCalls() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.calls)
}
