package hvsim

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/krbd"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/ntlmd"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/wsmand"
)

// session is the authentication of a connection. NTLM authenticates connections, not requests [D: MS-NTHT], and sealed messages
// need the keys of their connection.
type session struct {
	mu    sync.Mutex
	login *ntlmd.Login
	user  string
	keys  sealer
	// protocol is the protocol of the connection's sealed messages.
	protocol string
	// once ends the login with its request. HTTP.sys keeps no Kerberos logins unless it is configured to [D:
	// HTTP_SERVER_AUTHENTICATION_INFO, ExFlags]; that WinRM keeps them only where it seals is believed [M].
	once bool
}

// sealer is the session of a login, of NTLM or Kerberos.
type sealer interface {
	Seal(msg []byte) ([]byte, error)
	Open(sealed []byte) ([]byte, error)
}

// certificateProfile is the Authorization value of client certificate logins [D: MS-WSMV, DSP0226 security profiles].
const certificateProfile = "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual"

// door authenticates requests and passes them on [D: "Authentication for Remote Connections" of Windows Remote Management]:
// Basic is for HTTPS, unless AllowUnencrypted; messages over plain HTTP are sealed, unless AllowUnencrypted.
func (h *Host) door(f *front, secure bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/wsman" {
			http.NotFound(w, r)
			return
		}
		cfg := &h.sim.cfg
		clear := secure || cfg.AllowUnencrypted
		if user, pass, ok := r.BasicAuth(); ok && clear && !cfg.NoBasic {
			if h.known(user, pass) {
				f.wsman[h.rights(user)].ServeHTTP(w, r)
				return
			}
			h.count("login refused")
		}
		if r.Header.Get("Authorization") == certificateProfile && h.certified(r) {
			f.wsman[Administrator].ServeHTTP(w, r)
			return
		}
		s := r.Context().Value(connKey{}).(*session)
		s.mu.Lock()
		defer s.mu.Unlock()
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		switch {
		case strings.EqualFold(scheme, "Negotiate"), strings.EqualFold(scheme, "NTLM"), strings.EqualFold(scheme, "Kerberos") && h.acceptor != nil:
			if !h.negotiate(f, s, secure, scheme, token, w) {
				return
			}
		}
		if s.user != "" {
			h.speak(f, s, clear, w, r)
			if s.once {
				s.user = ""
			}
			return
		}
		h.unauthorized(w, clear)
	})
}

func (h *Host) unauthorized(w http.ResponseWriter, clear bool) {
	if w.Header().Get("WWW-Authenticate") == "" {
		w.Header().Add("WWW-Authenticate", "Negotiate")
		if h.acceptor != nil {
			w.Header().Add("WWW-Authenticate", "Kerberos")
		}
	}
	if clear && !h.sim.cfg.NoBasic {
		w.Header().Add("WWW-Authenticate", `Basic realm="WSMAN"`)
	}
	w.WriteHeader(http.StatusUnauthorized)
}

// certified checks a client certificate against the one that is mapped to a user.
func (h *Host) certified(r *http.Request) bool {
	c := h.sim.cfg.ClientCertificate
	return c != nil && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && subtle.ConstantTimeCompare(r.TLS.PeerCertificates[0].Raw, c.Raw) == 1
}

// negotiate does one leg of a handshake. It returns false if it has written the answer.
func (h *Host) negotiate(f *front, s *session, secure bool, scheme, token string, w http.ResponseWriter) bool {
	raw, err := base64.StdEncoding.DecodeString(token)
	if err == nil && h.acceptor != nil && krbd.Is(raw) {
		return h.kerberos(f, s, secure, scheme, raw, w)
	}
	msg, spnego := ntlmd.Unwrap(raw)
	if err != nil || msg == nil || len(msg) < 12 {
		h.unauthorized(w, secure || h.sim.cfg.AllowUnencrypted)
		return false
	}
	wrap := func(m []byte, done bool) string {
		if spnego {
			if m, err = ntlmd.Wrap(m, done); err != nil {
				return ""
			}
		}
		return scheme + " " + base64.StdEncoding.EncodeToString(m)
	}
	switch msg[8] {
	case 1:
		s.user, s.keys = "", nil
		s.login = &ntlmd.Login{Computer: h.cfg.Name, Password: h.password, RequireBinding: h.sim.cfg.RequireChannelBinding, Without: h.sim.cfg.NTLMWithout}
		if secure {
			s.login.Certificate = f.cert.Raw
		}
		m, err := s.login.Challenge(msg)
		if err != nil {
			break
		}
		w.Header().Set("WWW-Authenticate", wrap(m, false))
		w.WriteHeader(http.StatusUnauthorized)
		return false
	case 3:
		h.count("NTLM AUTHENTICATE")
		if s.login == nil {
			break
		}
		user, keys, err := s.login.Authenticate(msg)
		s.login = nil
		if err != nil {
			h.count("login refused")
			break
		}
		s.user, s.keys, s.protocol, s.once = user, nil, spnegoProtocol, false
		if keys != nil {
			s.keys = keys
		}
		if spnego {
			w.Header().Set("WWW-Authenticate", wrap(nil, true))
		}
		return true
	}
	h.unauthorized(w, secure || h.sim.cfg.AllowUnencrypted)
	return false
}

