package vsphere

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// customization makes a guest customization specification, which VMware Tools
// apply at the first start: LinuxPrep, or Sysprep for Windows. The notes list
// the further settings that the guest gets, since vSphere requires them.
func customization(name string, v hypervisor.VMInfo, c hypervisor.Customization) (*types.CustomizationSpec, []string, error) {
	var notes []string
	host := c.HostName
	if host == "" {
		host = name
		notes = append(notes, fmt.Sprintf("the guest's host name is %q: vSphere sets one in any case", host))
	}
	host, domain, _ := strings.Cut(host, ".")
	s := &types.CustomizationSpec{GlobalIPSettings: types.CustomizationGlobalIPSettings{DnsServerList: texts(c.DNS)}}
	fixed := &types.CustomizationFixedName{Name: host}
	windows := strings.HasPrefix(strings.ToLower(v.GuestOS), "win")
	switch w := c.Windows; {
	case windows && w == nil:
		return nil, nil, invalidArgument(v.ID.Ref(), "Customize.Windows is not set: a Windows guest needs it")
	case windows:
		s.Identity = &types.CustomizationSysprep{
			GuiUnattended:  types.CustomizationGuiUnattended{TimeZone: int32(w.TimeZone)},
			UserData:       types.CustomizationUserData{FullName: w.Owner, OrgName: w.Organization, ComputerName: fixed},
			Identification: types.CustomizationIdentification{JoinWorkgroup: w.Workgroup},
		}
		s.Options = &types.CustomizationWinOptions{ChangeSID: true}
		notes = append(notes, "Sysprep gives the guest a new security identifier")
	case w != nil:
		return nil, nil, invalidArgument(v.ID.Ref(), "Customize.Windows is set, and the guest is %q", v.GuestOS)
	default:
		if domain == "" {
			domain = "localdomain"
			notes = append(notes, "the guest's domain is localdomain: vSphere sets one in any case; give HostName with a domain for another")
		}
		s.Identity = &types.CustomizationLinuxPrep{HostName: fixed, Domain: domain}
		s.Options = &types.CustomizationLinuxOptions{}
	}
	n := nics(v)
	if err := addAdapters(s, v.ID.Ref(), n, c); err != nil {
		return nil, nil, err
	}
	if len(c.Addresses) < n {
		notes = append(notes, "adapters without an address use DHCP: vSphere sets them all")
	}
	return s, notes, nil
}

// addAdapters sets the addresses of each of n adapters. The gateway goes to
// the first one that has an address of its family.
func addAdapters(s *types.CustomizationSpec, on hypervisor.Ref, n int, c hypervisor.Customization) error {
	if len(c.Addresses) > n {
		return invalidArgument(on, "Customize.Addresses has %d addresses and the machine %d adapters", len(c.Addresses), n)
	}
	gate := c.Gateway
	for i := range n {
		a := types.CustomizationIPSettings{Ip: &types.CustomizationDhcpIpGenerator{}, DnsServerList: texts(c.DNS)}
		var p netip.Prefix
		if i < len(c.Addresses) {
			p = c.Addresses[i]
		}
		var route []string
		if p.IsValid() && gate.IsValid() && gate.Is6() == p.Addr().Is6() {
			route, gate = []string{gate.String()}, netip.Addr{}
		}
		switch {
		case p.IsValid() && p.Addr().Is6():
			a.IpV6Spec = &types.CustomizationIPSettingsIpV6AddressSpec{Gateway: route, Ip: []types.BaseCustomizationIpV6Generator{
				&types.CustomizationFixedIpV6{IpAddress: p.Addr().String(), SubnetMask: int32(p.Bits())}}}
		case p.IsValid():
			a.Ip = &types.CustomizationFixedIp{IpAddress: p.Addr().String()}
			a.SubnetMask, a.Gateway = net.IP(net.CIDRMask(p.Bits(), 32)).String(), route
		}
		s.NicSettingMap = append(s.NicSettingMap, types.CustomizationAdapterMapping{Adapter: a})
	}
	if gate.IsValid() {
		return invalidArgument(on, "Customize.Gateway %v: no adapter gets an address of its family", gate)
	}
	return nil
}

func texts(addrs []netip.Addr) []string {
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}
