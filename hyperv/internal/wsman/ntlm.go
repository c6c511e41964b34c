package wsman

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"

	"github.com/bodgit/ntlmssp"
)

// ntlm logs in with NTLMv2.
type ntlm struct {
	url string
	cfg Config
}

func (n *ntlm) protocol() string { return "application/HTTP-SPNEGO-session-encrypted" }
func (n *ntlm) close()           {}

// login runs the three messages of NTLM.
func (n *ntlm) login(ctx context.Context, c *http.Client) (sealer, error) {
	domain, user := splitUser(n.cfg.User)
	client, err := ntlmssp.NewClient(ntlmssp.SetUserInfo(user, string(n.cfg.Password)), ntlmssp.SetDomain(domain))
	if err != nil {
		return nil, err
	}
	refuse := func(err error) error { return &LoginError{Host: n.cfg.Host, User: n.cfg.User, Err: err} }
	var challenge []byte
	var bindings *ntlmssp.ChannelBindings
	scheme := "Negotiate"
	var fresh atomic.Bool // the message went over a new connection
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { fresh.Store(!i.Reused) }})
	for step := range 2 {
		token, err := client.Authenticate(challenge, bindings)
		if err != nil {
			return nil, refuse(err)
		}
		rs, err := empty(ctx, c, n.url, n.cfg.Host, scheme, token)
		if err != nil {
			return nil, err
		}
		if step == 1 {
			switch {
			case rs.StatusCode != http.StatusUnauthorized:
			case fresh.Load(): // that one has not seen the challenge
				return nil, &ConnectionError{Host: n.cfg.Host, Err: errors.New("the connection was closed in the middle of the login")}
			default:
				return nil, &LoginError{Host: n.cfg.Host, User: n.cfg.User, Password: true}
			}
			break
		}
		if rs.StatusCode != http.StatusUnauthorized {
			return nil, refuse(fmt.Errorf("HTTP status %d instead of a challenge", rs.StatusCode))
		}
		if scheme, challenge = findToken(rs.Header, "Negotiate", "NTLM"); challenge == nil {
			return nil, refuse(errors.New("the server offers no NTLM"))
		}
		if err := checkChallenge(challenge); err != nil {
			return nil, refuse(err)
		}
		if data := endpointBinding(rs.TLS); data != nil {
			bindings = &ntlmssp.ChannelBindings{ApplicationData: data}
		}
	}
	if s := client.SecuritySession(); s != nil {
		return ntlmSealer{s}, nil
	}
	return nil, nil
}

type ntlmSealer struct{ *ntlmssp.SecuritySession }

func (s ntlmSealer) seal(msg []byte) (signature, sealed []byte, err error) {
	sealed, signature, err = s.Wrap(msg)
	return signature, sealed, err
}

func (s ntlmSealer) unseal(signature, sealed []byte) ([]byte, error) {
	if len(signature) != 16 || binary.LittleEndian.Uint32(signature) != 1 {
		return nil, errors.New("sealed reply has a signature of another kind")
	}
	return s.Unwrap(sealed, signature)
}

// empty posts an empty message that carries a token, or none if it is nil. The
// body of the reply is closed.
func empty(ctx context.Context, c *http.Client, url, host, scheme string, token []byte) (*http.Response, error) {
	rq, err := http.NewRequestWithContext(ctx, http.MethodPost, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	rq.Header.Set("Content-Type", contentType)
	if token != nil {
		rq.Header.Set("Authorization", scheme+" "+base64.StdEncoding.EncodeToString(token))
	}
	rs, err := c.Do(rq)
	if err != nil {
		return nil, &ConnectionError{Host: host, Err: unwrapURL(err)}
	}
	drain(rs.Body)
	return rs, nil
}

// findToken finds the token that the server sends for one of these schemes.
func findToken(h http.Header, schemes ...string) (string, []byte) {
	for _, v := range h.Values("Www-Authenticate") {
		scheme, data, ok := strings.Cut(v, " ")
		for _, s := range schemes {
			if !ok || !strings.EqualFold(scheme, s) {
				continue
			}
			if b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(data)); err == nil && len(b) > 0 {
				return scheme, b
			}
		}
	}
	return "", nil
}

// splitUser splits a name into its parts. "name@domain" is kept unchanged,
// with an empty domain, as NTLM requires.
func splitUser(s string) (domain, user string) {
	if d, u, ok := strings.Cut(s, `\`); ok {
		return d, u
	}
	return "", s
}
