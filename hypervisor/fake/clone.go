package fake

import (
	"context"
	"fmt"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
)

func cloneNeeds(m *vm, r hypervisor.CloneRequest) []hypervisor.Capability {
	needs := []hypervisor.Capability{hypervisor.CloneFull}
	switch r.Mode {
	case hypervisor.Linked:
		needs[0] = hypervisor.CloneLinked
	case hypervisor.Instant:
		needs[0] = hypervisor.CloneInstant
	}
	if r.From != "" {
		needs = append(needs, hypervisor.CloneFromSnapshot)
	} else if m.active() && r.Mode != hypervisor.Instant {
		needs = append(needs, hypervisor.CloneRunning)
	}
	if r.Customize != nil {
		needs = append(needs, hypervisor.CloneCustomize)
	}
	if len(r.Labels) > 0 {
		needs = append(needs, hypervisor.Labels)
	}
	return needs
}

// Clone copies a machine, a snapshot or a template.
func (d *Driver) Clone(ctx context.Context, src hypervisor.VMID, r hypervisor.CloneRequest) (hypervisor.DriverTask, error) {
	b := d.b
	b.mu.Lock()
	op := "vm.clone"
	if m := b.vms[src]; m != nil && m.Template {
		op = "template.deploy"
	}
	b.mu.Unlock()
	f, err := d.enter(ctx, op, src.Ref(), r)
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
	if r.Mode == hypervisor.Instant && !m.active() {
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, m.ref(), "the machine is %s: only a running one can be forked", m.State)
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
	w := work{op: op, on: from, result: hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: string(c.ID), Name: c.Name}, token: r.Token, shared: []hypervisor.Ref{vmKey(src)}}
	images, err := b.copyDisks(m, c, disks, r.Mode != hypervisor.FullClone, r.From != "", r.Placement.Datastore != "")
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
	if r.Mode == hypervisor.FullClone {
		w.phases = []string{"copying", "copying", "copying", "registering"}
		for _, v := range images {
			w.bytes += v.Size
		}
	}
	if len(m.Devices) > 0 {
		w.notes = []string{"host devices are not cloned"}
	}
	w.finish = func(st *hypervisor.TaskState) error {
		for _, v := range images {
			v.Partial = false
		}
		c.Created = b.now()
		b.register(c)
		if r.Mode == hypervisor.Instant {
			if err := b.room(c, c.Host); err != nil {
				st.Leftover = []hypervisor.Ref{c.ref()}
				return fmt.Errorf("the clone was made and can't run: %w", err)
			}
			hn, addr := c.Guest.HostName, c.Guest.Addresses
			c.Guest = ram
			c.Guest.HostName, c.Guest.Addresses = hn, addr
			b.occupy(c.Host, c.Mem)
			b.setState(c, hypervisor.Running)
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

// copyOf makes the machine that a clone will be, without disks.
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
	c := &vm{ID: hypervisor.VMID(b.uuid()), Name: r.Name, Desc: or(r.Description, m.Desc), State: hypervisor.Off, Host: h.ID, Datastore: ds, Folder: p.Folder,
		CPUs: or(r.CPUs, m.CPUs), Mem: or(r.MemoryBytes, m.Mem), Dynamic: cloneRange(m.Dynamic), Firmware: m.Firmware, SecureBoot: m.SecureBoot,
		GuestOS: m.GuestOS, Machine: m.Machine, Boot: m.Boot, Labels: cloneLabels(m.Labels), Token: r.Token,
		Guest: guest{Tools: m.Guest.Tools, ShutdownTime: m.Guest.ShutdownTime, Hangs: m.Guest.Hangs, Drift: m.Guest.Drift, HostName: m.Guest.HostName}}
	c.MaxCPU, c.MaxMem = max(c.CPUs, m.MaxCPU), max(c.Mem, m.MaxMem)
	if c.Dynamic != nil && (c.Mem < c.Dynamic.MinBytes || c.Mem > c.Dynamic.MaxBytes) {
		return nil, hypervisor.Errorf(hypervisor.KindInvalidArgument, m.ref(), "%d bytes of memory are outside the range %d to %d", c.Mem, c.Dynamic.MinBytes, c.Dynamic.MaxBytes)
	}
	if r.Labels != nil {
		c.Labels = cloneLabels(r.Labels)
	}
	for _, n := range m.NICs {
		i, err := b.newNIC(c, hypervisor.NICSpec{Network: n.Network, Model: n.Model})
		if err != nil {
			return nil, err
		}
		c.NICs = append(c.NICs, i)
	}
	if x := r.Customize; x != nil {
		c.Guest.HostName = or(x.HostName, c.Guest.HostName)
		for i, a := range x.Addresses {
			if a != "" && i < len(c.Guest.Addresses) {
				c.Guest.Addresses[i] = a[:slices.Index([]byte(a), '/')]
			}
		}
	}
	return c, nil
}

// copyDisks gives the clone its disks: copies, or overlays on bases that are
// frozen from now on.
func (b *Backend) copyDisks(m, c *vm, disks []disk, linked, frozen, moved bool) (images []*volume, err error) {
	for i, dk := range disks {
		v := b.st.Volumes[dk.Volume]
		n := dk
		n.ID = hypervisor.DiskID(b.number("disk"))
		if dk.ReadOnly { // an ISO image is shared
			if err := b.fits(v.Datastore, c.Host, 0, v.Prov); err != nil {
				return images, err
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
				return images, err
			}
			data := b.content(v.ID)
			x := b.addVolume(&volume{Name: diskName(c, n.ID), Datastore: ds, Size: v.Size, Prov: v.Prov, Owner: c.ID, Partial: true, Data: &data})
			n.Volume = x.ID
			images, c.Disks = append(images, x), append(c.Disks, n)
			continue
		}
		if err := b.fits(v.Datastore, c.Host, 0, hypervisor.Thin); err != nil {
			return images, fmt.Errorf("a linked clone must reach its base: %w", err)
		}
		if err := b.fits(ds, c.Host, 0, hypervisor.Thin); err != nil {
			return images, err
		}
		if !frozen && !m.Template {
			// The source goes on in an overlay of its own.
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
	return images, nil
}

// untouched: nothing was written to an overlay, so its base serves as well.
func (b *Backend) untouched(v *volume) bool {
	p := b.st.Volumes[v.Parent]
	return p != nil && v.Data == nil && v.Size == p.Size
}
