package hvsim

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

// Job states and types [G: ConcreteJob_JobState, ConcreteJob_JobType, MigrationJob_JobType].
const (
	jobRunning    = 4
	jobCompleted  = 7
	jobTerminated = 8
	jobKilled     = 9
	jobException  = 10

	jtDefine, jtModify, jtDestroy                  = 1, 2, 3
	jtStart, jtOff, jtSave, jtRestore, jtShutDown  = 12, 13, 14, 15, 16
	jtPause, jtResume, jtReset                     = 26, 27, 28
	jtAddRes, jtModRes, jtRemRes                   = 30, 31, 32
	jtMerge                                        = 50
	jtExport, jtImport                             = 60, 61
	jtSnapshot, jtApply, jtDelete, jtClear         = 70, 71, 72, 73
	jtCheckVM, jtMoveVM, jtMoveBoth, jtMoveStorage = 301, 305, 306, 307
)

// job is a Msvm_ConcreteJob, Msvm_MigrationJob or Msvm_StorageJob.
type job struct {
	h          *Host
	inst       *cimx.Instance
	vm         *machine
	name       string // the method that started it
	start, end time.Time
	seq        uint64
	done       bool
	keep       bool         // a Stall fault keeps it from ending by itself
	finish     func() *fail // does the work; nil result is success
	cancel     func()       // undoes what has been started; nil means that the job cannot be cancelled
	affected   []*cimx.Instance
	errs       []*cimx.Instance
}

// fail is the error of a job.
type fail struct {
	code uint16 // ErrorCode
	text string
	// id is the number of the message, the same in every language; "" means 32768 [D: Msvm_Error.MessageID; the numbers are those of
	// Compare-VM's MessageId, 33012 as public scripts test it].
	id string
}

// jobSpec describes a job to start.
type jobSpec struct {
	class    string // Msvm_ConcreteJob if empty
	kind     int
	name     string // method name, for JobTimes
	caption  string
	vm       *machine
	affected []*cimx.Instance
	finish   func() *fail
	cancel   func()
}

// run starts a job and returns 4096. When the work is quick and the site is not set to AllJobs, it does the work at once and
// returns 0. Quick methods return either on real hosts [D: "0 completed, 4096 job started"].
func (c *call) run(quick bool, spec jobSpec) uint32 {
	spec.name = c.method.Name
	if quick && !c.h.sim.cfg.AllJobs {
		if _, slow := c.h.sim.cfg.JobTimes[spec.name]; !slow {
			if f := spec.finish(); f != nil {
				if f.code != 0 {
					return uint32(f.code)
				}
				return rvFailed
			}
			return rvOK
		}
	}
	j := c.h.startJob(spec)
	c.out["Job"] = j.inst.Ref()
	return rvJob
}

func (h *Host) startJob(spec jobSpec) *job {
	j := h.prepareJob(spec)
	h.launch(j)
	return j
}

// launch starts a prepared job. With a negative JobTime it ends at once.
func (h *Host) launch(j *job) {
	h.sim.pending = append(h.sim.pending, j)
	h.sim.tick()
}

// after runs f when d has passed, without a job.
func (h *Host) after(d time.Duration, f func()) {
	s := h.sim
	s.seq++
	now := s.now()
	s.pending = append(s.pending, &job{h: h, start: now, end: now.Add(d), seq: s.seq, finish: func() *fail { f(); return nil }})
}

// jobTime returns the time that a job of a method takes.
func (s *Sim) jobTime(name string) time.Duration {
	d, ok := s.cfg.JobTimes[name]
	if !ok {
		d = s.cfg.JobTime
	}
	return max(d, 0)
}

func (h *Host) prepareJob(spec jobSpec) *job {
	s := h.sim
	if spec.class == "" {
		spec.class = "Msvm_ConcreteJob"
	}
	s.seq++
	j := &job{h: h, vm: spec.vm, name: spec.name, start: s.now(), seq: s.seq, finish: spec.finish, cancel: spec.cancel, affected: spec.affected}
	j.end = j.start.Add(s.jobTime(spec.name))
	i := h.virt.new(spec.class)
	i.Set("InstanceID", s.newID()).Set("Name", spec.caption).Set("Caption", spec.caption).Set("ElementName", spec.caption).Set("Description", spec.caption).
		Set("JobState", jobRunning).Set("JobStatus", "Job is running").Set("JobType", spec.kind).Set("PercentComplete", 0).
		Set("ErrorCode", 0).Set("HealthState", 5).Set("OperationalStatus", []any{2}).Set("StartTime", cimx.Datetime(j.start)).
		Set("TimeSubmitted", cimx.Datetime(j.start)).Set("TimeOfLastStateChange", cimx.Datetime(j.start)).
		Set("DeleteOnCompletion", false).Set("Cancellable", spec.cancel != nil).
		Set("TimeBeforeRemoval", cimx.Interval(s.cfg.JobRetention)) // [D: Msvm_ConcreteJob]
	j.inst = h.virt.add(i)
	h.jobs[i] = j
	j.keep = s.strike(h, "Job", j.name, func(f *Fault) bool { return f.Stall }) != nil
	return j
}

