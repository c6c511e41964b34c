package vsphere

import (
	"context"
	"encoding/xml"
	"errors"
	"io"
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

// isAssertion reports whether a text is one Assertion element of SAML. The
// text is sent unchanged, so this keeps any other file from being sent in its
// place.
func isAssertion(text string) bool {
	d := xml.NewDecoder(strings.NewReader(text))
	depth, roots := 0, 0
	for {
		tok, err := d.Token()
		if err == io.EOF {
			return roots == 1 && depth == 0
		}
		if err != nil {
			return false
		}
		switch x := tok.(type) {
		case xml.StartElement:
			if depth == 0 {
				roots++
				if x.Name != (xml.Name{Space: "urn:oasis:names:tc:SAML:2.0:assertion", Local: "Assertion"}) {
					return false
				}
			}
			depth++
		case xml.EndElement:
			depth--
		case xml.CharData:
			if depth == 0 && strings.TrimSpace(string(x)) != "" {
				return false
			}
		default: // comments, instructions and document types
			return false
		}
	}
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
		signer := &sts.Signer{Certificate: c.Certificate, Token: string(c.Token)}
		if c.Token == "" {
			tc, err := sts.NewClient(ctx, &bare)
			if err != nil {
				return err
			}
			signer, err = tc.Issue(ctx, sts.TokenRequest{Certificate: c.Certificate, Lifetime: time.Hour, Renewable: true})
			if soap.IsSoapFault(err) { // WS-Trust has its own codes, and refuses nothing but the request for the token
				return hypervisor.Errorf(hypervisor.ErrUnauthenticated, hypervisor.Ref{}, "the token service refuses the certificate: %w", err)
			}
			if err != nil {
				return err
			}
		}
		return m.LoginByToken(bare.WithHeader(ctx, soap.Header{Security: signer}))
	}
	return m.Login(ctx, url.UserPassword(c.Username, string(c.Password)))
}

// loginExtension logs in through the tunnel on port 80 of the vCenter. Its
// virtual host presents the vCenter's own certificate (vSphere Web Services
// SDK programming guide, "Extension authentication"), and the certificate is
// verified as such; govmomi's own function does not do that.
func loginExtension(ctx context.Context, vc *vim25.Client, c Config) error {
	tunnel := vc.Client.Tunnel()
	tunnel.DefaultTransport().TLSClientConfig.ServerName = vc.URL().Hostname()
	c.bound(tunnel)
	defer hangUp(tunnel)
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
