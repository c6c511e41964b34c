package vsphere

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// Clone takes one CloneVM_Task or InstantClone_Task. A linked clone of a
// machine's present state needs a snapshot, which is made first and stays as
// the base. It is removed with the last clone that depends on it.
func (d *driver) Clone(ctx context.Context, src hypervisor.VMID, r hypervisor.CloneRequest) (hypervisor.DriverTask, error) {
	k := capability.CloneFull
	switch r.Mode {
	case hypervisor.CloneModeLinked:
		k = capability.CloneLinked
	case hypervisor.CloneModeInstant:
		k = capability.CloneInstant
	}
	switch {
	case !d.isVC():
		return nil, hypervisor.Unsupported(src.Ref(), k, hypervisor.ReasonPlatform, needsVC)
	case r.Mode == hypervisor.CloneModeInstant && !d.has("InstantClone_Task"):
		return nil, hypervisor.Unsupported(src.Ref(), k, hypervisor.ReasonAPIVersion, instantVersion)
	}
	return d.withToken(ctx, r.Token, func() (hypervisor.DriverTask, error) { return d.clone(ctx, src, r) })
}

func (d *driver) clone(ctx context.Context, src hypervisor.VMID, r hypervisor.CloneRequest) (hypervisor.DriverTask, error) {
	v, devs, err := d.read(ctx, src)
	if err != nil {
		return nil, err
	}
	if r.From != "" {
		if _, err := d.hasSnapshot(ctx, src, r.From); err != nil {
			return nil, err
		}
		// The clone has the devices of the snapshot.
		p, err := d.one(ctx, snapRef(r.From), "config.hardware.device")
		if err != nil {
			return nil, err
		}
		devs = get[types.ArrayOfVirtualDevice](p, "config.hardware.device")
		v.NICs = nicsOf(devs.VirtualDevice)
	}
	for _, x := range disksOf(devs.VirtualDevice) {
		if raw(x) {
			return nil, hypervisor.Unsupported(src.Ref(), capability.CloneFull, hypervisor.ReasonConfig,
				fmt.Sprintf("disk %s (%s) is a raw device in physical mode, which can't be copied: detach it first", keyID(x.Key), imageOf(x)))
		}
	}
	if r.Mode == hypervisor.CloneModeInstant {
		return d.instantClone(ctx, v, r)
	}
	b, parent := baseState{}, ref{}
	if v.Template {
		b, err = d.readBase(ctx, src)
		parent = b.parent
	} else {
		var p propMap
		p, err = d.one(ctx, vmRef(src), "parent")
		parent = p.ref("parent")
	}
	if err != nil {
		return nil, err
	}
	call := rand.Text()
	spec := types.VirtualMachineCloneSpec{PowerOn: r.Start, Config: cloneConfig(r, devs.VirtualDevice, call)}
	folder, err := d.cloneTarget(ctx, v, r.Placement, parent, &spec.Location)
	if err != nil {
		return nil, err
	}
	var notes []string
	if r.Customize != nil {
		if spec.Customization, notes, err = customization(r.Name, v, *r.Customize); err != nil {
			return nil, err
		}
	}
	if r.From != "" {
		s := snapRef(r.From)
		spec.Snapshot = &s
	}
	begin := func(ctx context.Context) (ref, error) {
		return d.launchMachine(ctx, vmRef(src), "clone", call, r.Name, func() (ref, error) {
			res, err := methods.CloneVM_Task(ctx, d.rt, &types.CloneVM_Task{This: vmRef(src), Folder: folder, Name: escape(r.Name), Spec: spec})
			if err != nil {
				return ref{}, err
			}
			return res.Returnval, nil
		})
	}
	if r.Mode == hypervisor.CloneModeLinked {
		spec.Location.DiskMoveType = string(types.VirtualMachineRelocateDiskMoveOptionsCreateNewChildDiskBacking)
		if r.From == "" && !v.Template {
			return d.cloneWithBase(ctx, v, r, &spec, call, notes, begin)
		}
	}
	if v.Template {
		return d.deploy(ctx, src, b, r, &spec, call, notes, begin)
	}
	return d.cloneJob(ctx, r, call, notes, begin)
}

