//go:build cgo

package kvm

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// A machine that is being made is a domain from the beginning: guarded like a
// template so that nobody starts it, and hidden from listings by its role. So
// its name and token are taken at once, another process sees the work, and
// after a crash what was left can be told from work that goes on: the maker
// changes Beat every few seconds.

const (
	roleMaking = "making"
	beatEvery  = 2 * time.Second
	// A maker whose beat does not change for this long is dead.
	deadAfter = 15 * time.Second
)

type making struct {
	h    *host
	uuid string
	mu   sync.Mutex // of mark, and of writing it
	mark libvirtx.Mark
	stop context.CancelFunc
	done chan struct{}
}

// begin reserves the domain and starts the beat.
func (h *host) begin(ctx context.Context, uuid, name, domainType string, mark libvirtx.Mark, tid hypervisor.TaskID) (*making, error) {
	mark.Role, mark.Task, mark.Beat = roleMaking, string(tid), "0"
	x := &libvirtxml.Domain{Type: domainType, Name: name, UUID: uuid, VCPU: &libvirtxml.DomainVCPU{Value: 1},
		OS:      &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Type: "hvm"}},
		Devices: &libvirtxml.DomainDeviceList{Interfaces: []libvirtxml.DomainInterface{guard()}}}
	libvirtx.SetMemory(x, templateKiB, templateKiB)
	if err := libvirtx.MarkDefinition(x, mark); err != nil {
		return nil, err
	}
	_, err := libvirtx.Do(ctx, h.conn, 2, func(c *libvirt.Connect) (struct{}, error) {
		// Defining the same UUID with the same name again would replace it.
		if dom, err := c.LookupDomainByUUIDString(uuid); err == nil {
			_ = dom.Free() // a local reference
			return struct{}{}, hypervisor.Errorf(hypervisor.KindExists, hypervisor.VMID(uuid).Ref(), "a machine with this ID is there")
		}
		if dom, err := c.LookupDomainByName(name); err == nil {
			id, _ := dom.GetUUIDString() // local; empty says as much
			_ = dom.Free()               // a local reference
			return struct{}{}, hypervisor.Errorf(hypervisor.KindExists, hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: id, Name: name},
				"the name is taken on host %s: choose another, libvirt wants unique names", h.ID())
		}
		return struct{}{}, libvirtx.Define(c, x)
	})
	if err != nil {
		return nil, err
	}
	beat, stop := context.WithCancel(context.WithoutCancel(ctx))
	m := &making{h: h, uuid: uuid, mark: mark, stop: stop, done: make(chan struct{})}
	go m.beat(beat)
	return m, nil
}

func (m *making) beat(ctx context.Context) {
	defer close(m.done)
	for n := 1; pause(ctx, beatEvery) == nil; n++ {
		// A missed beat is no reason to stop the work.
		_ = m.note(ctx, func(k *libvirtx.Mark) { k.Beat = strconv.Itoa(n) })
	}
}

// note changes the mark of the reservation, for who finds it after a crash.
func (m *making) note(ctx context.Context, f func(*libvirtx.Mark)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.mark)
	return m.h.setMark(ctx, hypervisor.VMID(m.uuid), m.mark)
}

// end stops the beat; the caller then defines the finished machine.
func (m *making) end() {
	m.stop()
	<-m.done
}

// abort takes the reservation away again.
func (m *making) abort(ctx context.Context) error {
	m.end()
	_, err := onHost(ctx, m.h, hypervisor.VMID(m.uuid), 1, func(_ *host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
		return struct{}{}, dom.UndefineFlags(0)
	})
	if libvirtx.NotFound(err) {
		return nil
	}
	return err
}

// setMark replaces the mark in the definition, and live where the domain runs.
func (h *host) setMark(ctx context.Context, id hypervisor.VMID, m libvirtx.Mark) error {
	_, err := onHost(ctx, h, id, 2, func(_ *host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
		return struct{}{}, libvirtx.MarkDomain(dom, m)
	})
	return err
}

// made looks for a machine that a token stands for. It returns a task if one
// is there or is being made, and removes what a dead maker left.
func (d *driver) made(ctx context.Context, tid hypervisor.TaskID, token, uuid string) (hypervisor.DriverTask, bool, error) {
	if token == "" {
		return nil, false, nil
	}
	id := hypervisor.VMID(uuid)
	t, err := d.findMaking(ctx, tid, id)
	if hypervisor.KindOf(err) == hypervisor.KindNotFound || libvirtx.NotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	return t, true, nil
}

