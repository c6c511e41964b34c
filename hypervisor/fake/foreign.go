package fake

import (
	"fmt"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// ForeignKind is the kind of part that another tool gave a machine.
type ForeignKind string

const (
	// ForeignShared is a disk on an image that several machines write to: a new
	// one, or the image whose ID is the part's Name. No snapshot holds it, a
	// full clone gets a copy, and it outlives the machine.
	ForeignShared ForeignKind = "shared disk"
	// ForeignHostDisk is a disk of the machine's host, such as /dev/sdb. No
	// snapshot or clone has it, and the machine can't move with it.
	ForeignHostDisk ForeignKind = "host's disk"
	// ForeignDevice is a device of the host that the driver can't describe.
	// No clone has it, and the machine can't move with it.
	ForeignDevice ForeignKind = "device"
	// ForeignSetting is text in the machine's definition. Clones have it too.
	ForeignSetting ForeignKind = "setting"
	// ForeignSnapshot is a snapshot inside the machine's images.
	ForeignSnapshot ForeignKind = "snapshot"
	// ForeignChild is an image that belongs to no machine and whose backing
	// chain includes the machine's first disk.
	ForeignChild ForeignKind = "child"
)

// Foreign is a part of a machine that no driver made. Name is its path,
// address or name, and Data its content.
type Foreign struct {
	Kind ForeignKind
	Name string
	Data string `json:",omitempty"`
}

// hostDisk is a disk of a host.
type hostDisk struct {
	Size int64
	Data string
}

// AddForeign gives a machine that is off a part behind the API's back. It
// returns the part's name in the API: the ID of a disk, snapshot or image, or
// the name.
func (b *Backend) AddForeign(id hypervisor.VMID, f Foreign) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return "", err
	}
	if m.State != hypervisor.StateOff || f.Name == "" || len(m.Disks) == 0 {
		return "", hypervisor.Errorf(hypervisor.ErrInvalidState, m.ref(), "a foreign part has a name, and its machine has a disk and is off")
	}
	const size = 16 * hypervisor.MiB
	image := func(parent hypervisor.VolumeID, size int64) hypervisor.VolumeID {
		return b.addVolume(&volume{Name: f.Name, Datastore: m.Datastore, Size: size, Parent: parent, Data: &f.Data}).ID
	}
	switch f.Kind {
	case ForeignShared:
		v := hypervisor.VolumeID(f.Name)
		if b.st.Volumes[v] == nil {
			v = image("", size)
		}
		m.Disks = append(m.Disks, disk{ID: hypervisor.DiskID(b.number("disk")), Volume: v, Bus: "scsi", Shared: true})
	case ForeignHostDisk:
		if b.st.HostDisks == nil {
			b.st.HostDisks = map[string]*hostDisk{}
		}
		b.st.HostDisks[f.Name] = &hostDisk{size, f.Data}
		m.Disks = append(m.Disks, disk{ID: hypervisor.DiskID(b.number("disk")), Bus: "scsi", HostDisk: f.Name})
	case ForeignDevice, ForeignSetting:
		m.Foreign = append(m.Foreign, f)
		return f.Name, nil
	case ForeignSnapshot:
		return string(b.snapshotInside(m, f.Name).ID), nil
	case ForeignChild:
		v := b.st.Volumes[m.Disks[0].Volume]
		return string(image(v.ID, v.Size)), nil
	default:
		return "", hypervisor.Errorf(hypervisor.ErrInvalidArgument, m.ref(), "no such kind of part: %q", f.Kind)
	}
	return string(m.Disks[len(m.Disks)-1].ID), nil
}

// snapshotInside takes a snapshot like a tool that keeps snapshots inside the
// images.
func (b *Backend) snapshotInside(m *vm, name string) *snapshot {
	s := &snapshot{SnapshotInfo: hypervisor.SnapshotInfo{ID: hypervisor.SnapshotID(b.number("snap")), VM: m.ID, Name: name, Kind: "internal",
		State: m.State, CreatedAt: b.now(), Parent: m.Current}, Inside: map[hypervisor.VolumeID]string{}}
	s.keep(m)
	for _, d := range s.Disks {
		s.Inside[d.Volume] = b.content(d.Volume)
	}
	m.Snaps, m.Current = append(m.Snaps, s), s.ID
	return s
}

// Foreign returns where a machine has a part of that kind and name, and the
// part's content. For a disk it is the machine's second, also in a clone.
func (b *Backend) Foreign(id hypervisor.VMID, kind ForeignKind, name string) (where, content string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return "", "", err
	}
	switch kind {
	case ForeignShared, ForeignHostDisk:
		if len(m.Disks) < 2 {
			break
		}
		d := m.Disks[1]
		if d.HostDisk != "" {
			return d.HostDisk, b.st.HostDisks[d.HostDisk].Data, nil
		}
		return string(d.Volume), b.content(d.Volume), nil
	case ForeignSnapshot:
		for _, s := range m.Snaps {
			if s.Name == name && s.Inside != nil {
				v := s.Disks[0].Volume
				if b.st.Volumes[v] != nil {
					return string(v), s.Inside[v], nil
				}
			}
		}
	default:
		for _, f := range m.Foreign {
			if f.Kind == kind && f.Name == name {
				return string(m.ID) + "/" + f.Name, f.Data, nil
			}
		}
	}
	return "", "", hypervisor.Errorf(hypervisor.ErrNotFound, m.ref(), "it has no %s %q", kind, name)
}

