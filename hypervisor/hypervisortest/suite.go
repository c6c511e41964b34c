package hypervisortest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// area is a group of rows that share one Client.
type area struct {
	name string
	rows []row
}

// row is one test. It depends on no other row.
type row struct {
	name string
	run  func(*env)
	// proves are capabilities that the row shows at work. A capability is
	// proven if one row shows it and no row that should show it fails.
	proves caps
	// needs are further capabilities that the row uses. Where the Client
	// lacks one of needs or proves, the row does not apply and is not run.
	needs caps
	// anyway runs the row also where the Client lacks what it proves.
	anyway bool
	// lacks is the capability that the row is about, where the Client denies
	// it.
	lacks capability.Name
	// apart: the row may run in parallel with others, on a backend of its
	// own.
	apart bool
}

type caps []capability.Name

// rowsOf are the areas with rows that depend on what the backend has.
var rowsOf = map[string]func(*Backend) []row{"foreign": foreignRows}

func areas() []area {
	return []area{
		inventory, lifecycle, input, power, reconfigure, disks, snapshots, clones, templates, migration, devices,
		labels, tasks, cancel, events, guest, hosts, availability, volumes, concurrency, foreign, refusals, faults, contexts, fields, results, closing,
	}
}

// Run runs the suite as sub-tests of t, one for each area, and within it one
// for each row.
func Run(t *testing.T, h Harness) {
	s := newSuite(h)
	s.run(subTest{t})
	s.write(t)
}

// Finding is one fault of a driver.
type Finding struct {
	Row  string // "area/row", or what is not about one row: "area", "declared"
	Text string
}

func (f Finding) String() string { return f.Row + ": " + f.Text }

// Check runs the suite and returns its findings. If there is none, the driver
// conforms.
func Check(ctx context.Context, h Harness) []Finding {
	f := &finder{ctx: ctx}
	f.do(func() { newSuite(h).run(f) })
	return f.found
}

// suite is one run.
type suite struct {
	h       Harness
	mu      sync.Mutex
	support map[capability.Name]hypervisor.Support
	proved  map[capability.Name]string // the row that proved it
	refused map[capability.Name]bool
	failed  map[capability.Name]string // the row that should have shown it, and why it is known to fail
	tests   []Test
	cancels map[string]string // operation: what Cancel did to it
	product hypervisor.Description
	// mutation, if any, is at work while a row runs.
	mutation *mutation
	parallel bool // other suites run in parallel with this one
}

func newSuite(h Harness) *suite {
	h.Limit = cmp.Or(h.Limit, 2*time.Minute)
	h.Repeat, h.AtOnce = cmp.Or(h.Repeat, 10), cmp.Or(h.AtOnce, 20)
	return &suite{h: h, support: map[capability.Name]hypervisor.Support{}, proved: map[capability.Name]string{},
		refused: map[capability.Name]bool{}, failed: map[capability.Name]string{}, cancels: map[string]string{}}
}

func (s *suite) run(t tree) {
	s.names(t)
	for _, a := range areas() {
		why := s.h.NotYet[a.name]
		if s.concerned(a.name) {
			why = ""
		}
		if slices.Contains(strings.Split(os.Getenv(WithoutAreas), ","), a.name) {
			why = "left out by " + WithoutAreas
		}
		if why != "" {
			t.Logf("AREA %s IS NOT RUN: %s", a.name, why)
			s.tests = append(s.tests, Test{a.name, notRun, why})
			continue
		}
		a.rows = slices.DeleteFunc(slices.Clone(a.rows), func(r row) bool { return !s.selected(a.name, r.name) })
		if len(a.rows) > 0 || rowsOf[a.name] != nil && s.concerns(a.name) {
			t.sub(a.name, func(t tree) { s.area(t, a) })
		}
	}
	if len(s.h.Only) == 0 {
		t.sub("declared", func(t tree) { s.declared(t) })
	}
}

// WithoutAreas is an environment variable with a comma-separated list of
// areas that a run leaves out, for example because the race detector makes
// them slow and another run covers them.
const WithoutAreas = "ANYVISOR_WITHOUT"

// concerned reports whether Only names the area or rows of it.
func (s *suite) concerned(area string) bool { return len(s.h.Only) > 0 && s.concerns(area) }

