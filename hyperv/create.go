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

// CreateVM implements hypervisor.Lifecycle. The machine is marked as
// unfinished, and not listed, until all its parts exist.
func (d *driver) CreateVM(ctx context.Context, s hypervisor.VMSpec) (hypervisor.DriverTask, error) {
	if t, err := d.byToken(ctx, s.Token); t != nil || err != nil {
		return t, err
	}
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, Name: s.Name}
	if s.Boot != nil {
		return nil, d.refuse(on, capability.BootDirect)
	}
	if err := d.checkPlacement(on, capability.VMCreate, s.Placement); err != nil {
		return nil, err
	}
	gen := generation2
	switch strings.ToLower(s.Machine) {
	case "":
		if s.Firmware == hypervisor.FirmwareBIOS {
			gen = generation1
		}
	case "generation 1", "1":
		gen = generation1
	case "generation 2", "2":
	default:
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, `Machine %q is unknown: use "generation 1" or "generation 2"`, s.Machine)
	}
	if gen == generation1 && (s.Firmware == hypervisor.FirmwareUEFI || s.SecureBoot) || gen == generation2 && s.Firmware == hypervisor.FirmwareBIOS {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "generation 1 has BIOS, generation 2 has UEFI: leave Firmware or Machine empty")
	}
	if err := evenMemory(on, s.MemoryBytes, s.MaxMemoryBytes, s.DynamicMemory); err != nil {
		return nil, err
	}
	if s.MaxCPUs > max(s.CPUs, 1) {
		return nil, d.refuse(on, capability.CPUHotAdd)
	}
	h, err := d.place(ctx, s.Placement, s.MemoryBytes)
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
	id := d.makeTask(h)
	return d.start(ctx, h, job.Spec{ID: id, Op: "create", Object: on}, func(o *op) (hypervisor.Ref, error) { return d.create(o, s, gen, id) })
}

// checkPlacement refuses what Hyper-V doesn't have. A machine's only pool is
// the failover cluster of its host.
func (d *driver) checkPlacement(on hypervisor.Ref, k capability.Name, p hypervisor.Placement) error {
	if p.Folder != "" {
		return hypervisor.Unsupported(on, k, hypervisor.ReasonPlatform, "Hyper-V has no folders for machines: leave Placement.Folder out")
	}
	if p.Pool == "" || p.Host == "" && slices.ContainsFunc(d.hosts, func(h *host) bool { return h.cluster == string(p.Pool) }) {
		return nil
	}
	h, err := d.host(p.Host)
	if err == nil && h.cluster != string(p.Pool) {
		err = hypervisor.Errorf(hypervisor.ErrNotFound, p.Pool.Ref(), "no such failover cluster, or host %s is not in it", p.Host)
	}
	return err
}

// place returns the requested host, or the one with the most free memory.
func (d *driver) place(ctx context.Context, p hypervisor.Placement, memory int64) (*host, error) {
	if p.Host != "" {
		return d.host(p.Host)
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
		if h.State == hypervisor.HostUp && h.FreeBytes > free && (p.Pool == "" || p.Pool == h.Pool) {
			best, free = d.hosts[i], h.FreeBytes
		}
	}
	if best == nil {
		return nil, hypervisor.Errorf(hypervisor.ErrUnavailable, hypervisor.Ref{}, "no host answers")
	}
	return best, nil
}

