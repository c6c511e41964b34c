package xen

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/endpoint"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestOpenRefused checks the ways in which a connection is refused.
func TestOpenRefused(t *testing.T) {
	sim, err := xapisim.Start(xapisim.Config{Hosts: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.Close)
	ca := filepath.Join(t.TempDir(), "pool.pem")
	if err := os.WriteFile(ca, sim.CertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	good := config(sim)
	slave := strings.TrimPrefix(sim.URLs()[2], "https://")
	for _, c := range []struct {
		name   string
		change func(*Config)
		kind   hypervisor.Kind // KindUnknown: it connects
	}{
		{"good", func(*Config) {}, hypervisor.ErrUnknown},
		{"colons in the thumbprint", func(c *Config) {
			var parts []string
			for i := 0; i < len(c.Thumbprint); i += 2 {
				parts = append(parts, strings.ToUpper(c.Thumbprint[i:i+2]))
			}
			c.Thumbprint = strings.Join(parts, ":")
		}, hypervisor.ErrUnknown},
		{"authority in a file", func(c *Config) { c.Thumbprint, c.CA = "", ca }, hypervisor.ErrUnknown},
		{"insecure", func(c *Config) { c.Thumbprint, c.Insecure = "", true }, hypervisor.ErrUnknown},
		{"a slave", func(c *Config) { c.Host = slave }, hypervisor.ErrUnknown},
		{"wrong thumbprint", func(c *Config) { c.Thumbprint = strings.Repeat("ab", 32) }, hypervisor.ErrUnavailable},
		{"unknown authority", func(c *Config) { c.Thumbprint = "" }, hypervisor.ErrUnavailable},
		{"malformed thumbprint", func(c *Config) { c.Thumbprint = "abc" }, hypervisor.ErrInvalidArgument},
		{"no such file", func(c *Config) { c.Thumbprint, c.CA = "", ca+"x" }, hypervisor.ErrInvalidArgument},
		{"wrong password", func(c *Config) { c.Password = "wrong-secret" }, hypervisor.ErrUnauthenticated},
		{"no user", func(c *Config) { c.Username = "" }, hypervisor.ErrInvalidArgument},
		{"no host", func(c *Config) { c.Host = "" }, hypervisor.ErrInvalidArgument},
		{"nobody there", func(c *Config) { c.Host = "127.0.0.1:1" }, hypervisor.ErrUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := good
			c.change(&cfg)
			client, err := Open(settled(t), cfg, nil)
			if err == nil {
				defer client.Close()
			}
			switch {
			case (err == nil) != (c.kind == hypervisor.ErrUnknown), hypervisor.KindOf(err) != c.kind:
				t.Fatalf("the error is %v (%v), want %v", err, hypervisor.KindOf(err), c.kind)
			case err != nil && strings.Contains(err.Error(), "wrong-secret"):
				t.Errorf("the error reports the password: %v", err)
			case err == nil && "https://"+cfg.Host != client.Describe().Endpoint && c.name != "a slave":
				t.Errorf("connected to %s", client.Describe().Endpoint)
			}
		})
	}
}

// TestOpenURL connects by URLs, and by such as are wrong.
func TestOpenURL(t *testing.T) {
	sim, err := xapisim.Start(xapisim.Config{Hosts: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.Close)
	at, ca := strings.TrimPrefix(sim.URL(), "https://"), filepath.Join(t.TempDir(), "pool.pem")
	if err := os.WriteFile(ca, sim.CertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	login := sim.User() + ":" + sim.Password() + "@"
	for _, c := range []struct {
		url  string
		kind hypervisor.Kind // KindUnknown: it connects
	}{
		{"xapi://" + login + at + "/?thumbprint=" + sim.Thumbprint(), hypervisor.ErrUnknown},
		{"xenserver://" + login + at + "?ca=" + url.QueryEscape(ca), hypervisor.ErrUnknown},
		{"xapi://" + login + at + "/?insecure=1", hypervisor.ErrUnknown},
		{"xapi://" + login + at + "/?insecure=0", hypervisor.ErrUnavailable},
		{"xapi://" + sim.User() + ":s3cret-word@" + at + "/?insecure=1", hypervisor.ErrUnauthenticated},
		{"xapi://" + at + "/?insecure=1", hypervisor.ErrInvalidArgument},
		{"xapi://root:s3cret-word@" + at + "/pool1", hypervisor.ErrInvalidArgument},
		{"xapi://root:s3cret-word@" + at + "/?secure=1", hypervisor.ErrInvalidArgument},
		{"xapi://" + login + at + "/?password=s3cret-word", hypervisor.ErrInvalidArgument},
		{"xapi://" + login + at + "/?insecure=s3cret-word", hypervisor.ErrInvalidArgument},
		{"xapi://" + login + at + "/?insecure=true&ca=" + url.QueryEscape(ca), hypervisor.ErrInvalidArgument},
		{"xapi://root:s3cret-word@127.0.0.1:1/", hypervisor.ErrUnavailable},
	} {
		client, err := hypervisor.Open(settled(t), c.url, nil)
		if err == nil {
			if err := client.Close(); err != nil {
				t.Error(err)
			}
		}
		if (err == nil) != (c.kind == hypervisor.ErrUnknown) || hypervisor.KindOf(err) != c.kind {
			t.Errorf("%s: %v (%v), want %v", c.url, err, hypervisor.KindOf(err), c.kind)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret-word") {
			t.Errorf("the error reports the password: %v", err)
		}
	}
}

// TestCredentials: Options come first, then the Config or the URL, then the
// environment.
func TestCredentials(t *testing.T) {
	sim, err := xapisim.Start(xapisim.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.Close)
	user, right := sim.User(), sim.Password()
	good := &hypervisor.Options{Credentials: &hypervisor.Credentials{Username: user, Password: hypervisor.Secret(right)}}
	bad := &hypervisor.Options{Credentials: &hypervisor.Credentials{Username: user, Password: "wrong"}}
	for _, c := range []struct {
		name           string
		username, word string // in Config and URL
		env            string
		o              *hypervisor.Options
		want           hypervisor.Kind // ErrUnknown: it connects
	}{
		{"options over wrong ones", user, "wrong", "wrong", good, hypervisor.ErrUnknown},
		{"options alone", "", "", "", good, hypervisor.ErrUnknown},
		{"wrong options over right ones", user, right, right, bad, hypervisor.ErrUnauthenticated},
		{"URL over the environment", user, right, "wrong", nil, hypervisor.ErrUnknown},
		{"no user", "", "", right, nil, hypervisor.ErrInvalidArgument},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(endpoint.PasswordVariable, c.env)
			cfg := config(sim)
			cfg.Username, cfg.Password = c.username, hypervisor.Secret(c.word)
			u := url.URL{Scheme: "xapi", Host: cfg.Host, RawQuery: "thumbprint=" + cfg.Thumbprint}
			if c.username != "" {
				u.User = url.UserPassword(c.username, c.word)
			}
			if err := opened(hypervisor.Open(settled(t), u.String(), c.o)); hypervisor.KindOf(err) != c.want {
				t.Errorf("by URL: %v, want %v", err, c.want)
			}
			if err := opened(Open(settled(t), cfg, c.o)); hypervisor.KindOf(err) != c.want {
				t.Errorf("by Config: %v, want %v", err, c.want)
			}
		})
	}
	t.Setenv(endpoint.PasswordVariable, right)
	if err := opened(hypervisor.Open(settled(t), "xapi://"+user+"@"+config(sim).Host+"/?thumbprint="+sim.Thumbprint(), nil)); err != nil {
		t.Errorf("with the password in the environment: %v", err)
	}
}

// opened closes a Client at once.
func opened(c *hypervisor.Client, err error) error {
	if err != nil {
		return err
	}
	return c.Close()
}

// TestSecretsStaySecret looks for the password and the session in everything
// that a Client reports: logs, errors, descriptions, what the Observer gets.
func TestSecretsStaySecret(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2, Password: "s3cret-word"})
	var told bytes.Buffer
	observe := func(ctx context.Context, op hypervisor.Call) (context.Context, func(hypervisor.CallEnd)) {
		return ctx, func(e hypervisor.CallEnd) { fmt.Fprintf(&told, "%+v %+v\n", op, e) }
	}
	o := &hypervisor.Options{Logger: slog.New(slog.NewTextHandler(&told, &slog.HandlerOptions{Level: slog.LevelDebug})), Observer: observe,
		Credentials: &hypervisor.Credentials{Username: w.sim.User(), Password: hypervisor.Secret(w.sim.Password())}}
	c, err := hypervisor.Open(ctx, "xapi://"+config(w.sim).Host+"/?thumbprint="+w.sim.Thumbprint(), o)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&told, "%v %+v %#v\n", c.Describe(), config(w.sim), config(w.sim))
	vm := c.VM(w.off.ID())
	say := func(err error) { fmt.Fprintf(&told, "%v %+v\n", err, err) }
	say(wait(ctx, vm.Start(ctx)))
	say(wait(ctx, vm.Suspend(ctx)))
	say(drain(c.VMs(ctx, nil)))
	for _, f := range []xapisim.Fault{{Method: "VM.get_record", Drop: true, Count: 4}, {Method: "VM.get_record", Err: &xapisim.Failure{Code: "RBAC_PERMISSION_DENIED", Params: []string{"VM.get_record", ""}}}} {
		w.sim.Fault(f)
		_, err := vm.Info(ctx)
		if err == nil {
			t.Error("the fault did not strike")
		}
		say(err)
	}
	w.sim.ExpireSessions()
	say(drain(c.VMs(ctx, nil)))
	sessions := w.sim.Refs("session")
	w.sim.Close() // from here on every call fails
	_, err = vm.Info(ctx)
	say(err)
	say(c.Close())
	if len(sessions) == 0 || told.Len() < 1000 || !strings.Contains(told.String(), "vm.start") {
		t.Fatalf("%d sessions, told: %s", len(sessions), told.String())
	}
	for _, secret := range append(sessions, "s3cret-word") {
		if at := strings.Index(told.String(), secret); at >= 0 {
			t.Errorf("%q is reported: %s", secret, told.String()[max(at-200, 0):min(at+100, told.Len())])
		}
	}
}
