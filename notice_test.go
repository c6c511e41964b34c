package anyvisor

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestNotice: every module that go.mod requires is in NOTICE, except for
// those of tests.
func TestNotice(t *testing.T) {
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	notice, err := os.ReadFile("NOTICE")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, w := range strings.FieldsFunc(string(notice), func(r rune) bool { return strings.ContainsRune(" ,\n", r) }) {
		named[strings.TrimRight(w, ".")] = true
	}
	all := regexp.MustCompile(`(?m)^\t(\S+) v\S+`).FindAllStringSubmatch(string(mod), -1)
	if len(all) < 10 {
		t.Fatalf("go.mod has %d requirements", len(all))
	}
	for _, m := range all {
		if m[1] != "go.uber.org/goleak" && !named[m[1]] {
			t.Errorf("NOTICE has no licence of %s", m[1])
		}
	}
}
