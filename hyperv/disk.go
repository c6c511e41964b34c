package hyperv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// ResourceSubType values (os-win's constants, the classes of microsoft/wmi).
const (
	subSCSI       = "Microsoft:Hyper-V:Synthetic SCSI Controller"
	subIDE        = "Microsoft:Hyper-V:Emulated IDE Controller"
	subDrive      = "Microsoft:Hyper-V:Synthetic Disk Drive"
	subDVDDrive   = "Microsoft:Hyper-V:Synthetic DVD Drive"
	subVHD        = "Microsoft:Hyper-V:Virtual Hard Disk"
	subDVD        = "Microsoft:Hyper-V:Virtual CD/DVD Disk"
	subNIC        = "Microsoft:Hyper-V:Synthetic Ethernet Port"
	subLegacyNIC  = "Microsoft:Hyper-V:Emulated Ethernet Port"
	subConnection = "Microsoft:Hyper-V:Ethernet Connection"

	typeSCSI       = uint16(6)
	typeDVD        = uint16(16)
	typeDrive      = uint16(17)
	typeImage      = uint16(31)
	typeNIC        = uint16(10)
	typeConnection = uint16(33)
)

// Values of Msvm_VirtualHardDiskSettingData.Type and .Format.
const (
	vhdFixed        = uint16(2)
	vhdDynamic      = uint16(3)
	vhdDifferencing = uint16(4)
	formatVHDX      = uint16(3)
)

// measure asks the image service for the sizes and parents of disks. If an
// image is missing, its disk remains without them.
func (d *driver) measure(ctx context.Context, h *host, s cim.Session, disks []hypervisor.DiskInfo) error {
	if len(disks) == 0 {
		return nil
	}
	img, err := h.images(ctx, s)
	if err != nil {
		return err
	}
	var g errgroup.Group
	for i := range disks {
		_, path := splitID(string(disks[i].Volume))
		if path == "" || disks[i].CDROM {
			continue
		}
		g.Go(func() error {
			v, err := readImage(ctx, s, img, path)
			if err != nil {
				if refused(err) {
					return nil
				}
				return err
			}
			disks[i].SizeBytes = int64(v.Uint("MaxInternalSize"))
			disks[i].Provisioning = provisioning(v)
			if p := v.Str("ParentPath"); p != "" {
				disks[i].Parent = h.volume(p)
			}
			f, err := fileOf(ctx, s, path)
			if f != nil {
				disks[i].UsedBytes = int64(f.Uint("FileSize"))
			}
			return err
		})
	}
	return g.Wait()
}

// refused reports whether the server answered with a refusal.
func refused(err error) bool {
	var e *cim.Error
	return errors.As(err, &e)
}

// readImage reads what an image file contains about itself.
func readImage(ctx context.Context, s cim.Session, img cim.Ref, path string) (*cim.Instance, error) {
	r, err := cim.Again(func() (*cim.Result, error) {
		return cim.Call(ctx, s, img, "GetVirtualHardDiskSettingData", cim.Arg{Name: "Path", Value: path})
	})
	if err != nil {
		return nil, err
	}
	if job, ok := r.Job(); ok {
		if err := cim.WaitJob(ctx, s, job, cim.DefaultPoll, nil); err != nil {
			return nil, err
		}
	}
	all := r.Out.Insts("SettingData")
	if len(all) == 0 {
		return nil, &cim.Error{Op: "GetVirtualHardDiskSettingData", Return: 32779, Detail: path}
	}
	return all[0], nil
}

// fileOf finds a file through CIM_DataFile. It returns nil if there is none.
func fileOf(ctx context.Context, s cim.Session, path string) (*cim.Instance, error) {
	i, err := cim.First(s.Query(ctx, cim.CIMV2, cim.Select("CIM_DataFile", []string{"Name", "FileSize"}, "Name = "+cim.Quote(path))), path)
	if isGone(err) {
		return nil, nil
	}
	return i, err
}

// removeFile deletes a file. It is not an error if the file does not exist.
func (d *driver) removeFile(ctx context.Context, s cim.Session, path string) error {
	return d.removeOpen(ctx, s, path, time.Time{})
}

