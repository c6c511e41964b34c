package hvsim

import (
	"path"
	"slices"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/wbem"
)

// Fault makes a call fail. Exactly one of the outcome fields is set.
type Fault struct {
	Host   string // computer name; empty means any host
	Op     string // Query, Get, Invoke, Put, Class, Connect (COM), Pull, HTTP or Job; empty means any but Job
	Target string // class; Class.Method for Invoke; method name for Job; a path.Match pattern; empty means any
	Skip   int    // calls to let pass first
	Times  int    // number of times that it strikes; 0 means once, negative for ever
	// Chance makes it strike at random, with this probability; 0 means each time. With Return 32775 or 32774 it simulates a host
	// that is still at work on a machine after a job [O: os-win and microsoft/wmi repeat settings], with 15 and
	// CIM_DataFile.Delete a file that is still open.
	Chance float64

	HRESULT uint32 // WBEM error: 0x80041003 access denied, 0x800706BA RPC server unavailable, …
	Return  uint32 // Invoke: return value, nothing is done
	Status  int    // HTTP: answer with this status, such as 401 or 503
	// Drop closes the connection in the middle of the reply (HTTP, Pull), or before it (Query, Get, Invoke, Put): the call is
	// done or refused, and nobody learns of it. DropBefore closes it with nothing done. For a client on COM the remote procedure
	// call fails.
	Drop       bool
	DropBefore bool
	// Late (Query, Get, Invoke, Put) is called when the call is done or refused, and the answer is sent when it returns.
	Late func()
	// Job outcomes: Op is Job, Target the name of the method that started it, or Merge.
	JobError string // the job ends in state Exception with this text; JobCode is its ErrorCode, 0 means 32768
	JobCode  uint16
	Forget   bool // the job object is removed once the job has done its work, as after the retention time
	Stall    bool // the job runs until it is cancelled

	Next *Fault // replaces this one when it has struck for the last time
}

// Inject adds a fault. The returned function removes it.
func (s *Sim) Inject(f Fault) (remove func()) {
	p := &f
	s.mu.Lock()
	s.faults = append(s.faults, p)
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		for f := p; f != nil; f = f.Next {
			s.faults = slices.DeleteFunc(s.faults, func(x *Fault) bool { return x == f })
		}
		s.mu.Unlock()
	}
}

// Struck returns how often faults have struck.
func (s *Sim) Struck() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.struck
}

// strike finds a fault for a call and uses it up. The caller holds s.mu.
func (s *Sim) strike(h *Host, op, what string, fits func(*Fault) bool) *Fault {
	for n, f := range s.faults {
		if f.Host != "" && f.Host != h.cfg.Name || f.Op != "" && f.Op != op || f.Op == "" && op == "Job" || !fits(f) {
			continue
		}
		if f.Target != "" {
			if hit, err := path.Match(f.Target, what); err != nil || !hit {
				continue
			}
		}
		if f.Chance > 0 && s.rand.Float64() >= f.Chance {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		s.struck++
		switch {
		case f.Times < 0:
		case f.Times > 1:
			f.Times--
		case f.Next != nil:
			s.faults[n] = f.Next
		default:
			s.faults = slices.Delete(s.faults, n, n+1)
		}
		return f
	}
	return nil
}

func (s *Sim) fault(h *Host, op, what string) error {
	// A fault for any operation is for those that send a request to WMI; the next page of an answer is not one.
	f := s.strike(h, op, what, func(f *Fault) bool { return (f.HRESULT != 0 || f.DropBefore) && (op != "Pull" || f.Op == op) })
	switch {
	case f == nil:
		return nil
	case f.DropBefore:
		return wbem.Dropped()
	}
	return wbem.Errorf(f.HRESULT, "")
}

func (s *Sim) faultReturn(h *Host, what string) (uint32, bool) {
	if f := s.strike(h, "Invoke", what, func(f *Fault) bool { return f.Return != 0 }); f != nil {
		return f.Return, true
	}
	return 0, false
}

// faultJob finds the fault of a job when the job ends.
func (s *Sim) faultJob(j *job) *fail {
	if f := s.strike(j.h, "Job", j.name, func(f *Fault) bool { return f.JobError != "" }); f != nil {
		return &fail{code: f.JobCode, text: f.JobError}
	}
	return nil
}
