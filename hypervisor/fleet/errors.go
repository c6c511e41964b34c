package fleet

import (
	"errors"
	"fmt"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// ErrNoRun means that the engine has no run with this ID.
var ErrNoRun = errors.New("fleet: no such run")

// RunExistsError means that a run with the plan's ID began earlier, in this
// process or another one: find it with Engine.Find, continue it with
// Engine.Work, or give the plan another ID.
type RunExistsError struct{ ID string }

func (e *RunExistsError) Error() string { return fmt.Sprintf("fleet: a run %q exists already", e.ID) }

// PlanChangedError means that the plan is not the one that the run began with.
// Nothing was done: take the old plan to continue the run, or another ID to
// begin a new run.
type PlanChangedError struct{ ID, Began, Now string }

func (e *PlanChangedError) Error() string {
	return fmt.Sprintf("fleet: the plan %q has changed since its run began: its shape was %s and is %s", e.ID, e.Began, e.Now)
}

// StoreError means that an engine's store can't be used as it is.
type StoreError struct {
	Store    string // the file or address, without a password
	ReadOnly bool   // it can't be written to
	Newer    bool   // a newer version of the engine has written it
	Err      error
}

func (e *StoreError) Error() string {
	why := "can't be used"
	switch {
	case e.ReadOnly:
		why = "is read-only"
	case e.Newer:
		why = "was written by a newer version"
	}
	return fmt.Sprintf("fleet: the store %s %s: %v", e.Store, why, e.Err)
}

func (e *StoreError) Unwrap() error { return e.Err }

// PanicError is the failure of a step that panicked.
type PanicError struct {
	Value string // what it panicked with
	Stack string
}

func (e *PanicError) Error() string { return "panic: " + e.Value }

// VanishedError is the failure of a step on a machine that does not exist any
// more. It is hypervisor.ErrNotFound too.
type VanishedError struct{ Target Target }

func (e *VanishedError) Error() string { return e.Target.Ref.String() + " has vanished" }

// Is makes it match hypervisor.ErrNotFound.
func (e *VanishedError) Is(target error) bool { return target == hypervisor.ErrNotFound }

// Failure is why a step failed. It is kept by the engine as text, and unwraps
// to the hypervisor.Kind of the step's error, to a *PanicError or to a
// *VanishedError.
type Failure struct {
	Step     string           `json:"step"`
	Text     string           `json:"text"`
	Kind     hypervisor.Kind  `json:"kind"`
	Leftover []hypervisor.Ref `json:"leftover,omitempty"` // what the failed work left behind
	Panic    bool             `json:"panic,omitempty"`
	Stack    string           `json:"stack,omitempty"`
	Vanished *Target          `json:"vanished,omitempty"`
}

func (f *Failure) Error() string { return "step " + f.Step + ": " + f.Text }

// Unwrap returns what the failure was.
func (f *Failure) Unwrap() []error {
	var out []error
	if f.Kind != hypervisor.ErrUnknown {
		out = append(out, f.Kind)
	}
	if f.Panic {
		out = append(out, &PanicError{f.Text, f.Stack})
	}
	if f.Vanished != nil {
		out = append(out, &VanishedError{*f.Vanished})
	}
	return out
}

func failureOf(step string, err error) *Failure {
	f := &Failure{Step: step, Text: err.Error(), Kind: hypervisor.KindOf(err)}
	var p *PanicError
	if errors.As(err, &p) {
		f.Panic, f.Text, f.Stack = true, p.Value, p.Stack
	}
	var v *VanishedError
	if errors.As(err, &v) {
		f.Vanished, f.Kind = &v.Target, hypervisor.ErrNotFound
	}
	var e *hypervisor.Error
	if errors.As(err, &e) {
		f.Leftover = e.Leftover
	}
	return f
}

// IncompleteError is what Summary.Err and Do return for a run that ended with
// failed targets or targets left over. It unwraps to the failures that are
// known.
type IncompleteError struct {
	Summary  Summary
	Failures []error
}

func (e *IncompleteError) Error() string {
	s := fmt.Sprintf("fleet: %d targets done, %d failed, %d left over", e.Summary.Done, e.Summary.Failed, e.Summary.Left)
	if e.Summary.Stopped != "" {
		s += " (stopped: " + string(e.Summary.Stopped)
		if e.Summary.Detail != "" {
			s += ", " + e.Summary.Detail
		}
		s += ")"
	}
	if len(e.Failures) > 0 {
		s += ": " + errors.Join(e.Failures...).Error()
	}
	return s
}

// Unwrap returns the failures.
func (e *IncompleteError) Unwrap() []error { return e.Failures }
