package wsman

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"

	"github.com/bodgit/ntlmssp"
)

// ntlmPoster logs in with NTLM. NTLM authenticates a connection, not a
// request, and the sealing keys belong to the connection too, so each lane
// owns one connection and runs one request at a time.
type ntlmPoster struct {
	url   string
	cfg   Config
	lanes chan *lane
	all   []*lane
}

type lane struct {
	client  *http.Client
	session *ntlmssp.SecuritySession
	ready   bool
}

func newNTLM(url string, cfg Config) *ntlmPoster {
	p := &ntlmPoster{url: url, cfg: cfg, lanes: make(chan *lane, cfg.Connections)}
	for range cfg.Connections {
		l := &lane{client: &http.Client{Transport: newTransport(cfg, 1), CheckRedirect: noRedirect}}
		p.all = append(p.all, l)
		p.lanes <- l
	}
	return p
}

func (p *ntlmPoster) close() {
	for _, l := range p.all {
		l.client.CloseIdleConnections()
	}
}

// take gets a lane, if possible one that is logged in already.
func (p *ntlmPoster) take(ctx context.Context) (*lane, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case l := <-p.lanes:
		return l, nil
	}
}

func (p *ntlmPoster) post(ctx context.Context, body string) (int, io.ReadCloser, error) {
	l, err := p.take(ctx)
	if err != nil {
		return 0, nil, err
	}
	status, reply, err := p.postOn(ctx, l, body)
	p.lanes <- l
	if err != nil {
		return 0, nil, err
	}
	return status, io.NopCloser(bytes.NewReader(reply)), nil
}

func (p *ntlmPoster) postOn(ctx context.Context, l *lane, body string) (int, []byte, error) {
	for attempt := 0; ; attempt++ {
		if !l.ready {
			if err := p.login(ctx, l); err != nil {
				return 0, nil, err
			}
		}
		x, err := p.exchange(ctx, l, body)
		if err == nil && x.status != http.StatusUnauthorized {
			return x.status, x.body, nil
		}
		l.drop()
		// The server asks for a new login: it has closed the connection, or
		// ended the session. A request that it refused or never got did
		// nothing, so it can be sent again.
		if attempt == 0 && ctx.Err() == nil && ((err == nil) || !x.sent) {
			continue
		}
		if err != nil {
			return 0, nil, &ConnectionError{Host: p.cfg.Host, Sent: x.sent, Err: err}
		}
		return 0, nil, &LoginError{Host: p.cfg.Host, User: p.cfg.User}
	}
}

// drop forgets the login together with its connection.
func (l *lane) drop() {
	l.ready, l.session = false, nil
	l.client.CloseIdleConnections()
}

type exchanged struct {
	status int
	body   []byte
	sent   bool
}

// exchange sends a body on a logged-in lane. It must go over the connection of
// the login: on a new one the request is not sent.
func (p *ntlmPoster) exchange(ctx context.Context, l *lane, body string) (x exchanged, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var fresh, sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) {
			if !i.Reused {
				fresh.Store(true)
				cancel()
			}
		},
		WroteHeaders: func() { sent.Store(true) },
	})
	payload, ct := []byte(body), contentType
	if p.cfg.PlainHTTP {
		if payload, err = seal(l.session, payload); err != nil {
			return x, err
		}
		ct = sealedType
	}
	rq, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(payload))
	if err != nil {
		return x, err
	}
	rq.Header.Set("Content-Type", ct)
	// Without GetBody net/http does not repeat the request by itself, on
	// another connection that knows nothing of the login.
	rq.GetBody = nil
	rs, err := l.client.Do(rq)
	if err != nil {
		if fresh.Load() {
			return x, errors.New("the connection was closed since the login")
		}
		x.sent = sent.Load()
		return x, unwrapURL(err)
	}
	defer rs.Body.Close()
	x.sent, x.status = true, rs.StatusCode
	if rs.StatusCode == http.StatusUnauthorized {
		drain(rs.Body)
		return x, nil
	}
	if x.body, err = io.ReadAll(rs.Body); err != nil {
		return x, err
	}
	if p.cfg.PlainHTTP {
		x.body, err = unseal(l.session, x.body, rs.Header.Get("Content-Type"))
	}
	return x, err
}

