package vsphere

import (
	"context"
	"crypto/rand"
	"fmt"
	"path"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
)

// withToken starts work once per token. The next call returns the machine
// that carries the token, or the work under way that will make it.
func (d *driver) withToken(ctx context.Context, token string, start func() (hypervisor.DriverTask, error)) (hypervisor.DriverTask, error) {
	return d.tokens.Once(ctx, token, d, func() (hypervisor.DriverTask, error) {
		if token == "" {
			return start()
		}
		id, err := d.findToken(ctx, token)
		if err != nil {
			return nil, err
		}
		if id != "" {
			return hypervisor.DoneTask(newID("token"), hypervisor.TaskState{Result: id.Ref()}), nil
		}
		return start()
	})
}

// CreateVM takes one CreateVM_Task. Copied images and a start are further
// steps.
func (d *driver) CreateVM(ctx context.Context, s hypervisor.VMSpec) (hypervisor.DriverTask, error) {
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, Name: s.Name}
	if s.Boot != nil {
		return nil, hypervisor.Unsupported(on, capability.BootDirect, hypervisor.ReasonPlatform, noDirectBoot)
	}
	if r := s.DynamicMemory; r != nil && r.MaxBytes != s.MemoryBytes {
		return nil, hypervisor.Unsupported(on, capability.MemoryDynamic, hypervisor.ReasonPlatform, dynamicIsReservation)
	}
	return d.withToken(ctx, s.Token, func() (hypervisor.DriverTask, error) { return d.create(ctx, on, s) })
}

func (d *driver) create(ctx context.Context, on hypervisor.Ref, s hypervisor.VMSpec) (hypervisor.DriverTask, error) {
	at, err := d.settle(ctx, s.Placement)
	if err != nil {
		return nil, err
	}
	spec, copies, err := d.newSpec(ctx, s, at)
	if err != nil {
		return nil, err
	}
	req := types.CreateVM_Task{This: at.folder, Config: spec, Pool: at.pool, Host: at.host}
	call := rand.Text()
	req.Config.ExtraConfig, req.Config.InstanceUuid = extraConfig(s.Labels, s.Token, call), bound(s.Token)
	begin := func(ctx context.Context) (ref, error) {
		return d.launchMachine(ctx, at.folder, "createVm", call, s.Name, func() (ref, error) {
			return taskOf(methods.CreateVM_Task(ctx, d.rt, &req))
		})
	}
	if !s.Start && len(copies) == 0 {
		return d.start(ctx, on, begin, nil)
	}
	return d.compose(ctx, "create", on, func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		info, err := d.step(ctx, j.Report, begin)
		if err != nil {
			return on, err
		}
		vm, _ := info.Result.(ref)
		made := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: vm.Value, Name: s.Name}
		id := hypervisor.VMID(vm.Value)
		j.Remove(made, func(ctx context.Context) error {
			_, err := d.step(ctx, nil, func(ctx context.Context) (ref, error) { return d.destroy(ctx, id) })
			return err
		})
		for _, c := range copies {
			j.Phase("copying", -1)
			if err := d.addCopy(ctx, j, id, c); err != nil {
				return made, err
			}
		}
		if j.Whole(); !s.Start {
			return id.Ref(), nil
		}
		j.Phase("starting", -1)
		if _, err := d.step(ctx, j.Report, func(ctx context.Context) (ref, error) { return d.startPowerOn(ctx, id) }); err != nil {
			j.Left(made) // it is complete, and off
			return made, err
		}
		return id.Ref(), nil
	})
}

// guestID maps the portable names. Any other name is vSphere's own (API
// reference, VirtualMachineGuestOsIdentifier).
func guestID(s string) string {
	switch s {
	case "":
		return string(types.VirtualMachineGuestOsIdentifierOtherGuest64)
	case "linux":
		return string(types.VirtualMachineGuestOsIdentifierOtherLinux64Guest)
	case "windows":
		return string(types.VirtualMachineGuestOsIdentifierWindows9Server64Guest)
	}
	return s
}