// cloneJob runs one task of the server. A clone whose start is refused is
// made all the same.
func (d *driver) cloneJob(ctx context.Context, r hypervisor.CloneRequest, call string, notes []string, begin func(context.Context) (ref, error)) (hypervisor.DriverTask, error) {
	return d.start(ctx, hypervisor.Ref{Kind: hypervisor.ObjectVM, Name: r.Name}, begin, func(j *serverTask) {
		j.notes = notes
		j.failed = func(ctx context.Context, s *hypervisor.TaskState) { s.Leftover = d.leftBy(ctx, call, r.Name) }
	})
}

// cloneTarget fills in the clone's placement, and returns its folder. That is
// the source's, which home is, unless the clone is placed elsewhere. A
// template has no pool, so one is chosen for its machines.
func (d *driver) cloneTarget(ctx context.Context, v hypervisor.VMInfo, p hypervisor.Placement, home ref, at *types.VirtualMachineRelocateSpec) (ref, error) {
	if p.Datastore != "" {
		s := storeRef(p.Datastore)
		if _, err := d.one(ctx, s, "name"); err != nil {
			return ref{}, err
		}
		at.Datastore = &s
	}
	folder, err := d.folderNamed(ctx, p.Folder)
	if err != nil {
		return ref{}, err
	}
	here := d.folders.datacenterOf(home)
	if home.Value == "" { // in a vApp, whose machines have no folder
		if here, err = d.datacenterAbove(ctx, vmRef(v.ID)); err != nil {
			return ref{}, err
		}
		home = d.folders.machines(here)
	}
	away := folder.Value != "" && d.folders.datacenterOf(folder) != here
	if v.Template || p.Pool != "" || p.Host != "" || away {
		want := p
		if want.Pool == "" && want.Host == "" && !away {
			want.Host = v.Host // near its disks
		}
		if want.Datastore == "" && !away {
			want.Datastore = v.Placement.Datastore
		}
		spot, err := d.settleIn(ctx, want, folder)
		if err != nil && p.Datastore == "" && p.Host != "" { // the disks move too
			want.Datastore = ""
			if spot, err = d.settleIn(ctx, want, folder); err == nil {
				at.Datastore = &spot.store
			}
		}
		if err != nil {
			return ref{}, err
		}
		at.Pool, at.Host = &spot.pool, spot.host
		if away {
			at.Datastore = &spot.store
		}
		if folder.Value == "" && d.folders.datacenterOf(spot.compute.parent) != here {
			folder = spot.folder
		}
	}
	if folder.Value == "" {
		folder = home
	}
	return folder, nil
}

// cloneConfig sets what differs from the source. Adapters get new addresses,
// even if their address was set by hand.
func cloneConfig(r hypervisor.CloneRequest, devs []types.BaseVirtualDevice, call string) *types.VirtualMachineConfigSpec {
	c := &types.VirtualMachineConfigSpec{NumCPUs: int32(r.CPUs), MemoryMB: r.MemoryBytes / hypervisor.MiB, Annotation: r.Description, InstanceUuid: bound(r.Token),
		ExtraConfig: append(extraConfig(r.Labels, r.Token, call), &types.OptionValue{Key: baseKey, Value: ""})}
	for _, dev := range devs {
		card, ok := dev.(types.BaseVirtualEthernetCard)
		if !ok {
			continue
		}
		e := card.GetVirtualEthernetCard()
		e.AddressType, e.MacAddress = string(types.VirtualEthernetCardMacTypeGenerated), ""
		c.DeviceChange = append(c.DeviceChange, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: dev})
	}
	return c
}

// cloneWithBase makes the base snapshot of a machine's present state.
func (d *driver) cloneWithBase(ctx context.Context, v hypervisor.VMInfo, r hypervisor.CloneRequest, spec *types.VirtualMachineCloneSpec,
	call string, notes []string, begin func(context.Context) (ref, error)) (hypervisor.DriverTask, error) {
	return d.group.Go(ctx, newID("clone"), func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		report(hypervisor.TaskState{Fraction: -1, Phase: "making the base snapshot"})
		info, err := d.step(ctx, nil, func(ctx context.Context) (ref, error) { return d.snapshot(ctx, v.ID, baseSnapshot) })
		if err != nil {
			return hypervisor.TaskState{Err: err}
		}
		base, _ := info.Result.(ref)
		spec.Snapshot = &base
		notes := append(notes, "snapshot "+base.Value+" was made as the base of the linked clone")
		info, err = d.step(ctx, func(s hypervisor.TaskState) { s.Notes = notes; report(s) }, begin)
		if err == nil {
			return hypervisor.TaskState{Result: resultOf(info), Notes: notes}
		}
		late := context.WithoutCancel(ctx)
		out := hypervisor.TaskState{Err: err, Leftover: d.leftBy(late, call, r.Name)}
		if len(out.Leftover) > 0 { // the clone depends on its base
			return out
		}
		if err := d.dropBase(late, v.ID, base); err != nil {
			out.Leftover = []hypervisor.Ref{{Kind: hypervisor.ObjectSnapshot, ID: base.Value, Name: baseName}}
		}
		return out
	})
}

