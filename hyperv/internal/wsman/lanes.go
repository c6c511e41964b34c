package wsman

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
)

// lanePoster logs in once for each connection: NTLM authenticates connections
// and not requests, and the keys that seal messages belong to a connection
// too. So each lane owns one and runs one request at a time.
type lanePoster struct {
	url   string
	cfg   Config
	login login
	lanes chan *lane
	all   []*lane
}

// login authenticates the connection of a client by requests with empty
// bodies, so that no content is sent before the keys exist. The sealer is nil
// if none was agreed on.
type login interface {
	login(ctx context.Context, c *http.Client) (sealer, error)
	protocol() string // of sealed messages
	close()
}

type lane struct {
	client  *http.Client
	session sealer
	ready   bool
}

func newLanes(url string, cfg Config, l login) *lanePoster {
	p := &lanePoster{url: url, cfg: cfg, login: l, lanes: make(chan *lane, cfg.Connections)}
	for range cfg.Connections {
		l := &lane{client: &http.Client{Transport: newTransport(cfg, 1), CheckRedirect: noRedirect}}
		p.all = append(p.all, l)
		p.lanes <- l
	}
	return p
}

func (p *lanePoster) close() {
	for _, l := range p.all {
		l.client.CloseIdleConnections()
	}
	p.login.close()
}

// take returns a lane, if possible one that is logged in already.
func (p *lanePoster) take(ctx context.Context) (*lane, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case l := <-p.lanes:
		return l, nil
	}
}

func (p *lanePoster) post(ctx context.Context, body string) (int, io.ReadCloser, error) {
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

func (p *lanePoster) postOn(ctx context.Context, l *lane, body string) (int, []byte, error) {
	for attempt := 0; ; attempt++ {
		if !l.ready {
			done, err := p.cfg.Refusals.Enter(ctx, p.url)
			if err != nil {
				return 0, nil, err
			}
			s, err := p.login.login(ctx, l.client)
			done(refusal(err), err == nil)
			if err == nil && s == nil && p.cfg.PlainHTTP {
				err = &LoginError{Host: p.cfg.Host, User: p.cfg.User, Err: ErrUnsealed}
			}
			if err != nil {
				return 0, nil, err
			}
			l.session, l.ready = s, true
		}
		x, err := p.exchange(ctx, l, body)
		if err == nil && x.status != http.StatusUnauthorized {
			return x.status, x.body, nil
		}
		l.drop()
		// The server asks for a new login: it has closed the connection, or
		// ended the session. A request that it refused or never received did
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

// drop drops the login together with its connection.
func (l *lane) drop() {
	l.ready, l.session = false, nil
	l.client.CloseIdleConnections()
}

type exchanged struct {
	status int
	body   []byte
	sent   bool
}

// exchange sends a body on a logged-in lane. It must use the connection of
// the login: on a new connection the request is not sent.
func (p *lanePoster) exchange(ctx context.Context, l *lane, body string) (x exchanged, err error) {
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
		if payload, err = seal(l.session, p.login.protocol(), payload); err != nil {
			return x, err
		}
		ct = sealedType(p.login.protocol())
	}
	rq, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(payload))
	if err != nil {
		return x, err
	}
	rq.Header.Set("Content-Type", ct)
	// Without GetBody net/http does not repeat the request by itself, on
	// another connection that is not logged in.
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
