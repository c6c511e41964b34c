package xen

import (
	"context"
	"fmt"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// move is a migration with everything looked up.
type move struct {
	vm      xapi.Ref
	v       vmRec
	on      hypervisor.Ref
	r       hypervisor.MigrateRequest
	inv     *inventory
	dst     *driver // the pool it goes to
	there   *inventory
	pbds    map[xapi.Ref]pbdRec // of that pool
	pifs    map[xapi.Ref]pifRec
	load    map[xapi.Ref]hostMetricsRec
	host    xapi.Ref // Null: stays, or any (off)
	sr      xapi.Ref // Null: disks stay
	running bool
	live    bool
}

// how names the message that does it.
func (m *move) how() string {
	switch {
	case m.r.To != nil, !m.sr.IsNull() || m.running && m.localDisks():
		return "VM.migrate_send"
	case m.running || state(m.v.PowerState) == hypervisor.Suspended:
		return "VM.pool_migrate"
	case m.localDisks():
		return "VM.migrate_send"
	}
	return "VM.set_affinity"
}

// localDisks reports whether an image can't be reached by the destination.
func (m *move) localDisks() bool {
	if m.host.IsNull() {
		return false
	}
	for _, img := range m.images() {
		if !m.reaches(m.host, img.SR) {
			return true
		}
	}
	return false
}

func (m *move) images() map[xapi.Ref]vdiRec {
	out := map[xapi.Ref]vdiRec{}
	for _, r := range m.v.VBDs {
		if b, ok := m.inv.vbds[r]; ok && !b.Empty && b.Type == "Disk" {
			out[b.VDI] = m.inv.vdis[b.VDI]
		}
	}
	return out
}

func (m *move) reaches(host, sr xapi.Ref) bool {
	for _, p := range m.pbds {
		if p.Host == host && p.SR == sr && p.Attached {
			return true
		}
	}
	return false
}

// plan looks everything up. It fails for IDs that are not there.
func (d *driver) plan(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest) (*move, error) {
	vm, v, err := d.vm(ctx, id)
	if err != nil {
		return nil, err
	}
	m := &move{vm: vm, v: v, r: r, dst: d, on: hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name}}
	if r.To != nil {
		other, ok := r.To.(*driver)
		if !ok {
			return nil, hypervisor.Errorf(hypervisor.KindInvalidArgument, m.on, "the other Client is no XAPI pool")
		}
		m.dst = other
	}
	switch {
	case r.Pool != "":
		return nil, hypervisor.Errorf(hypervisor.KindUnsupported, m.on, "a XAPI pool has no resource pools: name a Host")
	case r.PostCopy:
		return nil, hypervisor.Unsupported(m.on, hypervisor.MigratePostCopy, hypervisor.ReasonPlatform, postCopyDetail)
	case r.Tuned():
		return nil, hypervisor.Unsupported(m.on, hypervisor.MigrateTuning, hypervisor.ReasonPlatform, tuningDetail)
	case r.KeepSource && (r.Storage != "" || r.To != nil):
		return nil, hypervisor.Errorf(hypervisor.KindUnsupported, m.on, "XAPI removes the source's images itself once the move is done: leave KeepSource out")
	}
	if m.inv, err = d.load(ctx, hypervisor.Full); err != nil {
		return nil, err
	}
	m.there = m.inv
	if m.dst != d {
		if m.there, err = m.dst.load(ctx, hypervisor.Full); err != nil {
			return nil, err
		}
	}
	for _, c := range []struct {
		into  any
		class string
	}{{&m.pbds, "PBD"}, {&m.pifs, "PIF"}, {&m.load, "host_metrics"}} {
		if err := m.dst.c.Call(ctx, c.into, c.class+".get_all_records"); err != nil {
			return nil, err
		}
	}
	if m.host, err = m.dst.byUUID(ctx, "host", string(r.Host)); err != nil {
		return nil, err
	}
	if m.sr, err = m.dst.byUUID(ctx, "SR", string(r.Storage)); err != nil {
		return nil, err
	}
	st := state(v.PowerState)
	m.running = st == hypervisor.Running || st == hypervisor.Paused
	m.live = r.Mode == hypervisor.Live || r.Mode == hypervisor.AutoMigrate && m.running
	if m.live && !m.running {
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, m.on, "the machine is %s: only a running one can be moved live; use Cold", st)
	}
	if !m.live && m.running {
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, m.on, "the machine is %s: power it off for a cold move, or move it live", st)
	}
	return m, d.allowed(ctx, m.on, m.capability())
}

