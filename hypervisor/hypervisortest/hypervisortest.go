// Package hypervisortest is the conformance suite for drivers of package
// hypervisor. A driver's test is a [Harness] and one call:
//
//	func TestConformance(t *testing.T) {
//		hypervisortest.Run(t, hypervisortest.Harness{
//			Driver: "kvm", Rung: hypervisortest.Real,
//			New: func(t hypervisortest.T) *hypervisortest.Backend { … },
//		})
//	}
//
// Every capability that the driver declares (Yes or Partial) is exercised, and
// one that no test could prove is a failure unless the Harness says why. Every
// capability that it denies must be refused, with the same reason, as
// Unsupported. [Check] runs the same tests without package testing's runner
// and returns what it found, for tests of the suite itself.
package hypervisortest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Rung says how real the other end is.
type Rung string

const (
	Fake      Rung = "fake"
	Simulator Rung = "simulator" // the platform's protocol, over the wire
	Real      Rung = "real"
)

// T is what the suite needs of *testing.T.
type T interface {
	Helper()
	Name() string
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Cleanup(func())
	Context() context.Context
}

// Harness describes a driver under test.
type Harness struct {
	Driver string // column of the capability table: "kvm", "vsphere", …
	Rung   Rung
	// Label tells harnesses of one driver and rung apart: "ESXi", "pool".
	Label string

	// New returns a backend for one area of tests. Each area makes machines of
	// its own and removes them, so New may return the same backend each time;
	// the Client must be new, and is closed by the suite.
	New func(t T) *Backend

	// Unproven explains capabilities that the driver declares and that can't
	// be exercised on this rung.
	Unproven map[hypervisor.Capability]string
	// Limit for one area of tests; 0 means 5 minutes.
	Limit time.Duration
	// Repeat is how often idempotent calls are repeated; 0 means 10.
	Repeat int
	// Only runs the named areas, for work on a driver. Declared capabilities
	// are then not demanded to be proven.
	Only []string
}

// Backend is one hypervisor, or a set of them, under test.
type Backend struct {
	Client *hypervisor.Client
	// Reopen opens a second Client on the same backend.
	Reopen func(ctx context.Context) (*hypervisor.Client, error)
	// Other is a Client of another management domain of the same kind, to
	// migrate to; nil if there is none.
	Other *hypervisor.Client
	// Spec describes a machine that can be made and started here, with at
	// least one disk.
	Spec func(name string) hypervisor.VMSpec
	// AbsentVM is a valid ID that no machine has.
	AbsentVM hypervisor.VMID
	// EventWait is how long the suite waits for an event; 0 means 20 seconds.
	EventWait time.Duration

	// The rest looks behind the API and may be nil.

	// Booted waits until the guest of a started machine runs far enough to
	// answer to its agent and to have memory content.
	Booted func(ctx context.Context, id hypervisor.VMID) error
	// WriteDisk and ReadDisk set and get the content identity of a machine's
	// first disk. The machine is off.
	WriteDisk func(ctx context.Context, id hypervisor.VMID, content string) error
	ReadDisk  func(ctx context.Context, id hypervisor.VMID) (string, error)
	// Uptime returns a number from the guest's memory that only grows while
	// this boot of the guest runs, and starts anew with the next boot.
	Uptime func(ctx context.Context, id hypervisor.VMID) (int, error)
	// State asks the platform's own tool; Off for a machine that is not there
	// is an error wrapping hypervisor.ErrNotFound.
	State func(ctx context.Context, id hypervisor.VMID) (hypervisor.PowerState, error)
	// Images lists every disk image, so that orphans show.
	Images func(ctx context.Context) ([]string, error)
	// Slow makes long operations of the backend take this long from now on;
	// 0 ends it.
	Slow func(d time.Duration)
	// Device asks for a device that AttachDevice can take from this backend,
	// VF and Profile likewise; the zero value where there is none.
	Device, VF, Profile hypervisor.DeviceRequest
	// GuestDevices lists the PCI devices that a running machine's guest sees,
	// as "vendor:product" in four hex digits each.
	GuestDevices func(ctx context.Context, id hypervisor.VMID) ([]string, error)
	// ProfileDevice is what a guest sees of Profile, as "vendor:product".
	ProfileDevice string
	// Replicate has the platform say this about a machine's replication.
	Replicate func(ctx context.Context, id hypervisor.VMID, r hypervisor.ReplicationInfo) error
	// DeviceSpec describes a machine that takes devices, where those of Spec
	// don't; nil means Spec.
	DeviceSpec func(name string) hypervisor.VMSpec
}

// area is one group of tests.
type area struct {
	name string
	run  func(*env)
}

func areas() []area {
	return []area{
		{"inventory", inventory}, {"lifecycle", lifecycle}, {"input", input}, {"power", power},
		{"reconfigure", reconfigure}, {"disks", disks}, {"snapshots", snapshots}, {"clones", clones},
		{"templates", templates}, {"migration", migration}, {"devices", devices}, {"labels", labels},
		{"tasks", tasks}, {"cancel", cancel}, {"events", events}, {"guest", guest}, {"hosts", hosts},
		{"availability", availability}, {"volumes", volumes}, {"concurrency", concurrency}, {"refusals", refusals}, {"close", closing},
	}
}

