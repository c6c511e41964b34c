package vsphere

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// otherTool works on a simulator as govc or a backup product does: with
// govmomi alone.
type otherTool struct {
	sim    *vspheresim.Sim
	g      *govmomi.Client
	images func(context.Context) ([]string, error)
	spec   func(string) hypervisor.VMSpec
	c      *hypervisor.Client
}

var toolSerial atomic.Uint64

func foreignCases(t hypervisortest.T, sim *vspheresim.Sim, b *hypervisortest.Backend) []hypervisortest.Foreign {
	g, err := govmomi.NewClient(t.Context(), sim.URL(), true)
	if err != nil {
		t.Fatalf("govmomi: %v", err)
	}
	t.Cleanup(func() { _ = g.Logout(context.WithoutCancel(t.Context())) })
	o := otherTool{sim, g, b.Images, b.Spec, b.Client}
	l := []hypervisortest.Foreign{
		{Name: "independent-disk", Kind: hypervisortest.PartDisk, Add: o.independent},
		{Name: "shared-disk", Kind: hypervisortest.PartDisk, Add: o.shared},
		{Name: "raw-disk", Kind: hypervisortest.PartDisk, Add: o.raw},
		{Name: "serial-port", Kind: hypervisortest.PartSetting, Add: o.serialPort},
		{Name: "metadata", Kind: hypervisortest.PartSetting, Add: o.metadata},
		{Name: "backup-snapshot", Kind: hypervisortest.PartSnapshot, Snapshot: "backup", Add: o.snapshot},
		{Name: "late-adapter", Kind: hypervisortest.PartSetting, Snapshot: "backup", Add: o.lateAdapter},
	}
	if !strings.Contains(b.Client.Describe().Product, "ESXi") { // which clones nothing
		l = append(l, hypervisortest.Foreign{Name: "child-image", Kind: hypervisortest.PartDependant, Add: o.child})
	}
	return l
}

// do calls f with a machine as govmomi has it.
func (o otherTool) do(ctx context.Context, id hypervisor.VMID, f func(context.Context, *object.VirtualMachine, *mo.VirtualMachine) error) error {
	vm := object.NewVirtualMachine(o.g.Client, vmRef(id))
	var m mo.VirtualMachine
	if err := vm.Properties(ctx, vm.Reference(), []string{"name", "config", "snapshot", "parent", "resourcePool"}, &m); err != nil {
		if strings.Contains(err.Error(), "has already been deleted") || strings.Contains(err.Error(), "ManagedObjectNotFound") {
			err = fmt.Errorf("%w: %w", hypervisor.ErrNotFound, err)
		}
		return err
	}
	return f(ctx, vm, &m)
}

func wait(ctx context.Context, t *object.Task, err error) error {
	if err != nil {
		return err
	}
	return t.Wait(ctx)
}

// place is a machine's second disk.
func (o otherTool) place(ctx context.Context, id hypervisor.VMID) (p hypervisortest.Place, err error) {
	err = o.do(ctx, id, func(_ context.Context, _ *object.VirtualMachine, m *mo.VirtualMachine) error {
		disks := disksOf(m.Config.Hardware.Device)
		if len(disks) < 2 {
			return fmt.Errorf("machine %s has one disk: %w", id, hypervisor.ErrNotFound)
		}
		if c := chain(disks[1].Backing); len(c) > 0 {
			p.Where = string(c[0].id)
		}
		p.Content, err = o.sim.ReadDisk(string(id), 1)
		return err
	})
	return p, err
}

// there is the content of an image that nobody but its machine can read: that
// it is there.
func (o otherTool) there(image string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		all, err := o.images(ctx)
		if err == nil && !slices.Contains(all, image) {
			err = fmt.Errorf("image %s: %w", image, hypervisor.ErrNotFound)
		}
		return "there", err
	}
}

