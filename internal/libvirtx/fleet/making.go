//go:build cgo

package fleet

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// A machine that is being made is a domain from the beginning. It is guarded
// like a template so that nobody starts it, and hidden from listings by its
// role. So its name and token are taken at once, and another process sees the
// work. After a crash, leftovers can be distinguished from work in progress
// by the heartbeat: the maker changes Beat every few seconds.

const (
	roleMaking = "making"
	beatEvery  = 2 * time.Second
)

// deadAfter is the time without a heartbeat after which a maker, or the owner
// of a lease, is dead.
var deadAfter = 15 * time.Second

// Making is a machine that is being made.
type Making struct {
	host *Host
	uuid string
	turn chan struct{} // full: somebody is changing mark and writing it
	mark libvirtx.Mark
	stop context.CancelFunc
	done chan struct{}
}

// begin reserves a machine's domain and starts the heartbeat.
func (f *Fleet) begin(ctx context.Context, j *job.Job, h *Host, like *libvirtxml.Domain, mark libvirtx.Mark) (*Making, error) {
	mark.Role, mark.Task = roleMaking, string(j.ID)
	x, err := f.reservation(like.Type, like.Name, like.UUID, &mark)
	if err != nil {
		return nil, err
	}
	sent := false
	_, err = libvirtx.Do(ctx, h.Conn, 2, func(c *libvirt.Connect) (struct{}, error) {
		// Defining the same UUID with the same name again would replace it.
		if dom, err := c.LookupDomainByUUIDString(x.UUID); err == nil {
			_ = dom.Free() // a local reference
			return struct{}{}, hypervisor.Errorf(hypervisor.ErrExists, hypervisor.VMID(x.UUID).Ref(), "a machine with this ID is there")
		}
		if dom, err := c.LookupDomainByName(x.Name); err == nil {
			defer dom.Free()
			id, _ := dom.GetUUIDString() // local; an empty one is fine
			on := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: id, Name: x.Name}
			if _, other, err := libvirtx.Parse(dom, 0); err == nil && other.Role == roleMaking {
				return struct{}{}, hypervisor.Errorf(hypervisor.ErrExists, on, "the name is taken on host %s by a machine that is being made: "+
					"wait for task %s, which clears it away if its maker is dead", h.ID(), other.Task)
			}
			return struct{}{}, hypervisor.Errorf(hypervisor.ErrExists, on, "the name is taken on host %s: choose another, libvirt wants unique names", h.ID())
		}
		sent = true
		return struct{}{}, libvirtx.Define(c, x)
	})
	if sent && libvirtx.Lost(err) {
		// A repeated call could arrive late and replace the finished machine.
		err = f.takeBack(ctx, j, h, x.UUID, "", err)
	}
	if err != nil {
		return nil, err
	}
	return keep(ctx, h, x.UUID, mark, func() {}), nil
}

// reservation is the definition of a domain that nobody can start.
func (f *Fleet) reservation(typ, name, uuid string, mark *libvirtx.Mark) (*libvirtxml.Domain, error) {
	mark.Beat = "0"
	os := f.platform.OSType
	x := &libvirtxml.Domain{Type: typ, Name: name, UUID: uuid, VCPU: &libvirtxml.DomainVCPU{Value: 1},
		OS:      &libvirtxml.DomainOS{Type: &os},
		Devices: &libvirtxml.DomainDeviceList{Interfaces: []libvirtxml.DomainInterface{f.guard()}}}
	libvirtx.SetMemory(x, TemplateKiB, TemplateKiB)
	return x, libvirtx.MarkDefinition(x, *mark)
}

// keep starts the heartbeat of a reservation. lost is called when the
// reservation is gone.
func keep(ctx context.Context, h *Host, uuid string, mark libvirtx.Mark, lost func()) *Making {
	beat, stop := context.WithCancel(context.WithoutCancel(ctx))
	m := &Making{host: h, uuid: uuid, turn: make(chan struct{}, 1), mark: mark, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		for n := 1; Pause(beat, beatEvery) == nil; n++ {
			// A missed heartbeat is no reason to stop the work.
			if err := m.Note(beat, func(k *libvirtx.Mark) { k.Beat = strconv.Itoa(n) }); libvirtx.NotFound(err) {
				lost()
				return
			}
		}
	}()
	return m
}

// Note changes the mark of the reservation, for whoever finds it after a
// crash. It waits for the write even if ctx ends: a late write would turn the
// finished machine into a reservation again.
func (m *Making) Note(ctx context.Context, f func(*libvirtx.Mark)) error {
	select {
	case m.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-m.turn }()
	f(&m.mark)
	_, err := OnHost(context.WithoutCancel(ctx), m.host, hypervisor.VMID(m.uuid), 2, func(_ *Host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
		return struct{}{}, libvirtx.MarkDomain(dom, m.mark)
	})
	return err
}

