package wsman_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hyperv/internal/wsman"
)

// TestKerberosSettings: what happens before there is a KDC. The rest is tested
// with one, in package hyperv and in gss_test.go.
func TestKerberosSettings(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("KRB5CCNAME", filepath.Join(dir, "absent"))
	conf := filepath.Join(dir, "krb5.conf")
	// Nothing listens on the KDC's port.
	if err := os.WriteFile(conf, []byte("[libdefaults]\n default_realm = EXAMPLE.TEST\n dns_lookup_kdc = false\n[realms]\n EXAMPLE.TEST = {\n  kdc = 127.0.0.1:1\n }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := wsman.Config{Host: "hv01.example.test", Auth: wsman.Kerberos, User: "admin", Krb: wsman.KerberosConfig{ConfigFile: conf}}
	for name, edit := range map[string]func(*wsman.Config){
		"no configuration": func(c *wsman.Config) { c.Krb.ConfigFile = filepath.Join(dir, "absent") },
		"no credentials":   func(*wsman.Config) {},
		"no keytab":        func(c *wsman.Config) { c.Krb.Keytab = filepath.Join(dir, "absent") },
		"no cache":         func(c *wsman.Config) { c.Krb.CCache = filepath.Join(dir, "absent") },
	} {
		c := base
		edit(&c)
		if s, err := wsman.New(c); err == nil {
			s.Close()
			t.Errorf("%s: no error", name)
		}
	}
	base.Password = "pa55word"
	base.PlainHTTP = true
	s := dial(t, base)
	_, err := s.Get(t.Context(), cim.NewRef("X", "K", "v"))
	var conn *wsman.ConnectionError
	if !errors.As(err, &conn) || conn.Sent || !strings.Contains(err.Error(), "no KDC") || strings.Contains(err.Error(), "pa55word") {
		t.Errorf("no KDC: %v", err)
	}
}

// TestKerberosSilentKDC: the library that asks KDCs knows no contexts; a caller
// whose context ends is not held up by it.
func TestKerberosSilentKDC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conf := filepath.Join(t.TempDir(), "krb5.conf")
	if err := os.WriteFile(conf, []byte("[libdefaults]\n default_realm = EXAMPLE.TEST\n udp_preference_limit = 1\n[realms]\n EXAMPLE.TEST = {\n  kdc = "+l.Addr().String()+"\n }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := dial(t, wsman.Config{Host: "hv01", Auth: wsman.Kerberos, PlainHTTP: true, User: "admin", Password: "p", Krb: wsman.KerberosConfig{ConfigFile: conf}})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := s.Get(ctx, cim.NewRef("X", "K", "v"))
		done <- err
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() // and with it the library's wait
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	// The library still waits for its answer: it has not hung up.
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the call has waited for the library: %v", err)
	}
	// Nor do others: the one who waits for his turn, and who closes the session.
	ctx, stop = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	began := time.Now()
	if _, err := s.Get(ctx, cim.NewRef("X", "K", "v")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the second caller: %v", err)
	}
	if err := s.Close(); err != nil || time.Since(began) > time.Second {
		t.Errorf("Close: %v after %v", err, time.Since(began))
	}
}
