package hypervisor

import (
	"context"

	"github.com/anyvisor/anyvisor/hypervisor/op"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// DiskPolicy decides what happens to disk images when the machine or disk is
// removed. It has no default: the caller must choose.
type DiskPolicy uint8

const (
	_ DiskPolicy = iota
	// DeleteDisks removes the images. Images that the machine had read-only,
	// that other machines may use, or that are a host's own disks are kept,
	// and Task.Notes names them.
	DeleteDisks
	KeepDisks // leave the images where they are, with their present content
)

// Provisioning is how a disk allocates its space.
type Provisioning string

const (
	ProvisioningAny   Provisioning = "" // the datastore's default
	ProvisioningThin  Provisioning = "thin"
	ProvisioningThick Provisioning = "thick" // all space allocated at once
)

// DiskSpec describes a disk to add. Its content is exactly one of these:
// blank (SizeBytes alone), a copy of Image, or Volume itself. SizeBytes
// beside Image enlarges the copy.
type DiskSpec struct {
	SizeBytes    int64 // a multiple of 1 MiB
	Provisioning Provisioning
	Datastore    DatastoreID // empty means the machine's datastore
	Image        VolumeID    // the image to copy
	Volume       VolumeID    // the image to use as it is
	Bus          string      // "virtio", "scsi", "sata", "nvme", …; empty means the driver's best
	ReadOnly     bool
	CDROM        bool // Volume is an ISO image
}

// DiskInfo is a disk of a machine.
type DiskInfo struct {
	ID           DiskID       `json:"id"`
	Volume       VolumeID     `json:"volume,omitempty"` // the image that is written to now
	Datastore    DatastoreID  `json:"datastore,omitempty"`
	SizeBytes    int64        `json:"sizeBytes"`
	UsedBytes    int64        `json:"usedBytes,omitempty"` // space taken in the datastore, 0 if unknown
	Provisioning Provisioning `json:"provisioning,omitempty"`
	Format       string       `json:"format,omitempty"` // "qcow2", "vhdx", "vmdk", …
	Bus          string       `json:"bus,omitempty"`
	// Parent is the next image in the backing chain: a snapshot's or a linked
	// clone's base. It is empty for an independent image.
	Parent   VolumeID `json:"parent,omitempty"`
	ReadOnly bool     `json:"readOnly,omitempty"`
	CDROM    bool     `json:"cdrom,omitempty"`
}

// NICSpec describes a network adapter to add.
type NICSpec struct {
	Network NetworkID // empty means the platform's default network
	MAC     string    // "52:54:00:…"; empty means that the platform makes one
	Model   string    // empty means the driver's best
}

// NICInfo is a network adapter of a machine.
type NICInfo struct {
	ID        NICID     `json:"id"`
	Network   NetworkID `json:"network,omitempty"`
	MAC       string    `json:"mac"`
	Model     string    `json:"model,omitempty"`
	Connected bool      `json:"connected"`
}

// AttachDisk adds a disk. The result describes the attached disk.
func (m *VM) AttachDisk(ctx context.Context, d DiskSpec) *Task[DiskInfo] {
	return start(ctx, m.c, op.DiskAttach, m.Ref(), capability.DiskAttach, checkDisk(op.DiskAttach, m.Ref(), d), func(ctx context.Context, a DiskAttacher) (DriverTask, error) {
		return a.AttachDisk(ctx, m.id, d)
	}, attached(m, "disk", func(v VMInfo) []DiskInfo { return v.Disks }, func(d DiskInfo) string { return string(d.ID) }))
}

// attached finds the object that a task has attached in the machine's present
// state.
func attached[T any](m *VM, what string, list func(VMInfo) []T, id func(T) string) func(context.Context, TaskState) (T, error) {
	return func(ctx context.Context, s TaskState) (T, error) {
		var none T
		v, err := m.c.d.GetVM(ctx, m.id)
		if err != nil {
			return none, err
		}
		for _, x := range list(v) {
			if id(x) == s.Result.ID {
				return x, nil
			}
		}
		return none, Errorf(ErrNotFound, s.Result, "the %s was attached and is gone again", what)
	}
}

// DetachDisk removes a disk from the machine, and deletes or keeps its image.
func (m *VM) DetachDisk(ctx context.Context, disk DiskID, p DiskPolicy) *Task[None] {
	bad := checkPolicy(op.DiskDetach, disk.Ref(), p)
	if bad == nil {
		bad = checkID(op.DiskDetach, disk.Ref())
	}
	return start(ctx, m.c, op.DiskDetach, m.Ref(), capability.DiskAttach, bad, func(ctx context.Context, a DiskAttacher) (DriverTask, error) {
		return a.DetachDisk(ctx, m.id, disk, p)
	}, noResult)
}

// GrowDisk enlarges a disk to a size in bytes, a multiple of 1 MiB. A size
// smaller than the present one is refused with ErrInvalidArgument: no
// platform shrinks disks safely.
func (m *VM) GrowDisk(ctx context.Context, disk DiskID, sizeBytes int64) *Task[None] {
	bad := checkID(op.DiskGrow, disk.Ref())
	if bad == nil {
		bad = checkSize(op.DiskGrow, disk.Ref(), "size", sizeBytes)
	}
	return start(ctx, m.c, op.DiskGrow, m.Ref(), capability.DiskGrow, bad, func(ctx context.Context, a DiskAttacher) (DriverTask, error) {
		return a.GrowDisk(ctx, m.id, disk, sizeBytes)
	}, noResult)
}

// AttachNIC adds a network adapter. The result describes the attached adapter.
func (m *VM) AttachNIC(ctx context.Context, n NICSpec) *Task[NICInfo] {
	return start(ctx, m.c, op.NICAttach, m.Ref(), capability.NICAttach, checkNIC(op.NICAttach, m.Ref(), n), func(ctx context.Context, a NICAttacher) (DriverTask, error) {
		return a.AttachNIC(ctx, m.id, n)
	}, attached(m, "adapter", func(v VMInfo) []NICInfo { return v.NICs }, func(n NICInfo) string { return string(n.ID) }))
}

// DetachNIC removes a network adapter.
func (m *VM) DetachNIC(ctx context.Context, nic NICID) *Task[None] {
	return start(ctx, m.c, op.NICDetach, m.Ref(), capability.NICAttach, checkID(op.NICDetach, nic.Ref()), func(ctx context.Context, a NICAttacher) (DriverTask, error) {
		return a.DetachNIC(ctx, m.id, nic)
	}, noResult)
}
