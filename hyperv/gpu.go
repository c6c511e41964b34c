package hyperv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
)

// partitionProfile is the one profile of a partitionable GPU: an equal share
// of it. PrepareDevice sets the number of shares on the GPU.
const partitionProfile = "partition"

// partitions fills in a GPU's profile.
func (x *hostDevices) partitions(i *hypervisor.DeviceInfo, g *cim.Instance) {
	count := int(g.Uint("PartitionCount"))
	used := 0
	for _, s := range x.parts {
		id := s.Str("InstanceID")
		owner := ownerOf(id)
		if strings.HasPrefix(id, "Microsoft:Definition") || !guid.MatchString(owner) {
			continue
		}
		r := s.Get("HostResource").Refs()
		// A partition without a GPU of its own may be from any of them. It is
		// counted for the only one, if there is only one.
		if len(r) > 0 && instanceKey(r[0].Key("Name")) == instanceKey(g.Str("Name")) || len(r) == 0 && len(x.gpus) == 1 {
			used++
			i.UsedBy = append(i.UsedBy, hypervisor.VMID(owner).Ref())
		}
	}
	i.Profiles = []hypervisor.VGPUProfile{{ID: partitionProfile, Name: fmt.Sprintf("1/%d of %s", count, i.ProductName),
		Bytes: int64(g.Uint("MaxPartitionVRAM")), Max: count, Available: max(0, count-used)}}
}

// attachPartition gives a share of a GPU to a machine.
func (d *driver) attachPartition(ctx context.Context, m *machine, x *hostDevices, dev hypervisor.DeviceInfo) (hypervisor.DriverTask, error) {
	i := slices.IndexFunc(x.gpus, func(g *cim.Instance) bool { return m.h.deviceID(instanceKey(g.Str("Name"))) == dev.ID })
	if i < 0 {
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, dev.ID.Ref(), "the GPU is gone")
	}
	g := x.gpus[i]
	g.Class = "Msvm_PartitionableGpu"
	ref := g.Self(m.h.name)
	return m.start(ctx, "attach device", "", func(o *op) (hypervisor.Ref, error) {
		// Guidance for Set-VM with GPU partitions: 1 GiB below 4 GiB, 32 GiB above.
		if err := o.ready(m, 1024, 32768); err != nil {
			return hypervisor.Ref{}, err
		}
		e := cim.NewEmbedded("Msvm_GpuPartitionSettingData")
		if m.h.atLeast(20348) {
			e.Set("HostResource", []cim.Ref{ref}) // older versions choose the GPU themselves
		}
		for _, k := range []string{"VRAM", "Encode", "Decode", "Compute"} {
			for _, p := range []string{"MinPartition", "MaxPartition", "OptimalPartition"} {
				e.Set(p+k, g.Uint(p+k))
			}
		}
		a, err := o.addResource(m, dev.ID.Ref(), e, x.parts...)
		return hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: a.Key("InstanceID")}, err
	})
}

// PrepareDevice implements hypervisor.DevicePreparer. Passthrough dismounts a
// function from the host (disabling it first) or mounts it again. VFs sets
// the number of partitions of a GPU (which are not listed as functions).
func (d *driver) PrepareDevice(ctx context.Context, id hypervisor.DeviceID, p hypervisor.DevicePreparation) (hypervisor.DriverTask, error) {
	on, key := splitID(string(id))
	h, err := d.host(on)
	if err != nil {
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such device")
	}
	s, err := h.session(ctx)
	if err != nil {
		return nil, err
	}
	if sup := h.editionFor(capability.DevicePrepare); sup.Level == hypervisor.LevelNo && p.Passthrough != nil {
		return nil, hypervisor.Unsupported(id.Ref(), capability.DevicePrepare, sup.Reason, sup.Detail)
	}
	x, err := d.hostDevices(ctx, h, s)
	if err != nil {
		return nil, err
	}
	find := func(all []*cim.Instance, prop string) *cim.Instance {
		i := slices.IndexFunc(all, func(i *cim.Instance) bool { return instanceKey(i.Str(prop)) == key })
		if i < 0 {
			return nil
		}
		return all[i]
	}
	pnp, fn, gpu := find(x.pnp, "DeviceID"), find(x.express, "DeviceInstancePath"), find(x.gpus, "Name")
	if pnp == nil && fn == nil {
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "host %s has no such device", h.id)
	}
	if p.VFs != nil {
		switch {
		case gpu == nil:
			return nil, hypervisor.Unsupported(id.Ref(), capability.DeviceVGPU, hypervisor.ReasonPlatform, "the device is no GPU that can be partitioned; the functions of network cards are made by their switch")
		case !slices.Contains(gpu.Uints("ValidPartitionCounts"), uint64(*p.VFs)):
			return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, id.Ref(), "the GPU can be split into %v partitions", gpu.Uints("ValidPartitionCounts"))
		}
	}
	return d.start(ctx, h, job.Spec{Op: "prepare device", Object: id.Ref()}, func(o *op) (hypervisor.Ref, error) {
		if p.VFs != nil {
			gpu.Class = "Msvm_PartitionableGpu"
			if _, err := cim.Again(func() (any, error) {
				return nil, o.s.Put(o.ctx, gpu.Self(h.name), cim.Typed("PartitionCount", uint16(*p.VFs)))
			}); err != nil {
				return hypervisor.Ref{}, err
			}
		}
		switch {
		case p.Passthrough == nil, *p.Passthrough && fn != nil:
			return hypervisor.Ref{}, nil // as requested already
		case !*p.Passthrough && fn == nil && pnp.Uint("ConfigManagerErrorCode") == deviceDisabled:
			return hypervisor.Ref{}, o.enable(o.ctx, pnp.Str("DeviceID")) // mounted, so there is nothing more to do
		case !*p.Passthrough && fn == nil:
			return hypervisor.Ref{}, nil
		case *p.Passthrough:
			return hypervisor.Ref{}, o.dismount(pnp)
		}
		err := o.mount(fn)
		if errors.Is(err, cim.ErrLost) { // it may be mounted, and disabled
			o.Left(id.Ref())
		}
		return hypervisor.Ref{}, err
	})
}