// end stops the heartbeat. The caller then defines the finished machine.
func (m *Making) end() {
	m.stop()
	<-m.done
}

// takeBack cleans up after a failed making of this process, which may have
// given overlays to source, and returns the reason for the failure. If a host
// is still copying for it, takeBack waits until ctx ends for what can't be
// stopped.
func (f *Fleet) takeBack(ctx context.Context, j *job.Job, h *Host, uuid, source string, why error) error {
	for {
		var left []hypervisor.Ref
		err := h.answered(context.WithoutCancel(ctx), func() (err error) {
			left, err = f.sweepApart(context.WithoutCancel(ctx), j, h, hypervisor.VMID(uuid), source)
			return err
		})
		if libvirtx.KindOf(err) == hypervisor.ErrBusy {
			j.Phase(phaseCopyGoesOn, -1)
			if Pause(ctx, PollEvery) == nil {
				continue
			}
		}
		if j.Left(left...); err != nil {
			why = j.Also(why, "taking it back: %v", err)
		}
		return why
	}
}

// Made looks for the machine of a token. It returns a task if the machine
// exists or is being made, and removes what a dead maker left.
func (f *Fleet) Made(ctx context.Context, tid hypervisor.TaskID, token, uuid string) (hypervisor.DriverTask, bool, error) {
	if token == "" {
		return nil, false, nil
	}
	id := hypervisor.VMID(uuid)
	t, err := f.findMaking(ctx, tid, id)
	if hypervisor.KindOf(err) == hypervisor.ErrNotFound || libvirtx.NotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	return t, true, nil
}

