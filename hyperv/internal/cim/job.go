package cim

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Job states of Msvm_ConcreteJob and the classes beside it (Hyper-V WMI v2
// reference, Msvm_ConcreteJob; 32768 is what OpenStack's os-win knows).
const (
	jobSuspended     = 5
	jobCompleted     = 7
	jobTerminated    = 8
	jobKilled        = 9
	jobException     = 10
	jobWithWarnings  = 32768
	jobStateKill     = 5
	jobStateShutDown = 4
)

// ErrJobForgotten is within the error of a wait for a job that the host does
// not know any more. A host keeps jobs for five minutes after their end and
// loses them when its management service restarts, so the outcome is unknown.
var ErrJobForgotten = errors.New("the host no longer knows the job")

// JobFailure is the end of a job that did not succeed.
type JobFailure struct {
	State     uint32
	Code      uint32
	Status    string
	Text      string
	Cancelled bool
}

func (f *JobFailure) String() string {
	what := "job failed"
	if f.Cancelled {
		what = "job was cancelled"
	}
	s := fmt.Sprintf("%s (state %d, error %d)", what, f.State, f.Code)
	if f.Text != "" {
		s += ": " + f.Text
	}
	return s
}

// Kind classifies by the job's error code, which is of the same range as
// methods' return values.
func (f *JobFailure) Kind() Kind { return returns[f.Code].kind }

// JobStatus is a job as it was last read.
type JobStatus struct {
	Done        bool
	Percent     uint8 // 0 to 100
	Status      string
	Type        uint32
	Cancellable bool
	Started     time.Time
	// Err is set when the job is done and did not succeed.
	Err error
	// Warning is set when it succeeded with warnings.
	Warning string
}

// ReadJob reads a job's state.
func ReadJob(ctx context.Context, s Session, job Ref) (JobStatus, error) {
	i, err := Read(ctx, s, job)
	if err != nil {
		if KindOf(err) == NotFound {
			return JobStatus{}, errors.Join(ErrJobForgotten, err)
		}
		return JobStatus{}, err
	}
	st := JobStatus{
		Percent: uint8(min(i.Uint("PercentComplete"), 100)), Status: i.Str("JobStatus"), Type: uint32(i.Uint("JobType")),
		Cancellable: i.Bool("Cancellable"), Started: i.Time("StartTime"),
	}
	state := uint32(i.Uint("JobState"))
	code := uint32(i.Uint("ErrorCode"))
	switch state {
	case jobCompleted:
		st.Done, st.Percent = true, 100
	case jobWithWarnings:
		st.Done, st.Percent = true, 100
		st.Warning = strings.TrimSpace(i.Str("ErrorDescription"))
		if st.Warning == "" {
			st.Warning = "completed with warnings"
		}
	case jobTerminated, jobKilled, jobException:
		st.Done = true
		f := &JobFailure{State: state, Code: code, Status: st.Status, Text: strings.TrimSpace(i.Str("ErrorDescription")), Cancelled: state != jobException}
		if f.Text == "" {
			f.Text = strings.TrimSpace(i.Str("ErrorSummaryDescription"))
		}
		st.Err = &Error{Op: "job", Job: f}
	}
	return st, nil
}

// Poll paces the reading of jobs: the interval grows from First to Last. WMI
// has no call that waits for a job, so every client polls.
type Poll struct{ First, Last time.Duration }

// DefaultPoll suits hosts of any size.
var DefaultPoll = Poll{First: 20 * time.Millisecond, Last: 500 * time.Millisecond}

// Next waits for the step-th interval or for ctx.
func (p Poll) Next(ctx context.Context, step int) error {
	d := p.First
	for range min(step, 32) {
		if d = d * 3 / 2; d >= p.Last {
			d = p.Last
			break
		}
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// A job goes on while the connection is broken: patience is how many readings
// may fail one after the other, and outage for how long.
const (
	patience = 20
	outage   = 2 * time.Minute
)

// WaitJob reads a job until it ends; progress, if not nil, is told of every
// reading. If the connection stays broken the error is ErrLost.
func WaitJob(ctx context.Context, s Session, job Ref, p Poll, progress func(JobStatus)) error {
	failed := 0
	var since time.Time
	for step := 0; ; step++ {
		st, err := ReadJob(ctx, s, job)
		if errors.Is(err, ErrConnection) {
			if failed == 0 {
				since = time.Now()
			}
			if failed++; failed > patience || time.Since(since) > outage {
				return fmt.Errorf("%w: the job goes on unseen: %w", ErrLost, err)
			}
			if err := p.Next(ctx, step); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		failed = 0
		if progress != nil {
			progress(st)
		}
		if st.Done {
			return st.Err
		}
		if err := p.Next(ctx, step); err != nil {
			return err
		}
	}
}

// CancelJob asks a job to stop: at first to terminate, and, if the job will
// not do that, to be killed. It returns without waiting for the end.
func CancelJob(ctx context.Context, s Session, job Ref) error {
	_, err := Call(ctx, s, job, "RequestStateChange", Arg{"RequestedState", uint16(jobStateShutDown)})
	if err == nil {
		return nil
	}
	_, err = Call(ctx, s, job, "RequestStateChange", Arg{"RequestedState", uint16(jobStateKill)})
	return err
}

// JobResult finds what a job made: the instances of a class among its
// affected elements.
func JobResult(ctx context.Context, s Session, job Ref, class string) ([]*Instance, error) {
	return Collect(s.Query(ctx, job.Namespace, AssociatorsOf(job, Assoc{Class: "Msvm_AffectedJobElement", Result: class})))
}
