package vsphere

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
)

// link is one image of a disk's backing chain. The first one is written to.
type link struct {
	id   hypervisor.VolumeID
	file string
}

// chain follows the backing of a disk to its base (API reference,
// VirtualDiskFlatVer2BackingInfo.parent and its kin).
func chain(b types.BaseVirtualDeviceBackingInfo) []link {
	var out []link
	add := func(f types.VirtualDeviceFileBackingInfo) {
		store := ref{}
		if f.Datastore != nil {
			store = *f.Datastore
		}
		out = append(out, link{volumeID(store, f.FileName), f.FileName})
	}
	for b != nil && len(out) < 256 {
		switch x := b.(type) {
		case *types.VirtualDiskFlatVer2BackingInfo:
			if x == nil {
				return out
			}
			add(x.VirtualDeviceFileBackingInfo)
			b = nil
			if x.Parent != nil {
				b = x.Parent
			}
		case *types.VirtualDiskSeSparseBackingInfo:
			add(x.VirtualDeviceFileBackingInfo)
			b = nil
			if x.Parent != nil {
				b = x.Parent
			}
		case *types.VirtualDiskSparseVer2BackingInfo:
			add(x.VirtualDeviceFileBackingInfo)
			b = nil
			if x.Parent != nil {
				b = x.Parent
			}
		case *types.VirtualDiskRawDiskMappingVer1BackingInfo:
			add(x.VirtualDeviceFileBackingInfo)
			b = nil
			if x.Parent != nil {
				b = x.Parent
			}
		default:
			return out
		}
	}
	return out
}

func capacity(x *types.VirtualDisk) int64 {
	if x.CapacityInBytes > 0 {
		return x.CapacityInBytes
	}
	return x.CapacityInKB * hypervisor.KiB
}

func diskInfo(x *types.VirtualDisk, list []types.BaseVirtualDevice) hypervisor.DiskInfo {
	i := hypervisor.DiskInfo{ID: hypervisor.DiskID(keyID(x.Key)), SizeBytes: capacity(x), Format: "vmdk", Bus: busOf(x.ControllerKey, list)}
	c := chain(x.Backing)
	if len(c) > 0 {
		i.Volume = c[0].id
		store, _, _ := splitVolume(c[0].id)
		i.Datastore = hypervisor.DatastoreID(store.Value)
	}
	if len(c) > 1 {
		i.Parent = c[1].id
	}
	if b, ok := x.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok {
		i.Provisioning = hypervisor.ProvisioningThick
		if b.ThinProvisioned != nil && *b.ThinProvisioned {
			i.Provisioning = hypervisor.ProvisioningThin
		}
		i.ReadOnly = strings.Contains(b.DiskMode, "nonpersistent")
	}
	return i
}

// modeOf returns how a disk handles writes and snapshots (API reference,
// VirtualDiskMode).
func modeOf(x *types.VirtualDisk) string {
	switch b := x.Backing.(type) {
	case *types.VirtualDiskFlatVer2BackingInfo:
		return b.DiskMode
	case *types.VirtualDiskSeSparseBackingInfo:
		return b.DiskMode
	case *types.VirtualDiskSparseVer2BackingInfo:
		return b.DiskMode
	case *types.VirtualDiskRawDiskMappingVer1BackingInfo:
		return b.DiskMode
	}
	return ""
}

// raw reports whether a disk is a LUN in physical mode, which vSphere neither
// freezes nor copies.
func raw(x *types.VirtualDisk) bool {
	b, ok := x.Backing.(*types.VirtualDiskRawDiskMappingVer1BackingInfo)
	return ok && b.CompatibilityMode == string(types.VirtualDiskCompatibilityModePhysicalMode)
}

// imageOf returns the file that a disk writes to.
func imageOf(x *types.VirtualDisk) hypervisor.VolumeID {
	if c := chain(x.Backing); len(c) > 0 {
		return c[0].id
	}
	return ""
}

func disksOf(list []types.BaseVirtualDevice) []*types.VirtualDisk {
	var out []*types.VirtualDisk
	for _, dev := range list {
		if x, ok := dev.(*types.VirtualDisk); ok {
			out = append(out, x)
		}
	}
	return out
}

func findDevice(list []types.BaseVirtualDevice, id string) types.BaseVirtualDevice {
	for _, dev := range list {
		if keyID(dev.GetVirtualDevice().Key) == id {
			return dev
		}
	}
	return nil
}