// removeOpen is like removeFile, for a file that the host may have open until
// then. The host keeps any image open for some time after it is done with it.
func (d *driver) removeOpen(ctx context.Context, s cim.Session, path string, until time.Time) error {
	if onShare(path) {
		return d.removeShared(ctx, s, path)
	}
	r := cim.Ref{Namespace: cim.CIMV2, Class: "CIM_DataFile", Keys: []cim.Key{{Name: "Name", Value: path}}}
	for step := 1; ; step++ {
		res, err := cim.Again(func() (*cim.Result, error) { return s.Invoke(ctx, r, "Delete") })
		switch {
		case isGone(err):
			return nil
		case err != nil:
			return err
		case res.Return == 0, res.Return == fileNotFound:
			return nil
		case res.Return != fileInUse || step >= refusals && time.Now().After(until) || d.poll.Next(ctx, step) != nil:
			return fileError("delete", path, res.Return)
		}
	}
}

// These are among the return values of CIM_DataFile's methods.
const (
	fileNotFound = 12
	fileInUse    = 15
)

// fileError explains a return value of CIM_DataFile's methods (CIM_DataFile
// reference, Delete method).
func fileError(what, path string, code uint32) error {
	k, why := hypervisor.ErrUnknown, ""
	switch code {
	case 2:
		k = hypervisor.ErrPermission
	case 10:
		k = hypervisor.ErrExists
	case fileInUse:
		k, why = hypervisor.ErrBusy, ": the host, or a machine, has it open"
	case 16, 21:
		k = hypervisor.ErrInvalidArgument
	}
	return hypervisor.Errorf(k, hypervisor.Ref{Kind: hypervisor.ObjectVolume, ID: path}, "%s %s: CIM_DataFile returned %d%s", what, path, code, why)
}

// checkDisks refuses disks before anything is made.
func (d *driver) checkDisks(ctx context.Context, h *host, on hypervisor.Ref, disks []hypervisor.DiskSpec, ds hypervisor.DatastoreID) error {
	for _, k := range disks {
		if k.Datastore == "" {
			k.Datastore = ds
		}
		if _, err := h.directory(k.Datastore); err != nil {
			return err
		}
		switch strings.ToLower(k.Bus) {
		case "", "scsi", "ide":
		default:
			return hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "Hyper-V has no bus %q: use scsi, ide, or leave it empty", k.Bus)
		}
		if k.ReadOnly && !k.CDROM {
			return hypervisor.Unsupported(on, capability.DiskAttach, hypervisor.ReasonPlatform, "Hyper-V attaches disks for writing only; CD images are read-only")
		}
		for _, v := range []hypervisor.VolumeID{k.Image, k.Volume} {
			if v == "" {
				continue
			}
			where, path, err := d.imageID(v)
			if err != nil {
				return err
			}
			if (formatOf(path) == "iso") != k.CDROM {
				return hypervisor.Errorf(hypervisor.ErrInvalidArgument, v.Ref(), "an .iso goes into a CD drive, and nothing else does")
			}
			if where != "" && where != h.id {
				return hypervisor.Errorf(hypervisor.ErrInvalidArgument, hypervisor.Ref{Kind: hypervisor.ObjectVolume, ID: string(v)}, "the image is on host %s, the machine on %s", where, h.id)
			}
			s, err := h.session(ctx)
			if err != nil {
				return err
			}
			if err := h.image(ctx, s, v, path); err != nil {
				return err
			}
		}
	}
	return nil
}

// newImage makes an image file. The undo removes it again.
func (o *op) newImage(path string, kv ...any) error {
	e := cim.NewEmbedded("Msvm_VirtualHardDiskSettingData", append([]any{"Path", path, "Format", formatVHDX}, kv...)...)
	return o.makeImage(path, "CreateVirtualHardDisk", cim.Arg{Name: "VirtualDiskSettingData", Value: e})
}