// newSpec makes the specification, and returns the disks to copy afterwards.
func (d *driver) newSpec(ctx context.Context, s hypervisor.VMSpec, at spot) (types.VirtualMachineConfigSpec, []hypervisor.DiskSpec, error) {
	c := types.VirtualMachineConfigSpec{
		Name: escape(s.Name), Annotation: s.Description, NumCPUs: int32(max(s.CPUs, 1)), MemoryMB: s.MemoryBytes / hypervisor.MiB,
		GuestId: guestID(s.GuestOS), Version: s.Machine, Files: &types.VirtualMachineFileInfo{VmPathName: "[" + at.name + "]"},
	}
	if s.MaxCPUs > max(s.CPUs, 1) {
		c.CpuHotAddEnabled = types.NewBool(true)
	}
	if s.MaxMemoryBytes > s.MemoryBytes {
		c.MemoryHotAddEnabled = types.NewBool(true)
	}
	if r := s.DynamicMemory; r != nil {
		c.MemoryAllocation = allocation(*r)
	}
	switch s.Firmware {
	case hypervisor.FirmwareUEFI:
		c.Firmware = string(types.GuestOsDescriptorFirmwareTypeEfi)
	case hypervisor.FirmwareBIOS:
		c.Firmware = string(types.GuestOsDescriptorFirmwareTypeBios)
	}
	if s.SecureBoot {
		c.Firmware = string(types.GuestOsDescriptorFirmwareTypeEfi)
		c.BootOptions = &types.VirtualMachineBootOptions{EfiSecureBootEnabled: types.NewBool(true)}
	}
	b := newBuilder(nil)
	var copies []hypervisor.DiskSpec
	for _, disk := range s.Disks {
		if disk.Image != "" {
			if err := asTheImage(disk); err != nil {
				return c, nil, err
			}
			if _, _, err := d.volumePath(ctx, disk.Image); err != nil {
				return c, nil, err
			}
			copies = append(copies, disk)
			continue
		}
		if err := d.addDisk(ctx, b, disk); err != nil {
			return c, nil, err
		}
	}
	for _, n := range s.NICs {
		card, err := d.newNIC(ctx, n, at.compute)
		if err != nil {
			return c, nil, err
		}
		b.add(card, "")
	}
	c.DeviceChange = b.changes
	return c, copies, nil
}

// asTheImage refuses what a copy of an image can't have.
func asTheImage(s hypervisor.DiskSpec) error {
	if s.Image != "" && s.Provisioning != "" {
		return hypervisor.Unsupported(s.Image.Ref(), capability.DiskAttach, hypervisor.ReasonPlatform, copiesAreAlike)
	}
	return nil
}

// addCopy copies an image into the machine's folder and attaches it.
func (d *driver) addCopy(ctx context.Context, j *job.Job, id hypervisor.VMID, disk hypervisor.DiskSpec) error {
	p, err := d.one(ctx, vmRef(id), "config.files.vmPathName", "datastore", "config.hardware.device", "name")
	if err != nil {
		return err
	}
	store := storeRef(disk.Datastore)
	if disk.Datastore == "" {
		if store, err = d.homeStore(ctx, p); err != nil {
			return err
		}
	}
	dir := path.Dir(string(volumeID(store, p.str("config.files.vmPathName"))))
	to := hypervisor.VolumeID(dir + "/" + newFileName(path.Base(dir), disksOf(get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice)))
	attached := false
	j.Remove(to.Ref(), func(ctx context.Context) error {
		if attached {
			return d.dropCopy(ctx, id, to)
		}
		_, err := d.step(ctx, nil, func(ctx context.Context) (ref, error) { return d.deleteDisk(ctx, to) })
		return err
	})
	image := disk.Image
	if _, err = d.step(ctx, j.Report, func(ctx context.Context) (ref, error) { return d.startCopy(ctx, image, to) }); err != nil {
		return err
	}
	b := newBuilder(get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice)
	disk.Image = ""
	file, _, err := d.volumePath(ctx, to)
	if err != nil {
		return err
	}
	if err = d.attachFile(b, disk, file); err != nil {
		return err
	}
	if err = d.change(ctx, id, types.VirtualMachineConfigSpec{DeviceChange: b.changes}); err != nil {
		return err
	}
	attached = true
	if disk.SizeBytes > 0 {
		return d.growNew(ctx, id, to, disk.SizeBytes)
	}
	return nil
}