// AttachDisk adds a disk with one reconfiguration, and copies its image
// before that if there is one.
func (d *driver) AttachDisk(ctx context.Context, id hypervisor.VMID, s hypervisor.DiskSpec) (hypervisor.DriverTask, error) {
	v, devs, err := d.read(ctx, id)
	if err != nil {
		return nil, err
	}
	added := func(ctx context.Context) (hypervisor.Ref, error) {
		now, err := d.one(ctx, vmRef(id), "config.hardware.device")
		if err != nil {
			return hypervisor.Ref{}, err
		}
		for _, dev := range get[types.ArrayOfVirtualDevice](now, "config.hardware.device").VirtualDevice {
			key := keyID(dev.GetVirtualDevice().Key)
			switch dev.(type) {
			case *types.VirtualDisk, *types.VirtualCdrom:
				if findDevice(devs.VirtualDevice, key) == nil {
					return hypervisor.DiskID(key).Ref(), nil
				}
			}
		}
		return hypervisor.Ref{}, fmt.Errorf("the server reports success and no new disk")
	}
	if s.Image != "" {
		if err := asTheImage(s); err != nil {
			return nil, err
		}
		if _, _, err := d.volumePath(ctx, s.Image); err != nil {
			return nil, err
		}
		return d.compose(ctx, "disk", id.Ref(), func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
			if err := d.addCopy(ctx, j, id, s); err != nil {
				return id.Ref(), err
			}
			return added(ctx)
		})
	}
	if s.CDROM && v.State != hypervisor.StateOff {
		return nil, hypervisor.Unsupported(id.Ref(), capability.DiskHotplug, hypervisor.ReasonVMState, "a CD-ROM drive is added while the machine is off")
	}
	b := newBuilder(devs.VirtualDevice)
	if err := d.addDisk(ctx, b, s); err != nil {
		return nil, err
	}
	return d.reconfigJob(ctx, id, types.VirtualMachineConfigSpec{DeviceChange: b.changes}, added)
}

// reconfigJob starts a reconfiguration. result returns what it made.
func (d *driver) reconfigJob(ctx context.Context, id hypervisor.VMID, spec types.VirtualMachineConfigSpec,
	result func(context.Context) (hypervisor.Ref, error), notes ...string) (hypervisor.DriverTask, error) {
	begin := func(ctx context.Context) (ref, error) { return d.startReconfigure(ctx, id, spec) }
	return d.start(ctx, id.Ref(), begin, func(j *serverTask) {
		j.notes = notes
		if result != nil {
			j.finish = func(ctx context.Context, _ types.TaskInfo, s *hypervisor.TaskState) {
				s.Result, s.Err = result(ctx)
			}
		}
	})
}

// DetachDisk removes a disk. With DeleteDisks, the same reconfiguration
// removes its file.
func (d *driver) DetachDisk(ctx context.Context, id hypervisor.VMID, disk hypervisor.DiskID, p hypervisor.DiskPolicy) (hypervisor.DriverTask, error) {
	v, devs, err := d.read(ctx, id)
	if err != nil {
		return nil, err
	}
	dev := findDevice(devs.VirtualDevice, string(disk))
	change := &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: dev}
	var notes []string
	switch x := dev.(type) {
	case *types.VirtualCdrom:
	case *types.VirtualDisk:
		switch {
		case p != hypervisor.DeleteDisks:
		case isReadOnly(x):
			notes = []string{keptNote(x)}
		default:
			if err := d.freeImages(ctx, id, v, disk.Ref(), x.Backing); err != nil {
				return nil, err
			}
			change.FileOperation = types.VirtualDeviceConfigSpecFileOperationDestroy
		}
	default:
		return nil, notFound(disk.Ref())
	}
	return d.reconfigJob(ctx, id, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{change}}, nil, notes...)
}

// isReadOnly reports whether a machine may only read a disk, or loses its
// changes when it is powered off. Other machines may have its image too.
func isReadOnly(x *types.VirtualDisk) bool {
	b, ok := x.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	return ok && strings.Contains(b.DiskMode, "nonpersistent")
}

func keptNote(x *types.VirtualDisk) string {
	return "image " + string(imageOf(x)) + " stays: the machine had it read-only"
}