// dropBase removes a base snapshot that nobody depends on.
func (d *driver) dropBase(ctx context.Context, id hypervisor.VMID, base ref) error {
	_, err := d.step(ctx, nil, func(ctx context.Context) (ref, error) {
		return d.removeSnapshot(ctx, id, hypervisor.SnapshotID(base.Value), false)
	})
	if isNotFound(err) {
		return nil
	}
	return err
}

// instantClone forks a running machine (vSphere 6.7 and later). The clone runs
// at once, from the same RAM.
func (d *driver) instantClone(ctx context.Context, v hypervisor.VMInfo, r hypervisor.CloneRequest) (hypervisor.DriverTask, error) {
	on := v.ID.Ref()
	switch {
	case v.State != hypervisor.StateRunning:
		return nil, invalidState(on, "the machine is %s: only a running one is forked", v.State)
	case r.CPUs != 0 && r.CPUs != v.CPUs || r.MemoryBytes != 0 && r.MemoryBytes != v.MemoryBytes:
		return nil, hypervisor.Unsupported(on, capability.CloneInstant, hypervisor.ReasonPlatform, "an instant clone has its source's CPUs and memory")
	case r.Customize != nil:
		return nil, hypervisor.Unsupported(on, capability.CloneCustomize, hypervisor.ReasonPlatform, "an instant clone runs already: it is customized from inside the guest")
	}
	p, err := d.one(ctx, vmRef(v.ID), "parent", "config.hardware.device")
	if err != nil {
		return nil, err
	}
	call := rand.Text()
	spec := types.VirtualMachineInstantCloneSpec{Name: escape(r.Name), BiosUuid: bound(r.Token), Config: extraConfig(r.Labels, r.Token, call)}
	folder, err := d.cloneTarget(ctx, v, r.Placement, p.ref("parent"), &spec.Location)
	if err != nil {
		return nil, err
	}
	spec.Location.Folder = &folder
	// The adapters get new addresses by being reconnected to the same
	// networks.
	for _, dev := range get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice {
		if card, ok := dev.(types.BaseVirtualEthernetCard); ok {
			e := card.GetVirtualEthernetCard()
			e.AddressType, e.MacAddress = string(types.VirtualEthernetCardMacTypeGenerated), ""
			spec.Location.DeviceChange = append(spec.Location.DeviceChange, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: dev})
		}
	}
	begin := func(ctx context.Context) (ref, error) {
		return d.launchMachine(ctx, vmRef(v.ID), "instantClone", call, r.Name, func() (ref, error) {
			return taskOf(methods.InstantClone_Task(ctx, d.rt, &types.InstantClone_Task{This: vmRef(v.ID), Spec: spec}))
		})
	}
	return d.start(ctx, hypervisor.Ref{Kind: hypervisor.ObjectVM, Name: r.Name}, begin, func(j *serverTask) {
		if r.Description == "" {
			return
		}
		j.finish = func(ctx context.Context, t types.TaskInfo, s *hypervisor.TaskState) {
			if err := d.reconfigure(ctx, hypervisor.VMID(s.Result.ID), types.VirtualMachineConfigSpec{Annotation: r.Description}); err != nil {
				s.Err, s.Leftover = err, []hypervisor.Ref{s.Result}
			}
		}
	})
}

// nics returns the number of a machine's adapters, each of which a
// customization must mention.
func nics(v hypervisor.VMInfo) int {
	return len(slices.DeleteFunc(slices.Clone(v.NICs), func(n hypervisor.NICInfo) bool { return n.ID == "" }))
}
