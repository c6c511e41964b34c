package hvsim

import "strings"

// Rights are what an account may do on every host.
type Rights int

const (
	// Administrator may do everything.
	Administrator Rights = iota
	// HyperVOnly is a member of Hyper-V Administrators and not of Remote Management Users: WinRM lets it log in, and refuses each
	// request [D: "about_Remote_Requirements"; the form of the fault is that of AccessDenied, believed for this case].
	HyperVOnly
	// RemoteOnly is a member of Remote Management Users and not of Hyper-V Administrators: the provider shows it none of its
	// instances (believed: Get-VM lists nothing for such an account, and methods return 32769 or are refused).
	RemoteOnly
)

// rights looks an account up, with or without the host's or a domain's name before it.
func (h *Host) rights(user string) Rights {
	if _, u, ok := strings.Cut(user, `\`); ok {
		user = u
	}
	user, _, _ = strings.Cut(user, "@")
	for u, r := range h.sim.cfg.Rights {
		if strings.EqualFold(u, user) {
			return r
		}
	}
	return Administrator
}
