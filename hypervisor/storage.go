package hypervisor

import (
	"context"
	"iter"

	"github.com/anyvisor/anyvisor/hypervisor/op"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// DatastoreInfo is a place for disk images.
type DatastoreInfo struct {
	ID            DatastoreID `json:"id"`
	Name          string      `json:"name"`
	Type          string      `json:"type,omitempty"` // the platform's type: "dir", "VMFS", "lvm", "nfs", …
	CapacityBytes int64       `json:"capacityBytes"`
	FreeBytes     int64       `json:"freeBytes"`
	Hosts         []HostID    `json:"hosts,omitempty"` // hosts that reach it
	Shared        bool        `json:"shared"`          // reached by more than one host
	Accessible    bool        `json:"accessible"`
}

// VolumeInfo is a disk image.
type VolumeInfo struct {
	ID        VolumeID    `json:"id"`
	Name      string      `json:"name"`
	Datastore DatastoreID `json:"datastore"`
	SizeBytes int64       `json:"sizeBytes"` // as the guest sees it
	UsedBytes int64       `json:"usedBytes"`
	// Provisioning is empty where the platform does not report it for images.
	Provisioning Provisioning `json:"provisioning,omitempty"`
	Format       string       `json:"format,omitempty"`
	Parent       VolumeID     `json:"parent,omitempty"` // the next image in the backing chain
}

// VolumeSpec describes an image to make.
type VolumeSpec struct {
	Name         string
	Datastore    DatastoreID
	SizeBytes    int64
	Provisioning Provisioning
	From         VolumeID // the image to copy
}

// Dependencies lists the backing chains of a machine's disks.
type Dependencies struct {
	Volumes []VolumeDependency `json:"volumes"`
}

// VolumeDependency is one image of a machine's backing chains.
type VolumeDependency struct {
	Volume    VolumeID `json:"volume"`
	Disk      DiskID   `json:"disk"`
	Parent    VolumeID `json:"parent,omitempty"`
	Depth     int      `json:"depth"` // number of images below it
	SizeBytes int64    `json:"sizeBytes,omitempty"`
	// Dependants are the snapshots and other machines (linked clones) that
	// would break without this image.
	Dependants []Ref `json:"dependants,omitempty"`
}

// Datastores lists the places for disk images.
func (c *Client) Datastores(ctx context.Context) iter.Seq2[DatastoreInfo, error] {
	return list(ctx, c, op.DatastoreList, capability.DatastoreList, func(ctx context.Context, d StorageLister) ([]DatastoreInfo, error) { return d.Datastores(ctx) })
}

// Volumes lists the disk images of a datastore, or of all for the empty ID.
func (c *Client) Volumes(ctx context.Context, ds DatastoreID) iter.Seq2[VolumeInfo, error] {
	return list(ctx, c, op.VolumeList, capability.VolumeManage, func(ctx context.Context, d StorageManager) ([]VolumeInfo, error) { return d.Volumes(ctx, ds) })
}

// CreateVolume makes a disk image; the result is its ID.
func (c *Client) CreateVolume(ctx context.Context, s VolumeSpec) *Task[VolumeID] {
	return start(ctx, c, op.VolumeCreate, Ref{Kind: ObjectVolume, Name: s.Name}, capability.VolumeManage, checkVolume(s), func(ctx context.Context, d StorageManager) (DriverTask, error) {
		return d.CreateVolume(ctx, s)
	}, func(_ context.Context, st TaskState) (VolumeID, error) { return VolumeID(st.Result.ID), nil })
}

// DeleteVolume removes a disk image. An image that a machine uses or that
// backs others is refused with ErrBusy.
func (c *Client) DeleteVolume(ctx context.Context, id VolumeID) *Task[None] {
	return start(ctx, c, op.VolumeDelete, id.Ref(), capability.VolumeManage, nil, func(ctx context.Context, d StorageManager) (DriverTask, error) {
		return d.DeleteVolume(ctx, id)
	}, noResult)
}