// show writes the progress of a running job into the client's copy.
func (j *job) show(c *cimx.Instance) {
	now := j.h.sim.now()
	if j.done {
		return
	}
	c.Set("ElapsedTime", cimx.Interval(now.Sub(j.start)))
	if total := j.end.Sub(j.start); total > 0 {
		c.Set("PercentComplete", min(99, max(0, int(100*now.Sub(j.start)/total))))
	}
}

// tick ends what is due, in order of time, and removes finished jobs after their retention. The caller holds s.mu.
func (s *Sim) tick() {
	now := s.now()
	for {
		best := -1
		for n, j := range s.pending {
			if !j.end.After(now) && !j.keep && (best < 0 || j.end.Before(s.pending[best].end) || j.end.Equal(s.pending[best].end) && j.seq < s.pending[best].seq) {
				best = n
			}
		}
		if best < 0 {
			break
		}
		j := s.pending[best]
		s.pending = slices.Delete(s.pending, best, best+1)
		j.complete()
	}
	for len(s.retired) > 0 && now.Sub(s.retired[0].end) > s.cfg.JobRetention {
		j := s.retired[0]
		s.retired = s.retired[1:]
		j.h.virt.remove(j.inst)
		delete(j.h.jobs, j.inst)
	}
}

func (j *job) complete() {
	if j.inst == nil {
		j.finish()
		return
	}
	var f *fail
	if ff := j.h.sim.faultJob(j); ff != nil {
		f = ff
		if j.cancel != nil {
			j.cancel()
		}
	} else if j.finish != nil {
		f = j.finish()
	}
	if j.h.sim.strike(j.h, "Job", j.name, func(f *Fault) bool { return f.Forget }) != nil {
		j.done = true
		j.h.virt.remove(j.inst)
		delete(j.h.jobs, j.inst)
		return
	}
	if f == nil {
		j.settle(jobCompleted, "Job is completed")
		j.inst.Set("PercentComplete", 100)
		return
	}
	j.settle(jobException, "Job failed")
	code := f.code
	if code == 0 {
		code = rvFailed
	}
	j.fault(code, *f)
}

// fault writes the error of a job. GetErrorEx returns it as an embedded Msvm_Error [D: Msvm_ConcreteJob.GetErrorEx].
func (j *job) fault(code uint16, f fail) {
	text := j.h.localized(f.text)
	j.inst.Set("ErrorCode", code).Set("ErrorDescription", text).Set("ErrorSummaryDescription", text).Set("HealthState", 25).Set("OperationalStatus", []any{6})
	e := j.h.virt.new("Msvm_Error")
	e.Set("ErrorType", 4).Set("Message", text).Set("MessageID", cmp.Or(f.id, "32768")).Set("PerceivedSeverity", 5).Set("CIMStatusCode", 1).
		Set("ErrorSource", j.inst.Ref().Path()).Set("OwningEntity", "Microsoft-Windows-Hyper-V-VMMS")
	j.errs = append(j.errs, e)
}

var number = regexp.MustCompile(`\(0x[0-9A-F]{8}\)`)

// localized puts a text into the host's language. Error numbers are written in the text of every language.
func (h *Host) localized(text string) string {
	if !h.cfg.Japanese {
		return text
	}
	return "操作に失敗しました。" + strings.Join(number.FindAllString(text, -1), " ")
}

func (j *job) settle(state int, text string) {
	j.done = true
	j.end = j.h.sim.now()
	j.h.sim.retired = append(j.h.sim.retired, j)
	j.inst.Set("JobState", state).Set("JobStatus", text).Set("ElapsedTime", cimx.Interval(j.end.Sub(j.start))).
		Set("TimeOfLastStateChange", cimx.Datetime(j.end)).Set("Cancellable", false)
}

// stop cancels a running job.
func (j *job) stop(state int) uint32 {
	if j.done {
		return rvInvalidState
	}
	if j.cancel == nil {
		return rvInvalidState // Cancellable is false; os-win checks it before it asks [O]
	}
	j.h.sim.pending = slices.DeleteFunc(j.h.sim.pending, func(x *job) bool { return x == j })
	j.cancel()
	j.settle(state, "Job was cancelled")
	j.fault(rvFailed, fail{text: "The operation was canceled."})
	return rvOK
}

func init() {
	change := func(c *call) uint32 {
		j := c.h.jobs[c.obj]
		if j == nil {
			return rvNotAvailable
		}
		switch n, _ := c.in["RequestedState"].(uint16); n {
		case 4:
			return j.stop(jobTerminated)
		case 5:
			return j.stop(jobKilled)
		}
		return rvInvalidParam
	}
	getErrorEx := func(c *call) uint32 {
		j := c.h.jobs[c.obj]
		var l []any
		if j != nil {
			for _, e := range j.errs {
				l = append(l, cimx.Format(e))
			}
		}
		c.out["Errors"] = l
		return rvOK
	}
	getError := func(c *call) uint32 {
		if j := c.h.jobs[c.obj]; j != nil && len(j.errs) > 0 {
			c.out["Error"] = cimx.Format(j.errs[0])
		}
		return rvOK
	}
	for _, class := range []string{"Msvm_ConcreteJob", "Msvm_MigrationJob", "Msvm_StorageJob"} {
		handle(class, map[string]handler{"RequestStateChange": change, "GetErrorEx": getErrorEx, "GetError": getError})
	}
}
