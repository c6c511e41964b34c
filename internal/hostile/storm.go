package hostile

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// World is what Storm works on.
type World struct {
	// Open opens a Client; the first one works in the storm, the second one
	// looks afterwards at what exists.
	Open func(ctx context.Context) (*hypervisor.Client, error)
	// Strike does some harm at random: it cuts connections, ends sessions.
	Strike func(r *rand.Rand)
	// Calm ends what Strike may have begun.
	Calm func()
	// Spec describes a machine, but for its name.
	Spec hypervisor.VMSpec
	// Images lists the images that exist, if the driver's test can.
	Images func(ctx context.Context) ([]string, error)
}

// fate is what calls told about a machine.
type fate uint8

const (
	untold fate = iota // a creation failed, and nothing of it may exist that isn't named
	wanted             // a call returned it
	gone               // a call deleted it
	either             // a deletion failed
)

// storm collects what calls tell.
type storm struct {
	t     *testing.T
	c     *hypervisor.Client
	began time.Time
	made  atomic.Int32 // creations that succeeded
	// worked counts the calls that succeeded.
	worked atomic.Int64
	// pending counts the tasks that are followed and have not ended.
	pending atomic.Int32
	mu      sync.Mutex
	// by name of machine
	fates map[string]fate
	why   map[string]error
	named []hypervisor.Ref
	old   map[hypervisor.VMID]bool   // machines that were there before
	tasks map[hypervisor.TaskID]bool // that are followed
	later sync.WaitGroup
}

const prefix = "storm-"

// Duration is that of a storm: ten seconds, two with -short, or what the
// environment variable ANYVISOR_STORM says.
func duration() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("ANYVISOR_STORM")); err == nil {
		return d
	}
	if testing.Short() {
		return 2 * time.Second
	}
	return 10 * time.Second
}