// Run runs the suite as sub-tests of t, one for each area.
func Run(t *testing.T, h Harness) {
	s := newSuite(h)
	for _, a := range areas() {
		if len(h.Only) > 0 && !slices.Contains(h.Only, a.name) {
			continue
		}
		t.Run(a.name, func(t *testing.T) { s.area(t, a) })
	}
	if len(h.Only) == 0 {
		t.Run("declared", func(t *testing.T) { s.declared(t) })
	}
	s.write(t)
}

// Finding is one thing that is wrong with a driver.
type Finding struct {
	Area string
	Text string
}

func (f Finding) String() string { return f.Area + ": " + f.Text }

// Check runs the suite and returns what it found, at most one area's findings
// after the other; no finding means that the driver conforms.
func Check(ctx context.Context, h Harness) []Finding {
	s := newSuite(h)
	var out []Finding
	run := func(name string, f func(T)) {
		t := &finder{name: name, ctx: ctx}
		t.do(f)
		out = append(out, t.found...)
	}
	for _, a := range areas() {
		if len(h.Only) > 0 && !slices.Contains(h.Only, a.name) {
			continue
		}
		run(a.name, func(t T) { s.area(t, a) })
	}
	if len(h.Only) == 0 {
		run("declared", s.declared)
	}
	return out
}

// suite is one run.
type suite struct {
	h       Harness
	mu      sync.Mutex
	support map[hypervisor.Capability]hypervisor.Support
	proved  map[hypervisor.Capability]string // the area that did
	refused map[hypervisor.Capability]bool
	failed  map[hypervisor.Capability]bool
	cancels map[string]string // operation: what Cancel did to it
	product hypervisor.Description
}

func newSuite(h Harness) *suite {
	h.Limit = cmp.Or(h.Limit, 5*time.Minute)
	h.Repeat = cmp.Or(h.Repeat, 10)
	return &suite{h: h, support: map[hypervisor.Capability]hypervisor.Support{}, proved: map[hypervisor.Capability]string{},
		refused: map[hypervisor.Capability]bool{}, failed: map[hypervisor.Capability]bool{}, cancels: map[string]string{}}
}

func (s *suite) area(t T, a area) {
	ctx, stop := context.WithTimeout(t.Context(), s.h.Limit)
	defer stop()
	b := s.h.New(t)
	if b == nil || b.Client == nil || b.Spec == nil || b.AbsentVM == "" {
		t.Fatalf("the harness must set Client, Spec and AbsentVM")
	}
	e := &env{T: t, Backend: b, s: s, ctx: ctx, c: b.Client, area: a.name}
	s.mu.Lock()
	s.product = b.Client.Describe()
	s.mu.Unlock()
	done := false
	defer func() {
		// Also after Fatalf: remove what was made, close, and see that
		// nothing is left.
		e.cleanup(done && !t.Failed())
	}()
	e.images = e.listImages()
	a.run(e)
	done = true
}

// declared demands a proof for everything that was declared.
func (s *suite) declared(t T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range hypervisor.Capabilities() {
		sup, asked := s.support[k]
		why, excused := s.h.Unproven[k]
		switch {
		case !asked:
			t.Errorf("%s: no area asked for it, so it was neither proven nor refused", k)
		case sup.Level == hypervisor.Unproven && sup.Reason == "" && sup.Detail == "":
			t.Errorf("%s: Unproven without a reason", k)
		case sup.Level != hypervisor.Yes && sup.Level != hypervisor.Partial:
		case s.proved[k] != "" && excused:
			t.Errorf("%s was proven by %s: take it out of Harness.Unproven (%s)", k, s.proved[k], why)
		case s.proved[k] == "" && !excused && !s.failed[k]:
			t.Errorf("%s is declared %s and nothing here proves it: declare it Unproven, make the harness able to show it, or say in Harness.Unproven why it can't", k, sup.Level)
		}
	}
}

// finder is a T that keeps findings.
type finder struct {
	name     string
	ctx      context.Context
	mu       sync.Mutex
	found    []Finding
	failed   bool
	cleanups []func()
}

func (f *finder) do(body func(T)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				buf := make([]byte, 4096)
				f.Errorf("panic: %v\n%s", p, buf[:runtime.Stack(buf, false)])
			}
			for _, c := range slices.Backward(f.cleanups) {
				c()
			}
		}()
		body(f)
	}()
	<-done
}

func (f *finder) Helper()                  {}
func (f *finder) Name() string             { return f.name }
func (f *finder) Logf(string, ...any)      {}
func (f *finder) Context() context.Context { return f.ctx }
func (f *finder) Cleanup(c func())         { f.cleanups = append(f.cleanups, c) }
func (f *finder) Failed() bool             { f.mu.Lock(); defer f.mu.Unlock(); return f.failed }

func (f *finder) Errorf(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed = true
	f.found = append(f.found, Finding{f.name, fmt.Sprintf(format, args...)})
}

func (f *finder) Fatalf(format string, args ...any) {
	f.Errorf(format, args...)
	runtime.Goexit()
}

// goroutines returns the stacks that belong to this module, but for the
// suite's own.
func goroutines() []string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var out []string
	for g := range strings.SplitSeq(string(buf), "\n\n") {
		if strings.Contains(g, "hypervisor/hypervisortest.") || !strings.Contains(g, "created by github.com/anyvisor/anyvisor/hypervisor.") {
			continue
		}
		out = append(out, g)
	}
	return out
}

// keys in order, for stable messages.
func keys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
