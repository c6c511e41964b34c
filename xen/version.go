package xen

import (
	"slices"
	"strconv"
	"strings"

	"github.com/anyvisor/anyvisor/xen/internal/xapidata"
)

// release is a version of xapi. The API version can't replace it: 2.20 is
// 22.5.0 to 24.9, 2.21 is 24.10.0 to 26.13, with different parameters.
type release []int

// parseRelease parses software_version:xapi_build, such as "24.19.2" or
// "25.6.0-1". A server without one is older than all others.
func parseRelease(build string) (r release) {
	build, _, _ = strings.Cut(build, "-")
	for part := range strings.SplitSeq(build, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			break
		}
		r = append(r, n)
	}
	return r
}

// Items that are only sent to a xapi that knows them. Parameters whose
// default is enough are never sent.
const (
	autoEnable = "host.disable.auto_enable"
	pciAccess  = "PCI.disable_dom0_access"
)

// has reports whether the pool's coordinator knows a message, field or
// parameter.
func (d *driver) has(what string) bool {
	return slices.Compare(d.xapi, parseRelease(xapidata.Load().Since(what))) >= 0
}
