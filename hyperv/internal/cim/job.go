package cim

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Job states of Msvm_ConcreteJob and the classes beside it (Hyper-V WMI v2
// reference, Msvm_ConcreteJob; 32768 is from OpenStack's os-win).
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

// ErrJobForgotten is within the error of a wait for a job that the host no
// longer knows. A host keeps jobs for five minutes after their end and loses
// them when its management service restarts, so the outcome is unknown.
var ErrJobForgotten = errors.New("the host no longer knows the job")

// JobFailure is the error of a job that did not succeed.
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

// Kind classifies the error by the job's error code, which is in the same
// range as methods' return values.
func (f *JobFailure) Kind() Kind { return returns[f.Code].kind }

// JobStatus is the last reading of a job.
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

// Poll determines how often jobs are read: the interval grows from First to
// Last. WMI has no call that waits for a job, so every client polls.
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

// A job continues while the connection is broken. patience is how many
// readings may fail one after the other, and outage for how long.
const (
	patience = 20
	outage   = 2 * time.Minute
)

// JobWatch reads a job at growing intervals.
type JobWatch struct {
	Session Session
	Job     Ref
	Poll    Poll

	step, failed int
	since        time.Time // when the connection broke
}

// Next reads the job at once, and then after an interval each time. If the
// connection stays broken the error is ErrLost.
func (w *JobWatch) Next(ctx context.Context) (JobStatus, error) {
	for {
		if w.step++; w.step > 1 {
			if err := w.Poll.Next(ctx, w.step-2); err != nil {
				return JobStatus{}, err
			}
		}
		st, err := ReadJob(ctx, w.Session, w.Job)
		if !errors.Is(err, ErrConnection) {
			w.failed = 0
			return st, err
		}
		if w.failed == 0 {
			w.since = time.Now()
		}
		if w.failed++; w.failed > patience || time.Since(w.since) > outage {
			return st, fmt.Errorf("%w: the job continues unseen: %w", ErrLost, err)
		}
	}
}

// WaitJob reads a job until it ends. progress, if not nil, receives every
// reading.
func WaitJob(ctx context.Context, s Session, job Ref, p Poll, progress func(JobStatus)) error {
	w := JobWatch{Session: s, Job: job, Poll: p}
	for {
		st, err := w.Next(ctx)
		if err != nil {
			return err
		}
		if progress != nil {
			progress(st)
		}
		if st.Done {
			return st.Err
		}
	}
}

// CancelJob asks a job to stop: first to terminate, and, if the job refuses
// that, to be killed. It returns without waiting for the end.
func CancelJob(ctx context.Context, s Session, job Ref) error {
	_, err := Call(ctx, s, job, "RequestStateChange", Arg{"RequestedState", uint16(jobStateShutDown)})
	if err == nil {
		return nil
	}
	_, err = Call(ctx, s, job, "RequestStateChange", Arg{"RequestedState", uint16(jobStateKill)})
	return err
}

// JobResult finds the result of a job: the instances of a class among its
// affected elements.
func JobResult(ctx context.Context, s Session, job Ref, class string) ([]*Instance, error) {
	return Collect(s.Query(ctx, job.Namespace, AssociatorsOf(job, Assoc{Class: "Msvm_AffectedJobElement", Result: class})))
}
