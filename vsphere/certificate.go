package vsphere

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"github.com/vmware/govmomi/vim25/soap"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Levels of trust in a driver's connection.
const (
	connPlain      = iota // anybody may read and change its traffic
	connUnverified        // so may anybody in between
	connVerified
)

func (d *driver) connection() int {
	c := d.vc.Client.DefaultTransport().TLSClientConfig
	switch {
	case d.vc.URL().Scheme != "https":
		return connPlain
	case c != nil && c.InsecureSkipVerify && c.VerifyConnection == nil && d.vc.Client.Thumbprint(d.vc.URL().Host) == "":
		return connUnverified
	}
	return connVerified
}

// thumbprint is the value by which the source vCenter trusts this one: the
// SHA-1 of its certificate, the kind that ServiceLocator.sslThumbprint
// accepts. The certificate is verified like the session's, since the source
// sends the password to whoever presents it.
func (d *driver) thumbprint(ctx context.Context) (string, error) {
	u := d.vc.URL()
	if u.Scheme != "https" {
		return "", nil
	}
	cfg := &tls.Config{}
	if c := d.vc.Client.DefaultTransport().TLSClientConfig; c != nil {
		cfg = c.Clone()
	}
	if known := d.vc.Client.Thumbprint(u.Host); known != "" { // of a given client
		cfg.InsecureSkipVerify = true
		cfg.VerifyConnection = func(s tls.ConnectionState) error {
			if c := s.PeerCertificates[0]; known != soap.ThumbprintSHA1(c) && known != soap.ThumbprintSHA256(c) {
				return errors.New("its thumbprint is another one")
			}
			return nil
		}
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "443")
	}
	dialer := tls.Dialer{Config: cfg}
	c, err := dialer.DialContext(ctx, "tcp", host)
	if err != nil {
		return "", &hypervisor.Error{Kind: hypervisor.ErrUnavailable, Unsent: true, Err: fmt.Errorf("the other vCenter's certificate: %w", err)}
	}
	defer func() { _ = c.Close() }()
	return soap.ThumbprintSHA1(c.(*tls.Conn).ConnectionState().PeerCertificates[0]), nil
}
