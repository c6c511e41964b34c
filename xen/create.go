package xen

import (
	"context"
	"fmt"
	"strconv"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// maxVCPUs is XenServer's configuration limit of virtual CPUs per machine
// (XenServer 8 configuration limits). VM.create itself checks nothing.
const maxVCPUs = 64

// sizes checks CPUs and memory against the largest host.
func (d *driver) sizes(ctx context.Context, on hypervisor.Ref, cpus, memory int64) error {
	if cpus > maxVCPUs {
		return hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "%d CPUs: XenServer gives a machine at most %d", cpus, maxVCPUs)
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
		return hypervisor.Errorf(hypervisor.ErrExhausted, on, "%d bytes of memory: the largest host has %d", memory, most)
	}
	return nil
}

// plan is a spec whose references were looked up, before anything is made.
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

// place refuses what a pool doesn't have. Its only resource pool is itself.
func (d *driver) place(on hypervisor.Ref, k capability.Name, p hypervisor.Placement) error {
	switch {
	case p.Folder != "":
		return hypervisor.Unsupported(on, k, hypervisor.ReasonPlatform, "a XAPI pool has no folders: leave Placement.Folder out")
	case p.Pool != "" && p.Pool != d.id:
		return notFound(p.Pool.Ref(), "pool")
	}
	return nil
}

