package libvirtx

import (
	"regexp"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// ControlDomain is the UUID of Xen's domain 0, which is not a machine. No
// other domain can have it.
const ControlDomain = "00000000-0000-0000-0000-000000000000"

// HelperPrefix is the beginning of the names of transient domains that the
// drivers use themselves.
const HelperPrefix = "anyvisor-helper-"

// IsMachine reports whether a domain is a machine to a user, and neither the
// control domain nor a helper.
func IsMachine(uuid, name string) bool {
	return uuid != ControlDomain && !strings.HasPrefix(name, HelperPrefix)
}

var uuidForm = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// IsUUID reports whether text can be the UUID of a machine.
func IsUUID(text string) bool { return uuidForm.MatchString(text) && text != ControlDomain }

// Names in libvirt are file names: they have no slash, and leave room for its
// suffixes.
const maxDomainName = 240

// CheckName refuses names that libvirt can't accept. what is the kind of
// thing that is named.
func CheckName(what, name string, on hypervisor.Ref) error {
	switch {
	case strings.Contains(name, "/"):
		return hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "the %s %q has a slash: libvirt uses names as file names", what, name)
	case len(name) > maxDomainName:
		return hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "the %s has %d bytes: libvirt uses names as file names, at most %d bytes are possible", what, len(name), maxDomainName)
	case strings.HasPrefix(name, "."):
		return hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "the %s %q begins with a dot: libvirt uses names as file names", what, name)
	case strings.HasPrefix(name, HelperPrefix):
		return hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "the %s begins with %q, which the driver uses itself", what, HelperPrefix)
	}
	return nil
}
