package hyperv

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// CreateVM implements hypervisor.Lifecycle. The machine is marked as
// unfinished, and not listed, until all its parts are there.
func (d *driver) CreateVM(ctx context.Context, s hypervisor.VMSpec) (hypervisor.DriverTask, error) {
	if t, err := d.byToken(ctx, s.Token); t != nil || err != nil {
		return t, err
	}
	on := hypervisor.Ref{Kind: hypervisor.KindOfVM, Name: s.Name}
	if s.Boot != nil {
		return nil, d.refuse(on, hypervisor.BootDirect)
	}
	if err := checkPlacement(on, s.Placement); err != nil {
		return nil, err
	}
	gen := generation2
	switch strings.ToLower(s.Machine) {
	case "":
		if s.Firmware == hypervisor.BIOS {
			gen = generation1
		}
	case "generation 1", "1":
		gen = generation1
	case "generation 2", "2":
	default:
		return nil, hypervisor.Errorf(hypervisor.KindInvalidArgument, on, `Machine %q is unknown: use "generation 1" or "generation 2"`, s.Machine)
	}
	if gen == generation1 && (s.Firmware == hypervisor.UEFI || s.SecureBoot) || gen == generation2 && s.Firmware == hypervisor.BIOS {
		return nil, hypervisor.Errorf(hypervisor.KindInvalidArgument, on, "generation 1 has BIOS, generation 2 has UEFI: leave Firmware or Machine empty")
	}
	if err := evenMemory(on, s.MemoryBytes, s.MaxMemoryBytes, s.DynamicMemory); err != nil {
		return nil, err
	}
	if s.MaxCPUs > max(s.CPUs, 1) {
		return nil, d.refuse(on, hypervisor.CPUHotAdd)
	}
	h, err := d.place(ctx, s.Placement.Host, s.MemoryBytes)
	if err != nil {
		return nil, err
	}
	if err := d.checkDisks(ctx, h, on, s.Disks, s.Placement.Datastore); err != nil {
		return nil, err
	}
	hs, err := h.session(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range s.NICs {
		if err := h.checkNIC(ctx, hs, n, gen == generation2, on); err != nil {
			return nil, err
		}
	}
	id := makeTask(h)
	return d.start(ctx, h, id, func(o *op) (hypervisor.Ref, error) { return d.create(o, s, gen, id) })
}

func checkPlacement(on hypervisor.Ref, p hypervisor.Placement) error {
	if p.Pool != "" || p.Folder != "" {
		return hypervisor.Errorf(hypervisor.KindInvalidArgument, on, "Hyper-V has no resource pools or folders for machines: leave Pool and Folder empty")
	}
	return nil
}

// place returns the host that was asked for, or the one with the most free
// memory.
func (d *driver) place(ctx context.Context, id hypervisor.HostID, memory int64) (*host, error) {
	if id != "" {
		return d.host(id)
	}
	if len(d.hosts) == 1 {
		return d.hosts[0], nil
	}
	infos, err := d.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	var best *host
	var free int64 = -1
	for i, h := range infos {
		if h.State == hypervisor.HostUp && h.FreeBytes > free {
			best, free = d.hosts[i], h.FreeBytes
		}
	}
	if best == nil {
		return nil, hypervisor.Errorf(hypervisor.KindUnavailable, hypervisor.Ref{}, "no host answers")
	}
	return best, nil
}

func (d *driver) create(o *op, s hypervisor.VMSpec, gen string, id hypervisor.TaskID) (hypervisor.Ref, error) {
	n := notes{Description: s.Description, Labels: s.Labels, Token: s.Token, Task: string(id), Unfinished: true}
	sys := cim.NewEmbedded("Msvm_VirtualSystemSettingData",
		"ElementName", s.Name, "VirtualSystemSubType", gen, "Notes", n.strings(),
		// A production checkpoint must not fall back to a standard one in
		// silence (4: no fall-back), nor checkpoints appear by themselves.
		"UserSnapshotType", uint16(4), "AutomaticSnapshotsEnabled", false)
	if gen == generation2 {
		sys.Set("SecureBootEnabled", s.SecureBoot)
	}
	o.phase("defining", -1)
	m, err := o.define(hypervisor.Ref{Kind: hypervisor.KindOfVM, Name: s.Name}, once, func(ctx context.Context) (string, error) { return o.madeByTask(ctx, id) },
		"DefineSystem", cim.Arg{Name: "SystemSettings", Value: sys})
	if err != nil {
		return hypervisor.Ref{}, err
	}
	if err := o.resize(m, hypervisor.Changes{CPUs: max(s.CPUs, 1), MemoryBytes: s.MemoryBytes, DynamicMemory: s.DynamicMemory, MaxMemory: s.MaxMemoryBytes}); err != nil {
		return hypervisor.Ref{}, err
	}
	for i, disk := range s.Disks {
		o.phase(fmt.Sprintf("disk %d", i+1), -1)
		if disk.Datastore == "" {
			disk.Datastore = s.Placement.Datastore
		}
		if _, err := o.attachDisk(m, disk, s.Name); err != nil {
			return hypervisor.Ref{}, err
		}
	}
	for _, nic := range s.NICs {
		if _, err := o.attachNIC(m, nic); err != nil {
			return hypervisor.Ref{}, err
		}
	}
	n.Unfinished = false
	if err := m.modifyNow(o.ctx, "Notes", n.strings()); err != nil {
		return hypervisor.Ref{}, err
	}
	o.undos = nil
	d.remember(m.id, o.h)
	return m.id.Ref(), o.powerOn(m, s.Start)
}

// powerOn starts a machine that was made. If that fails the machine stays and
// is named as left behind.
func (o *op) powerOn(m *machine, yes bool) error {
	if !yes {
		return nil
	}
	o.phase("starting", -1)
	err := o.turnOn(m)
	if err != nil {
		o.state.Leftover = append(o.state.Leftover, m.id.Ref())
	}
	return err
}

// define calls a method that makes a machine and reads what it made; the undo
// removes it. Where the host does not tell which it made, find does ("" for
// none), and as long as nobody knows its ID it is called by what it is to be.
// Look is once unless the host refuses to do the call twice.
func (o *op) define(tobe hypervisor.Ref, look func(trace) trace, find func(context.Context) (string, error), method string, args ...cim.Arg) (*machine, error) {
	id, answered := "", true
	search := func(ctx context.Context) (err error) {
		answered = false
		if err = o.quiet(ctx); err == nil {
			id, err = find(ctx)
		}
		return err
	}
	n := len(o.undos)
	o.onFailure(tobe, func(ctx context.Context) error {
		if answered {
			return nil // with a refusal
		}
		if err := search(ctx); err != nil || id == "" {
			return err
		}
		return o.destroy(ctx, hypervisor.VMID(id))
	})
	r, err := o.call(look(func(ctx context.Context) (*cim.Result, error) {
		if err := search(ctx); err != nil || id == "" {
			return nil, err
		}
		return &cim.Result{}, nil
	}), o.h.management(), method, args...)
	told := err == nil
	if told && id == "" {
		id, err = o.madeBy(r)
	}
	if err != nil {
		answered = answered && !told && !errors.Is(err, cim.ErrLost)
		return nil, err
	}
	o.undos = o.undos[:n]
	made := hypervisor.VMID(id)
	o.onFailure(made.Ref(), func(ctx context.Context) error { return o.destroy(ctx, made) })
	m, err := o.d.read(o.ctx, o.h, o.s, made)
	if err == nil && m == nil {
		err = hypervisor.Errorf(hypervisor.KindNotFound, made.Ref(), "%s made a machine that is not there", method)
	}
	if err != nil {
		return nil, err
	}
	m.fresh = true
	return m, nil
}

// destroy removes a machine, planned or real, if it is there.
func (o *op) destroy(ctx context.Context, id hypervisor.VMID) error {
	m, err := o.d.read(ctx, o.h, o.s, id)
	if err != nil || m == nil {
		return err
	}
	return m.destroy(ctx)
}

// madeBy is the machine that an answer tells of.
func (o *op) madeBy(r *cim.Result) (string, error) {
	for _, out := range []string{"ResultingSystem", "ImportedSystem"} {
		if ref, ok := r.Out.Ref(out); ok {
			return strings.ToUpper(ref.Key("Name")), nil
		}
	}
	return o.madeByJob(r)
}

// madeByJob finds the machine among the elements that a job affected.
func (o *op) madeByJob(r *cim.Result) (string, error) {
	job, ok := r.Job()
	if !ok {
		return "", fmt.Errorf("hyperv: %s returned no machine", r.Method)
	}
	for _, class := range []string{"Msvm_ComputerSystem", "Msvm_PlannedComputerSystem"} {
		all, err := cim.JobResult(o.ctx, o.s, job, class)
		if err != nil {
			return "", err
		}
		for _, i := range all {
			if guid.MatchString(i.Str("Name")) {
				return strings.ToUpper(i.Str("Name")), nil
			}
		}
	}
	return "", fmt.Errorf("hyperv: %s: the job tells no machine", r.Method)
}

// gone reports whether the machine is not there, once no job works on it.
func (m *machine) gone(ctx context.Context) (bool, error) {
	if err := m.quiet(ctx); err != nil {
		return false, err
	}
	return absent(m.s, m.ref())(ctx)
}

func (m *machine) destroy(ctx context.Context) error {
	return m.ask(ctx, m.done(absent(m.s, m.ref())), m.h.management(), "DestroySystem", cim.Arg{Name: "AffectedSystem", Value: m.ref()})
}
