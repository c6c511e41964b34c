package hyperv

import (
	"context"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// AttachNIC implements hypervisor.NICAttacher. Generation 2 accepts adapters
// while the machine runs, generation 1 does not.
func (d *driver) AttachNIC(ctx context.Context, id hypervisor.VMID, n hypervisor.NICSpec) (hypervisor.DriverTask, error) {
	m, err := d.changeable(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := m.hotNIC(); err != nil {
		return nil, err
	}
	if err := m.h.checkNIC(ctx, m.s, n, m.gen2(), id.Ref()); err != nil {
		return nil, err
	}
	return m.start(ctx, "attach adapter", "", func(o *op) (hypervisor.Ref, error) {
		nic, err := o.attachNIC(m, n)
		return nic.Ref(), err
	})
}

func (m *machine) hotNIC() error {
	if m.state != hypervisor.StateOff && !m.gen2() {
		return hypervisor.Unsupported(m.id.Ref(), capability.NICHotplug, hypervisor.ReasonPlatform, "adapters of generation 1 machines change only while the machine is off")
	}
	return nil
}

// attachNIC adds an adapter and connects it.
func (o *op) attachNIC(m *machine, n hypervisor.NICSpec) (hypervisor.NICID, error) {
	sw, err := o.h.network(o.ctx, o.s, n.Network)
	if err != nil {
		return "", err
	}
	class, sub := "Msvm_SyntheticEthernetPortSettingData", subNIC
	if strings.EqualFold(n.Model, "legacy") {
		class, sub = "Msvm_EmulatedEthernetPortSettingData", subLegacyNIC
	}
	e := cim.NewEmbedded(class, "ResourceType", typeNIC, "ResourceSubType", sub, "ElementName", "Network Adapter")
	tobe := hypervisor.Ref{Kind: hypervisor.ObjectNIC, Name: "Network Adapter"}
	var but []*cim.Instance
	if sub == subNIC {
		// The client may choose the identifier, as Windows' own tools do.
		tobe.Name = "{" + newGUID() + "}"
		e.Set("VirtualSystemIdentifiers", []string{tobe.Name})
	} else if but, err = cim.Collect(o.s.Query(o.ctx, cim.Virtualization, cim.Select(class, []string{"InstanceID"}, only(m.id)(rowLegacyNICs)...))); err != nil {
		return "", err
	}
	if n.MAC != "" {
		e.Set("StaticMacAddress", true).Set("Address", bareMAC(n.MAC))
	}
	nic, err := o.addResource(m, tobe, e, but...)
	if err != nil {
		return "", err
	}
	id := hypervisor.NICID(nic.Key("InstanceID"))
	if sw.IsZero() {
		return id, nil
	}
	o.onFailureOf(m, id.Ref(), nic)
	conn, err := o.addResource(m, id.Ref(), connection(nic, sw))
	if err == nil && strings.EqualFold(n.Model, modelSRIOV) {
		err = o.enableSRIOV(m, conn)
	}
	return id, err
}

// modelSRIOV requests a virtual function of the switch's physical card. The
// guest falls back to the synthetic adapter.
const modelSRIOV = "sr-iov"

// enableSRIOV gives a connection an offload weight above zero, which turns
// SR-IOV on (Msvm_EthernetSwitchPortOffloadSettingData).
func (o *op) enableSRIOV(m *machine, conn cim.Ref) error {
	look := m.done(func(ctx context.Context) (bool, error) {
		rows, err := cim.Collect(o.s.Query(ctx, cim.Virtualization, cim.Select(tables[rowOffload].class, offloadProps, "InstanceID LIKE "+cim.LikePrefix(conn.Key("InstanceID")))))
		return slices.ContainsFunc(rows, func(r *cim.Instance) bool { return r.Uint("IOVOffloadWeight") > 0 }), err
	})
	e := cim.NewEmbedded("Msvm_EthernetSwitchPortOffloadSettingData", "IOVOffloadWeight", uint32(100), "VMQOffloadWeight", uint32(100))
	_, err := o.call(once(look), o.h.management(), "AddFeatureSettings", cim.Arg{Name: "AffectedConfiguration", Value: conn},
		cim.Arg{Name: "FeatureSettings", Value: []*cim.Embedded{e}})
	return err
}

// checkNIC refuses an adapter that the machine or the switch can't have.
func (h *host) checkNIC(ctx context.Context, s cim.Session, n hypervisor.NICSpec, gen2 bool, on hypervisor.Ref) error {
	sw, err := h.network(ctx, s, n.Network)
	if err != nil {
		return err
	}
	switch strings.ToLower(n.Model) {
	case "", "synthetic":
		return nil
	case "legacy":
		if gen2 {
			return hypervisor.Unsupported(on, capability.NICAttach, hypervisor.ReasonPlatform, "generation 2 machines have no legacy adapters")
		}
		return nil
	case modelSRIOV:
	default:
		return hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "Hyper-V has no adapter %q: use synthetic, sr-iov or legacy", n.Model)
	}
	set, err := cim.First(s.Query(ctx, cim.Virtualization, cim.Select("Msvm_VirtualEthernetSwitchSettingData", []string{"VirtualSystemIdentifier", "IOVPreferred"},
		"VirtualSystemIdentifier = "+cim.Quote(sw.Key("Name")))), "the switch's settings")
	if err != nil && !isGone(err) {
		return err
	}
	if set == nil || !set.Bool("IOVPreferred") {
		return hypervisor.Unsupported(on, capability.NICAttach, hypervisor.ReasonConfig, "SR-IOV is off on the switch, or its card has none; it is set when the switch is made")
	}
	return nil
}

func connection(nic, sw cim.Ref) *cim.Embedded {
	return cim.NewEmbedded("Msvm_EthernetPortAllocationSettingData",
		"ResourceType", typeConnection, "ResourceSubType", subConnection, "Parent", nic, "HostResource", []cim.Ref{sw}, "EnabledState", uint16(2))
}

func bareMAC(s string) string {
	return strings.ToUpper(strings.NewReplacer(":", "", "-", "", ".", "").Replace(s))
}

// network finds a switch of the host by the network's ID, or the host's only
// or first switch if none is named. On a host without switches the adapter
// stays unconnected.
func (h *host) network(ctx context.Context, s cim.Session, id hypervisor.NetworkID) (cim.Ref, error) {
	all, err := switches(ctx, s)
	if err != nil {
		return cim.Ref{}, err
	}
	for _, sw := range all {
		if id == "" || strings.EqualFold(sw.Str("Name"), string(id)) || sw.Str("ElementName") == string(id) {
			r := cim.NewRef("Msvm_VirtualEthernetSwitch", "CreationClassName", "Msvm_VirtualEthernetSwitch", "Name", sw.Str("Name"))
			r.Server = h.name
			return r, nil
		}
	}
	if id == "" {
		return cim.Ref{}, nil
	}
	return cim.Ref{}, hypervisor.Errorf(hypervisor.ErrNotFound, hypervisor.Ref{Kind: hypervisor.ObjectNetwork, ID: string(id)}, "host %s has no such switch", h.id)
}

func switches(ctx context.Context, s cim.Session) ([]*cim.Instance, error) {
	return cim.Collect(s.Query(ctx, cim.Virtualization, cim.Select("Msvm_VirtualEthernetSwitch", []string{"Name", "ElementName", "MaxIOVOffloads"})))
}

// DetachNIC implements hypervisor.NICAttacher.
func (d *driver) DetachNIC(ctx context.Context, id hypervisor.VMID, nic hypervisor.NICID) (hypervisor.DriverTask, error) {
	m, err := d.changeable(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := m.hotNIC(); err != nil {
		return nil, err
	}
	r, _, err := m.resources(ctx)
	if err != nil {
		return nil, err
	}
	for _, t := range []int{rowNICs, rowLegacyNICs} {
		for _, x := range r.rows[t] {
			if strings.EqualFold(x.Str("InstanceID"), string(nic)) {
				ref := m.h.settingRef(tables[t].class, x.Str("InstanceID"))
				return m.native(ctx, "detach adapter", m.request(m.done(absent(m.s, ref)), m.h.management(), "RemoveResourceSettings", cim.Arg{Name: "ResourceSettings", Value: []cim.Ref{ref}}), nil)
			}
		}
	}
	return nil, hypervisor.Errorf(hypervisor.ErrNotFound, nic.Ref(), "machine %s has no such adapter", id)
}

// Networks implements hypervisor.NetworkLister. It lists the virtual
// switches.
func (d *driver) Networks(ctx context.Context) ([]hypervisor.NetworkInfo, error) {
	parts := make([][]hypervisor.NetworkInfo, len(d.hosts))
	err := d.each(ctx, d.hosts, func(ctx context.Context, i int, h *host, s cim.Session) error {
		all, err := switches(ctx, s)
		if err != nil {
			return err
		}
		sets, err := cim.Collect(s.Query(ctx, cim.Virtualization, cim.Select("Msvm_VirtualEthernetSwitchSettingData", []string{"VirtualSystemIdentifier", "IOVPreferred"})))
		if err != nil {
			return err
		}
		iov := map[string]bool{}
		for _, x := range sets {
			iov[strings.ToUpper(x.Str("VirtualSystemIdentifier"))] = x.Bool("IOVPreferred")
		}
		for _, sw := range all {
			id := strings.ToUpper(sw.Str("Name"))
			parts[i] = append(parts[i], hypervisor.NetworkInfo{ID: hypervisor.NetworkID(id), Name: sw.Str("ElementName"), Type: "virtual switch",
				Hosts: []hypervisor.HostID{h.id}, SRIOV: hypervisor.FactOf(iov[id] && sw.Uint("MaxIOVOffloads") > 0)})
		}
		return nil
	})
	var out []hypervisor.NetworkInfo
	for _, p := range parts {
		out = append(out, p...)
	}
	return out, err
}