// RemoveForeign removes a part from a machine, like the tool that added it.
// Images and host's disks stay.
func (b *Backend) RemoveForeign(id hypervisor.VMID, kind ForeignKind, name string) error {
	if _, _, err := b.Foreign(id, kind, name); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return err
	}
	switch kind {
	case ForeignShared, ForeignHostDisk:
		m.Disks = slices.Delete(m.Disks, 1, 2)
	case ForeignSnapshot:
		m.Snaps = slices.DeleteFunc(m.Snaps, func(s *snapshot) bool { return s.Name == name && s.Inside != nil })
	default:
		m.Foreign = slices.DeleteFunc(m.Foreign, func(f Foreign) bool { return f.Kind == kind && f.Name == name })
	}
	return nil
}

// HostDisk returns the content of a disk of a host.
func (b *Backend) HostDisk(path string) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.st.HostDisks[path]
	if d == nil {
		return "", hypervisor.Errorf(hypervisor.ErrNotFound, hypervisor.Ref{}, "no host has a disk %s", path)
	}
	return d.Data, nil
}

// WriteHostDisk sets the content of a disk of a host.
func (b *Backend) WriteHostDisk(path, content string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.st.HostDisks[path]
	if d == nil {
		return hypervisor.Errorf(hypervisor.ErrNotFound, hypervisor.Ref{}, "no host has a disk %s", path)
	}
	d.Data = content
	return nil
}

// RemoveVolume removes an image like another tool would, whoever uses it. If
// the image is gone already, it does nothing.
func (b *Backend) RemoveVolume(id hypervisor.VolumeID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if v := b.st.Volumes[id]; v != nil {
		b.removeVolume(v)
	}
}

// apart reports whether no snapshot holds the disk, a linked clone can't
// freeze it, and it doesn't move with the machine.
func (d disk) apart() bool { return d.Shared || d.HostDisk != "" }

// what returns a name for a disk that is apart.
func (d disk) what() string {
	if d.HostDisk != "" {
		return fmt.Sprintf("disk %s, which is %s of the host,", d.ID, d.HostDisk)
	}
	return fmt.Sprintf("disk %s, whose image %s other machines write to,", d.ID, d.Volume)
}

// apart returns a note for each disk that a verb leaves out.
func (m *vm) apart(verb string) (notes []string) {
	for _, d := range m.Disks {
		if d.apart() {
			notes = append(notes, d.what()+" "+verb)
		}
	}
	return notes
}

// uncloned returns a note for each device that a clone lacks.
func (m *vm) uncloned() (notes []string) {
	if len(m.Devices) > 0 {
		notes = append(notes, "host devices are not cloned")
	}
	for _, f := range m.Foreign {
		if f.Kind == ForeignDevice {
			notes = append(notes, fmt.Sprintf("device %s is not cloned", f.Name))
		}
	}
	return notes
}

// device returns a device that another tool gave the machine, or an empty
// string if it has none.
func (m *vm) device() string {
	i := slices.IndexFunc(m.Foreign, func(f Foreign) bool { return f.Kind == ForeignDevice })
	if i < 0 {
		return ""
	}
	return m.Foreign[i].Name
}

// bound reports whether the machine can only run on its host.
func (m *vm) bound() bool {
	return len(m.Devices) > 0 || m.device() != "" || slices.ContainsFunc(m.Disks, func(d disk) bool { return d.HostDisk != "" })
}

// lookForeign blocks a migration if a foreign part can't move.
func (b *Backend) lookForeign(v *move, m *vm) {
	if d := m.device(); d != "" && (v.host != nil || v.live) {
		v.block(hypervisor.ReasonVMPassthrough, m.ref(), "the machine has the device %s of its host: take it away", d)
	}
	for _, d := range m.Disks {
		switch {
		case !d.apart():
		case d.HostDisk != "" && v.host != nil, v.to != b:
			v.block(hypervisor.ReasonDiskUnreachable, d.ID.Ref(), "%s can't move: detach it", d.what())
		case v.store != "":
			v.Warnings = append(v.Warnings, hypervisor.Blocker{Reason: hypervisor.ReasonDiskUnreachable, Object: d.ID.Ref(), Detail: d.what() + " stays where it is"})
		}
	}
}

// lost refuses a revert that would remove what others need: images that back
// other tools' images, and a snapshot inside an image.
func (b *Backend) lost(m *vm, s *snapshot) error {
	for v := range s.Inside {
		if b.st.Volumes[v] == nil || len(b.kids[v]) > 0 {
			return hypervisor.Errorf(hypervisor.ErrBusy, hypervisor.Ref{Kind: hypervisor.ObjectSnapshot, ID: string(s.ID), Name: s.Name},
				"the snapshot is inside image %s, which others depend on or which is gone: delete the snapshots and clones above it first", v)
		}
	}
	for _, d := range m.Disks {
		if d.apart() || d.ReadOnly {
			continue
		}
		if err := stoodOn(s.ID.Ref(), b.dependants(d.Volume, m.ID)); err != nil {
			return err
		}
	}
	return nil
}

// inside reports whether another tool took the snapshot.
func (m *vm) inside(id hypervisor.SnapshotID) bool {
	return slices.ContainsFunc(m.Snaps, func(s *snapshot) bool { return s.ID == id && s.Inside != nil })
}

func (m *vm) snapNames() string {
	var out []string
	for _, s := range m.Snaps {
		out = append(out, fmt.Sprintf("%s (%q)", s.ID, s.Name))
	}
	return strings.Join(out, ", ")
}
