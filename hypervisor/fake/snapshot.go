package fake

import (
	"context"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// Snapshots lists a machine's snapshots, parents before children.
func (d *Driver) Snapshots(ctx context.Context, id hypervisor.VMID) ([]hypervisor.SnapshotInfo, error) {
	if err := d.read(ctx, called(ctx, op.SnapshotList, op.SnapshotFind, op.SnapshotInfo), id.Ref()); err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return nil, err
	}
	if err := b.require(capability.SnapshotDisk, hypervisor.Ref{}, m.ref()); err != nil {
		return nil, err
	}
	out := make([]hypervisor.SnapshotInfo, 0, len(m.Snaps))
	depth := map[hypervisor.SnapshotID]int{}
	for _, s := range m.Snaps {
		i := s.SnapshotInfo
		i.Current = i.ID == m.Current
		if i.Parent != "" {
			i.Depth = depth[i.Parent] + 1
		}
		depth[i.ID] = i.Depth
		for _, dk := range s.Disks {
			if v := b.st.Volumes[dk.Volume]; v != nil {
				i.SizeBytes += v.Used
			}
		}
		if i.Memory {
			i.SizeBytes += s.Mem
		}
		out = append(out, i)
	}
	return out, nil
}

// CreateSnapshot makes a snapshot below the current one.
func (d *Driver) CreateSnapshot(ctx context.Context, id hypervisor.VMID, r hypervisor.SnapshotRequest) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, op.SnapshotCreate, id.Ref(), r)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.machine(id, "have snapshots")
	if err != nil {
		return nil, err
	}
	needs := []capability.Name{capability.SnapshotDisk}
	if r.Memory {
		needs = append(needs, capability.SnapshotMemory)
	}
	if r.Quiesce {
		needs = append(needs, capability.SnapshotQuiesce)
	}
	for _, k := range needs {
		if err := b.require(k, m.ref(), m.ref()); err != nil {
			return nil, err
		}
	}
	if err := b.free(vmKey(id), false); err != nil {
		return nil, err
	}
	switch {
	case r.Memory && !m.active():
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, m.ref(), "the machine is %s: it has no memory in use that could be kept", m.State)
	case r.Quiesce && m.State != hypervisor.StateRunning:
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, m.ref(), "the machine is %s: its guest can't be asked for quiet disks", m.State)
	}
	s := &snapshot{SnapshotInfo: hypervisor.SnapshotInfo{ID: hypervisor.SnapshotID(b.number("snap")), VM: id, Name: r.Name, Description: r.Description,
		Memory: r.Memory, Quiesced: r.Quiesce, Kind: "overlay"}}
	w := work{notes: m.apart("is not in the snapshot"), op: op.SnapshotCreate, on: m.ref(), result: hypervisor.Ref{Kind: hypervisor.ObjectSnapshot, ID: string(s.ID), Name: s.Name},
		excl: []hypervisor.Ref{vmKey(id)}, phases: []string{"saving"}}
	if r.Memory {
		w.bytes, w.phases = m.Mem, []string{"saving memory", "saving disks"}
	}
	w.finish = func(*hypervisor.TaskState) error {
		b.takeSnapshot(m, s)
		return nil
	}
	return d.run(f, w)
}

func (b *Backend) takeSnapshot(m *vm, s *snapshot) {
	s.State, s.CreatedAt, s.Parent = m.State, b.now(), m.Current
	s.keep(m)
	if s.Memory {
		if s.Guest.Stopped.IsZero() {
			s.Guest.Stopped = b.now()
		}
	} else {
		s.State = hypervisor.StateOff
		if m.State != hypervisor.StateOff {
			s.State = m.State
		}
		s.Guest.RAM = ""
	}
	for i, d := range m.Disks {
		if !d.ReadOnly && !d.apart() {
			v := b.st.Volumes[d.Volume]
			m.Disks[i].Volume = b.overlay(v, m.ID, v.Name, v.Datastore).ID
		}
	}
	m.Snaps = append(m.Snaps, s)
	m.Current = s.ID
	b.emit(hypervisor.EventSnapshotCreated, m, s.Name)
}

// keep records the machine and its disks, except for those apart.
func (s *snapshot) keep(m *vm) {
	s.CPUs, s.MaxCPU, s.Mem, s.MaxMem, s.Dynamic = m.CPUs, m.MaxCPU, m.Mem, m.MaxMem, cloneRange(m.Dynamic)
	s.NICs = slices.Clone(m.NICs)
	s.Disks = slices.DeleteFunc(slices.Clone(m.Disks), disk.apart)
	s.Guest = m.Guest
}

// RevertSnapshot takes the machine back.
func (d *Driver) RevertSnapshot(ctx context.Context, id hypervisor.VMID, snap hypervisor.SnapshotID, r hypervisor.RevertOptions) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, op.SnapshotRevert, snap.Ref(), r)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.machine(id, "be reverted")
	if err != nil {
		return nil, err
	}
	if err := b.require(capability.SnapshotDisk, hypervisor.Ref{}, snap.Ref()); err != nil {
		return nil, err
	}
	s, err := m.snap(snap)
	if err != nil {
		return nil, err
	}
	if err := b.free(vmKey(id), false); err != nil {
		return nil, err
	}
	if s.Memory {
		if err := b.require(capability.SnapshotMemory, m.ref(), m.ref()); err != nil {
			return nil, err
		}
	}
	fits := func() error {
		if err := b.lost(m, s); err != nil {
			return err
		}
		if !s.Memory || r.KeepOff {
			return nil
		}
		h, err := b.host(m.Host)
		if err != nil {
			return err
		}
		free := h.MemoryBytes - h.Used
		if m.active() {
			free += m.Mem
		}
		if err := h.usable(); err != nil {
			return err
		}
		if free < s.Mem {
			return hypervisor.Errorf(hypervisor.ErrExhausted, m.ref(), "host %q has %d MiB of memory free, the snapshot needs %d MiB", h.Name, free/hypervisor.MiB, s.Mem/hypervisor.MiB)
		}
		return nil
	}
	if err := fits(); err != nil {
		return nil, err
	}
	return d.run(f, work{op: op.SnapshotRevert, on: m.ref(), excl: []hypervisor.Ref{vmKey(id)}, phases: []string{"reverting"}, finish: func(st *hypervisor.TaskState) error {
		if err := fits(); err != nil {
			return err
		}
		st.Notes = b.revert(m, s, r.KeepOff)
		return nil
	}})
}

