package vsphere

import (
	"net"
	"net/netip"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// customization makes a guest customization specification, which VMware Tools
// apply at the first start: LinuxPrep, or Sysprep for Windows.
func customization(name string, v hypervisor.VMInfo, c hypervisor.Customization) (*types.CustomizationSpec, error) {
	n := nics(v)
	if len(c.Addresses) > n {
		return nil, invalidArgument(v.ID.Ref(), "Customize has %d addresses and the machine %d adapters", len(c.Addresses), n)
	}
	host := c.HostName
	if host == "" {
		host = name
	}
	host, domain, _ := strings.Cut(host, ".")
	s := &types.CustomizationSpec{GlobalIPSettings: types.CustomizationGlobalIPSettings{DnsServerList: c.DNS}}
	fixed := &types.CustomizationFixedName{Name: host}
	if strings.HasPrefix(strings.ToLower(v.GuestOS), "win") {
		s.Identity = &types.CustomizationSysprep{
			GuiUnattended:  types.CustomizationGuiUnattended{TimeZone: 85}, // GMT, no name in the portable type
			UserData:       types.CustomizationUserData{FullName: host, OrgName: host, ComputerName: fixed},
			Identification: types.CustomizationIdentification{JoinWorkgroup: "WORKGROUP"},
		}
		s.Options = &types.CustomizationWinOptions{ChangeSID: true}
	} else {
		if domain == "" {
			domain = "localdomain"
		}
		s.Identity = &types.CustomizationLinuxPrep{HostName: fixed, Domain: domain}
		s.Options = &types.CustomizationLinuxOptions{}
	}
	for i := range n {
		a := types.CustomizationIPSettings{Ip: &types.CustomizationDhcpIpGenerator{}, DnsServerList: c.DNS}
		if i < len(c.Addresses) && c.Addresses[i] != "" {
			p, err := netip.ParsePrefix(c.Addresses[i])
			if err != nil {
				return nil, invalidArgument(v.ID.Ref(), "Customize.Addresses: %w", err)
			}
			if p.Addr().Is6() {
				a.IpV6Spec = &types.CustomizationIPSettingsIpV6AddressSpec{Ip: []types.BaseCustomizationIpV6Generator{
					&types.CustomizationFixedIpV6{IpAddress: p.Addr().String(), SubnetMask: int32(p.Bits())}}}
				if c.Gateway != "" && i == 0 {
					a.IpV6Spec.Gateway = []string{c.Gateway}
				}
			} else {
				a.Ip = &types.CustomizationFixedIp{IpAddress: p.Addr().String()}
				a.SubnetMask = net.IP(net.CIDRMask(p.Bits(), 32)).String()
				if c.Gateway != "" && i == 0 {
					a.Gateway = []string{c.Gateway}
				}
			}
		}
		s.NicSettingMap = append(s.NicSettingMap, types.CustomizationAdapterMapping{Adapter: a})
	}
	return s, nil
}
