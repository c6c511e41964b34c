//go:build cgo

package kvm

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

// ListVMs implements hypervisor.Driver. Brief takes two requests for each
// host (statistics of all domains, and which have a saved state), in
// parallel, and one for each template. Full adds two, for the storage pools,
// and one for each domain: libvirt has no request for all definitions.
func (d *driver) ListVMs(ctx context.Context, q hypervisor.VMQuery) (hypervisor.VMPage, error) {
	return d.List(ctx, q, d.list)
}

// list reads the machines of one host.
func (d *driver) list(ctx context.Context, h *fleet.Host, q hypervisor.VMQuery) ([]hypervisor.VMInfo, error) {
	f, err := h.Identify(ctx)
	if err != nil {
		return nil, err
	}
	only := ""
	if q.Token != "" {
		only = libvirtx.TokenUUID(q.Token)
	}
	if q.Name != "" || only != "" {
		return libvirtx.Do(ctx, h.Conn, 2, func(c *libvirt.Connect) ([]hypervisor.VMInfo, error) {
			id := only
			if id == "" {
				dom, err := c.LookupDomainByName(q.Name)
				if libvirtx.NotFound(err) {
					return nil, nil
				}
				if err != nil {
					return nil, err
				}
				id, err = dom.GetUUIDString()
				_ = dom.Free() // a local reference
				if err != nil {
					return nil, err
				}
			}
			v, err := d.read(ctx, h, c, f, id)
			if libvirtx.NotFound(err) || err == nil && (v.Template != q.Templates || q.Name != "" && v.Name != q.Name || q.Token != "" && v.Token != q.Token) {
				return nil, nil
			}
			return []hypervisor.VMInfo{v}, err
		})
	}
	return libvirtx.Do(ctx, h.Conn, 2, func(c *libvirt.Connect) ([]hypervisor.VMInfo, error) {
		return d.listAll(ctx, h, c, f, q)
	})
}

