package fleet

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Plan is what is done to many machines. A run begins with its declared shape
// (ID, Steps, Limits, Waves and the other fields that are not functions or
// Clients), and continues with a Plan of the same shape only.
type Plan struct {
	// ID names the plan and its run: 1 to 100 letters, digits, '.', '_' or
	// '-'. Tokens are made of it, so another run needs another ID.
	ID string
	// Clients are the management domains by a name of the caller's choice.
	// The names must be the same in every process.
	Clients map[string]*hypervisor.Client

	// Labels and Select choose the machines of all Clients: those with all of
	// these labels for which Select, if it is set, returns true.
	Labels map[string]string
	Select func(hypervisor.VMInfo) bool
	// Targets chooses the targets instead, for plans that make machines or
	// work on hosts. Both ways are used once, when the run begins; a run
	// that continues keeps its targets.
	Targets func(context.Context) ([]Target, error)

	// Steps are carried out in this order on each target. After a step that
	// failed the later ones are left out, and Undo, if it is set, runs.
	Steps []Step
	Undo  *Step

	Limits Limits
	// Waves are begun one after the other; nil means one wave of all.
	Waves []Wave
	// StopAfter is the number of failed targets after which no other target
	// begins; 0 means never. Targets at work are finished.
	StopAfter int
	// Window is the time in which targets begin; nil means always.
	Window *Window
	// Rate is how many targets begin in a time; zero means no limit.
	Rate Rate
}

// Step is one part of the work on a target.
type Step struct {
	Name string // 1 to 60 letters, digits, '.', '_' or '-', unique in the plan
	// Do does the work. The machine is nil if the target is not a machine
	// that exists. Do may run again after its worker was killed: see
	// Attempt. Its context ends when the worker stops, and after Timeout.
	Do func(ctx context.Context, vm *hypervisor.VM, a *Attempt) error
	// Tries is how often the step is tried before it has failed; 0 means
	// once. A panic is not tried again.
	Tries int
	// Wait is the time between tries.
	Wait time.Duration
	// Timeout is the time for one try; 0 means no limit.
	Timeout time.Duration
}

// Limits are the largest numbers of targets at work at the same time. A
// target counts on its hosts and datastores from its first step to its last.
type Limits struct {
	Total        int // 0 means 16
	PerHost      int // 0 means no limit
	PerDatastore int // 0 means no limit
	PerClient    int // 0 means no limit
}

// Wave is a part of the targets. It begins when all targets of the wave before
// have ended.
type Wave struct {
	// Count is the number of targets, Percent their share of all targets of
	// the run, rounded up. If both are 0, the wave has all that are left.
	Count   int
	Percent float64
	// Wait is the time between the end of this wave and its gate.
	Wait time.Duration
	// Gate decides after this wave whether the next one begins. An error
	// stops the run. A gate may be asked again after a restart.
	Gate func(context.Context, WaveResult) error
}

// WaveResult is what a gate decides on.
type WaveResult struct {
	Wave         int // counted from 0
	Done, Failed int // targets of this wave
}

// Window is a part of the day in which targets begin.
type Window struct {
	// From and To are times of day as durations since midnight. If To is
	// before From, the window ends on the next day.
	From, To time.Duration
	// Days are the days on which the window opens; nil means every day.
	Days     []time.Weekday
	Location *time.Location // nil means UTC
}

// Rate is a number of beginnings in a time, spread evenly.
type Rate struct {
	N   int
	Per time.Duration
}

// Target is what the steps work on: a machine, a machine to be made (no ID
// yet), or a host.
type Target struct {
	Client string         `json:"client"` // name in Plan.Clients
	Ref    hypervisor.Ref `json:"ref"`
	// Hosts and Datastores are those that the target counts on for Limits.
	Hosts      []hypervisor.HostID      `json:"hosts,omitempty"`
	Datastores []hypervisor.DatastoreID `json:"datastores,omitempty"`
}

// Key identifies the target in its run: client, kind and ID, or name if it has
// no ID.
func (t Target) Key() string {
	id := t.Ref.ID
	if id == "" {
		id = "=" + t.Ref.Name
	}
	return t.Client + "/" + string(t.Ref.Kind) + "/" + id
}

// TargetOf makes a target of a machine of the named Client.
func TargetOf(client string, v hypervisor.VMInfo) Target {
	t := Target{Client: client, Ref: hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: string(v.ID), Name: v.Name}}
	t.place(v)
	return t
}

// place takes the hosts and datastores from a reading of the machine.
func (t *Target) place(v hypervisor.VMInfo) {
	t.Hosts, t.Datastores = nil, nil
	if v.Host != "" {
		t.Hosts = []hypervisor.HostID{v.Host}
	}
	for _, d := range v.Disks {
		if d.Datastore != "" && !slices.Contains(t.Datastores, d.Datastore) {
			t.Datastores = append(t.Datastores, d.Datastore)
		}
	}
	slices.Sort(t.Datastores)
}

