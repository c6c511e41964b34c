package vsphere

import (
	"context"
	"slices"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// planCross completes a move to another vCenter. The source logs in there by
// itself, so this driver must know a user and password for it.
func (d *driver) planCross(ctx context.Context, m *move, r hypervisor.MigrateRequest) error {
	to, ok := r.To.(*driver)
	if !ok {
		return invalidArgument(m.v.ID.Ref(), "the destination is no vSphere of this program's driver")
	}
	on := m.v.ID.Ref()
	if !to.isVC() {
		return hypervisor.Unsupported(on, capability.MigrateCross, hypervisor.ReasonPlatform, needsVC)
	}
	if to.config.Username == "" || to.config.Password == "" {
		return hypervisor.Unsupported(on, capability.MigrateCross, hypervisor.ReasonConfig,
			"the source vCenter logs in to the other one by itself: open that Client with user and password")
	}
	if d.connection() < to.connection() {
		return hypervisor.Unsupported(on, capability.MigrateCross, hypervisor.ReasonConfig,
			"the other vCenter's password would go over a connection to the source vCenter that is plain or not verified: open this Client with the server's authority (CA) or thumbprint")
	}
	m.to = to
	m.report.Method += " to another vCenter"
	w, err := to.world(ctx)
	if err != nil {
		return err
	}
	if _, ok := w.hosts[hostRef(r.Host)]; !ok {
		return notFound(r.Host.Ref())
	}
	spot, err := to.settle(ctx, hypervisor.Placement{Host: r.Host, Datastore: r.Storage, Pool: r.Pool})
	if err != nil {
		return err
	}
	p, err := d.one(ctx, vmRef(m.v.ID), "config.instanceUuid")
	if err != nil {
		return err
	}
	m.uuid = p.str("config.instanceUuid")
	host := hostRef(r.Host)
	m.spec.Host, m.spec.Pool, m.spec.Datastore, m.spec.Folder = &host, &spot.pool, &spot.store, &spot.folder
	u := to.vc.URL()
	u.User = nil
	thumb, err := to.thumbprint(ctx)
	if err != nil {
		return err
	}
	m.spec.Service = &types.ServiceLocator{InstanceUuid: to.vc.ServiceContent.About.InstanceUuid, Url: u.String(), SslThumbprint: thumb,
		Credential: &types.ServiceLocatorNamePassword{Username: to.config.Username, Password: string(to.config.Password)}}
	// The adapters are connected to networks of the same names.
	nets, err := to.Networks(ctx)
	if err != nil {
		return err
	}
	mine, err := d.Networks(ctx)
	if err != nil {
		return err
	}
	for _, dev := range m.devs {
		card, ok := dev.(types.BaseVirtualEthernetCard)
		if !ok {
			continue
		}
		info := nicInfo(card)
		name := ""
		for _, n := range mine {
			if n.ID == info.Network {
				name = n.Name
			}
		}
		i := slices.IndexFunc(nets, func(n hypervisor.NetworkInfo) bool {
			return n.Name == name && (len(n.Hosts) == 0 || slices.Contains(n.Hosts, r.Host))
		})
		if i < 0 {
			m.block(hypervisor.ReasonNetworkMissing, hypervisor.Ref{Kind: hypervisor.ObjectNetwork, ID: string(info.Network), Name: name},
				"the other vCenter's host has no network named %q for adapter %s", name, info.ID)
			continue
		}
		back, err := to.netBacking(ctx, nets[i].ID)
		if err != nil {
			return err
		}
		card.GetVirtualEthernetCard().Backing = back
		m.spec.DeviceChange = append(m.spec.DeviceChange, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: dev})
	}
	if !m.report.OK() {
		return nil
	}
	return d.serverCheck(ctx, m)
}

func (m *move) instance() string { return m.uuid }

// findInstance finds a machine by its instance UUID, which a move to another
// vCenter keeps.
func (d *driver) findInstance(ctx context.Context, uuid string) (hypervisor.VMID, error) {
	find := func() (*types.FindByUuidResponse, error) {
		return methods.FindByUuid(ctx, d.rt, &types.FindByUuid{This: *d.vc.ServiceContent.SearchIndex, Uuid: uuid, VmSearch: true, InstanceUuid: types.NewBool(true)})
	}
	res, err := find()
	if kindOf(err) == hypervisor.ErrUnavailable { // it only reads, and the move is done
		res, err = find()
	}
	if err != nil {
		return "", err
	}
	if res.Returnval == nil {
		return "", notFound(hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: uuid})
	}
	return hypervisor.VMID(res.Returnval.Value), nil
}
