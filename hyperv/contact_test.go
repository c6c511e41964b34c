package hyperv

import (
	"net"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

func portNumber(t *testing.T, at string) int {
	t.Helper()
	if u, err := url.Parse(at); err == nil && u.Host != "" {
		at = u.Host
	}
	_, p, err := net.SplitHostPort(at)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(p)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// closedPort is one on which nobody listens.
func closedPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return portNumber(t, l.Addr().String())
}

// TestOpenTellsTheOtherPort: where WinRM answers on its other port alone, or
// on none, Open says what to switch on.
func TestOpenTellsTheOtherPort(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	http, https, closed, other := portNumber(t, s.sim.Host(0).HTTPURL()), portNumber(t, s.sim.Host(0).URL()), closedPort(t), closedPort(t)
	for name, k := range map[string]struct {
		winrm [2]int // ports for HTTP and HTTPS
		plain bool
		port  int
		want  string
	}{
		"a fresh Windows":         {[2]int{http, closed}, false, closed, "set PlainHTTP (plainhttp=true)"},
		"HTTPS alone":             {[2]int{closed, https}, true, closed, "leave PlainHTTP (plainhttp=true) out"},
		"neither":                 {[2]int{closed, other}, false, other, "winrm quickconfig"},
		"HTTPS to the HTTP port":  {[2]int{http, closed}, false, http, "WinRM's port for HTTP: set PlainHTTP"},
		"a port of somebody else": {[2]int{http, https}, false, closed, "refused"},
	} {
		cfg := Config{Hosts: []string{"127.0.0.1:" + strconv.Itoa(k.port)}, Username: "Administrator", Password: hypervisor.Secret(s.sim.Password()), PlainHTTP: k.plain, Insecure: !k.plain, winrm: k.winrm}
		err := opened(Open(t.Context(), cfg, nil))
		if hypervisor.KindOf(err) != hypervisor.ErrUnavailable || !strings.Contains(err.Error(), k.want) || !strings.Contains(err.Error(), strconv.Itoa(k.port)) {
			t.Errorf("%s: %v, want %q", name, err, k.want)
		}
	}
}

// TestRightsThatLack: an account that lacks one of the two groups learns
// which.
func TestRightsThatLack(t *testing.T) {
	s := startSite(t, hvsim.Config{Users: map[string]string{"hyperv": "p1", "remote": "p2", "Administrator": "p3"},
		Rights: map[string]hvsim.Rights{"hyperv": hvsim.HyperVOnly, "remote": hvsim.RemoteOnly}})
	for user, k := range map[string]struct {
		password hypervisor.Secret
		want     string
	}{"hyperv": {"p1", "Remote Management Users"}, "remote": {"p2", "shows nothing of Hyper-V"}} {
		for _, basic := range []bool{false, true} {
			cfg := s.config
			cfg.Username, cfg.Password = user, k.password
			if basic {
				cfg.Auth = AuthBasic
			}
			err := opened(Open(t.Context(), cfg, nil))
			if hypervisor.KindOf(err) != hypervisor.ErrPermission || !strings.Contains(err.Error(), k.want) {
				t.Errorf("%s: %v, want %q", user, err, k.want)
			}
		}
	}
}
