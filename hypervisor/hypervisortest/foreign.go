package hypervisortest

import (
	"context"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// PartKind is the relation of a part to the machine that has it.
type PartKind string

const (
	// PartDisk is a disk, which VMInfo.Disks lists.
	PartDisk PartKind = "disk"
	// PartDevice is a device of a host, which VMInfo.Devices lists.
	PartDevice PartKind = "device"
	// PartSetting is anything else in the machine's definition: metadata, a
	// firmware file, a virtual device. No listing has a place for it.
	PartSetting PartKind = "setting"
	// PartSnapshot is a snapshot, which VM.Snapshots lists. A clone has none.
	PartSnapshot PartKind = "snapshot"
	// PartDependant is an image of another machine or tool whose backing
	// chain includes an image of the machine. It is not part of the machine:
	// nothing that is done to the machine changes it, and Dependencies names
	// it.
	PartDependant PartKind = "dependant"
)

// Foreign is a case of area foreign: a machine gets a part that another tool
// made, and every verb must handle it.
type Foreign struct {
	// Name is part of the names of rows: "raw-disk", "shared-image".
	Name string
	Kind PartKind
	// Snapshot is the name of a snapshot that Add takes of the machine with
	// the other tool. With PartDisk, the snapshot leaves the disk out.
	Snapshot string
	// Verbs are the rows to run, where a row takes long: "clone-full". Nil
	// means all.
	Verbs []string
	// Add adds the part to a machine that is off, by the platform's own means
	// and not through the Client. A row calls it once.
	Add func(ctx context.Context, id hypervisor.VMID) (*Part, error)
}

// Part is what the suite needs to know about a part. A function that is nil
// skips its check.
type Part struct {
	// Names are the words by which a reader recognizes the part: a disk's ID,
	// an image's path, a snapshot's name. A note, an error or a blocker names
	// the part if its text contains one of them, as a word and in any case.
	Names []string
	// SizeBytes is the size of a disk that VMInfo must report; 0 means any.
	SizeBytes int64
	// ReadOnly means that two machines may have the very same part.
	ReadOnly bool
	// Shared means that others need the part: it survives the machine,
	// whatever the DiskPolicy is.
	Shared bool
	// Look returns what a machine has in the part's place, or
	// hypervisor.ErrNotFound if it has nothing there.
	Look func(ctx context.Context, id hypervisor.VMID) (Place, error)
	// Left returns the content of what Add made outside of the machine's
	// definition, which others could lose. It returns hypervisor.ErrNotFound
	// if that is gone.
	Left func(ctx context.Context) (string, error)
	// Write changes the content of the part like the guest of a machine
	// would. The machine is off.
	Write func(ctx context.Context, id hypervisor.VMID, content string) error
	// Remove removes whatever is left of the part, in a machine that may be
	// gone and outside of it.
	Remove func(ctx context.Context) error
}

// Place is where and what a part is.
type Place struct {
	Where   string // an image's path, a device's address: two machines with one Where share the part
	Content string // the same as long as nobody has changed it
}
