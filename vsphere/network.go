package vsphere

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Networks lists standard, distributed and opaque networks.
func (d *driver) Networks(ctx context.Context) ([]hypervisor.NetworkInfo, error) {
	list, err := d.viewAll(ctx, "Network", []string{"name", "host"})
	if err != nil {
		return nil, err
	}
	vlans, uplinks, err := d.portgroups(ctx)
	if err != nil {
		return nil, err
	}
	var out []hypervisor.NetworkInfo
	for _, o := range list {
		if uplinks[o.Obj] {
			continue // for the hosts' own cards
		}
		p := props(o)
		n := hypervisor.NetworkInfo{ID: hypervisor.NetworkID(o.Obj.Value), Name: unescape(p.str("name")), Type: o.Obj.Type, VLAN: vlans[o.Obj]}
		for _, h := range p.refs("host") {
			n.Hosts = append(n.Hosts, hypervisor.HostID(h.Value))
		}
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b hypervisor.NetworkInfo) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// portgroups returns the VLANs of distributed port groups, and which of them
// carry the uplinks.
func (d *driver) portgroups(ctx context.Context) (vlans map[ref]int, uplinks map[ref]bool, err error) {
	vlans, uplinks = map[ref]int{}, map[ref]bool{}
	if !d.isVC() {
		return
	}
	list, err := d.viewAll(ctx, "DistributedVirtualPortgroup", []string{"config"})
	for _, o := range list {
		c := get[types.DVPortgroupConfigInfo](props(o), "config")
		uplinks[o.Obj] = c.Uplink != nil && *c.Uplink
		if s, ok := c.DefaultPortConfig.(*types.VMwareDVSPortSetting); ok {
			if v, ok := s.Vlan.(*types.VmwareDistributedVirtualSwitchVlanIdSpec); ok {
				vlans[o.Obj] = int(v.VlanId)
			}
		}
	}
	return vlans, uplinks, err
}

// netBacking connects an adapter to a network. Each type has its own backing
// (API reference, VirtualEthernetCard backings).
func (d *driver) netBacking(ctx context.Context, id hypervisor.NetworkID) (types.BaseVirtualDeviceBackingInfo, error) {
	r := networkRef(id)
	fail := func(err error) error {
		if isNotFound(err) {
			return notFound(hypervisor.Ref{Kind: hypervisor.ObjectNetwork, ID: string(id)})
		}
		return err
	}
	switch r.Type {
	case "DistributedVirtualPortgroup":
		p, err := d.one(ctx, r, "key", "config")
		if err != nil {
			return nil, fail(err)
		}
		c := get[types.DVPortgroupConfigInfo](p, "config")
		if c.DistributedVirtualSwitch == nil {
			return nil, notFound(hypervisor.Ref{Kind: hypervisor.ObjectNetwork, ID: string(id)})
		}
		s, err := d.one(ctx, *c.DistributedVirtualSwitch, "uuid")
		if err != nil {
			return nil, err
		}
		return &types.VirtualEthernetCardDistributedVirtualPortBackingInfo{
			Port: types.DistributedVirtualSwitchPortConnection{PortgroupKey: p.str("key"), SwitchUuid: s.str("uuid")}}, nil
	case "OpaqueNetwork":
		p, err := d.one(ctx, r, "summary")
		if err != nil {
			return nil, fail(err)
		}
		s := get[types.OpaqueNetworkSummary](p, "summary")
		return &types.VirtualEthernetCardOpaqueNetworkBackingInfo{OpaqueNetworkId: s.OpaqueNetworkId, OpaqueNetworkType: s.OpaqueNetworkType}, nil
	}
	p, err := d.one(ctx, r, "name")
	if err != nil {
		return nil, fail(err)
	}
	b := &types.VirtualEthernetCardNetworkBackingInfo{Network: &r}
	b.DeviceName = p.str("name")
	return b, nil
}

// defaultNetwork prefers the network that ESXi makes when it is installed.
func (d *driver) defaultNetwork(ctx context.Context, c *compute) (hypervisor.NetworkID, error) {
	if c != nil && len(c.networks) > 0 {
		list, err := d.some(ctx, c.networks, []string{"name"})
		if err != nil {
			return "", err
		}
		slices.SortFunc(list, func(a, b types.ObjectContent) int {
			rank := func(o types.ObjectContent) int {
				switch name := props(o).str("name"); {
				case name == "VM Network":
					return 0
				case o.Obj.Type == "Network":
					return 1
				case strings.Contains(strings.ToLower(name), "uplink"):
					return 3
				}
				return 2
			}
			return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Obj.Value, b.Obj.Value))
		})
		if len(list) > 0 {
			return hypervisor.NetworkID(list[0].Obj.Value), nil
		}
	}
	return "", hypervisor.Errorf(hypervisor.ErrExhausted, hypervisor.Ref{Kind: hypervisor.ObjectNetwork}, "the host has no network: name one")
}

