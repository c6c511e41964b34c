package wsman_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hyperv/internal/wsman"
)

// TestKerberosSettings: without a KDC only what happens before it can be seen.
func TestKerberosSettings(t *testing.T) {
	dir := t.TempDir()
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
		"plain HTTP":       func(c *wsman.Config) { c.Password, c.PlainHTTP = "p", true },
	} {
		c := base
		edit(&c)
		if s, err := wsman.New(c); err == nil {
			s.Close()
			t.Errorf("%s: no error", name)
		}
	}
	base.Password = "pa55word"
	s := dial(t, base)
	_, err := s.Get(t.Context(), cim.NewRef("X", "K", "v"))
	if err == nil || !strings.Contains(err.Error(), "refused the login of admin") || strings.Contains(err.Error(), "pa55word") {
		t.Errorf("no KDC: %v", err)
	}
}
