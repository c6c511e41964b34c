package xen

import (
	"context"
	"fmt"
	"maps"
	"strconv"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// maxVCPUs is XenServer's configuration limit of virtual CPUs per machine
// (XenServer 8 configuration limits). VM.create itself checks nothing.
const maxVCPUs = 64

// sizes checks CPUs and memory against the largest host.
func (d *driver) sizes(ctx context.Context, on hypervisor.Ref, cpus, memory int64) error {
	if cpus > maxVCPUs {
		return hypervisor.Errorf(hypervisor.KindInvalidArgument, on, "%d CPUs: XenServer gives a machine at most %d", cpus, maxVCPUs)
	}
	var all map[xapi.Ref]hostMetricsRec
	if err := d.c.Call(ctx, &all, "host_metrics.get_all_records"); err != nil {
		return err
	}
	var most int64
	for _, m := range all {
		most = max(most, m.Total)
	}
	if most > 0 && memory > most {
		return hypervisor.Errorf(hypervisor.KindExhausted, on, "%d bytes of memory: the largest host has %d", memory, most)
	}
	return nil
}

// findToken returns the machine that carries a token.
func (d *driver) findToken(ctx context.Context, token string) (hypervisor.Ref, bool, error) {
	if token == "" {
		return hypervisor.Ref{}, false, nil
	}
	var all map[xapi.Ref]vmRec
	if err := d.c.Call(ctx, &all, "VM.get_all_records"); err != nil {
		return hypervisor.Ref{}, false, err
	}
	for _, v := range all {
		if v.Other[tokenKey] == token && !v.IsSnapshot {
			return hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name}, true, nil
		}
	}
	return hypervisor.Ref{}, false, nil
}

// plan is a spec with its references looked up, before anything is made.
type plan struct {
	host  xapi.Ref
	disks []diskPlan
	nets  []xapi.Ref
}

type diskPlan struct {
	spec hypervisor.DiskSpec
	sr   xapi.Ref
	from xapi.Ref // Image or Volume
}

func (d *driver) planCreate(ctx context.Context, on hypervisor.Ref, s hypervisor.VMSpec) (plan, error) {
	var p plan
	switch {
	case s.Boot != nil:
		return p, hypervisor.Unsupported(on, hypervisor.BootDirect, hypervisor.ReasonPlatform, bootDetail)
	case s.Placement.Pool != "" || s.Placement.Folder != "":
		return p, hypervisor.Errorf(hypervisor.KindUnsupported, on, "a XAPI pool has neither resource pools nor folders: leave Placement.Pool and Placement.Folder out")
	case s.SecureBoot && s.Firmware != hypervisor.UEFI:
		return p, hypervisor.Errorf(hypervisor.KindInvalidArgument, on, "SecureBoot needs Firmware UEFI: a XAPI pool starts machines by BIOS unless told otherwise")
	case s.Machine != "" && s.Machine != "hvm":
		return p, hypervisor.Errorf(hypervisor.KindUnsupported, on, "machine type %q: machines are made as hvm", s.Machine)
	}
	most := max(s.MemoryBytes, s.MaxMemoryBytes)
	if s.DynamicMemory != nil {
		if err := d.allowed(ctx, on, hypervisor.MemoryDynamic); err != nil {
			return p, err
		}
		most = max(most, s.DynamicMemory.MaxBytes)
	}
	err := d.sizes(ctx, on, int64(max(s.CPUs, s.MaxCPUs)), most)
	if err == nil {
		p.host, err = d.byUUID(ctx, "host", string(s.Placement.Host))
	}
	for i := 0; err == nil && i < len(s.Disks); i++ {
		var dp diskPlan
		dp, err = d.planDisk(ctx, on, s.Disks[i], s.Placement.Datastore)
		p.disks = append(p.disks, dp)
	}
	if err == nil && len(s.Disks) == 0 {
		_, err = d.byUUID(ctx, "SR", string(s.Placement.Datastore))
	}
	for i := 0; err == nil && i < len(s.NICs); i++ {
		var n xapi.Ref
		n, err = d.planNIC(ctx, on, s.NICs[i])
		p.nets = append(p.nets, n)
	}
	return p, err
}

