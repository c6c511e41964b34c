package hypervisor

import "strconv"

// IDs are the platform's own stable identifiers (a UUID, a managed object
// reference, a GUID) as text. Each kind of object has its own type, so that
// the compiler keeps a snapshot's ID out of a machine's place.
type (
	VMID         string
	TemplateID   string
	SnapshotID   string
	HostID       string
	DatastoreID  string
	VolumeID     string // a disk image in a datastore
	NetworkID    string
	DeviceID     string // a device of a host
	AttachmentID string // a host device as seen in one machine
	DiskID       string // a disk as seen in one machine
	NICID        string
	PoolID       string // a cluster or resource pool
	TaskID       string
)

// ObjectKind tells what a Ref refers to.
type ObjectKind string

const (
	KindOfVM        ObjectKind = "vm"
	KindOfTemplate  ObjectKind = "template"
	KindOfSnapshot  ObjectKind = "snapshot"
	KindOfHost      ObjectKind = "host"
	KindOfDatastore ObjectKind = "datastore"
	KindOfVolume    ObjectKind = "volume"
	KindOfNetwork   ObjectKind = "network"
	KindOfDevice    ObjectKind = "device"
	KindOfDisk      ObjectKind = "disk"
	KindOfNIC       ObjectKind = "nic"
	KindOfPool      ObjectKind = "pool"
	KindOfTask      ObjectKind = "task"
	KindOfClient    ObjectKind = "client"
)

// Ref names any object. Name is for people and may be empty.
type Ref struct {
	Kind ObjectKind `json:"kind"`
	ID   string     `json:"id"`
	Name string     `json:"name,omitempty"`
}

// String formats as "vm 42 (web-01)".
func (r Ref) String() string {
	s := string(r.Kind)
	if r.ID != "" {
		s += " " + r.ID
	}
	if r.Name != "" {
		s += " (" + strconv.Quote(r.Name) + ")"
	}
	return s
}

// Refs of the typed IDs.
func (id VMID) Ref() Ref        { return Ref{Kind: KindOfVM, ID: string(id)} }
func (id TemplateID) Ref() Ref  { return Ref{Kind: KindOfTemplate, ID: string(id)} }
func (id SnapshotID) Ref() Ref  { return Ref{Kind: KindOfSnapshot, ID: string(id)} }
func (id HostID) Ref() Ref      { return Ref{Kind: KindOfHost, ID: string(id)} }
func (id DatastoreID) Ref() Ref { return Ref{Kind: KindOfDatastore, ID: string(id)} }
func (id VolumeID) Ref() Ref    { return Ref{Kind: KindOfVolume, ID: string(id)} }
func (id NetworkID) Ref() Ref   { return Ref{Kind: KindOfNetwork, ID: string(id)} }
func (id DeviceID) Ref() Ref    { return Ref{Kind: KindOfDevice, ID: string(id)} }
func (id DiskID) Ref() Ref      { return Ref{Kind: KindOfDisk, ID: string(id)} }
func (id NICID) Ref() Ref       { return Ref{Kind: KindOfNIC, ID: string(id)} }
func (id TaskID) Ref() Ref      { return Ref{Kind: KindOfTask, ID: string(id)} }

// Sizes are in bytes everywhere in this package.
const (
	KiB int64 = 1 << 10
	MiB int64 = 1 << 20
	GiB int64 = 1 << 30
	TiB int64 = 1 << 40
)
