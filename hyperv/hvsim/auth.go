package hvsim

import (
	"net/http"
	"strings"
	"sync"
)

// session is what a connection has authenticated as.
type session struct {
	mu sync.Mutex
}

// door authenticates requests and passes them on [D: "Authentication for Remote Connections" of Windows Remote Management]:
// Basic is for HTTPS, unless AllowUnencrypted; messages over plain HTTP are sealed, unless AllowUnencrypted.
func (h *Host) door(f *front, secure bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/wsman" {
			http.NotFound(w, r)
			return
		}
		basic := secure || h.sim.cfg.AllowUnencrypted
		if user, pass, ok := r.BasicAuth(); ok && basic && h.known(user, pass) {
			f.wsman.ServeHTTP(w, r)
			return
		}
		if basic {
			w.Header().Add("WWW-Authenticate", `Basic realm="WSMAN"`)
		}
		w.WriteHeader(http.StatusUnauthorized)
	})
}

// known checks a user, with or without the host's or a domain's name before it.
func (h *Host) known(user, pass string) bool {
	if _, u, ok := strings.Cut(user, `\`); ok {
		user = u
	}
	for u, p := range h.sim.cfg.Users {
		if strings.EqualFold(u, user) {
			return p == pass
		}
	}
	return false
}