// CreateVM makes a machine of VM.create, VDI.create, VBD.create and
// VIF.create.
func (d *driver) CreateVM(ctx context.Context, s hypervisor.VMSpec) (hypervisor.DriverTask, error) {
	on := hypervisor.Ref{Kind: hypervisor.KindOfVM, Name: s.Name}
	if ref, ok, err := d.findToken(ctx, s.Token); err != nil || ok {
		return done(ref), err
	}
	p, err := d.planCreate(ctx, on, s)
	if err != nil {
		return nil, err
	}
	return d.compose(ctx, "create", on, hypervisor.VMCreate, func(ctx context.Context, j *job) (hypervisor.Ref, error) {
		return j.create(ctx, s, p)
	})
}

func (j *job) create(ctx context.Context, s hypervisor.VMSpec, p plan) (hypervisor.Ref, error) {
	var vm xapi.Ref
	var made vmRec
	if err := j.d.c.Call(ctx, &vm, "VM.create", createRecord(s, p)); err != nil {
		return hypervisor.Ref{}, err
	}
	on := hypervisor.Ref{Kind: hypervisor.KindOfVM, Name: s.Name}
	j.mustUndo(on, func(ctx context.Context) error { return j.d.c.Call(ctx, nil, "VM.destroy", vm) })
	if err := j.d.c.Call(ctx, &made, "VM.get_record", vm); err != nil {
		return hypervisor.Ref{}, err
	}
	on.ID = made.UUID
	for i, dp := range p.disks {
		if _, err := j.addDisk(ctx, vm, dp, strconv.Itoa(i), fmt.Sprintf("%s disk %d", s.Name, i), i == 0); err != nil {
			return hypervisor.Ref{}, err
		}
		j.report(hypervisor.TaskState{Fraction: float64(i+1) / float64(len(p.disks)+1), Phase: "disks"})
	}
	for i, n := range p.nets {
		if _, err := j.addNIC(ctx, vm, n, s.NICs[i].MAC, strconv.Itoa(i)); err != nil {
			return hypervisor.Ref{}, err
		}
	}
	if s.Start {
		return j.started(ctx, on, vm, p.host)
	}
	return on, nil
}

// started powers a new machine on. One that was made and doesn't start stays,
// and is named.
func (j *job) started(ctx context.Context, on hypervisor.Ref, vm, host xapi.Ref) (hypervisor.Ref, error) {
	j.undo = nil // the machine is whole
	var err error
	if host.IsNull() {
		_, err = j.run(ctx, 0.9, 1, "VM.start", vm, false, false)
	} else {
		_, err = j.run(ctx, 0.9, 1, "VM.start_on", vm, host, false, false)
	}
	if err != nil {
		j.left = append(j.left, on)
	}
	return on, err
}

// createRecord is the argument of VM.create.
func createRecord(s hypervisor.VMSpec, p plan) map[string]any {
	dynMin, dynMax := s.MemoryBytes, s.MemoryBytes
	if s.DynamicMemory != nil {
		dynMin, dynMax = s.DynamicMemory.MinBytes, s.DynamicMemory.MaxBytes
	}
	firmware := hypervisor.BIOS
	if s.Firmware == hypervisor.UEFI {
		firmware = hypervisor.UEFI
	}
	host := p.host
	if host.IsNull() {
		host = xapi.Null
	}
	// The viridian and secureboot keys are those of XenServer's templates.
	platform := map[string]string{"acpi": "1", "apic": "true", "pae": "true", "nx": "true", "stdvga": "0"}
	if s.GuestOS == "windows" {
		platform["viridian"] = "true"
	}
	if s.SecureBoot {
		platform["secureboot"] = "true"
	}
	other := map[string]string{}
	for k, l := range s.Labels {
		other[labelKey+k] = l
	}
	if s.Token != "" {
		other[tokenKey] = s.Token
	}
	if s.GuestOS != "" {
		other["anyvisor:guest-os"] = s.GuestOS
	}
	return map[string]any{
		"name_label": s.Name, "name_description": s.Description, "user_version": 1, "is_a_template": false, "affinity": host,
		"memory_static_min": min(dynMin, s.MemoryBytes), "memory_dynamic_min": dynMin, "memory_dynamic_max": dynMax,
		"memory_static_max": max(dynMax, s.MaxMemoryBytes), "VCPUs_params": map[string]string{}, "VCPUs_max": max(s.CPUs, s.MaxCPUs),
		"VCPUs_at_startup": s.CPUs, "actions_after_shutdown": "destroy", "actions_after_reboot": "restart", "actions_after_crash": "restart",
		"PV_bootloader": "", "PV_kernel": "", "PV_ramdisk": "", "PV_args": "", "PV_bootloader_args": "", "PV_legacy_args": "",
		"HVM_boot_policy": "BIOS order", "HVM_boot_params": map[string]string{"order": "cdn", "firmware": string(firmware)},
		"platform": platform, "PCI_bus": "", "other_config": other, "recommendations": "", "domain_type": "hvm",
	}
}