// choose makes the list of targets.
func (p *Plan) choose(ctx context.Context) ([]Target, error) {
	var out []Target
	if p.Targets != nil {
		var err error
		if out, err = p.Targets(ctx); err != nil {
			return nil, err
		}
	} else {
		for _, name := range slices.Sorted(maps.Keys(p.Clients)) {
			var vms []hypervisor.VMInfo
			for v, err := range p.Clients[name].VMs(ctx, &hypervisor.ListOptions{Labels: p.Labels}) {
				if err != nil {
					return nil, fmt.Errorf("fleet: listing the machines of %s: %w", name, err)
				}
				if p.Select == nil || p.Select(v) {
					vms = append(vms, v)
				}
			}
			slices.SortFunc(vms, func(a, b hypervisor.VMInfo) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
			for _, v := range vms {
				out = append(out, TargetOf(name, v))
			}
		}
	}
	seen := map[string]bool{}
	for _, t := range out {
		switch {
		case p.Clients[t.Client] == nil:
			return nil, fmt.Errorf("fleet: target %s: the plan has no Client %q", t.Ref, t.Client)
		case seen[t.Key()]:
			return nil, fmt.Errorf("fleet: target %s is chosen twice", t.Key())
		}
		seen[t.Key()] = true
	}
	return out, nil
}

// sizes returns the number of targets of each wave, for n in all.
func (p *Plan) sizes(n int) []int {
	var out []int
	left := n
	for _, w := range p.Waves {
		size := left
		switch {
		case w.Count > 0:
			size = w.Count
		case w.Percent > 0:
			size = int(math.Ceil(w.Percent / 100 * float64(n)))
		}
		size = min(size, left)
		left -= size
		out = append(out, size)
	}
	if left > 0 {
		out = append(out, left)
	}
	return out
}

// Check returns all errors of the plan, joined, or nil.
func (p *Plan) Check() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("fleet: plan %q: "+format, append([]any{p.ID}, args...)...))
	}
	if !word(p.ID, 100) {
		bad("an ID has 1 to 100 letters, digits, '.', '_' or '-'")
	}
	if len(p.Clients) == 0 {
		bad("it has no Clients")
	}
	for name, c := range p.Clients {
		if !word(name, 60) || c == nil {
			bad("Client %q: a name has 1 to 60 letters, digits, '.', '_' or '-', and a Client", name)
		}
	}
	if p.Targets != nil && (p.Select != nil || p.Labels != nil) {
		bad("Targets and Labels or Select contradict each other: leave one out")
	}
	if len(p.Steps) == 0 {
		bad("it has no steps")
	}
	names := map[string]bool{}
	all := p.Steps
	if p.Undo != nil {
		all = append(slices.Clip(all), *p.Undo)
	}
	for i, s := range all {
		switch {
		case !word(s.Name, 60):
			bad("step %d: a name has 1 to 60 letters, digits, '.', '_' or '-'", i+1)
		case names[s.Name]:
			bad("two steps are named %q", s.Name)
		case s.Do == nil:
			bad("step %q does nothing", s.Name)
		case s.Tries < 0 || s.Wait < 0 || s.Timeout < 0:
			bad("step %q: Tries, Wait or Timeout is negative", s.Name)
		}
		names[s.Name] = true
	}
	if l := p.Limits; l.Total < 0 || l.PerHost < 0 || l.PerDatastore < 0 || l.PerClient < 0 || p.StopAfter < 0 {
		bad("a limit is negative")
	}
	for i, w := range p.Waves {
		switch {
		case w.Count < 0 || w.Percent < 0 || w.Percent > 100 || math.IsNaN(w.Percent) || w.Wait < 0:
			bad("wave %d: Count, Percent or Wait is out of range", i+1)
		case w.Count > 0 && w.Percent > 0:
			bad("wave %d: Count and Percent contradict each other", i+1)
		case w.Count == 0 && w.Percent == 0 && i < len(p.Waves)-1:
			bad("wave %d has all that are left, and another wave follows", i+1)
		}
	}
	if w := p.Window; w != nil && (w.From < 0 || w.To < 0 || w.From >= 24*time.Hour || w.To > 24*time.Hour || w.From == w.To) {
		bad("Window: From and To are two times from 0 to 24 h")
	}
	if p.Rate.N < 0 || p.Rate.Per < 0 || (p.Rate.N > 0) != (p.Rate.Per > 0) {
		bad("Rate: give N and Per, or neither")
	}
	return errors.Join(errs...)
}

// word reports whether s has 1 to limit letters, digits, '.', '_' or '-'.
func word(s string, limit int) bool {
	return s != "" && len(s) <= limit && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == "" &&
		!strings.ContainsFunc(s, func(r rune) bool {
			return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", r)
		})
}

// Shape is a hash of what the plan declares, in hexadecimal digits. Functions
// count by their presence, Clients by their names.
func (p *Plan) Shape() string {
	type step struct {
		Name          string
		Tries         int
		Wait, Timeout time.Duration
	}
	type wave struct {
		Count   int
		Percent float64
		Wait    time.Duration
		Gate    bool
	}
	shape := struct {
		ID        string
		Clients   []string
		Labels    map[string]string
		Functions [2]bool
		Steps     []step
		Undo      *step
		Limits    Limits
		Waves     []wave
		StopAfter int
		From, To  time.Duration
		Days      []time.Weekday
		Location  string
		Rate      Rate
	}{ID: p.ID, Clients: slices.Sorted(maps.Keys(p.Clients)), Labels: p.Labels, Functions: [2]bool{p.Select != nil, p.Targets != nil},
		Limits: p.Limits, StopAfter: p.StopAfter, Rate: p.Rate}
	for _, s := range p.Steps {
		shape.Steps = append(shape.Steps, step{s.Name, s.Tries, s.Wait, s.Timeout})
	}
	if s := p.Undo; s != nil {
		shape.Undo = &step{s.Name, s.Tries, s.Wait, s.Timeout}
	}
	for _, w := range p.Waves {
		shape.Waves = append(shape.Waves, wave{w.Count, w.Percent, w.Wait, w.Gate != nil})
	}
	if w := p.Window; w != nil {
		shape.From, shape.To, shape.Days, shape.Location = w.From, w.To, w.Days, w.location().String()
	}
	data, err := json.Marshal(shape)
	if err != nil {
		panic(err) // the struct has only plain values, and Check refuses NaN
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16])
}
