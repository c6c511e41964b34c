package vsphere

import (
	"context"
	"crypto/rand"
	"path"
	"strings"
	"sync"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// tokenBook knows the work that was started with a token and may not show in
// the inventory yet. Its lock spans the look-up and the start.
type tokenBook struct {
	mu    sync.Mutex
	tasks map[string]hypervisor.TaskID
}

// withToken starts work once per token: a machine that carries it, or work
// under way that will, is the result of the next call.
func (d *driver) withToken(ctx context.Context, token string, start func() (hypervisor.DriverTask, error)) (hypervisor.DriverTask, error) {
	if token == "" {
		return start()
	}
	d.tokens.mu.Lock()
	defer d.tokens.mu.Unlock()
	if id, ok := d.tokens.tasks[token]; ok {
		if t, err := d.Task(ctx, id); err == nil {
			if s, err := t.Next(ctx); err == nil && !s.Done {
				return d.Task(ctx, id)
			}
		}
		delete(d.tokens.tasks, token)
	}
	id, err := d.findToken(ctx, token)
	if err != nil {
		return nil, err
	}
	if id != "" {
		return hypervisor.DoneTask(newID("token"), hypervisor.TaskState{Result: id.Ref()}), nil
	}
	t, err := start()
	if err == nil {
		if d.tokens.tasks == nil {
			d.tokens.tasks = map[string]hypervisor.TaskID{}
		}
		d.tokens.tasks[token] = t.ID()
	}
	return t, err
}

// CreateVM is one CreateVM_Task. Images that are copied and a start are
// further steps.
func (d *driver) CreateVM(ctx context.Context, s hypervisor.VMSpec) (hypervisor.DriverTask, error) {
	on := hypervisor.Ref{Kind: hypervisor.KindOfVM, Name: s.Name}
	if s.Boot != nil {
		return nil, hypervisor.Unsupported(on, hypervisor.BootDirect, hypervisor.ReasonPlatform, noDirectBoot)
	}
	if r := s.DynamicMemory; r != nil && r.MaxBytes != s.MemoryBytes {
		return nil, hypervisor.Unsupported(on, hypervisor.MemoryDynamic, hypervisor.ReasonPlatform, dynamicIsReservation)
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
	req.Config.ExtraConfig = extraConfig(s.Labels, s.Token, call)
	begin := func(ctx context.Context) (ref, error) {
		return d.launch(ctx, at.folder, "createVm", d.made(call), func() (ref, error) {
			res, err := methods.CreateVM_Task(ctx, d.rt, &req)
			if err != nil {
				return ref{}, err
			}
			return res.Returnval, nil
		})
	}
	if !s.Start && len(copies) == 0 {
		self, err := begin(ctx)
		if err != nil {
			return nil, err
		}
		return d.job(self), nil
	}
	return d.group.Go(ctx, newID("create"), func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		info, err := d.step(ctx, report, begin)
		if err != nil {
			return hypervisor.TaskState{Err: err}
		}
		vm, _ := info.Result.(ref)
		id := hypervisor.VMID(vm.Value)
		made := hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: vm.Value, Name: s.Name}
		for _, c := range copies {
			report(hypervisor.TaskState{Fraction: -1, Phase: "copying"})
			if err := d.addCopy(ctx, id, c, report); err != nil {
				return hypervisor.TaskState{Err: err, Leftover: d.undo(ctx, made)}
			}
		}
		if s.Start {
			report(hypervisor.TaskState{Fraction: -1, Phase: "starting"})
			start := func(ctx context.Context) (ref, error) { return d.startPowerOn(ctx, id) }
			if _, err := d.step(ctx, report, start); err != nil { // it is complete, and off
				return hypervisor.TaskState{Err: err, Leftover: []hypervisor.Ref{made}}
			}
		}
		return hypervisor.TaskState{Result: id.Ref()}
	})
}