// DeleteVM destroys a machine, its snapshots, and the images of all of them or
// of the snapshots alone.
func (d *driver) DeleteVM(ctx context.Context, id hypervisor.VMID, r hypervisor.DeleteRequest) (hypervisor.DriverTask, error) {
	vm, v, err := d.vm(ctx, id)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name}
	st := state(v.PowerState)
	switch {
	case v.DefaultTemplate:
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, on, "this is one of the pool's default templates, which can't be deleted")
	case (st == hypervisor.Running || st == hypervisor.Paused) && !r.Force:
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, on, "the machine is %s: power it off first, or set Force", st)
	}
	return d.compose(ctx, "delete", on, hypervisor.VMDelete, func(ctx context.Context, j *job) (hypervisor.Ref, error) {
		if st == hypervisor.Running || st == hypervisor.Paused || st == hypervisor.Suspended && r.Disks == hypervisor.KeepDisks {
			if _, err := j.run(ctx, 0, 0.3, "VM.hard_shutdown", vm); err != nil {
				return on, err
			}
		}
		for _, s := range v.Snapshots {
			if err := d.destroyWithDisks(ctx, s); err != nil {
				return on, err
			}
		}
		if r.Disks == hypervisor.KeepDisks {
			return on, d.c.Call(ctx, nil, "VM.destroy", vm)
		}
		return on, d.destroyWithDisks(ctx, vm)
	})
}

// destroyWithDisks destroys a machine or snapshot and the images that belong
// to it: VM.destroy leaves them behind. An image that another machine has
// attached, or a read-only one such as an ISO, stays.
func (d *driver) destroyWithDisks(ctx context.Context, vm xapi.Ref) error {
	var v vmRec
	if err := d.c.Call(ctx, &v, "VM.get_record", vm); err != nil {
		if kindOf(err) == hypervisor.KindNotFound {
			return nil
		}
		return err
	}
	vbds, err := records[vbdRec](ctx, d, "VBD", v.VBDs)
	if err != nil {
		return err
	}
	var images []xapi.Ref
	for b := range maps.Values(vbds) {
		if !b.Empty && b.Type == "Disk" {
			images = append(images, b.VDI)
		}
	}
	if !v.SuspendVDI.IsNull() {
		images = append(images, v.SuspendVDI)
	}
	if err := d.c.Call(ctx, nil, "VM.destroy", vm); err != nil {
		return err
	}
	recs, err := records[vdiRec](ctx, d, "VDI", images)
	if err != nil {
		return err
	}
	var left []hypervisor.Ref
	var first error
	for _, ref := range images {
		rec, ok := recs[ref]
		if !ok || rec.ToolsISO || len(rec.VBDs) > 0 {
			continue
		}
		if err := d.c.Call(ctx, nil, "VDI.destroy", ref); err != nil && kindOf(err) != hypervisor.KindNotFound {
			left = append(left, hypervisor.VolumeID(rec.UUID).Ref())
			if first == nil {
				first = err
			}
		}
	}
	if first != nil {
		return &hypervisor.Error{Kind: kindOf(first), Leftover: left, Err: first}
	}
	return nil
}
