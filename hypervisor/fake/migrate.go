package fake

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// move is a checked migration.
type move struct {
	hypervisor.MigrateReport
	needs []capability.Name
	live  bool
	state bool // blocked by the power state
	to    *Backend
	host  *host // the target; nil means that the machine stays
	store hypervisor.DatastoreID
	bytes int64
}

func (v *move) block(r hypervisor.ReasonCode, on hypervisor.Ref, format string, args ...any) {
	v.Blockers = append(v.Blockers, hypervisor.Blocker{Reason: r, Object: on, Detail: fmt.Sprintf(format, args...)})
}

// target finds the backend of another Client, also where a test has wrapped
// the driver.
func (d *Driver) target(ctx context.Context, r hypervisor.MigrateRequest) (*Backend, error) {
	if r.To == nil {
		return d.b, nil
	}
	var o *Driver
	if err := r.To.As(ctx, hypervisor.Ref{}, &o); err != nil {
		return nil, hypervisor.Errorf(hypervisor.ErrIncompatible, hypervisor.Ref{Kind: hypervisor.ObjectClient}, "the other Client is no fake")
	}
	if o.b == d.b {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, hypervisor.Ref{Kind: hypervisor.ObjectClient}, "To is another session on the same backend: leave it out")
	}
	return o.b, nil
}

// lockWith locks the backend and another one, in the order of their numbers.
func (b *Backend) lockWith(o *Backend) (unlock func()) {
	switch {
	case o == b:
		b.mu.Lock()
		return func() {}
	case o.serial < b.serial:
		o.mu.Lock()
		b.mu.Lock()
	default:
		b.mu.Lock()
		o.mu.Lock()
	}
	return o.mu.Unlock
}

// CheckMigrate lists everything that blocks the migration, including what the
// edition lacks.
func (d *Driver) CheckMigrate(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest) (hypervisor.MigrateReport, error) {
	if err := d.read(ctx, op.VMCheckMigrate, id.Ref()); err != nil {
		return hypervisor.MigrateReport{}, err
	}
	b := d.b
	o, err := d.target(ctx, r)
	if err != nil {
		return hypervisor.MigrateReport{}, err
	}
	unlock := b.lockWith(o)
	defer b.mu.Unlock()
	defer unlock()
	m, err := b.vm(id)
	if err != nil {
		return hypervisor.MigrateReport{}, err
	}
	v, err := b.look(m, r, o)
	if err != nil {
		return hypervisor.MigrateReport{}, err
	}
	for _, k := range v.needs {
		if s := b.supports(k, hypervisor.Ref{}); s.Level == hypervisor.LevelNo {
			v.block(s.Reason, m.ref(), "%s: %s", k, s.Detail)
		}
	}
	return v.MigrateReport, nil
}

// Migrate moves a machine, its disks, or both.
func (d *Driver) Migrate(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, op.VMMigrate, id.Ref(), r)
	if err != nil {
		return nil, err
	}
	b := d.b
	o, err := d.target(ctx, r)
	if err != nil {
		return nil, err
	}
	unlock := b.lockWith(o)
	defer b.mu.Unlock()
	w, err := b.depart(id, r, o)
	unlock()
	if err != nil {
		return nil, err
	}
	return d.run(f, w)
}

