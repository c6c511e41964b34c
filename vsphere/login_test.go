package vsphere

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi/sts"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/endpoint"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// keyPair makes a certificate that signs itself.
func keyPair(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &tmpl, &tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// pemFiles writes a key pair as the URL takes it.
func pemFiles(t *testing.T, c tls.Certificate) (cert, key string) {
	t.Helper()
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, b := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: c.Certificate[0]},
		key:  {Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(c.PrivateKey.(*rsa.PrivateKey))},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// issue asks the simulator's token service for a token, by govmomi alone.
func issue(t *testing.T, sim *vspheresim.Sim, req sts.TokenRequest) string {
	t.Helper()
	sc := soap.NewClient(sim.URL(), true)
	vc, err := vim25.NewClient(t.Context(), sc)
	if err != nil {
		t.Fatal(err)
	}
	defer vc.CloseIdleConnections()
	tc, err := sts.NewClient(t.Context(), vc)
	if err != nil {
		t.Fatal(err)
	}
	defer tc.CloseIdleConnections()
	s, err := tc.Issue(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return s.Token
}

// TestLogins logs in by token and by certificate, with right ones and wrong ones, and renews each after its session has ended.
func TestLogins(t *testing.T) {
	user, extension, stranger := keyPair(t, "solution"), keyPair(t, "com.example.extension"), keyPair(t, "stranger")
	sim := startSim(t, vspheresim.Config{TLS: true, VMs: 1, Certificates: map[string]*x509.Certificate{
		"solution@vsphere.local": user.Leaf, "com.example.extension": extension.Leaf}})
	port, err := sim.Tunnel()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOVMOMI_TUNNEL_PROXY_PORT", port)
	ca, err := sim.CertificateFile()
	if err != nil {
		t.Fatal(err)
	}
	bearer := issue(t, sim, sts.TokenRequest{Userinfo: sim.URL().User})
	held := issue(t, sim, sts.TokenRequest{Certificate: &user})
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(bearer), 0o600); err != nil {
		t.Fatal(err)
	}
	ucert, ukey := pemFiles(t, user)
	ecert, ekey := pemFiles(t, extension)

	right := map[string]Config{
		"bearer token":                        {Token: hypervisor.Secret(bearer)},
		"holder-of-key token":                 {Token: hypervisor.Secret(held), Certificate: &user},
		"solution user":                       {Certificate: &user},
		"extensionkey":                        {Certificate: &extension, ExtensionKey: "com.example.extension"},
		"extension, server by its thumbprint": {Certificate: &extension, ExtensionKey: "com.example.extension", Thumbprint: sim.Thumbprint()},
	}
	for name, c := range right {
		t.Run(name, func(t *testing.T) {
			c.Host = sim.URL().Host
			if c.Thumbprint == "" {
				c.CA = ca
			}
			cl, err := Open(t.Context(), c, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = cl.Close() }()
			for range 2 {
				if l, err := hypervisor.Collect(cl.VMs(t.Context(), nil)); err != nil || len(l) != 1 {
					t.Fatalf("%d machines (%v)", len(l), err)
				}
				sim.DropSessions()
			}
		})
	}
	for name, query := range map[string]url.Values{
		"token file in the URL":   {"token": {file}},
		"key files in the URL":    {"certificate": {ucert}, "key": {ukey}},
		"an extension's the same": {"certificate": {ecert}, "key": {ekey}, "extensionkey": {"com.example.extension"}},
	} {
		t.Run(name, func(t *testing.T) {
			query.Set("ca", ca)
			cl, err := hypervisor.Open(t.Context(), "vsphere://"+sim.URL().Host+"/?"+query.Encode(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := cl.Close(); err != nil {
				t.Error(err)
			}
		})
	}

	forged := strings.Replace(bearer, ">user<", ">root<", 1)
	if forged == bearer {
		t.Fatalf("the token does not name its user: %s", bearer)
	}
	for name, c := range map[string]Config{
		"forged token":                {Token: hypervisor.Secret(forged)},
		"stolen holder-of-key token":  {Token: hypervisor.Secret(held)},
		"token signed by another key": {Token: hypervisor.Secret(held), Certificate: &stranger},
		"unknown certificate":         {Certificate: &stranger},
		"unknown extension":           {Certificate: &extension, ExtensionKey: "com.example.other"},
		"certificate of another":      {Certificate: &stranger, ExtensionKey: "com.example.extension"},
		"extension without one":       {ExtensionKey: "com.example.extension"},
	} {
		t.Run(name, func(t *testing.T) {
			c.Host, c.CA = sim.URL().Host, ca
			_, err := Open(t.Context(), c, nil)
			if !errors.Is(err, hypervisor.ErrUnauthenticated) {
				t.Errorf("Open: %v (kind %s), want unauthenticated", err, hypervisor.KindOf(err))
			}
			if err != nil && (strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "Assertion")) {
				t.Errorf("the error shows the token: %v", err)
			}
		})
	}
	t.Run("tunnel of another server", func(t *testing.T) {
		sc := soap.NewClient(sim.URL(), true)
		sc.SetCertificate(extension)
		vc, err := vim25.NewClient(t.Context(), sc)
		if err != nil {
			t.Fatal(err)
		}
		defer vc.CloseIdleConnections()
		c := Config{ExtensionKey: "com.example.extension"}
		other, err := endpoint.Trust{Thumbprint: strings.Repeat("00:", 31) + "00"}.TLS(&extension)
		if err != nil {
			t.Fatal(err)
		}
		sc.DefaultTransport().TLSClientConfig = other
		if err := loginExtension(t.Context(), vc, c); kindOf(err) != hypervisor.ErrUnavailable || !strings.Contains(err.Error(), "is none of those given") {
			t.Errorf("a tunnel of another thumbprint: %v", err)
		}
	})

	// A token that has expired is no login any more; a certificate asks for a new one.
	for name, c := range map[string]Config{"expired token": {Token: hypervisor.Secret(bearer)}, "expired token of a certificate": {Certificate: &user}} {
		t.Run(name, func(t *testing.T) {
			c.Host, c.CA = sim.URL().Host, ca
			if c.Token != "" {
				c.Token = hypervisor.Secret(issue(t, sim, sts.TokenRequest{Userinfo: sim.URL().User}))
			}
			cl, err := Open(t.Context(), c, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = cl.Close() }()
			sim.ExpireTokens()
			sim.DropSessions()
			_, err = hypervisor.Collect(cl.VMs(t.Context(), nil))
			if c.Token == "" && err != nil || c.Token != "" && !errors.Is(err, hypervisor.ErrUnauthenticated) {
				t.Errorf("after the token's end: %v (kind %s)", err, hypervisor.KindOf(err))
			}
		})
	}
}