// Storm has 64 goroutines make, clone, start, stop, snapshot and delete
// machines, with contexts that end at random, while connections break. What
// exists afterwards must be wanted, which means that a call returned it, or be
// named by an error or by a task that an error names.
func Storm(t *testing.T, w World) {
	t.Helper()
	c, err := w.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	base := w.Spec
	base.Name = prefix + "base"
	source, err := c.CreateVM(t.Context(), base).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var before []string
	if w.Images != nil {
		if before, err = w.Images(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	s := &storm{t: t, c: c, fates: map[string]fate{base.Name: wanted}, why: map[string]error{}, tasks: map[hypervisor.TaskID]bool{}, old: map[hypervisor.VMID]bool{}}
	for v, err := range c.VMs(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		s.old[v.ID] = true
	}
	s.began = time.Now()
	var workers, harm sync.WaitGroup
	for i := range 64 {
		workers.Go(func() {
			r := rand.New(rand.NewPCG(rand.Uint64(), uint64(i)))
			var mine []*machine
			for n := 0; !s.over(); n++ {
				for s.pending.Load() > backlog && !s.over() { // or a busy machine would never come to an end
					time.Sleep(20 * time.Millisecond)
				}
				mine = s.step(r, fmt.Sprintf("%s%d-%d", prefix, i, n), w.Spec, source, mine)
			}
		})
	}
	harm.Go(func() {
		r, at := rand.New(rand.NewPCG(rand.Uint64(), 64)), int64(0)
		for !s.over() {
			time.Sleep(time.Duration(50+r.IntN(700)) * time.Millisecond)
			// On a busy machine nothing but logins would happen between two strikes.
			if n := s.worked.Load(); n >= at {
				w.Strike(r)
				at = n + 20
			}
		}
	})
	workers.Wait()
	harm.Wait()
	w.Calm()
	s.later.Wait()
	s.judge(w, before)
}

// enough is the number of machines that must be made for a storm to show
// something.
const enough = 10

// over reports whether the storm has lasted long enough: on a machine that is
// busy it continues until machines were made, for two minutes more at most.
func (s *storm) over() bool {
	age := time.Since(s.began) - duration()
	return age > 0 && s.made.Load() >= enough || age > 2*time.Minute
}

// backlog is the number of detached tasks above which nothing new begins.
const backlog = 16

// machine is one that a goroutine has made.
type machine struct {
	name string
	vm   *hypervisor.VM
}

// step makes one call.
func (s *storm) step(r *rand.Rand, name string, spec hypervisor.VMSpec, source *hypervisor.VM, mine []*machine) []*machine {
	// The longest ones grow with the storm's age, for machines that are busy.
	limits := []time.Duration{20 * time.Millisecond, 300 * time.Millisecond, max(10*time.Second, time.Since(s.began))}
	limit := time.Duration(1 + r.Int64N(int64(limits[r.IntN(len(limits))])))
	ctx, stop := context.WithTimeout(s.t.Context(), limit)
	defer stop()
	began := time.Now()
	what := r.IntN(10)
	defer func() {
		if d := time.Since(began) - limit; d > 15*time.Second {
			s.t.Errorf("call %d of %s returned %v after the end of its context", what, name, d)
		}
	}()
	if len(mine) == 0 && what > 3 {
		what = r.IntN(4)
	}
	switch what {
	case 0, 1, 2: // more machines than that say nothing new
		if len(mine) > 3 {
			return mine
		}
		var task *hypervisor.Task[*hypervisor.VM]
		if what == 0 {
			task = source.Clone(ctx, name, nil)
		} else {
			spec.Name = name
			task = s.c.CreateVM(ctx, spec)
		}
		vm, err := ended(ctx, r, task)
		s.note(name, err)
		if err == nil {
			return append(mine, &machine{name, vm})
		}
		return mine
	case 3:
		_, err := hypervisor.Collect(s.c.VMs(ctx, nil))
		s.count(err)
		return mine
	}
	i := r.IntN(len(mine))
	m := mine[i]
	switch what {
	case 4, 5:
		_, err := ended(ctx, r, m.vm.Delete(ctx, hypervisor.DeleteDisks, nil))
		s.deleted(m.name, err)
		return slices.Delete(mine, i, i+1)
	case 6:
		_, err := ended(ctx, r, m.vm.Start(ctx))
		s.tell(m.name, err)
	case 7:
		_, err := ended(ctx, r, m.vm.PowerOff(ctx))
		s.tell(m.name, err)
	case 8:
		_, err := ended(ctx, r, m.vm.CreateSnapshot(ctx, "one", nil))
		s.tell(m.name, err)
	default:
		_, err := m.vm.Info(ctx)
		s.count(err)
	}
	return mine
}

// ended waits in one of two ways.
func ended[T any](ctx context.Context, r *rand.Rand, task *hypervisor.Task[T]) (T, error) {
	if r.IntN(2) == 0 {
		return task.Run(ctx, time.Second)
	}
	return task.Wait(ctx)
}

// note records the outcome of a creation.
func (s *storm) note(name string, err error) {
	s.mu.Lock()
	s.fates[name], s.why[name] = wanted, err
	if err != nil {
		s.fates[name] = untold
	} else {
		s.made.Add(1)
	}
	s.mu.Unlock()
	s.tell(name, err)
}

func (s *storm) deleted(name string, err error) {
	s.mu.Lock()
	s.fates[name], s.why[name] = gone, err
	if err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
		s.fates[name] = either
	}
	s.mu.Unlock()
	s.tell(name, err)
}

// count counts a call that succeeded.
func (s *storm) count(err error) {
	if err == nil {
		s.worked.Add(1)
	}
}

// tell records what an error names.
func (s *storm) tell(name string, err error) {
	s.count(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	var e *hypervisor.Error
	if errors.As(err, &e) {
		s.named = append(s.named, e.Leftover...)
		for _, l := range e.Leftover {
			if l.Kind == hypervisor.ObjectTask {
				s.follow(hypervisor.TaskID(l.ID), name)
			}
		}
	}
	var d *hypervisor.DetachedError
	if errors.As(err, &d) {
		s.follow(d.Task, name)
	}
}

// follow waits for the end of work that continues, and deletes the machine
// that it has made, so that there are not more of them all the time.
func (s *storm) follow(id hypervisor.TaskID, name string) {
	if s.tasks[id] {
		return
	}
	s.tasks[id] = true
	s.pending.Add(1)
	s.later.Go(func() {
		defer s.pending.Add(-1)
		ctx, stop := context.WithTimeout(s.t.Context(), duration()+5*time.Minute)
		defer stop()
		for ctx.Err() == nil {
			result, err := s.outcome(ctx, id)
			var d *hypervisor.DetachedError
			switch {
			case errors.Is(err, hypervisor.ErrNotFound):
				return // what it made is unnamed
			case errors.As(err, &d), errors.Is(err, hypervisor.ErrUnavailable) && result.Kind == "":
				time.Sleep(20 * time.Millisecond)
				continue
			}
			s.mu.Lock()
			s.named = append(s.named, result)
			s.mu.Unlock()
			s.tell(name, err)
			if err == nil && result.Kind == hypervisor.ObjectVM { // the next calls would list it
				_, err = s.c.VM(hypervisor.VMID(result.ID)).Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx)
				s.tell(name, err)
			}
			return
		}
		s.t.Errorf("task %s of %s has not ended", id, name)
	})
}

// outcome returns a task's result. A result with the kind "task" means that
// the error is the work's own.
func (s *storm) outcome(ctx context.Context, id hypervisor.TaskID) (hypervisor.Ref, error) {
	task, err := s.c.Task(ctx, id)
	if err != nil {
		return hypervisor.Ref{}, err
	}
	result, err := task.Wait(ctx)
	if err != nil {
		return id.Ref(), err
	}
	return result, nil
}

// judge compares what exists with what was told.
func (s *storm) judge(w World, before []string) {
	t := s.t
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	c, err := w.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := s.c.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	vms, err := hypervisor.Collect(c.VMs(ctx, nil))
	if err != nil {
		t.Fatal(err)
	}
	exist, count := map[string]bool{}, map[fate]int{}
	for _, v := range vms {
		if !strings.HasPrefix(v.Name, prefix) {
			if !s.old[v.ID] && !slices.ContainsFunc(s.named, func(r hypervisor.Ref) bool { return r.ID == string(v.ID) }) {
				t.Errorf("machine %s (%s) exists, and nothing names it", v.Name, v.ID)
			}
			continue
		}
		f := s.fates[v.Name]
		exist[v.Name] = true
		if count[f]++; f != wanted && f != either && !slices.ContainsFunc(s.named, func(r hypervisor.Ref) bool {
			return r.ID == string(v.ID) || r.ID == "" && r.Name == v.Name // which may exist: nobody could look
		}) {
			t.Errorf("machine %s (%s) exists, and nothing names it: fate %d, %v", v.Name, v.ID, f, s.why[v.Name])
		}
	}
	for name, f := range s.fates {
		if f == wanted && !exist[name] {
			t.Errorf("machine %s was made, and it is not there", name)
		}
	}
	for _, r := range s.named {
		if r.Kind == hypervisor.ObjectVM && r.ID != "" {
			if _, err := c.VM(hypervisor.VMID(r.ID)).Info(ctx); err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
				t.Errorf("an error names %v, which the API doesn't take: %v", r, err)
			}
		}
	}
	t.Logf("%d creations, of which %d succeeded; %d tasks followed, %d objects named; %d wanted and %d others exist", len(s.fates), s.made.Load(), len(s.tasks), len(s.named), count[wanted], count[untold])
	if n := s.made.Load(); n < enough {
		t.Errorf("%d machines were made: the storm shows nothing", n)
	}
	if w.Images != nil {
		s.images(ctx, w, c, vms, before)
	}
}

