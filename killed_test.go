package anyvisor

import (
	"bufio"
	"context"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// killed has the name of the platform of the test program that is killed.
const killed = "ANYVISOR_TEST_KILLED"

// platforms start a simulated platform each and open a Client on it.
var platforms = map[string]func(t *testing.T) *hypervisor.Client{
	"fake": func(t *testing.T) *hypervisor.Client {
		return opened(t, func(ctx context.Context) (*hypervisor.Client, error) { return fake.New(fake.Config{}).Open(ctx, nil) })
	},
	"vsphere": func(t *testing.T) *hypervisor.Client {
		sim, err := vspheresim.Start(vspheresim.Config{TLS: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(sim.Close)
		if _, err := sim.CertificateFile(); err != nil {
			t.Fatal(err)
		}
		return openURL(t, url.URL{Scheme: "vsphere", User: sim.URL().User, Host: sim.URL().Host})
	},
	"hyperv": func(t *testing.T) *hypervisor.Client {
		sim, err := hvsim.Start(hvsim.Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sim.Close() })
		return openURL(t, url.URL{Scheme: "hyperv", User: url.UserPassword("Administrator", sim.Password()), Host: host(t, sim.Host(0).URL())})
	},
	"xapi": func(t *testing.T) *hypervisor.Client {
		sim, err := xapisim.Start(xapisim.Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(sim.Close)
		return openURL(t, url.URL{Scheme: "xapi", User: url.UserPassword(sim.User(), sim.Password()), Host: host(t, sim.URL())})
	},
}

func opened(t *testing.T, open func(context.Context) (*hypervisor.Client, error)) *hypervisor.Client {
	t.Helper()
	c, err := open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func openURL(t *testing.T, u url.URL) *hypervisor.Client {
	t.Helper()
	u.RawQuery = "insecure=true"
	return opened(t, func(ctx context.Context) (*hypervisor.Client, error) { return hypervisor.Open(ctx, u.String(), nil) })
}

func host(t *testing.T, at string) string {
	t.Helper()
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// TestKilled: a test program with a simulator that is killed in the middle of
// its work, and run again, leaves nothing in the folder for temporary files.
func TestKilled(t *testing.T) {
	if p := os.Getenv(killed); p != "" {
		program(t, p)
		return
	}
	for p := range platforms {
		t.Run(p, func(t *testing.T) {
			dir := t.TempDir()
			run := func(kill bool) string {
				t.Helper()
				cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
				cmd.Env = append(os.Environ(), killed+"="+p, "TMPDIR="+dir, "TMP="+dir)
				in, err := cmd.StdinPipe()
				if err != nil {
					t.Fatal(err)
				}
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				lines, said := bufio.NewScanner(out), ""
				for lines.Scan() && lines.Text() != "at work" {
					said += lines.Text() + "\n"
				}
				if kill {
					err = cmd.Process.Kill()
				} else {
					err = in.Close()
				}
				if err != nil {
					t.Fatal(err)
				}
				for lines.Scan() {
					said += lines.Text() + "\n"
				}
				if err := cmd.Wait(); kill == (err == nil) {
					t.Fatalf("killed %v: %v\n%s", kill, err, said)
				}
				l, err := os.ReadDir(dir)
				if err != nil {
					t.Fatal(err)
				}
				var names []string
				for _, e := range l {
					names = append(names, e.Name())
				}
				return strings.Join(names, " ")
			}
			if left := run(true); p == "vsphere" && !strings.Contains(left, "govcsim-") {
				t.Errorf("a killed program left %q: this test shows nothing", left)
			}
			if left := run(false); left != "" {
				t.Errorf("left: %s", left)
			}
		})
	}
}

// program makes a machine, says so, and stops when its input ends.
func program(t *testing.T, platform string) {
	c := platforms[platform](t)
	_, err := c.CreateVM(t.Context(), hypervisor.VMSpec{Name: "web", CPUs: 1, MemoryBytes: hypervisor.GiB, Disks: []hypervisor.DiskSpec{{SizeBytes: hypervisor.GiB}}}).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stdout.WriteString("at work\n"); err != nil {
		t.Fatal(err)
	}
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
}
