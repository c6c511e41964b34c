package fake

import (
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// What the platform's own tools would show: the truth behind the API.

// WriteDisk sets the content of a machine's nth disk, counted from 0, as its
// guest would. A template's and a read-only disk can't be written, nor one of
// a frozen file system.
func (b *Backend) WriteDisk(id hypervisor.VMID, n int, content string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.machine(id, "be written to")
	if err != nil {
		return err
	}
	switch {
	case n < 0 || n >= len(m.Disks):
		return hypervisor.Errorf(hypervisor.KindNotFound, m.ref(), "it has %d disks", len(m.Disks))
	case m.Disks[n].ReadOnly || m.Guest.Frozen:
		return hypervisor.Errorf(hypervisor.KindInvalidState, m.ref(), "disk %d is read-only or frozen", n)
	}
	v := b.st.Volumes[m.Disks[n].Volume]
	if len(b.kids[v.ID]) > 0 {
		return hypervisor.Errorf(hypervisor.KindBusy, v.ref(), "other images stand on it")
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
		return "", hypervisor.Errorf(hypervisor.KindNotFound, m.ref(), "it has %d disks", len(m.Disks))
	}
	return b.content(m.Disks[n].Volume), nil
}

// WriteVolume sets the content of an image that nobody stands on.
func (b *Backend) WriteVolume(id hypervisor.VolumeID, content string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	v, err := b.volume(id)
	if err != nil {
		return err
	}
	if len(b.kids[id]) > 0 {
		return hypervisor.Errorf(hypervisor.KindBusy, v.ref(), "other images stand on it")
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
		return hypervisor.Errorf(hypervisor.KindInvalidState, m.ref(), "the machine is %s", m.State)
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
		return "", hypervisor.Errorf(hypervisor.KindInvalidState, m.ref(), "the machine is %s", m.State)
	}
	return m.Guest.RAM, nil
}

// Uptime is how long this boot of a machine's guest has run.
func (b *Backend) Uptime(id hypervisor.VMID) (time.Duration, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return 0, err
	}
	if !m.active() {
		return 0, hypervisor.Errorf(hypervisor.KindInvalidState, m.ref(), "the machine is %s", m.State)
	}
	now := b.now()
	if !m.Guest.Stopped.IsZero() {
		now = m.Guest.Stopped
	}
	return now.Sub(m.Guest.Up), nil
}

// Boots is how often a machine's guest has booted.
func (b *Backend) Boots(id hypervisor.VMID) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return 0, err
	}
	return m.Guest.Boots, nil
}

// State returns a machine's power state; ErrNotFound if there is none.
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
