//go:build cgo

package libxl

import (
	"context"
	"slices"
	"sync"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// ListVMs implements hypervisor.Driver. It takes three requests for each
// host, in parallel, and one for each domain: libvirt's Xen driver has no
// bulk statistics, and the number of CPUs is only in the definition. Full
// adds the storage pools and a look-up of each disk's image.
func (d *driver) ListVMs(ctx context.Context, q hypervisor.VMQuery) (hypervisor.VMPage, error) {
	return d.List(ctx, q, d.list)
}

// list reads the machines of one host.
func (d *driver) list(ctx context.Context, h *fleet.Host, q hypervisor.VMQuery) ([]hypervisor.VMInfo, error) {
	if _, err := h.Identify(ctx); err != nil {
		return nil, err
	}
	if q.Name == "" && q.Token == "" {
		return libvirtx.Do(ctx, h.Conn, 3, func(c *libvirt.Connect) ([]hypervisor.VMInfo, error) { return d.listAll(ctx, h, c, q) })
	}
	return libvirtx.Do(ctx, h.Conn, 1, func(c *libvirt.Connect) ([]hypervisor.VMInfo, error) {
		var dom *libvirt.Domain
		var err error
		if q.Token != "" {
			dom, err = c.LookupDomainByUUIDString(libvirtx.TokenUUID(q.Token))
		} else {
			dom, err = c.LookupDomainByName(q.Name)
		}
		if libvirtx.NotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		defer dom.Free()
		v, err := d.read(ctx, h, c, dom)
		if d := libvirtx.KindOf(err); d == hypervisor.ErrNotFound ||
			err == nil && (v.Template != q.Templates || q.Name != "" && v.Name != q.Name || q.Token != "" && v.Token != q.Token) {
			return nil, nil
		}
		return []hypervisor.VMInfo{v}, err
	})
}

func (d *driver) listAll(ctx context.Context, h *fleet.Host, c *libvirt.Connect, q hypervisor.VMQuery) ([]hypervisor.VMInfo, error) {
	in := inventory{host: h.ID(), at: time.Now(), full: q.Detail == hypervisor.DetailFull}
	var all []libvirt.Domain
	var paused, saved map[string]bool
	var wg sync.WaitGroup
	errs := make([]error, 4)
	wg.Go(func() { all, errs[0] = c.ListAllDomains(0) })
	wg.Go(func() { paused, errs[1] = libvirtx.Filter(c, libvirt.CONNECT_LIST_DOMAINS_PAUSED) })
	wg.Go(func() { saved, errs[2] = libvirtx.Filter(c, libvirt.CONNECT_LIST_DOMAINS_MANAGEDSAVE) })
	if in.full {
		wg.Go(func() { in.pools, errs[3] = libvirtx.Pools(c) })
	}
	wg.Wait()
	defer func() {
		for i := range all {
			_ = all[i].Free() // a local reference
		}
	}()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	hypervisor.CountCalls(ctx, len(all)+2*len(in.pools))
	out := make([]hypervisor.VMInfo, len(all))
	err := libvirtx.Each(len(all), func(i int) error {
		uuid, err := all[i].GetUUIDString() // this, the name and the ID are local
		if err != nil {
			return err
		}
		if name, err := all[i].GetName(); err != nil || !libvirtx.IsMachine(uuid, name) {
			return err
		}
		state := hypervisor.StateOff
		if _, err := all[i].GetID(); err == nil {
			state = hypervisor.StateRunning
			if paused[uuid] {
				state = hypervisor.StatePaused
			}
		} else if saved[uuid] {
			state = hypervisor.StateSuspended
		}
		x, mark, err := libvirtx.Parse(&all[i], 0)
		if libvirtx.NotFound(err) || err == nil && mark.Role != "" {
			return nil
		}
		if err != nil {
			return err
		}
		out[i] = in.machine(ctx, c, x, mark, state)
		return nil
	})
	if err != nil {
		return nil, err
	}
	keep := out[:0]
	for i := range out {
		if out[i].ID != "" && out[i].Template == q.Templates {
			keep = append(keep, out[i])
		}
	}
	return keep, nil
}

// GetVM implements hypervisor.Driver.
func (d *driver) GetVM(ctx context.Context, id hypervisor.VMID) (hypervisor.VMInfo, error) {
	h, err := d.Locate(ctx, id)
	if err != nil {
		return hypervisor.VMInfo{}, err
	}
	if _, err := h.Identify(ctx); err != nil {
		return hypervisor.VMInfo{}, err
	}
	return fleet.OnHost(ctx, h, id, 0, func(h *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (hypervisor.VMInfo, error) {
		return d.read(ctx, h, c, dom)
	})
}

// read reads one machine in full, with its running job.
func (d *driver) read(ctx context.Context, h *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (hypervisor.VMInfo, error) {
	s, err := libvirtx.State(dom)
	if err != nil {
		return hypervisor.VMInfo{}, err
	}
	x, mark, err := libvirtx.Parse(dom, 0)
	if err != nil {
		return hypervisor.VMInfo{}, err
	}
	if mark.Role != "" || !libvirtx.IsMachine(x.UUID, x.Name) {
		return hypervisor.VMInfo{}, hypervisor.Errorf(hypervisor.ErrNotFound, hypervisor.VMID(x.UUID).Ref(), "this domain is no machine")
	}
	in := inventory{host: h.ID(), at: time.Now(), full: true}
	if in.pools, err = libvirtx.Pools(c); err != nil {
		return hypervisor.VMInfo{}, err
	}
	hypervisor.CountCalls(ctx, 5+2*len(in.pools))
	v := in.machine(ctx, c, x, mark, s)
	for i := range v.Devices {
		a := &v.Devices[i]
		if dev, err := libvirtx.FindPCI(c, a.Address); err == nil { // if it is gone from the host, the address is used
			a.Vendor, a.Product = dev.Vendor, dev.Product
		}
	}
	if t, ok := d.JobTask(dom, x.UUID); ok {
		v.Tasks = append(v.Tasks, t)
	}
	return v, nil
}

// inventory is what a listing knows besides the domains.
type inventory struct {
	host  hypervisor.HostID
	at    time.Time
	full  bool
	pools []libvirtx.Pool
}

// machine describes a domain by its definition.
func (in *inventory) machine(ctx context.Context, c *libvirt.Connect, x *libvirtxml.Domain, mark libvirtx.Mark, s hypervisor.PowerState) hypervisor.VMInfo {
	v := hypervisor.VMInfo{ID: hypervisor.VMID(x.UUID), Name: x.Name, Host: in.host, ReadAt: in.at, State: s,
		CPUs: cpus(x), MemoryBytes: libvirtx.CurrentKiB(x) << 10, MaxMemoryBytes: libvirtx.MemoryKiB(x) << 10}
	if fleet.IsTemplate(x, mark) {
		v.Template, v.MemoryBytes, v.MaxMemoryBytes = true, int64(mark.Template.CurrentKiB)<<10, int64(mark.Template.MemoryKiB)<<10
	}
	if !in.full {
		v.MaxMemoryBytes = 0
		return v
	}
	v.Description, v.GuestOS, v.Token, v.Labels, v.CreatedAt = x.Description, mark.GuestOS, mark.Token, mark.LabelMap(), mark.CreatedAt()
	v.Placement.Host, v.Machine = in.host, kindOfMachine(x)
	if v.Machine == hvm {
		v.Firmware = hypervisor.FirmwareBIOS
		if x.OS.Firmware == "efi" || x.OS.Loader != nil && x.OS.Loader.Type == "pflash" {
			v.Firmware = hypervisor.FirmwareUEFI
		}
	}
	if x.OS != nil {
		v.Boot = libvirtx.DirectBoot(x.OS)
	}
	if x.VCPU != nil {
		v.MaxCPUs = int(x.VCPU.Value)
	}
	if mark.MinKiB > 0 {
		v.DynamicMemory = &hypervisor.MemoryRange{MinBytes: int64(mark.MinKiB) << 10, MaxBytes: v.MaxMemoryBytes}
	}
	for i := range x.Devices.Disks {
		v.Disks = append(v.Disks, in.disk(ctx, c, &x.Devices.Disks[i]))
	}
	if i := slices.IndexFunc(v.Disks, func(d hypervisor.DiskInfo) bool { return !d.CDROM }); i >= 0 {
		v.Placement.Datastore = v.Disks[i].Datastore
	}
	for i := range x.Devices.Interfaces {
		if n := &x.Devices.Interfaces[i]; !fleet.IsGuard(n) {
			v.NICs = append(v.NICs, fleet.NICInfo(n))
		}
	}
	v.Devices = attached(in.host, x)
	return v
}

// cpus returns the number of CPUs in a definition or of a running domain.
func cpus(x *libvirtxml.Domain) int {
	switch {
	case x.VCPU == nil:
		return 1
	case x.VCPU.Current > 0:
		return int(x.VCPU.Current)
	}
	return int(x.VCPU.Value)
}

// disk describes one disk, with what its storage pool knows about the image.
func (in *inventory) disk(ctx context.Context, c *libvirt.Connect, k *libvirtxml.DomainDisk) hypervisor.DiskInfo {
	i := hypervisor.DiskInfo{CDROM: k.Device == "cdrom", ReadOnly: k.ReadOnly != nil, Provisioning: hypervisor.ProvisioningThin}
	if k.Target != nil {
		i.ID, i.Bus = hypervisor.DiskID(k.Target.Dev), k.Target.Bus
	}
	if k.Driver != nil {
		i.Format = k.Driver.Type
	}
	p := libvirtx.DiskPath(k)
	if p == "" {
		return i
	}
	i.Volume = libvirtx.ImageID(in.pools, in.host, p)
	if pool, ok := libvirtx.PoolOf(in.pools, p); ok {
		i.Datastore = hypervisor.DatastoreID(pool.UUID)
	}
	hypervisor.CountCalls(ctx, 3)
	vol, err := libvirtx.FindImage(c, in.pools, p)
	if err != nil {
		return i // in no pool, or gone: the definition has to do
	}
	i.SizeBytes, i.UsedBytes = vol.Capacity, vol.Allocation
	if vol.Backing != "" {
		i.Parent = libvirtx.ImageID(in.pools, in.host, vol.Backing)
	}
	if i.UsedBytes >= i.SizeBytes && i.SizeBytes > 0 {
		i.Provisioning = hypervisor.ProvisioningThick
	}
	return i
}