// addDisk gives a machine a second disk of 16 MiB.
func (o otherTool) addDisk(ctx context.Context, id hypervisor.VMID, change func(*types.VirtualDisk) types.VirtualDeviceConfigSpecFileOperation) (*hypervisortest.Part, error) {
	p := &hypervisortest.Part{SizeBytes: 16 * hypervisor.MiB, Look: o.place,
		Write: func(_ context.Context, id hypervisor.VMID, s string) error { return o.sim.WriteDisk(string(id), 1, s) }}
	return p, o.do(ctx, id, func(ctx context.Context, vm *object.VirtualMachine, m *mo.VirtualMachine) error {
		devs := object.VirtualDeviceList(m.Config.Hardware.Device)
		ctl, err := devs.FindDiskController("")
		if err != nil {
			return err
		}
		d := devs.CreateDisk(ctl, *disksOf(devs)[0].Backing.(*types.VirtualDiskFlatVer2BackingInfo).Datastore, "")
		d.CapacityInKB = p.SizeBytes >> 10
		op := change(d)
		spec := types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
			&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, FileOperation: op, Device: d}}}
		t, err := vm.Reconfigure(ctx, spec)
		if err := wait(ctx, t, err); err != nil {
			return err
		}
		if devs, err = vm.Device(ctx); err != nil {
			return err
		}
		x := disksOf(devs)[1]
		p.Names = []string{"disk " + keyID(x.Key)}
		for _, l := range chain(x.Backing) {
			p.Names = append(p.Names, string(l.id), l.file)
		}
		if info, ok := x.DeviceInfo.(*types.Description); ok {
			p.Names = append(p.Names, info.Label)
		}
		return o.sim.WriteDisk(string(id), 1, "theirs")
	})
}

// independent is a disk that snapshots leave out.
func (o otherTool) independent(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	p, err := o.addDisk(ctx, id, func(d *types.VirtualDisk) types.VirtualDeviceConfigSpecFileOperation {
		d.Backing.(*types.VirtualDiskFlatVer2BackingInfo).DiskMode = string(types.VirtualDiskModeIndependent_persistent)
		return types.VirtualDeviceConfigSpecFileOperationCreate
	})
	if err == nil {
		p.Left = o.there(p.Names[1])
		p.Remove = o.deleteImage(p.Names[1])
	}
	return p, err
}

func (o otherTool) deleteImage(image string) func(context.Context) error {
	return func(ctx context.Context) error {
		all, err := o.images(ctx)
		if err != nil || !slices.Contains(all, image) {
			return err
		}
		_, err = o.c.DeleteVolume(ctx, hypervisor.VolumeID(image)).Wait(ctx)
		return err
	}
}

// raw is a disk of the storage array (RDM in physical mode), which snapshots
// and clones can't take.
func (o otherTool) raw(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	return o.addDisk(ctx, id, func(d *types.VirtualDisk) types.VirtualDeviceConfigSpecFileOperation {
		f := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo).VirtualDeviceFileBackingInfo
		f.FileName = o.inDir(id, "raw.vmdk")
		d.Backing = &types.VirtualDiskRawDiskMappingVer1BackingInfo{VirtualDeviceFileBackingInfo: f, DeviceName: "vml.0200000000600508b4000971fa0000a00000c10000485356323130",
			LunUuid: "0200000000600508b4000971fa0000a00000c10000485356323130", CompatibilityMode: string(types.VirtualDiskCompatibilityModePhysicalMode),
			DiskMode: string(types.VirtualDiskModeIndependent_persistent)}
		return types.VirtualDeviceConfigSpecFileOperationCreate
	})
}

// inDir is a path beside a machine's first disk.
func (o otherTool) inDir(id hypervisor.VMID, file string) (out string) {
	_ = o.do(context.Background(), id, func(_ context.Context, _ *object.VirtualMachine, m *mo.VirtualMachine) error {
		first := chain(disksOf(m.Config.Hardware.Device)[0].Backing)[0].file
		out = path.Join(path.Dir(first), file)
		return nil
	})
	return out
}

// shared is a disk that another machine writes to as well (multi-writer).
func (o otherTool) shared(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	spec := o.spec(fmt.Sprintf("holder-%d", toolSerial.Add(1)))
	i, err := o.c.VM(id).Info(ctx)
	if err != nil {
		return nil, err
	}
	for ds, err := range o.c.Datastores(ctx) { // not the machine's own
		if err != nil {
			return nil, err
		}
		if ds.ID != i.Disks[0].Datastore && ds.Accessible {
			spec.Placement.Datastore = ds.ID
		}
	}
	other, err := o.c.CreateVM(ctx, spec).Wait(ctx)
	if err != nil {
		return nil, err
	}
	multi := func(d *types.VirtualDisk) {
		b := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
		b.Sharing, b.ThinProvisioned, b.EagerlyScrub = string(types.VirtualDiskSharingSharingMultiWriter), types.NewBool(false), types.NewBool(true)
		b.DiskMode = string(types.VirtualDiskModeIndependent_persistent)
	}
	remove := func(ctx context.Context) error {
		err := o.do(ctx, id, func(ctx context.Context, vm *object.VirtualMachine, m *mo.VirtualMachine) error {
			for _, x := range disksOf(m.Config.Hardware.Device) {
				if b, ok := x.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok && b.Sharing != "" && b.Sharing != string(types.VirtualDiskSharingSharingNone) {
					if m.Config.Template { // whose devices can't be changed
						t, err := vm.Destroy(ctx)
						return wait(ctx, t, err)
					}
					return vm.RemoveDevice(ctx, true, x)
				}
			}
			return nil
		})
		if err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
			return err
		}
		_, err = other.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx)
		return err
	}
	first, err := o.addDisk(ctx, other.ID(), func(d *types.VirtualDisk) types.VirtualDeviceConfigSpecFileOperation {
		multi(d)
		return types.VirtualDeviceConfigSpecFileOperationCreate
	})
	if err != nil {
		return &hypervisortest.Part{Remove: remove}, err
	}
	p, err := o.addDisk(ctx, id, func(d *types.VirtualDisk) types.VirtualDeviceConfigSpecFileOperation {
		multi(d)
		d.Backing.(*types.VirtualDiskFlatVer2BackingInfo).FileName = first.Names[2]
		return ""
	})
	p.Remove, p.Shared, p.Names = remove, true, append(p.Names, string(other.ID()))
	p.Left = func(context.Context) (string, error) { return o.sim.ReadDisk(string(other.ID()), 1) }
	return p, err
}

