package fake

import (
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// The functions in this file show what the platform's own tools would show:
// the truth behind the API.

// WriteDisk sets the content of a machine's nth disk, counted from 0, like
// its guest would. It refuses to write a template's disk, a read-only disk,
// and a disk with a frozen file system.
func (b *Backend) WriteDisk(id hypervisor.VMID, n int, content string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.machine(id, "be written to")
	if err != nil {
		return err
	}
	switch {
	case n < 0 || n >= len(m.Disks):
		return hypervisor.Errorf(hypervisor.ErrNotFound, m.ref(), "it has %d disks", len(m.Disks))
	case m.Disks[n].ReadOnly || m.Guest.Frozen:
		return hypervisor.Errorf(hypervisor.ErrInvalidState, m.ref(), "disk %d is read-only or frozen", n)
	}
	if d := m.Disks[n]; d.HostDisk != "" {
		b.st.HostDisks[d.HostDisk].Data = content
		return nil
	}
	v := b.st.Volumes[m.Disks[n].Volume]
	if len(b.kids[v.ID]) > 0 {
		return hypervisor.Errorf(hypervisor.ErrBusy, v.ref(), "other images depend on it")
	}
	v.Data = &content
	b.charge(v)
	return nil
}

// ReadDisk returns the content of a machine's nth disk.
func (b *Backend) ReadDisk(id hypervisor.VMID, n int) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return "", err
	}
	if n < 0 || n >= len(m.Disks) {
		return "", hypervisor.Errorf(hypervisor.ErrNotFound, m.ref(), "it has %d disks", len(m.Disks))
	}
	if d := m.Disks[n]; d.HostDisk != "" {
		return b.st.HostDisks[d.HostDisk].Data, nil
	}
	return b.content(m.Disks[n].Volume), nil
}

// WriteVolume sets the content of an image that backs no other image.
func (b *Backend) WriteVolume(id hypervisor.VolumeID, content string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	v, err := b.volume(id)
	if err != nil {
		return err
	}
	if len(b.kids[id]) > 0 {
		return hypervisor.Errorf(hypervisor.ErrBusy, v.ref(), "other images depend on it")
	}
	v.Data = &content
	b.charge(v)
	return nil
}

// ReadVolume returns the content of an image.
func (b *Backend) ReadVolume(id hypervisor.VolumeID) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, err := b.volume(id); err != nil {
		return "", err
	}
	return b.content(id), nil
}

// WriteMemory sets the content of a running machine's memory. It is lost when
// the machine is powered off or reset.
func (b *Backend) WriteMemory(id hypervisor.VMID, content string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return err
	}
	if !m.active() {
		return hypervisor.Errorf(hypervisor.ErrInvalidState, m.ref(), "the machine is %s", m.State)
	}
	m.Guest.RAM = content
	return nil
}

// ReadMemory returns the content of a running machine's memory.
func (b *Backend) ReadMemory(id hypervisor.VMID) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return "", err
	}
	if !m.active() {
		return "", hypervisor.Errorf(hypervisor.ErrInvalidState, m.ref(), "the machine is %s", m.State)
	}
	return m.Guest.RAM, nil
}

// Uptime returns the time since a machine's guest has booted.
func (b *Backend) Uptime(id hypervisor.VMID) (time.Duration, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return 0, err
	}
	if !m.active() {
		return 0, hypervisor.Errorf(hypervisor.ErrInvalidState, m.ref(), "the machine is %s", m.State)
	}
	now := b.now()
	if !m.Guest.Stopped.IsZero() {
		now = m.Guest.Stopped
	}
	return now.Sub(m.Guest.Up), nil
}

// Boots returns how often a machine's guest has booted.
func (b *Backend) Boots(id hypervisor.VMID) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return 0, err
	}
	return m.Guest.Boots, nil
}

// State returns a machine's power state, or ErrNotFound if there is no such
// machine.
func (b *Backend) State(id hypervisor.VMID) (hypervisor.PowerState, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return "", err
	}
	return m.State, nil
}

// Images returns the IDs of all disk images.
func (b *Backend) Images() []hypervisor.VolumeID {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]hypervisor.VolumeID, 0, len(b.st.Volumes))
	for id := range b.st.Volumes {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// Customized returns the customization of a machine's guest at its first
// start.
func (b *Backend) Customized(id hypervisor.VMID) (hypervisor.Customization, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil || m.Guest.Told == nil {
		return hypervisor.Customization{}, err
	}
	return *m.Guest.Told, nil
}

// Migrated returns the options of a machine's last migration.
func (b *Backend) Migrated(id hypervisor.VMID) (hypervisor.MigrateOptions, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return hypervisor.MigrateOptions{}, err
	}
	return m.Moved, nil
}
