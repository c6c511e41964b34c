//go:build cgo

package libxl

import (
	"context"
	"fmt"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// move is one migration that is checked and not started.
type move struct {
	from, to *fleet.Host
	x        *libvirtxml.Domain // the definition for the next start
	state    hypervisor.PowerState
	still    bool            // the guest stands still while its memory is sent
	pools    []libvirtx.Pool // of the source
	pool     libvirtx.Pool   // the destination of the disks, if they move
	keep     bool            // the old images stay
	report   hypervisor.MigrateReport
}

func (m *move) block(r hypervisor.ReasonCode, on hypervisor.Ref, format string, args ...any) {
	m.report.Blockers = append(m.report.Blockers, hypervisor.Blocker{Reason: r, Object: on, Detail: fmt.Sprintf(format, args...)})
}

// plan refuses what this driver never does and finds everything that blocks
// the move.
func (d *driver) plan(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest) (*move, error) {
	h, err := d.Locate(ctx, id)
	if err != nil {
		return nil, err
	}
	target := d
	if r.To != nil {
		var ok bool
		if target, ok = r.To.(*driver); !ok {
			return nil, hypervisor.Unsupported(id.Ref(), capability.MigrateCross, hypervisor.ReasonPlatform, "the other Client is of another kind: only plain Xen takes a Xen machine")
		}
	}
	switch {
	case r.Pool != "":
		return nil, hypervisor.Unsupported(id.Ref(), capability.MigrateLive, hypervisor.ReasonPlatform, "libvirt has no resource pools: give a host")
	case r.PostCopy:
		return nil, refuse(id.Ref(), capability.MigratePostCopy)
	case r.Tuned():
		return nil, refuse(id.Ref(), capability.MigrateTuning)
	case r.Timeout != 0:
		return nil, hypervisor.Unsupported(id.Ref(), capability.TaskCancel, hypervisor.ReasonPlatform, "libvirt's Xen driver has no AbortJob: a migration under way can't be limited in time")
	}
	m := &move{from: h}
	type seen struct {
		live *libvirtxml.Domain
		mark libvirtx.Mark
	}
	v, err := fleet.OnHost(ctx, h, id, 6, func(_ *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (v seen, err error) {
		if m.state, err = libvirtx.State(dom); err != nil {
			return v, err
		}
		if v.live, v.mark, err = libvirtx.Parse(dom, 0); err != nil {
			return v, err
		}
		if m.x, _, err = libvirtx.Inactive(dom); err != nil {
			return v, err
		}
		m.pools, err = libvirtx.Pools(c)
		return v, err
	})
	if err != nil {
		return nil, err
	}
	if v.mark.Role != "" {
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such machine")
	}
	here := r.To == nil && (r.Host == "" || r.Host == h.ID())
	switch {
	case r.Storage != "" && here && (m.state == hypervisor.StateRunning || m.state == hypervisor.StatePaused):
		return nil, refuse(id.Ref(), capability.MigrateLiveStorage)
	case r.Storage != "" && here:
		return m, m.planStorage(ctx, id, r, v.live)
	case r.Storage != "" && !onStorage(m.pools, v.live, r.Storage):
		return nil, refuse(id.Ref(), capability.MigrateBoth)
	}
	if r.Host == "" {
		if len(target.Members) != 1 {
			return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, id.Ref(), "name the host that takes the machine")
		}
		m.to = target.Members[0]
	} else if m.to, err = target.Host(r.Host); err != nil {
		return nil, err
	}
	if _, err := m.to.Identify(ctx); err != nil {
		m.block(hypervisor.ReasonHostDown, m.to.ID().Ref(), "the host does not answer: %v", err)
		return m, nil
	}
	m.how(r.Mode, id, v.live, fleet.IsTemplate(v.live, v.mark))
	if m.from.ID() == m.to.ID() {
		m.block(hypervisor.ReasonSameHost, m.to.ID().Ref(), "the machine is on this host already")
		return m, nil
	}
	return m, m.checkTarget(ctx, id, v.live)
}

// onStorage reports whether all disks of a machine are in a pool.
func onStorage(pools []libvirtx.Pool, x *libvirtxml.Domain, ds hypervisor.DatastoreID) bool {
	for _, k := range libvirtx.Writable(x) {
		if p, ok := libvirtx.PoolOf(pools, libvirtx.DiskPath(k)); !ok || p.UUID != string(ds) {
			return false
		}
	}
	return true
}

// how decides between a live move, one while the guest stands still, and a
// cold one.
func (m *move) how(mode hypervisor.MigrateMode, id hypervisor.VMID, x *libvirtxml.Domain, template bool) {
	running := m.state == hypervisor.StateRunning
	switch {
	case template && mode == hypervisor.MigrateModeLive:
		m.block(hypervisor.ReasonIsTemplate, id.Ref(), "a template does not run")
	case m.state == hypervisor.StateSuspended:
		m.block(hypervisor.ReasonVMState, id.Ref(), "the machine is suspended and its saved RAM is a file of its host: resume it or power it off first")
	case m.state == hypervisor.StatePaused:
		m.block(hypervisor.ReasonVMState, id.Ref(), "the machine is paused, and its guest takes part in a migration: resume it first")
	case mode == hypervisor.MigrateModeLive && !running:
		m.block(hypervisor.ReasonVMState, id.Ref(), "the machine is %s: it does not run", m.state)
	case mode == hypervisor.MigrateModeCold && running:
		m.block(hypervisor.ReasonVMState, id.Ref(), "the machine is running: power it off first")
	}
	m.report.Method = "cold: the definition moves, the disks are shared"
	if !running {
		return
	}
	m.report.Method = "live, driven by this program"
	if m.to.Peer.URI != "" {
		m.report.Method = "live, peer to peer"
	}
	if passthrough(x) {
		m.block(hypervisor.ReasonVMPassthrough, id.Ref(), "a passed-through device can't be moved: detach it first")
	}
	if kindOfMachine(x) != pv {
		return
	}
	if mode == hypervisor.MigrateModeLive {
		m.block(hypervisor.ReasonPlatform, id.Ref(), "%s", pvNotLive)
	}
	m.still, m.report.Method = true, "stop and copy: the guest stands still while its RAM is sent"
	m.report.Warnings = append(m.report.Warnings, hypervisor.Blocker{Reason: hypervisor.ReasonPlatform, Object: id.Ref(), Detail: pvNotLive})
}

// checkTarget checks whether the other host can take the machine.
func (m *move) checkTarget(ctx context.Context, id hypervisor.VMID, x *libvirtxml.Domain) error {
	to := m.to.ID()
	type seen struct {
		pools []libvirtx.Pool
		nets  []hypervisor.NetworkInfo
		free  uint64
	}
	v, err := libvirtx.Do(ctx, m.to.Conn, 6, func(c *libvirt.Connect) (v seen, err error) {
		for what, look := range map[string]func() (*libvirt.Domain, error){
			"name": func() (*libvirt.Domain, error) { return c.LookupDomainByName(x.Name) },
			"ID":   func() (*libvirt.Domain, error) { return c.LookupDomainByUUIDString(string(id)) },
		} {
			dom, err := look()
			if libvirtx.NotFound(err) {
				continue
			}
			if err != nil {
				return v, err
			}
			same, err := dom.GetUUIDString()
			_ = dom.Free() // a local reference
			if err != nil {
				return v, err
			}
			if what == "name" && same != string(id) {
				m.block(hypervisor.ReasonNameTaken, hypervisor.VMID(same).Ref(), "host %s has another machine named %q", to, x.Name)
			} else if what == "ID" {
				m.block(hypervisor.ReasonIDTaken, id.Ref(), "host %s has a definition of this machine already: undefine it there", to)
			}
		}
		if v.pools, err = libvirtx.Pools(c); err != nil {
			return v, err
		}
		if v.nets, err = m.to.Networks(c); err != nil {
			return v, err
		}
		v.free, err = libvirtx.FreeMemory(c)
		return v, err
	})
	if err != nil {
		return err
	}
	for i := range x.Devices.Disks {
		p := libvirtx.DiskPath(&x.Devices.Disks[i])
		if p == "" {
			continue
		}
		here, ok := libvirtx.PoolOf(m.pools, p)
		if there, found := libvirtx.PoolOf(v.pools, p); !ok || !found || here.UUID != there.UUID {
			m.block(hypervisor.ReasonDiskUnreachable, hypervisor.Ref{Kind: hypervisor.ObjectVolume, ID: string(libvirtx.ImageID(m.pools, m.from.ID(), p))},
				"image %s is not in a storage pool that both hosts have: move it to a shared one (with one UUID on both)", p)
		}
	}
	for i := range x.Devices.Interfaces {
		n := &x.Devices.Interfaces[i]
		if want := fleet.NICInfo(n).Network; !fleet.IsGuard(n) && want != "" && !hasNetwork(v.nets, want) {
			m.block(hypervisor.ReasonNetworkMissing, want.Ref(), "host %s has no such network", to)
		}
	}
	if need := uint64(libvirtx.CurrentKiB(x)) << 10; m.state == hypervisor.StateRunning && v.free < need {
		m.block(hypervisor.ReasonNoMemory, to.Ref(), "the machine has %d MiB of memory, host %s %d MiB free", need>>20, to, v.free>>20)
	}
	return nil
}

func hasNetwork(nets []hypervisor.NetworkInfo, id hypervisor.NetworkID) bool {
	for _, n := range nets {
		if n.ID == id {
			return true
		}
	}
	return false
}

// CheckMigrate implements hypervisor.Migrator.
func (d *driver) CheckMigrate(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest) (hypervisor.MigrateReport, error) {
	m, err := d.plan(ctx, id, r)
	if err != nil {
		return hypervisor.MigrateReport{}, err
	}
	return m.report, nil
}

// Migrate implements hypervisor.Migrator.
func (d *driver) Migrate(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest) (hypervisor.DriverTask, error) {
	m, err := d.plan(ctx, id, r)
	if err != nil {
		return nil, err
	}
	if !m.report.OK() {
		return nil, hypervisor.Errorf(hypervisor.ErrIncompatible, id.Ref(), "%w", &hypervisor.BlockedError{Blockers: m.report.Blockers})
	}
	t, err := d.Run(ctx, "migrate", id, fleet.LongWork, func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		j.Phase(m.report.Method, -1)
		begin := time.Now()
		sure := context.WithoutCancel(ctx)
		j.Migration = &hypervisor.MigrateResult{Downtime: -1}
		var err error
		switch {
		case m.pool.UUID != "":
			err = m.copyDisks(ctx, d, id, j)
		case m.state == hypervisor.StateRunning:
			err = m.send(sure, id)
		default:
			err = m.hand(sure, id)
		}
		r := j.Migration
		r.VM, r.Host, r.Method, r.Total = id, m.to.ID(), m.report.Method, time.Since(begin)
		return id.Ref(), err
	})
	if err != nil || m.pool.UUID != "" {
		return t, err
	}
	return unstoppable{t}, nil
}

