package vsphere

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
)

// move is a checked migration.
type move struct {
	v      hypervisor.VMInfo
	devs   []types.BaseVirtualDevice
	spec   types.VirtualMachineRelocateSpec
	report hypervisor.MigrateReport
	to     *driver // nil for a move within this vCenter
	uuid   string  // instance UUID, for a move to another vCenter
}

// plan checks everything that could block the move: what this driver knows,
// and what the server's provisioning checker reports.
func (d *driver) plan(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest) (*move, error) {
	on := id.Ref()
	switch {
	case !d.isVC():
		return nil, hypervisor.Unsupported(on, r.Capability(r.Mode != hypervisor.MigrateModeCold), hypervisor.ReasonPlatform, needsVC)
	case r.PostCopy:
		return nil, hypervisor.Unsupported(on, capability.MigratePostCopy, hypervisor.ReasonPlatform, noPostCopy)
	case r.Tuned():
		return nil, hypervisor.Unsupported(on, capability.MigrateTuning, hypervisor.ReasonPlatform, noTuning)
	case r.KeepSource:
		return nil, hypervisor.Unsupported(on, capability.MigrateStorage, hypervisor.ReasonPlatform, "vSphere removes the source's disks once a move is done: clone the machine to keep them")
	}
	m := &move{}
	var err error
	var devs types.ArrayOfVirtualDevice
	if m.v, devs, err = d.read(ctx, id); err != nil {
		return nil, err
	}
	m.devs = devs.VirtualDevice
	running := m.v.State == hypervisor.StateRunning
	k := r.Capability(running)
	s, err := d.supports(ctx, k)
	if err != nil {
		return nil, err
	}
	if s.Level == hypervisor.LevelNo {
		return nil, hypervisor.Unsupported(on, k, s.Reason, s.Detail)
	}
	m.report.Method = map[bool]string{true: "live, vMotion", false: "cold, relocation"}[running]
	m.ownChecks(r)
	if r.To != nil {
		return m, d.planCross(ctx, m, r)
	}
	w, err := d.world(ctx)
	if err != nil {
		return nil, err
	}
	if err := m.destination(ctx, d, w, r); err != nil {
		return nil, err
	}
	m.networks(w, r)
	if !m.report.OK() {
		return m, nil
	}
	return m, d.serverCheck(ctx, m)
}

func (m *move) block(reason hypervisor.ReasonCode, on hypervisor.Ref, format string, args ...any) {
	if slices.ContainsFunc(m.report.Blockers, func(b hypervisor.Blocker) bool { return b.Reason == reason && b.Object == on }) {
		return
	}
	m.report.Blockers = append(m.report.Blockers, hypervisor.Blocker{Reason: reason, Object: on, Detail: fmt.Sprintf(format, args...)})
}

func (m *move) warn(reason hypervisor.ReasonCode, on hypervisor.Ref, text string) {
	m.report.Warnings = append(m.report.Warnings, hypervisor.Blocker{Reason: reason, Object: on, Detail: text})
}

// ownChecks checks the machine alone.
func (m *move) ownChecks(r hypervisor.MigrateRequest) {
	on := m.v.ID.Ref()
	running := m.v.State == hypervisor.StateRunning
	if m.v.State == hypervisor.StateUnknown {
		m.block(hypervisor.ReasonHostDown, on, "the machine's host doesn't answer")
	}
	if r.Mode == hypervisor.MigrateModeLive && !running {
		m.block(hypervisor.ReasonVMState, on, "the machine is %s: only a running one moves live", m.v.State)
	}
	if r.Mode == hypervisor.MigrateModeCold && running {
		m.block(hypervisor.ReasonVMState, on, "the machine runs: shut it down, or move it live")
	}
	if label := passthroughLabel(m.devs); label != "" && running {
		m.block(hypervisor.ReasonVMPassthrough, on, "%s: %s", label, passthroughHolds)
	}
	for _, dev := range m.devs {
		if c, ok := dev.(*types.VirtualCdrom); ok && running {
			if _, local := c.Backing.(*types.VirtualCdromAtapiBackingInfo); local && c.Connectable != nil && c.Connectable.Connected {
				m.block(hypervisor.ReasonConfig, on, "a CD-ROM drive of the host is connected: disconnect it")
			}
		}
	}
}

