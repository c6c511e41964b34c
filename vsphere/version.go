package vsphere

import (
	"slices"
	"strconv"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// least is the oldest version that this driver works with.
const least = "6.5"

// since lists what this driver uses and least does not have, with the version
// of the API that added it: property paths of machines, and methods. Source:
// the versions in VMware's type information (github.com/vmware/pyvmomi,
// pyVmomi/_typeinfo_vim.py). The API reference has the same under "Since".
var since = map[string]string{
	"config.createDate":                       "6.7",
	"InstantClone_Task":                       "6.7",
	"VirtualPCIPassthroughDynamicBackingInfo": "7.0",
}

// has reports whether the server has an item of the table.
func (d *driver) has(name string) bool {
	v, ok := since[name]
	return !ok || !older(d.vc.ServiceContent.About.ApiVersion, v)
}

// known leaves out the property paths that the server's version doesn't have.
// A path that the server doesn't know fails the whole reading
// (InvalidProperty).
func (d *driver) known(paths []string) []string {
	if !slices.ContainsFunc(paths, func(p string) bool { return !d.has(p) }) {
		return paths
	}
	return slices.DeleteFunc(slices.Clone(paths), func(p string) bool { return !d.has(p) })
}

// oldEnough refuses a server that is older than all that were tried.
func (d *driver) oldEnough() error {
	if a := d.vc.ServiceContent.About; older(a.ApiVersion, least) {
		return hypervisor.Errorf(hypervisor.ErrUnsupported, hypervisor.Ref{Kind: hypervisor.ObjectClient},
			"%s has version %s (API %s), and this driver needs %s or later: upgrade the server", a.Name, a.Version, a.ApiVersion, least)
	}
	return nil
}

// older compares versions of the API by their numbers.
func older(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(x), len(y)) {
		var m, n int
		if i < len(x) {
			m, _ = strconv.Atoi(x[i])
		}
		if i < len(y) {
			n, _ = strconv.Atoi(y[i])
		}
		if m != n {
			return m < n
		}
	}
	return false
}
