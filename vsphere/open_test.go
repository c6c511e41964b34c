package vsphere

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// TestOpenTLS: the server's certificate counts, by the system's roots, a CA
// file or a thumbprint; without checks only when that is said.
func TestOpenTLS(t *testing.T) {
	sim := startSim(t, vspheresim.Config{TLS: true})
	ca, err := sim.CertificateFile()
	if err != nil {
		t.Fatal(err)
	}
	u := sim.URL()
	base := "vsphere://user:pass@" + u.Host + "/"
	wrong := strings.Repeat("00:", 19) + "00"
	for _, c := range []struct {
		name, query string
		ok          bool
	}{
		{"by default", "", false},
		{"ca file", "?cafile=" + url.QueryEscape(ca), true},
		{"thumbprint", "?thumbprint=" + sim.Thumbprint(), true},
		{"lower-case thumbprint", "?thumbprint=" + strings.ToLower(sim.Thumbprint()), true},
		{"SHA-256 thumbprint", "?thumbprint=" + sha256Thumbprint(t, u.Host), true},
		{"wrong thumbprint", "?thumbprint=" + wrong, false},
		{"insecure", "?insecure=true", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cl, err := hypervisor.Open(t.Context(), base+c.query, nil)
			if c.ok != (err == nil) {
				t.Fatalf("Open: %v", err)
			}
			if err == nil {
				if err := cl.Close(); err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, hypervisor.ErrUnavailable) || strings.Contains(err.Error(), "pass") && strings.Contains(err.Error(), ":pass") {
				t.Errorf("Open: %v (kind %s), want unavailable, without the password", err, hypervisor.KindOf(err))
			}
		})
	}
}

func sha256Thumbprint(t *testing.T, host string) string {
	t.Helper()
	c, err := tls.Dial("tcp", host, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // only the certificate is read
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	return soap.ThumbprintSHA256(c.ConnectionState().PeerCertificates[0])
}

// TestOpenRefused: each mistake has its class, and no secret shows.
func TestOpenRefused(t *testing.T) {
	sim := startSim(t, vspheresim.Config{Datacenters: 2})
	host := sim.URL().Host
	for _, c := range []struct {
		url  string
		want error
	}{
		{"vsphere://user:s3cret@" + host + "/?plain=true", hypervisor.ErrUnauthenticated},
		{"vsphere://user:pass@" + host + "/?plain=true&datacenter=none", hypervisor.ErrNotFound},
		{"vsphere://user:s3cret@" + host + "/?plain=true&colour=red", hypervisor.ErrInvalidArgument},
		{"vsphere://user:s3cret@" + host + "/?insecure=true&thumbprint=AA", hypervisor.ErrInvalidArgument},
		{"vsphere://user:s3cret@/", hypervisor.ErrInvalidArgument},
		{"vsphere://user:s3cret@127.0.0.1:1/?plain=true", hypervisor.ErrUnavailable},
		{"vsphere://user:s3cret@" + host + "/?plain=true&cert=none.pem&key=none.pem", hypervisor.ErrInvalidArgument},
	} {
		_, err := hypervisor.Open(t.Context(), c.url, nil)
		if !errors.Is(err, c.want) {
			t.Errorf("Open(%s): %v (kind %s), want %v", c.url, err, hypervisor.KindOf(err), c.want)
		}
		if err != nil && strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), "s3cret") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
	if s := fmt.Sprintf("%v %+v %#v", Config{Host: "h", Username: "u", Password: "s3cret"}, Config{Password: "s3cret"}, Config{Password: "s3cret", Token: "s3cret"}); strings.Contains(s, "s3cret") {
		t.Errorf("Config shows the password: %s", s)
	}
}

