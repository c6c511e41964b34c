package fake

import (
	"context"
	"fmt"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// newDisk is a disk that is being added to a machine.
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
		return nil, hypervisor.Errorf(hypervisor.ErrExhausted, m.ref(), "it has %d disks, the most", limits.Disks)
	}
	a := &newDisk{b: b, disk: disk{ID: hypervisor.DiskID(b.number("disk")), Bus: s.Bus, ReadOnly: s.ReadOnly || s.CDROM, CDROM: s.CDROM}}
	def(&a.disk.Bus, "virtio")
	if s.Volume != "" {
		v, err := b.volume(s.Volume)
		if err != nil {
			return nil, err
		}
		if u := b.users(v.ID); len(u) > 0 && !a.disk.ReadOnly {
			return nil, hypervisor.Errorf(hypervisor.ErrBusy, v.ref(), "it is a disk of %v already", u)
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
			return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, from.ref(), "SizeBytes %d is below the image's %d", v.Size, from.Size)
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

// change finds a machine whose hardware a task will change. A running machine
// needs the capability live too.
func (b *Backend) change(id hypervisor.VMID, what string, k, live capability.Name) (*vm, error) {
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
	case hypervisor.StateRunning, hypervisor.StatePaused:
		err = b.require(live, m.ref(), m.ref())
	case hypervisor.StateSuspended:
		err = hypervisor.Errorf(hypervisor.ErrInvalidState, m.ref(), "the machine is suspended: resume it or power it off first")
	}
	return m, err
}

// AttachDisk adds a disk.
func (d *Driver) AttachDisk(ctx context.Context, id hypervisor.VMID, s hypervisor.DiskSpec) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, op.DiskAttach, id.Ref(), s)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.change(id, "get disks", capability.DiskAttach, capability.DiskHotplug)
	if err != nil {
		return nil, err
	}
	a, err := b.newDisk(m, s)
	if err != nil {
		return nil, err
	}
	w := work{op: op.DiskAttach, on: m.ref(), result: a.disk.ID.Ref(), excl: append(a.excl, vmKey(id)), shared: a.shared, bytes: a.bytes,
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
		b.emit(hypervisor.EventVMChanged, m, "disk attached")
		return nil
	}
	return d.run(f, w)
}

// kept returns a note about an image that DeleteDisks keeps, since other
// machines may have it read-only too.
func (d disk) kept() []string {
	if !d.ReadOnly || d.CDROM || d.apart() {
		return nil
	}
	return []string{fmt.Sprintf("image %s of disk %s is kept: the machine had it read-only", d.Volume, d.ID)}
}

// DetachDisk removes a disk and, with DeleteDisks, its image.
func (d *Driver) DetachDisk(ctx context.Context, id hypervisor.VMID, dk hypervisor.DiskID, p hypervisor.DiskPolicy) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, op.DiskDetach, id.Ref(), []any{dk, p})
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.change(id, "lose disks", capability.DiskAttach, capability.DiskHotplug)
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
				return 0, hypervisor.Errorf(hypervisor.ErrBusy, dk.Ref(), "snapshot %s (%q) needs it: delete that first", s.ID, s.Name)
			}
		}
		return i, nil
	}
	at, err := check()
	if err != nil {
		return nil, err
	}
	var notes []string
	if x := m.Disks[at]; p == hypervisor.DeleteDisks && x.HostDisk != "" {
		return nil, hypervisor.Unsupported(dk.Ref(), capability.DiskAttach, hypervisor.ReasonConfig, x.what()+" can't be deleted: keep it (KeepDisks)")
	} else if p == hypervisor.DeleteDisks && x.Shared {
		notes = []string{x.what() + " is detached, its image kept"}
	} else if p == hypervisor.DeleteDisks {
		notes = x.kept()
	}
	return d.run(f, work{op: op.DiskDetach, on: m.ref(), notes: notes, excl: []hypervisor.Ref{vmKey(id)}, finish: func(*hypervisor.TaskState) error {
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
		b.emit(hypervisor.EventVMChanged, m, "disk detached")
		return nil
	}})
}

// GrowDisk enlarges a disk.
func (d *Driver) GrowDisk(ctx context.Context, id hypervisor.VMID, dk hypervisor.DiskID, size int64) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, op.DiskGrow, id.Ref(), []any{dk, size})
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.change(id, "grow", capability.DiskGrow, capability.DiskGrowLive)
	if err != nil {
		return nil, err
	}
	i, err := m.disk(dk)
	if err != nil {
		return nil, err
	}
	if m.Disks[i].apart() {
		return nil, hypervisor.Unsupported(dk.Ref(), capability.DiskGrow, hypervisor.ReasonConfig, m.Disks[i].what()+" can't be enlarged here")
	}
	v := b.st.Volumes[m.Disks[i].Volume]
	switch {
	case size < v.Size:
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, dk.Ref(), "%d bytes is less than the disk has (%d): disks only grow", size, v.Size)
	case m.Disks[i].ReadOnly:
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, dk.Ref(), "the disk is read-only")
	}
	if err := b.fits(v.Datastore, m.Host, size-v.Size, v.Prov); err != nil {
		return nil, err
	}
	return d.run(f, work{op: op.DiskGrow, on: m.ref(), excl: []hypervisor.Ref{vmKey(id)}, finish: func(*hypervisor.TaskState) error {
		v.Size = size
		b.charge(v)
		b.emit(hypervisor.EventVMChanged, m, "disk grown")
		return nil
	}})
}

// AttachNIC adds an adapter.
func (d *Driver) AttachNIC(ctx context.Context, id hypervisor.VMID, s hypervisor.NICSpec) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, op.NICAttach, id.Ref(), s)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.change(id, "get adapters", capability.NICAttach, capability.NICHotplug)
	if err != nil {
		return nil, err
	}
	n, err := b.newNIC(m, s)
	if err != nil {
		return nil, err
	}
	return d.run(f, work{op: op.NICAttach, on: m.ref(), result: n.ID.Ref(), excl: []hypervisor.Ref{vmKey(id)}, finish: func(*hypervisor.TaskState) error {
		m.NICs = append(m.NICs, n)
		b.emit(hypervisor.EventVMChanged, m, "adapter attached")
		return nil
	}})
}

// DetachNIC removes an adapter.
func (d *Driver) DetachNIC(ctx context.Context, id hypervisor.VMID, nic hypervisor.NICID) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, op.NICDetach, id.Ref(), nic)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.change(id, "lose adapters", capability.NICAttach, capability.NICHotplug)
	if err != nil {
		return nil, err
	}
	find := func() int {
		return slices.IndexFunc(m.NICs, func(n hypervisor.NICInfo) bool { return n.ID == nic })
	}
	if find() < 0 {
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, nic.Ref(), "machine %q has no such adapter", m.Name)
	}
	return d.run(f, work{op: op.NICDetach, on: m.ref(), excl: []hypervisor.Ref{vmKey(id)}, finish: func(*hypervisor.TaskState) error {
		m.NICs = slices.Delete(m.NICs, find(), find()+1)
		b.emit(hypervisor.EventVMChanged, m, "adapter detached")
		return nil
	}})
}
