package vsphere

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	"github.com/vmware/govmomi/vim25/soap"
)

// serverThumbprint reads the SHA-1 thumbprint of a server's certificate, the
// kind that ServiceLocator.sslThumbprint takes. The connection sends nothing,
// and the caller has a verified session with the same server.
func serverThumbprint(ctx context.Context, host string) (string, error) {
	if _, _, err := net.SplitHostPort(host); err != nil {
		host = net.JoinHostPort(host, "443")
	}
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // only the certificate is read
	c, err := d.DialContext(ctx, "tcp", host)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	certs := c.(*tls.Conn).ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return "", errors.New("the server shows no certificate")
	}
	return soap.ThumbprintSHA1(certs[0]), nil
}
