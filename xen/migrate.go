package xen

import (
	"context"
	"fmt"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// move is a migration whose references were all looked up.
type move struct {
	vm       xapi.Ref
	v        vmRec
	on       hypervisor.Ref
	r        hypervisor.MigrateRequest
	inv      *inventory
	dst      *driver // the destination pool
	there    *inventory
	pbds     map[xapi.Ref]pbdRec // of the destination pool
	pifs     map[xapi.Ref]pifRec
	herePIFs map[xapi.Ref]pifRec // of the machine's pool
	load     map[xapi.Ref]hostMetricsRec
	host     xapi.Ref // Null means that it stays, or any host (off)
	sr       xapi.Ref // Null means that the disks stay
	taken    bool     // its uuid is taken in the other pool
	running  bool
	live     bool
}

// how returns the message for the move.
func (m *move) how() string {
	switch {
	case m.r.To != nil, !m.sr.IsNull() || m.running && m.localDisks():
		return "VM.migrate_send"
	case m.running || state(m.v.PowerState) == hypervisor.StateSuspended:
		return "VM.pool_migrate"
	case m.localDisks():
		return "VM.migrate_send"
	}
	return "VM.set_affinity"
}

// localDisks reports whether the destination can't reach an image.
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

// notOwn returns the images that must stay: VM.migrate_send moves each image
// that a machine has, whoever else uses it.
func (m *move) notOwn() (out []attached) {
	for _, r := range m.v.VBDs {
		b, ok := m.inv.vbds[r]
		if !ok || b.Empty || b.Type != "Disk" {
			continue
		}
		a := attached{vbd: b, vdi: m.inv.vdis[b.VDI], ref: b.VDI}
		for _, u := range a.vdi.VBDs {
			a.others = a.others || m.inv.vbds[u].VM != m.vm
		}
		if a.stays() {
			out = append(out, a)
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

// plan looks everything up. It fails for IDs that do not exist.
func (d *driver) plan(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest) (*move, error) {
	vm, v, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	if v.ill() {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), blindDetail)
	}
	m := &move{vm: vm, v: v, r: r, dst: d, on: hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name}}
	if r.To != nil {
		other, ok := r.To.(*driver)
		if !ok {
			return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, m.on, "the other Client is no XAPI pool")
		}
		m.dst = other
	}
	switch {
	case r.Pool != "":
		return nil, hypervisor.Unsupported(m.on, capability.MigrateLive, hypervisor.ReasonPlatform, "a XAPI pool has no resource pools: name a Host")
	case r.PostCopy:
		return nil, hypervisor.Unsupported(m.on, capability.MigratePostCopy, hypervisor.ReasonPlatform, postCopyDetail)
	case r.Tuned():
		return nil, hypervisor.Unsupported(m.on, capability.MigrateTuning, hypervisor.ReasonPlatform, tuningDetail)
	case r.KeepSource && (r.Storage != "" || r.To != nil):
		return nil, hypervisor.Unsupported(m.on, capability.MigrateStorage, hypervisor.ReasonPlatform, "XAPI removes the source's images itself once the move is done: leave KeepSource out")
	}
	if m.inv, err = d.of(ctx, v); err != nil {
		return nil, err
	}
	if m.there, err = m.dst.surroundings(ctx); err != nil {
		return nil, err
	}
	if m.dst != d {
		if err := d.c.Call(ctx, &m.inv.networks, "network.get_all_records"); err != nil {
			return nil, err
		}
		_, err := m.dst.vmRef(ctx, hypervisor.VMID(v.UUID))
		if m.taken = err == nil; err != nil && kindOf(err) != hypervisor.ErrNotFound {
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
	m.herePIFs = m.pifs
	if m.dst != d {
		if err := d.c.Call(ctx, &m.herePIFs, "PIF.get_all_records"); err != nil {
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
	m.running = st == hypervisor.StateRunning || st == hypervisor.StatePaused
	m.live = r.Mode == hypervisor.MigrateModeLive || r.Mode == hypervisor.MigrateModeAuto && m.running
	if m.live && !m.running {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, m.on, "the machine is %s: only a running one can be moved live; use MigrateModeCold", st)
	}
	if !m.live && m.running {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, m.on, "the machine is %s: power it off for a cold move, or move it live", st)
	}
	return m, d.allowed(ctx, m.on, m.capability())
}

// capability returns the capability that the move needs.
func (m *move) capability() capability.Name {
	switch {
	case m.r.To != nil:
		return capability.MigrateCross
	case !m.sr.IsNull() && m.host.IsNull() && m.live:
		return capability.MigrateLiveStorage
	case !m.sr.IsNull() && m.live:
		return capability.MigrateBoth
	case !m.sr.IsNull():
		return capability.MigrateStorage
	case m.live:
		return capability.MigrateLive
	}
	return capability.MigrateCold
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
	args := []any{m.vm, dest, m.live, vdis, vifs, map[string]string{}}
	if m.r.To != nil && len(m.v.VGPUs) > 0 { // old servers don't accept the argument
		groups := map[xapi.Ref]xapi.Ref{}
		for _, r := range m.v.VGPUs {
			groups[r] = m.groupThere(r)
		}
		args = append(args, groups)
	}
	return args, nil
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
		return nil, &hypervisor.Error{Kind: hypervisor.ErrIncompatible, Object: m.on, Unsent: true, Err: &hypervisor.BlockedError{Blockers: rep.Blockers}}
	}
	return d.compose(ctx, "migrate", m.on, m.capability(), "", func(ctx context.Context, j *poolJob) (hypervisor.Ref, error) {
		if r.Timeout > 0 {
			var stop context.CancelFunc
			ctx, stop = context.WithTimeoutCause(ctx, r.Timeout, hypervisor.ErrTimeout)
			defer stop()
		}
		begin := time.Now()
		if err := m.run(ctx, j, rep.Method); err != nil {
			if context.Cause(ctx) == hypervisor.ErrTimeout {
				return m.on, hypervisor.Errorf(hypervisor.ErrTimeout, m.on, "the migration took longer than %v and was cancelled: %w", r.Timeout, err)
			}
			return m.on, err
		}
		j.Migration = &hypervisor.MigrateResult{VM: id, Host: r.Host, Downtime: -1, Total: time.Since(begin), Method: rep.Method}
		return m.on, nil
	})
}

func (m *move) run(ctx context.Context, j *poolJob, method string) error {
	switch method {
	case "VM.pool_migrate":
		_, err := j.runTo(ctx, 0, 1, m.arrived(j.d), method, m.vm, m.host, map[string]string{"live": fmt.Sprint(m.live)})
		return err
	case "VM.set_affinity":
		// A machine that is off on shared storage is on no host. Its next
		// start is the move.
		return j.d.c.Call(ctx, nil, method, m.vm, m.host)
	}
	args, err := m.sendArgs(ctx)
	if err != nil {
		return err
	}
	if _, err = j.runTo(ctx, 0, 1, m.arrived(j.d), method, args...); err != nil {
		return err
	}
	if !m.host.IsNull() && !m.running && m.r.To == nil {
		return j.d.c.Call(ctx, nil, "VM.set_affinity", m.vm, m.host)
	}
	return nil
}

// arrived is the goal of a migration: the machine is at its destination, with
// its disks.
func (m *move) arrived(d *driver) goal {
	return goal{vm: m.vm, there: func(ctx context.Context) (xapi.Ref, bool, error) {
		if m.r.To != nil {
			if _, err := d.vmRef(ctx, hypervisor.VMID(m.v.UUID)); kindOf(err) != hypervisor.ErrNotFound {
				return "", false, err
			}
			ref, err := m.dst.vmRef(ctx, hypervisor.VMID(m.v.UUID))
			return ref, err == nil, err
		}
		var v vmRec
		if err := d.c.Call(ctx, &v, "VM.get_record", m.vm); err != nil {
			return "", false, err
		}
		if m.running && !m.host.IsNull() && v.ResidentOn != m.host {
			return "", false, nil
		}
		vbds, err := records[vbdRec](ctx, d, "VBD", v.VBDs)
		if err != nil {
			return "", false, err
		}
		var images []xapi.Ref
		for _, b := range vbds {
			if !b.Empty && b.Type == "Disk" {
				images = append(images, b.VDI)
			}
		}
		vdis, err := records[vdiRec](ctx, d, "VDI", images)
		for _, img := range vdis {
			if !m.sr.IsNull() && img.SR != m.sr {
				return "", false, err
			}
		}
		return m.vm, err == nil, err
	}}
}
