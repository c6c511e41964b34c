package xapisim

import (
	"errors"
	"strings"
	"time"
)

// Tasks follow xen-api's ocaml/xapi/taskHelper.ml and context.ml: pending, then success with the result as an XML value,
// failure with error_info, or cancelled; progress is 1 in each of these.

var taskHandlers = map[string]handler{
	"task.create": func(c *call) (any, error) {
		o := c.newObject("task", map[string]any{
			"name_label": c.str(0), "name_description": c.str(1), "created": c.now(),
			"resident_on": c.nodes[c.node].host, "status": "pending", "type": "<none/>", "externalpid": int64(-1),
		})
		return o.ref, nil
	},
	"task.destroy": func(c *call) (any, error) {
		o, err := c.get("task", c.str(0))
		if err != nil {
			return nil, err
		}
		if o.str("status") == "pending" { // it is removed when it is done
			c.put(o, "current_operations", "task", "destroy")
			return nil, nil
		}
		c.remove(o)
		return nil, nil
	},
	"task.cancel": func(c *call) (any, error) {
		o, err := c.get("task", c.str(0))
		if err != nil {
			return nil, err
		}
		c.set(o, "current_operations", dictOf(newRef(), "cancel")) // the request is recorded, whatever the task's state (xapi_task.ml)
		if run := c.running[o.ref]; run != nil && !run.stopped && !run.uncancellable {
			run.stopped = true
			close(run.stop)
		}
		return nil, nil
	},
	"task.set_status":     setter("task", "status"),
	"task.set_progress":   setter("task", "progress"),
	"task.set_result":     setter("task", "result"),
	"task.set_error_info": setter("task", "error_info"),

	"task.set_other_config":         setter("task", "other_config"),
	"task.add_to_other_config":      adder("task", "other_config"),
	"task.remove_from_other_config": remover("task", "other_config"),
}

// startTask puts the call's task into the database.
func (c *call) startTask() string {
	label := c.name
	if c.async {
		label = "Async." + c.name
	}
	c.task = c.newObject("task", map[string]any{
		"name_label": label, "created": c.now(), "resident_on": c.nodes[c.node].host, "status": "pending",
		"type": "<none/>", "backtrace": "()", "externalpid": int64(-1), "stunnelpid": int64(-1),
	})
	c.running[c.task.ref] = c
	return c.task.ref
}

// taskRef returns the call's task. A call that is not asynchronous has one too, until it ends.
func (c *call) taskRef() string {
	if c.task == nil {
		c.startTask()
	}
	return c.task.ref
}

// runAsync does an Async.* call and writes its outcome into the task.
func (c *call) runAsync() {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, err := c.run()
	t := c.task
	if t == nil {
		return
	}
	delete(c.running, t.ref)
	if t.gone || t.str("status") != "pending" {
		return
	}
	c.set(t, "progress", 1.0)
	c.set(t, "finished", c.now())
	c.set(t, "allowed_operations", emptySet)
	var f *Failure
	switch {
	case err == nil:
		var b strings.Builder
		xmlValue(&b, v, c.msg.Result)
		c.set(t, "result", b.String())
		c.set(t, "status", "success")
	case errors.As(err, &f) && f.Code == "TASK_CANCELLED":
		c.set(t, "status", "cancelled")
	case errors.As(err, &f):
		c.set(t, "error_info", append([]any{f.Code}, anys(f.Params)...))
		c.set(t, "status", "failure")
	default:
		c.set(t, "error_info", []any{"INTERNAL_ERROR", err.Error()})
		c.set(t, "status", "failure")
	}
	for _, op := range t.dict("current_operations") {
		if op == "destroy" {
			c.remove(t)
			return
		}
	}
}

// errClosed ends the work of calls when the simulator closes.
var errClosed = fail("HOST_STILL_BOOTING")

// work is one step of a call that takes time. It advances to the given progress (0..1), releases the pool meanwhile, and ends early with
// TASK_CANCELLED when the task is cancelled.
func (c *call) work(to float64) error {
	c.step++
	d := time.Duration(float64(c.duration()) * (to - c.progress))
	hold := c.findHold()
	from := c.progress
	c.progress = to
	if d <= 0 && hold == nil {
		return c.cancelled()
	}
	c.taskRef()
	if c.uncancellable {
		c.set(c.task, "allowed_operations", emptySet)
	} else {
		c.set(c.task, "allowed_operations", []any{"cancel"})
	}
	if hold != nil {
		hold.reach()
		if err := c.pause(func() <-chan struct{} { return hold.released }, nil); err != nil {
			return err
		}
	}
	const slices = 4
	for i := 1; i <= slices && d > 0; i++ {
		t := time.NewTimer(d / slices)
		err := c.pause(nil, t.C)
		t.Stop()
		if err != nil {
			return err
		}
		c.setProgress(from + (to-from)*float64(i)/slices)
	}
	c.setProgress(to)
	return c.cancelled()
}

// pause releases the lock until one of the channels fires, the task is cancelled or the simulator closes.
func (c *call) pause(until func() <-chan struct{}, timer <-chan time.Time) error {
	var released <-chan struct{}
	if until != nil {
		released = until()
	}
	c.mu.Unlock()
	var err error
	select {
	case <-released:
	case <-timer:
	case <-c.stop:
	case <-c.Sim.ctx.Done():
		err = errClosed
	}
	c.mu.Lock()
	if err == nil {
		err = c.cancelled()
	}
	return err
}

func (c *call) cancelled() error {
	if c.aborted {
		return fail("HOST_OFFLINE", c.nodes[c.node].host)
	}
	if c.stopped {
		return fail("TASK_CANCELLED", c.taskRef())
	}
	return nil
}

func (c *call) setProgress(p float64) {
	if c.task != nil && !c.task.gone && p < 1 {
		c.set(c.task, "progress", p)
	}
}

// DropTasks forgets the tasks that have ended, as a pool does after a while.
func (s *Sim) DropTasks() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.all("task") {
		if t.str("status") != "pending" {
			s.remove(t)
		}
	}
}

// duration returns the time that the whole call should take.
func (c *call) duration() time.Duration {
	if d, ok := c.durations[c.name]; ok {
		return d
	}
	return c.durations["*"]
}

// SetDuration makes a message ("VM.clone", or "*" for all that do real work) take that long from now on.
func (s *Sim) SetDuration(method string, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.durations[method] = d
}
