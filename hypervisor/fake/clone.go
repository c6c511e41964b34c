package fake

import (
	"context"
	"fmt"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

func cloneNeeds(m *vm, r hypervisor.CloneRequest) []capability.Name {
	needs := []capability.Name{capability.CloneFull}
	switch r.Mode {
	case hypervisor.CloneModeLinked:
		needs[0] = capability.CloneLinked
	case hypervisor.CloneModeInstant:
		needs[0] = capability.CloneInstant
	}
	if r.From != "" {
		needs = append(needs, capability.CloneFromSnapshot)
	} else if m.active() && r.Mode != hypervisor.CloneModeInstant {
		needs = append(needs, capability.CloneRunning)
	}
	if r.Customize != nil {
		needs = append(needs, capability.CloneCustomize)
	}
	if len(r.Labels) > 0 {
		needs = append(needs, capability.Labels)
	}
	return needs
}

// Clone copies a machine, a snapshot or a template.
func (d *Driver) Clone(ctx context.Context, src hypervisor.VMID, r hypervisor.CloneRequest) (hypervisor.DriverTask, error) {
	b := d.b
	name := called(ctx, op.VMClone, op.TemplateDeploy)
	f, err := d.enter(ctx, name, src.Ref(), r)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(src)
	if err != nil {
		return nil, err
	}
	if t, ok := d.repeated(r.Token); ok {
		return t, nil
	}
	for _, k := range cloneNeeds(m, r) {
		if err := b.require(k, m.ref(), m.ref()); err != nil {
			return nil, err
		}
	}
	if err := b.free(vmKey(src), true); err != nil {
		return nil, err
	}
	from, disks, ram := m.ref(), m.Disks, m.Guest
	if r.From != "" {
		s, err := m.snap(r.From)
		if err != nil {
			return nil, err
		}
		from, disks = r.From.Ref(), s.Disks
	}
	if r.Mode == hypervisor.CloneModeInstant && !m.active() {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, m.ref(), "the machine is %s: only a running one can be forked", m.State)
	}
	if err := b.nameFree(r.Name, nil); err != nil {
		return nil, err
	}
	if err := b.sizes(m.ref(), r.CPUs, r.MemoryBytes); err != nil {
		return nil, err
	}
	c, err := b.copyOf(m, r)
	if err != nil {
		return nil, err
	}
	w := work{op: name, on: from, result: hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: string(c.ID), Name: c.Name}, token: r.Token, shared: []hypervisor.Ref{vmKey(src)}}
	if r.From != "" && m.inside(r.From) {
		return nil, hypervisor.Unsupported(from, capability.CloneFromSnapshot, hypervisor.ReasonVMSnapshots, "another tool took the snapshot inside the images: revert to it, and clone the machine")
	}
	images, notes, err := b.copyDisks(m, c, disks, r.Mode != hypervisor.CloneModeFull, r.From != "", r.Placement.Datastore != "")
	w.undo = func() {
		for _, v := range images {
			up := v.Parent
			b.removeVolume(v)
			b.pruneBase(up)
		}
	}
	if err != nil {
		w.undo()
		return nil, err
	}
	w.made = func() (out []hypervisor.Ref) {
		for _, v := range images {
			out = append(out, v.ref())
		}
		return out
	}
	w.phases = []string{"linking", "registering"}
	if r.Mode == hypervisor.CloneModeFull {
		w.phases = []string{"copying", "copying", "copying", "registering"}
		for _, v := range images {
			w.bytes += v.Size
		}
	}
	w.notes = append(m.uncloned(), notes...)
	w.finish = func(st *hypervisor.TaskState) error {
		for _, v := range images {
			v.Partial = false
		}
		c.Created = b.now()
		b.register(c)
		if r.Mode == hypervisor.CloneModeInstant {
			if err := b.room(c, c.Host); err != nil {
				st.Leftover = []hypervisor.Ref{c.ref()}
				return fmt.Errorf("the clone was made and can't run: %w", err)
			}
			hn, addr := c.Guest.HostName, c.Guest.Addresses
			c.Guest = ram
			c.Guest.HostName, c.Guest.Addresses = hn, addr
			b.occupy(c.Host, c.Mem)
			b.setState(c, hypervisor.StateRunning)
			return nil
		}
		if !r.Start {
			return nil
		}
		if err := b.start(c); err != nil {
			st.Leftover = []hypervisor.Ref{c.ref()}
			return fmt.Errorf("the clone was made and can't be started: %w", err)
		}
		return nil
	}
	return d.run(f, w)
}

