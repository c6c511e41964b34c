package vsphere

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Clone is one CloneVM_Task or InstantClone_Task. A linked clone of a machine
// as it is now needs a snapshot, which is made first and stays as the base;
// it goes with the last clone that stands on it.
func (d *driver) Clone(ctx context.Context, src hypervisor.VMID, r hypervisor.CloneRequest) (hypervisor.DriverTask, error) {
	k := hypervisor.CloneFull
	switch r.Mode {
	case hypervisor.Linked:
		k = hypervisor.CloneLinked
	case hypervisor.Instant:
		k = hypervisor.CloneInstant
	}
	switch {
	case !d.isVC():
		return nil, hypervisor.Unsupported(src.Ref(), k, hypervisor.ReasonPlatform, needsVC)
	case r.Mode == hypervisor.Instant && !d.atLeast(6, 7):
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
	}
	if r.Mode == hypervisor.Instant {
		return d.instantClone(ctx, v, r)
	}
	p, err := d.one(ctx, vmRef(src), "parent")
	if err != nil {
		return nil, err
	}
	call := rand.Text()
	spec := types.VirtualMachineCloneSpec{PowerOn: r.Start, Config: cloneConfig(r, devs.VirtualDevice, call)}
	folder, err := d.cloneTarget(ctx, v, r.Placement, p.ref("parent"), &spec.Location)
	if err != nil {
		return nil, err
	}
	if r.Customize != nil {
		if spec.Customization, err = customization(r.Name, v, *r.Customize); err != nil {
			return nil, err
		}
	}
	if r.From != "" {
		s := snapRef(r.From)
		spec.Snapshot = &s
	}
	begin := func(ctx context.Context) (ref, error) {
		return d.launch(ctx, vmRef(src), "clone", d.made(call), func() (ref, error) {
			res, err := methods.CloneVM_Task(ctx, d.rt, &types.CloneVM_Task{This: vmRef(src), Folder: folder, Name: escape(r.Name), Spec: spec})
			if err != nil {
				return ref{}, err
			}
			return res.Returnval, nil
		})
	}
	if r.Mode == hypervisor.Linked {
		spec.Location.DiskMoveType = string(types.VirtualMachineRelocateDiskMoveOptionsCreateNewChildDiskBacking)
		if r.From == "" {
			return d.cloneWithBase(ctx, v, r, &spec, call, begin)
		}
	}
	return d.cloneJob(ctx, r, call, begin)
}

// cloneJob is one task of the server. A clone whose start is refused is made
// all the same.
func (d *driver) cloneJob(ctx context.Context, r hypervisor.CloneRequest, call string, begin func(context.Context) (ref, error)) (hypervisor.DriverTask, error) {
	self, err := begin(ctx)
	if err != nil {
		return nil, err
	}
	j := d.job(self)
	j.failed = func(ctx context.Context, s *hypervisor.TaskState) { s.Leftover = d.leftBy(ctx, call, r.Name) }
	return j, nil
}

// cloneTarget fills in where the clone goes. A template has no pool, so one is
// chosen for its machines.
func (d *driver) cloneTarget(ctx context.Context, v hypervisor.VMInfo, p hypervisor.Placement, folder ref, at *types.VirtualMachineRelocateSpec) (ref, error) {
	if p.Datastore != "" {
		s := storeRef(p.Datastore)
		if _, err := d.storeName(ctx, s); err != nil {
			return ref{}, err
		}
		at.Datastore = &s
	}
	if v.Template || p.Pool != "" || p.Host != "" {
		want := p
		if want.Pool == "" && want.Host == "" {
			want.Host = v.Host // near its disks
		}
		want.Folder = ""
		if want.Datastore == "" {
			want.Datastore = v.Placement.Datastore
		}
		spot, err := d.settle(ctx, want)
		if err != nil && p.Datastore == "" && p.Host != "" { // the disks move too
			want.Datastore = ""
			if spot, err = d.settle(ctx, want); err == nil {
				at.Datastore = &spot.store
			}
		}
		if err != nil {
			return ref{}, err
		}
		at.Pool, at.Host = &spot.pool, spot.host
	}
	if p.Folder == "" {
		return folder, nil
	}
	if err := d.folders.fresh(ctx, d); err != nil {
		return ref{}, err
	}
	return d.folderFor(p.Folder, folder)
}

// cloneConfig changes what differs from the source. Adapters get new
// addresses, also those whose address was given by hand.
func cloneConfig(r hypervisor.CloneRequest, devs []types.BaseVirtualDevice, call string) *types.VirtualMachineConfigSpec {
	c := &types.VirtualMachineConfigSpec{NumCPUs: int32(r.CPUs), MemoryMB: r.MemoryBytes / hypervisor.MiB, Annotation: r.Description,
		ExtraConfig: extraConfig(r.Labels, r.Token, call)}
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

// cloneWithBase makes the base snapshot, or takes the one that a template has
// already: a template can't have changed since.
func (d *driver) cloneWithBase(ctx context.Context, v hypervisor.VMInfo, r hypervisor.CloneRequest, spec *types.VirtualMachineCloneSpec,
	call string, begin func(context.Context) (ref, error)) (hypervisor.DriverTask, error) {
	if v.Template && v.CurrentSnapshot != "" {
		s := snapRef(v.CurrentSnapshot)
		spec.Snapshot = &s
		return d.cloneJob(ctx, r, call, begin)
	}
	return d.group.Go(ctx, newID("clone"), func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		report(hypervisor.TaskState{Fraction: -1, Phase: "making the base snapshot"})
		base, notes, err := d.makeBase(ctx, v)
		if err != nil {
			out := hypervisor.TaskState{Err: err}
			if base.Value != "" {
				out.Leftover = []hypervisor.Ref{{Kind: hypervisor.KindOfSnapshot, ID: base.Value, Name: baseName}}
			}
			return out
		}
		spec.Snapshot = &base
		info, err := d.step(ctx, func(s hypervisor.TaskState) { s.Notes = notes; report(s) }, begin)
		if err != nil {
			late := context.WithoutCancel(ctx)
			out := hypervisor.TaskState{Err: err, Leftover: d.leftBy(late, call, r.Name)}
			if len(out.Leftover) > 0 { // the clone stands on its base
				return out
			}
			if !v.Template {
				rm, rerr := d.removeSnapshot(late, hypervisor.SnapshotID(base.Value), false)
				if rerr == nil {
					_, rerr = d.await(late, rm)
				}
				if rerr != nil && !isNotFound(rerr) {
					out.Leftover = []hypervisor.Ref{{Kind: hypervisor.KindOfSnapshot, ID: base.Value, Name: baseName}}
				}
			}
			return out
		}
		return hypervisor.TaskState{Result: resultOf(info), Notes: notes}
	})
}

