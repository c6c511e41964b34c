package libvirtx

import (
	"net/url"
	"strings"
)

// HostURIs makes one libvirt URI for each host name between commas. It is
// false where a name is missing.
func HostURIs(u url.URL) ([]string, bool) {
	port := ""
	if u.Port() != "" {
		port = ":" + u.Port()
	}
	var out []string
	for h := range strings.SplitSeq(u.Hostname(), ",") {
		if h == "" && u.Host != "" {
			return nil, false
		}
		one := u
		if one.Host = h + port; strings.Contains(h, ":") {
			one.Host = "[" + h + "]" + port
		}
		out = append(out, one.String())
	}
	return out, true
}