func (d *driver) planCreate(ctx context.Context, on hypervisor.Ref, s hypervisor.VMSpec) (plan, error) {
	var p plan
	switch {
	case s.Boot != nil:
		return p, hypervisor.Unsupported(on, capability.BootDirect, hypervisor.ReasonPlatform, bootDetail)
	case s.SecureBoot && s.Firmware != hypervisor.FirmwareUEFI:
		return p, hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "SecureBoot needs Firmware UEFI: a XAPI pool starts machines by BIOS unless the request names UEFI")
	case s.Machine != "" && s.Machine != "hvm":
		return p, hypervisor.Unsupported(on, capability.VMCreate, hypervisor.ReasonPlatform, fmt.Sprintf("machine type %q: machines are made as hvm", s.Machine))
	}
	if err := d.place(on, capability.VMCreate, s.Placement); err != nil {
		return p, err
	}
	most := max(s.MemoryBytes, s.MaxMemoryBytes)
	if s.MaxCPUs > s.CPUs {
		if err := d.allowed(ctx, on, capability.CPUHotAdd); err != nil {
			return p, err
		}
	}
	if s.MaxMemoryBytes > s.MemoryBytes {
		if err := d.allowed(ctx, on, capability.MemoryHotAdd); err != nil {
			return p, err
		}
	}
	if s.DynamicMemory != nil {
		if err := d.allowed(ctx, on, capability.MemoryDynamic); err != nil {
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

// CreateVM makes a machine with VM.create, VDI.create, VBD.create and
// VIF.create. Until it is complete, a machine with a token carries makingKey.
// A repeated call continues with one that another process left unfinished.
func (d *driver) CreateVM(ctx context.Context, s hypervisor.VMSpec) (hypervisor.DriverTask, error) {
	return d.tokens.Once(ctx, s.Token, d, func() (hypervisor.DriverTask, error) {
		on := hypervisor.Ref{Kind: hypervisor.ObjectVM, Name: s.Name}
		f, err := d.lookFor(ctx, s.Token)
		if err != nil || f.whole != nil {
			return f.done(), err
		}
		p, err := d.planCreate(ctx, on, s)
		if err != nil {
			return nil, err
		}
		return d.compose(ctx, "create", on, capability.VMCreate, s.Token, func(ctx context.Context, j *poolJob) (hypervisor.Ref, error) {
			j.Bound = true
			var vm xapi.Ref
			if f.making != "" {
				whole, half, err := j.takeOver(ctx)
				if err != nil {
					return hypervisor.Ref{}, err
				}
				if whole != nil {
					return *whole, nil
				}
				vm = half
			}
			return j.create(ctx, s, p, vm)
		})
	})
}

// create makes the missing parts of a machine. vm is the part that another
// process left, or empty.
func (j *poolJob) create(ctx context.Context, s hypervisor.VMSpec, p plan, vm xapi.Ref) (hypervisor.Ref, error) {
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, Name: s.Name}
	var made *job.Undo
	if vm == "" {
		other := createOther(s)
		if s.Token != "" {
			other[makingKey+s.Token] = string(j.task)
		}
		var err error
		if vm, err = j.make(ctx, "VM", other, createRecord(s, p, other)); err != nil {
			return hypervisor.Ref{}, err
		}
		made = j.Remove(on, func(ctx context.Context) error { return j.d.destroy(ctx, "VM", vm) })
	}
	var v vmRec
	if err := j.d.c.Call(ctx, &v, "VM.get_record", vm); err != nil {
		return hypervisor.Ref{}, err
	}
	if on.ID = v.UUID; made != nil {
		made.Made = on
	}
	disks, nics, err := j.parts(ctx, v)
	if err != nil {
		return hypervisor.Ref{}, err
	}
	for i, dp := range p.disks {
		if dev := strconv.Itoa(i); !disks[dev] {
			if _, err := j.addDisk(ctx, vm, dp, dev, fmt.Sprintf("%s disk %d", s.Name, i), i == 0); err != nil {
				return hypervisor.Ref{}, err
			}
		}
		j.Report(hypervisor.TaskState{Fraction: float64(i+1) / float64(len(p.disks)+1), Phase: "disks"})
	}
	for i, n := range p.nets {
		if dev := strconv.Itoa(i); !nics[dev] {
			if _, err := j.addNIC(ctx, vm, n, s.NICs[i].MAC, dev); err != nil {
				return hypervisor.Ref{}, err
			}
		}
	}
	if s.Token != "" {
		// From the first of these on, the machine is complete.
		if err := j.d.c.Call(ctx, nil, "VM.add_to_other_config", vm, tokenKey, s.Token); err != nil && xapi.Code(err) != "MAP_DUPLICATE_KEY" {
			return hypervisor.Ref{}, err
		}
		j.Whole()
		if err := j.d.c.Call(ctx, nil, "VM.remove_from_other_config", vm, makingKey+s.Token); err != nil {
			j.Note("the mark " + makingKey + s.Token + " could not be taken off the machine: " + err.Error())
		}
	}
	if s.Start {
		return j.started(ctx, on, vm, p.host)
	}
	return on, nil
}

// parts returns which devices a machine has: none, if it was just made.
func (j *poolJob) parts(ctx context.Context, v vmRec) (disks, nics map[string]bool, err error) {
	vbds, err := records[vbdRec](ctx, j.d, "VBD", v.VBDs)
	if err != nil {
		return nil, nil, err
	}
	vifs, err := records[vifRec](ctx, j.d, "VIF", v.VIFs)
	disks, nics = map[string]bool{}, map[string]bool{}
	for _, b := range vbds {
		disks[b.UserDevice] = true
	}
	for _, f := range vifs {
		nics[f.Device] = true
	}
	return disks, nics, err
}

// started powers a new machine on. If the machine doesn't start, it stays and
// is named.
func (j *poolJob) started(ctx context.Context, on hypervisor.Ref, vm, host xapi.Ref) (hypervisor.Ref, error) {
	j.Whole() // the machine is complete
	method, args := "VM.start", []any{vm, false, false}
	if !host.IsNull() {
		method, args = "VM.start_on", []any{vm, host, false, false}
	}
	_, err := j.runTo(ctx, 0.9, 1, *j.d.inState(vm, method, hypervisor.StateRunning), method, args...)
	if err != nil {
		j.Left(on)
	}
	return on, err
}

// createOther returns the other_config for a new machine.
func createOther(s hypervisor.VMSpec) map[string]string {
	other := map[string]string{}
	for k, l := range s.Labels {
		other[labelKey+k] = l
	}
	if s.GuestOS != "" {
		other["anyvisor:guest-os"] = s.GuestOS
	}
	return other
}

// createRecord is the argument of VM.create.
func createRecord(s hypervisor.VMSpec, p plan, other map[string]string) map[string]any {
	dynMin, dynMax := s.MemoryBytes, s.MemoryBytes
	if s.DynamicMemory != nil {
		dynMin, dynMax = s.DynamicMemory.MinBytes, s.DynamicMemory.MaxBytes
	}
	firmware := hypervisor.FirmwareBIOS
	if s.Firmware == hypervisor.FirmwareUEFI {
		firmware = hypervisor.FirmwareUEFI
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