// unstoppable is a migration: libvirt's Xen driver can't stop one.
type unstoppable struct{ hypervisor.DriverTask }

func (u unstoppable) Cancel(context.Context) error {
	return hypervisor.Unsupported(u.ID().Ref(), capability.TaskCancel, hypervisor.ReasonPlatform, "libvirt's Xen driver has no AbortJob: the migration runs to its end")
}

// send moves a running machine. When it fails, libvirt keeps the machine
// running at the source and removes what the target had of it.
func (m *move) send(ctx context.Context, id hypervisor.VMID) error {
	flags := libvirt.MIGRATE_PERSIST_DEST | libvirt.MIGRATE_UNDEFINE_SOURCE
	if !m.still {
		flags |= libvirt.MIGRATE_LIVE
	}
	p := &libvirt.DomainMigrateParameters{}
	if uri := m.to.Peer.Migrate; uri != "" {
		p.URI, p.URISet = uri, true
	}
	_, err := fleet.OnHost(ctx, m.from, id, 5, func(_ *fleet.Host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
		if uri := m.to.Peer.URI; uri != "" {
			return struct{}{}, dom.MigrateToURI3(uri, p, flags|libvirt.MIGRATE_PEER2PEER)
		}
		return libvirtx.Do(ctx, m.to.Conn, 3, func(to *libvirt.Connect) (struct{}, error) {
			there, err := dom.Migrate3(to, p, flags)
			if err != nil {
				return struct{}{}, err
			}
			return struct{}{}, there.Free()
		})
	})
	return err
}

// hand moves the definition of a machine that is off: the target gets it
// before it is removed from the source.
func (m *move) hand(ctx context.Context, id hypervisor.VMID) error {
	_, err := fleet.OnHost(ctx, m.from, id, 1, func(_ *fleet.Host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
		s, err := libvirtx.State(dom)
		if err == nil && s != hypervisor.StateOff {
			err = hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine is %s by now", s)
		}
		return struct{}{}, err
	})
	if err != nil {
		return err
	}
	undefine := func(dom *libvirt.Domain) error { return dom.UndefineFlags(0) }
	err = m.to.Define(ctx, m.x)
	if err == nil {
		err = m.from.Undefine(ctx, id, undefine)
		if err == nil || libvirtx.KindOf(err) == hypervisor.ErrUnavailable {
			return err // the outcome is unknown: two definitions are better than none
		}
	}
	if back := m.to.Undefine(ctx, id, undefine); back != nil && !libvirtx.NotFound(back) {
		err = fmt.Errorf("%w (and the target keeps a definition: %w)", err, back)
	}
	return err
}
