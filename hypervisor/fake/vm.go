package fake

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// ListVMs returns a page. The cursor is a machine's number, so machines that
// appear or disappear between pages neither repeat nor hide others.
func (d *Driver) ListVMs(ctx context.Context, q hypervisor.VMQuery) (hypervisor.VMPage, error) {
	name := called(ctx, op.VMList, op.VMFind)
	if q.Templates {
		name = called(ctx, op.TemplateList, op.TemplateFind)
	}
	if err := d.read(ctx, name, hypervisor.Ref{}); err != nil {
		return hypervisor.VMPage{}, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	var after uint64
	if q.Page != "" {
		var err error
		if after, err = strconv.ParseUint(q.Page, 10, 64); err != nil {
			return hypervisor.VMPage{}, hypervisor.Errorf(hypervisor.ErrInvalidArgument, hypervisor.Ref{}, "page token %q was not issued by this backend", q.Page)
		}
	}
	size := b.cfg.PageSize
	if q.PageSize > 0 {
		size = min(size, q.PageSize)
	}
	i, _ := slices.BinarySearchFunc(b.order, after+1, func(m *vm, s uint64) int { return int(int64(m.Seq) - int64(s)) })
	if q.Name != "" && b.names[q.Name] == 0 {
		i = len(b.order)
	}
	p := hypervisor.VMPage{VMs: make([]hypervisor.VMInfo, 0, min(size, len(b.order)-i))}
	var pool slab
	if q.Detail == hypervisor.DetailFull {
		pool.grow(b.order[i:min(i+size, len(b.order))])
	}
	now := b.now()
	for ; i < len(b.order); i++ {
		m := b.order[i]
		if m.Template != q.Templates || q.Name != "" && m.Name != q.Name || q.Host != "" && m.Host != q.Host || q.Token != "" && m.Token != q.Token {
			continue
		}
		if len(p.VMs) == size {
			p.Next = strconv.FormatUint(b.order[i].Seq-1, 10)
			break
		}
		p.VMs = append(p.VMs, hypervisor.VMInfo{})
		v := &p.VMs[len(p.VMs)-1]
		b.brief(m, v, now)
		if q.Detail == hypervisor.DetailFull {
			b.full(m, v, &pool)
		}
	}
	return p, nil
}

// GetVM reads one machine.
func (d *Driver) GetVM(ctx context.Context, id hypervisor.VMID) (hypervisor.VMInfo, error) {
	if err := d.read(ctx, called(ctx, op.VMInfo, op.TemplateInfo), id.Ref()); err != nil {
		return hypervisor.VMInfo{}, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return hypervisor.VMInfo{}, err
	}
	return b.info(m), nil
}

func (b *Backend) info(m *vm) (v hypervisor.VMInfo) {
	b.brief(m, &v, b.now())
	b.full(m, &v, &slab{})
	return v
}

func (b *Backend) brief(m *vm, v *hypervisor.VMInfo, now time.Time) {
	v.ID, v.Name, v.State, v.Template, v.Host, v.CPUs, v.MemoryBytes, v.ReadAt = m.ID, m.Name, m.State, m.Template, m.Host, m.CPUs, m.Mem, now
	for _, h := range b.st.Hosts {
		if h.State == hypervisor.HostDown && h.ID == m.Host && m.active() {
			v.State = hypervisor.StateUnknown
		}
	}
}

// slab provides room for the lists of a page's machines in few allocations.
type slab struct {
	disks []hypervisor.DiskInfo
	nics  []hypervisor.NICInfo
}

func (s *slab) grow(ms []*vm) {
	var d, n int
	for _, m := range ms {
		d, n = d+len(m.Disks), n+len(m.NICs)
	}
	s.disks, s.nics = make([]hypervisor.DiskInfo, 0, d), make([]hypervisor.NICInfo, 0, n)
}

func (b *Backend) full(m *vm, v *hypervisor.VMInfo, s *slab) {
	v.Description, v.Firmware, v.SecureBoot, v.Machine, v.GuestOS = m.Desc, m.Firmware, m.SecureBoot, m.Machine, m.GuestOS
	if m.Boot != nil {
		boot := *m.Boot
		v.Boot = &boot
	}
	v.MaxCPUs, v.MaxMemoryBytes, v.DynamicMemory = m.MaxCPU, m.MaxMem, cloneRange(m.Dynamic)
	v.Snapshots, v.CurrentSnapshot, v.Labels, v.Token = len(m.Snaps), m.Current, cloneLabels(m.Labels), m.Token
	v.Placement = hypervisor.Placement{Host: m.Host, Datastore: m.Datastore, Folder: m.Folder}
	for _, h := range b.st.Hosts {
		if h.ID == m.Host {
			v.Placement.Pool = h.Pool
			break
		}
	}
	v.CreatedAt = m.Created
	at := len(s.disks)
	for i := range m.Disks {
		s.disks = append(s.disks, b.diskInfo(&m.Disks[i]))
	}
	v.Disks = s.disks[at:len(s.disks):len(s.disks)]
	at = len(s.nics)
	s.nics = append(s.nics, m.NICs...)
	v.NICs = s.nics[at:len(s.nics):len(s.nics)]
	for _, a := range m.Devices {
		v.Devices = append(v.Devices, b.attached(a))
	}
	for _, f := range m.Foreign {
		if f.Kind == ForeignDevice {
			v.Devices = append(v.Devices, hypervisor.AttachedDevice{ID: hypervisor.AttachmentID(f.Name), Address: f.Name})
		}
	}
	if m.State == hypervisor.StateRunning && m.Guest.Tools {
		v.Addresses = slices.Clone(m.Guest.Addresses)
	}
	if len(b.holds) > 0 {
		if h := b.holds[vmKey(m.ID)]; h != nil {
			if h.excl != nil {
				v.Tasks = append(v.Tasks, h.excl.id)
			}
			for _, t := range h.shared {
				v.Tasks = append(v.Tasks, t.id)
			}
		}
	}
}

func (b *Backend) diskInfo(d *disk) hypervisor.DiskInfo {
	i := hypervisor.DiskInfo{ID: d.ID, Volume: d.Volume, Bus: d.Bus, ReadOnly: d.ReadOnly, CDROM: d.CDROM, Format: "fake"}
	if d.HostDisk != "" {
		i.Format, i.SizeBytes = "raw", b.st.HostDisks[d.HostDisk].Size
		return i
	}
	if d.image == nil || d.image.ID != d.Volume {
		d.image = b.st.Volumes[d.Volume]
	}
	if v := d.image; v != nil {
		i.Datastore, i.SizeBytes, i.UsedBytes, i.Provisioning, i.Parent = v.Datastore, v.Size, v.Used, v.Prov, v.Parent
	}
	return i
}

// SetLabels replaces all labels.
func (d *Driver) SetLabels(ctx context.Context, id hypervisor.VMID, labels map[string]string) error {
	f, err := d.enter(ctx, called(ctx, op.VMSetLabels, op.TemplateSetLabels), id.Ref(), labels)
	if err != nil {
		return err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return err
	}
	if err := b.require(capability.Labels, m.ref(), m.ref()); err != nil {
		return err
	}
	m.Labels = cloneLabels(labels)
	b.emit(hypervisor.EventVMChanged, m, "labels")
	return f.answer(m.ref())
}
