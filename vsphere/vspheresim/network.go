package vspheresim

import (
	"maps"
	"slices"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// Calls is the number of SOAP calls since the start or the last ResetCalls, by method.
func (s *Sim) Calls() map[string]int {
	s.front.mu.Lock()
	defer s.front.mu.Unlock()
	return maps.Clone(s.front.calls)
}

// CallLog is the methods called since the start or the last ResetCalls, in their order of arrival.
func (s *Sim) CallLog() []string {
	s.front.mu.Lock()
	defer s.front.mu.Unlock()
	return slices.Clone(s.front.log)
}

// ResetCalls restarts the counting.
func (s *Sim) ResetCalls() {
	s.front.mu.Lock()
	defer s.front.mu.Unlock()
	s.front.calls, s.front.log = map[string]int{}, nil
}

// Fault makes the next call of a method fail with a SOAP fault, before it has any effect. A method of "*" is any method. Several faults are returned
// one after the other.
func (s *Sim) Fault(method string, fault types.BaseMethodFault) {
	s.front.mu.Lock()
	defer s.front.mu.Unlock()
	s.front.faults[method] = append(s.front.faults[method], fault)
}

// FaultTask makes the next task of a method fail with a fault of the task, before it has any effect. A fault of PowerOnVM_Task also applies to the
// power-on in a clone, which exists by then.
func (s *Sim) FaultTask(method string, fault types.BaseMethodFault) {
	s.front.mu.Lock()
	defer s.front.mu.Unlock()
	s.front.taskFaults[method] = append(s.front.taskFaults[method], fault)
}

// Cut cuts the connection of the next call of a method. A method of "*" is any method.
func (s *Sim) Cut(method string, where Cut) {
	s.front.mu.Lock()
	defer s.front.mu.Unlock()
	s.front.cuts[method] = append(s.front.cuts[method], where)
}

// Delay delays every call of a method from now on; zero ends that. A method of "*" means all methods that have no delay of their own.
func (s *Sim) Delay(method string, d time.Duration) {
	s.front.mu.Lock()
	defer s.front.mu.Unlock()
	if d == 0 {
		delete(s.front.delays, method)
		return
	}
	s.front.delays[method] = d
}

// DelayAnswer makes the server act on every call of a method at once from now on, and answer later; zero ends that.
func (s *Sim) DelayAnswer(method string, d time.Duration) {
	s.front.mu.Lock()
	defer s.front.mu.Unlock()
	s.front.late[method] = d
}

// HoldAnswer makes the server act on the next call of a method and call f before it answers. A nil f leaves the call as it is. Several are used one
// after the other.
func (s *Sim) HoldAnswer(method string, f func()) {
	s.front.mu.Lock()
	defer s.front.mu.Unlock()
	s.front.holds[method] = append(s.front.holds[method], f)
}

// SetRoundTrip changes Config.RoundTrip.
func (s *Sim) SetRoundTrip(d time.Duration) {
	s.front.mu.Lock()
	defer s.front.mu.Unlock()
	s.front.roundTrip = d
}

// ClearFaults removes every fault, cut and delay that has not been used.
func (s *Sim) ClearFaults() {
	s.front.mu.Lock()
	defer s.front.mu.Unlock()
	clear(s.front.faults)
	clear(s.front.taskFaults)
	clear(s.front.cuts)
	clear(s.front.delays)
	clear(s.front.late)
	clear(s.front.holds)
}

// DropSessions ends every session at once, like a restart of the server: the next call of every client returns NotAuthenticated, and so does the
// answer of a call that waits for updates.
func (s *Sim) DropSessions() {
	f := s.front
	f.mu.Lock()
	var open []*wait
	for wt := range f.waits {
		wt.dropped = true
		open = append(open, wt)
	}
	clear(f.seen)
	f.mu.Unlock()
	// A poll can be cancelled only in its session; its answer waits until the session has ended.
	for _, wt := range open {
		f.abandon(wt)
	}
	for _, id := range s.sessionIDs() {
		f.terminate(id)
	}
	for _, wt := range open {
		close(wt.gone)
	}
}

// Sessions is the number of sessions that are logged in.
func (s *Sim) Sessions() int { return len(s.sessionIDs()) }

func (s *Sim) sessionIDs() []string {
	view := &simulator.Session{Registry: simulator.NewRegistry(), Map: s.registry()}
	m, ok := view.Get(*s.content().SessionManager).(*simulator.SessionManager)
	if !ok {
		return nil
	}
	var ids []string
	for _, u := range m.SessionList {
		ids = append(ids, u.Key)
	}
	return ids
}

// touch records a call of a session and reports whether the session had been idle for too long.
func (f *front) touch(cookie string) bool {
	if cookie == "" || f.sim.cfg.SessionTTL <= 0 {
		return false
	}
	now := time.Now()
	last, ok := f.seen[cookie]
	f.seen[cookie] = now
	return ok && now.Sub(last) > f.sim.cfg.SessionTTL
}

func (f *front) terminate(id string) {
	ctx := f.sim.newContext()
	ctx.Session = &simulator.Session{Registry: simulator.NewRegistry(), Map: f.sim.registry()}
	f.sim.registry().SessionManager().TerminateSession(ctx, &types.TerminateSession{SessionId: []string{id}})
	f.sim.forgetSession(id)
}