// images deletes all machines of the storm; no image may be left that nothing
// names.
func (s *storm) images(ctx context.Context, w World, c *hypervisor.Client, vms []hypervisor.VMInfo, before []string) {
	for _, v := range vms {
		if !strings.HasPrefix(v.Name, prefix) || v.Name == prefix+"base" {
			continue
		}
		vm := c.VM(v.ID)
		_, _ = vm.PowerOff(ctx).Wait(ctx)
		if _, err := vm.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx); err != nil {
			s.t.Errorf("delete %s afterwards: %v", v.Name, err)
		}
	}
	after, err := w.Images(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	// An image without an ID may exist: nobody could look.
	perhaps := 0
	for _, r := range s.named {
		if r.Kind == hypervisor.ObjectVolume && r.ID == "" {
			perhaps++
		}
	}
	for _, id := range after {
		if slices.Contains(before, id) || slices.ContainsFunc(s.named, func(r hypervisor.Ref) bool { return r.ID == id }) {
			continue
		}
		if perhaps--; perhaps < 0 {
			s.t.Errorf("image %s is left, and nothing names it: %s", id, about(ctx, c, id))
		}
	}
}

// about is what a listing reports of an image.
func about(ctx context.Context, c *hypervisor.Client, id string) string {
	for v, err := range c.Volumes(ctx, "") {
		if err != nil {
			return err.Error()
		}
		if string(v.ID) == id {
			return fmt.Sprintf("%+v", v)
		}
	}
	return "it is not listed"
}
