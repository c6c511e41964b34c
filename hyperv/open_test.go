package hyperv

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/endpoint"
)

// opened closes a Client at once.
func opened(c *hypervisor.Client, err error) error {
	if err != nil {
		return err
	}
	return c.Close()
}

// thumbprint reads a server's certificate.
func thumbprint(t *testing.T, at string) string {
	t.Helper()
	c, err := tls.Dial("tcp", at, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // only the certificate is read
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sum := sha256.Sum256(c.ConnectionState().PeerCertificates[0].Raw)
	return hex.EncodeToString(sum[:])
}

// TestOpenTLS: the hosts' certificates count, by the system's roots, a CA file
// or thumbprints; without checks only when that is said.
func TestOpenTLS(t *testing.T) {
	s := startSite(t, hvsim.Config{Hosts: make([]hvsim.HostConfig, 2)})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, s.sim.CertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	first, second := thumbprint(t, s.config.Hosts[0]), thumbprint(t, s.config.Hosts[1])
	for query, want := range map[string]hypervisor.Kind{
		"":                                       hypervisor.ErrUnavailable,
		"ca=" + url.QueryEscape(ca):              hypervisor.ErrUnknown,
		"thumbprint=" + first + "," + second:     hypervisor.ErrUnknown,
		"thumbprint=" + strings.Repeat("00", 32): hypervisor.ErrUnavailable,
		"insecure=true":                          hypervisor.ErrUnknown,
		"insecure=true&thumbprint=" + first:      hypervisor.ErrInvalidArgument,
		"ca=" + url.QueryEscape(ca+"x"):          hypervisor.ErrInvalidArgument,
	} {
		u := url.URL{Scheme: "hyperv", User: url.UserPassword("Administrator", s.sim.Password()), Host: strings.Join(s.config.Hosts, ","), RawQuery: query}
		c, err := hypervisor.Open(t.Context(), u.String(), nil)
		if err == nil {
			_, err = hypervisor.Collect(c.VMs(t.Context(), nil)) // from both hosts
			err = errors.Join(err, c.Close())
		}
		if hypervisor.KindOf(err) != want || err != nil && strings.Contains(err.Error(), s.sim.Password()) {
			t.Errorf("?%s: %v, want %v", query, err, want)
		}
	}
}

// TestCredentials: Options come first, then the Config or the URL, then the
// environment.
func TestCredentials(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	user, right := "Administrator", s.sim.Password()
	good := &hypervisor.Options{Credentials: &hypervisor.Credentials{Username: user, Password: hypervisor.Secret(right)}}
	bad := &hypervisor.Options{Credentials: &hypervisor.Credentials{Username: user, Password: "wrong"}}
	for _, c := range []struct {
		name, word, env string // in Config and URL, and in the environment
		o               *hypervisor.Options
		want            hypervisor.Kind // ErrUnknown: it connects
	}{
		{"options over wrong ones", "wrong", "wrong", good, hypervisor.ErrUnknown},
		{"wrong options over right ones", right, right, bad, hypervisor.ErrUnauthenticated},
		{"URL over the environment", right, "wrong", nil, hypervisor.ErrUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(endpoint.PasswordVariable, c.env)
			cfg := s.config
			cfg.Username, cfg.Password = user, hypervisor.Secret(c.word)
			u := url.URL{Scheme: "hyperv", User: url.UserPassword(user, c.word), Host: s.config.Hosts[0], RawQuery: "insecure=1"}
			if err := opened(hypervisor.Open(t.Context(), u.String(), c.o)); hypervisor.KindOf(err) != c.want {
				t.Errorf("by URL: %v, want %v", err, c.want)
			}
			if err := opened(Open(t.Context(), cfg, c.o)); hypervisor.KindOf(err) != c.want {
				t.Errorf("by Config: %v, want %v", err, c.want)
			}
		})
	}
	t.Setenv(endpoint.PasswordVariable, right)
	if err := opened(hypervisor.Open(t.Context(), "hyperv://"+user+"@"+s.config.Hosts[0]+"/?insecure=1", nil)); err != nil {
		t.Errorf("with the password in the environment: %v", err)
	}
}

// TestConfigRefused: settings that contradict each other, or would be ignored.
func TestConfigRefused(t *testing.T) {
	h, some := []string{"a"}, &tls.Certificate{}
	for _, c := range []Config{
		{Hosts: h, Transport: "wmi"}, {Hosts: h, Auth: "ntlmv2"}, {Hosts: h, Auth: AuthCertificate}, {Hosts: h, Certificate: some}, {Hosts: h, Realm: "R"},
		{Hosts: h, PlainHTTP: true, Insecure: true}, {Hosts: h, CA: "a", Insecure: true},
		{Hosts: h, Transport: TransportCOM, Auth: AuthKerberos}, {Hosts: h, Transport: TransportCOM, PlainHTTP: true}, {Hosts: h, Transport: TransportCOM, Insecure: true},
		{Hosts: h, Transport: TransportCOM, Keytab: "k"}, {Hosts: h, Transport: TransportCOM, Certificate: some}, {Hosts: h, Transport: TransportCOM, MaxEnvelope: 1},
	} {
		if _, err := Open(t.Context(), c, nil); !errors.Is(err, hypervisor.ErrInvalidArgument) {
			t.Errorf("%+v (%s, %s): %v", c, c.Transport, c.Auth, err)
		}
	}
	var log strings.Builder
	c := Config{Hosts: h, Username: "u", Password: "s3cret"}
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "c", c)
	if told := fmt.Sprintf("%v %+v %#v", c, c, c) + log.String(); strings.Contains(told, "s3cret") || !strings.Contains(told, "hyperv://u@a") {
		t.Errorf("a Config prints as %s", told)
	}
}

// TestWeakNTLM: a host that offers less than sealing with good keys is refused.
func TestWeakNTLM(t *testing.T) {
	s := startSite(t, hvsim.Config{NTLMWithout: 0x20})
	plain := s.sim.Host(0).HTTPURL()
	u, err := url.Parse(plain)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []Config{{Hosts: []string{u.Host}, PlainHTTP: true}, {Hosts: s.config.Hosts, Insecure: true}} {
		c.Username, c.Password = "Administrator", s.config.Password
		err := opened(Open(t.Context(), c, nil))
		if hypervisor.KindOf(err) != hypervisor.ErrUnauthenticated || !strings.Contains(err.Error(), "127.0.0.1") || !strings.Contains(err.Error(), "without SEAL") {
			t.Errorf("PlainHTTP %v: %v", c.PlainHTTP, err)
		}
	}
}
