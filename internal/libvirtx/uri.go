package libvirtx

import (
	"net/url"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/endpoint"
)

// passed are the URL parameters that libvirt's client library accepts
// (libvirt's docs/uri.rst), except no_verify, which is insecure in the URLs
// of all drivers, and socket, which may be repeated. libvirt silently passes
// parameters that it does not know on to the other end.
var passed = []string{"auth", "command", "keyfile", "known_hosts", "known_hosts_verify", "mode", "name", "netcat", "no_sanity", "no_tty",
	"pkipath", "proxy", "sshauth", "tls_priority"}

// HostURIs makes libvirt URIs from a driver's URL, one for each host name
// between commas or, over local sockets, for each socket. driver is libvirt's
// name of the hypervisor, own are the driver's own parameters.
func HostURIs(u *url.URL, driver string, own endpoint.Params) ([]string, error) {
	_, transport, _ := strings.Cut(u.Scheme, "+")
	base := *u
	if base.Scheme = driver; transport != "" {
		base.Scheme += "+" + transport
	}
	if u.User != nil {
		base.User = url.User(u.User.Username()) // the password is passed separately
	}
	q, sockets, err := read(u, transport, own)
	if err != nil {
		return nil, err
	}
	if len(sockets) > 0 {
		var out []string
		for _, s := range sockets {
			q.Set("socket", s)
			base.RawQuery = q.Encode()
			out = append(out, base.String())
		}
		return out, nil
	}
	if transport == "ssh" && !q.Has("no_tty") {
		q.Set("no_tty", "1") // nobody can be asked for a password or whether a host's key is right
	}
	base.RawQuery = q.Encode()
	return eachHost(base)
}

// read reads a URL's parameters, and returns those for libvirt.
func read(u *url.URL, transport string, own endpoint.Params) (q url.Values, sockets []string, err error) {
	switch transport {
	case "", "unix", "ssh", "tls", "tcp", "libssh", "libssh2", "ext":
	default:
		return nil, nil, endpoint.Invalid("unknown transport %q: use unix, ssh, tls or tcp", transport)
	}
	q = url.Values{}
	insecure := false
	known := endpoint.Params{
		"insecure": endpoint.Bool(&insecure),
		"socket":   func(s string) error { q.Set("socket", s); return nil },
	}
	for _, name := range passed {
		known[name] = func(s string) error { q.Set(name, s); return nil }
	}
	for name, set := range own {
		known[name] = set
	}
	rest := *u
	if transport == "unix" {
		all := u.Query()
		sockets = all["socket"]
		all.Del("socket")
		rest.RawQuery = all.Encode()
	}
	if err := known.Read(&rest); err != nil {
		return nil, nil, err
	}
	if insecure {
		if u.Host == "" || slices.Contains([]string{"unix", "tcp", "ext"}, transport) {
			return nil, nil, endpoint.Invalid("URL parameter insecure: this transport verifies nothing anyway")
		}
		q.Set("no_verify", "1")
	}
	return q, sockets, nil
}

func eachHost(u url.URL) ([]string, error) {
	port := ""
	if u.Port() != "" {
		port = ":" + u.Port()
	}
	var out []string
	for h := range strings.SplitSeq(u.Hostname(), ",") {
		if h == "" && u.Host != "" {
			return nil, endpoint.Invalid("an empty host name between commas")
		}
		one := u
		if one.Host = h + port; strings.Contains(h, ":") {
			one.Host = "[" + h + "]" + port
		}
		out = append(out, one.String())
	}
	return out, nil
}

// UserInfo returns the user and the password of a URL if there is a password
// in it or in the environment. A user alone is part of the libvirt URI.
func UserInfo(u *url.URL) (username string, password hypervisor.Secret) {
	if username, password = endpoint.UserInfo(u); password == "" {
		return "", ""
	}
	return username, password
}

// Shown returns libvirt URIs without passwords.
func Shown(uris []string) string {
	var out []string
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			out = append(out, "(unreadable URI)")
			continue
		}
		out = append(out, u.Redacted())
	}
	return strings.Join(out, ", ")
}
