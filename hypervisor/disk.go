package hypervisor

import "context"

// DiskPolicy says what happens to disk images when the machine or disk is
// removed. It has no default: the caller must choose.
type DiskPolicy uint8

const (
	_           DiskPolicy = iota
	DeleteDisks            // remove the images
	KeepDisks              // leave the images where they are, with their present content
)

// Provisioning says how a disk takes its space.
type Provisioning string

const (
	AnyProvisioning Provisioning = "" // the datastore's default
	Thin            Provisioning = "thin"
	Thick           Provisioning = "thick" // all space taken at once
)

// DiskSpec describes a disk to add. Exactly one of SizeBytes alone (blank),
// Image, or Volume makes its content; SizeBytes beside Image enlarges the copy.
type DiskSpec struct {
	SizeBytes    int64 // a multiple of 1 MiB
	Provisioning Provisioning
	Datastore    DatastoreID // empty: the machine's
	Image        VolumeID    // copied
	Volume       VolumeID    // used as it is
	Bus          string      // "virtio", "scsi", "sata", "nvme", …; empty: the driver's best
	ReadOnly     bool
	CDROM        bool // Volume is an ISO image
}

// DiskInfo is a disk as a machine has it.
type DiskInfo struct {
	ID           DiskID       `json:"id"`
	Volume       VolumeID     `json:"volume,omitempty"` // the image that is written to now
	Datastore    DatastoreID  `json:"datastore,omitempty"`
	SizeBytes    int64        `json:"sizeBytes"`
	UsedBytes    int64        `json:"usedBytes,omitempty"` // taken in the datastore, 0 if unknown
	Provisioning Provisioning `json:"provisioning,omitempty"`
	Format       string       `json:"format,omitempty"` // "qcow2", "vhdx", "vmdk", …
	Bus          string       `json:"bus,omitempty"`
	// Parent is the image that this one stands on: a snapshot's or a linked
	// clone's base. Empty for an independent image.
	Parent   VolumeID `json:"parent,omitempty"`
	ReadOnly bool     `json:"readOnly,omitempty"`
	CDROM    bool     `json:"cdrom,omitempty"`
}

// NICSpec describes a network adapter to add.
type NICSpec struct {
	Network NetworkID // empty: the platform's default network
	MAC     string    // "52:54:00:…"; empty: the platform makes one
	Model   string    // empty: the driver's best
}

// NICInfo is a network adapter as a machine has it.
type NICInfo struct {
	ID        NICID     `json:"id"`
	Network   NetworkID `json:"network,omitempty"`
	MAC       string    `json:"mac"`
	Model     string    `json:"model,omitempty"`
	Connected bool      `json:"connected"`
}

// AttachDisk adds a disk; the result is the disk as the machine has it.
func (m *VM) AttachDisk(ctx context.Context, d DiskSpec) *Task[DiskInfo] {
	return start(ctx, m.c, "disk.attach", m.ref(), DiskAttach, checkDisk("disk.attach", m.ref(), d), func(ctx context.Context, a DiskAttacher) (DriverTask, error) {
		return a.AttachDisk(ctx, m.id, d)
	}, func(ctx context.Context, s TaskState) (DiskInfo, error) {
		v, err := m.c.d.GetVM(ctx, m.id)
		if err != nil {
			return DiskInfo{}, err
		}
		for _, d := range v.Disks {
			if string(d.ID) == s.Result.ID {
				return d, nil
			}
		}
		return DiskInfo{}, Errorf(KindNotFound, s.Result, "the disk was attached and is gone again")
	})
}

// DetachDisk takes a disk from the machine and removes or keeps its image.
func (m *VM) DetachDisk(ctx context.Context, disk DiskID, p DiskPolicy) *Task[None] {
	bad := checkPolicy("disk.detach", disk.Ref(), p)
	if bad == nil {
		bad = checkID("disk.detach", disk.Ref())
	}
	return start(ctx, m.c, "disk.detach", m.ref(), DiskAttach, bad, func(ctx context.Context, a DiskAttacher) (DriverTask, error) {
		return a.DetachDisk(ctx, m.id, disk, p)
	}, noResult)
}

// GrowDisk enlarges a disk to a size in bytes, a multiple of 1 MiB. A smaller
// size than it has is ErrInvalidArgument: no platform shrinks disks safely.
func (m *VM) GrowDisk(ctx context.Context, disk DiskID, sizeBytes int64) *Task[None] {
	bad := checkID("disk.grow", disk.Ref())
	if bad == nil {
		bad = checkSize("disk.grow", disk.Ref(), "size", sizeBytes)
	}
	return start(ctx, m.c, "disk.grow", m.ref(), DiskGrow, bad, func(ctx context.Context, a DiskAttacher) (DriverTask, error) {
		return a.GrowDisk(ctx, m.id, disk, sizeBytes)
	}, noResult)
}

// AttachNIC adds a network adapter; the result is the adapter's ID.
func (m *VM) AttachNIC(ctx context.Context, n NICSpec) *Task[NICID] {
	return start(ctx, m.c, "nic.attach", m.ref(), NICAttach, checkNIC("nic.attach", m.ref(), n), func(ctx context.Context, a NICAttacher) (DriverTask, error) {
		return a.AttachNIC(ctx, m.id, n)
	}, func(_ context.Context, s TaskState) (NICID, error) { return NICID(s.Result.ID), nil })
}

// DetachNIC removes a network adapter.
func (m *VM) DetachNIC(ctx context.Context, nic NICID) *Task[None] {
	return start(ctx, m.c, "nic.detach", m.ref(), NICAttach, checkID("nic.detach", nic.Ref()), func(ctx context.Context, a NICAttacher) (DriverTask, error) {
		return a.DetachNIC(ctx, m.id, nic)
	}, noResult)
}