// copyImage copies an image with its whole backing chain into an independent
// one.
func (o *op) copyImage(from, to string, kind uint16) error {
	e := cim.NewEmbedded("Msvm_VirtualHardDiskSettingData", "Path", to, "Format", formatVHDX, "Type", kind)
	return o.makeImage(to, "ConvertVirtualHardDisk", cim.Arg{Name: "SourcePath", Value: from}, cim.Arg{Name: "VirtualDiskSettingData", Value: e})
}

// makeImage calls a method that makes a file. If its answer is lost, its job
// can't be distinguished from others, and the file may be half written. The
// undo then waits for every job that it could be.
func (o *op) makeImage(path, method string, args ...cim.Arg) error {
	img, err := o.h.images(o.ctx, o.s)
	if err != nil {
		return err
	}
	answered := true
	remove := func(ctx context.Context) error {
		if !answered {
			if err := o.d.quietImages(ctx, o.h, o.s, path); err != nil {
				return err
			}
		}
		return o.d.removeFile(ctx, o.s, path)
	}
	o.Remove(hypervisor.Ref{Kind: hypervisor.ObjectVolume, ID: string(o.h.volume(path))}, remove)
	_, err = o.call(unknown, img, method, args...)
	answered = !errors.Is(err, cim.ErrLost)
	return err
}

// attachDisk makes or uses the image and attaches it. It returns the disk's
// ID.
func (o *op) attachDisk(m *machine, k hypervisor.DiskSpec, name string) (hypervisor.DiskID, error) {
	dir, err := o.h.directory(k.Datastore)
	if err != nil {
		return "", err
	}
	kind := vhdDynamic
	if k.Provisioning == hypervisor.ProvisioningThick {
		kind = vhdFixed
	}
	var path string
	switch {
	case k.Volume != "":
		_, path = splitID(string(k.Volume))
	case k.Image != "":
		path = join(dir, fileName(name)+".vhdx")
		_, from := splitID(string(k.Image))
		if err := o.copyImage(from, path, kind); err != nil {
			return "", err
		}
		if k.SizeBytes > 0 {
			if err := o.growImage(path, k.SizeBytes); err != nil {
				return "", err
			}
		}
	default:
		path = join(dir, fileName(name)+".vhdx")
		if err := o.newImage(path, "Type", kind, "MaxInternalSize", uint64(k.SizeBytes)); err != nil {
			return "", err
		}
	}
	return o.plugDisk(m, path, k.Bus, k.CDROM)
}

// plugDisk adds a drive and puts the image into it.
func (o *op) plugDisk(m *machine, path, bus string, cdrom bool) (hypervisor.DiskID, error) {
	ctl, slot, err := o.slot(m, bus)
	if err != nil {
		return "", err
	}
	sub, typ, medium := subDrive, typeDrive, subVHD
	if cdrom {
		sub, typ, medium = subDVDDrive, typeDVD, subDVD
	}
	// A drive's InstanceID is that of its controller, with its place.
	tobe := hypervisor.DiskID(fmt.Sprintf(`%s\%d\D`, ctl.Key("InstanceID"), slot)).Ref()
	drive, err := o.addResource(m, tobe, cim.NewEmbedded("Msvm_ResourceAllocationSettingData",
		"ResourceType", typ, "ResourceSubType", sub, "Parent", ctl, "AddressOnParent", strconv.Itoa(slot)))
	if err != nil {
		return "", err
	}
	o.onFailureOf(m, hypervisor.DiskID(drive.Key("InstanceID")).Ref(), drive)
	disk, err := o.addResource(m, tobe, cim.NewEmbedded("Msvm_StorageAllocationSettingData",
		"ResourceType", typeImage, "ResourceSubType", medium, "Parent", drive, "HostResource", []string{path}))
	return hypervisor.DiskID(disk.Key("InstanceID")), err
}

// onFailureOf registers the removal of a part of the machine for a failure,
// unless the machine is removed too.
func (o *op) onFailureOf(m *machine, ref hypervisor.Ref, part cim.Ref) {
	if !m.fresh {
		o.Remove(ref, func(ctx context.Context) error {
			if err := m.quiet(ctx); err != nil { // a job that nobody sees may still add to it
				return err
			}
			return m.removeResources(ctx, part)
		})
	}
}

