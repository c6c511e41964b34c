package hypervisor

import (
	"context"
	"iter"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor/op"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// DeviceClass is what a device is for, from its PCI class code.
type DeviceClass string

const (
	ClassAny         DeviceClass = ""
	ClassDisplay     DeviceClass = "display"     // PCI class 03
	ClassNetwork     DeviceClass = "network"     // 02
	ClassStorage     DeviceClass = "storage"     // 01
	ClassOther       DeviceClass = "other"       // any other
	ClassAccelerator DeviceClass = "accelerator" // 12
)

// ClassOfPCI maps a PCI class code (24 bits: class, subclass, interface; PCI
// Code and ID Assignment Specification, section 1) to a DeviceClass.
func ClassOfPCI(code uint32) DeviceClass {
	switch code >> 16 & 0xff {
	case 0x01:
		return ClassStorage
	case 0x02:
		return ClassNetwork
	case 0x03:
		return ClassDisplay
	case 0x12:
		return ClassAccelerator
	}
	return ClassOther
}

// DeviceKind is how a device can be given to a machine.
type DeviceKind string

const (
	DeviceKindPCI  DeviceKind = "pci"
	DeviceKindVF   DeviceKind = "vf"   // SR-IOV
	DeviceKindVGPU DeviceKind = "vgpu" // can be split into profiles: vGPU, mdev, partition
)

// VGPUProfile is a share of a GPU.
type VGPUProfile struct {
	ID        string `json:"id"` // as DeviceRequest.Profile takes it
	Name      string `json:"name"`
	Bytes     int64  `json:"bytes,omitempty"` // of frame buffer
	Max       int    `json:"max"`             // on an empty device; 0 where it isn't reported
	Available int    `json:"available"`       // now
}

// DeviceInfo is a device of a host as it was observed.
type DeviceInfo struct {
	ID          DeviceID    `json:"id"`
	Host        HostID      `json:"host"`
	Kind        DeviceKind  `json:"kind"`
	Class       DeviceClass `json:"class"`
	ClassCode   uint32      `json:"classCode,omitempty"` // PCI class, 24 bits
	Vendor      string      `json:"vendor"`              // four hex digits: "10de"
	Product     string      `json:"product"`             // four hex digits: "2330"
	VendorName  string      `json:"vendorName,omitempty"`
	ProductName string      `json:"productName,omitempty"`
	Address     string      `json:"address,omitempty"` // "0000:81:00.0"
	NUMANode    int         `json:"numaNode"`          // -1 if unknown or none
	IOMMUGroup  int         `json:"iommuGroup"`        // -1 if unknown or none
	// GroupPeers are the other devices of the IOMMU group. They can only be
	// assigned together.
	GroupPeers []DeviceID    `json:"groupPeers,omitempty"`
	Parent     DeviceID      `json:"parent,omitempty"` // of a virtual function: its physical function
	MaxVFs     int           `json:"maxVFs,omitempty"`
	VFs        int           `json:"vfs,omitempty"`
	Profiles   []VGPUProfile `json:"profiles,omitempty"`
	BARBytes   int64         `json:"barBytes,omitempty"` // of all memory regions
	UsedBy     []Ref         `json:"usedBy,omitempty"`   // machines, or the host
	Driver     string        `json:"driver,omitempty"`   // on the host
	Assignable bool          `json:"assignable"`         // now
	Reason     ReasonCode    `json:"reason,omitempty"`   // why not
	Detail     string        `json:"detail,omitempty"`   // the same for people, with the remedy
}

// DeviceFilter narrows a listing of devices. Empty fields match all.
type DeviceFilter struct {
	Host            HostID
	ID              DeviceID
	Class           DeviceClass
	Kind            DeviceKind
	Vendor, Product string // four hex digits
	Profile         string // only devices that offer it
	Assignable      bool   // only those that are assignable now
}

// Match reports whether a device passes the filter.
func (f DeviceFilter) Match(d DeviceInfo) bool {
	if f.Profile != "" {
		ok := false
		for _, p := range d.Profiles {
			ok = ok || p.ID == f.Profile || p.Name == f.Profile
		}
		if !ok {
			return false
		}
	}
	return (f.Host == "" || f.Host == d.Host) && (f.ID == "" || f.ID == d.ID) && (f.Class == "" || f.Class == d.Class) &&
		(f.Kind == "" || f.Kind == d.Kind) && (f.Vendor == "" || strings.EqualFold(f.Vendor, d.Vendor)) &&
		(f.Product == "" || strings.EqualFold(f.Product, d.Product)) && (!f.Assignable || d.Assignable)
}

// DeviceRequest asks for a device by ID, by kind (vendor, product, class), or
// by vGPU profile. A request by kind leaves the choice of the host free.
type DeviceRequest struct {
	ID              DeviceID
	Vendor, Product string // four hex digits
	Class           DeviceClass
	Profile         string // a VGPUProfile's ID
	// VirtualFunction asks for an SR-IOV function of a device that matches.
	VirtualFunction bool
}

// Capability returns the capability that the request needs.
func (r DeviceRequest) Capability() capability.Name {
	switch {
	case r.Profile != "":
		return capability.DeviceVGPU
	case r.VirtualFunction:
		return capability.DeviceVF
	}
	return capability.DevicePCI
}

// AttachedDevice is a host device that is attached to a machine.
type AttachedDevice struct {
	ID      AttachmentID `json:"id"`
	Device  DeviceID     `json:"device,omitempty"` // empty while none is chosen (request by kind, machine off)
	Vendor  string       `json:"vendor,omitempty"`
	Product string       `json:"product,omitempty"`
	Profile string       `json:"profile,omitempty"`
	Address string       `json:"address,omitempty"` // on the host
}

// DevicePreparation is a change to a host device.
type DevicePreparation struct {
	Passthrough *bool // bind to the passthrough driver, or back to the host's
	VFs         *int  // number of SR-IOV virtual functions
}

// Devices lists the host devices that match the filter. Nil matches all.
func (c *Client) Devices(ctx context.Context, f *DeviceFilter) iter.Seq2[DeviceInfo, error] {
	var q DeviceFilter
	if f != nil {
		q = *f
	}
	return list(ctx, c, op.DeviceList, capability.DevicePCI, func(ctx context.Context, d DeviceAssigner) ([]DeviceInfo, error) {
		return d.Devices(ctx, q)
	})
}

// AttachDevice gives a host device to the machine. Task.Notes reports what
// else had to be set. If no device matches or none is free, the error is
// ErrExhausted. A device that can't be assigned is refused with
// ErrUnsupported and the reason that DeviceInfo gives.
func (m *VM) AttachDevice(ctx context.Context, r DeviceRequest) *Task[AttachedDevice] {
	return start(ctx, m.c, op.DeviceAttach, m.Ref(), r.Capability(), checkDevice(op.DeviceAttach, m.Ref(), r), func(ctx context.Context, d DeviceAssigner) (DriverTask, error) {
		return d.AttachDevice(ctx, m.id, r)
	}, attached(m, "device", func(v VMInfo) []AttachedDevice { return v.Devices }, func(a AttachedDevice) string { return string(a.ID) }))
}

// DetachDevice takes a host device from the machine.
func (m *VM) DetachDevice(ctx context.Context, a AttachmentID) *Task[None] {
	return start(ctx, m.c, op.DeviceDetach, m.Ref(), capability.DevicePCI, checkID(op.DeviceDetach, Ref{Kind: ObjectDevice, ID: string(a)}), func(ctx context.Context, d DeviceAssigner) (DriverTask, error) {
		return d.DetachDevice(ctx, m.id, a)
	}, noResult)
}

// PrepareDevice makes a host device assignable or gives it back to the host,
// and sets its number of SR-IOV functions. Task.Notes reports if the host
// must be restarted before the change takes effect.
func (c *Client) PrepareDevice(ctx context.Context, id DeviceID, p DevicePreparation) *Task[None] {
	var bad *Error
	if p.VFs != nil && *p.VFs < 0 {
		bad = invalid(op.DevicePrepare, id.Ref(), "VFs %d is negative", *p.VFs)
	}
	if bad == nil && p.VFs == nil && p.Passthrough == nil {
		bad = invalid(op.DevicePrepare, id.Ref(), "nothing to do: set Passthrough or VFs")
	}
	return start(ctx, c, op.DevicePrepare, id.Ref(), capability.DevicePrepare, bad, func(ctx context.Context, d DevicePreparer) (DriverTask, error) {
		return d.PrepareDevice(ctx, id, p)
	}, noResult)
}
