package fake

import (
	"context"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// newDisk is a disk on its way into a machine.
type newDisk struct {
	b            *Backend
	disk         disk
	v            *volume
	made         bool
	shared, excl []hypervisor.Ref
	bytes        int64
}

// newDisk makes or finds the image of a disk. The backend is locked.
func (b *Backend) newDisk(m *vm, s hypervisor.DiskSpec) (*newDisk, error) {
	if len(m.Disks) >= limits.Disks {
		return nil, hypervisor.Errorf(hypervisor.KindExhausted, m.ref(), "it has %d disks, the most", limits.Disks)
	}
	a := &newDisk{b: b, disk: disk{ID: hypervisor.DiskID(b.number("disk")), Bus: s.Bus, ReadOnly: s.ReadOnly || s.CDROM, CDROM: s.CDROM}}
	def(&a.disk.Bus, "virtio")
	if s.Volume != "" {
		v, err := b.volume(s.Volume)
		if err != nil {
			return nil, err
		}
		if u := b.users(v.ID); len(u) > 0 && !a.disk.ReadOnly {
			return nil, hypervisor.Errorf(hypervisor.KindBusy, v.ref(), "it is a disk of %v already", u)
		}
		if len(b.kids[v.ID]) > 0 && !a.disk.ReadOnly {
			return nil, stoodOn(v.ref(), b.dependants(v.ID, ""))
		}
		if err := b.fits(v.Datastore, m.Host, 0, v.Prov); err != nil {
			return nil, err
		}
		a.v, a.disk.Volume = v, v.ID
		a.excl = []hypervisor.Ref{v.ID.Ref()}
		if a.disk.ReadOnly {
			a.excl, a.shared = nil, a.excl
		}
		return a, b.free(v.ID.Ref(), a.disk.ReadOnly)
	}
	v := &volume{Name: diskName(m, a.disk.ID), Datastore: s.Datastore, Size: s.SizeBytes, Prov: s.Provisioning, Owner: m.ID, Partial: true}
	if v.Datastore == "" {
		v.Datastore = m.Datastore
	}
	if s.Image != "" {
		from, err := b.volume(s.Image)
		if err != nil {
			return nil, err
		}
		if v.Size == 0 {
			v.Size = from.Size
		}
		if v.Size < from.Size {
			return nil, hypervisor.Errorf(hypervisor.KindInvalidArgument, from.ref(), "SizeBytes %d is below the image's %d", v.Size, from.Size)
		}
		if err := b.free(from.ID.Ref(), true); err != nil {
			return nil, err
		}
		data := b.content(from.ID)
		v.Data, a.bytes, a.shared = &data, from.Size, []hypervisor.Ref{from.ID.Ref()}
	}
	if err := b.fits(v.Datastore, m.Host, v.Size, v.Prov); err != nil {
		return nil, err
	}
	b.addVolume(v)
	a.v, a.made, a.disk.Volume = v, true, v.ID
	return a, nil
}

func (a *newDisk) undo() {
	if a.made {
		a.b.removeVolume(a.v)
	}
}

func (a *newDisk) done(m *vm) {
	a.v.Partial = false
	if !a.disk.ReadOnly {
		a.v.Owner = m.ID
	}
}

// change finds a machine whose hardware a task is to change. On a running one
// the capability live is needed too.
func (b *Backend) change(id hypervisor.VMID, what string, k, live hypervisor.Capability) (*vm, error) {
	m, err := b.machine(id, what)
	if err != nil {
		return nil, err
	}
	if err := b.require(k, m.ref(), m.ref()); err != nil {
		return nil, err
	}
	if err := b.free(vmKey(id), false); err != nil {
		return nil, err
	}
	switch m.State {
	case hypervisor.Running, hypervisor.Paused:
		err = b.require(live, m.ref(), m.ref())
	case hypervisor.Suspended:
		err = hypervisor.Errorf(hypervisor.KindInvalidState, m.ref(), "the machine is suspended: resume it or power it off first")
	}
	return m, err
}

// AttachDisk adds a disk.
func (d *Driver) AttachDisk(ctx context.Context, id hypervisor.VMID, s hypervisor.DiskSpec) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, "disk.attach", id.Ref(), s)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.change(id, "get disks", hypervisor.DiskAttach, hypervisor.DiskHotplug)
	if err != nil {
		return nil, err
	}
	a, err := b.newDisk(m, s)
	if err != nil {
		return nil, err
	}
	w := work{op: "disk.attach", on: m.ref(), result: a.disk.ID.Ref(), excl: append(a.excl, vmKey(id)), shared: a.shared, bytes: a.bytes,
		phases: []string{"allocating", "attaching"}, undo: a.undo}
	w.made = func() []hypervisor.Ref {
		if a.made {
			return []hypervisor.Ref{a.v.ref()}
		}
		return nil
	}
	w.finish = func(*hypervisor.TaskState) error {
		a.done(m)
		m.Disks = append(m.Disks, a.disk)
		b.emit(hypervisor.VMChanged, m, "disk attached")
		return nil
	}
	return d.run(f, w)
}

