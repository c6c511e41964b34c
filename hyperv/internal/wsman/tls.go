package wsman

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"

	"github.com/anyvisor/anyvisor/internal/session"
)

// certificateHeader asks WinRM to log in by the TLS client certificate
// (DSP0226, security profile "https/mutual").
const certificateHeader = "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual"

// tlsPoster relies on TLS for secrecy. Each request carries its own login.
type tlsPoster struct {
	url    string
	cfg    Config
	client *http.Client
	auth   authorizer
	turns  chan struct{} // nil: any number of requests at once
}

// basicRequests is the number of requests that run at the same time with
// Basic. Each carries the password, so it is also how many are refused after
// the password has changed.
const basicRequests = 2

// authorizer logs a request in.
type authorizer interface {
	// authorize sets the Authorization header.
	authorize(c *http.Client, rq *http.Request) error
	// again reports whether to try once more after this refusal.
	again(rs *http.Response) bool
	// answer makes an error from a refusal.
	answer(h http.Header) error
	close()
}

func newTLS(url string, cfg Config, a authorizer) *tlsPoster {
	p := &tlsPoster{url: url, cfg: cfg, auth: a, client: &http.Client{Transport: newTransport(cfg, cfg.Connections), CheckRedirect: noRedirect}}
	if cfg.Auth == Basic {
		p.turns = make(chan struct{}, min(basicRequests, cfg.Connections))
	}
	return p
}

// noRedirect keeps credentials from being sent anywhere else.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// constant is a login that is the same for each request: Basic, or a client
// certificate.
type constant Config

func (c *constant) authorize(_ *http.Client, rq *http.Request) error {
	if c.Auth == Certificate {
		rq.Header.Set("Authorization", certificateHeader)
		return nil
	}
	rq.SetBasicAuth(c.User, string(c.Password))
	return nil
}

func (c *constant) again(*http.Response) bool { return false }
func (c *constant) answer(http.Header) error {
	return &LoginError{Host: c.Host, User: c.User, Password: true}
}
func (c *constant) close() {}

func (p *tlsPoster) close() {
	p.client.CloseIdleConnections()
	p.auth.close()
}

func (p *tlsPoster) post(ctx context.Context, body string) (int, io.ReadCloser, error) {
	for attempt := 0; ; attempt++ {
		var sent atomic.Bool
		traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }})
		rq, err := http.NewRequestWithContext(traced, http.MethodPost, p.url, strings.NewReader(body))
		if err != nil {
			return 0, nil, err
		}
		rq.Header.Set("Content-Type", contentType)
		if err := p.auth.authorize(p.client, rq); err != nil {
			return 0, nil, err
		}
		sent.Store(false) // set by what authorize sent
		rs, err := p.send(rq)
		if errors.As(err, new(*session.RefusedError)) {
			return 0, nil, err
		}
		if err != nil {
			return 0, nil, &ConnectionError{Host: p.cfg.Host, Sent: sent.Load(), Err: unwrapURL(err)}
		}
		if rs.StatusCode != http.StatusUnauthorized {
			return rs.StatusCode, rs.Body, nil
		}
		drain(rs.Body)
		if attempt > 0 || !p.auth.again(rs) {
			return 0, nil, p.auth.answer(rs.Header)
		}
	}
}

// send sends a request, with Basic a few at a time.
func (p *tlsPoster) send(rq *http.Request) (*http.Response, error) {
	if p.turns == nil {
		return p.client.Do(rq)
	}
	select {
	case p.turns <- struct{}{}:
	case <-rq.Context().Done():
		return nil, rq.Context().Err()
	}
	defer func() { <-p.turns }()
	if err := p.cfg.Refusals.Check(p.url); err != nil {
		return nil, err
	}
	rs, err := p.client.Do(rq)
	if err == nil && rs.StatusCode == http.StatusUnauthorized {
		p.cfg.Refusals.Note(p.url, p.auth.answer(rs.Header), false)
	}
	return rs, err
}

// drain reads the short rest so that the connection can be used again.
func drain(b io.ReadCloser) {
	io.CopyN(io.Discard, b, 64<<10)
	b.Close()
}

// unwrapURL drops the layer of net/http that repeats method and URL.
func unwrapURL(err error) error {
	if e := errors.Unwrap(err); e != nil {
		return e
	}
	return err
}

// endpointBinding ties a login to the server's certificate (RFC 5929,
// tls-server-end-point), so that it cannot be relayed.
func endpointBinding(s *tls.ConnectionState) []byte {
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
	return sum.Sum([]byte("tls-server-end-point:"))
}
