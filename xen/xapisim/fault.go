package xapisim

import (
	"path"
	"slices"
	"sync"
	"time"
)

// Fault makes calls go wrong. Method is a name such as "VM.start", "VM.*" or "*". For an asynchronous call the plain name acts inside its
// task, and "Async.VM.start" on the call that makes the task. Inside migrations there are "VM.migrate_send/mirror" (before each disk),
// "VM.migrate_send/memory", "VM.pool_migrate/memory" and "VDI.pool_migrate/mirror".
type Fault struct {
	Method string
	Skip   int           // number of calls to let pass first
	Count  int           // number of calls that it strikes then; 0 means once, negative without end
	Delay  time.Duration // time to wait before anything else
	Err    *Failure      // answer with this and do nothing
	Drop   bool          // close the connection and do nothing
	// DropAfter does the call and closes the connection instead of answering: the client can't know what happened.
	DropAfter bool
	// Late is called after the call, and the answer is sent when it returns.
	Late func()
}

type faultState struct {
	Fault
	left, seen int
	hits       int
}

// Fault adds a fault. The returned function removes it and returns how often it struck.
func (s *Sim) Fault(f Fault) (remove func() int) {
	st := &faultState{Fault: f, left: max(f.Count, 1)}
	if f.Count < 0 {
		st.left = -1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, st)
	return func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.faults = slices.DeleteFunc(s.faults, func(x *faultState) bool { return x == st })
		return st.hits
	}
}

func (f *faultState) strikes(method string) bool {
	if ok, err := path.Match(f.Method, method); err != nil || !ok || f.left == 0 {
		return false
	}
	f.seen++
	if f.seen <= f.Skip {
		return false
	}
	if f.left > 0 {
		f.left--
	}
	f.hits++
	return true
}

// inject applies the faults that come before the work.
func (c *call) inject(method string) error {
	for _, f := range slices.Clone(c.faults) {
		if f.DropAfter || f.Late != nil || !f.strikes(method) {
			continue
		}
		if f.Delay > 0 {
			t := time.NewTimer(f.Delay)
			err := c.pause(nil, t.C)
			t.Stop()
			if err != nil {
				return err
			}
		}
		if f.Drop {
			return errDrop
		}
		if f.Err != nil {
			return fail(f.Err.Code, f.Err.Params...)
		}
	}
	return nil
}

// injectAfter applies the faults that come after the work. It reports whether the answer is dropped. The lock is held, except while an answer is
// late.
func (c *call) injectAfter(method string) (drop bool) {
	for _, f := range slices.Clone(c.faults) {
		switch {
		case !f.DropAfter && f.Late == nil || !f.strikes(method):
		case f.Late != nil:
			c.mu.Unlock()
			f.Late()
			c.mu.Lock()
		default:
			return true
		}
	}
	return false
}

// Hold stops a call at one of its steps until it is released, for tests of what happens in between.
type Hold struct {
	method            string
	step              int
	reached, released chan struct{}
	once              sync.Once
	used              bool
}

// Hold stops the next call of the method when it reaches the given step, counted from 1. Every message that does real work has one step;
// VM.clone and VM.snapshot have one before the disks and one after; VM.copy one more for each disk; VM.provision one and one for each disk;
// VM.pool_migrate two; VM.migrate_send and VDI.pool_migrate one after each disk and one for the memory; VM.revert two, which can't be
// cancelled; host.evacuate one for each machine.
func (s *Sim) Hold(method string, step int) *Hold {
	h := &Hold{method: method, step: step, reached: make(chan struct{}), released: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds = append(s.holds, h)
	return h
}

// Reached is closed when a call has stopped at the step.
func (h *Hold) Reached() <-chan struct{} { return h.reached }

// Release lets the call continue, also one that comes later.
func (h *Hold) Release() { h.once.Do(func() { close(h.released) }) }

func (h *Hold) reach() { close(h.reached) }

func (c *call) findHold() *Hold {
	for _, h := range c.holds {
		if h.method == c.name && h.step == c.step && !h.used {
			h.used = true
			return h
		}
	}
	return nil
}
