package hyperv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// Values of Msvm_VirtualSystemMigrationSettingData.MigrationType and
// .TransportType.
const (
	migrateSystem  = uint16(32768) // live, or cold if the machine is off
	migrateStorage = uint16(32769)
	migrateBoth    = uint16(32771)
	transportTCP   = uint16(5)
)

// move is a checked migration.
type move struct {
	m      *machine
	req    hypervisor.MigrateRequest
	to     *host // where the machine will be; its own host for storage alone
	target *driver
	kind   uint16
	rec    *record
	group  cim.Ref // of a machine that a cluster manages
	// addresses are those of the target that take migrations.
	addresses []string
	report    hypervisor.MigrateReport
}

func (v *move) block(reason hypervisor.ReasonCode, on hypervisor.Ref, format string, args ...any) {
	v.report.Blockers = append(v.report.Blockers, hypervisor.Blocker{Reason: reason, Object: on, Detail: fmt.Sprintf(format, args...)})
}

// CheckMigrate implements hypervisor.Migrator.
func (d *driver) CheckMigrate(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest) (hypervisor.MigrateReport, error) {
	v, err := d.plan(ctx, id, r)
	if err != nil {
		return hypervisor.MigrateReport{}, err
	}
	return v.report, nil
}

// plan finds out what a migration involves, and everything that blocks it.
func (d *driver) plan(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest) (*move, error) {
	switch {
	case r.PostCopy:
		return nil, d.refuse(id.Ref(), capability.MigratePostCopy)
	case r.MaxDowntime != 0 || r.BandwidthBytes != 0 || r.AutoConverge || r.Channels != 0:
		return nil, hypervisor.Unsupported(id.Ref(), capability.MigrateTuning, hypervisor.ReasonPlatform, "bandwidth and downtime are settings of the hosts; only Compress is chosen for one migration")
	case r.Pool != "":
		return nil, hypervisor.Unsupported(id.Ref(), capability.MigrateLive, hypervisor.ReasonPlatform, "Hyper-V has no resource pools to move to: leave Pool empty")
	}
	m, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	v := &move{m: m, req: r, to: m.h, target: d}
	if r.To != nil {
		t, ok := r.To.(*driver)
		if !ok {
			return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, id.Ref(), "the other client is of another kind")
		}
		v.target = t
	}
	if r.Host != "" {
		if v.to, err = v.target.host(r.Host); err != nil {
			return nil, err
		}
	} else if v.target != d {
		v.to = v.target.hosts[0]
	}
	alive := m.state == hypervisor.StateRunning || m.state == hypervisor.StatePaused
	switch {
	case r.Mode == hypervisor.MigrateModeLive && m.state != hypervisor.StateRunning:
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine is %s: only a running one moves live", m.state)
	case r.Mode == hypervisor.MigrateModeCold && alive:
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine is %s: a cold move needs it off or suspended", m.state)
	}
	v.kind = migrateSystem
	switch {
	case v.to == m.h:
		v.kind = migrateStorage
	case r.Storage != "":
		v.kind = migrateBoth
	}
	if v.rec, _, err = m.resources(ctx); err != nil {
		return nil, err
	}
	if v.kind == migrateBoth && v.storedIn(r.Storage) {
		v.kind = migrateSystem // the disks are there already, and shared
	}
	v.report.Method = map[bool]string{true: "live", false: "cold"}[alive] + map[uint16]string{migrateSystem: ", machine", migrateStorage: ", storage", migrateBoth: ", machine and storage"}[v.kind]
	if m.notes.Template {
		v.block(hypervisor.ReasonIsTemplate, id.Ref(), "this is a template: turn it back into a machine first")
		return v, nil
	}
	if v.to == m.h && r.Storage == "" {
		v.block(hypervisor.ReasonSameHost, v.to.id.Ref(), "the machine is on this host already")
		return v, nil
	}
	return v, v.inspect(ctx)
}