// findMaking watches a machine that is being made until it exists or its
// maker is dead.
func (f *Fleet) findMaking(ctx context.Context, tid hypervisor.TaskID, id hypervisor.VMID) (hypervisor.DriverTask, error) {
	mark, err := f.readMark(ctx, id)
	if err != nil {
		return nil, err
	}
	if mark.Role == "" {
		return hypervisor.DoneTask(tid, hypervisor.TaskState{Result: id.Ref()}), nil
	}
	op, _, _, _ := f.SplitTaskID(tid)
	t, err := f.Go(ctx, tid, op, id.Ref(), func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		beat, since, phase := mark.Beat, time.Now(), "making"
		for {
			j.Phase(phase, -1)
			if err := Pause(ctx, PollEvery); err != nil {
				return hypervisor.Ref{}, err
			}
			m, err := f.readMark(ctx, id)
			switch {
			case err != nil && libvirtx.KindOf(err) == hypervisor.ErrNotFound:
				return hypervisor.Ref{}, hypervisor.Errorf(hypervisor.ErrCanceled, id.Ref(), "the machine was not finished: the process that made it failed and removed it")
			case err != nil && libvirtx.KindOf(err) != hypervisor.ErrUnavailable:
				return hypervisor.Ref{}, err
			case err != nil: // a libvirtd that is restarting
				since = time.Now()
			case m.Role == "":
				return id.Ref(), nil
			case m.Beat != beat:
				beat, since = m.Beat, time.Now()
			case time.Since(since) > deadAfter:
				var left []hypervisor.Ref
				h, err := f.Locate(ctx, id)
				if err == nil {
					left, err = f.sweepApart(ctx, j, h, id, m.Source)
				}
				if libvirtx.KindOf(err) == hypervisor.ErrBusy {
					phase = phaseCopyGoesOn
					continue
				}
				if err == nil {
					err = hypervisor.Errorf(hypervisor.ErrCanceled, id.Ref(), "the process that made the machine is gone: what it left was removed")
				}
				j.Left(left...)
				return hypervisor.Ref{}, err
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return Adopted{DriverTask: t}, nil
}

// phaseCopyGoesOn is the phase of a task whose maker is dead while its host
// still copies an image for it.
const phaseCopyGoesOn = "waiting for a copy that nobody wants to end"

// sweepApart is like sweep, under the lease of the machine that the maker gave
// overlays, if there is one.
func (f *Fleet) sweepApart(ctx context.Context, j *job.Job, h *Host, id hypervisor.VMID, source string) (left []hypervisor.Ref, err error) {
	sweep := func(ctx context.Context, _ *job.Job) (hypervisor.Ref, error) {
		left, err = f.sweep(context.WithoutCancel(ctx), h, id)
		return hypervisor.Ref{}, err
	}
	if source != "" {
		if _, err = f.UnderLease(ctx, j, hypervisor.VMID(source), LongWork, sweep); libvirtx.KindOf(err) != hypervisor.ErrNotFound {
			return left, err
		}
	}
	_, err = sweep(ctx, j) // the source is gone
	return left, err
}

// sweep removes what a failed or dead maker left: images that nothing depends
// on, the overlays that it gave to the clone's source, and the reservation.
// If a host still copies an image, it returns ErrBusy: the copy can't be
// stopped.
func (f *Fleet) sweep(ctx context.Context, h *Host, id hypervisor.VMID) ([]hypervisor.Ref, error) {
	left := []hypervisor.Ref{id.Ref()}
	b, err := f.Books(ctx, h)
	if err != nil {
		return left, err
	}
	_, err = libvirtx.Do(ctx, h.Conn, 3, func(c *libvirt.Connect) (struct{}, error) {
		dom, err := c.LookupDomainByUUIDString(string(id))
		if libvirtx.NotFound(err) {
			return struct{}{}, nil
		}
		if err != nil {
			return struct{}{}, err
		}
		defer dom.Free()
		x, mark, err := libvirtx.Parse(dom, 0)
		if err != nil {
			return struct{}{}, err
		}
		if mark.Role != roleMaking {
			return struct{}{}, hypervisor.Errorf(hypervisor.ErrExists, id.Ref(), "the machine is finished")
		}
		if !isReservation(x) {
			// The mark was written late: the machine has its disks, and may
			// run.
			mark.Role, mark.Task, mark.Beat, mark.Source, mark.Overlays = "", "", "", "", nil
			return struct{}{}, errors.Join(libvirtx.MarkDomain(dom, mark), hypervisor.Errorf(hypervisor.ErrExists, id.Ref(), "the machine is finished"))
		}
		made := Paths{}
		for p := range b.Images.ByPath {
			if libvirtx.OwnedBy(p, string(id)) && len(b.Images.Above[p]) == 0 && len(b.Users(p)) == 0 {
				made[p] = true
			}
		}
		images, err := b.Remove(c, made)
		left = append(left, images...)
		if libvirtx.Kind(err) == hypervisor.ErrBusy || libvirtx.Lost(err) {
			return struct{}{}, err
		}
		if len(mark.Overlays) > 0 {
			if err := f.platform.MergeBack(c, b, mark.Source, mark.Overlays); err != nil {
				return struct{}{}, err
			}
		}
		return struct{}{}, f.dropOverlays(ctx, c, h, mark)
	})
	if err == nil {
		err = h.Undefine(ctx, id, func(dom *libvirt.Domain) error { return dom.UndefineFlags(0) })
		if libvirtx.NotFound(err) {
			err = nil
		}
	}
	if err == nil {
		left = left[1:]
	}
	return left, err
}

// isReservation reports whether a definition can't be started by anybody and
// has no disks.
func isReservation(x *libvirtxml.Domain) bool {
	return x.Devices != nil && len(x.Devices.Disks) == 0 &&
		slices.ContainsFunc(x.Devices.Interfaces, func(n libvirtxml.DomainInterface) bool { return IsGuard(&n) })
}

// dropOverlays removes the overlays that a clone's source was given and does
// not use, or no longer uses.
func (f *Fleet) dropOverlays(ctx context.Context, c *libvirt.Connect, h *Host, mark libvirtx.Mark) error {
	if mark.Source == "" {
		return nil
	}
	dom, err := c.LookupDomainByUUIDString(mark.Source)
	if libvirtx.NotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dom.Free()
	x, _, err := libvirtx.Parse(dom, 0)
	if err != nil {
		return err
	}
	b, err := f.Books(ctx, h)
	if err != nil {
		return err
	}
	used, drop := Paths{}, Paths{}
	for _, k := range libvirtx.Writable(x) {
		used[libvirtx.DiskPath(k)] = true
	}
	for p, v := range b.Images.ByPath {
		if libvirtx.OwnedBy(p, mark.Source) && used[v.Backing] && !used[p] && len(b.Images.Above[p]) == 0 && len(b.Users(p)) == 0 {
			drop[p] = true
		}
	}
	_, err = b.Remove(c, drop)
	return err
}

func (f *Fleet) readMark(ctx context.Context, id hypervisor.VMID) (libvirtx.Mark, error) {
	return OnDomain(ctx, f, id, 1, func(_ *Host, _ *libvirt.Connect, dom *libvirt.Domain) (libvirtx.Mark, error) {
		_, mark, err := libvirtx.Parse(dom, 0)
		return mark, err
	})
}