// destination resolves the destination and checks the hosts and datastores.
func (m *move) destination(ctx context.Context, d *driver, w *world, r hypervisor.MigrateRequest) error {
	here := hostRef(m.v.Host)
	target := here
	if r.Host != "" {
		target = hostRef(r.Host)
		h, ok := w.hosts[target]
		if !ok {
			return notFound(r.Host.Ref())
		}
		m.spec.Host = &target
		name := hostName(r.Host, h.name)
		switch {
		case target == here && r.Storage == "" && r.Pool == "":
			m.block(hypervisor.ReasonSameHost, r.Host.Ref(), "the machine is on host %s already", name)
		case h.resting:
			m.block(hypervisor.ReasonMaintenance, r.Host.Ref(), "host %s is in maintenance mode: end it first", name)
		case !h.up:
			m.block(hypervisor.ReasonHostDown, r.Host.Ref(), "host %s is %s", name, h.connection)
		}
		// A host of another cluster needs one of that cluster's pools.
		from, to := w.computeOf(here), w.computeOf(target)
		if r.Pool == "" && to != nil && from != nil && from.self != to.self {
			m.spec.Pool = &to.pool
		}
	}
	if r.Pool != "" {
		pool, err := d.poolOf(ctx, r.Pool, w)
		if err != nil {
			return err
		}
		m.spec.Pool = &pool
	}
	if r.Storage != "" {
		s := storeRef(r.Storage)
		st, ok := w.stores[s]
		if !ok {
			return notFound(r.Storage.Ref())
		}
		m.spec.Datastore = &s
		for _, x := range disksOf(m.devs) {
			if raw(x) {
				m.warn(hypervisor.ReasonConfig, r.Storage.Ref(), fmt.Sprintf("disk %s (%s) is a raw device: it stays on its storage array", keyID(x.Key), imageOf(x)))
			}
		}
		var need int64
		for _, x := range m.v.Disks {
			if x.Datastore != r.Storage && !x.CDROM {
				need += x.SizeBytes
			}
		}
		switch {
		case !st.ok:
			m.block(hypervisor.ReasonDiskUnreachable, r.Storage.Ref(), "datastore %s is not accessible", st.name)
		case !slices.Contains(w.hosts[target].stores, s):
			m.block(hypervisor.ReasonDiskUnreachable, r.Storage.Ref(), "host %s does not reach datastore %s", target.Value, st.name)
		}
		if need > st.free {
			m.warn(hypervisor.ReasonNoSpace, r.Storage.Ref(), fmt.Sprintf("the disks may grow to %d MiB, datastore %s has %d MiB free", need/hypervisor.MiB, st.name, st.free/hypervisor.MiB))
		}
	} else if r.Host != "" {
		for _, x := range m.v.Disks {
			if s := storeRef(x.Datastore); x.Datastore != "" && !slices.Contains(w.hosts[target].stores, s) {
				m.block(hypervisor.ReasonNoSharedStorage, x.Datastore.Ref(), "host %s does not reach datastore %s of disk %s: move the storage too", target.Value, w.stores[s].name, x.ID)
			}
		}
	}
	if m.v.State == hypervisor.StateRunning && target != here && w.hosts[target].free < m.v.MemoryBytes {
		m.warn(hypervisor.ReasonNoMemory, hypervisor.HostID(target.Value).Ref(), "the host has less free memory than the machine's size")
	}
	return nil
}

func (w *world) computeOf(host ref) *compute {
	for i := range w.computes {
		if slices.Contains(w.computes[i].hosts, host) {
			return &w.computes[i]
		}
	}
	return nil
}

// networks checks that the target host has the machine's networks.
func (m *move) networks(w *world, r hypervisor.MigrateRequest) {
	if r.Host == "" || r.Host == m.v.Host || len(m.v.NICs) == 0 {
		return
	}
	for _, n := range m.v.NICs {
		if n.Network == "" || n.Model == "sriov" {
			continue
		}
		if !slices.ContainsFunc(w.hosts[hostRef(r.Host)].networks, func(x ref) bool { return x.Value == string(n.Network) }) {
			m.block(hypervisor.ReasonNetworkMissing, hypervisor.Ref{Kind: hypervisor.ObjectNetwork, ID: string(n.Network)},
				"host %s does not have network %s of adapter %s", r.Host, n.Network, n.ID)
		}
	}
}

// serverCheck calls VirtualMachineProvisioningChecker.CheckRelocate_Task.
func (d *driver) serverCheck(ctx context.Context, m *move) error {
	checker := d.vc.ServiceContent.VmProvisioningChecker
	if checker == nil {
		return nil
	}
	res, err := methods.CheckRelocate_Task(ctx, d.rt, &types.CheckRelocate_Task{This: *checker, Vm: vmRef(m.v.ID), Spec: m.spec})
	if err != nil {
		return checkerGone(err)
	}
	info, err := d.await(ctx, res.Returnval)
	if err != nil {
		return checkerGone(err)
	}
	for _, c := range get[types.ArrayOfCheckResult](propMap{"r": info.Result}, "r").CheckResult {
		for _, f := range c.Error {
			m.block(reasonOf(f.Fault), m.v.ID.Ref(), "%v", taskFailure(&f))
		}
		for _, f := range c.Warning {
			m.warn(reasonOf(f.Fault), m.v.ID.Ref(), taskFailure(&f).Error())
		}
	}
	return nil
}

// checkerGone accepts the driver's own checks where the server has no
// checker.
func checkerGone(err error) error {
	if kindOf(err) == hypervisor.ErrUnsupported {
		return nil
	}
	return err
}