// capability is the one that the move needs.
func (m *move) capability() hypervisor.Capability {
	switch {
	case m.r.To != nil:
		return hypervisor.MigrateCross
	case !m.sr.IsNull() && m.host.IsNull() && m.live:
		return hypervisor.MigrateLiveStorage
	case !m.sr.IsNull() && m.live:
		return hypervisor.MigrateBoth
	case !m.sr.IsNull():
		return hypervisor.MigrateStorage
	case m.live:
		return hypervisor.MigrateLive
	}
	return hypervisor.MigrateCold
}

// CheckMigrate collects the driver's own checks and XAPI's
// VM.assert_can_migrate or VM.assert_can_boot_here, which stop at their first.
func (d *driver) CheckMigrate(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest) (hypervisor.MigrateReport, error) {
	m, err := d.plan(ctx, id, r)
	if err != nil {
		return hypervisor.MigrateReport{}, err
	}
	return d.check(ctx, m)
}

func (d *driver) check(ctx context.Context, m *move) (hypervisor.MigrateReport, error) {
	rep := hypervisor.MigrateReport{Method: m.how()}
	block := func(code hypervisor.ReasonCode, on hypervisor.Ref, format string, args ...any) {
		rep.Blockers = append(rep.Blockers, hypervisor.Blocker{Reason: code, Object: on, Detail: fmt.Sprintf(format, args...)})
	}
	if m.v.Template {
		block(hypervisor.ReasonIsTemplate, m.on, "this is a template: copy it to the other datastore instead")
	}
	if len(m.v.CurrentOperations) > 0 {
		block(hypervisor.ReasonVMBusy, m.on, "another operation is at work on the machine: wait for it")
	}
	if m.host != xapi.Null && m.host == m.v.ResidentOn && m.sr.IsNull() && m.r.To == nil {
		block(hypervisor.ReasonSameHost, m.r.Host.Ref(), "the machine is on this host already")
	}
	if m.live {
		for _, a := range m.inv.devices(m.v) {
			t := m.inv.vgpuOf(string(a.ID))
			if t == nil || len(t.Compat) == 0 {
				block(hypervisor.ReasonVMPassthrough, hypervisor.Ref{Kind: hypervisor.KindOfDevice, ID: string(a.ID)},
					"the machine has device %s, whose state can't be moved: detach it, or move the machine cold", a.ID)
			}
		}
	}
	if !m.host.IsNull() {
		m.checkHost(block)
	}
	if len(rep.Blockers) > 0 {
		return rep, nil
	}
	if err := m.assert(ctx, d); err != nil {
		if k := kindOf(err); k == hypervisor.KindUnavailable || k == hypervisor.KindUnknown && xapi.Code(err) == "" {
			return rep, err
		}
		block(blockerReason(xapi.Code(err)), m.on, "the pool refuses: %v", err)
	}
	return rep, nil
}

func (m *move) checkHost(block func(hypervisor.ReasonCode, hypervisor.Ref, string, ...any)) {
	h := m.there.hosts[m.host]
	load := m.load[h.Metrics]
	on := m.r.Host.Ref()
	if !load.Live {
		block(hypervisor.ReasonHostDown, on, "the host doesn't answer")
	} else if !h.Enabled {
		block(hypervisor.ReasonMaintenance, on, "the host is disabled: enable it first")
	}
	if m.running && load.Live && (m.host != m.v.ResidentOn || m.r.To != nil) && load.Free < m.v.DynamicMin {
		block(hypervisor.ReasonNoMemory, on, "the host has %d bytes of free memory, the machine needs %d", load.Free, m.v.DynamicMin)
	}
	if !m.sr.IsNull() && !m.reaches(m.host, m.sr) {
		block(hypervisor.ReasonDiskUnreachable, m.r.Storage.Ref(), "the host doesn't reach this datastore")
	}
	if m.r.To != nil {
		if m.sr.IsNull() {
			block(hypervisor.ReasonDiskUnreachable, m.on, "name the datastore of the other pool that takes the disks")
		}
		for _, v := range m.there.vms {
			if v.UUID == m.v.UUID && !v.IsSnapshot {
				block(hypervisor.ReasonIDTaken, m.on, "the other pool has a machine with this uuid")
			}
		}
	} else if m.sr.IsNull() && m.live && m.localDisks() {
		for _, img := range m.images() {
			if !m.reaches(m.host, img.SR) {
				block(hypervisor.ReasonDiskUnreachable, hypervisor.VolumeID(img.UUID).Ref(), "the host doesn't reach this disk's datastore: name one in Storage that it does reach")
			}
		}
	}
	if !m.sr.IsNull() {
		var need int64
		for _, img := range m.images() {
			if img.SR != m.sr || m.r.To != nil {
				need += img.Used
			}
		}
		if sr := m.there.srs[m.sr]; sr.Size > 0 && sr.Size-sr.Used < need {
			block(hypervisor.ReasonNoSpace, m.r.Storage.Ref(), "the datastore has %d bytes left, the disks take %d", sr.Size-sr.Used, need)
		}
	}
}