// selected reports whether Only wants a row.
func (s *suite) selected(area, row string) bool {
	return len(s.h.Only) == 0 || slices.Contains(s.h.Only, area) || slices.Contains(s.h.Only, area+"/"+row)
}

// concerns reports whether Only wants rows of an area.
func (s *suite) concerns(area string) bool {
	return len(s.h.Only) == 0 || slices.ContainsFunc(s.h.Only, func(o string) bool { return o == area || strings.HasPrefix(o, area+"/") })
}

// names checks that the areas and rows that the Harness names exist. Rows
// that depend on the backend are checked by more.
func (s *suite) names(t T) {
	s.named(t, func(name string) bool {
		area, _, row := strings.Cut(name, "/")
		return !row || rowsOf[area] == nil
	}, areas()...)
}

// named checks that each name in the Harness that of selects is one of these
// areas or rows.
func (s *suite) named(t T, of func(name string) bool, all ...area) {
	there := func(name string) bool {
		return slices.ContainsFunc(all, func(a area) bool {
			return slices.ContainsFunc(a.rows, func(r row) bool { return a.name+"/"+r.name == name })
		})
	}
	for what, list := range map[string][]string{"Known": keys(s.h.Known), "Empty": rowsIn("results", s.h.Empty), "Refused": rowsIn("fields", s.h.Refused), "RowLimit": keys(s.h.RowLimit), "Only": s.h.Only} {
		for _, name := range list {
			isArea := what == "Only" && slices.ContainsFunc(all, func(a area) bool { return a.name == name })
			if of(name) && !isArea && !there(name) {
				t.Errorf("Harness.%s names %q, which the suite doesn't have", what, name)
			}
		}
	}
}

// more adds the rows that depend on the backend.
func (s *suite) more(t T, a area, b *Backend) []row {
	of := rowsOf[a.name]
	if of == nil {
		return a.rows
	}
	a.rows = slices.Concat(a.rows, of(b))
	s.named(t, func(name string) bool { return strings.HasPrefix(name, a.name+"/") }, a)
	return slices.DeleteFunc(a.rows, func(r row) bool { return !s.selected(a.name, r.name) })
}

// has reports whether a capability is declared for the Client, and remembers
// it.
func (s *suite) has(ctx context.Context, t T, c *hypervisor.Client, k capability.Name) bool {
	t.Helper()
	sup, err := c.Supports(ctx, k, hypervisor.Ref{})
	if err != nil {
		t.Fatalf("Supports(%s): %v", k, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.support[k] = sup
	return sup.Level == hypervisor.LevelYes || sup.Level == hypervisor.LevelPartial
}

// note records a row's outcome, and what it means for the capabilities that
// the row proves.
func (s *suite) note(r row, test Test) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tests = append(s.tests, test)
	for _, k := range r.proves {
		level := s.support[k].Level
		switch {
		case level != hypervisor.LevelYes && level != hypervisor.LevelPartial:
		case test.Outcome == pass:
			s.proved[k] = test.Name
		case test.Outcome == fail:
			s.failed[k] = test.Name
		case test.Outcome == knownFailure:
			s.failed[k] = fmt.Sprintf("%s, a known failure: %s", test.Name, test.Why)
		}
	}
}

// declared checks that every declared capability has a proof.
func (s *suite) declared(t T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range capability.All() {
		sup, asked := s.support[k]
		why, excused := s.h.Unproven[k]
		switch {
		case !asked:
			t.Errorf("%s: no area asked for it, so it was neither proven nor refused", k)
		case sup.Level == hypervisor.LevelUnproven && sup.Reason == "" && sup.Detail == "":
			t.Errorf("%s: Unproven without a reason", k)
		case sup.Level != hypervisor.LevelYes && sup.Level != hypervisor.LevelPartial:
		case s.proved[k] != "" && excused:
			t.Errorf("%s was proven by %s: take it out of Harness.Unproven (%s)", k, s.proved[k], why)
		case s.proved[k] == "" && !excused && s.failed[k] == "":
			t.Errorf("%s is declared %s and nothing here proves it: declare it Unproven, make the harness able to show it, or say in Harness.Unproven why it can't", k, sup.Level)
		}
	}
}

// keys returns the keys in order, for stable messages.
func keys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

func words(ks caps) string {
	var out []string
	for _, k := range ks {
		out = append(out, string(k))
	}
	return strings.Join(out, ", ")
}