// undo removes a machine that was made and not finished, and names it where
// that fails.
func (d *driver) undo(ctx context.Context, made hypervisor.Ref) []hypervisor.Ref {
	ctx = context.WithoutCancel(ctx)
	res, err := methods.Destroy_Task(ctx, d.rt, &types.Destroy_Task{This: vmRef(hypervisor.VMID(made.ID))})
	if err == nil {
		_, err = d.await(ctx, res.Returnval)
	}
	if err != nil && !isNotFound(err) {
		return []hypervisor.Ref{made}
	}
	return nil
}

// guestID maps the portable names; anything else is vSphere's own (API
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

// newSpec makes the specification, and the disks that are copied afterwards.
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
	case hypervisor.UEFI:
		c.Firmware = string(types.GuestOsDescriptorFirmwareTypeEfi)
	case hypervisor.BIOS:
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

// addCopy copies an image into the machine's folder and attaches it.
func (d *driver) addCopy(ctx context.Context, id hypervisor.VMID, disk hypervisor.DiskSpec, report func(hypervisor.TaskState)) error {
	p, err := d.one(ctx, vmRef(id), "config.files.vmPathName", "datastore", "config.hardware.device", "name")
	if err != nil {
		return err
	}
	home := p.str("config.files.vmPathName")
	dir := path.Dir(home)
	if disk.Datastore != "" {
		name, err := d.storeName(ctx, storeRef(disk.Datastore))
		if err != nil {
			return err
		}
		dir = "[" + name + "] "
		if _, rel, ok := strings.Cut(path.Dir(home), "] "); ok {
			dir += rel
		}
	}
	_, from, err := d.volumePath(ctx, disk.Image)
	if err != nil {
		return err
	}
	dc, err := d.datacenterOf(ctx, vmRef(id))
	if err != nil {
		return err
	}
	to := strings.TrimSuffix(dir, "/") + "/" + newFileName(path.Base(dir), disksOf(get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice))
	if _, err = d.step(ctx, report, func(ctx context.Context) (ref, error) { return d.startCopy(ctx, from, to, dc) }); err != nil {
		return err
	}
	b := newBuilder(get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice)
	disk.Image = ""
	if err = d.attachFile(b, disk, to); err == nil {
		if err = d.change(ctx, id, types.VirtualMachineConfigSpec{DeviceChange: b.changes}); err == nil && disk.SizeBytes > 0 {
			err = d.growNew(ctx, id, to, disk.SizeBytes)
		}
	}
	if err != nil { // the copy is nobody's yet
		late := context.WithoutCancel(ctx)
		if r, derr := methods.DeleteVirtualDisk_Task(late, d.rt, &types.DeleteVirtualDisk_Task{This: *d.vc.ServiceContent.VirtualDiskManager, Name: to, Datacenter: dc}); derr == nil {
			_, _ = d.await(late, r.Returnval)
		}
	}
	return err
}

// startCopy starts the copy of an image.
func (d *driver) startCopy(ctx context.Context, from, to string, dc *ref) (ref, error) {
	res, err := methods.CopyVirtualDisk_Task(ctx, d.rt, &types.CopyVirtualDisk_Task{This: *d.vc.ServiceContent.VirtualDiskManager,
		SourceName: from, SourceDatacenter: dc, DestName: to, DestDatacenter: dc})
	if err != nil {
		return ref{}, err
	}
	return res.Returnval, nil
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

// datacenterOf returns the datacenter of a machine or datastore; nil on ESXi,
// which has one.
func (d *driver) datacenterOf(ctx context.Context, r ref) (*ref, error) {
	if !d.isVC() {
		return nil, nil
	}
	p, err := d.one(ctx, r, "parent")
	if err != nil {
		return nil, err
	}
	if err := d.folders.fresh(ctx, d); err != nil {
		return nil, err
	}
	dc := d.folders.datacenterOf(p.ref("parent"))
	if dc.Value == "" { // a folder that is new
		if err := d.folders.load(ctx, d); err != nil {
			return nil, err
		}
		dc = d.folders.datacenterOf(p.ref("parent"))
	}
	return &dc, nil
}
