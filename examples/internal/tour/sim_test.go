package tour

import (
	"net/url"
	"strings"
	"testing"

	_ "github.com/anyvisor/anyvisor/vsphere"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
	_ "github.com/anyvisor/anyvisor/xen"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// The same tour on simulated platforms, over the wire.
func TestSimulators(t *testing.T) {
	v, err := vspheresim.Start(vspheresim.Config{TLS: true, User: "tourist", Password: "Xq9-secret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	x, err := xapisim.Start(xapisim.Config{Hosts: 2, User: "tourist", Password: "Xq9-secret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	xu, err := url.Parse(x.URL())
	if err != nil {
		t.Fatal(err)
	}
	for name, u := range map[string]url.URL{
		"vSphere": {Scheme: "vsphere", User: v.URL().User, Host: v.URL().Host, RawQuery: "insecure=true"},
		"XAPI":    {Scheme: "xapi", User: url.UserPassword(x.User(), x.Password()), Host: xu.Host, RawQuery: "insecure=true"},
	} {
		t.Run(name, func(t *testing.T) {
			out, failed := take(t, u.String(), Options{})
			if failed > 0 {
				t.Fatalf("%d steps failed\n%s", failed, out)
			}
			for _, step := range []string{"clone it, full", "clone it, linked", "deploy from it", "migrate live", "clean up"} {
				if !strings.Contains(out, "✓ "+step) {
					t.Errorf("not done: %q\n%s", step, out)
				}
			}
			if p, _ := u.User.Password(); p != "" && strings.Contains(out, p) {
				t.Errorf("the password is printed:\n%s", out)
			}
		})
	}
}