func (d *driver) listAll(ctx context.Context, h *fleet.Host, c *libvirt.Connect, f *libvirtx.Facts, q hypervisor.VMQuery) ([]hypervisor.VMInfo, error) {
	full := q.Detail == hypervisor.DetailFull
	in := inventory{host: h.ID(), at: time.Now()}
	var wg sync.WaitGroup
	var savedErr, poolErr, snapErr error
	wg.Go(func() { in.saved, savedErr = libvirtx.Filter(c, libvirt.CONNECT_LIST_DOMAINS_MANAGEDSAVE) })
	if full {
		hypervisor.CountCalls(ctx, 2)
		wg.Go(func() { in.snapshots, snapErr = libvirtx.Filter(c, libvirt.CONNECT_LIST_DOMAINS_HAS_SNAPSHOT) })
		wg.Go(func() { in.pools, poolErr = libvirtx.Pools(c) })
	}
	stats, err := libvirtx.Stats(c, "", full)
	wg.Wait()
	for _, e := range []error{err, savedErr, snapErr, poolErr} {
		if e != nil {
			return nil, e
		}
	}
	hypervisor.CountCalls(ctx, len(in.pools))
	out := make([]hypervisor.VMInfo, len(stats))
	var need []int
	for i, s := range stats {
		out[i] = in.brief(s)
		// A domain of 1 KiB may be a template. One without CPUs is from a
		// libvirt driver (test:///) whose statistics don't report them.
		if full || s.MaxKiB == fleet.TemplateKiB || s.CPUs == 0 {
			need = append(need, i)
		}
	}
	doms := map[string]*libvirt.Domain{}
	if len(need) > 0 {
		hypervisor.CountCalls(ctx, 1+len(need))
		all, err := c.ListAllDomains(0) // in one request, instead of a look-up for each
		if err != nil {
			return nil, err
		}
		for i := range all {
			defer all[i].Free()
			if id, err := all[i].GetUUIDString(); err == nil { // local
				doms[id] = &all[i]
			}
		}
	}
	gone := make([]bool, len(stats))
	err = libvirtx.Each(len(need), func(n int) error {
		i := need[n]
		dom := doms[stats[i].UUID]
		if dom == nil { // it vanished between the two requests
			gone[i] = true
			return nil
		}
		x, mark, err := libvirtx.Parse(dom, 0)
		if libvirtx.NotFound(err) || err == nil && mark.Role != "" {
			gone[i] = true
			return nil
		}
		if err != nil {
			return err
		}
		if full {
			return in.fill(c, &out[i], stats[i], x, mark)
		}
		sizes(&out[i], x, mark)
		return nil
	})
	if err != nil {
		return nil, err
	}
	keep := out[:0]
	for i := range out {
		if !gone[i] && out[i].Template == q.Templates && libvirtx.IsMachine(string(out[i].ID), out[i].Name) {
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
	return d.get(ctx, h, id)
}

func (d *driver) get(ctx context.Context, h *fleet.Host, id hypervisor.VMID) (hypervisor.VMInfo, error) {
	f, err := h.Identify(ctx)
	if err != nil {
		return hypervisor.VMInfo{}, err
	}
	return libvirtx.Do(ctx, h.Conn, 2, func(c *libvirt.Connect) (hypervisor.VMInfo, error) {
		return d.read(ctx, h, c, f, string(id))
	})
}

// read reads one machine in full, including what only single requests report:
// the images below its disks, and its running job.
func (d *driver) read(ctx context.Context, h *fleet.Host, c *libvirt.Connect, f *libvirtx.Facts, uuid string) (hypervisor.VMInfo, error) {
	stats, err := libvirtx.Stats(c, uuid, true)
	if err != nil {
		return hypervisor.VMInfo{}, err
	}
	if len(stats) != 1 {
		return hypervisor.VMInfo{}, hypervisor.Errorf(hypervisor.ErrNotFound, hypervisor.VMID(uuid).Ref(), "no such machine")
	}
	dom, err := c.LookupDomainByUUIDString(uuid)
	if err != nil {
		return hypervisor.VMInfo{}, err
	}
	defer dom.Free()
	x, mark, err := libvirtx.Parse(dom, 0)
	if err != nil {
		return hypervisor.VMInfo{}, err
	}
	if mark.Role != "" {
		return hypervisor.VMInfo{}, hypervisor.Errorf(hypervisor.ErrNotFound, hypervisor.VMID(uuid).Ref(), "this domain is a helper of the driver, no machine")
	}
	in := inventory{host: h.ID(), at: time.Now(), saved: map[string]bool{}, snapshots: map[string]bool{uuid: true}}
	// Some versions of test:/// can't be asked for a saved state. There is
	// none then.
	if saved, err := dom.HasManagedSaveImage(0); err == nil && saved {
		in.saved[uuid] = true
	}
	if in.pools, err = libvirtx.Pools(c); err != nil {
		return hypervisor.VMInfo{}, err
	}
	hypervisor.CountCalls(ctx, 7+len(in.pools)+len(x.Devices.Disks))
	v := in.brief(stats[0])
	if err := in.fill(c, &v, stats[0], x, mark); err != nil {
		return v, err
	}
	for i := range v.Disks {
		in.chain(c, x, &v.Disks[i])
	}
	for i := range v.Devices {
		a := &v.Devices[i]
		if dev, err := libvirtx.FindPCI(c, a.Address); err == nil && a.Profile == "" { // if it is gone from the host, the address is used
			a.Vendor, a.Product = dev.Vendor, dev.Product
		}
	}
	if t, ok := d.JobTask(dom, uuid); ok {
		v.Tasks = append(v.Tasks, t)
	}
	return v, nil
}

// inventory is what a listing knows besides the domains.
type inventory struct {
	host             hypervisor.HostID
	at               time.Time
	pools            []libvirtx.Pool
	saved, snapshots map[string]bool
}

// brief makes a VMInfo from statistics.
func (in *inventory) brief(s libvirtx.Stat) hypervisor.VMInfo {
	v := hypervisor.VMInfo{ID: hypervisor.VMID(s.UUID), Name: s.Name, Host: in.host, CPUs: s.CPUs, ReadAt: in.at,
		MemoryBytes: int64(s.KiB) << 10, State: libvirtx.PowerState(libvirt.DomainState(s.State))}
	if v.State == hypervisor.StateOff && in.saved[s.UUID] {
		v.State = hypervisor.StateSuspended
	}
	return v
}

// sizes takes CPUs and memory from a definition where the statistics lack
// them, and restores the sizes that a template had as a machine.
func sizes(v *hypervisor.VMInfo, x *libvirtxml.Domain, mark libvirtx.Mark) {
	if v.CPUs == 0 && x.VCPU != nil {
		if v.CPUs = int(x.VCPU.Current); v.CPUs == 0 {
			v.CPUs = int(x.VCPU.Value)
		}
	}
	if v.MemoryBytes == 0 {
		v.MemoryBytes = libvirtx.CurrentKiB(x) << 10
	}
	if fleet.IsTemplate(x, mark) {
		v.Template = true
		v.MemoryBytes = int64(mark.Template.CurrentKiB) << 10
	}
}

// fill adds what the definition contains.
func (in *inventory) fill(c *libvirt.Connect, v *hypervisor.VMInfo, s libvirtx.Stat, x *libvirtxml.Domain, mark libvirtx.Mark) error {
	sizes(v, x, mark)
	v.Description, v.GuestOS, v.Token, v.Labels, v.CreatedAt = x.Description, mark.GuestOS, mark.Token, mark.LabelMap(), mark.CreatedAt()
	v.Placement.Host = in.host
	if x.OS != nil {
		v.Firmware = hypervisor.FirmwareBIOS
		if isUEFI(x) {
			v.Firmware = hypervisor.FirmwareUEFI
		}
		v.SecureBoot, v.Boot = secureBoot(x.OS), libvirtx.DirectBoot(x.OS)
		if x.OS.Type != nil {
			v.Machine = x.OS.Type.Machine
		}
	}
	if x.VCPU != nil {
		v.MaxCPUs = int(x.VCPU.Value)
	}
	v.MaxMemoryBytes = libvirtx.MemoryKiB(x) << 10
	if mark.Template != nil {
		v.MaxMemoryBytes = int64(mark.Template.MemoryKiB) << 10
	}
	if mark.MinKiB > 0 {
		v.DynamicMemory = &hypervisor.MemoryRange{MinBytes: int64(mark.MinKiB) << 10, MaxBytes: v.MaxMemoryBytes}
	}
	if x.MaximumMemory != nil {
		v.MaxMemoryBytes = libvirtx.ToKiB(uint64(x.MaximumMemory.Value), x.MaximumMemory.Unit) << 10
	}
	for i := range x.Devices.Disks {
		v.Disks = append(v.Disks, in.disk(&x.Devices.Disks[i], s))
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
	if err := nameShares(v.Devices, in.host, func() (map[string]libvirtx.MDev, error) { return libvirtx.MDevs(c) }); err != nil {
		return err
	}
	if !in.snapshots[s.UUID] {
		return nil
	}
	dom, err := c.LookupDomainByUUIDString(s.UUID)
	if err != nil {
		return err
	}
	defer dom.Free()
	if v.Snapshots, err = dom.SnapshotNum(0); err != nil {
		return err
	}
	if v.Snapshots == 0 {
		return nil
	}
	cur, err := dom.SnapshotCurrent(0)
	if libvirtx.NotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer cur.Free()
	name, err := cur.GetName()
	v.CurrentSnapshot = hypervisor.SnapshotID(name)
	return err
}

// disk describes one disk of a definition.
func (in *inventory) disk(k *libvirtxml.DomainDisk, s libvirtx.Stat) hypervisor.DiskInfo {
	i := hypervisor.DiskInfo{CDROM: k.Device == "cdrom", ReadOnly: k.ReadOnly != nil}
	if k.Target != nil {
		i.ID, i.Bus = hypervisor.DiskID(k.Target.Dev), k.Target.Bus
	}
	if k.Driver != nil {
		i.Format = k.Driver.Type
	}
	if p := libvirtx.DiskPath(k); p != "" {
		i.Volume = libvirtx.ImageID(in.pools, in.host, p)
		if pool, ok := libvirtx.PoolOf(in.pools, p); ok {
			i.Datastore = hypervisor.DatastoreID(pool.UUID)
		}
	}
	if st, ok := s.Disks[string(i.ID)]; ok {
		i.SizeBytes, i.UsedBytes = st.Capacity, st.Allocation
	}
	i.Provisioning = hypervisor.ProvisioningThin
	if i.UsedBytes >= i.SizeBytes && i.SizeBytes > 0 {
		i.Provisioning = hypervisor.ProvisioningThick
	}
	return i
}

// chain adds what the storage pool knows about a disk's image.
func (in *inventory) chain(c *libvirt.Connect, x *libvirtxml.Domain, i *hypervisor.DiskInfo) {
	n := slices.IndexFunc(x.Devices.Disks, func(k libvirtxml.DomainDisk) bool { return k.Target != nil && k.Target.Dev == string(i.ID) })
	if n < 0 {
		return
	}
	vol, err := libvirtx.FindImage(c, in.pools, libvirtx.DiskPath(&x.Devices.Disks[n]))
	if err != nil {
		return // in no pool, or gone: the definition has to do
	}
	if i.SizeBytes == 0 {
		i.SizeBytes = vol.Capacity
	}
	i.UsedBytes = vol.Allocation
	if vol.Backing != "" {
		i.Parent = libvirtx.ImageID(in.pools, in.host, vol.Backing)
	}
}
