package tour

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/anyvisor/anyvisor/hypervisor"
	_ "github.com/anyvisor/anyvisor/hypervisor/fake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTour(t *testing.T) {
	for _, c := range []struct {
		name, url string
		o         Options
		want      []string
		failed    int
	}{
		{"all of it", "fake://", Options{}, []string{"snapshot with its memory  done", "migrate live              done", "GH100|GM204GL", "clean up                  done"}, 0},
		{"one host", "fake://?hosts=1", Options{}, []string{"migrate live              not here", "single-host"}, 0},
		{"free edition", "fake://?edition=free", Options{}, []string{"migrate live              not here", "edition"}, 0},
		{"too much memory", "fake://", Options{MemoryBytes: 99999999 * hypervisor.MiB}, []string{"make a machine  FAILED"}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, failed := take(t, c.url, c.o)
			if failed != c.failed {
				t.Errorf("%d steps failed, want %d\n%s", failed, c.failed, out)
			}
			for _, w := range c.want {
				if !slices.ContainsFunc(strings.Split(w, "|"), func(alt string) bool { return strings.Contains(out, alt) }) {
					t.Errorf("the output lacks %q:\n%s", w, out)
				}
			}
			if strings.Contains(out, "\x1b") {
				t.Errorf("escape sequences on what is no terminal:\n%q", out)
			}
		})
	}
}

// take takes the tour at a URL.
func take(t *testing.T, url string, o Options) (string, int) {
	t.Helper()
	c, err := hypervisor.Open(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var out bytes.Buffer
	failed := Run(t.Context(), c, &out, o)
	return out.String(), failed
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
	for keep, want := range map[bool]int{false: 1, true: 4} {
		before, err := hypervisor.Collect(c.VMs(t.Context(), nil))
		if err != nil {
			t.Fatal(err)
		}
		if out, failed := take(t, url, Options{Keep: keep}); failed > 0 {
			t.Fatalf("%d steps failed\n%s", failed, out)
		}
		all, err := hypervisor.Collect(c.VMs(t.Context(), nil))
		if err != nil || len(all)-len(before) != want-1 || !slices.ContainsFunc(all, func(v hypervisor.VMInfo) bool { return v.Name == "mine" }) {
			t.Errorf("keep %v: %d machines are there after %d (%v)", keep, len(all), len(before), err)
		}
	}
}