// findMaking watches a machine that is being made until it is there or its
// maker is dead.
func (d *driver) findMaking(ctx context.Context, tid hypervisor.TaskID, id hypervisor.VMID) (hypervisor.DriverTask, error) {
	mark, err := d.readMark(ctx, id)
	if err != nil {
		return nil, err
	}
	if mark.Role == "" {
		return hypervisor.DoneTask(tid, hypervisor.TaskState{Result: id.Ref()}), nil
	}
	t, err := d.tasks.Go(ctx, tid, func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		beat, since := mark.Beat, time.Now()
		for {
			report(hypervisor.TaskState{Fraction: -1, Phase: "making"})
			if err := pause(ctx, pollEvery); err != nil {
				return hypervisor.TaskState{Err: err}
			}
			m, err := d.readMark(ctx, id)
			switch {
			case err != nil && d.kindOf(err) == hypervisor.KindNotFound:
				return hypervisor.TaskState{Err: hypervisor.Errorf(hypervisor.KindCanceled, id.Ref(), "the machine was not finished: its maker failed and took it away")}
			case err != nil && d.kindOf(err) != hypervisor.KindUnavailable:
				return hypervisor.TaskState{Err: err}
			case err != nil: // a libvirtd that restarts
				since = time.Now()
			case m.Role == "":
				return hypervisor.TaskState{Result: id.Ref()}
			case m.Beat != beat:
				beat, since = m.Beat, time.Now()
			case time.Since(since) > deadAfter:
				left, err := d.sweep(context.WithoutCancel(ctx), id)
				if err == nil {
					err = hypervisor.Errorf(hypervisor.KindCanceled, id.Ref(), "the process that made the machine is gone: what it left was removed")
				}
				return hypervisor.TaskState{Err: err, Leftover: left}
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return adopted{DriverTask: t}, nil
}

// sweep removes what a dead maker left: images that nothing stands on, the
// overlays that it gave to the clone's source, and the reservation.
func (d *driver) sweep(ctx context.Context, id hypervisor.VMID) ([]hypervisor.Ref, error) {
	h, err := d.locate(ctx, id)
	if err != nil {
		return nil, err
	}
	b, err := d.books(ctx, h)
	if err != nil {
		return nil, err
	}
	left := []hypervisor.Ref{id.Ref()}
	_, err = onHost(ctx, h, id, 2, func(_ *host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
		_, mark, err := libvirtx.Parse(dom, 0)
		if err != nil {
			return struct{}{}, err
		}
		if mark.Role != roleMaking {
			return struct{}{}, hypervisor.Errorf(hypervisor.KindExists, id.Ref(), "the machine is finished")
		}
		for p, v := range b.im.ByPath {
			if libvirtx.OwnedBy(p, string(id)) && len(b.im.Above[p]) == 0 {
				if err := libvirtx.DeleteVolume(c, v.Pool, v.Name); err != nil {
					left = append(left, v.Ref())
				}
			}
		}
		if mark.Source != "" {
			if err := b.mergeBack(c, mark.Source, mark.Overlays); err != nil {
				return struct{}{}, err
			}
		}
		return struct{}{}, dom.UndefineFlags(0)
	})
	if err == nil {
		left = left[1:]
	}
	return left, err
}

// mergeBack commits overlays that a source was given for the time of a copy,
// and removes those that it did not come to use. Those that are not what the
// source writes to now stay: somebody went on from there.
func (b *books) mergeBack(c *libvirt.Connect, source string, overlays []string) error {
	dom, err := c.LookupDomainByUUIDString(source)
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
	for _, k := range libvirtx.Writable(x) { // the maker may have died while it merged
		j, err := dom.GetBlockJobInfo(k.Target.Dev, 0)
		if err == nil && j.Type == libvirt.DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT && slices.Contains(overlays, libvirtx.DiskPath(k)) {
			if err := finish(dom, k.Target.Dev, true, nil); err != nil {
				return err
			}
		}
	}
	if x, _, err = libvirtx.Parse(dom, 0); err != nil {
		return err
	}
	if b.im, err = libvirtx.LoadImages(c, b.pools); err != nil {
		return err
	}
	snaps, err := readSnapshots(dom)
	if err != nil {
		return err
	}
	used := set{}
	for _, k := range libvirtx.Writable(x) {
		p := libvirtx.DiskPath(k)
		base := b.im.ByPath[p].Backing
		if !slices.Contains(overlays, p) || base == "" || len(b.im.Above[base]) != 1 {
			used[p] = true
			continue
		}
		if err := b.merge(c, dom, source, k.Target.Dev, base, p, snaps); err != nil {
			return err
		}
		used[base] = true
	}
	for p, v := range b.im.ByPath { // made and never used
		if libvirtx.OwnedBy(p, source) && used[v.Backing] && !used[p] && len(b.im.Above[p]) == 0 && (len(b.usersOf(p)) == 0 || slices.Contains(overlays, p)) {
			if err := libvirtx.DeleteVolume(c, v.Pool, v.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *driver) readMark(ctx context.Context, id hypervisor.VMID) (libvirtx.Mark, error) {
	return onDomain(ctx, d, id, 1, func(_ *host, _ *libvirt.Connect, dom *libvirt.Domain) (libvirtx.Mark, error) {
		_, mark, err := libvirtx.Parse(dom, 0)
		return mark, err
	})
}

// kindOf classifies portable and native errors.
func (d *driver) kindOf(err error) hypervisor.Kind {
	if k := hypervisor.KindOf(err); k != hypervisor.KindUnknown {
		return k
	}
	return libvirtx.Kind(err)
}
