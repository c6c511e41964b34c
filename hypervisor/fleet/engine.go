package fleet

import (
	"context"
	"iter"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Engine remembers runs and continues them. Users call these methods; a
// Store is what an engine is made of. Package fleettest tests engines.
type Engine interface {
	// Start records a run of the plan, which a worker of this engine then
	// works on. An ID that has a run already is a *RunExistsError, or a
	// *PlanChangedError if that run has a plan of another shape.
	Start(ctx context.Context, p *Plan) (*Run, error)
	// Find returns the run with this ID, or ErrNoRun.
	Find(ctx context.Context, id string) (*Run, error)
	// Work continues runs until ctx ends: those that were started with
	// this Engine value, and those of the given plans, whichever process
	// started them. A given plan that has changed since its run began is a
	// *PlanChangedError, and nothing is done then. A step that is at work
	// when ctx ends sees its own context end; it runs again later, unless
	// it still succeeds. Work returns ctx's error after all steps have
	// returned.
	Work(ctx context.Context, plans ...*Plan) error
}

// State is what became of a target.
type State string

const (
	StateDone   State = "done"   // all steps succeeded
	StateFailed State = "failed" // a step failed
	StateLeft   State = "left"   // the run ended or was cancelled before all steps were carried out
)

// Result is what became of one target.
type Result struct {
	Target  Target   `json:"target"`
	State   State    `json:"state"`
	Steps   int      `json:"steps"` // that succeeded
	Failure *Failure `json:"failure,omitempty"`
	// Undone means that Plan.Undo succeeded after a failure, UndoFailure that
	// it failed.
	Undone      bool              `json:"undone,omitempty"`
	UndoFailure *Failure          `json:"undoFailure,omitempty"`
	Values      map[string]string `json:"values,omitempty"` // see Attempt.Set
	Began       time.Time         `json:"began,omitzero"`   // in the worker that ended it
	Ended       time.Time         `json:"ended,omitzero"`
}

// Err returns the failure with the target's name, or nil.
func (r Result) Err() error {
	if r.Failure == nil {
		return nil
	}
	return &hypervisor.Error{Object: r.Target.Ref, Kind: r.Failure.Kind, Leftover: r.Failure.Leftover, Err: r.Failure}
}

// Stop is why a run ended before all targets were done.
type Stop string

const (
	StopCanceled Stop = "canceled" // Run.Cancel
	StopFailures Stop = "failures" // Plan.StopAfter
	StopGate     Stop = "gate"     // a gate returned an error
	StopWindow   Stop = "window"   // Plan.Window never opens
	StopTargets  Stop = "targets"  // the targets could not be chosen
)

// Summary is the end of a run.
type Summary struct {
	Done    int       `json:"done"` // targets
	Failed  int       `json:"failed"`
	Left    int       `json:"left"`
	Stopped Stop      `json:"stopped,omitempty"` // empty if every target was worked on
	Detail  string    `json:"detail,omitempty"`  // the gate's error, or what could not be chosen
	Ended   time.Time `json:"ended"`
}

// Err returns an *IncompleteError unless all targets are done.
func (s Summary) Err() error {
	if s.Failed == 0 && s.Left == 0 && s.Stopped == "" {
		return nil
	}
	return &IncompleteError{Summary: s}
}

// Control is what users and gates have decided about a run.
type Control struct {
	Paused   bool
	Canceled bool
	Passed   int      // gates that let the next wave begin
	Summary  *Summary // set once the run has ended
}

// Signal is a change of Control.
type Signal string

const (
	SignalPause  Signal = "pause"
	SignalResume Signal = "resume"
	SignalCancel Signal = "cancel"
	SignalPass   Signal = "pass" // one more gate
)

// Apply changes c by the signal.
func (c *Control) Apply(s Signal) {
	switch s {
	case SignalPause:
		c.Paused = true
	case SignalResume:
		c.Paused = false
	case SignalCancel:
		c.Canceled = true
	case SignalPass:
		c.Passed++
	}
}

// Store is how an engine keeps one run. It is for authors of engines, who
// make a Run of it with NewRun and work on it with Drive. Its methods are
// safe for concurrent use.
type Store interface {
	// Targets returns the recorded targets. If none were recorded, and
	// choose is not nil, it records what choose returns.
	Targets(ctx context.Context, choose func(context.Context) ([]Target, error)) ([]Target, error)
	// Results yields the results that are recorded so far.
	Results(ctx context.Context) iter.Seq2[Result, error]
	// Begun returns the keys of the targets that an earlier worker has begun
	// and that have no result.
	Begun(ctx context.Context) (map[string]bool, error)
	// Control returns what is decided. The channel is closed when something
	// may have changed since.
	Control(ctx context.Context) (Control, <-chan struct{}, error)
	// Signal changes Control. Signals to a run that has ended do nothing.
	Signal(ctx context.Context, s Signal) error
	// Execute carries out body for a target and records its result. If the
	// worker stops, or is killed, before the result is recorded, the next
	// worker calls body again, and Journal has the steps that were recorded.
	// An error means that there is no result because the worker stops.
	Execute(ctx context.Context, t Target, body func(context.Context, Journal) (Result, error)) (Result, error)
	// End records the end of the run.
	End(ctx context.Context, s Summary) error
	// Emit passes an event to those who watch in this process.
	Emit(e Event)
	// Events yields the run's events, of this process or as far as the
	// store shows them, until the run has ended or ctx ends.
	Events(ctx context.Context) iter.Seq2[Event, error]
}

// Outcome is the recorded end of a step.
type Outcome struct {
	Failure *Failure          `json:"failure,omitempty"`
	Values  map[string]string `json:"values,omitempty"` // after the step
	Tries   int               `json:"tries"`            // in the worker that ended it
	Left    bool              `json:"left,omitempty"`   // not carried out: the run was canceled
}

// Journal records the steps of one target.
type Journal interface {
	// Fresh reports whether no worker has begun this target before.
	Fresh() bool
	// Step returns the recorded outcome of a step, or calls do and records
	// what it returns. It records nothing, and returns an error, if ctx has
	// ended and the step has failed.
	Step(ctx context.Context, name string, do func(context.Context) Outcome) (Outcome, error)
	// Task returns the task that SaveTask recorded for a step, or "".
	Task(ctx context.Context, step string) (hypervisor.TaskID, error)
	SaveTask(ctx context.Context, step string, id hypervisor.TaskID) error
}
