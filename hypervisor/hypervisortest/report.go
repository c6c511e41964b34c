package hypervisortest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// ResultsDir is the environment variable that names the folder into which Run
// writes its results, one JSON file for each harness.
const ResultsDir = "ANYVISOR_RESULTS"

// Result is the outcome of one run of the suite.
type Result struct {
	Driver  string                 `json:"driver"`
	Rung    Rung                   `json:"rung"`
	Label   string                 `json:"label,omitempty"`
	Product hypervisor.Description `json:"product"`
	Rows    []Row                  `json:"rows"`
	Tests   []Test                 `json:"tests"`
	// Cancels has, for each operation, the effect of a Cancel soon after its
	// start: "cancelled", "ran on", "refused" or "at once".
	Cancels map[string]string `json:"cancels,omitempty"`
}

// Row is one capability.
type Row struct {
	Capability capability.Name    `json:"capability"`
	Support    hypervisor.Support `json:"support"`
	// Outcome is "pass" (declared and shown), "refused" (denied, and refused
	// with the reason), "denied" (no call to try), "unproven" or "fail".
	Outcome string `json:"outcome"`
	Why     string `json:"why,omitempty"` // for unproven and fail
}

// Test is one row of the suite.
type Test struct {
	Name string `json:"name"` // "area/row"
	// Outcome is "pass", "fail", "known failure" (Harness.Known explains it),
	// "not declared" (Why names the capabilities that the Client lacks, so
	// the row does not apply), "declared" (the row is for Clients that lack
	// the capability) or "not shown" (Why explains why this backend can't).
	Outcome string `json:"outcome"`
	Why     string `json:"why,omitempty"`
}

const (
	pass         = "pass"
	fail         = "fail"
	knownFailure = "known failure"
	notDeclared  = "not declared"
	notRun       = "not run"
	declared     = "declared"
	notShown     = "not shown"
)

func (s *suite) result() Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := Result{Driver: s.h.Driver, Rung: s.h.Rung, Label: s.h.Label, Product: s.product, Tests: s.tests, Cancels: s.cancels}
	r.Product.Endpoint = "" // differs from run to run
	for _, k := range capability.All() {
		sup, asked := s.support[k]
		row := Row{Capability: k, Support: sup}
		switch l := sup.Level; {
		case !asked:
			row.Outcome, row.Why = "unproven", "the areas that ask for it are not run here"
		case s.failed[k] != "":
			row.Outcome, row.Why = fail, s.failed[k]
		case l == hypervisor.LevelNo && s.refused[k]:
			row.Outcome = "refused"
		case l == hypervisor.LevelNo:
			row.Outcome = "denied"
		case s.proved[k] != "":
			row.Outcome = pass
		default:
			row.Outcome, row.Why = "unproven", s.h.Unproven[k]
			if row.Why == "" && len(s.h.Only) > 0 {
				row.Why = "the area that shows it is not run here"
			}
		}
		r.Rows = append(r.Rows, row)
	}
	return r
}

// write stores the result for the capability table. A run of areas that prove
// nothing adds nothing to that table.
func (s *suite) write(t T) {
	dir := os.Getenv(ResultsDir)
	if dir == "" || len(s.proved) == 0 {
		return
	}
	b, err := json.MarshalIndent(s.result(), "", "\t")
	if err != nil {
		t.Fatalf("results: %v", err)
	}
	name := strings.Map(func(r rune) rune {
		if r == '/' || r == ' ' {
			return '-'
		}
		return r
	}, strings.Join([]string{s.h.Driver, string(s.h.Rung), s.h.Label}, "_"))
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatalf("results: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".json"), append(b, '\n'), 0o666); err != nil {
		t.Fatalf("results: %v", err)
	}
}