// slot finds a free place for a drive: on SCSI, adding a controller if there
// is none, or on IDE for the boot disk of generation 1, which can boot from
// nothing else.
func (o *op) slot(m *machine, bus string) (cim.Ref, int, error) {
	inv, err := readInventory(o.ctx, o.h, o.s, []int{rowSettings, rowSystems, rowResources}, only(m.id))
	if err != nil {
		return cim.Ref{}, 0, err
	}
	rows := inv.record(string(m.id)).rows[rowResources]
	used := map[string]map[string]bool{}
	drives := 0
	for _, r := range rows {
		if p, ok := r.Ref("Parent"); ok {
			id := strings.ToUpper(p.Key("InstanceID"))
			if used[id] == nil {
				used[id] = map[string]bool{}
			}
			used[id][r.Str("AddressOnParent")] = true
			if r.Str("ResourceSubType") == subDrive {
				drives++
			}
		}
	}
	want, slots := subSCSI, 64
	switch {
	case strings.EqualFold(bus, "ide") && m.gen2():
		return cim.Ref{}, 0, hypervisor.Errorf(hypervisor.ErrInvalidArgument, m.id.Ref(), "a generation 2 machine has no IDE: use scsi")
	case strings.EqualFold(bus, "ide"), bus == "" && !m.gen2() && drives == 0 && m.state == hypervisor.StateOff:
		want, slots = subIDE, 2
	}
	for _, r := range rows {
		if r.Str("ResourceSubType") != want {
			continue
		}
		for n := range slots {
			if !used[strings.ToUpper(r.Str("InstanceID"))][strconv.Itoa(n)] {
				return o.h.settingRef("Msvm_ResourceAllocationSettingData", r.Str("InstanceID")), n, nil
			}
		}
	}
	if want == subIDE {
		return cim.Ref{}, 0, hypervisor.Errorf(hypervisor.ErrExhausted, m.id.Ref(), "all IDE places are taken: use scsi")
	}
	if m.state != hypervisor.StateOff {
		return cim.Ref{}, 0, hypervisor.Errorf(hypervisor.ErrInvalidState, m.id.Ref(), "no place is left on the SCSI controllers, and one can be added only while the machine is off")
	}
	tobe := hypervisor.Ref{Kind: hypervisor.ObjectDisk, Name: "SCSI controller of " + m.name()}
	ctl, err := o.addResource(m, tobe, cim.NewEmbedded("Msvm_ResourceAllocationSettingData", "ResourceType", typeSCSI, "ResourceSubType", subSCSI))
	if err == nil {
		o.onFailureOf(m, tobe, ctl)
	}
	return ctl, 0, err
}

// addResource adds one resource and returns its reference. tobe names it as
// long as its ID is unknown. but are the resources that existed before, where
// e alone does not distinguish it from others.
func (o *op) addResource(m *machine, tobe hypervisor.Ref, e *cim.Embedded, but ...*cim.Instance) (_ cim.Ref, err error) {
	var added cim.Ref
	look := m.done(func(ctx context.Context) (_ bool, err error) {
		added, err = m.added(ctx, e, but)
		return !added.IsZero(), err
	})
	defer func() {
		if errors.Is(err, cim.ErrLost) && !m.fresh {
			o.Remove(tobe, func(ctx context.Context) error {
				if r, err := look.look(ctx); r == nil {
					return err
				}
				return m.removeResources(ctx, added)
			})
		}
	}()
	r, err := o.call(once(look), o.h.management(), "AddResourceSettings",
		cim.Arg{Name: "AffectedConfiguration", Value: m.settingsRef()}, cim.Arg{Name: "ResourceSettings", Value: []*cim.Embedded{e}})
	if err != nil || !added.IsZero() {
		return added, err
	}
	if ref, ok := r.Out.Ref("ResultingResourceSettings"); ok {
		ref.Server = o.h.name
		return ref, nil
	}
	job, ok := r.Job()
	if !ok {
		return cim.Ref{}, errors.New("hyperv: AddResourceSettings did not report what it added")
	}
	all, err := cim.JobResult(o.ctx, o.s, job, e.Class)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("hyperv: the job of AddResourceSettings did not report what it added")
	}
	if err != nil {
		return cim.Ref{}, err
	}
	return o.h.settingRef(e.Class, all[0].Str("InstanceID")), nil
}

