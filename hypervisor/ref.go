package hypervisor

import "strconv"

// IDs are the platform's own stable identifiers (a UUID, a managed object
// reference, a GUID) as text. Each kind of object has its own type, so that
// the compiler rejects a snapshot's ID where a machine's is needed.
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

// ObjectKind is the kind of object that a Ref refers to.
type ObjectKind string

const (
	ObjectVM        ObjectKind = "vm"
	ObjectTemplate  ObjectKind = "template"
	ObjectSnapshot  ObjectKind = "snapshot"
	ObjectHost      ObjectKind = "host"
	ObjectDatastore ObjectKind = "datastore"
	ObjectVolume    ObjectKind = "volume"
	ObjectNetwork   ObjectKind = "network"
	ObjectDevice    ObjectKind = "device"
	ObjectDisk      ObjectKind = "disk"
	ObjectNIC       ObjectKind = "nic"
	ObjectPool      ObjectKind = "pool"
	ObjectTask      ObjectKind = "task"
	ObjectClient    ObjectKind = "client"
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

// Ref returns r itself.
func (r Ref) Ref() Ref { return r }

// Ref of each typed ID.
func (id VMID) Ref() Ref        { return Ref{Kind: ObjectVM, ID: string(id)} }
func (id TemplateID) Ref() Ref  { return Ref{Kind: ObjectTemplate, ID: string(id)} }
func (id SnapshotID) Ref() Ref  { return Ref{Kind: ObjectSnapshot, ID: string(id)} }
func (id HostID) Ref() Ref      { return Ref{Kind: ObjectHost, ID: string(id)} }
func (id DatastoreID) Ref() Ref { return Ref{Kind: ObjectDatastore, ID: string(id)} }
func (id VolumeID) Ref() Ref    { return Ref{Kind: ObjectVolume, ID: string(id)} }
func (id NetworkID) Ref() Ref   { return Ref{Kind: ObjectNetwork, ID: string(id)} }
func (id PoolID) Ref() Ref      { return Ref{Kind: ObjectPool, ID: string(id)} }
func (id DeviceID) Ref() Ref    { return Ref{Kind: ObjectDevice, ID: string(id)} }
func (id DiskID) Ref() Ref      { return Ref{Kind: ObjectDisk, ID: string(id)} }
func (id NICID) Ref() Ref       { return Ref{Kind: ObjectNIC, ID: string(id)} }
func (id TaskID) Ref() Ref      { return Ref{Kind: ObjectTask, ID: string(id)} }

// Sizes are in bytes everywhere in this package.
const (
	KiB int64 = 1 << 10
	MiB int64 = 1 << 20
	GiB int64 = 1 << 30
	TiB int64 = 1 << 40
)
