package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTour(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want []string
		code int
	}{
		{"all of it", []string{"-url", "fake://"}, []string{"snapshot with its memory  done", "migrate live              done", "GH100|GM204GL", "clean up                  done"}, 0},
		{"one host", []string{"-url", "fake://?hosts=1"}, []string{"migrate live              not here", "single-host"}, 0},
		{"free edition", []string{"-url", "fake://?edition=free"}, []string{"migrate live              not here", "edition"}, 0},
		{"too much memory", []string{"-url", "fake://", "-memory", "99999999"}, []string{"make a machine  FAILED"}, 1},
		{"no driver", []string{"-url", "nosuch://"}, nil, 1},
		{"no flag", []string{"-nosuch"}, nil, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, diag bytes.Buffer
			if code := run(t.Context(), c.args, &out, &diag); code != c.code {
				t.Errorf("ended with %d, want %d\n%s%s", code, c.code, &out, &diag)
			}
			for _, w := range c.want {
				found := false
				for alt := range strings.SplitSeq(w, "|") {
					found = found || strings.Contains(out.String(), alt)
				}
				if !found {
					t.Errorf("the output lacks %q:\n%s", w, &out)
				}
			}
			if strings.Contains(out.String(), "\x1b") {
				t.Errorf("escape sequences on what is no terminal:\n%q", &out)
			}
		})
	}
}

// shared numbers the backends that URLs name: they live as long as the process.
var shared int

// What was made is removed, and nothing else.
func TestCleanup(t *testing.T) {
	shared++
	url := fmt.Sprintf("fake://cleanup-%d", shared)
	c, err := hypervisor.Open(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.CreateVM(t.Context(), hypervisor.VMSpec{Name: "mine", MemoryBytes: hypervisor.GiB}).Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, args := range [][]string{{"-url", url}, {"-url", url, "-keep"}} {
		if code := run(t.Context(), args, &out, &out); code != 0 {
			t.Fatalf("ended with %d\n%s", code, &out)
		}
		all, err := hypervisor.Collect(c.VMs(t.Context(), nil))
		want := 1
		if len(args) > 2 {
			want = 4
		}
		if err != nil || len(all) != want || all[0].Name != "mine" {
			t.Errorf("%v: %d machines are there, want %d (%v)", args, len(all), want, err)
		}
	}
}
