package vsphere

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/endpoint"
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
	word, _ := u.User.Password()
	base := "vsphere://" + u.User.String() + "@" + u.Host + "/"
	wrong := strings.Repeat("00:", 19) + "00"
	for _, c := range []struct {
		name, query string
		ok          bool
	}{
		{"by default", "", false},
		{"ca file", "?ca=" + url.QueryEscape(ca), true},
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
			if !errors.Is(err, hypervisor.ErrUnavailable) || strings.Contains(err.Error(), word) {
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
	host, login := sim.URL().Host, "vsphere://"+sim.URL().User.String()+"@"
	for _, c := range []struct {
		url  string
		want error
	}{
		{"vsphere://user:s3cret@" + host + "/?plainhttp=true", hypervisor.ErrUnauthenticated},
		{login + host + "/?plainhttp=true&datacenter=none", hypervisor.ErrNotFound},
		{"vsphere://user:s3cret@" + host + "/?plainhttp=true&colour=red", hypervisor.ErrInvalidArgument},
		{login + host + "/?plainhttp=true&password=s3cret", hypervisor.ErrInvalidArgument},
		{login + host + "/?plainhttp=s3cret", hypervisor.ErrInvalidArgument},
		{login + host + "/?plainhttp=true&token=s3cret", hypervisor.ErrInvalidArgument},
		{login + host + "/?plainhttp=true&insecure=true", hypervisor.ErrInvalidArgument},
		{login + host + "/?plainhttp=true&plainhttp=true", hypervisor.ErrInvalidArgument},
		{login + host + "/?plainhttp=true&keepalive=soon", hypervisor.ErrInvalidArgument},
		{login + host + "/?thumbprint=AA", hypervisor.ErrInvalidArgument},
		{"vsphere://user:s3cret@" + host + "/?insecure=true&thumbprint=AA", hypervisor.ErrInvalidArgument},
		{"vsphere://user:s3cret@/", hypervisor.ErrInvalidArgument},
		{"vsphere://user:s3cret@127.0.0.1:1/?plainhttp=true", hypervisor.ErrUnavailable},
		{"vsphere://user:s3cret@" + host + "/?plainhttp=true&certificate=none.pem&key=none.pem", hypervisor.ErrInvalidArgument},
	} {
		_, err := hypervisor.Open(t.Context(), c.url, nil)
		if !errors.Is(err, c.want) {
			t.Errorf("Open(%s): %v (kind %s), want %v", c.url, err, hypervisor.KindOf(err), c.want)
		}
		if err != nil && strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), "s3cret") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
	var told strings.Builder
	slog.New(slog.NewJSONHandler(&told, nil)).Info("open", "config", Config{Host: "h", Password: "s3cret", Token: "s3cret"})
	if strings.Contains(told.String(), "s3cret") {
		t.Errorf("Config shows the password to a logger: %s", told.String())
	}
	if s := fmt.Sprintf("%v %+v %#v", Config{Host: "h", Username: "u", Password: "s3cret"}, Config{Password: "s3cret"}, Config{Password: "s3cret", Token: "s3cret"}); strings.Contains(s, "s3cret") {
		t.Errorf("Config shows the password: %s", s)
	}
}

// TestCredentials: Options come first, then the Config or the URL, then the
// environment.
func TestCredentials(t *testing.T) {
	sim := startSim(t, vspheresim.Config{})
	right := simLogin(sim.URL()).Password
	good := &hypervisor.Options{Credentials: simLogin(sim.URL())}
	bad := &hypervisor.Options{Credentials: &hypervisor.Credentials{Username: "user", Password: "wrong"}}
	host := sim.URL().Host
	for _, c := range []struct {
		name, userinfo, env string
		cfg                 Config
		o                   *hypervisor.Options
		want                hypervisor.Kind // ErrUnknown: it connects
	}{
		{"options over the URL", "user:wrong@", "wrong", Config{Username: "user", Password: "wrong"}, good, hypervisor.ErrUnknown},
		{"options alone", "", "", Config{}, good, hypervisor.ErrUnknown},
		{"wrong options over what is right", "user:" + string(right) + "@", string(right), Config{Username: "user", Password: right}, bad, hypervisor.ErrUnauthenticated},
		{"URL over the environment", "user:" + string(right) + "@", "wrong", Config{Username: "user", Password: right}, nil, hypervisor.ErrUnknown},
		{"nobody", "", string(right), Config{Password: right}, nil, hypervisor.ErrInvalidArgument},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(endpoint.PasswordVariable, c.env)
			_, err := opened(hypervisor.Open(t.Context(), "vsphere://"+c.userinfo+host+"/?plainhttp=true", c.o))
			if hypervisor.KindOf(err) != c.want {
				t.Errorf("by URL: %v, want %v", err, c.want)
			}
			c.cfg.Host, c.cfg.PlainHTTP = host, true
			_, err = opened(Open(t.Context(), c.cfg, c.o))
			if hypervisor.KindOf(err) != c.want {
				t.Errorf("by Config: %v, want %v", err, c.want)
			}
		})
	}
	t.Setenv(endpoint.PasswordVariable, string(right))
	if _, err := opened(hypervisor.Open(t.Context(), "vsphere://user@"+host+"/?plainhttp=true", nil)); err != nil {
		t.Errorf("with the password in the environment: %v", err)
	}
}

// opened closes a Client at once.
func opened(c *hypervisor.Client, err error) (*hypervisor.Client, error) {
	if err != nil {
		return nil, err
	}
	return c, c.Close()
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
	c, err := New(t.Context(), g, &hypervisor.Options{Credentials: simLogin(sim.URL())})
	if err != nil {
		t.Fatal(err)
	}
	sim.DropSessions() // renewed with the credentials
	vm := firstVM(t, c, "DC0")
	native, err := hypervisor.As[*object.VirtualMachine](t.Context(), c, vm)
	if err != nil {
		t.Fatal(err)
	}
	if name, err := native.ObjectName(t.Context()); err != nil || !strings.HasPrefix(name, "DC0") {
		t.Errorf("the native object's name is %q (%v)", name, err)
	}
	if v, err := hypervisor.As[*vim25.Client](t.Context(), c, c); err != nil || !v.IsVC() {
		t.Error("As gives no *vim25.Client")
	}
	if _, err := hypervisor.As[*object.HostSystem](t.Context(), c, c); !errors.Is(err, hypervisor.ErrUnsupported) {
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
	c, err := Open(t.Context(), Config{Host: u.Host, Username: "user", Password: simLogin(u).Password, PlainHTTP: true, KeepAlive: 20 * time.Millisecond}, nil)
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