// storedIn reports whether all disks are in a datastore that both hosts reach.
func (v *move) storedIn(ds hypervisor.DatastoreID) bool {
	for _, d := range disksOf(v.m.h, v.rec) {
		if !strings.EqualFold(string(d.Datastore), string(ds)) {
			return false
		}
	}
	return v.m.h.shared(string(ds) + `\`)
}

// inspect adds every blocker: this driver's findings, then the host's.
func (v *move) inspect(ctx context.Context) error {
	m, on := v.m, v.m.id.Ref()
	if len(v.rec.rows[rowPCI]) > 0 && v.kind != migrateStorage {
		v.block(hypervisor.ReasonVMPassthrough, on, "a host device is assigned to the machine: detach it first")
	}
	if len(v.rec.rows[rowPartitions]) > 0 && v.kind != migrateStorage && !m.h.atLeast(26100) {
		v.block(hypervisor.ReasonVMPassthrough, on, "a GPU partition is assigned to the machine, and only Windows Server 2025 moves those: detach it first")
	}
	if sup := m.h.editionFor(capability.MigrateLive); sup.Level == hypervisor.LevelNo && v.kind != migrateStorage {
		v.block(sup.Reason, m.h.id.Ref(), "%s", sup.Detail)
	}
	if v.req.Storage != "" {
		if _, err := v.to.directory(v.req.Storage); err != nil {
			return err
		}
	}
	if len(m.notes.Bases) > 0 && v.req.Storage != "" {
		v.block(hypervisor.ReasonVMLinked, on, "the machine is a linked clone; moving its storage would copy only its own part: clone it in full first")
	}
	if err := v.inspectImages(ctx); err != nil {
		return err
	}
	if v.kind == migrateStorage {
		v.inspectPhysical()
		return v.askHost(ctx)
	}
	var err error
	if v.group, err = clusterGroup(ctx, m); err != nil {
		return err
	}
	if v.group.IsZero() {
		v.inspectPhysical()
	}
	if !v.group.IsZero() {
		v.report.Method += ", through the cluster"
		if v.kind == migrateBoth {
			v.block(hypervisor.ReasonConfig, on, "a cluster manages the machine and moves it without its storage: move the storage first, then the machine")
		}
	}
	ts, err := v.to.session(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		v.block(hypervisor.ReasonHostDown, v.to.id.Ref(), "host %s does not answer: %v", v.to.id, err)
		return nil
	}
	if err := v.inspectTarget(ctx, ts); err != nil {
		return err
	}
	return v.askHost(ctx)
}

// inspectPhysical refuses disks of the host. Only a cluster moves those with
// a machine, as resources of its own.
func (v *move) inspectPhysical() {
	for _, p := range v.rec.physical() {
		disk := hypervisor.DiskID(p.Str("InstanceID"))
		v.block(hypervisor.ReasonVMPassthrough, disk.Ref(), "disk %s is a disk of host %s, passed through: detach it first", disk, v.m.h.id)
	}
}

// inspectImages refuses to move images that other machines need where they
// are.
func (v *move) inspectImages(ctx context.Context) error {
	if v.kind == migrateSystem {
		return nil
	}
	images, err := v.m.allImages(ctx)
	if err != nil {
		return err
	}
	deps, err := v.m.d.dependants(ctx, v.m, images)
	for _, x := range deps {
		v.block(hypervisor.ReasonVMLinked, x.ref, "%s needs image %s where it is", x.ref, x.bases[0])
	}
	return err
}

func (v *move) inspectTarget(ctx context.Context, ts cim.Session) error {
	m, target := v.m, v.to.id.Ref()
	if sup := v.to.editionFor(capability.MigrateLive); sup.Level == hypervisor.LevelNo {
		v.block(sup.Reason, target, "%s", sup.Detail)
	}
	for _, x := range []struct {
		h *host
		s cim.Session
	}{{m.h, m.s}, {v.to, ts}} {
		set, err := cim.First(x.s.Query(ctx, cim.Virtualization, cim.Select("Msvm_VirtualSystemMigrationServiceSettingData", []string{"InstanceID", "EnableVirtualSystemMigration", "AuthenticationType"})), "migration settings")
		if err != nil && !isGone(err) {
			return err
		}
		if set == nil || !set.Bool("EnableVirtualSystemMigration") {
			v.block(hypervisor.ReasonConfig, x.h.id.Ref(), "live migration is switched off on host %s (Enable-VMMigration)", x.h.id)
			continue
		}
		if !v.group.IsZero() { // the cluster moves the machine as itself, over its own networks
			continue
		}
		if x.h == v.to {
			if err := v.findListeners(ctx, ts); err != nil {
				return err
			}
		} else if x.h.cfg.noDelegation(set) {
			v.block(hypervisor.ReasonConfig, x.h.id.Ref(), "host %s migrates with CredSSP, that is with the credentials of a user who is logged in on it, and this login brings none: "+
				"use Set-VMHost -VirtualMachineMigrationAuthenticationType Kerberos, and constrained delegation", x.h.id)
		}
	}
	if v.req.Storage == "" {
		for _, disk := range disksOf(m.h, v.rec) {
			if _, p := splitID(string(disk.Volume)); p != "" && !m.h.shared(p) {
				v.block(hypervisor.ReasonNoSharedStorage, hypervisor.Ref{Kind: hypervisor.ObjectDisk, ID: string(disk.ID)},
					"image %s is on a drive of host %s alone: move the storage too, or put it on a share or cluster volume", p, m.h.id)
			}
		}
	}
	if err := v.checkNetworks(ctx, ts); err != nil {
		return err
	}
	other, err := v.target.read(ctx, v.to, ts, m.id)
	if err != nil {
		return err
	}
	if other != nil {
		v.block(hypervisor.ReasonIDTaken, target, "host %s has a machine with this ID", v.to.id)
	}
	return v.checkRoom(ctx, ts)
}

// findListeners reads the addresses on which the target takes migrations.
func (v *move) findListeners(ctx context.Context, ts cim.Session) error {
	svc, err := cim.First(ts.Query(ctx, cim.Virtualization, cim.Select("Msvm_VirtualSystemMigrationService", []string{"Name", "MigrationServiceListenerIPAddressList"})), "the migration service")
	if err != nil {
		return err
	}
	if v.addresses = svc.Strs("MigrationServiceListenerIPAddressList"); len(v.addresses) == 0 {
		v.block(hypervisor.ReasonConfig, v.to.id.Ref(), "host %s takes migrations on no network (Add-VMMigrationNetwork, or Set-VMHost -UseAnyNetworkForMigration $true)", v.to.id)
	}
	return nil
}

// checkNetworks compares switches by name, as Hyper-V does.
func (v *move) checkNetworks(ctx context.Context, ts cim.Session) error {
	here, err := switches(ctx, v.m.s)
	if err != nil {
		return err
	}
	there, err := switches(ctx, ts)
	if err != nil {
		return err
	}
	names := map[string]bool{}
	for _, sw := range there {
		names[strings.ToLower(sw.Str("ElementName"))] = true
	}
	for _, nic := range nicsOf(v.rec) {
		for _, sw := range here {
			if strings.EqualFold(sw.Str("Name"), string(nic.Network)) && !names[strings.ToLower(sw.Str("ElementName"))] {
				v.block(hypervisor.ReasonNetworkMissing, nic.ID.Ref(), "host %s has no switch %q", v.to.id, sw.Str("ElementName"))
			}
		}
	}
	return nil
}

func (v *move) checkRoom(ctx context.Context, ts cim.Session) error {
	if v.m.state == hypervisor.StateOff || len(v.rec.rows[rowMemory]) == 0 {
		return nil
	}
	free, err := freeMemory(ctx, ts)
	if err != nil {
		return err
	}
	if need := int64(v.rec.rows[rowMemory][0].Uint("VirtualQuantity")) * hypervisor.MiB; need > free {
		v.block(hypervisor.ReasonNoMemory, v.to.id.Ref(), "the machine needs %d MiB, host %s has %d MiB free", need/hypervisor.MiB, v.to.id, free/hypervisor.MiB)
	}
	return nil
}

// askHost makes the host check what only the host knows, such as processors.
// The check is left out where this driver's findings make the answer certain,
// because the host then only repeats the first of them, and for machines of a
// cluster, which the host refuses.
func (v *move) askHost(ctx context.Context) error {
	if len(v.report.Blockers) > 0 || !v.group.IsZero() {
		return nil
	}
	args, err := v.args()
	if err != nil {
		return err
	}
	r, err := cim.Again(func() (*cim.Result, error) {
		return cim.Call(ctx, v.m.s, v.m.h.migration(), "CheckVirtualSystemIsMigratable", args...)
	})
	if err == nil {
		err = v.m.d.finish(ctx, v.m.s, r)
	}
	if err == nil {
		return nil
	}
	if !refused(err) {
		return err
	}
	v.explain(ctx, r, err)
	return nil
}

// args are the parameters that the check and the migration share.
func (v *move) args() ([]cim.Arg, error) {
	set := cim.NewEmbedded("Msvm_VirtualSystemMigrationSettingData", "MigrationType", v.kind)
	if v.kind != migrateStorage {
		set.Set("TransportType", transportTCP).Set("EnableCompression", v.req.Compress)
		if len(v.addresses) > 0 {
			set.Set("DestinationIPAddressList", v.addresses)
		}
	}
	if v.req.KeepSource {
		set.Set("RetainVhdCopiesOnSource", true)
	}
	args := []cim.Arg{{Name: "ComputerSystem", Value: v.m.ref()}}
	if v.kind != migrateStorage {
		args = append(args, cim.Arg{Name: "DestinationHost", Value: v.to.name})
	}
	args = append(args, cim.Arg{Name: "MigrationSettingData", Value: set})
	if v.kind == migrateSystem {
		return args, nil
	}
	dir, err := v.to.directory(v.req.Storage)
	if err != nil {
		return nil, err
	}
	var disks []*cim.Embedded
	for _, x := range v.rec.rows[rowDisks] {
		p := x.Str("HostResource")
		if p == "" || x.Str("ResourceSubType") != subVHD {
			continue
		}
		disks = append(disks, cim.NewEmbedded("Msvm_StorageAllocationSettingData", "InstanceID", x.Str("InstanceID"),
			"ResourceType", typeImage, "ResourceSubType", subVHD, "Parent", x.Str("Parent"), "HostResource", []string{join(dir, base(p))}))
	}
	if len(disks) > 0 {
		args = append(args, cim.Arg{Name: "NewResourceSettingData", Value: disks})
	}
	return args, nil
}

// Migrate implements hypervisor.Migrator.
func (d *driver) Migrate(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest) (hypervisor.DriverTask, error) {
	v, err := d.plan(ctx, id, r)
	if err != nil {
		return nil, err
	}
	if !v.report.OK() {
		return nil, &hypervisor.Error{Kind: hypervisor.ErrIncompatible, Object: id.Ref(), Unsent: true, Err: &hypervisor.BlockedError{Blockers: v.report.Blockers}}
	}
	args, err := v.args()
	if err != nil {
		return nil, err
	}
	if !v.group.IsZero() {
		return d.moveInCluster(ctx, v)
	}
	return v.m.begin(ctx, "migrate", func(ctx context.Context) (hypervisor.DriverTask, error) {
		began := time.Now()
		q := v.m.request(trace{}, v.m.h.migration(), "MigrateVirtualSystemToHost", args...)
		res, err := q.call(ctx)
		if err != nil && !errors.Is(err, cim.ErrLost) {
			return nil, v.m.contended(ctx, err)
		}
		return v.m.start(ctx, "migrate", taskOf(v.m.h, res), func(o *op) (hypervisor.Ref, error) {
			whole := o.ctx
			if r.Timeout > 0 {
				limited, cancel := context.WithTimeoutCause(o.ctx, r.Timeout, hypervisor.ErrCanceled)
				defer cancel()
				o.ctx = limited
			}
			q.trace = trace{once: true, look: func(ctx context.Context) (*cim.Result, error) { return v.trace(ctx, o) }}
			res, err := q.follow(o.ctx, res, err)
			if err == nil {
				err = o.wait(res)
			}
			if err != nil && o.ctx.Err() != nil && whole.Err() == nil {
				err = hypervisor.Errorf(hypervisor.ErrTimeout, id.Ref(), "the migration did not end within %v and was cancelled: %w", r.Timeout, err)
			}
			if err != nil {
				return hypervisor.Ref{}, err
			}
			o.Migration = v.done(began)
			return v.m.id.Ref(), nil
		})
	})
}

// trace finds the job of a lost migration, beside which no other work on the
// machine runs, and waits for it; it may be cancelled. The location of the
// machine and its images then shows how it ended.
func (v *move) trace(ctx context.Context, o *op) (*cim.Result, error) {
	jobs, err := v.m.jobs(ctx)
	if err != nil {
		return nil, err
	}
	for _, j := range jobs {
		wait := o.waitJob
		if j.Class != "Msvm_MigrationJob" {
			wait = func(j cim.Ref) error { return v.m.d.finishAll(ctx, v.m.s, []cim.Ref{j}) }
		}
		if err := wait(j); err != nil {
			return nil, err
		}
	}
	s, err := v.to.session(ctx)
	if err != nil {
		return nil, err
	}
	there, err := v.target.read(ctx, v.to, s, v.m.id)
	if err != nil || there == nil || there.planned {
		return nil, err
	}
	if v.kind == migrateSystem {
		return &cim.Result{}, nil
	}
	dir, err := v.to.directory(v.req.Storage)
	if err != nil {
		return nil, err
	}
	disks, err := there.disks(ctx)
	if err != nil || slices.ContainsFunc(disks, func(x *cim.Instance) bool {
		return !strings.EqualFold(join(dir, base(x.Str("HostResource"))), x.Str("HostResource"))
	}) {
		return nil, err
	}
	return &cim.Result{}, nil
}

// done returns the result of a move that has ended. Hyper-V does not report
// the downtime.
func (v *move) done(began time.Time) *hypervisor.MigrateResult {
	v.m.d.forget(v.m.id)
	v.target.remember(v.m.id, v.to)
	out := &hypervisor.MigrateResult{VM: v.m.id, Host: v.to.id, Downtime: -1, Total: time.Since(began), Method: v.report.Method}
	if v.req.KeepSource && v.kind != migrateSystem {
		for _, x := range disksOf(v.m.h, v.rec) {
			out.Kept = append(out.Kept, hypervisor.Ref{Kind: hypervisor.ObjectVolume, ID: string(x.Volume)})
		}
	}
	return out
}
