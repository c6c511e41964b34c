package anyvisor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// selfSigned makes a certificate for this machine that ends at a time.
func selfSigned(t *testing.T, key *ecdsa.PrivateKey, end time.Time) tls.Certificate {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(end.Unix()), NotBefore: end.AddDate(-1, 0, 0), NotAfter: end, IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestPinnedCertificate: a thumbprint means exactly one certificate, whatever
// its dates and names are, on every driver. Nothing is sent to a server with
// another one, even if that has the same key.
func TestPinnedCertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	expired, renewed := selfSigned(t, key, time.Now().AddDate(0, 0, -1)), selfSigned(t, key, time.Now().AddDate(1, 0, 0))
	pin := func(c tls.Certificate) string { return fmt.Sprintf("thumbprint=%x", sha256.Sum256(c.Certificate[0])) }
	authority := func(c tls.Certificate) string {
		f := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(f, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}), 0o600); err != nil {
			t.Fatal(err)
		}
		return "ca=" + f
	}
	for name, c := range map[string]struct {
		shown tls.Certificate
		trust string
		sent  bool
	}{
		"pinned, expired":            {expired, pin(expired), true},
		"pinned, valid":              {renewed, pin(renewed), true},
		"renewed with the same key":  {renewed, pin(expired), false},
		"older, with the same key":   {expired, pin(renewed), false},
		"its own authority":          {renewed, authority(renewed), true},
		"its own authority, expired": {expired, authority(expired), false},
		"nothing":                    {renewed, "", false},
	} {
		for _, scheme := range []string{"vsphere", "hyperv", "xapi"} {
			t.Run(scheme+"/"+name, func(t *testing.T) {
				var requests atomic.Int64
				srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					requests.Add(1)
					w.WriteHeader(http.StatusNotFound)
				}))
				srv.TLS = &tls.Config{Certificates: []tls.Certificate{c.shown}}
				srv.Config.ErrorLog = log.New(io.Discard, "", 0)
				srv.StartTLS()
				defer srv.Close()
				ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
				defer stop()
				cl, err := hypervisor.Open(ctx, scheme+"://u:"+word+"@"+srv.Listener.Addr().String()+"/?"+c.trust, nil)
				if err == nil {
					cl.Close()
					t.Fatal("it was opened")
				}
				if n := requests.Load(); (n > 0) != c.sent {
					t.Errorf("%d requests were sent: %v", n, err)
				}
			})
		}
	}
}
