//go:build cgo

package kvm

import (
	"context"
	"slices"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// move is one migration, with facts about both ends.
type move struct {
	d   *driver
	id  hypervisor.VMID
	r   hypervisor.MigrateRequest
	src *fleet.Host
	dd  *driver     // of the destination
	dst *fleet.Host // the same as src for a move of storage alone

	on        bool // the machine runs or is paused
	state     hypervisor.PowerState
	live      *libvirtxml.Domain
	next      *libvirtxml.Domain // its persistent definition
	mark      libvirtx.Mark
	srcPools  []libvirtx.Pool
	dstPools  []libvirtx.Pool
	pool      libvirtx.Pool // destination of the disks; zero if they stay
	shared    []libvirtx.Pool
	report    hypervisor.MigrateReport
	crossHost bool
	j         *job.Job // the move under way
}

// CheckMigrate implements hypervisor.Migrator.
func (d *driver) CheckMigrate(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest) (hypervisor.MigrateReport, error) {
	m, err := d.planMove(ctx, id, r)
	if err != nil {
		return hypervisor.MigrateReport{}, err
	}
	return m.report, nil
}

// Migrate implements hypervisor.Migrator.
func (d *driver) Migrate(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest) (hypervisor.DriverTask, error) {
	release, err := d.Take(ctx, id, "migrate", fleet.LongWork)
	if err != nil {
		return nil, err
	}
	m, err := d.planMove(ctx, id, r)
	if err == nil && !m.report.OK() {
		err = hypervisor.Errorf(hypervisor.ErrIncompatible, id.Ref(), "%w", &hypervisor.BlockedError{Blockers: m.report.Blockers})
	}
	if err != nil {
		release()
		return nil, err
	}
	tid := d.TaskID("migrate", id, string(m.src.ID()), string(m.dst.ID()))
	leased := func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		// Another process may have changed the machine before this one got
		// the lease.
		planned := m
		m, err := d.planMove(ctx, id, r)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		if m.src != planned.src || !m.report.OK() {
			return hypervisor.Ref{}, hypervisor.Errorf(hypervisor.ErrBusy, id.Ref(), "the machine was changed while its move began: repeat the call")
		}
		m.j = j
		start := time.Now()
		err = m.run(ctx)
		if r := j.Migration; r != nil && err == nil {
			r.VM, r.Host, r.Method = id, m.dst.ID(), m.report.Method
			if r.Total == 0 {
				r.Total = time.Since(start)
			}
		}
		return id.Ref(), err
	}
	return d.Holding(ctx, release, tid, "migrate", id, func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		return d.UnderLease(ctx, j, id, fleet.LongWork, leased)
	})
}

func (m *move) run(ctx context.Context) error {
	switch {
	case m.on && m.crossHost:
		return m.liveMove(ctx)
	case m.on:
		return m.liveStorage(ctx)
	case m.crossHost:
		return m.coldMove(ctx)
	}
	return m.coldStorage(ctx)
}

// planMove reads both ends and lists everything that blocks the move.
func (d *driver) planMove(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest) (*move, error) {
	if r.Pool != "" {
		return nil, hypervisor.Unsupported(id.Ref(), capability.MigrateLive, hypervisor.ReasonPlatform, "libvirt has no resource pools: leave Pool empty")
	}
	src, err := d.Locate(ctx, id)
	if err != nil {
		return nil, err
	}
	if r.Host != "" && r.Storage == "" && r.To == nil && len(d.Members) < 2 {
		k := capability.MigrateLive
		if r.Mode == hypervisor.MigrateModeCold {
			k = capability.MigrateCold
		}
		s := singleHost()
		return nil, hypervisor.Unsupported(id.Ref(), k, s.Reason, s.Detail)
	}
	m := &move{d: d, id: id, r: r, src: src, dd: d, dst: src}
	if r.To != nil {
		to, ok := r.To.(*driver)
		if !ok {
			return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, id.Ref(), "To is a Client of another driver: export and import between kinds")
		}
		m.dd = to
	}
	if r.Host != "" {
		if m.dst, err = m.dd.Host(r.Host); err != nil {
			return nil, err
		}
	}
	// Two Clients may share a host.
	m.crossHost = m.dst.ID() != src.ID()
	if err := m.readSource(ctx); err != nil {
		return nil, err
	}
	if err := m.readDestination(ctx); err != nil {
		return nil, err
	}
	m.report.Method = m.method()
	return m, nil
}

func (m *move) method() string {
	how := "live"
	if !m.on {
		how = "cold"
	}
	switch {
	case !m.crossHost && m.on:
		return "live, disks mirrored and switched over"
	case !m.crossHost:
		return "cold, disks copied by the host"
	case !m.on && m.pool.UUID != "":
		return "cold, disks copied through this client"
	case !m.on:
		return "cold, definition moved"
	}
	if m.dst.Peer.URI != "" {
		how += ", peer to peer"
	} else {
		how += ", driven by this client"
	}
	if m.pool.UUID != "" {
		return how + ", disks copied"
	}
	return how
}

func (m *move) block(r hypervisor.ReasonCode, on hypervisor.Ref, detail string) {
	b := hypervisor.Blocker{Reason: r, Object: on, Detail: detail}
	if !slices.Contains(m.report.Blockers, b) {
		m.report.Blockers = append(m.report.Blockers, b)
	}
}

func (m *move) warn(r hypervisor.ReasonCode, on hypervisor.Ref, detail string) {
	m.report.Warnings = append(m.report.Warnings, hypervisor.Blocker{Reason: r, Object: on, Detail: detail})
}

