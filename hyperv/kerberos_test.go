package hyperv

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/lab/krblab"
)

// domain is a realm of a real KDC with one user and one host in it.
type domain struct {
	*krblab.KDC
	sim    *hvsim.Sim
	keytab string // of the host
}

const realmPassword = "Correct-Horse-7"

// startDomain starts a KDC and a simulated host that trusts it.
func startDomain(t *testing.T, kc krblab.Config, hc hvsim.Config) *domain {
	t.Helper()
	k, keytab := krblab.ForTest(t, kc, realmPassword, []string{"administrator", "guest"}, "HTTP/localhost")
	hc.Keytab = keytab
	hc.RequireChannelBinding, hc.NoBasic = true, true
	s := startSite(t, hc)
	return &domain{k, s.sim, keytab}
}

// config reaches the host by the name that the realm knows.
func (d *domain) config(url string) Config {
	cfg := wsmanConfig(d.sim)
	cfg.Hosts = []string{"localhost:" + portOf(url)}
	cfg.Auth, cfg.KerberosConfig, cfg.Realm = AuthKerberos, d.Config(), krblab.Realm
	cfg.Username, cfg.Password = "administrator", ""
	cfg.PlainHTTP = strings.HasPrefix(url, "http:")
	return cfg
}

func portOf(url string) string {
	_, port, err := net.SplitHostPort(hostPort(url))
	if err != nil {
		panic(err)
	}
	return port
}