func (b *Backend) revert(m *vm, s *snapshot, keepOff bool) (notes []string) {
	if m.active() {
		b.vacate(m.Host, m.Mem)
	}
	before := m.State
	m.State = hypervisor.StateOff
	old := m.Disks
	m.Disks = slices.Clone(s.Disks)
	for i, d := range m.Disks {
		if data, ok := s.Inside[d.Volume]; ok {
			b.st.Volumes[d.Volume].Data = &data
		} else if !d.ReadOnly {
			base := b.st.Volumes[d.Volume]
			m.Disks[i].Volume = b.overlay(base, m.ID, base.Name, base.Datastore).ID
		}
	}
	for _, d := range old {
		if d.apart() { // no snapshot has it
			m.Disks = append(m.Disks, d)
			continue
		}
		if slices.ContainsFunc(m.Disks, func(x disk) bool { return x.ID == d.ID }) {
			b.sweep(m, d.Volume)
			continue
		}
		// A disk that was added after the snapshot: its data is not thrown
		// away.
		if v := b.st.Volumes[d.Volume]; v != nil && v.Owner == m.ID {
			v.Owner = ""
		}
		notes = append(notes, "disk "+string(d.ID)+" was attached after the snapshot: detached, image "+string(d.Volume)+" kept")
	}
	m.CPUs, m.MaxCPU, m.Mem, m.MaxMem, m.Dynamic = s.CPUs, s.MaxCPU, s.Mem, s.MaxMem, cloneRange(s.Dynamic)
	m.NICs, m.Current, m.Pending = slices.Clone(s.NICs), s.ID, nil
	tools := m.Guest
	m.Guest = s.Guest
	m.Guest.Tools, m.Guest.Hangs, m.Guest.ShutdownTime = tools.Tools, tools.Hangs, tools.ShutdownTime
	m.Guest.Boots = max(m.Guest.Boots, tools.Boots)
	switch {
	case s.Memory && keepOff:
		m.State = hypervisor.StateSuspended
	case s.Memory:
		b.occupy(m.Host, m.Mem)
		if m.State = s.State; m.State == hypervisor.StateRunning {
			b.runClock(m)
		}
	}
	if m.State != before {
		b.emit(hypervisor.EventVMState, m, "reverted")
	}
	b.emit(hypervisor.EventVMChanged, m, "reverted to "+s.Name)
	return notes
}

// DeleteSnapshot merges a snapshot away.
func (d *Driver) DeleteSnapshot(ctx context.Context, id hypervisor.VMID, snap hypervisor.SnapshotID, r hypervisor.DeleteSnapshotOptions) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, op.SnapshotDelete, snap.Ref(), r)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.machine(id, "lose snapshots")
	if err != nil {
		return nil, err
	}
	if err := b.require(capability.SnapshotDisk, hypervisor.Ref{}, snap.Ref()); err != nil {
		return nil, err
	}
	s, err := m.snap(snap)
	if err != nil {
		return nil, err
	}
	if err := b.free(vmKey(id), false); err != nil {
		return nil, err
	}
	gone := []*snapshot{s}
	if r.Children {
		for _, x := range m.Snaps { // parents come before children
			if slices.ContainsFunc(gone, func(p *snapshot) bool { return p.ID == x.Parent }) {
				gone = append(gone, x)
			}
		}
	}
	stands := func() error {
		for _, x := range gone {
			for _, dk := range x.Disks {
				if err := stoodOn(snap.Ref(), b.dependants(dk.Volume, m.ID)); err != nil && !dk.ReadOnly {
					return err
				}
			}
		}
		return nil
	}
	if err := stands(); err != nil {
		return nil, err
	}
	return d.run(f, work{op: op.SnapshotDelete, on: m.ref(), excl: []hypervisor.Ref{vmKey(id)}, phases: []string{"merging"}, finish: func(*hypervisor.TaskState) error {
		if err := stands(); err != nil {
			return err
		}
		for _, x := range slices.Backward(gone) {
			b.forgetSnapshot(m, x)
		}
		return nil
	}})
}

func (b *Backend) forgetSnapshot(m *vm, s *snapshot) {
	m.Snaps = slices.DeleteFunc(m.Snaps, func(x *snapshot) bool { return x == s })
	for _, x := range m.Snaps {
		if x.Parent == s.ID {
			x.Parent = s.Parent
		}
	}
	if m.Current == s.ID {
		m.Current = s.Parent
	}
	for _, dk := range s.Disks {
		v := b.st.Volumes[dk.Volume]
		switch {
		case v == nil || dk.ReadOnly || slices.ContainsFunc(m.Snaps, func(x *snapshot) bool {
			return slices.ContainsFunc(x.Disks, func(y disk) bool { return y.Volume == v.ID })
		}):
		case len(b.kids[v.ID]) > 0:
			b.merge(v)
		default:
			b.sweep(m, v.ID)
		}
	}
	b.emit(hypervisor.EventSnapshotDeleted, m, s.Name)
}