// findMigration finds a migration that another process started, by the
// domain's job and by the machine's location.
func (d *driver) findMigration(ctx context.Context, tid hypervisor.TaskID, id hypervisor.VMID, ends []string) (hypervisor.DriverTask, error) {
	h, err := d.Locate(ctx, id)
	if err != nil {
		return nil, err
	}
	if len(ends) > 0 { // it was begun there, so its job is there
		if s, err := d.Host(hypervisor.HostID(ends[0])); err == nil {
			h = s
		}
	}
	from := h.ID()
	t, err := d.Go(ctx, tid, "migrate", id.Ref(), func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		for {
			s, err := d.jobState(ctx, h, id)
			if err != nil && libvirtx.KindOf(err) != hypervisor.ErrUnavailable && !libvirtx.NotFound(err) {
				return hypervisor.Ref{}, err
			}
			if err == nil && s != nil {
				j.Report(*s)
			} else if libvirtx.KindOf(err) != hypervisor.ErrUnavailable {
				break
			}
			if err := fleet.Pause(ctx, fleet.PollEvery); err != nil {
				return hypervisor.Ref{}, err
			}
		}
		now, err := d.Locate(ctx, id)
		if libvirtx.KindOf(err) == hypervisor.ErrNotFound { // it moved to another Client
			j.Migration = &hypervisor.MigrateResult{VM: id, Downtime: -1}
			return id.Ref(), nil
		}
		if err != nil {
			return id.Ref(), err
		}
		j.Left(d.unused(ctx, id)...)
		if now.ID() == from {
			return id.Ref(), hypervisor.Errorf(hypervisor.ErrCanceled, id.Ref(), "the migration did not come to its end: the machine is where it was")
		}
		j.Migration = measured(ctx, now, id)
		return id.Ref(), nil
	})
	if err != nil {
		return nil, err
	}
	return fleet.Adopted{DriverTask: t, Stop: func(ctx context.Context) error {
		_, err := fleet.OnHost(ctx, h, id, 1, func(_ *fleet.Host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			return struct{}{}, dom.AbortJob()
		})
		if libvirtx.KindOf(err) == hypervisor.ErrInvalidState || libvirtx.NotFound(err) {
			return nil // it has ended
		}
		return err
	}}, nil
}

// unused names images that have a machine's UUID and that nobody uses:
// leftovers of a migration of its disks.
func (d *driver) unused(ctx context.Context, id hypervisor.VMID) []hypervisor.Ref {
	var out []hypervisor.Ref
	for _, h := range d.Members {
		b, err := d.Books(ctx, h)
		if err != nil {
			continue // a host that is down can't be queried
		}
		for p, v := range b.Images.ByPath {
			if libvirtx.OwnedBy(p, string(id)) && len(b.Users(p)) == 0 && len(b.Images.Above[p]) == 0 && !slices.Contains(out, v.Ref()) {
				out = append(out, v.Ref())
			}
		}
	}
	return out
}

// jobState reads the progress of a migration, or nil if none runs.
func (d *driver) jobState(ctx context.Context, h *fleet.Host, id hypervisor.VMID) (*hypervisor.TaskState, error) {
	return fleet.OnHost(ctx, h, id, 1, func(_ *fleet.Host, _ *libvirt.Connect, dom *libvirt.Domain) (*hypervisor.TaskState, error) {
		j, err := dom.GetJobStats(0)
		if libvirtx.Kind(err) == hypervisor.ErrInvalidState { // it does not run here (any more)
			return nil, nil
		}
		if err != nil || j.Type == libvirt.DOMAIN_JOB_NONE || j.Type == libvirt.DOMAIN_JOB_COMPLETED {
			return nil, err
		}
		s := progress(j)
		return &s, nil
	})
}

// progress maps virDomainJobInfo. Memory that is written again is sent again,
// so the fraction is of what is left now and may decrease. The phase says so.
func progress(j *libvirt.DomainJobInfo) hypervisor.TaskState {
	s := hypervisor.TaskState{Fraction: -1, Phase: "preparing", BytesDone: int64(j.DataProcessed), BytesTotal: int64(j.DataTotal)}
	if j.DataTotal > 0 {
		s.Phase = "copying"
		s.Fraction = min(float64(j.DataTotal-min(j.DataRemaining, j.DataTotal))/float64(j.DataTotal), 1)
		if j.MemIterationSet && j.MemIteration > 1 {
			s.Phase = "copying what changed"
		}
	}
	if j.DowntimeSet {
		s.ExpectedDowntime = time.Duration(j.Downtime) * time.Millisecond
	}
	return s
}

// measured reads what the destination knows about the migration that brought
// the machine. Downtime is negative where it isn't reported.
func measured(ctx context.Context, h *fleet.Host, id hypervisor.VMID) *hypervisor.MigrateResult {
	r, err := fleet.OnHost(ctx, h, id, 1, func(_ *fleet.Host, _ *libvirt.Connect, dom *libvirt.Domain) (*hypervisor.MigrateResult, error) {
		j, err := dom.GetJobStats(libvirt.DOMAIN_JOB_STATS_COMPLETED)
		if err != nil {
			return nil, err
		}
		r := &hypervisor.MigrateResult{VM: id, Host: h.ID(), Downtime: -1, Total: time.Duration(j.TimeElapsed) * time.Millisecond, BytesCopied: int64(j.DataProcessed)}
		if j.DowntimeSet {
			r.Downtime = time.Duration(j.Downtime) * time.Millisecond
		}
		return r, nil
	})
	if err != nil {
		return &hypervisor.MigrateResult{VM: id, Host: h.ID(), Downtime: -1}
	}
	return r
}