// depart checks a migration, reserves room at its destination and returns the
// rest of the work. Both backends are locked.
func (b *Backend) depart(id hypervisor.VMID, r hypervisor.MigrateRequest, o *Backend) (work, error) {
	m, err := b.vm(id)
	if err != nil {
		return work{}, err
	}
	if err := b.free(vmKey(id), false); err != nil {
		return work{}, err
	}
	v, err := b.look(m, r, o)
	if err != nil {
		return work{}, err
	}
	for _, k := range v.needs {
		if err := b.require(k, hypervisor.Ref{}, m.ref()); err != nil {
			return work{}, err
		}
	}
	if !v.OK() {
		k := hypervisor.ErrIncompatible
		if v.state {
			k = hypervisor.ErrInvalidState
		}
		return work{}, hypervisor.Errorf(k, m.ref(), "%w", &hypervisor.BlockedError{Blockers: v.Blockers})
	}
	w := work{op: op.VMMigrate, on: m.ref(), result: m.ID.Ref(), pause: v.pause(r), excl: []hypervisor.Ref{vmKey(id)}, bytes: v.bytes, also: o, phases: v.phases()}
	if r.PostCopy {
		w.fixed = 0.5
	}
	takes := b.delay(op.VMMigrate)
	if r.BandwidthBytes > 0 && takes > 0 {
		takes = max(takes, time.Duration(float64(v.bytes)/float64(r.BandwidthBytes)*float64(time.Second)))
	}
	late := r.Timeout > 0 && takes > r.Timeout && v.live
	if late {
		takes = r.Timeout
	}
	w.takes = &takes
	for _, x := range v.Warnings {
		w.notes = append(w.notes, x.Detail)
	}
	active := m.active()
	if v.host != nil && active {
		o.occupy(v.host.ID, m.Mem)
	}
	images := map[hypervisor.DiskID]*volume{}
	if v.store != "" {
		for _, dk := range m.Disks {
			if x := b.st.Volumes[dk.Volume]; x != nil && !dk.ReadOnly && !dk.apart() {
				images[dk.ID] = o.addVolume(&volume{Name: x.Name, Datastore: v.store, Size: x.Size, Prov: x.Prov, Owner: m.ID, Partial: true})
			}
		}
	}
	w.made = func() (out []hypervisor.Ref) {
		if v.host != nil && active { // the machine is at the source, whatever else is left
			o.vacate(v.host.ID, m.Mem)
		}
		for _, dk := range m.Disks {
			if x := images[dk.ID]; x != nil {
				x.Owner = ""
				out = append(out, x.ref())
			}
		}
		return out
	}
	w.undo = func() {
		if v.host != nil && active {
			o.vacate(v.host.ID, m.Mem)
		}
		for _, x := range images {
			o.removeVolume(x)
		}
	}
	start := b.now()
	w.finish = func(s *hypervisor.TaskState) error {
		if late {
			return hypervisor.Errorf(hypervisor.ErrTimeout, m.ref(), "the migration didn't end within %v; the machine keeps running at the source", r.Timeout)
		}
		res := &hypervisor.MigrateResult{VM: m.ID, Host: m.Host, BytesCopied: v.bytes, Method: v.Method}
		res.Kept = b.arrive(m, v, images, r.KeepSource)
		if v.host != nil {
			res.Host = v.host.ID
		}
		res.Downtime = v.pause(r)
		m.Moved = r.MigrateOptions
		res.Total = b.now().Sub(start)
		s.Migration = res
		return nil
	}
	return w, nil
}

// downtime of a live migration.
const downtime = 40 * time.Millisecond

// pause returns how long the guest stands still.
func (v *move) pause(r hypervisor.MigrateRequest) time.Duration {
	switch {
	case !v.live:
		return 0
	case r.MaxDowntime > 0:
		return min(downtime, r.MaxDowntime)
	}
	return downtime
}

func (v *move) phases() (out []string) {
	out = []string{"preparing"}
	if v.store != "" {
		out = append(out, "copying disks", "copying disks")
	}
	if v.live && v.host != nil {
		out = append(out, "copying memory", "copying memory")
	}
	return append(out, "switching over")
}

// arrive completes the move. Both backends are locked.
func (b *Backend) arrive(m *vm, v *move, images map[hypervisor.DiskID]*volume, keep bool) (kept []hypervisor.Ref) {
	moved := slices.Clone(m.Disks)
	var old []*volume
	for i, dk := range m.Disks {
		x := images[dk.ID]
		if x == nil {
			continue
		}
		// The guest has written until now.
		src := b.st.Volumes[dk.Volume]
		data := b.content(src.ID)
		x.Data, x.Size, x.Partial = &data, src.Size, false
		v.to.charge(x)
		moved[i].Volume = x.ID
		old = append(old, src)
		if keep {
			kept = append(kept, src.ref())
		}
	}
	if v.to != b {
		c := *m
		c.Disks, c.Snaps, c.Current, c.Host = moved, nil, "", v.host.ID
		c.Replication = hypervisor.ReplicationInfo{} // it belongs to the old machine
		c.NICs = slices.Clone(m.NICs)
		c.Datastore = v.store
		if m.active() {
			b.vacate(m.Host, m.Mem)
		}
		p := hypervisor.DeleteDisks
		if keep {
			p = hypervisor.KeepDisks
		}
		b.remove(m, p)
		v.to.register(&c)
		return kept
	}
	m.Disks = moved
	for _, x := range old {
		if keep {
			x.Owner = ""
			continue
		}
		up := x.Parent
		b.sweep(m, x.ID)
		b.pruneBase(up)
	}
	if v.store != "" {
		m.Datastore = v.store
	}
	if v.host != nil {
		if m.active() {
			b.vacate(m.Host, m.Mem)
		}
		m.Host = v.host.ID
	}
	b.emit(hypervisor.EventVMMigrated, m, v.Method)
	return kept
}
