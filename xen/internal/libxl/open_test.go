package libxl

import (
	"net/url"
	"slices"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
)

func TestParseURL(t *testing.T) {
	for in, want := range map[string][]string{
		"xen:///system":                      {"xen:///system"},
		"xen+ssh://root@h1,h2/system":        {"xen+ssh://root@h1/system?no_tty=1", "xen+ssh://root@h2/system?no_tty=1"},
		"xen+tcp://10.0.0.1,10.0.0.2:16510/": {"xen+tcp://10.0.0.1:16510/", "xen+tcp://10.0.0.2:16510/"},
		"xen+tcp://h1":                       {"xen+tcp://h1/"},
		"xen+tls://[fe80::1]/?insecure=1":    {"xen+tls://[fe80::1]/?no_verify=1"},
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if cfg, err := ParseURL(u); err != nil || !slices.Equal(cfg.Hosts, want) {
			t.Errorf("%s: %q, %v; want %q", in, cfg.Hosts, err, want)
		}
	}
	u, _ := url.Parse("xen+tcp://admin:secret@h1/")
	cfg, err := ParseURL(u)
	if err != nil || cfg.Hosts[0] != "xen+tcp://admin@h1/" || cfg.Username != "admin" || cfg.Password != "secret" {
		t.Errorf("a URL with a password: %+v, %v", cfg, err)
	}
	for _, in := range []string{"xen+carrier://h/", "xen://h1,,h2/", "xen://h/session", "qemu:///system", "xen+test:///default", "xen://h/?nonsense=1"} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseURL(u); hypervisor.KindOf(err) != hypervisor.ErrInvalidArgument {
			t.Errorf("%s: %v, want an invalid argument", in, err)
		}
	}
}
