package endpoint

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
)

// Trust determines how a server's certificate is verified. The zero value
// means the system's authorities.
type Trust struct {
	CA         string // file with PEM certificates of authorities
	Thumbprint string // SHA-256 or SHA-1 of the certificate, or several of them
	Insecure   bool   // verify nothing
}

// TLS returns the configuration of a TLS client. The client presents own if
// that is not nil.
func (t Trust) TLS(own *tls.Certificate) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: t.Insecure}
	if own != nil {
		c.Certificates = []tls.Certificate{*own}
	}
	switch {
	case t.CA != "" && t.Thumbprint != "", t.Insecure && (t.CA != "" || t.Thumbprint != ""):
		return nil, Invalid("CA, Thumbprint and Insecure exclude each other: give one of them")
	case t.CA != "":
		pem, err := readFile(t.CA)
		if err != nil {
			return nil, Invalid("CA: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, Invalid("CA: the file %s holds no PEM certificate", t.CA)
		}
	case t.Thumbprint != "":
		known, err := thumbprints(t.Thumbprint)
		if err != nil {
			return nil, err
		}
		// The thumbprint replaces the chain of authorities.
		c.InsecureSkipVerify = true
		c.VerifyConnection = func(s tls.ConnectionState) error { return verify(s.PeerCertificates, known) }
	}
	return c, nil
}

// thumbprints reads hexadecimal thumbprints between commas.
func thumbprints(list string) (known [][]byte, err error) {
	for one := range strings.SplitSeq(list, ",") {
		b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(one), ":", ""))
		if err != nil || len(b) != sha256.Size && len(b) != sha1.Size {
			return nil, Invalid("Thumbprint: one of them is no SHA-256 or SHA-1 in hexadecimal")
		}
		known = append(known, b)
	}
	return known, nil
}

func verify(shown []*x509.Certificate, known [][]byte) error {
	long, short := sha256.Sum256(shown[0].Raw), sha1.Sum(shown[0].Raw)
	for _, k := range known {
		if bytes.Equal(k, long[:]) || bytes.Equal(k, short[:]) {
			return nil
		}
	}
	// govmomi recognizes the end of this text.
	return &tls.CertificateVerificationError{UnverifiedCertificates: shown,
		Err: fmt.Errorf("its thumbprint %X is none of those given: the certificate is not trusted", long)}
}

// KeyPair reads a client certificate and its key from PEM files. If both
// names are empty it returns nil.
func KeyPair(certificate, key string) (*tls.Certificate, error) {
	switch {
	case certificate == "" && key == "":
		return nil, nil
	case certificate == "" || key == "":
		return nil, Invalid("URL parameters certificate and key go together")
	}
	var texts [2][]byte
	for i, name := range []string{certificate, key} {
		b, err := readFile(name)
		if err != nil {
			return nil, Invalid("URL parameters certificate and key: %w", unnamed(err))
		}
		texts[i] = b
	}
	pair, err := tls.X509KeyPair(texts[0], texts[1])
	if err != nil {
		return nil, Invalid("URL parameters certificate and key: %w", err)
	}
	return &pair, nil
}