// added finds a resource by its requested properties: its place below its
// parent, its identifier, or the host's device behind it. For a controller,
// which has nothing of its own, any empty one counts.
func (m *machine) added(ctx context.Context, e *cim.Embedded, but []*cim.Instance) (cim.Ref, error) {
	rows, err := cim.Collect(m.s.Query(ctx, cim.Virtualization, cim.Select(e.Class, nil, "InstanceID LIKE "+cim.LikePrefix("Microsoft:"+string(m.id)))))
	if err != nil {
		return cim.Ref{}, err
	}
	asked := &cim.Instance{Props: e.Props}
	same := func(r *cim.Instance, name string) bool {
		want := asked.Get(name)
		if want.IsNull() {
			return true
		}
		a, b := want.Refs(), r.Get(name).Refs()
		if len(a) > 0 && len(b) > 0 {
			return !slices.ContainsFunc(a[0].Keys, func(k cim.Key) bool { return !strings.EqualFold(k.Value, b[0].Key(k.Name)) })
		}
		return slices.EqualFunc(want.Strings(), r.Get(name).Strings(), strings.EqualFold)
	}
	for _, r := range rows {
		id := r.Str("InstanceID")
		old := slices.ContainsFunc(but, func(x *cim.Instance) bool { return strings.EqualFold(x.Str("InstanceID"), id) })
		used := slices.ContainsFunc(rows, func(x *cim.Instance) bool {
			p, ok := x.Ref("Parent")
			return ok && strings.EqualFold(p.Key("InstanceID"), id)
		})
		if !old && same(r, "ResourceSubType") && same(r, "Parent") && same(r, "AddressOnParent") && same(r, "VirtualSystemIdentifiers") && same(r, "HostResource") &&
			!(used && asked.Get("Parent").IsNull()) {
			return m.h.settingRef(e.Class, id), nil
		}
	}
	return cim.Ref{}, nil
}

func (m *machine) removeResources(ctx context.Context, refs ...cim.Ref) error {
	return m.ask(ctx, m.done(absent(m.s, refs[0])), m.h.management(), "RemoveResourceSettings", cim.Arg{Name: "ResourceSettings", Value: refs})
}

// putResource is like modifyResource, for an undo.
func (o *op) putResource(ctx context.Context, m *machine, e ...*cim.Embedded) error {
	return m.ask(ctx, m.set(e...), o.h.management(), "ModifyResourceSettings", cim.Arg{Name: "ResourceSettings", Value: e})
}

// modifyResource changes properties of resources of the machine.
func (o *op) modifyResource(m *machine, e ...*cim.Embedded) error {
	_, err := o.call(m.set(e...), o.h.management(), "ModifyResourceSettings", cim.Arg{Name: "ResourceSettings", Value: e})
	return err
}

func (o *op) growImage(path string, size int64) error {
	img, err := o.h.images(o.ctx, o.s)
	if err != nil {
		return err
	}
	_, err = o.call(o.d.grown(o.h, o.s, img, path, size), img, "ResizeVirtualHardDisk", cim.Arg{Name: "Path", Value: path}, cim.Arg{Name: "MaxInternalSize", Value: uint64(size)})
	return err
}

// grown is the trace of a call that resizes an image.
func (d *driver) grown(h *host, s cim.Session, img cim.Ref, path string, size int64) trace {
	return h.done(func(ctx context.Context) error { return d.quietImages(ctx, h, s, path) }, func(ctx context.Context) (bool, error) {
		v, err := readImage(ctx, s, img, path)
		return err == nil && v.Uint("MaxInternalSize") == uint64(size), err
	})
}

// provisioning returns how an image allocates its space, from its settings.
func provisioning(v *cim.Instance) hypervisor.Provisioning {
	if uint16(v.Uint("Type")) == vhdFixed {
		return hypervisor.ProvisioningThick
	}
	return hypervisor.ProvisioningThin
}