// snapshot is one that a backup product took.
func (o otherTool) snapshot(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	var self types.ManagedObjectReference
	err := o.do(ctx, id, func(ctx context.Context, vm *object.VirtualMachine, _ *mo.VirtualMachine) error {
		t, err := vm.CreateSnapshot(ctx, "backup", "", false, false)
		if err != nil {
			return err
		}
		info, err := t.WaitForResult(ctx)
		if err == nil {
			self = info.Result.(types.ManagedObjectReference)
		}
		return err
	})
	return &hypervisortest.Part{Names: []string{"backup", self.Value}, Look: func(ctx context.Context, id hypervisor.VMID) (p hypervisortest.Place, err error) {
		return p, o.do(ctx, id, func(ctx context.Context, vm *object.VirtualMachine, m *mo.VirtualMachine) error {
			if m.Snapshot == nil || !slices.Contains(refsOfTree(m.Snapshot.RootSnapshotList), self) {
				return fmt.Errorf("snapshot %s of machine %s: %w", self.Value, id, hypervisor.ErrNotFound)
			}
			var s mo.VirtualMachineSnapshot
			if err := vm.Properties(ctx, self, []string{"config"}, &s); err != nil {
				return err
			}
			p.Where = string(chain(disksOf(s.Config.Hardware.Device)[0].Backing)[0].id)
			p.Content, err = o.there(p.Where)(ctx)
			return err
		})
	}}, err
}

func refsOfTree(list []types.VirtualMachineSnapshotTree) (out []types.ManagedObjectReference) {
	for _, s := range list {
		out = append(append(out, s.Snapshot), refsOfTree(s.ChildSnapshotList)...)
	}
	return out
}

// child is a linked clone that another tool made.
func (o otherTool) child(ctx context.Context, id hypervisor.VMID) (*hypervisortest.Part, error) {
	name := fmt.Sprintf("child-%d", toolSerial.Add(1))
	p := &hypervisortest.Part{Names: []string{name}, Shared: true}
	var made types.ManagedObjectReference
	err := o.do(ctx, id, func(ctx context.Context, vm *object.VirtualMachine, m *mo.VirtualMachine) error {
		t, err := vm.CreateSnapshot(ctx, "base", "", false, false)
		if err != nil {
			return err
		}
		info, err := t.WaitForResult(ctx)
		if err != nil {
			return err
		}
		snap := info.Result.(types.ManagedObjectReference)
		t, err = vm.Clone(ctx, object.NewFolder(vm.Client(), *m.Parent), name, types.VirtualMachineCloneSpec{Snapshot: &snap,
			Location: types.VirtualMachineRelocateSpec{Pool: m.ResourcePool, DiskMoveType: string(types.VirtualMachineRelocateDiskMoveOptionsCreateNewChildDiskBacking)}})
		if err != nil {
			return err
		}
		if info, err = t.WaitForResult(ctx); err == nil {
			made = info.Result.(types.ManagedObjectReference)
			p.Names = append(p.Names, made.Value)
		}
		return err
	})
	p.Left = func(context.Context) (string, error) { return o.sim.ReadDisk(made.Value, 0) }
	p.Remove = func(ctx context.Context) error {
		return o.do(ctx, hypervisor.VMID(made.Value), func(ctx context.Context, vm *object.VirtualMachine, _ *mo.VirtualMachine) error {
			t, err := vm.Destroy(ctx)
			return wait(ctx, t, err)
		})
	}
	return p, err
}