// TestDatacenter limits a Client to one datacenter.
func TestDatacenter(t *testing.T) {
	sim := startSim(t, vspheresim.Config{Datacenters: 2, VMs: 2})
	u := sim.URL()
	all, err := openSim(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = all.Close() }()
	one, err := hypervisor.Open(t.Context(), simURL(u)+"&datacenter=DC1", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = one.Close() }()
	a, err := hypervisor.Collect(all.VMs(t.Context(), nil))
	if err != nil {
		t.Fatal(err)
	}
	b, err := hypervisor.Collect(one.VMs(t.Context(), nil))
	if err != nil {
		t.Fatal(err)
	}
	if len(a) != 2*len(b) || len(b) == 0 {
		t.Errorf("both datacenters have %d machines, DC1 %d", len(a), len(b))
	}
	for _, v := range b {
		if !strings.HasPrefix(v.Placement.Folder, "DC1/vm") {
			t.Errorf("machine %s of DC1 is in folder %q", v.Name, v.Placement.Folder)
		}
	}
	vm, err := one.CreateVM(t.Context(), spec("in one")).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if i, err := vm.Info(t.Context()); err != nil || i.Placement.Folder != "DC1/vm" {
		t.Errorf("a machine made in DC1 is in %q (%v)", i.Placement.Folder, err)
	}
}

// TestNew takes a client of the caller's, leaves its session alone at Close,
// and gives it out again by As.
func TestNew(t *testing.T) {
	sim := startSim(t, vspheresim.Config{VMs: 1})
	g, err := govmomi.NewClient(t.Context(), sim.URL(), true)
	if err != nil {
		t.Fatal(err)
	}
	defer g.CloseIdleConnections()
	u := sim.URL()
	c, err := New(t.Context(), g, nil, func(ctx context.Context, v *vim25.Client) error {
		return login(ctx, v, Config{Username: u.User.Username(), Password: "pass"})
	})
	if err != nil {
		t.Fatal(err)
	}
	sim.DropSessions() // the caller's function renews it
	vm := firstVM(t, c, "DC0")
	native, ok := hypervisor.As[*object.VirtualMachine](vm)
	if !ok {
		t.Fatal("As gives no *object.VirtualMachine")
	}
	if name, err := native.ObjectName(t.Context()); err != nil || !strings.HasPrefix(name, "DC0") {
		t.Errorf("the native object's name is %q (%v)", name, err)
	}
	if v, ok := hypervisor.As[*vim25.Client](c); !ok || !v.IsVC() {
		t.Error("As gives no *vim25.Client")
	}
	if _, ok := hypervisor.As[*object.HostSystem](c); ok {
		t.Error("As makes a host of the connection")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if ok, err := g.SessionManager.UserSession(t.Context()); err != nil || ok == nil {
		t.Errorf("the caller's session is gone after Close: %v", err)
	}
	if sim.Sessions() == 0 {
		t.Error("no session is left")
	}
}

// TestCloseLogsOut: a session that Open made ends with Close.
func TestCloseLogsOut(t *testing.T) {
	sim := startSim(t, vspheresim.Config{})
	c, err := openSim(t.Context(), sim.URL())
	if err != nil {
		t.Fatal(err)
	}
	if n := sim.Sessions(); n != 1 {
		t.Fatalf("%d sessions after Open", n)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if n := sim.Sessions(); n != 0 {
		t.Errorf("%d sessions after Close", n)
	}
}

// TestKeepAlive: an idle Client's session outlives the server's limit.
func TestKeepAlive(t *testing.T) {
	sim := startSim(t, vspheresim.Config{SessionTTL: 2 * time.Second})
	u := sim.URL()
	c, err := Open(t.Context(), Config{Host: u.Host, Username: "user", Password: "pass", PlainHTTP: true, KeepAlive: 20 * time.Millisecond}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	sim.ResetCalls()
	for deadline := time.Now().Add(hang); sim.Calls()["CurrentTime"] < 3; {
		if time.Now().After(deadline) {
			t.Fatal("an idle Client sends nothing")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if n := sim.Calls()["Login"]; n != 0 {
		t.Errorf("%d logins of a session that was kept alive", n)
	}
}
