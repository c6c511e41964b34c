package libvirtx

import (
	"regexp"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// ControlDomain is the UUID of Xen's domain 0, which is no machine. No other
// domain can have it.
const ControlDomain = "00000000-0000-0000-0000-000000000000"

// HelperPrefix begins the names of transient domains that the drivers use
// themselves.
const HelperPrefix = "anyvisor-helper-"

// IsMachine reports whether a domain is one to a user: not the control domain
// and no helper.
func IsMachine(uuid, name string) bool {
	return uuid != ControlDomain && !strings.HasPrefix(name, HelperPrefix)
}

var uuidForm = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// IsUUID reports whether text can be the UUID of a machine.
func IsUUID(text string) bool { return uuidForm.MatchString(text) && text != ControlDomain }

// Names of libvirt are file names: no slash, and room for its suffixes.
const maxDomainName = 240

// CheckName refuses names that libvirt can't take. what says what is named.
func CheckName(what, name string, on hypervisor.Ref) error {
	switch {
	case strings.Contains(name, "/"):
		return hypervisor.Errorf(hypervisor.KindInvalidArgument, on, "the %s %q has a slash: libvirt uses names as file names", what, name)
	case len(name) > maxDomainName:
		return hypervisor.Errorf(hypervisor.KindInvalidArgument, on, "the %s has %d bytes: libvirt uses names as file names, at most %d bytes are possible", what, len(name), maxDomainName)
	case strings.HasPrefix(name, "."):
		return hypervisor.Errorf(hypervisor.KindInvalidArgument, on, "the %s %q begins with a dot: libvirt uses names as file names", what, name)
	case strings.HasPrefix(name, HelperPrefix):
		return hypervisor.Errorf(hypervisor.KindInvalidArgument, on, "the %s begins with %q, which the driver uses itself", what, HelperPrefix)
	}
	return nil
}
