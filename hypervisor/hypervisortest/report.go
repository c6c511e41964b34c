package hypervisortest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// ResultsDir is the environment variable that names the folder into which Run
// writes what it saw, one JSON file for each harness.
const ResultsDir = "ANYVISOR_RESULTS"

// Result is what one run of the suite saw.
type Result struct {
	Driver  string                 `json:"driver"`
	Rung    Rung                   `json:"rung"`
	Label   string                 `json:"label,omitempty"`
	Product hypervisor.Description `json:"product"`
	Rows    []Row                  `json:"rows"`
	// Cancels tells for each operation what Cancel did to it when it came soon
	// after the start: "cancelled", "ran on", "refused" or "at once".
	Cancels map[string]string `json:"cancels,omitempty"`
}

// Row is one capability.
type Row struct {
	Capability hypervisor.Capability `json:"capability"`
	Support    hypervisor.Support    `json:"support"`
	// Outcome is "pass" (declared and shown), "refused" (denied, and refused
	// with the reason), "denied" (nothing to try), "unproven" or "fail".
	Outcome string `json:"outcome"`
	Why     string `json:"why,omitempty"` // of unproven
}

func (s *suite) result() Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := Result{Driver: s.h.Driver, Rung: s.h.Rung, Label: s.h.Label, Product: s.product}
	r.Cancels = s.cancels
	r.Product.Endpoint = "" // differs from run to run
	for _, k := range hypervisor.Capabilities() {
		sup, asked := s.support[k]
		row := Row{Capability: k, Support: sup}
		switch l := sup.Level; {
		case !asked:
			row.Outcome, row.Why = "unproven", "the areas that ask for it are not run here"
		case s.failed[k]:
			row.Outcome = "fail"
		case l == hypervisor.No && s.refused[k]:
			row.Outcome = "refused"
		case l == hypervisor.No:
			row.Outcome = "denied"
		case s.proved[k] != "":
			row.Outcome = "pass"
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

// write leaves the result for the capability table.
func (s *suite) write(t T) {
	dir := os.Getenv(ResultsDir)
	if dir == "" {
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
