//go:build cgo

package fleet

import (
	"context"
	"strings"
	"sync"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Network IDs are "network:NAME" for libvirt networks and "bridge:NAME" for
// bridges of the host; a platform may have others. Networks of the same name
// on several hosts are one network, as in libvirt's migration.
const (
	LibvirtNetwork = "network:"
	HostBridge     = "bridge:"
	// UserNetwork is QEMU's own NAT, which needs no set-up.
	UserNetwork = "user"
)

// Networks implements hypervisor.NetworkLister.
func (f *Fleet) Networks(ctx context.Context) ([]hypervisor.NetworkInfo, error) {
	parts := make([][]hypervisor.NetworkInfo, len(f.Members))
	errs := make([]error, len(f.Members))
	var wg sync.WaitGroup
	for i, h := range f.Members {
		wg.Go(func() {
			if _, errs[i] = h.Identify(ctx); errs[i] != nil {
				return
			}
			parts[i], errs[i] = libvirtx.Do(ctx, h.Conn, 1, h.Networks)
		})
	}
	wg.Wait()
	at := map[hypervisor.NetworkID]int{}
	var out []hypervisor.NetworkInfo
	answered := false
	for i, p := range parts {
		answered = answered || errs[i] == nil
		if errs[i] != nil && libvirtx.KindOf(errs[i]) != hypervisor.ErrUnavailable {
			return nil, errs[i]
		}
		for _, n := range p {
			if k, ok := at[n.ID]; ok {
				out[k].Hosts = append(out[k].Hosts, n.Hosts...)
				continue
			}
			at[n.ID] = len(out)
			out = append(out, n)
		}
	}
	if !answered {
		return nil, errs[0]
	}
	return out, nil
}

// Networks reads the networks of a host: those of the platform, then
// libvirt's.
func (h *Host) Networks(c *libvirt.Connect) ([]hypervisor.NetworkInfo, error) {
	host := h.ID()
	out, err := h.fleet.platform.Networks(c, host)
	if err != nil {
		return nil, err
	}
	all, err := c.ListAllNetworks(0)
	if err != nil {
		return nil, err
	}
	for i := range all {
		doc, err := all[i].GetXMLDesc(0)
		_ = all[i].Free() // a local reference
		if libvirtx.NotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var x libvirtxml.Network
		if err := x.Unmarshal(doc); err != nil {
			return nil, err
		}
		n := hypervisor.NetworkInfo{ID: hypervisor.NetworkID(LibvirtNetwork + x.Name), Name: x.Name, Type: "isolated", Hosts: []hypervisor.HostID{host}}
		if x.Forward != nil {
			if n.Type = x.Forward.Mode; n.Type == "" {
				n.Type = "nat"
			}
			n.SRIOV = hypervisor.FactOf(x.Forward.Mode == "hostdev")
		}
		if x.VLAN != nil && len(x.VLAN.Tags) == 1 {
			n.VLAN = int(x.VLAN.Tags[0].ID)
		}
		out = append(out, n)
	}
	return out, nil
}

// addNICs adds adapters to a definition.
func (at Site) addNICs(ctx context.Context, x *libvirtxml.Domain, nics []hypervisor.NICSpec) error {
	if len(nics) == 0 {
		return nil
	}
	known, err := libvirtx.Do(ctx, at.Host.Conn, 1, at.Host.Networks)
	if err != nil {
		return err
	}
	for _, n := range nics {
		nic, err := at.Host.fleet.platform.newNIC(n, known)
		if err != nil {
			return err
		}
		x.Devices.Interfaces = append(x.Devices.Interfaces, nic)
	}
	return nil
}

// newNIC makes an adapter. Without a network it goes to libvirt's network
// "default", or to the platform's first one on a host that has none.
func (p *Platform) newNIC(n hypervisor.NICSpec, known []hypervisor.NetworkInfo) (libvirtxml.DomainInterface, error) {
	x := libvirtxml.DomainInterface{Source: &libvirtxml.DomainInterfaceSource{}, Model: p.nicModel(n.Model)}
	has := func(id hypervisor.NetworkID) bool {
		for _, k := range known {
			if k.ID == id {
				return true
			}
		}
		return false
	}
	if n.Network == "" {
		if n.Network = LibvirtNetwork + "default"; !has(n.Network) && len(known) > 0 {
			n.Network = known[0].ID
		}
	}
	switch name := string(n.Network); {
	case name == UserNetwork && has(UserNetwork):
		x.Source.User = &libvirtxml.DomainInterfaceSourceUser{}
	case strings.HasPrefix(name, HostBridge):
		x.Source.Bridge = &libvirtxml.DomainInterfaceSourceBridge{Bridge: strings.TrimPrefix(name, HostBridge)}
	case has(n.Network):
		x.Source.Network = &libvirtxml.DomainInterfaceSourceNetwork{Network: strings.TrimPrefix(name, LibvirtNetwork)}
	default:
		return x, hypervisor.Errorf(hypervisor.ErrNotFound, n.Network.Ref(), "no such network on the host: give one that Networks lists, define it with virsh net-define, or give bridge:NAME")
	}
	x.MAC = &libvirtxml.DomainInterfaceMAC{Address: n.MAC}
	if n.MAC == "" {
		x.MAC.Address = p.NewMAC()
	}
	return x, nil
}

// NewMAC returns a random address in the platform's range.
func (p *Platform) NewMAC() string { return libvirtx.NewMAC(p.MACPrefix) }

// nicModel returns the requested model, or the platform's own. nil leaves the
// choice to libvirt.
func (p *Platform) nicModel(model string) *libvirtxml.DomainInterfaceModel {
	if model == "" {
		model = p.NICModel
	}
	if model == "" {
		return nil
	}
	return &libvirtxml.DomainInterfaceModel{Type: model}
}

// NICInfo describes an adapter; its MAC address is its ID.
func NICInfo(n *libvirtxml.DomainInterface) hypervisor.NICInfo {
	i := hypervisor.NICInfo{Connected: n.Link == nil || n.Link.State != "down"}
	if n.MAC != nil {
		i.MAC = n.MAC.Address
	}
	i.ID = hypervisor.NICID(strings.ToLower(i.MAC))
	if n.Model != nil {
		i.Model = n.Model.Type
	}
	switch s := n.Source; {
	case s == nil:
	case s.Network != nil:
		i.Network = hypervisor.NetworkID(LibvirtNetwork + s.Network.Network)
	case s.Bridge != nil:
		i.Network = hypervisor.NetworkID(HostBridge + s.Bridge.Bridge)
	case s.User != nil:
		i.Network = UserNetwork
	}
	return i
}

// AttachNIC implements hypervisor.NICAttacher.
func (f *Fleet) AttachNIC(ctx context.Context, id hypervisor.VMID, n hypervisor.NICSpec) (hypervisor.DriverTask, error) {
	return f.Run(ctx, "attach-nic", id, ShortWork, func(ctx context.Context, _ *job.Job) (hypervisor.Ref, error) {
		mac, err := OnDomain(context.WithoutCancel(ctx), f, id, 4, func(h *Host, c *libvirt.Connect, dom *libvirt.Domain) (string, error) {
			known, err := h.Networks(c)
			if err != nil {
				return "", err
			}
			nic, err := f.platform.newNIC(n, known)
			if err != nil {
				return "", err
			}
			doc, err := nic.Marshal()
			if err != nil {
				return "", err
			}
			return nic.MAC.Address, Attach(dom, id, doc)
		})
		return hypervisor.NICID(strings.ToLower(mac)).Ref(), err
	})
}

// DetachNIC implements hypervisor.NICAttacher.
func (f *Fleet) DetachNIC(ctx context.Context, id hypervisor.VMID, nic hypervisor.NICID) (hypervisor.DriverTask, error) {
	return f.Simple(ctx, "detach-nic", id, ShortWork, func(ctx context.Context) error {
		_, err := OnDomain(context.WithoutCancel(ctx), f, id, 4, func(_ *Host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			x, _, err := libvirtx.Parse(dom, 0)
			if err != nil {
				return struct{}{}, err
			}
			for i := range x.Devices.Interfaces {
				n := &x.Devices.Interfaces[i]
				if IsGuard(n) || NICInfo(n).ID != nic {
					continue
				}
				doc, err := n.Marshal()
				if err != nil {
					return struct{}{}, err
				}
				return struct{}{}, Detach(dom, id, doc, func(x *libvirtxml.Domain) bool {
					for i := range x.Devices.Interfaces {
						if NICInfo(&x.Devices.Interfaces[i]).ID == nic {
							return true
						}
					}
					return false
				})
			}
			return struct{}{}, hypervisor.Errorf(hypervisor.ErrNotFound, nic.Ref(), "the machine has no such adapter")
		})
		return err
	})
}