func (d *driver) create(o *op, s hypervisor.VMSpec, gen string, id hypervisor.TaskID) (hypervisor.Ref, error) {
	n := notes{Description: s.Description, Labels: s.Labels, Token: s.Token, GuestOS: s.GuestOS, Task: string(id), Unfinished: true}
	sys := cim.NewEmbedded("Msvm_VirtualSystemSettingData",
		"ElementName", s.Name, "VirtualSystemSubType", gen, "Notes", n.strings(),
		// A production checkpoint must not silently fall back to a standard
		// one (4: no fall-back), and checkpoints must not appear by
		// themselves.
		"UserSnapshotType", uint16(4), "AutomaticSnapshotsEnabled", o.h.noAutomaticSnapshots())
	if gen == generation2 {
		sys.Set("SecureBootEnabled", s.SecureBoot)
	}
	o.Phase("defining", -1)
	m, err := o.define(hypervisor.Ref{Kind: hypervisor.ObjectVM, Name: s.Name}, false, func(ctx context.Context) (string, error) { return o.madeByTask(ctx, id) },
		"DefineSystem", cim.Arg{Name: "SystemSettings", Value: sys})
	if err != nil {
		return hypervisor.Ref{}, err
	}
	if err := o.resize(m, hypervisor.Changes{CPUs: max(s.CPUs, 1), MemoryBytes: s.MemoryBytes, DynamicMemory: s.DynamicMemory, MaxMemoryBytes: s.MaxMemoryBytes}); err != nil {
		return hypervisor.Ref{}, err
	}
	for i, disk := range s.Disks {
		o.Phase(fmt.Sprintf("disk %d", i+1), -1)
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
	o.Whole()
	d.remember(m.id, o.h)
	return m.id.Ref(), o.powerOn(m, s.Start)
}

// powerOn starts a new machine. If that fails, the machine stays and is named
// as left behind.
func (o *op) powerOn(m *machine, yes bool) error {
	if !yes {
		return nil
	}
	o.Phase("starting", -1)
	err := o.turnOn(m)
	if err != nil {
		o.Left(m.id.Ref())
	}
	return err
}

// define calls a method that makes a machine and reads the machine. The undo
// removes it. Where the host does not report which machine it made, find
// finds it ("" for none). As long as its ID is unknown, errors name it by
// tobe. again is set where the host refuses to do the call twice.
func (o *op) define(tobe hypervisor.Ref, again bool, find func(context.Context) (string, error), method string, args ...cim.Arg) (*machine, error) {
	id, answered := "", true
	search := func(ctx context.Context) (err error) {
		answered = false
		if err = o.quiet(ctx); err == nil {
			id, err = find(ctx)
		}
		return err
	}
	known := false
	undo := o.Remove(tobe, func(ctx context.Context) error {
		if !known && answered {
			return nil // after a refusal
		}
		if !known {
			if err := search(ctx); err != nil || id == "" {
				return err
			}
		}
		return o.destroy(ctx, hypervisor.VMID(id))
	})
	r, err := o.call(trace{once: !again, look: func(ctx context.Context) (*cim.Result, error) {
		if err := search(ctx); err != nil || id == "" {
			return nil, err
		}
		return &cim.Result{}, nil
	}}, o.h.management(), method, args...)
	told := err == nil
	if told && id == "" {
		id, err = o.madeBy(r)
	}
	if err != nil {
		answered = answered && !told && !errors.Is(err, cim.ErrLost)
		return nil, err
	}
	made := hypervisor.VMID(id)
	known, undo.Made = true, made.Ref()
	m, err := o.d.read(o.ctx, o.h, o.s, made)
	if err == nil && m == nil {
		err = hypervisor.Errorf(hypervisor.ErrNotFound, made.Ref(), "%s made a machine that is not there", method)
	}
	if err != nil {
		return nil, err
	}
	m.fresh = true
	return m, nil
}

// destroy removes a machine, planned or real, if it exists. The host may
// realize a planned machine at the same time, after a call whose answer was
// lost. The planned one is then an invalid parameter, and the real one is
// removed.
func (o *op) destroy(ctx context.Context, id hypervisor.VMID) error {
	var failed error
	for range 3 {
		m, err := o.d.read(ctx, o.h, o.s, id)
		if err != nil || m == nil {
			return err
		}
		failed = m.destroy(ctx)
		if !m.planned || failed != nil && cim.KindOf(failed) != cim.InvalidArgument {
			return failed
		}
	}
	return failed
}

// madeBy returns the machine that an answer names.
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
	return "", fmt.Errorf("hyperv: %s: the job reports no machine", r.Method)
}

// gone reports whether the machine does not exist, once no job works on it.
func (m *machine) gone(ctx context.Context) (bool, error) {
	if err := m.quiet(ctx); err != nil {
		return false, err
	}
	return absent(m.s, m.ref())(ctx)
}

func (m *machine) destroy(ctx context.Context) error {
	return m.ask(ctx, m.done(absent(m.s, m.ref())), m.h.management(), "DestroySystem", cim.Arg{Name: "AffectedSystem", Value: m.ref()})
}
