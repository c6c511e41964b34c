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
		{"good", func(*Config) {}, hypervisor.KindUnknown},
		{"colons in the fingerprint", func(c *Config) {
			var parts []string
			for i := 0; i < len(c.Fingerprint); i += 2 {
				parts = append(parts, strings.ToUpper(c.Fingerprint[i:i+2]))
			}
			c.Fingerprint = strings.Join(parts, ":")
		}, hypervisor.KindUnknown},
		{"authority in a file", func(c *Config) { c.Fingerprint, c.CAFile = "", ca }, hypervisor.KindUnknown},
		{"insecure", func(c *Config) { c.Fingerprint, c.Insecure = "", true }, hypervisor.KindUnknown},
		{"a slave", func(c *Config) { c.Address = slave }, hypervisor.KindUnknown},
		{"wrong fingerprint", func(c *Config) { c.Fingerprint = strings.Repeat("ab", 32) }, hypervisor.KindUnavailable},
		{"unknown authority", func(c *Config) { c.Fingerprint = "" }, hypervisor.KindUnavailable},
		{"malformed fingerprint", func(c *Config) { c.Fingerprint = "abc" }, hypervisor.KindInvalidArgument},
		{"no such file", func(c *Config) { c.Fingerprint, c.CAFile = "", ca+"x" }, hypervisor.KindInvalidArgument},
		{"wrong password", func(c *Config) { c.Credentials.Password = "wrong-secret" }, hypervisor.KindUnauthenticated},
		{"no user", func(c *Config) { c.Credentials.Username = "" }, hypervisor.KindInvalidArgument},
		{"no address", func(c *Config) { c.Address = "" }, hypervisor.KindInvalidArgument},
		{"nobody there", func(c *Config) { c.Address = "127.0.0.1:1" }, hypervisor.KindUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := good
			c.change(&cfg)
			client, err := Open(settled(t), cfg, nil)
			if err == nil {
				defer client.Close()
			}
			switch {
			case (err == nil) != (c.kind == hypervisor.KindUnknown), hypervisor.KindOf(err) != c.kind:
				t.Fatalf("the error is %v (%v), want %v", err, hypervisor.KindOf(err), c.kind)
			case err != nil && strings.Contains(err.Error(), "wrong-secret"):
				t.Errorf("the error tells the password: %v", err)
			case err == nil && "https://"+cfg.Address != client.Describe().Endpoint && c.name != "a slave":
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
		{"xapi://" + login + at + "/?fingerprint=" + sim.Fingerprint(), hypervisor.KindUnknown},
		{"xenserver://" + login + at + "?cafile=" + url.QueryEscape(ca), hypervisor.KindUnknown},
		{"xapi://" + login + at + "/?insecure=1", hypervisor.KindUnknown},
		{"xapi://" + login + at + "/?insecure=0", hypervisor.KindUnavailable},
		{"xapi://" + sim.User() + ":s3cret-word@" + at + "/?insecure=1", hypervisor.KindUnauthenticated},
		{"xapi://" + at + "/?insecure=1", hypervisor.KindInvalidArgument},
		{"xapi://root:s3cret-word@" + at + "/pool1", hypervisor.KindInvalidArgument},
		{"xapi://root:s3cret-word@" + at + "/?secure=1", hypervisor.KindInvalidArgument},
		{"xapi://root:s3cret-word@127.0.0.1:1/", hypervisor.KindUnavailable},
	} {
		client, err := hypervisor.Open(settled(t), c.url, nil)
		if err == nil {
			if err := client.Close(); err != nil {
				t.Error(err)
			}
		}
		if (err == nil) != (c.kind == hypervisor.KindUnknown) || hypervisor.KindOf(err) != c.kind {
			t.Errorf("%s: %v (%v), want %v", c.url, err, hypervisor.KindOf(err), c.kind)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret-word") {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}

// TestSecretsStaySecret looks for the password and the session in everything
// that a Client tells: logs, errors, descriptions, what the Observer gets.
func TestSecretsStaySecret(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2, Password: "s3cret-word"})
	var told bytes.Buffer
	observe := func(ctx context.Context, op hypervisor.Operation) (context.Context, func(hypervisor.OperationEnd)) {
		return ctx, func(e hypervisor.OperationEnd) { fmt.Fprintf(&told, "%+v %+v\n", op, e) }
	}
	o := &hypervisor.Options{Logger: slog.New(slog.NewTextHandler(&told, &slog.HandlerOptions{Level: slog.LevelDebug})), Observer: observe,
		Credentials: &hypervisor.Credentials{Username: w.sim.User(), Password: w.sim.Password()}}
	c, err := hypervisor.Open(ctx, "xapi://"+config(w.sim).Address+"/?fingerprint="+w.sim.Fingerprint(), o)
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
			t.Errorf("%q is told: %s", secret, told.String()[max(at-200, 0):min(at+100, told.Len())])
		}
	}
}