// blockerReason maps the codes of assert_can_migrate and assert_can_boot_here.
func blockerReason(code string) hypervisor.ReasonCode {
	switch code {
	case "LICENCE_RESTRICTION", "FEATURE_RESTRICTED":
		return hypervisor.ReasonEdition
	case "HOST_NOT_ENOUGH_FREE_MEMORY":
		return hypervisor.ReasonNoMemory
	case "VM_HOST_INCOMPATIBLE_VERSION", "VM_HOST_INCOMPATIBLE_VERSION_MIGRATE", "VM_HOST_INCOMPATIBLE_VIRTUAL_HARDWARE_PLATFORM_VERSION":
		return hypervisor.ReasonVersion
	case "VM_INCOMPATIBLE_WITH_THIS_HOST", "CPU_INCOMPATIBLE", "HOSTS_NOT_COMPATIBLE":
		return hypervisor.ReasonCPU
	case "VM_REQUIRES_SR", "VM_REQUIRES_VDI", "SUSPEND_IMAGE_NOT_ACCESSIBLE", "VDI_NOT_IN_MAP":
		return hypervisor.ReasonDiskUnreachable
	case "VM_REQUIRES_NETWORK", "VIF_NOT_IN_MAP":
		return hypervisor.ReasonNetworkMissing
	case "VM_HAS_PCI_ATTACHED", "VM_HAS_VGPU", "VM_HAS_SRIOV_VIF", "VM_HAS_VUSBS":
		return hypervisor.ReasonVMPassthrough
	case "VM_LACKS_FEATURE", "VM_NON_SUSPENDABLE":
		return hypervisor.ReasonToolsMissing
	case "VM_BAD_POWER_STATE":
		return hypervisor.ReasonVMState
	case "HOST_DISABLED":
		return hypervisor.ReasonMaintenance
	case "HOST_OFFLINE", "HOST_NOT_LIVE", "CANNOT_CONTACT_HOST":
		return hypervisor.ReasonHostDown
	case "OTHER_OPERATION_IN_PROGRESS", "TOO_MANY_STORAGE_MIGRATES":
		return hypervisor.ReasonVMBusy
	case "SR_FULL":
		return hypervisor.ReasonNoSpace
	case "DUPLICATE_VM":
		return hypervisor.ReasonIDTaken
	case "VDI_IS_ENCRYPTED", "VDI_INCOMPATIBLE_TYPE", "VDI_CBT_ENABLED", "SR_DOES_NOT_SUPPORT_MIGRATION", "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION":
		return hypervisor.ReasonDiskFormat
	}
	return hypervisor.ReasonConfig
}

// assert asks the pool.
func (m *move) assert(ctx context.Context, d *driver) error {
	switch m.how() {
	case "VM.migrate_send":
		args, err := m.sendArgs(ctx)
		if err != nil {
			return err
		}
		return d.c.Call(ctx, nil, "VM.assert_can_migrate", args...)
	case "VM.pool_migrate":
		if !m.running {
			return d.c.Call(ctx, nil, "VM.assert_can_boot_here", m.vm, m.host)
		}
		if err := d.c.Call(ctx, nil, "VM.assert_operation_valid", m.vm, "pool_migrate"); err != nil {
			return err
		}
		return d.c.Call(ctx, nil, "VM.assert_can_boot_here", m.vm, m.host)
	}
	return d.c.Call(ctx, nil, "VM.assert_can_boot_here", m.vm, m.host)
}

