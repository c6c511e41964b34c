//go:build release

package licence

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/licensecheck"
)

// headings are the sections of a NOTICE, and the licence that each means.
var headings = map[string]string{
	"Apache License 2.0":         "Apache-2.0",
	"BSD 3-Clause":               "BSD-3-Clause",
	"BSD 2-Clause":               "BSD-2-Clause",
	"ISC":                        "ISC",
	"MIT":                        "MIT",
	"Mozilla Public License 2.0": "MPL-2.0",
}

// accepted are licences of parts of modules, beside those of the headings.
var accepted = []string{"PostgreSQL"}

// testOnly are requirements that no package is linked with, only tests.
var testOnly = []string{"go.uber.org/goleak"}

// own is the path of this repository's modules, which are under its own
// licence.
const own = "github.com/anyvisor/anyvisor"

// TestLicences: each module that a go.mod requires has one of the known
// licences, and NOTICE lists it under that one.
func TestLicences(t *testing.T) {
	for _, dir := range []string{"../../..", "../../../hypervisor/fleet/dbosfleet"} {
		notice, err := os.ReadFile(filepath.Join(dir, "NOTICE"))
		if err != nil {
			t.Fatal(err)
		}
		listed := sections(string(notice))
		for _, m := range required(t, dir) {
			if slices.Contains(testOnly, m) || strings.HasPrefix(m, own) {
				continue
			}
			found := licences(t, dir, m)
			if !slices.Contains(found, listed[m]) {
				t.Errorf("%s/NOTICE has %s under %q, and its own files say %q", dir, m, listed[m], found)
			}
			for _, l := range found {
				if !slices.Contains(slices.Concat(accepted, slices.Collect(maps.Values(headings))), l) {
					t.Errorf("%s has a file under %s: decide whether programs that use Anyvisor may be linked with it", m, l)
				}
			}
			delete(listed, m)
		}
		for m := range listed {
			t.Errorf("%s/NOTICE lists %s, which go.mod does not require", dir, m)
		}
	}
}

// sections returns the licence under which a NOTICE lists each module.
func sections(notice string) map[string]string {
	module := regexp.MustCompile(`[a-z0-9.-]+\.[a-z]+(?:/[A-Za-z0-9_.-]*[A-Za-z0-9_])+`)
	out := map[string]string{}
	licence := ""
	for line := range strings.Lines(notice) {
		line, indented := strings.TrimRight(line, "\n"), strings.HasPrefix(line, "  ")
		if l, ok := headings[line]; ok || !indented {
			licence = l
			continue
		}
		for _, at := range module.FindAllStringIndex(line, -1) {
			if m := line[at[0]:at[1]]; licence != "" && !strings.HasSuffix(line[:at[0]], "://") {
				out[m] = licence
			}
		}
	}
	return out
}

// required returns the modules that the go.mod in a folder requires.
func required(t *testing.T, dir string) (out []string) {
	t.Helper()
	cmd := exec.Command("go", "mod", "edit", "-json")
	cmd.Dir = dir
	data, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var mod struct{ Require []struct{ Path string } }
	if err := json.Unmarshal(data, &mod); err != nil {
		t.Fatal(err)
	}
	for _, r := range mod.Require {
		out = append(out, r.Path)
	}
	if len(out) < 5 {
		t.Fatalf("%s/go.mod has %d requirements", dir, len(out))
	}
	return out
}

// licences returns the licences in the files of a module whose names say that
// they are licences.
func licences(t *testing.T, dir, module string) (out []string) {
	t.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", module)
	cmd.Dir = dir
	data, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", module, err)
	}
	var got struct{ Dir string }
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(got.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name := strings.ToUpper(f.Name())
		if f.IsDir() || !strings.HasPrefix(name, "LICEN") && !strings.HasPrefix(name, "COPYING") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(got.Dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range licensecheck.Scan(text).Match {
			if !m.IsURL && !slices.Contains(out, m.ID) {
				out = append(out, m.ID)
			}
		}
	}
	return out
}
