package main

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

func TestQuickstart(t *testing.T) {
	var out bytes.Buffer
	if code := run(t.Context(), &out, &out); code != 0 || !strings.Contains(out.String(), "✓ clean up") {
		t.Errorf("ended with %d\n%s", code, &out)
	}
}

// Who tries it first shall not have to compile more than the standard library
// and the fake.
func TestLinksTheFakeAlone(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for p := range strings.FieldsSeq(string(out)) {
		own, ours := strings.CutPrefix(p, "github.com/anyvisor/anyvisor/")
		if strings.Contains(p, ".") && (!ours || !strings.HasPrefix(own, "hypervisor") && !strings.HasPrefix(own, "examples/")) {
			t.Errorf("quickstart links %s", p)
		}
	}
}
