package vsphere

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	vimsession "github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/sts"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// forgetCookies makes the next call one without a session.
func forgetCookies(vc *vim25.Client) {
	u := vc.URL()
	old := vc.Jar.Cookies(u)
	for _, c := range old {
		c.MaxAge, c.Path = -1, "/"
	}
	vc.Jar.SetCookies(u, old)
}

// login sends the login calls on the bare transport, below the renewing one.
func login(ctx context.Context, vc *vim25.Client, c Config) error {
	bare := *vc
	bare.RoundTripper = vc.Client
	m := vimsession.NewManager(&bare)
	switch {
	case c.ExtensionKey != "":
		return loginExtension(ctx, vc, c)
	case c.Token != "" || c.Certificate != nil:
		signer := &sts.Signer{Certificate: c.Certificate, Token: c.Token}
		if c.Token == "" {
			tc, err := sts.NewClient(ctx, &bare)
			if err != nil {
				return err
			}
			signer, err = tc.Issue(ctx, sts.TokenRequest{Certificate: c.Certificate, Lifetime: time.Hour, Renewable: true})
			if soap.IsSoapFault(err) { // WS-Trust has its own codes, and refuses nothing but the request for the token
				return hypervisor.Errorf(hypervisor.KindUnauthenticated, hypervisor.Ref{}, "the token service refuses the certificate: %w", err)
			}
			if err != nil {
				return err
			}
		}
		return m.LoginByToken(bare.WithHeader(ctx, soap.Header{Security: signer}))
	}
	return m.Login(ctx, url.UserPassword(c.Username, c.Password))
}

// loginExtension logs in through the tunnel on port 80 of the vCenter, whose
// virtual host shows the vCenter's own certificate (vSphere Web Services SDK
// programming guide, "Extension authentication"). It is verified as that:
// govmomi's own function does not.
func loginExtension(ctx context.Context, vc *vim25.Client, c Config) error {
	tunnel := vc.Client.Tunnel()
	defer tunnel.CloseIdleConnections()
	t := tunnel.DefaultTransport().TLSClientConfig
	t.ServerName = vc.URL().Hostname()
	if c.Thumbprint != "" {
		t.InsecureSkipVerify = true // in favour of the thumbprint
		t.VerifyConnection = func(s tls.ConnectionState) error {
			leaf := s.PeerCertificates[0]
			if want := strings.ToUpper(c.Thumbprint); want != soap.ThumbprintSHA1(leaf) && want != soap.ThumbprintSHA256(leaf) {
				return fmt.Errorf("thumbprint %s of the tunnel does not match", soap.ThumbprintSHA256(leaf))
			}
			return nil
		}
	}
	if vc.ServiceContent.SessionManager == nil {
		return errors.New("the server has no session manager")
	}
	req := types.LoginExtensionByCertificate{This: *vc.ServiceContent.SessionManager, ExtensionKey: c.ExtensionKey, Locale: vimsession.Locale}
	if _, err := methods.LoginExtensionByCertificate(ctx, tunnel, &req); err != nil {
		return err
	}
	vc.Jar.SetCookies(vc.URL(), tunnel.Jar.Cookies(tunnel.URL()))
	return nil
}