// TestKerberos logs in at a real KDC with each kind of credentials, over HTTP
// with sealed messages and over HTTPS bound to the channel, and works.
func TestKerberos(t *testing.T) {
	d := startDomain(t, krblab.Config{}, hvsim.Config{})
	ctx := t.Context()
	tab, err := d.Keytab(ctx, "administrator")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := d.Login(ctx, "administrator", realmPassword)
	if err != nil {
		t.Fatal(err)
	}
	h := d.sim.Host(0)
	for name, edit := range map[string]func(*Config){
		"password":         func(c *Config) { c.Password = realmPassword },
		"password, name@":  func(c *Config) { c.Password, c.Username, c.Realm = realmPassword, "administrator@"+krblab.Realm, "" },
		"password, realm":  func(c *Config) { c.Password, c.Realm = realmPassword, "" }, // the default one
		"keytab":           func(c *Config) { c.Keytab = tab },
		"password, domain": func(c *Config) { c.Password, c.Username = realmPassword, `ANYVISOR\administrator` },
		"credential cache": func(c *Config) { c.CredentialCache, c.Username = cache, "" },
		"one lane":         func(c *Config) { c.CredentialCache, c.Connections = cache, 1 },
	} {
		for _, url := range []string{h.HTTPURL(), h.URL()} {
			t.Run(name+" "+url[:5], func(t *testing.T) {
				d.sim.ResetCalls()
				cfg := d.config(url)
				edit(&cfg)
				c, err := Open(ctx, cfg, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				vm := create(t, c, small("it's <sealed> & "+name))
				if _, err := vm.Start(ctx).Wait(ctx); err != nil {
					t.Fatal(err)
				}
				i, err := vm.Info(ctx)
				if err != nil || i.State != hypervisor.StateRunning || i.Name != "it's <sealed> & "+name {
					t.Errorf("%+v, %v", i, err)
				}
				if _, err := hypervisor.Collect(c.VMs(ctx, nil)); err != nil {
					t.Error(err)
				}
				if sealed := d.sim.Calls()["HTTP sealed"] > 5; sealed != cfg.PlainHTTP {
					t.Errorf("messages were sealed: %v", sealed)
				}
			})
		}
	}
}

// TestKerberosURL: the same from a URL, and with the ticket that kinit left,
// as Kerberos' own tools take it.
func TestKerberosURL(t *testing.T) {
	d := startDomain(t, krblab.Config{}, hvsim.Config{})
	ctx := t.Context()
	tab, err := d.Keytab(ctx, "administrator")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := d.Login(ctx, "administrator", realmPassword)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("KRB5_CONFIG", d.Config())
	t.Setenv("ANYVISOR_PASSWORD", "")
	base := "localhost:" + portOf(d.sim.Host(0).HTTPURL()) + "/?auth=kerberos&plainhttp=1"
	for _, k := range []struct{ ccname, url string }{
		{"FILE:/nonexistent", "hyperv://administrator@" + base + "&realm=" + krblab.Realm + "&keytab=" + tab},
		{"FILE:/nonexistent", "hyperv://" + base + "&kerberosconfig=" + d.Config() + "&credentialcache=" + cache},
		{"FILE:" + cache, "hyperv://" + base},
		{cache, "hyperv://" + base},
	} {
		t.Setenv("KRB5CCNAME", k.ccname)
		c, err := hypervisor.Open(ctx, k.url, nil)
		if err != nil {
			t.Errorf("%s with KRB5CCNAME=%s: %v", k.url, k.ccname, err)
			continue
		}
		c.Close()
	}
	for _, name := range []string{"FILE:/nonexistent", "KEYRING:persistent:0"} {
		t.Setenv("KRB5CCNAME", name)
		if _, err := hypervisor.Open(ctx, "hyperv://"+base, nil); !errors.Is(err, hypervisor.ErrInvalidArgument) || !strings.Contains(err.Error(), "credential cache") {
			t.Errorf("KRB5CCNAME=%s: %v", name, err)
		}
	}
}

// TestKerberosFaults: each refusal differs from the others, and names what to
// do.
func TestKerberosFaults(t *testing.T) {
	d := startDomain(t, krblab.Config{}, hvsim.Config{})
	ctx := t.Context()
	h := d.sim.Host(0)
	open := func(edit func(*Config), url string) error {
		cfg := d.config(url)
		cfg.Password = realmPassword
		edit(&cfg)
		c, err := Open(ctx, cfg, nil)
		if err == nil {
			c.Close()
		}
		return err
	}
	check := func(name string, err, kind error, says string) {
		t.Helper()
		if !errors.Is(err, kind) || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "horse") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, edit := range map[string]func(*Config){
		"no configuration": func(c *Config) { c.KerberosConfig = "/nonexistent" },
		"no keytab":        func(c *Config) { c.Keytab = "/nonexistent" },
		"no cache":         func(c *Config) { c.CredentialCache = "/nonexistent" },
	} {
		check(name, open(edit, h.HTTPURL()), hypervisor.ErrInvalidArgument, "/nonexistent")
	}
	past := startDomain(t, krblab.Config{ClockOffset: -48 * time.Hour}, hvsim.Config{})
	old, err := past.Login(ctx, "administrator", realmPassword)
	if err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{h.HTTPURL(), h.URL()} {
		check("wrong password", open(func(c *Config) { c.Password = "battery-horse" }, url), hypervisor.ErrUnauthenticated, "wrong password")
		check("unknown user", open(func(c *Config) { c.Username = "nobody" }, url), hypervisor.ErrUnauthenticated, "no such user")
		check("a name that the realm does not know", open(func(c *Config) { c.Hosts[0] = strings.Replace(c.Hosts[0], "localhost", "127.0.0.1", 1) }, url),
			hypervisor.ErrUnauthenticated, "no service HTTP/127.0.0.1")
		check("a user whom the host does not know", open(func(c *Config) { c.Username = "guest" }, url), hypervisor.ErrUnauthenticated, "the login of guest")
		check("a KDC whose clock is two days behind", open(func(c *Config) { c.KerberosConfig = past.Config() }, url), hypervisor.ErrUnauthenticated, "clocks")
		check("an old ticket", open(func(c *Config) { c.CredentialCache = old }, url), hypervisor.ErrUnauthenticated, "get a new one with kinit")
	}
	d.sim.Advance(10 * time.Minute)
	for _, url := range []string{h.HTTPURL(), h.URL()} {
		check("a host whose clock is ahead", open(func(*Config) {}, url), hypervisor.ErrUnauthenticated, "clocks")
	}
	conf, err := os.ReadFile(d.Config())
	if err != nil {
		t.Fatal(err)
	}
	nobody := filepath.Join(t.TempDir(), "krb5.conf")
	if err := os.WriteFile(nobody, regexp.MustCompile(`kdc = 127.*`).ReplaceAll(conf, []byte("kdc = 127.0.0.1:1")), 0o600); err != nil {
		t.Fatal(err)
	}
	check("no KDC", open(func(c *Config) { c.KerberosConfig = nobody }, h.HTTPURL()), hypervisor.ErrUnavailable, "no KDC")
}

// TestKerberosNewKey: the key of a host changes while its tickets are still
// valid, which a member of a domain does every month. The ticket of the old
// key is dropped.
func TestKerberosNewKey(t *testing.T) {
	d := startDomain(t, krblab.Config{}, hvsim.Config{})
	ctx := t.Context()
	cache, err := d.Login(ctx, "administrator", realmPassword)
	if err != nil {
		t.Fatal(err)
	}
	h := d.sim.Host(0)
	for name, edit := range map[string]func(*Config){
		"password": func(c *Config) { c.Password = realmPassword },
		"cache":    func(c *Config) { c.CredentialCache = cache },
	} {
		for _, url := range []string{h.HTTPURL(), h.URL()} {
			cfg := d.config(url)
			edit(&cfg)
			c, err := Open(ctx, cfg, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Rekey(ctx, "HTTP/localhost", d.keytab); err != nil {
				t.Fatal(err)
			}
			// A sealed connection stays logged in until the host asks again.
			if cfg.PlainHTTP {
				d.sim.Inject(hvsim.Fault{Op: "HTTP", Status: 401})
			}
			if _, err := hypervisor.Collect(c.VMs(ctx, nil)); err != nil {
				t.Errorf("%s, %s: %v", name, url, err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