// kerberos does a login of one leg. It returns false if it has written the answer.
func (h *Host) kerberos(f *front, s *session, secure bool, scheme string, raw []byte, w http.ResponseWriter) bool {
	var binding []byte
	if secure {
		sum := sha256.Sum256(f.cert.Raw)
		binding = append([]byte("tls-server-end-point:"), sum[:]...)
	}
	s.user, s.keys = "", nil
	l, err := h.acceptor.Accept(raw, binding, h.sim.cfg.RequireChannelBinding)
	var no *krbd.Refusal
	if errors.As(err, &no) && no.Reply != nil {
		w.Header().Set("WWW-Authenticate", scheme+" "+base64.StdEncoding.EncodeToString(no.Reply))
	}
	if err == nil {
		if _, known := h.password(l.User); known {
			s.user, s.protocol, s.once = l.User, spnegoProtocol, secure
			if strings.EqualFold(scheme, "Kerberos") {
				s.protocol = kerberosProtocol
			}
			if l.Session != nil {
				s.keys = l.Session
				w.Header().Set("WWW-Authenticate", scheme+" "+base64.StdEncoding.EncodeToString(l.Reply))
			}
			return true
		}
	}
	h.unauthorized(w, secure || h.sim.cfg.AllowUnencrypted)
	return false
}

// Protocols and form of sealed messages [D: MS-WSMV 2.2.9.1.1 Negotiate, 2.2.9.1.2 Kerberos].
const (
	spnegoProtocol   = "application/HTTP-SPNEGO-session-encrypted"
	kerberosProtocol = "application/HTTP-Kerberos-session-encrypted"
	boundary         = "Encrypted Boundary"
)

// speak serves a request on an authenticated connection.
func (h *Host) speak(f *front, s *session, clear bool, w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 16<<20))
	if err != nil {
		return
	}
	if len(body) == 0 { // clients log in with an empty message before they seal one
		w.WriteHeader(http.StatusOK)
		return
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/encrypted" {
		if !clear {
			w.WriteHeader(http.StatusInternalServerError) // unencrypted traffic is off [D: AllowUnencrypted]
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		f.wsman[h.rights(s.user)].ServeHTTP(w, r)
		return
	}
	if s.keys == nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	plain, err := unseal(s.keys, s.protocol, body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	h.count("HTTP sealed")
	status, reply, drop := f.wsman[h.rights(s.user)].Answer(plain)
	if reply == "" {
		wsmand.Refuse(w, status, drop)
		return
	}
	sealed, err := seal(s.keys, s.protocol, []byte(reply))
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	wsmand.Write(w, `multipart/encrypted;protocol="`+s.protocol+`";boundary="`+boundary+`"`, status, sealed, drop)
}

func (h *Host) count(what string) {
	h.sim.mu.Lock()
	h.sim.calls[what]++
	h.sim.mu.Unlock()
}

// unseal extracts the message from its multipart body [D: MS-WSMV 2.2.9.1; the parts' headers begin with a tab].
func unseal(k sealer, protocol string, body []byte) ([]byte, error) {
	_, rest, ok := bytes.Cut(body, []byte("Content-Type: application/octet-stream\r\n"))
	end := bytes.LastIndex(rest, []byte("--"+boundary+"--"))
	if !ok || end < 0 || !bytes.Contains(body[:len(body)-len(rest)], []byte(protocol)) {
		return nil, fmt.Errorf("hvsim: a sealed message has the wrong form")
	}
	return k.Open(rest[:end])
}

func seal(k sealer, protocol string, msg []byte) ([]byte, error) {
	sealed, err := k.Seal(msg)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "--%s\r\n\tContent-Type: %s\r\n\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length=%d\r\n--%s\r\n\tContent-Type: application/octet-stream\r\n",
		boundary, protocol, len(msg), boundary)
	b.Write(sealed)
	b.WriteString("--" + boundary + "--\r\n")
	return b.Bytes(), nil
}

// password looks a user up, with or without the host's or a domain's name before it.
func (h *Host) password(user string) (string, bool) {
	if _, u, ok := strings.Cut(user, `\`); ok {
		user = u
	}
	for u, p := range h.sim.cfg.Users {
		if strings.EqualFold(u, user) && !h.sim.noLogins.Load() {
			return p, true
		}
	}
	return "", false
}

func (h *Host) known(user, pass string) bool {
	p, ok := h.password(user)
	return ok && subtle.ConstantTimeCompare([]byte(p), []byte(pass)) == 1
}

// RefuseLogins refuses every login from now on, as after a change of the password, or accepts them again. Calls counts them as
// "login refused".
func (s *Sim) RefuseLogins(on bool) { s.noLogins.Store(on) }
