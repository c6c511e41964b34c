package vspheresim_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/vmware/govmomi"

	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// TestRandomPassword: each simulator has a password of its own, which its URL carries, and no other one is accepted.
func TestRandomPassword(t *testing.T) {
	a, b := start(t, vspheresim.Config{}), start(t, vspheresim.Config{User: "root"})
	p, _ := a.sim.URL().User.Password()
	q, _ := b.sim.URL().User.Password()
	if len(p) < 20 || len(q) < 20 || p == q || b.sim.URL().User.Username() != "root" {
		t.Errorf("passwords %q and %q", p, q)
	}
	for _, word := range []string{q, "pass", ""} {
		u := a.sim.URL()
		u.User = url.UserPassword(u.User.Username(), word)
		if _, err := govmomi.NewClient(t.Context(), u, true); err == nil {
			t.Errorf("a login with the password %q", word)
		}
	}
}

// TestEveryEndpointNeedsLogin: what govmomi's simulator would give to anybody is refused without the password.
func TestEveryEndpointNeedsLogin(t *testing.T) {
	w := start(t, vspheresim.Config{VMs: 1})
	base := w.sim.URL()
	const session = `{"jsonrpc":"2.0","id":"1","method":"invoke","params":{"serviceId":"com.vmware.cis.session","operationId":"create"}}`
	ask := func(method, path, body string, login bool, header ...string) int {
		rq, err := http.NewRequest(method, base.Scheme+"://"+base.Host+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			rq.Header.Set(header[i], header[i+1])
		}
		if login {
			p, _ := base.User.Password()
			rq.SetBasicAuth(base.User.Username(), p)
		}
		rs, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(rq)
		if err != nil {
			t.Fatal(err)
		}
		rs.Body.Close()
		return rs.StatusCode
	}
	for _, k := range []struct {
		method, path, body string
		header             []string
		with               int // the status with the password; 0 means that there is none
	}{
		{"GET", "/about", "", nil, 200},
		{"GET", "/folder/x?dcPath=DC0&dsName=LocalDS_0", "", nil, 404},
		{"GET", "/folder?dcPath=DC0&dsName=LocalDS_0", "", nil, 0},
		{"GET", "/nfc/1/disk-0.vmdk", "", nil, 404},
		{"PUT", "/guestFile/etc/passwd?id=x", "", nil, 0},
		{"GET", "/guestFile?id=x", "", nil, 0},
		{"POST", "/api", session, nil, 0},
		{"POST", "/api/", session, nil, 0},
		{"POST", "/api/session", "", []string{"Authorization", "SIGN token=x"}, 0},
		{"POST", "/rest/com/vmware/cis/session", "", []string{"Authorization", "SIGN token=x"}, 0},
		{"POST", "/api/session", "", nil, 0},
		{"POST", "/rest/com/vmware/cis/session", "", nil, 200},
		{"GET", "/api/vcenter/vm", "", nil, 0},
		{"GET", "/rest/com/vmware/cis/tagging/tag", "", nil, 0},
	} {
		if n := ask(k.method, k.path, k.body, false, k.header...); n < 400 {
			t.Errorf("%s %s %v without a login: %d", k.method, k.path, k.header, n)
		}
		if k.with == 0 {
			continue
		}
		if n := ask(k.method, k.path, k.body, true, k.header...); n != k.with && !(k.with == 200 && n == 201) {
			t.Errorf("%s %s with the password: %d, want %d", k.method, k.path, n, k.with)
		}
	}
	// SOAP: a method of each service.
	for path, k := range map[string]struct{ method, space, kind, this string }{
		"/sdk":                               {"CurrentTime", "vim25", "ServiceInstance", "ServiceInstance"},
		"/sdk/":                              {"CurrentTime", "vim25", "ServiceInstance", "ServiceInstance"},
		"/pbm":                               {"PbmFetchResourceType", "pbm", "PbmProfileProfileManager", "ProfileManager"},
		"/sso-adminserver/sdk/vsphere.local": {"FindPersonUsers", "sso", "SsoAdminPrincipalDiscoveryService", "principalDiscoveryService"},
	} {
		body := fmt.Sprintf(`<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body><%s xmlns="urn:%s"><_this type="%s">%s</_this></%[1]s></Body></Envelope>`,
			k.method, k.space, k.kind, k.this)
		if n := ask("POST", path, body, false, "Content-Type", "text/xml"); n < 400 {
			t.Errorf("%s of %s without a login: %d", k.method, path, n)
		}
	}
}