// makeBase takes the snapshot. vSphere makes none of a template, so that is a
// machine for a moment.
func (d *driver) makeBase(ctx context.Context, v hypervisor.VMInfo) (base ref, notes []string, err error) {
	if v.Template {
		var at spot
		if at, err = d.settle(ctx, hypervisor.Placement{Host: v.Host}); err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return ref{}, nil, err
		}
		// Neither call is cut off by a cancel: the template must be one again,
		// also where the answer to the first was lost.
		marked, late := false, context.WithoutCancel(ctx)
		defer func() {
			_, merr := methods.MarkAsTemplate(late, d.rt, &types.MarkAsTemplate{This: vmRef(v.ID)})
			if merr != nil && (marked || err == nil) {
				err = errors.Join(err, fmt.Errorf("the template %s is left as a machine: %w", v.ID, merr))
			}
		}()
		if err = d.markVM(late, v.ID, at); err != nil {
			return ref{}, nil, err
		}
		marked = true
		notes = append(notes, "the template was a machine for a moment: vSphere makes no snapshots of templates")
	}
	info, err := d.step(ctx, nil, func(ctx context.Context) (ref, error) {
		return d.snapshot(ctx, v.ID, hypervisor.SnapshotRequest{Name: baseName, Description: "Made by anyvisor; removed with the last linked clone."})
	})
	if err != nil {
		return ref{}, nil, err
	}
	base, _ = info.Result.(ref)
	return base, append(notes, "snapshot "+base.Value+" was made as the base of the linked clone"), nil
}

// instantClone forks a running machine (vSphere 6.7 and later). The clone runs
// at once, from the same RAM.
func (d *driver) instantClone(ctx context.Context, v hypervisor.VMInfo, r hypervisor.CloneRequest) (hypervisor.DriverTask, error) {
	on := v.ID.Ref()
	switch {
	case v.State != hypervisor.Running:
		return nil, invalidState(on, "the machine is %s: only a running one is forked", v.State)
	case r.CPUs != 0 && r.CPUs != v.CPUs || r.MemoryBytes != 0 && r.MemoryBytes != v.MemoryBytes:
		return nil, hypervisor.Unsupported(on, hypervisor.CloneInstant, hypervisor.ReasonPlatform, "an instant clone has its source's CPUs and memory")
	case r.Customize != nil:
		return nil, hypervisor.Unsupported(on, hypervisor.CloneCustomize, hypervisor.ReasonPlatform, "an instant clone runs already: it is customized from inside the guest")
	}
	p, err := d.one(ctx, vmRef(v.ID), "parent", "config.hardware.device")
	if err != nil {
		return nil, err
	}
	call := rand.Text()
	spec := types.VirtualMachineInstantCloneSpec{Name: escape(r.Name), Config: extraConfig(r.Labels, r.Token, call)}
	folder, err := d.cloneTarget(ctx, v, r.Placement, p.ref("parent"), &spec.Location)
	if err != nil {
		return nil, err
	}
	spec.Location.Folder = &folder
	// New addresses, by reconnecting the adapters to where they are.
	for _, dev := range get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice {
		if card, ok := dev.(types.BaseVirtualEthernetCard); ok {
			e := card.GetVirtualEthernetCard()
			e.AddressType, e.MacAddress = string(types.VirtualEthernetCardMacTypeGenerated), ""
			spec.Location.DeviceChange = append(spec.Location.DeviceChange, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: dev})
		}
	}
	self, err := d.launch(ctx, vmRef(v.ID), "instantClone", d.made(call), func() (ref, error) {
		res, err := methods.InstantClone_Task(ctx, d.rt, &types.InstantClone_Task{This: vmRef(v.ID), Spec: spec})
		if err != nil {
			return ref{}, err
		}
		return res.Returnval, nil
	})
	if err != nil {
		return nil, err
	}
	j := d.job(self)
	if r.Description != "" {
		j.finish = func(ctx context.Context, t types.TaskInfo, s *hypervisor.TaskState) {
			if err := d.reconfigure(ctx, hypervisor.VMID(s.Result.ID), types.VirtualMachineConfigSpec{Annotation: r.Description}); err != nil {
				s.Err, s.Leftover = err, []hypervisor.Ref{s.Result}
			}
		}
	}
	return j, nil
}

// nics is how many adapters a machine has, each of which a customization must
// speak of.
func nics(v hypervisor.VMInfo) int {
	return len(slices.DeleteFunc(slices.Clone(v.NICs), func(n hypervisor.NICInfo) bool { return n.ID == "" }))
}