// DetachDisk removes a disk and, with DeleteDisks, its image.
func (d *Driver) DetachDisk(ctx context.Context, id hypervisor.VMID, dk hypervisor.DiskID, p hypervisor.DiskPolicy) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, "disk.detach", id.Ref(), []any{dk, p})
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.change(id, "lose disks", hypervisor.DiskAttach, hypervisor.DiskHotplug)
	if err != nil {
		return nil, err
	}
	check := func() (int, error) {
		i, err := m.disk(dk)
		if err != nil {
			return 0, err
		}
		for v := b.st.Volumes[m.Disks[i].Volume]; v != nil; v = b.st.Volumes[v.Parent] {
			if v.Owner == m.ID {
				if err := stoodOn(dk.Ref(), b.dependants(v.ID, m.ID)); err != nil {
					return 0, err
				}
			}
		}
		for _, s := range m.Snaps {
			if slices.ContainsFunc(s.Disks, func(x disk) bool { return x.ID == dk }) {
				return 0, hypervisor.Errorf(hypervisor.KindBusy, dk.Ref(), "snapshot %s (%q) needs it: delete that first", s.ID, s.Name)
			}
		}
		return i, nil
	}
	if _, err := check(); err != nil {
		return nil, err
	}
	return d.run(f, work{op: "disk.detach", on: m.ref(), excl: []hypervisor.Ref{vmKey(id)}, finish: func(*hypervisor.TaskState) error {
		i, err := check()
		if err != nil {
			return err
		}
		old := m.Disks[i]
		m.Disks = slices.Delete(m.Disks, i, i+1)
		if p == hypervisor.DeleteDisks {
			b.sweep(m, old.Volume)
		} else if v := b.st.Volumes[old.Volume]; v != nil && v.Owner == m.ID {
			for up := b.st.Volumes[v.Parent]; up != nil && up.Owner == m.ID; {
				next := b.st.Volumes[up.Parent]
				b.merge(up)
				up = next
			}
			v.Owner = ""
		}
		b.emit(hypervisor.VMChanged, m, "disk detached")
		return nil
	}})
}

// GrowDisk enlarges a disk.
func (d *Driver) GrowDisk(ctx context.Context, id hypervisor.VMID, dk hypervisor.DiskID, size int64) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, "disk.grow", id.Ref(), []any{dk, size})
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.change(id, "grow", hypervisor.DiskGrow, hypervisor.DiskGrowLive)
	if err != nil {
		return nil, err
	}
	i, err := m.disk(dk)
	if err != nil {
		return nil, err
	}
	v := b.st.Volumes[m.Disks[i].Volume]
	switch {
	case size < v.Size:
		return nil, hypervisor.Errorf(hypervisor.KindInvalidArgument, dk.Ref(), "%d bytes is less than the disk has (%d): disks only grow", size, v.Size)
	case m.Disks[i].ReadOnly:
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, dk.Ref(), "the disk is read-only")
	}
	if err := b.fits(v.Datastore, m.Host, size-v.Size, v.Prov); err != nil {
		return nil, err
	}
	return d.run(f, work{op: "disk.grow", on: m.ref(), excl: []hypervisor.Ref{vmKey(id)}, finish: func(*hypervisor.TaskState) error {
		v.Size = size
		b.charge(v)
		b.emit(hypervisor.VMChanged, m, "disk grown")
		return nil
	}})
}

// AttachNIC adds an adapter.
func (d *Driver) AttachNIC(ctx context.Context, id hypervisor.VMID, s hypervisor.NICSpec) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, "nic.attach", id.Ref(), s)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.change(id, "get adapters", hypervisor.NICAttach, hypervisor.NICHotplug)
	if err != nil {
		return nil, err
	}
	n, err := b.newNIC(m, s)
	if err != nil {
		return nil, err
	}
	return d.run(f, work{op: "nic.attach", on: m.ref(), result: n.ID.Ref(), excl: []hypervisor.Ref{vmKey(id)}, finish: func(*hypervisor.TaskState) error {
		m.NICs = append(m.NICs, n)
		b.emit(hypervisor.VMChanged, m, "adapter attached")
		return nil
	}})
}

// DetachNIC removes an adapter.
func (d *Driver) DetachNIC(ctx context.Context, id hypervisor.VMID, nic hypervisor.NICID) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, "nic.detach", id.Ref(), nic)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.change(id, "lose adapters", hypervisor.NICAttach, hypervisor.NICHotplug)
	if err != nil {
		return nil, err
	}
	find := func() int {
		return slices.IndexFunc(m.NICs, func(n hypervisor.NICInfo) bool { return n.ID == nic })
	}
	if find() < 0 {
		return nil, hypervisor.Errorf(hypervisor.KindNotFound, nic.Ref(), "machine %q has no such adapter", m.Name)
	}
	return d.run(f, work{op: "nic.detach", on: m.ref(), excl: []hypervisor.Ref{vmKey(id)}, finish: func(*hypervisor.TaskState) error {
		m.NICs = slices.Delete(m.NICs, find(), find()+1)
		b.emit(hypervisor.VMChanged, m, "adapter detached")
		return nil
	}})
}
