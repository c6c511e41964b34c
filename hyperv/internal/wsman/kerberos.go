package wsman

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"sync/atomic"
)

func newKerberos(url string, cfg Config) (poster, error) {
	t, err := newTickets(cfg)
	switch {
	case err != nil:
		return nil, err
	case cfg.PlainHTTP:
		return newLanes(url, cfg, &kerberosLogin{t, url}), nil
	}
	return newTLS(url, cfg, &kerberosTokens{tickets: t, url: url}), nil
}

// kerberosLogin logs in a connection for sealed messages. Scheme and protocol
// are those of MS-WSMV 2.2.9.1.2.
type kerberosLogin struct {
	*tickets
	url string
}

func (k *kerberosLogin) protocol() string { return "application/HTTP-Kerberos-session-encrypted" }

func (k *kerberosLogin) login(ctx context.Context, c *http.Client) (sealer, error) {
	for attempt := 0; ; attempt++ {
		g, token, err := k.begin(ctx, nil)
		if err != nil {
			return nil, err
		}
		rs, err := empty(ctx, c, k.url, k.cfg.Host, "Kerberos", token)
		if err != nil {
			return nil, err
		}
		if rs.StatusCode == http.StatusUnauthorized {
			if attempt == 0 {
				k.forget()
				continue
			}
			return nil, k.answer(rs.Header)
		}
		_, reply := findToken(rs.Header, "Kerberos")
		if reply == nil {
			return nil, k.refused(errors.New("the host did not prove who it is"))
		}
		if err := g.accept(reply); err != nil {
			return nil, k.failed(err)
		}
		return g, nil
	}
}

// kerberosTokens is for HTTPS: each request carries a token of its own, bound
// to the server's certificate. HTTP.sys keeps no Kerberos login for a
// connection unless it is configured to (HTTP_AUTH_EX_FLAG_ENABLE_KERBEROS_
// CREDENTIAL_CACHING).
type kerberosTokens struct {
	*tickets
	url     string
	binding atomic.Pointer[[]byte]
}

// authorize implements authorizer.
func (k *kerberosTokens) authorize(c *http.Client, rq *http.Request) error {
	if k.binding.Load() == nil {
		// The certificate is not known before the first connection.
		rs, err := empty(rq.Context(), c, k.url, k.cfg.Host, "", nil)
		if err != nil {
			return err
		}
		b := endpointBinding(rs.TLS)
		k.binding.Store(&b)
	}
	_, token, err := k.begin(rq.Context(), *k.binding.Load())
	if err != nil {
		return err
	}
	rq.Header.Set("Authorization", "Kerberos "+base64.StdEncoding.EncodeToString(token))
	return nil
}

// again implements authorizer: the ticket or the certificate may be outdated.
func (k *kerberosTokens) again(rs *http.Response) bool {
	k.forget()
	b := endpointBinding(rs.TLS)
	k.binding.Store(&b)
	return true
}