// copyOf makes the machine that a clone will be, without its disks.
func (b *Backend) copyOf(m *vm, r hypervisor.CloneRequest) (*vm, error) {
	p := r.Placement
	if p.Host == "" && p.Pool == "" && p.Datastore == "" {
		if h, err := b.host(m.Host); err == nil && h.usable() == nil {
			p.Host = m.Host
		}
	}
	h, ds, err := b.choose(p, m.ref())
	if err != nil {
		return nil, err
	}
	if p.Datastore == "" {
		if s, err := b.datastore(m.Datastore); err == nil && reaches(s.Hosts, h.ID) {
			ds = m.Datastore
		}
	}
	c := &vm{ID: hypervisor.VMID(b.uuid()), Name: r.Name, Desc: or(r.Description, m.Desc), State: hypervisor.StateOff, Host: h.ID, Datastore: ds, Folder: p.Folder,
		CPUs: or(r.CPUs, m.CPUs), Mem: or(r.MemoryBytes, m.Mem), Dynamic: cloneRange(m.Dynamic), Firmware: m.Firmware, SecureBoot: m.SecureBoot,
		GuestOS: m.GuestOS, Machine: m.Machine, Boot: m.Boot, Labels: cloneLabels(m.Labels), Token: r.Token,
		Guest: guest{Tools: m.Guest.Tools, ShutdownTime: m.Guest.ShutdownTime, Hangs: m.Guest.Hangs, Drift: m.Guest.Drift, HostName: m.Guest.HostName}}
	c.MaxCPU, c.MaxMem = max(c.CPUs, m.MaxCPU), max(c.Mem, m.MaxMem)
	if c.Dynamic != nil && (c.Mem < c.Dynamic.MinBytes || c.Mem > c.Dynamic.MaxBytes) {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, m.ref(), "%d bytes of memory are outside the range %d to %d", c.Mem, c.Dynamic.MinBytes, c.Dynamic.MaxBytes)
	}
	if r.Labels != nil {
		c.Labels = cloneLabels(r.Labels)
	}
	for _, f := range m.Foreign {
		if f.Kind == ForeignSetting {
			c.Foreign = append(c.Foreign, f)
		}
	}
	for _, n := range m.NICs {
		i, err := b.newNIC(c, hypervisor.NICSpec{Network: n.Network, Model: n.Model})
		if err != nil {
			return nil, err
		}
		c.NICs = append(c.NICs, i)
	}
	if x := r.Customize; x != nil {
		if err := fitsGuest(m, *x); err != nil {
			return nil, err
		}
		c.Guest.Told = x
		c.Guest.HostName = or(x.HostName, c.Guest.HostName)
		for i, a := range x.Addresses {
			if a.IsValid() && i < len(c.Guest.Addresses) {
				c.Guest.Addresses[i] = a.Addr()
			}
		}
	}
	return c, nil
}

// copyDisks gives the clone its disks: copies, or overlays on bases that are
// frozen from now on.
func (b *Backend) copyDisks(m, c *vm, disks []disk, linked, frozen, moved bool) (images []*volume, notes []string, err error) {
	for i, dk := range disks {
		if dk.HostDisk != "" {
			notes = append(notes, dk.what()+" is not cloned")
			continue
		}
		if dk.Shared && linked {
			return images, nil, hypervisor.Unsupported(dk.ID.Ref(), capability.CloneLinked, hypervisor.ReasonConfig, dk.what()+" can't be frozen: take a full clone, or detach it")
		}
		v := b.st.Volumes[dk.Volume]
		n := dk
		n.Shared = false
		n.ID = hypervisor.DiskID(b.number("disk"))
		if dk.ReadOnly { // an ISO image is shared
			if err := b.fits(v.Datastore, c.Host, 0, v.Prov); err != nil {
				return images, nil, err
			}
			c.Disks = append(c.Disks, n)
			continue
		}
		ds := v.Datastore
		if s, err := b.datastore(ds); moved || err == nil && !reaches(s.Hosts, c.Host) {
			ds = c.Datastore
		}
		if !linked {
			if err := b.fits(ds, c.Host, v.Size, v.Prov); err != nil {
				return images, nil, err
			}
			data := b.content(v.ID)
			x := b.addVolume(&volume{Name: diskName(c, n.ID), Datastore: ds, Size: v.Size, Prov: v.Prov, Owner: c.ID, Partial: true, Data: &data})
			n.Volume = x.ID
			images, c.Disks = append(images, x), append(c.Disks, n)
			continue
		}
		if err := b.fits(v.Datastore, c.Host, 0, hypervisor.ProvisioningThin); err != nil {
			return images, nil, fmt.Errorf("a linked clone must reach its base: %w", err)
		}
		if err := b.fits(ds, c.Host, 0, hypervisor.ProvisioningThin); err != nil {
			return images, nil, err
		}
		if !frozen && !m.Template {
			// The source continues in an overlay of its own.
			if b.untouched(v) {
				v = b.st.Volumes[v.Parent]
			} else {
				m.Disks[i].Volume = b.overlay(v, m.ID, v.Name, v.Datastore).ID
			}
		}
		x := b.overlay(v, c.ID, diskName(c, n.ID), ds)
		x.Partial = true
		n.Volume = x.ID
		images, c.Disks = append(images, x), append(c.Disks, n)
	}
	return images, notes, nil
}

// untouched reports whether nothing was written to an overlay, so that its
// base can serve instead.
func (b *Backend) untouched(v *volume) bool {
	p := b.st.Volumes[v.Parent]
	return p != nil && v.Data == nil && v.Size == p.Size
}

// fitsGuest requires the settings that the guest's system needs.
func fitsGuest(m *vm, c hypervisor.Customization) error {
	switch windows := strings.HasPrefix(m.GuestOS, "win"); {
	case windows && c.Windows == nil:
		return hypervisor.Errorf(hypervisor.ErrInvalidArgument, m.ref(), "Customize.Windows is not set: a Windows guest needs it")
	case !windows && c.Windows != nil:
		return hypervisor.Errorf(hypervisor.ErrInvalidArgument, m.ref(), "Customize.Windows is set, and GuestOS is %q", m.GuestOS)
	case len(c.Addresses) > len(m.NICs):
		return hypervisor.Errorf(hypervisor.ErrInvalidArgument, m.ref(), "Customize.Addresses has %d addresses, the machine %d adapters", len(c.Addresses), len(m.NICs))
	}
	return nil
}
