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
)

// move is a migration that was looked at.
type move struct {
	v      hypervisor.VMInfo
	devs   []types.BaseVirtualDevice
	spec   types.VirtualMachineRelocateSpec
	report hypervisor.MigrateReport
	to     *driver // nil for a move inside
	uuid   string  // instance UUID, for a move to another vCenter
}

// migrateSupport is the capability that a request needs.
func migrateSupport(r hypervisor.MigrateRequest, running bool) hypervisor.Capability {
	switch {
	case r.To != nil:
		return hypervisor.MigrateCross
	case r.Host == "" && r.Pool == "" && running:
		return hypervisor.MigrateLiveStorage
	case r.Host == "" && r.Pool == "":
		return hypervisor.MigrateStorage
	case !running:
		return hypervisor.MigrateCold
	case r.Storage != "":
		return hypervisor.MigrateBoth
	}
	return hypervisor.MigrateLive
}

// plan checks everything that stands in the way: what this driver knows, and
// what the server's provisioning checker says.
func (d *driver) plan(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest) (*move, error) {
	on := id.Ref()
	switch {
	case !d.isVC():
		return nil, hypervisor.Unsupported(on, migrateSupport(r, r.Mode != hypervisor.Cold), hypervisor.ReasonPlatform, needsVC)
	case r.PostCopy:
		return nil, hypervisor.Unsupported(on, hypervisor.MigratePostCopy, hypervisor.ReasonPlatform, noPostCopy)
	case r.Tuned():
		return nil, hypervisor.Unsupported(on, hypervisor.MigrateTuning, hypervisor.ReasonPlatform, noTuning)
	case r.KeepSource:
		return nil, hypervisor.Unsupported(on, hypervisor.MigrateStorage, hypervisor.ReasonPlatform, "vSphere removes the source's disks once a move is done: clone the machine to keep them")
	}
	m := &move{}
	var err error
	var devs types.ArrayOfVirtualDevice
	if m.v, devs, err = d.read(ctx, id); err != nil {
		return nil, err
	}
	m.devs = devs.VirtualDevice
	running := m.v.State == hypervisor.Running
	k := migrateSupport(r, running)
	s, err := d.supports(ctx, k)
	if err != nil {
		return nil, err
	}
	if s.Level == hypervisor.No {
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
	m.networks(ctx, d, r)
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

// ownChecks are about the machine alone.
func (m *move) ownChecks(r hypervisor.MigrateRequest) {
	on := m.v.ID.Ref()
	running := m.v.State == hypervisor.Running
	if m.v.State == hypervisor.StateUnknown {
		m.block(hypervisor.ReasonHostDown, on, "the machine's host doesn't answer")
	}
	if r.Mode == hypervisor.Live && !running {
		m.block(hypervisor.ReasonVMState, on, "the machine is %s: only a running one moves live", m.v.State)
	}
	if r.Mode == hypervisor.Cold && running {
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

// destination resolves where it goes and checks the hosts and datastores.
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
		p, err := d.one(ctx, target, "runtime.connectionState", "runtime.inMaintenanceMode", "name")
		if err != nil {
			return err
		}
		name := hostName(r.Host, p.str("name"))
		switch {
		case target == here && r.Storage == "" && r.Pool == "":
			m.block(hypervisor.ReasonSameHost, r.Host.Ref(), "the machine is on host %s already", name)
		case get[bool](p, "runtime.inMaintenanceMode"):
			m.block(hypervisor.ReasonMaintenance, r.Host.Ref(), "host %s is in maintenance mode: end it first", name)
		case !h.up:
			m.block(hypervisor.ReasonHostDown, r.Host.Ref(), "host %s is %s", name, get[types.HostSystemConnectionState](p, "runtime.connectionState"))
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
	if m.v.State == hypervisor.Running && target != here && w.hosts[target].free < m.v.MemoryBytes {
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
func (m *move) networks(ctx context.Context, d *driver, r hypervisor.MigrateRequest) {
	if r.Host == "" || r.Host == m.v.Host || len(m.v.NICs) == 0 {
		return
	}
	p, err := d.one(ctx, hostRef(r.Host), "network")
	if err != nil {
		return // the server's own check will tell
	}
	for _, n := range m.v.NICs {
		if n.Network == "" || n.Model == "sriov" {
			continue
		}
		if !slices.ContainsFunc(p.refs("network"), func(x ref) bool { return x.Value == string(n.Network) }) {
			m.block(hypervisor.ReasonNetworkMissing, hypervisor.Ref{Kind: hypervisor.KindOfNetwork, ID: string(n.Network)},
				"host %s does not have network %s of adapter %s", r.Host, n.Network, n.ID)
		}
	}
}

// serverCheck asks VirtualMachineProvisioningChecker.CheckRelocate_Task.
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

// checkerGone lets the driver's own checks stand where the server has none.
func checkerGone(err error) error {
	if kindOf(err) == hypervisor.KindUnsupported {
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
	if kindOfFault(f) == hypervisor.KindLicense {
		return hypervisor.ReasonEdition
	}
	return hypervisor.ReasonConfig
}

// CheckMigrate changes nothing.
func (d *driver) CheckMigrate(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest) (hypervisor.MigrateReport, error) {
	m, err := d.plan(ctx, id, r)
	if err != nil {
		return hypervisor.MigrateReport{}, err
	}
	return m.report, nil
}

// Migrate is one RelocateVM_Task after the checks.
func (d *driver) Migrate(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest) (hypervisor.DriverTask, error) {
	m, err := d.plan(ctx, id, r)
	if err != nil {
		return nil, err
	}
	if !m.report.OK() {
		e := hypervisor.Errorf(hypervisor.KindIncompatible, id.Ref(), "%w", &hypervisor.BlockedError{Blockers: m.report.Blockers})
		e.Unsent = true
		return nil, e
	}
	self, err := d.relocate(ctx, id, m.spec)
	if err != nil {
		return nil, err
	}
	finish := func(ctx context.Context, t types.TaskInfo, s *hypervisor.TaskState) { d.moved(ctx, m, r, t, s) }
	if r.Timeout == 0 {
		j := d.job(self)
		j.finish = finish
		return j, nil
	}
	return d.group.Go(ctx, newID("migrate"), func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		limit, stop := context.WithTimeout(ctx, r.Timeout)
		defer stop()
		info, err := d.follow(limit, self, report)
		if err != nil {
			if kindOf(err) == hypervisor.KindCanceled && errors.Is(limit.Err(), context.DeadlineExceeded) && ctx.Err() == nil {
				err = hypervisor.Errorf(hypervisor.KindTimeout, id.Ref(), "the migration did not end within %v and was cancelled; the machine is where it was (%w)", r.Timeout, err)
			}
			return hypervisor.TaskState{Err: err}
		}
		var s hypervisor.TaskState
		finish(ctx, info, &s)
		return s
	})
}

func (d *driver) relocate(ctx context.Context, id hypervisor.VMID, spec types.VirtualMachineRelocateSpec) (ref, error) {
	return d.launch(ctx, vmRef(id), "relocate", nil, func() (ref, error) {
		res, err := methods.RelocateVM_Task(ctx, d.rt, &types.RelocateVM_Task{This: vmRef(id), Spec: spec})
		if err != nil {
			return ref{}, err
		}
		return res.Returnval, nil
	})
}

// moved tells what a migration did. vSphere does not tell the downtime.
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
