package wsman

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
)

// certificateHeader asks WinRM to log in by the TLS client certificate
// (DSP0226, security profile "https/mutual").
const certificateHeader = "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual"

// tlsPoster relies on TLS for secrecy: Basic, client certificates, Kerberos.
type tlsPoster struct {
	url    string
	cfg    Config
	client *http.Client
	// authorize sets the Authorization header.
	authorize func(*http.Request) error
}

func newTLS(url string, cfg Config, authorize func(*http.Request) error) *tlsPoster {
	p := &tlsPoster{url: url, cfg: cfg, authorize: authorize}
	if authorize == nil {
		p.authorize = p.static
	}
	p.client = &http.Client{Transport: newTransport(cfg, cfg.Connections), CheckRedirect: noRedirect}
	return p
}

// noRedirect keeps credentials where they were meant to go.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func (p *tlsPoster) static(rq *http.Request) error {
	if p.cfg.Auth == Certificate {
		rq.Header.Set("Authorization", certificateHeader)
		return nil
	}
	rq.SetBasicAuth(p.cfg.User, p.cfg.Password)
	return nil
}

func (p *tlsPoster) close() { p.client.CloseIdleConnections() }

func (p *tlsPoster) post(ctx context.Context, body string) (int, io.ReadCloser, error) {
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }})
	rq, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	rq.Header.Set("Content-Type", contentType)
	if err := p.authorize(rq); err != nil {
		return 0, nil, &LoginError{Host: p.cfg.Host, User: p.cfg.User, Err: err}
	}
	rs, err := p.client.Do(rq)
	if err != nil {
		return 0, nil, &ConnectionError{Host: p.cfg.Host, Sent: sent.Load(), Err: unwrapURL(err)}
	}
	if rs.StatusCode == http.StatusUnauthorized {
		drain(rs.Body)
		return 0, nil, &LoginError{Host: p.cfg.Host, User: p.cfg.User}
	}
	return rs.StatusCode, rs.Body, nil
}

// drain reads what little is left so that the connection can be used again.
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