// GrowDisk sets both capacities. A disk backed by a snapshot can't grow.
func (d *driver) GrowDisk(ctx context.Context, id hypervisor.VMID, disk hypervisor.DiskID, size int64) (hypervisor.DriverTask, error) {
	v, devs, err := d.read(ctx, id)
	if err != nil {
		return nil, err
	}
	x, ok := findDevice(devs.VirtualDevice, string(disk)).(*types.VirtualDisk)
	switch {
	case !ok:
		return nil, notFound(disk.Ref())
	case size == capacity(x):
		return hypervisor.DoneTask(newID("grow"), hypervisor.TaskState{Result: disk.Ref()}), nil
	case size < capacity(x):
		return nil, invalidArgument(disk.Ref(), "the disk has %d bytes: vSphere does not shrink disks", capacity(x))
	case v.Snapshots > 0:
		return nil, invalidState(disk.Ref(), "the machine has %d snapshots: vSphere grows no disk of a chain; delete them first", v.Snapshots)
	case len(chain(x.Backing)) > 1:
		return nil, invalidState(disk.Ref(), "the disk is that of a linked clone: vSphere grows no disk of a chain")
	}
	return d.reconfigJob(ctx, id, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{grown(x, size)}}, nil)
}

func grown(x *types.VirtualDisk, size int64) *types.VirtualDeviceConfigSpec {
	y := *x
	y.CapacityInBytes, y.CapacityInKB = size, size/hypervisor.KiB
	return &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: &y}
}

// growNew enlarges a disk that was just attached. It finds the disk by its
// image.
func (d *driver) growNew(ctx context.Context, id hypervisor.VMID, image hypervisor.VolumeID, size int64) error {
	p, err := d.one(ctx, vmRef(id), "config.hardware.device")
	if err != nil {
		return err
	}
	for _, x := range disksOf(get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice) {
		if imageOf(x) == image && capacity(x) < size {
			return d.change(ctx, id, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{grown(x, size)}})
		}
	}
	return nil
}

// addDisk adds a blank disk, an existing volume, or a CD-ROM.
func (d *driver) addDisk(ctx context.Context, b *builder, s hypervisor.DiskSpec) error {
	if s.Volume != "" {
		file, _, err := d.volumePath(ctx, s.Volume)
		if err != nil {
			return err
		}
		if iso := strings.EqualFold(path.Ext(file), ".iso"); iso != s.CDROM { // the server looks at neither before the machine starts
			return hypervisor.Errorf(hypervisor.ErrInvalidArgument, s.Volume.Ref(), "a CD-ROM drive takes an .iso file, a disk a .vmdk file")
		}
		return d.attachFile(b, s, file)
	}
	back := &types.VirtualDiskFlatVer2BackingInfo{DiskMode: string(types.VirtualDiskModePersistent)}
	switch s.Provisioning {
	case hypervisor.ProvisioningThick:
		back.ThinProvisioned = types.NewBool(false)
	default:
		back.ThinProvisioned = types.NewBool(true)
	}
	if s.Datastore != "" {
		store := storeRef(s.Datastore)
		name, _, err := d.storeAt(ctx, store)
		if err != nil {
			return err
		}
		back.Datastore, back.FileName = &store, "["+name+"]"
	}
	return b.disk(s, back, types.VirtualDeviceConfigSpecFileOperationCreate)
}

// attachFile adds an existing file.
func (d *driver) attachFile(b *builder, s hypervisor.DiskSpec, file string) error {
	if s.CDROM {
		return b.cdrom(s, &types.VirtualCdromIsoBackingInfo{VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: file}})
	}
	back := &types.VirtualDiskFlatVer2BackingInfo{DiskMode: string(types.VirtualDiskModePersistent),
		VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: file}}
	s.SizeBytes = 0
	return b.disk(s, back, "")
}

// newFileName returns a name for a copied image that the machine does not use
// yet.
func newFileName(base string, disks []*types.VirtualDisk) string {
	if _, rel, ok := strings.Cut(base, "] "); ok {
		base = rel
	}
	for n := len(disks); ; n++ {
		name := fmt.Sprintf("%s_image%d.vmdk", base, n)
		if !slices.ContainsFunc(disks, func(x *types.VirtualDisk) bool {
			c := chain(x.Backing)
			return len(c) > 0 && path.Base(c[0].file) == name
		}) {
			return name
		}
	}
}
