package vspheresim

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Logins by token and by certificate. govmomi's simulator issues one token to any client, and accepts any that has a subject.

const tokenLifetime = 5 * time.Minute // the default of the token service, as govmomi asks for

// samlToken is a token that was issued. holder is the certificate whose key must sign what is sent with it; nil for a bearer token.
type samlToken struct {
	subject string
	holder  *x509.Certificate
	expires time.Time
}

var (
	userPattern      = regexp.MustCompile(`<wsse:Username>([^<]*)</wsse:Username><wsse:Password>([^<]*)<`)
	certPattern      = regexp.MustCompile(`<wsse:BinarySecurityToken[^>]*>([^<]*)<`)
	assertionPattern = regexp.MustCompile(`(?s)<saml2:Assertion.*</saml2:Assertion>`)
	signedPattern    = regexp.MustCompile(`(?s)<ds:SignedInfo.*</ds:SignedInfo>`)
	signaturePattern = regexp.MustCompile(`<ds:SignatureValue>([^<]*)<`)
	bodyPattern      = regexp.MustCompile(`(?s)<soap:Body.* wsu:Id="([^"]*)".*</soap:Body>`)
	keyPattern       = regexp.MustCompile(`<extensionKey>([^<]*)<`)
)

// certified is the name of a certificate's owner.
func (s *Sim) certified(c *x509.Certificate) (string, bool) {
	for name, known := range s.cfg.Certificates {
		if known.Equal(c) {
			return name, true
		}
	}
	return "", false
}

// signedBy reports whether the signature of a message is that of a certificate's key. WS-Security, SAML token profile 1.1; XML Signature, RSA with
// SHA-256. The signed part is used as it was sent: govmomi sends the canonical form.
func signedBy(c *x509.Certificate, message []byte) bool {
	key, ok := c.PublicKey.(*rsa.PublicKey)
	info, value := signedPattern.Find(message), signaturePattern.FindSubmatch(message)
	if !ok || info == nil || value == nil {
		return false
	}
	sig, err := base64.StdEncoding.DecodeString(string(value[1]))
	sum := sha256.Sum256(info)
	return err == nil && rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], sig) == nil
}

// bodySigned reports whether the signature covers the body that was sent.
func bodySigned(message []byte) bool {
	m := bodyPattern.FindSubmatch(message)
	if m == nil {
		return false
	}
	sum := sha256.Sum256(m[0])
	digest := base64.StdEncoding.EncodeToString(sum[:])
	ref := regexp.MustCompile(`(?s)<ds:Reference URI="#` + regexp.QuoteMeta(string(m[1])) + `">.*?<ds:DigestValue>` + regexp.QuoteMeta(digest) + `<`)
	return ref.Match(signedPattern.Find(message))
}

// serveSTS is the token service (WS-Trust 1.4, Issue). A token for a user's password is a bearer token, one for a certificate is a
// holder-of-key token.
func (s *Sim) serveSTS(w http.ResponseWriter, r *http.Request, message []byte) {
	action := path.Base(strings.Trim(r.Header.Get("SOAPAction"), `"`))
	if action != "Issue" {
		s.refuse(w, "ns0:InvalidRequest", "The token service of this simulator issues tokens only, and does not know "+action, "")
		return
	}
	t := samlToken{expires: time.Now().Add(tokenLifetime)}
	ok := false
	if c := certPattern.FindSubmatch(message); c != nil {
		der, _ := base64.StdEncoding.DecodeString(string(c[1]))
		if cert, err := x509.ParseCertificate(der); err == nil {
			t.holder = cert
			t.subject, ok = s.certified(cert)
			ok = ok && signedBy(cert, message)
		}
	} else if u := userPattern.FindSubmatch(message); u != nil {
		t.subject = html.UnescapeString(string(u[1]))
		ok = t.subject == s.cfg.User && html.UnescapeString(string(u[2])) == s.cfg.Password
	}
	if !ok {
		s.refuse(w, "ns0:FailedAuthentication", "Invalid credentials", "")
		return
	}
	method := "bearer"
	if t.holder != nil {
		method = "holder-of-key"
	}
	now := time.Now().UTC()
	const stamp = "2006-01-02T15:04:05.000Z"
	assertion := fmt.Sprintf(`<saml2:Assertion xmlns:saml2="urn:oasis:names:tc:SAML:2.0:assertion" ID="_%s" IssueInstant="%s" Version="2.0">`+
		`<saml2:Issuer>https://vspheresim/websso/SAML2/Metadata/vsphere.local</saml2:Issuer><saml2:Subject>`+
		`<saml2:NameID Format="http://schemas.xmlsoap.org/claims/UPN">%s</saml2:NameID>`+
		`<saml2:SubjectConfirmation Method="urn:oasis:names:tc:SAML:2.0:cm:%s"></saml2:SubjectConfirmation></saml2:Subject></saml2:Assertion>`,
		uuid.NewString(), now.Format(stamp), escapeXML(t.subject), method)
	s.mu.Lock()
	s.issued[assertion] = t
	s.mu.Unlock()
	_, _ = fmt.Fprintf(w, `<?xml version="1.0"?><S:Envelope xmlns:S="http://schemas.xmlsoap.org/soap/envelope/"><S:Body>`+
		`<wst:RequestSecurityTokenResponseCollection xmlns:wst="http://docs.oasis-open.org/ws-sx/ws-trust/200512"><wst:RequestSecurityTokenResponse>`+
		`<wst:RequestedSecurityToken>%s</wst:RequestedSecurityToken><wst:Lifetime xmlns:u="http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd">`+
		`<u:Created>%s</u:Created><u:Expires>%s</u:Expires></wst:Lifetime></wst:RequestSecurityTokenResponse></wst:RequestSecurityTokenResponseCollection></S:Body></S:Envelope>`,
		assertion, now.Format(stamp), t.expires.UTC().Format(stamp))
}

