package wsman

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"testing"
)

// TestEndpointBinding: the hash is that of the certificate's signature, with
// SHA-256 in place of the broken ones (RFC 5929, 4.1).
func TestEndpointBinding(t *testing.T) {
	raw := []byte("certificate")
	s256, s384, s512 := sha256.Sum256(raw), sha512.Sum384(raw), sha512.Sum512(raw)
	for alg, sum := range map[x509.SignatureAlgorithm][]byte{
		x509.MD5WithRSA: s256[:], x509.SHA1WithRSA: s256[:], x509.ECDSAWithSHA1: s256[:], x509.SHA256WithRSA: s256[:], x509.SHA256WithRSAPSS: s256[:], x509.ECDSAWithSHA256: s256[:],
		x509.SHA384WithRSA: s384[:], x509.SHA384WithRSAPSS: s384[:], x509.ECDSAWithSHA384: s384[:],
		x509.SHA512WithRSA: s512[:], x509.SHA512WithRSAPSS: s512[:], x509.ECDSAWithSHA512: s512[:],
	} {
		got := endpointBinding(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Raw: raw, SignatureAlgorithm: alg}}})
		if string(got) != "tls-server-end-point:"+string(sum) {
			t.Errorf("%s: %x", alg, got)
		}
	}
	if got := endpointBinding(nil); got != nil {
		t.Errorf("without TLS: %x", got)
	}
}