// login runs the three messages of NTLM with empty bodies, so that no content
// goes out before the keys exist.
func (p *ntlmPoster) login(ctx context.Context, l *lane) error {
	domain, user := splitUser(p.cfg.User)
	client, err := ntlmssp.NewClient(ntlmssp.SetUserInfo(user, p.cfg.Password), ntlmssp.SetDomain(domain))
	if err != nil {
		return err
	}
	var challenge []byte
	var bindings *ntlmssp.ChannelBindings
	scheme := "Negotiate"
	for step := range 2 {
		token, err := client.Authenticate(challenge, bindings)
		if err != nil {
			return &LoginError{Host: p.cfg.Host, User: p.cfg.User, Err: err}
		}
		rq, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, http.NoBody)
		if err != nil {
			return err
		}
		rq.Header.Set("Content-Type", contentType)
		rq.Header.Set("Authorization", scheme+" "+base64.StdEncoding.EncodeToString(token))
		rs, err := l.client.Do(rq)
		if err != nil {
			return &ConnectionError{Host: p.cfg.Host, Err: unwrapURL(err)}
		}
		drain(rs.Body)
		if step == 1 {
			if rs.StatusCode == http.StatusUnauthorized {
				return &LoginError{Host: p.cfg.Host, User: p.cfg.User}
			}
			break
		}
		if rs.StatusCode != http.StatusUnauthorized {
			return &LoginError{Host: p.cfg.Host, User: p.cfg.User, Err: fmt.Errorf("HTTP status %d instead of a challenge", rs.StatusCode)}
		}
		if scheme, challenge = findChallenge(rs.Header); challenge == nil {
			return &LoginError{Host: p.cfg.Host, User: p.cfg.User, Err: errors.New("the server offers no NTLM")}
		}
		bindings = channelBindings(rs.TLS)
	}
	l.session = client.SecuritySession()
	if p.cfg.PlainHTTP && l.session == nil {
		return &LoginError{Host: p.cfg.Host, User: p.cfg.User, Err: ErrUnsealed}
	}
	l.ready = true
	return nil
}

func findChallenge(h http.Header) (string, []byte) {
	for _, v := range h.Values("Www-Authenticate") {
		scheme, data, ok := strings.Cut(v, " ")
		if !ok || !(strings.EqualFold(scheme, "Negotiate") || strings.EqualFold(scheme, "NTLM")) {
			continue
		}
		if b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(data)); err == nil && len(b) > 0 {
			return scheme, b
		}
	}
	return "", nil
}

// splitUser takes a name apart; "name@domain" goes as it is, with an empty
// domain, as NTLM wants it.
func splitUser(s string) (domain, user string) {
	if d, u, ok := strings.Cut(s, `\`); ok {
		return d, u
	}
	return "", s
}

// channelBindings ties the login to the server's certificate (RFC 5929,
// tls-server-end-point), so that it cannot be relayed.
func channelBindings(s *tls.ConnectionState) *ntlmssp.ChannelBindings {
	if s == nil || len(s.PeerCertificates) == 0 {
		return nil
	}
	cert := s.PeerCertificates[0]
	h := crypto.SHA256 // also in place of MD5 and SHA-1
	switch cert.SignatureAlgorithm {
	case x509.SHA384WithRSA, x509.ECDSAWithSHA384, x509.SHA384WithRSAPSS:
		h = crypto.SHA384
	case x509.SHA512WithRSA, x509.ECDSAWithSHA512, x509.SHA512WithRSAPSS:
		h = crypto.SHA512
	}
	sum := h.New()
	sum.Write(cert.Raw)
	return &ntlmssp.ChannelBindings{ApplicationData: sum.Sum([]byte(ntlmssp.TLSServerEndPoint + ":"))}
}

// Sealed messages are multipart bodies of MS-WSMV 2.2.9.1: a part that tells
// the type and length of the message, and a part with the length of the
// signature, the signature and the encrypted message. The headers of the parts
// are indented, and no empty line ends them.
const (
	boundary   = "--Encrypted Boundary"
	sealedType = `multipart/encrypted;protocol="application/HTTP-SPNEGO-session-encrypted";boundary="Encrypted Boundary"`
	partStart  = "Content-Type: application/octet-stream\r\n"
)

func seal(s *ntlmssp.SecuritySession, msg []byte) ([]byte, error) {
	sealed, signature, err := s.Wrap(msg)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\r\n\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n\tOriginalContent: type=%s;Length=%d\r\n%s\r\n\t%s",
		boundary, contentType, len(msg), boundary, partStart)
	b.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(signature))))
	b.Write(signature)
	b.Write(sealed)
	b.WriteString(boundary + "--\r\n")
	return b.Bytes(), nil
}

// unseal refuses a reply that is not sealed: an attacker on the wire could
// have made it.
func unseal(s *ntlmssp.SecuritySession, body []byte, ct string) ([]byte, error) {
	if len(body) == 0 {
		return nil, nil
	}
	if !strings.HasPrefix(ct, "multipart/encrypted") {
		return nil, fmt.Errorf("reply is not sealed (%s)", ct)
	}
	i := bytes.Index(body, []byte(partStart))
	j := bytes.LastIndex(body, []byte(boundary+"--"))
	if i < 0 || j < i {
		return nil, errors.New("sealed reply is malformed")
	}
	data := body[i+len(partStart) : j]
	if len(data) < 4 {
		return nil, errors.New("sealed reply is too short")
	}
	n := binary.LittleEndian.Uint32(data)
	if n > 1024 || int(n) > len(data)-4 {
		return nil, errors.New("signature of the sealed reply is too long")
	}
	return s.Unwrap(data[4+n:], data[4:4+n])
}