// ExpireTokens makes every token that was issued so far too old.
func (s *Sim) ExpireTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.issued)
}

// admitLogin checks a login that govmomi's simulator would accept. API reference: SessionManager.LoginByToken, InvalidLogin "if there is no valid
// token"; LoginExtensionByCertificate, NoClientCertificate "if no certificate was used by the client", InvalidLogin "if the extension is not
// registered, or the certificate does not match the expected value".
func (s *Sim) admitLogin(method string, r *http.Request, message []byte) bool {
	no := s.noLogins.Load()
	switch method {
	case "Login":
		return !no
	case "LoginByToken":
		s.mu.RLock()
		t, ok := s.issued[string(assertionPattern.Find(message))]
		s.mu.RUnlock()
		return ok && !no && time.Now().Before(t.expires) && (t.holder == nil || signedBy(t.holder, message) && bodySigned(message))
	case "LoginExtensionByCertificate":
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			return true // which govmomi's simulator refuses
		}
		name, ok := s.certified(r.TLS.PeerCertificates[0])
		key := keyPattern.FindSubmatch(message)
		return ok && key != nil && html.UnescapeString(string(key[1])) == name
	}
	return true
}

func (s *Sim) refuseLogin(w http.ResponseWriter) {
	s.refuse(w, "ServerFaultCode", "Cannot complete login due to an incorrect user name or password.",
		`<InvalidLoginFault xmlns="urn:vim25" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="InvalidLogin"></InvalidLoginFault>`)
}

// refuse answers with a SOAP fault.
func (*Sim) refuse(w http.ResponseWriter, code, text, detail string) {
	w.WriteHeader(http.StatusInternalServerError)
	_, _ = fmt.Fprintf(w, `<?xml version="1.0"?><S:Envelope xmlns:S="http://schemas.xmlsoap.org/soap/envelope/"><S:Body><S:Fault xmlns:ns0="http://docs.oasis-open.org/ws-sx/ws-trust/200512/">`+
		`<faultcode>%s</faultcode><faultstring>%s</faultstring><detail>%s</detail></S:Fault></S:Body></S:Envelope>`, code, escapeXML(text), detail)
}

func escapeXML(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}

// Tunnel opens the proxy through which extensions log in (vCenter has it on port 80), and returns its port. govmomi reads it from the environment
// variable GOVMOMI_TUNNEL_PROXY_PORT. It needs Config.TLS.
func (s *Sim) Tunnel() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	proxy := &http.Server{Handler: http.HandlerFunc(s.serveTunnel), ReadHeaderTimeout: time.Minute}
	s.tasks.Go(func() { _ = proxy.Serve(l) })
	s.tasks.Go(func() {
		<-s.ctx.Done()
		_ = proxy.Close()
	})
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// serveTunnel connects a client that asks for the virtual host of the tunnel to the server.
func (s *Sim) serveTunnel(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect || !strings.HasPrefix(r.Host, "sdkTunnel:") {
		http.Error(w, "there is nothing but the tunnel here", http.StatusNotFound)
		return
	}
	server, err := net.Dial("tcp", s.server.URL.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	client, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = server.Close()
		return
	}
	_, _ = io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n")
	cut := func() { _ = client.Close(); _ = server.Close() }
	defer context.AfterFunc(s.ctx, cut)()
	up := make(chan struct{})
	go func() {
		defer close(up)
		_, _ = io.Copy(server, client)
		cut()
	}()
	_, _ = io.Copy(client, server)
	cut()
	<-up
}

// RefuseLogins refuses every login from now on, as after a change of the password, or accepts them again.
func (s *Sim) RefuseLogins(on bool) { s.noLogins.Store(on) }