// reasonOf maps the faults of the checkers (API reference, MigrationFault,
// VirtualHardwareCompatibilityIssue and their kin) to reasons.
func reasonOf(f types.BaseMethodFault) hypervisor.ReasonCode {
	switch f.(type) {
	case *types.DeviceNotSupported, *types.DeviceBackingNotSupported:
		return hypervisor.ReasonVMPassthrough
	case types.BaseCpuIncompatible:
		return hypervisor.ReasonCPU
	case *types.HostNotConnected, *types.HostNotReachable, *types.DisconnectedHostsBlockingEVC:
		return hypervisor.ReasonHostDown
	case *types.InsufficientMemoryResourcesFault, *types.InsufficientHostMemoryCapacityFault:
		return hypervisor.ReasonNoMemory
	case *types.NoDiskSpace, *types.InsufficientStorageSpace:
		return hypervisor.ReasonNoSpace
	case types.BaseCannotAccessNetwork:
		return hypervisor.ReasonNetworkMissing
	case types.BaseCannotAccessVmComponent, *types.DatastoreNotWritableOnHost, *types.InaccessibleDatastore:
		return hypervisor.ReasonDiskUnreachable
	case *types.DuplicateName:
		return hypervisor.ReasonNameTaken
	case *types.TaskInProgress:
		return hypervisor.ReasonVMBusy
	case *types.InvalidPowerState:
		return hypervisor.ReasonVMState
	case *types.AlreadyBeingManaged:
		return hypervisor.ReasonIDTaken
	case *types.VirtualHardwareVersionNotSupported, *types.IncompatibleHostForVmReplication:
		return hypervisor.ReasonVersion
	case *types.RestrictedVersion:
		return hypervisor.ReasonEdition
	}
	if kindOfFault(f) == hypervisor.ErrLicense {
		return hypervisor.ReasonEdition
	}
	return hypervisor.ReasonConfig
}

// CheckMigrate reads and changes nothing.
func (d *driver) CheckMigrate(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest) (hypervisor.MigrateReport, error) {
	m, err := d.plan(ctx, id, r)
	if err != nil {
		return hypervisor.MigrateReport{}, err
	}
	return m.report, nil
}

// Migrate takes one RelocateVM_Task after the checks.
func (d *driver) Migrate(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest) (hypervisor.DriverTask, error) {
	m, err := d.plan(ctx, id, r)
	if err != nil {
		return nil, err
	}
	if !m.report.OK() {
		e := hypervisor.Errorf(hypervisor.ErrIncompatible, id.Ref(), "%w", &hypervisor.BlockedError{Blockers: m.report.Blockers})
		e.Unsent = true
		return nil, e
	}
	t, err := d.start(ctx, id.Ref(), func(ctx context.Context) (ref, error) { return d.relocate(ctx, id, m.spec) }, func(j *serverTask) {
		j.finish = func(ctx context.Context, i types.TaskInfo, s *hypervisor.TaskState) { d.moved(ctx, m, r, i, s) }
	})
	if err != nil || r.Timeout == 0 {
		return t, err
	}
	return d.compose(ctx, "migrate", id.Ref(), func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		limit, stop := context.WithTimeout(ctx, r.Timeout)
		defer stop()
		j.Bound = true
		s, err := j.Follow(limit, t, 0, 1)
		if kindOf(err) == hypervisor.ErrCanceled && errors.Is(limit.Err(), context.DeadlineExceeded) && ctx.Err() == nil {
			err = hypervisor.Errorf(hypervisor.ErrTimeout, id.Ref(), "the migration did not end within %v and was cancelled; the machine is where it was (%w)", r.Timeout, err)
		}
		j.Migration = s.Migration
		return s.Result, err
	})
}

func (d *driver) relocate(ctx context.Context, id hypervisor.VMID, spec types.VirtualMachineRelocateSpec) (ref, error) {
	return d.launch(ctx, vmRef(id), "relocate", nil, func() (ref, error) {
		return taskOf(methods.RelocateVM_Task(ctx, d.rt, &types.RelocateVM_Task{This: vmRef(id), Spec: spec}))
	})
}

// moved fills in the result of a migration. vSphere does not report the
// downtime.
func (d *driver) moved(ctx context.Context, m *move, r hypervisor.MigrateRequest, t types.TaskInfo, s *hypervisor.TaskState) {
	res := &hypervisor.MigrateResult{VM: m.v.ID, Host: r.Host, Downtime: -1, Method: m.report.Method}
	if t.StartTime != nil && t.CompleteTime != nil {
		res.Total = max(t.CompleteTime.Sub(*t.StartTime), time.Duration(0))
	}
	s.Result, s.Migration = m.v.ID.Ref(), res
	if m.to != nil {
		id, err := m.to.findInstance(ctx, m.instance())
		if err != nil {
			s.Err = fmt.Errorf("the machine was moved, and can't be found at the destination: %w", err)
			return
		}
		res.VM = id
		s.Result = id.Ref()
	}
}
