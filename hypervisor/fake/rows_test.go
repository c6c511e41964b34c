package fake_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
)

// liar is a bench whose drivers tell a lie.
func liar(tell func(*lie)) bench {
	return bench{wrap: func(d *fake.Driver) hypervisor.Driver {
		l := &lie{Driver: d}
		_ = d.As(context.Background(), hypervisor.Ref{}, &l.b)
		tell(l)
		return l
	}}
}

// noResume fails Resume of a paused machine, so that a row leaves one behind.
func noResume(l *lie) {
	l.power = func(ctx context.Context, id vmID, r hypervisor.PowerRequest) (dtask, error) {
		if v, err := l.Driver.GetVM(ctx, id); err == nil && v.State == hypervisor.StatePaused && r.Op == hypervisor.PowerOpResume {
			return nil, errors.New("no resume today")
		}
		return l.Driver.Power(ctx, id, r)
	}
}

// check runs rows and returns the names of those in which something was found.
func check(t *testing.T, h hypervisortest.Harness) (rows, texts []string) {
	t.Helper()
	found := map[string]bool{}
	for _, f := range hypervisortest.Check(t.Context(), h) {
		found[f.Row] = true
		texts = append(texts, f.String())
	}
	return slices.Sorted(maps.Keys(found)), texts
}

// result runs the suite and returns what it wrote.
func result(t *testing.T, h hypervisortest.Harness) (r hypervisortest.Result) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv(hypervisortest.ResultsDir, dir)
	if !t.Run("suite", func(t *testing.T) { hypervisortest.Run(t, h) }) {
		t.Fatal("the suite failed")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("results: %v, %v", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func outcomes(r hypervisortest.Result) map[string]string {
	out := map[string]string{}
	for _, x := range r.Tests {
		out[x.Name] = x.Outcome
	}
	return out
}

// TestRowsAlone: each row passes without the others.
func TestRowsAlone(t *testing.T) {
	r := result(t, everything().harness("all"))
	all := outcomes(r)
	if len(all) != len(r.Tests) {
		t.Errorf("%d rows have %d names", len(r.Tests), len(all))
	}
	for name, outcome := range all {
		if outcome != "pass" {
			continue
		}
		h := everything().harness("")
		h.Only, h.Repeat = []string{name}, 2
		alone := func(t *testing.T) {
			if rows, texts := check(t, h); len(rows) > 0 {
				t.Errorf("alone, %s fails: %v", name, texts)
			}
		}
		if strings.HasPrefix(name, "contexts/") { // they wait, which costs nothing here
			synctest.Test(t, alone)
		} else {
			alone(t)
		}
	}
}

// TestRowFailsAlone: a row that fails, and leaves the machine that rows share
// in a state of its own, fails no other.
func TestRowFailsAlone(t *testing.T) {
	h := liar(noResume).harness("")
	h.Only = []string{"power/pause", "power/suspend"} // which a paused machine refuses
	rows, texts := check(t, h)
	if !slices.Equal(rows, []string{"power/pause"}) {
		t.Errorf("found in other rows than power/pause:\n%s", strings.Join(texts, "\n"))
	}
}

// TestKnown: a known failure is run, written and fails in the table, and the
// suite passes.
func TestKnown(t *testing.T) {
	h := liar(noResume).harness("known")
	h.Only = []string{"power"}
	h.Known = map[string]string{"power/pause": "no resume"}
	r := result(t, h)
	if o := outcomes(r); o["power/pause"] != "known failure" || o["power/reset"] != "pass" || o["power/shutdown"] != "pass" {
		t.Errorf("the outcomes are %v", o)
	}
	for _, x := range r.Rows {
		if x.Capability == capability.PowerPause && (x.Outcome != "fail" || !strings.Contains(x.Why, "power/pause, a known failure: no resume")) {
			t.Errorf("the table has %+v", x)
		}
	}
	if rows, texts := check(t, h); len(rows) > 0 {
		t.Errorf("Check finds known failures: %v", texts)
	}
}

// TestKnownPasses: what doesn't fail, or isn't run, has no place in Known.
func TestKnownPasses(t *testing.T) {
	b := everything()
	b.cfg = disabled(capability.PowerSuspend)
	h := b.harness("")
	h.Only = []string{"power", "refusals/power.pause"}
	h.Known = map[string]string{"power/pause": "is broken", "power/suspend": "is broken", "refusals/power.pause": "is broken"}
	rows, texts := check(t, h)
	if len(texts) != 3 || !slices.Equal(rows, []string{"power", "power/pause", "refusals"}) || !strings.Contains(strings.Join(texts, ""), "take it out of Harness.Known") {
		t.Errorf("found %v", texts)
	}
}

// TestSettings: names that the suite doesn't have are errors.
func TestSettings(t *testing.T) {
	h := everything().harness("")
	h.Only = []string{"labels/absent", "power/paus"}
	h.Known = map[string]string{"labels": "an area is no row"}
	h.RowLimit = map[string]time.Duration{"labels/gone": time.Second}
	if _, texts := check(t, h); len(texts) != 3 {
		t.Errorf("found %v, want three wrong names", texts)
	}
}

// TestLimit: a row that takes longer than its limit fails; others have theirs.
func TestLimit(t *testing.T) {
	h := everything().harness("")
	h.Only = []string{"labels"}
	h.RowLimit = map[string]time.Duration{"labels/listed-by": time.Nanosecond}
	if rows, texts := check(t, h); !slices.Equal(rows, []string{"labels/listed-by"}) {
		t.Errorf("found %v", texts)
	}
}

// TestNoSilence: a harness that can't make its platform silent has to say so.
func TestNoSilence(t *testing.T) {
	h := everything().harness("")
	h.New = func(t hypervisortest.T) *hypervisortest.Backend {
		b := everything().backend(t)
		b.Break.Silence = nil
		return b
	}
	h.Only = []string{"contexts"}
	if rows, texts := check(t, h); !slices.Equal(rows, []string{"contexts"}) || !strings.Contains(texts[0], "say in Harness.NotYet") {
		t.Errorf("found %v", texts)
	}
}
