package fake

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// saved is the JSON form of a backend.
type saved struct {
	Format int
	Config Config
	Query  string `json:",omitempty"` // of the URL that made a state file
	Rand   []byte
	State  state
}

const format = 1

// MarshalJSON writes the whole backend, without faults, the call log and
// events. Work in progress is written as a restart of the platform would
// leave it: ended with an error that names what it had made.
func (b *Backend) MarshalJSON() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := saved{Format: format, Config: b.cfg, Query: b.query, State: b.st}
	s.Config.Delays = b.delays
	var err error
	if s.Rand, err = b.rnd.MarshalBinary(); err != nil {
		return nil, err
	}
	s.State.VMs = b.order
	for _, id := range b.ended {
		s.State.Tasks = append(s.State.Tasks, b.tasks[id].record())
	}
	var open []taskRecord
	for _, t := range b.tasks {
		if !t.state.Done {
			r := t.record()
			r.Kind, r.Error = hypervisor.ErrUnavailable, "the platform was restarted in the middle of the task"
			for _, v := range t.partial() {
				r.Leftover = append(r.Leftover, v.ref())
			}
			open = append(open, r)
		}
	}
	slices.SortFunc(open, func(x, y taskRecord) int { return len(x.ID) - len(y.ID) })
	s.State.Tasks = append(s.State.Tasks, open...)
	// Memory that work in progress has reserved is free after a restart.
	s.State.Hosts = make([]*host, len(b.st.Hosts))
	for i, h := range b.st.Hosts {
		c := *h
		c.Used, c.Running = 0, 0
		for _, m := range b.running(h.ID) {
			c.Used += m.Mem
			c.Running++
		}
		s.State.Hosts[i] = &c
	}
	return json.Marshal(s)
}

func (t *task) record() taskRecord {
	r := taskRecord{ID: t.id, Op: t.w.op, On: t.w.on, Result: t.state.Result, Leftover: t.state.Leftover, Notes: t.state.Notes, Migrated: t.state.Migration}
	if err := t.state.Err; err != nil {
		r.Error, r.Kind = err.Error(), hypervisor.KindOf(err)
		var n *NativeError
		if errors.As(err, &n) {
			r.Kind = n.Kind
		}
	}
	return r
}

// partial returns the unfinished images that the task is making.
func (t *task) partial() (out []*volume) {
	if t.w.op == op.VMMigrate {
		for _, v := range t.b.st.Volumes {
			if v.Partial && string(v.Owner) == t.w.on.ID {
				out = append(out, v)
			}
		}
		return out
	}
	if t.w.made == nil {
		return nil
	}
	for _, r := range t.w.made() {
		if v := t.b.st.Volumes[hypervisor.VolumeID(r.ID)]; v != nil {
			out = append(out, v)
		}
	}
	return out
}

// Restore makes a backend from the output of MarshalJSON. Clock and Exec of
// the Config can't be saved: pass a Config with those. The rest comes from
// the data.
func Restore(data []byte, cfg Config) (*Backend, error) {
	var s saved
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("fake: the saved backend can't be read: %w", err)
	}
	if s.Format != format {
		return nil, fmt.Errorf("fake: the saved backend has format %d, this package reads %d", s.Format, format)
	}
	s.Config.Clock, s.Config.Exec = cfg.Clock, cfg.Exec
	b := newBackend(s.Config)
	b.query = s.Query
	if err := b.rnd.UnmarshalBinary(s.Rand); err != nil {
		return nil, fmt.Errorf("fake: the saved backend's generator: %w", err)
	}
	vms, tasks := s.State.VMs, s.State.Tasks
	b.st = s.State
	b.st.VMs, b.st.Tasks = nil, nil
	if b.st.Volumes == nil {
		b.st.Volumes = map[hypervisor.VolumeID]*volume{}
	}
	for id, v := range b.st.Volumes {
		if _, ok := b.st.Volumes[v.Parent]; v.ID != id || v.Parent != "" && !ok {
			return nil, fmt.Errorf("fake: the saved image %s is broken or depends on nothing", id)
		}
		b.link(v)
	}
	for _, m := range vms {
		for _, d := range m.Disks {
			if d.HostDisk == "" && b.st.Volumes[d.Volume] == nil || d.HostDisk != "" && b.st.HostDisks[d.HostDisk] == nil {
				return nil, fmt.Errorf("fake: the saved machine %s has the disk image %s%s, which is not there", m.ID, d.Volume, d.HostDisk)
			}
		}
		b.index(m)
	}
	for _, r := range tasks {
		t := &task{b: b, id: r.ID, w: work{op: r.Op, on: r.On}, seen: true}
		t.state = hypervisor.TaskState{Done: true, Result: r.Result, Leftover: r.Leftover, Notes: r.Notes, Migration: r.Migrated, Fraction: 1, Phase: "done"}
		if r.Error != "" {
			t.state.Err, t.state.Fraction = &NativeError{Kind: r.Kind, Text: r.Error}, -1
		}
		b.tasks[r.ID] = t
		b.ended = append(b.ended, r.ID)
	}
	return b, nil
}
