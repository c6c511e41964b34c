//go:build cgo

package libxl

import (
	"context"
	"strings"
	"sync"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Network IDs are "network:NAME" for libvirt networks and "bridge:NAME" for
// bridges of the host. A network of one name on several hosts is one network:
// libvirt's migration takes it so.
const (
	libvirtNetwork = "network:"
	hostBridge     = "bridge:"
)

// Networks implements hypervisor.NetworkLister. Bridges of the host are listed
// where libvirt knows them, that is where it was built with netcf or udev.
func (d *driver) Networks(ctx context.Context) ([]hypervisor.NetworkInfo, error) {
	parts := make([][]hypervisor.NetworkInfo, len(d.hosts))
	errs := make([]error, len(d.hosts))
	var wg sync.WaitGroup
	for i, h := range d.hosts {
		wg.Go(func() {
			if _, errs[i] = h.identify(ctx); errs[i] != nil {
				return
			}
			parts[i], errs[i] = libvirtx.Do(ctx, h.conn, 1, func(c *libvirt.Connect) ([]hypervisor.NetworkInfo, error) { return networks(c, h.ID()) })
		})
	}
	wg.Wait()
	at := map[hypervisor.NetworkID]int{}
	var out []hypervisor.NetworkInfo
	answered := false
	for i, p := range parts {
		answered = answered || errs[i] == nil
		if errs[i] != nil && d.kindOf(errs[i]) != hypervisor.KindUnavailable {
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

func networks(c *libvirt.Connect, host hypervisor.HostID) ([]hypervisor.NetworkInfo, error) {
	out, err := bridges(c, host)
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
		n := hypervisor.NetworkInfo{ID: hypervisor.NetworkID(libvirtNetwork + x.Name), Name: x.Name, Type: "isolated", Hosts: []hypervisor.HostID{host}}
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

// bridges lists the bridges that libvirt's own networks did not make. libvirt
// (9.0, built with udev) fails to describe a bridge as long as an adapter of a
// machine is on it, for it takes "vif1.0" for a VLAN's name; then the running
// machines' definitions say that it is a bridge.
func bridges(c *libvirt.Connect, host hypervisor.HostID) ([]hypervisor.NetworkInfo, error) {
	all, err := c.ListAllInterfaces(libvirt.CONNECT_LIST_INTERFACES_ACTIVE)
	if err != nil {
		return nil, nil // a libvirt without interface driver
	}
	defer func() {
		for i := range all {
			_ = all[i].Free() // a local reference
		}
	}()
	var out []hypervisor.NetworkInfo
	var used map[string]bool
	for i := range all {
		name, err := all[i].GetName() // local
		if err != nil {
			return nil, err
		}
		doc, err := all[i].GetXMLDesc(0)
		var x libvirtxml.Interface
		bridge := err == nil && x.Unmarshal(doc) == nil && x.Bridge != nil
		if err != nil {
			if used == nil {
				if used, err = usedBridges(c); err != nil {
					return nil, err
				}
			}
			bridge = used[name]
		}
		if bridge && !strings.HasPrefix(name, "virbr") {
			out = append(out, hypervisor.NetworkInfo{ID: hypervisor.NetworkID(hostBridge + name), Name: name, Type: "bridge", Hosts: []hypervisor.HostID{host}})
		}
	}
	return out, nil
}

// usedBridges names the bridges that running machines are on.
func usedBridges(c *libvirt.Connect) (map[string]bool, error) {
	all, err := c.ListAllDomains(libvirt.CONNECT_LIST_DOMAINS_ACTIVE)
	if err != nil {
		return nil, err
	}
	defer func() {
		for i := range all {
			_ = all[i].Free() // a local reference
		}
	}()
	out := map[string]bool{}
	for i := range all {
		x, _, err := libvirtx.Parse(&all[i], 0)
		if libvirtx.NotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for n := range x.Devices.Interfaces {
			if s := x.Devices.Interfaces[n].Source; s != nil && s.Bridge != nil {
				out[s.Bridge.Bridge] = true
			}
		}
	}
	return out, nil
}

// addNICs adds adapters to a definition.
func (at site) addNICs(ctx context.Context, x *libvirtxml.Domain, nics []hypervisor.NICSpec) error {
	if len(nics) == 0 {
		return nil
	}
	known, err := libvirtx.Do(ctx, at.h.conn, 1, func(c *libvirt.Connect) ([]hypervisor.NetworkInfo, error) { return networks(c, at.h.ID()) })
	if err != nil {
		return err
	}
	for _, n := range nics {
		nic, err := newNIC(n, known)
		if err != nil {
			return err
		}
		x.Devices.Interfaces = append(x.Devices.Interfaces, nic)
	}
	return nil
}

// newNIC makes an adapter. Without a network it goes to libvirt's network
// "default", or to the first bridge of a host that has none.
func newNIC(n hypervisor.NICSpec, known []hypervisor.NetworkInfo) (libvirtxml.DomainInterface, error) {
	x := libvirtxml.DomainInterface{Source: &libvirtxml.DomainInterfaceSource{}}
	has := func(id hypervisor.NetworkID) bool {
		for _, k := range known {
			if k.ID == id {
				return true
			}
		}
		return false
	}
	if n.Network == "" {
		if n.Network = libvirtNetwork + "default"; !has(n.Network) && len(known) > 0 {
			n.Network = known[0].ID
		}
	}
	switch name := string(n.Network); {
	case strings.HasPrefix(name, hostBridge):
		x.Source.Bridge = &libvirtxml.DomainInterfaceSourceBridge{Bridge: strings.TrimPrefix(name, hostBridge)}
	case has(n.Network):
		x.Source.Network = &libvirtxml.DomainInterfaceSourceNetwork{Network: strings.TrimPrefix(name, libvirtNetwork)}
	default:
		return x, hypervisor.Errorf(hypervisor.KindNotFound, n.Network.Ref(), "no such network on the host: define it with virsh net-define, or give network:NAME or bridge:NAME")
	}
	if n.Model != "" {
		x.Model = &libvirtxml.DomainInterfaceModel{Type: n.Model}
	}
	x.MAC = &libvirtxml.DomainInterfaceMAC{Address: n.MAC}
	if n.MAC == "" {
		x.MAC.Address = newMAC()
	}
	return x, nil
}

// newMAC returns a random address in Xen's range.
func newMAC() string { return "00:16:3e" + libvirtx.NewMAC()[8:] }

// nicInfo describes an adapter; its MAC address is its ID.
func nicInfo(n *libvirtxml.DomainInterface) hypervisor.NICInfo {
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
		i.Network = hypervisor.NetworkID(libvirtNetwork + s.Network.Network)
	case s.Bridge != nil:
		i.Network = hypervisor.NetworkID(hostBridge + s.Bridge.Bridge)
	}
	return i
}

// AttachNIC implements hypervisor.NICAttacher.
func (d *driver) AttachNIC(ctx context.Context, id hypervisor.VMID, n hypervisor.NICSpec) (hypervisor.DriverTask, error) {
	return d.run(ctx, "attach-nic", id, shortWork, func(ctx context.Context, _ func(hypervisor.TaskState)) hypervisor.TaskState {
		mac, err := onDomain(context.WithoutCancel(ctx), d, id, 4, func(h *host, c *libvirt.Connect, dom *libvirt.Domain) (string, error) {
			known, err := networks(c, h.ID())
			if err != nil {
				return "", err
			}
			nic, err := newNIC(n, known)
			if err != nil {
				return "", err
			}
			doc, err := nic.Marshal()
			if err != nil {
				return "", err
			}
			return nic.MAC.Address, attach(dom, id, doc)
		})
		return hypervisor.TaskState{Result: hypervisor.NICID(strings.ToLower(mac)).Ref(), Err: err}
	})
}

// DetachNIC implements hypervisor.NICAttacher.
func (d *driver) DetachNIC(ctx context.Context, id hypervisor.VMID, nic hypervisor.NICID) (hypervisor.DriverTask, error) {
	return d.simple(ctx, "detach-nic", id, shortWork, func(ctx context.Context) error {
		_, err := onDomain(context.WithoutCancel(ctx), d, id, 4, func(_ *host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			x, _, err := libvirtx.Parse(dom, 0)
			if err != nil {
				return struct{}{}, err
			}
			for i := range x.Devices.Interfaces {
				n := &x.Devices.Interfaces[i]
				if isGuard(n) || nicInfo(n).ID != nic {
					continue
				}
				doc, err := n.Marshal()
				if err != nil {
					return struct{}{}, err
				}
				return struct{}{}, detach(dom, id, doc, func(x *libvirtxml.Domain) bool {
					for i := range x.Devices.Interfaces {
						if nicInfo(&x.Devices.Interfaces[i]).ID == nic {
							return true
						}
					}
					return false
				})
			}
			return struct{}{}, hypervisor.Errorf(hypervisor.KindNotFound, nic.Ref(), "the machine has no such adapter")
		})
		return err
	})
}
