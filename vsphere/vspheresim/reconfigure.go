package vspheresim

import (
	"fmt"
	"path"
	"reflect"
	"time"

	"github.com/google/uuid"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// ReconfigVMTask checks the whole specification before anything changes. API reference: VirtualMachine.ReconfigVM_Task.
func (f *vmFront) ReconfigVMTask(ctx *simulator.Context, req *types.ReconfigVM_Task) soap.HasFault {
	s := f.sim
	return &methods.ReconfigVM_TaskBody{Res: &types.ReconfigVM_TaskResponse{Returnval: s.start(ctx,
		s.vmJob("ReconfigVM_Task", "reconfigure", req.This, false,
			func(vm *simulator.VirtualMachine) types.BaseMethodFault { return s.checkReconfigure(vm, &req.Spec) },
			func(ctx *simulator.Context, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
				spec := clone(req.Spec)
				return nil, s.reconfigure(ctx, vm, &spec)
			}))}}
}

func (s *Sim) checkReconfigure(vm *simulator.VirtualMachine, spec *types.VirtualMachineConfigSpec) types.BaseMethodFault {
	h := s.host(*vm.Runtime.Host)
	if vm.Config.Template && !onlyNotes(spec) {
		return new(types.NotSupported)
	}
	if spec.Name != "" && spec.Name != vm.Name {
		if f := s.checkName(spec.Name, folderOf(vm), vm.Self); f != nil {
			return f
		}
	}
	if f := s.checkSpec(spec, vm.Config, vm.Runtime.PowerState, h); f != nil {
		return f
	}
	if vm.Runtime.PowerState == poweredOn && (spec.MemoryAllocation != nil || isTrue(spec.MemoryReservationLockedToMax)) {
		// API reference: InsufficientMemoryResourcesFault, a running machine's reservation is taken from its host at once.
		mem, _ := s.reserved(h, vm)
		if want, have := memoryReservation(powerOnConfig(vm.Config, spec)), h.Summary.Hardware.MemorySize>>20-mem; want > have {
			return &types.InsufficientMemoryResourcesFault{Unreserved: have << 20, Requested: want << 20}
		}
	}
	return s.checkDevices(spec.DeviceChange, vm.Config.Hardware.Device, vm.Runtime.PowerState, h, vm.Self)
}

// onlyNotes reports whether a specification has only what may be changed on a template: its name and its annotation. Source:
// github.com/vmware/govmomi, pull request 1431, which made its simulator refuse what vCenter was seen to refuse.
func onlyNotes(spec *types.VirtualMachineConfigSpec) bool {
	return reflect.DeepEqual(spec, &types.VirtualMachineConfigSpec{Name: spec.Name, Annotation: spec.Annotation})
}

// reconfigure applies a specification that has been checked. govmomi's simulator applies everything except the disks, which are applied here. A fault
// leaves the machine unchanged.
func (s *Sim) reconfigure(ctx *simulator.Context, vm *simulator.VirtualMachine, spec *types.VirtualMachineConfigSpec) types.BaseMethodFault {
	disks, keys := splitDisks(spec)
	if spec.Name != "" {
		spec.Name = escapeName(spec.Name)
	}
	normalize(spec, vm.Config.Hardware.Device)
	s.addresses(spec)

	var before mo.VirtualMachine
	s.lock(ctx, vm, func() { before = clone(vm.VirtualMachine) })
	was := s.filesOf(vm)
	body := vm.ReconfigVMTask(ctx, &types.ReconfigVM_Task{This: vm.Self, Spec: *spec})
	_, fault := s.native(ctx, body, func() ref { return body.(*methods.ReconfigVM_TaskBody).Res.Returnval })
	s.lock(ctx, vm, func() {
		if fault != nil {
			recent := vm.RecentTask
			vm.VirtualMachine = before
			vm.RecentTask = recent
			return
		}
		vm.Config.Hardware.Device = append([]types.BaseVirtualDevice(nil), vm.Config.Hardware.Device...)
		for _, c := range disks {
			s.applyDisk(ctx, vm, c, keys)
		}
		s.settle(vm, spec)
		s.announce(ctx, vm, before)
	})
	if fault == nil {
		s.removeUnused(&vm.VirtualMachine, destroyed(disks, was), s.filesOf(vm))
		s.touchFiles(&vm.VirtualMachine)
	}
	return fault
}

// destroyed is the files of disks that are to be deleted with the disk.
func destroyed(disks []*types.VirtualDeviceConfigSpec, was map[string]bool) map[string]bool {
	out := map[string]bool{}
	for _, c := range disks {
		if c.Operation != types.VirtualDeviceConfigSpecOperationRemove || c.FileOperation != types.VirtualDeviceConfigSpecFileOperationDestroy {
			continue
		}
		for _, f := range keysOf(c.Device.(*types.VirtualDisk)) {
			if was[f] {
				out[f] = true
			}
		}
	}
	return out
}

// splitDisks removes the disks from a specification. The keys are those that devices to be added have now: govmomi's simulator gives them others.
func splitDisks(spec *types.VirtualMachineConfigSpec) ([]*types.VirtualDeviceConfigSpec, map[int32]types.BaseVirtualDevice) {
	var disks []*types.VirtualDeviceConfigSpec
	var rest []types.BaseVirtualDeviceConfigSpec
	keys := map[int32]types.BaseVirtualDevice{}
	for _, bc := range spec.DeviceChange {
		c := bc.GetVirtualDeviceConfigSpec()
		if _, ok := c.Device.(*types.VirtualDisk); ok {
			disks = append(disks, c)
			continue
		}
		if c.Operation == types.VirtualDeviceConfigSpecOperationAdd {
			keys[c.Device.GetVirtualDevice().Key] = c.Device
		}
		rest = append(rest, bc)
	}
	spec.DeviceChange = rest
	return disks, keys
}

// normalize fills in what a client may leave out and govmomi's simulator needs.
func normalize(spec *types.VirtualMachineConfigSpec, devices []types.BaseVirtualDevice) {
	list := object.VirtualDeviceList(devices)
	for _, bc := range spec.DeviceChange {
		c := bc.GetVirtualDeviceConfigSpec()
		if c.Operation == types.VirtualDeviceConfigSpecOperationRemove {
			if old := list.FindByKey(c.Device.GetVirtualDevice().Key); old != nil {
				c.Device = clone(old)
			}
		}
	}
}

// addresses gives each added or changed adapter without an address one that no other adapter has. govmomi's simulator makes an address of three
// hexadecimal digits of the machine's UUID, so that two machines may have the same.
func (s *Sim) addresses(spec *types.VirtualMachineConfigSpec) {
	for _, bc := range spec.DeviceChange {
		c := bc.GetVirtualDeviceConfigSpec()
		card, ok := c.Device.(types.BaseVirtualEthernetCard)
		if !ok || c.Operation == types.VirtualDeviceConfigSpecOperationRemove {
			continue
		}
		if e := card.GetVirtualEthernetCard(); e.MacAddress == "" {
			e.MacAddress = s.newMAC()
		}
	}
}

// settle updates the properties that depend on a changed configuration. The caller holds the lock.
func (s *Sim) settle(vm *simulator.VirtualMachine, spec *types.VirtualMachineConfigSpec) {
	c := vm.Config
	if spec.InstanceUuid != "" {
		s.ownUuid(vm)
	}
	if spec.GuestId != "" {
		c.GuestFullName = spec.GuestId // there is no public list of the names
	}
	if c.GuestFullName == "" {
		c.GuestFullName = c.GuestId
	}
	if isTrue(c.MemoryReservationLockedToMax) && c.MemoryAllocation != nil {
		a := clone(*c.MemoryAllocation)
		a.Reservation = types.NewInt64(int64(c.Hardware.MemoryMB))
		c.MemoryAllocation = &a
	}
	for _, d := range c.Hardware.Device {
		if card, ok := d.(types.BaseVirtualEthernetCard); ok {
			if e := card.GetVirtualEthernetCard(); e.AddressType == "" || e.AddressType == string(types.VirtualEthernetCardMacTypeGenerated) {
				e.AddressType = string(types.VirtualEthernetCardMacTypeAssigned)
			}
		}
		if on := vm.Runtime.PowerState == poweredOn; !on {
			continue
		}
		if cn := d.GetVirtualDevice().Connectable; cn != nil && cn.StartConnected && cn.Status == "" && !cn.Connected {
			if _, nic := d.(types.BaseVirtualEthernetCard); nic {
				cn.Connected = true
			}
		}
	}
	versioned(vm)
	s.applyGuest(vm)
	s.derive(&vm.VirtualMachine)
}

// versioned gives the configuration of a machine a new version. API reference: VirtualMachineConfigInfo.changeVersion, "Each change to the
// configuration updates this value". Being a template and the files that its disks write are part of the configuration. The caller holds the lock.
func versioned(vm *simulator.VirtualMachine) {
	vm.Config.Modified = time.Now()
	vm.Config.ChangeVersion = vm.Config.Modified.UTC().Format(time.RFC3339Nano)
}

// applyDisk adds, changes or removes one disk. The caller holds the lock of the machine.
func (s *Sim) applyDisk(ctx *simulator.Context, vm *simulator.VirtualMachine, c *types.VirtualDeviceConfigSpec, keys map[int32]types.BaseVirtualDevice) {
	d := c.Device.(*types.VirtualDisk)
	list := object.VirtualDeviceList(vm.Config.Hardware.Device)
	switch c.Operation {
	case types.VirtualDeviceConfigSpecOperationRemove:
		old, _ := list.FindByKey(d.Key).(*types.VirtualDisk)
		vm.Config.Hardware.Device = list.Select(func(x types.BaseVirtualDevice) bool { return x.GetVirtualDevice().Key != d.Key })
		if old == nil {
			return
		}
		if b := fileBacking(old); b != nil && c.FileOperation != types.VirtualDeviceConfigSpecFileOperationDestroy {
			s.loose[key(b)] = looseDisk{backing: clone(b), size: old.CapacityInBytes}
		}
		c.Device = clone(old)
	case types.VirtualDeviceConfigSpecOperationEdit:
		i := indexOf(list, d.Key)
		if i < 0 {
			return
		}
		old := list[i].(*types.VirtualDisk)
		n := clone(old)
		if size := wantedSize(d, old); size > 0 {
			n.CapacityInBytes, n.CapacityInKB = size, size>>10
		}
		if d.Shares != nil {
			n.Shares = d.Shares
		}
		if d.StorageIOAllocation != nil {
			n.StorageIOAllocation = d.StorageIOAllocation
		}
		if b, nb := fileBacking(d), fileBacking(n); b != nil && nb != nil && b.DiskMode != "" {
			nb.DiskMode, nb.Sharing = b.DiskMode, b.Sharing
		}
		vm.Config.Hardware.Device[i] = n
	case types.VirtualDeviceConfigSpecOperationAdd:
		s.addDisk(ctx, vm, c, d, keys)
	}
}

func indexOf(list object.VirtualDeviceList, key int32) int {
	for i, d := range list {
		if d.GetVirtualDevice().Key == key {
			return i
		}
	}
	return -1
}

// looseDisk is a disk that no machine has.
type looseDisk struct {
	backing *types.VirtualDiskFlatVer2BackingInfo
	size    int64
}

func (s *Sim) addDisk(ctx *simulator.Context, vm *simulator.VirtualMachine, c *types.VirtualDeviceConfigSpec, d *types.VirtualDisk, keys map[int32]types.BaseVirtualDevice) {
	list := object.VirtualDeviceList(vm.Config.Hardware.Device)
	if x, ok := keys[d.ControllerKey]; ok {
		d.ControllerKey = x.GetVirtualDevice().Key
	}
	if d.UnitNumber == nil {
		d.UnitNumber = types.NewInt32(freeUnit(list, d.ControllerKey))
	}
	d.Key = 2000
	for list.FindByKey(d.Key) != nil {
		d.Key++
	}
	s.fileDisk(ctx, vm, c, d)
	d.DeviceInfo = &types.Description{
		Label:   fmt.Sprintf("Hard disk %d", len(disksOf(list))+1),
		Summary: fmt.Sprintf("%d KB", d.CapacityInKB),
	}
	if d.Shares == nil {
		d.Shares = &types.SharesInfo{Shares: 1000, Level: types.SharesLevelNormal}
	}
	vm.Config.Hardware.Device = append(list, d)
}

func freeUnit(list object.VirtualDeviceList, controller int32) int32 {
	for u := int32(0); ; u++ {
		taken := u == controllerUnit
		for _, d := range list {
			x := d.GetVirtualDevice()
			taken = taken || x.ControllerKey == controller && x.UnitNumber != nil && *x.UnitNumber == u
		}
		if !taken {
			return u
		}
	}
}

// fileDisk gives a new disk its file: a new one, a child of another, or one that exists.
func (s *Sim) fileDisk(ctx *simulator.Context, vm *simulator.VirtualMachine, c *types.VirtualDeviceConfigSpec, d *types.VirtualDisk) {
	b := fileBacking(d)
	if b == nil {
		d.CapacityInBytes = wantedSize(d, nil)
		d.CapacityInKB = d.CapacityInBytes >> 10
		return
	}
	h := s.host(*vm.Runtime.Host)
	dir := vmDir(&vm.VirtualMachine)
	p := dsPath(b.FileName)
	if b.Datastore != nil && b.Datastore.Value != "" && p.Datastore == "" {
		p.Datastore = s.datastore(*b.Datastore).Name
	}
	if p.Datastore == "" {
		p.Datastore = dir.Datastore
	}
	if p.Path == "" || path.Ext(p.Path) != ".vmdk" {
		b.FileName = s.freeDiskName(vm, p.Datastore, path.Join(dir.Path))
	}
	if ds := s.datastoreByName(h, p.Datastore); ds != nil {
		b.Datastore = &ds.Self
	}
	no := false
	for _, f := range []**bool{&b.EagerlyScrub, &b.ThinProvisioned, &b.WriteThrough, &b.Split, &b.DigestEnabled} {
		if *f == nil {
			*f = &no
		}
	}
	if b.DiskMode == "" {
		b.DiskMode = string(types.VirtualDiskModePersistent)
	}
	switch {
	case c.FileOperation == "":
		if old, size := s.knownDisk(ctx, vm, b.FileName); old != nil {
			mode := b.DiskMode
			*b = *clone(old)
			b.DiskMode = mode
			d.CapacityInBytes = size
		}
	case b.Parent != nil:
		if parent, size := s.knownDisk(ctx, vm, b.Parent.FileName); parent != nil {
			n := child(parent, b.FileName, *b.Datastore)
			n.DiskMode = b.DiskMode
			*b = *n
			delete(s.blocks, key(b))
			d.CapacityInBytes = size
		}
	default:
		d.CapacityInBytes = wantedSize(d, nil)
		delete(s.blocks, key(b))
		b.Uuid, b.ContentId = uuid.NewString(), newContentID()
	}
	d.CapacityInKB = d.CapacityInBytes >> 10
	delete(s.loose, key(b))
}

func (s *Sim) freeDiskName(vm *simulator.VirtualMachine, datastore, dir string) string {
	used := s.filesOf(vm)
	for i := 0; ; i++ {
		name := vm.Config.Name
		if i > 0 {
			name += "_" + itoa(i)
		}
		file := dsJoin(datastore, dir, name+".vmdk")
		if h := s.host(*vm.Runtime.Host); !used[s.keyAt(h, file)] && !s.onDisk(h, file) {
			return file
		}
	}
}

// knownDisk is the backing and the size of a disk by its file.
func (s *Sim) knownDisk(ctx *simulator.Context, vm *simulator.VirtualMachine, file string) (*types.VirtualDiskFlatVer2BackingInfo, int64) {
	at := s.keyAt(s.host(*vm.Runtime.Host), file)
	if l, ok := s.loose[at]; ok {
		return l.backing, l.size
	}
	for _, m := range s.allVMs() {
		for _, c := range s.configsOf(m) {
			for _, d := range disksOf(c.Hardware.Device) {
				for b := fileBacking(d); b != nil; b = b.Parent {
					if key(b) == at {
						return b, d.CapacityInBytes
					}
				}
			}
		}
	}
	b := &types.VirtualDiskFlatVer2BackingInfo{DiskMode: string(types.VirtualDiskModePersistent), Uuid: uuid.NewString(), ContentId: newContentID()}
	b.FileName = file
	if ds := s.datastoreByName(s.host(*vm.Runtime.Host), dsPath(file).Datastore); ds != nil {
		b.Datastore = &ds.Self
	}
	dc := s.datacenterOf(vm)
	if desc, _, fault := s.registry().FileManager().DiskDescriptor(ctx, &dc.Self, file); fault == nil {
		return b, int64(desc.Capacity())
	}
	return b, 0
}

// diskExists reports whether a file is a disk that can be attached.
func (s *Sim) diskExists(h *simulator.HostSystem, file string) bool {
	at := s.keyAt(h, file)
	if _, ok := s.loose[at]; ok {
		return true
	}
	for _, vm := range s.allVMs() {
		if s.filesOf(vm)[at] {
			return true
		}
	}
	return s.onDisk(h, file)
}

func (s *Sim) onDisk(h *simulator.HostSystem, file string) bool {
	d := dsPath(file)
	p := s.fileIn(s.datastoreByName(h, d.Datastore), d.Path)
	if p == "" {
		return false
	}
	_, err := s.root.Stat(p)
	return err == nil
}
