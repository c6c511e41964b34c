package kvmlab

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority signs certificates of a lab (libvirt.org/kbase/tlscerts.html).
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	a := &authority{key: key}
	t := template("lab authority")
	t.IsCA, t.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	a.cert, err = x509.ParseCertificate(der)
	return a, err
}

func template(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62)) // never fails
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
}

// issue writes a certificate and its key into dir as kind+"cert.pem" and kind+"key.pem", and the
// authority's certificate as cacert.pem, which are libvirt's names for them.
func (a *authority) issue(dir, kind, name string, usage x509.ExtKeyUsage, addresses ...string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := template(name)
	t.KeyUsage, t.ExtKeyUsage, t.DNSNames = x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment, []x509.ExtKeyUsage{usage}, []string{name}
	for _, ip := range addresses {
		t.IPAddresses = append(t.IPAddresses, net.ParseIP(ip))
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(crypto.PrivateKey(key))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for file, b := range map[string]*pem.Block{
		"cacert.pem":      {Type: "CERTIFICATE", Bytes: a.cert.Raw},
		kind + "cert.pem": {Type: "CERTIFICATE", Bytes: der},
		kind + "key.pem":  {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(b), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// ClientPKI makes a folder with a client's certificate for the parameter pkipath of a libvirt URI.
// With trusted, the hosts accept the client, and the client accepts the hosts. Otherwise the
// certificate is from an authority that nobody knows.
func (l *Lab) ClientPKI(trusted bool) (string, error) {
	a := l.authority
	if !trusted {
		var err error
		if a, err = newAuthority(); err != nil {
			return "", err
		}
	}
	dir, err := os.MkdirTemp(l.Dir, "pki-")
	if err != nil {
		return "", err
	}
	return dir, a.issue(dir, "client", "client", x509.ExtKeyUsageClientAuth)
}