// sendArgs prepares the destination (host.migrate_receive) and builds the
// arguments that assert_can_migrate and migrate_send share.
func (m *move) sendArgs(ctx context.Context) ([]any, error) {
	host := m.host
	if host.IsNull() {
		if host = m.v.ResidentOn; host.IsNull() {
			for r, h := range m.there.hosts {
				if h.Enabled && m.reaches(r, m.sr) {
					host = r
				}
			}
		}
	}
	var network xapi.Ref
	for _, p := range m.pifs {
		if p.Host == host && p.Management {
			network = p.Network
		}
	}
	var dest map[string]string
	if err := m.dst.c.Call(ctx, &dest, "host.migrate_receive", host, network, map[string]string{}); err != nil {
		return nil, err
	}
	vdis, vifs := map[xapi.Ref]xapi.Ref{}, map[xapi.Ref]xapi.Ref{}
	if !m.sr.IsNull() {
		for r := range m.images() {
			vdis[r] = m.sr
		}
	}
	if m.r.To != nil {
		for _, r := range m.v.VIFs {
			vifs[r] = m.networkThere(m.inv.vifs[r].Network, network)
		}
	}
	live := m.live
	return []any{m.vm, dest, live, vdis, vifs, map[string]string{}, map[xapi.Ref]xapi.Ref{}}, nil
}

// networkThere finds the network of the same name in the other pool, or the
// host's management network.
func (m *move) networkThere(here, fallback xapi.Ref) xapi.Ref {
	for r, n := range m.there.networks {
		if n.Name == m.inv.networks[here].Name {
			return r
		}
	}
	return fallback
}

// Migrate moves the machine. XAPI removes the source's images once the target
// runs, and a failed or cancelled move leaves the machine where it was.
func (d *driver) Migrate(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest) (hypervisor.DriverTask, error) {
	m, err := d.plan(ctx, id, r)
	if err != nil {
		return nil, err
	}
	rep, err := d.check(ctx, m)
	if err != nil {
		return nil, err
	}
	if !rep.OK() {
		return nil, &hypervisor.Error{Kind: hypervisor.KindIncompatible, Object: m.on, Unsent: true, Err: &hypervisor.BlockedError{Blockers: rep.Blockers}}
	}
	return d.compose(ctx, "migrate", m.on, m.capability(), func(ctx context.Context, j *job) (hypervisor.Ref, error) {
		if r.Timeout > 0 {
			var stop context.CancelFunc
			ctx, stop = context.WithTimeoutCause(ctx, r.Timeout, hypervisor.ErrTimeout)
			defer stop()
		}
		begin := time.Now()
		if err := m.run(ctx, j, rep.Method); err != nil {
			if context.Cause(ctx) == hypervisor.ErrTimeout {
				return m.on, hypervisor.Errorf(hypervisor.KindTimeout, m.on, "the migration took longer than %v and was cancelled: %w", r.Timeout, err)
			}
			return m.on, err
		}
		j.mig = &hypervisor.MigrateResult{VM: id, Host: r.Host, Downtime: -1, Total: time.Since(begin), Method: rep.Method}
		return m.on, nil
	})
}

func (m *move) run(ctx context.Context, j *job, method string) error {
	switch method {
	case "VM.pool_migrate":
		_, err := j.run(ctx, 0, 1, method, m.vm, m.host, map[string]string{"live": fmt.Sprint(m.live)})
		return err
	case "VM.set_affinity":
		// A machine that is off on shared storage is on no host: its next start
		// is what moves.
		return j.d.c.Call(ctx, nil, method, m.vm, m.host)
	}
	args, err := m.sendArgs(ctx)
	if err != nil {
		return err
	}
	if _, err = j.run(ctx, 0, 1, method, args...); err != nil {
		return err
	}
	if !m.host.IsNull() && !m.running && m.r.To == nil {
		return j.d.c.Call(ctx, nil, "VM.set_affinity", m.vm, m.host)
	}
	return nil
}