// newNIC makes an adapter, which is vmxnet3 unless a model is given.
func (d *driver) newNIC(ctx context.Context, n hypervisor.NICSpec, c *compute) (types.BaseVirtualDevice, error) {
	if n.Network == "" {
		id, err := d.defaultNetwork(ctx, c)
		if err != nil {
			return nil, err
		}
		n.Network = id
	}
	back, err := d.netBacking(ctx, n.Network)
	if err != nil {
		return nil, err
	}
	var card types.BaseVirtualEthernetCard
	switch strings.ToLower(n.Model) {
	case "", "vmxnet3":
		card = &types.VirtualVmxnet3{}
	case "e1000e":
		card = &types.VirtualE1000e{}
	case "e1000":
		card = &types.VirtualE1000{}
	default:
		return nil, invalidArgument(hypervisor.Ref{Kind: hypervisor.ObjectNIC}, "model %q: vSphere has vmxnet3, e1000e and e1000", n.Model)
	}
	e := card.GetVirtualEthernetCard()
	e.Backing = back
	e.AddressType = string(types.VirtualEthernetCardMacTypeGenerated)
	if n.MAC != "" {
		e.AddressType, e.MacAddress = string(types.VirtualEthernetCardMacTypeManual), n.MAC
	}
	e.Connectable = &types.VirtualDeviceConnectInfo{StartConnected: true, Connected: true, AllowGuestControl: true}
	return card.(types.BaseVirtualDevice), nil
}

func nicInfo(card types.BaseVirtualEthernetCard) hypervisor.NICInfo {
	e := card.GetVirtualEthernetCard()
	i := hypervisor.NICInfo{ID: hypervisor.NICID(keyID(e.Key)), MAC: strings.ToLower(e.MacAddress)}
	if e.Connectable != nil {
		i.Connected = e.Connectable.Connected || e.Connectable.StartConnected
	}
	switch b := e.Backing.(type) {
	case *types.VirtualEthernetCardNetworkBackingInfo:
		if b.Network != nil {
			i.Network = hypervisor.NetworkID(b.Network.Value)
		}
	case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
		i.Network = hypervisor.NetworkID(b.Port.PortgroupKey)
	case *types.VirtualEthernetCardOpaqueNetworkBackingInfo:
		i.Network = hypervisor.NetworkID(b.OpaqueNetworkId)
	}
	switch card.(type) {
	case *types.VirtualVmxnet3:
		i.Model = "vmxnet3"
	case *types.VirtualE1000e:
		i.Model = "e1000e"
	case *types.VirtualE1000:
		i.Model = "e1000"
	case *types.VirtualSriovEthernetCard:
		i.Model = "sriov"
	}
	return i
}

func nicsOf(list []types.BaseVirtualDevice) (out []hypervisor.NICInfo) {
	for _, dev := range list {
		if card, ok := dev.(types.BaseVirtualEthernetCard); ok {
			out = append(out, nicInfo(card))
		}
	}
	return out
}

// AttachNIC adds an adapter, also to a running machine.
func (d *driver) AttachNIC(ctx context.Context, id hypervisor.VMID, n hypervisor.NICSpec) (hypervisor.DriverTask, error) {
	v, devs, err := d.read(ctx, id)
	if err != nil {
		return nil, err
	}
	var c *compute
	if n.Network == "" {
		list, err := d.computes(ctx)
		if err != nil {
			return nil, err
		}
		for i := range list {
			if slices.Contains(list[i].hosts, hostRef(v.Host)) {
				c = &list[i]
			}
		}
	}
	card, err := d.newNIC(ctx, n, c)
	if err != nil {
		return nil, err
	}
	b := newBuilder(devs.VirtualDevice)
	b.add(card, "")
	return d.reconfigJob(ctx, id, types.VirtualMachineConfigSpec{DeviceChange: b.changes}, func(ctx context.Context) (hypervisor.Ref, error) {
		now, _, err := d.read(ctx, id)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		for _, x := range now.NICs {
			if !slices.ContainsFunc(v.NICs, func(o hypervisor.NICInfo) bool { return o.ID == x.ID }) {
				return x.ID.Ref(), nil
			}
		}
		return hypervisor.Ref{}, hypervisor.Errorf(hypervisor.ErrUnknown, id.Ref(), "the server reports success and no new adapter")
	})
}

func (d *driver) DetachNIC(ctx context.Context, id hypervisor.VMID, nic hypervisor.NICID) (hypervisor.DriverTask, error) {
	_, devs, err := d.read(ctx, id)
	if err != nil {
		return nil, err
	}
	dev := findDevice(devs.VirtualDevice, string(nic))
	if _, ok := dev.(types.BaseVirtualEthernetCard); !ok {
		return nil, notFound(nic.Ref())
	}
	return d.reconfigJob(ctx, id, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
		&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: dev}}}, nil)
}