// homeStore returns the datastore of a machine's own files. p has the
// machine's datastores and the path of its configuration.
func (d *driver) homeStore(ctx context.Context, p propMap) (ref, error) {
	stores := p.refs("datastore")
	if len(stores) == 1 {
		return stores[0], nil
	}
	names, err := d.storeNames(ctx, stores)
	if err != nil {
		return ref{}, err
	}
	home := p.str("config.files.vmPathName")
	if s, ok := homeOf(home, stores, names); ok {
		return s, nil
	}
	return ref{}, fmt.Errorf("no datastore of the machine has its configuration %q", home)
}

// dropCopy removes the disk with this image from a machine, and deletes it.
func (d *driver) dropCopy(ctx context.Context, id hypervisor.VMID, image hypervisor.VolumeID) error {
	p, err := d.one(ctx, vmRef(id), "config.hardware.device")
	if err != nil {
		return err
	}
	for _, x := range disksOf(get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice) {
		if imageOf(x) == image {
			return d.change(ctx, id, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{&types.VirtualDeviceConfigSpec{
				Operation: types.VirtualDeviceConfigSpecOperationRemove, FileOperation: types.VirtualDeviceConfigSpecFileOperationDestroy, Device: x}}})
		}
	}
	return nil
}

// startCopy starts the copy of an image, which may be in another datacenter.
func (d *driver) startCopy(ctx context.Context, from, to hypervisor.VolumeID) (ref, error) {
	src, srcDC, err := d.volumePath(ctx, from)
	if err != nil {
		return ref{}, err
	}
	dst, dstDC, err := d.volumePath(ctx, to)
	if err != nil {
		return ref{}, err
	}
	return d.launchNewDisk(ctx, to, "copyVirtualDisk", func() (ref, error) {
		return taskOf(methods.CopyVirtualDisk_Task(ctx, d.rt, &types.CopyVirtualDisk_Task{This: *d.vc.ServiceContent.VirtualDiskManager,
			SourceName: src, SourceDatacenter: srcDC, DestName: dst, DestDatacenter: dstDC}))
	})
}

// deleteDisk starts the deletion of a disk that no machine has.
func (d *driver) deleteDisk(ctx context.Context, id hypervisor.VolumeID) (ref, error) {
	file, dc, err := d.volumePath(ctx, id)
	if err != nil {
		return ref{}, err
	}
	return d.launchDisk(ctx, id, "deleteVirtualDisk", func(v *hypervisor.VolumeInfo) bool { return v == nil }, func() (ref, error) {
		return taskOf(methods.DeleteVirtualDisk_Task(ctx, d.rt, &types.DeleteVirtualDisk_Task{This: *d.vc.ServiceContent.VirtualDiskManager, Name: file, Datacenter: dc}))
	})
}

// change is a reconfiguration within work that this package composes.
func (d *driver) change(ctx context.Context, id hypervisor.VMID, spec types.VirtualMachineConfigSpec) error {
	_, err := d.step(ctx, nil, func(ctx context.Context) (ref, error) { return d.startReconfigure(ctx, id, spec) })
	return err
}

// reconfigure applies a specification and waits for it.
func (d *driver) reconfigure(ctx context.Context, id hypervisor.VMID, spec types.VirtualMachineConfigSpec) error {
	self, err := d.startReconfigure(ctx, id, spec)
	if err == nil {
		_, err = d.await(ctx, self)
	}
	return err
}