// dismount removes a device from the host. It disables the device, so that
// its driver releases it, and then hands it to Hyper-V.
func (o *op) dismount(pnp *cim.Instance) error {
	svc, err := o.h.find(o.ctx, o.s, "Msvm_AssignableDeviceService")
	if err != nil {
		return err
	}
	path := pnp.Str("DeviceID")
	ref := cim.Ref{Namespace: cim.CIMV2, Class: "Win32_PnPEntity", Keys: []cim.Key{{Name: "DeviceID", Value: path}}}
	location, err := o.location(ref)
	if err != nil {
		return err
	}
	o.Phase("disabling", -1)
	o.Remove(hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: string(o.h.deviceID(instanceKey(path)))}, func(ctx context.Context) error { return o.enable(ctx, path) })
	r, err := cim.Again(func() (*cim.Result, error) { return o.s.Invoke(o.ctx, ref, "Disable") })
	if err == nil && r.Return != 0 {
		err = hypervisor.Errorf(hypervisor.ErrUnknown, hypervisor.Ref{}, "Win32_PnPEntity.Disable returned %d", r.Return)
	}
	if err != nil {
		return err
	}
	if r.Out.Bool("RebootNeeded") {
		o.Note("the host must be restarted before the device can be assigned")
	}
	o.Phase("dismounting", -1)
	e := cim.NewEmbedded("Msvm_AssignableDeviceDismountSettingData", "DeviceInstancePath", path, "DeviceLocationPath", location,
		"RequireAcsSupport", true, "RequireDeviceMitigations", true)
	_, err = o.call(o.assignable(path, true), svc, "DismountAssignableDevice", cim.Arg{Name: "DismountSettingData", Value: e})
	switch cim.ReturnOf(err) {
	case 32770, 1:
		err = hypervisor.Unsupported(hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: path}, capability.DevicePrepare, hypervisor.ReasonHostIOMMUOff,
			"the host can't isolate the device (no IOMMU, no access control services, or switched off in the firmware)")
	}
	return err
}

// assignable is the trace of a call that makes a device assignable or
// reverses that.
func (o *op) assignable(path string, want bool) trace {
	return o.h.done(o.quiet, func(ctx context.Context) (bool, error) {
		rows, err := cim.Collect(o.s.Query(ctx, cim.Virtualization, cim.Select("Msvm_PciExpress", []string{"DeviceInstancePath"})))
		is := slices.ContainsFunc(rows, func(r *cim.Instance) bool { return instanceKey(r.Str("DeviceInstancePath")) == instanceKey(path) })
		return is == want, err
	})
}

// location returns the path of the device's slot.
func (o *op) location(ref cim.Ref) (string, error) {
	const key = "DEVPKEY_Device_LocationPaths"
	r, err := cim.Again(func() (*cim.Result, error) {
		return o.s.Invoke(o.ctx, ref, "GetDeviceProperties", cim.Arg{Name: "devicePropertyKeys", Value: []string{key}})
	})
	if err != nil {
		return "", err
	}
	for _, p := range r.Out.Insts("deviceProperties") {
		if p.Str("KeyName") == key {
			return p.Str("Data"), nil
		}
	}
	return "", nil
}

// mount gives a device back to the host and enables it.
func (o *op) mount(fn *cim.Instance) error {
	svc, err := o.h.find(o.ctx, o.s, "Msvm_AssignableDeviceService")
	if err != nil {
		return err
	}
	r, err := o.call(o.assignable(fn.Str("DeviceInstancePath"), false), svc, "MountAssignableDevice", cim.Arg{Name: "DeviceInstancePath", Value: fn.Str("DeviceInstancePath")},
		cim.Arg{Name: "DeviceLocationPath", Value: fn.Str("LocationPath")})
	if err != nil {
		return err
	}
	path := r.Out.Str("MountedDeviceInstancePath")
	if path == "" {
		path = `PCI\` + instanceKey(fn.Str("DeviceInstancePath"))
	}
	err = o.enable(o.ctx, path)
	if errors.Is(err, cim.ErrConnection) {
		return err
	}
	if err != nil {
		o.Note("the device is mounted but could not be enabled: " + err.Error())
	}
	return nil
}

// deviceDisabled is the ConfigManagerErrorCode of a disabled device
// (CM_PROB_DISABLED).
const deviceDisabled = 22

// enable enables a device in the host.
func (o *op) enable(ctx context.Context, path string) error {
	ref := cim.Ref{Namespace: cim.CIMV2, Class: "Win32_PnPEntity", Keys: []cim.Key{{Name: "DeviceID", Value: path}}}
	_, err := cim.Again(func() (*cim.Result, error) { return o.s.Invoke(ctx, ref, "Enable") })
	return err
}
