//go:build cgo

package fleet

import (
	"context"
	"fmt"
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

// Making is a machine that is being made.
type Making struct {
	host *Host
	uuid string
	mu   sync.Mutex // of mark, and of writing it
	mark libvirtx.Mark
	stop context.CancelFunc
	done chan struct{}
}

// begin reserves a machine's domain and starts the beat. A reservation that may
// be left by an error is named.
func (f *Fleet) begin(ctx context.Context, h *Host, like *libvirtxml.Domain, mark libvirtx.Mark, tid hypervisor.TaskID) (m *Making, left []hypervisor.Ref, err error) {
	mark.Role, mark.Task, mark.Beat = roleMaking, string(tid), "0"
	os := f.platform.OSType
	x := &libvirtxml.Domain{Type: like.Type, Name: like.Name, UUID: like.UUID, VCPU: &libvirtxml.DomainVCPU{Value: 1},
		OS:      &libvirtxml.DomainOS{Type: &os},
		Devices: &libvirtxml.DomainDeviceList{Interfaces: []libvirtxml.DomainInterface{f.guard()}}}
	libvirtx.SetMemory(x, TemplateKiB, TemplateKiB)
	if err := libvirtx.MarkDefinition(x, mark); err != nil {
		return nil, nil, err
	}
	sent := false
	_, err = libvirtx.Do(ctx, h.Conn, 2, func(c *libvirt.Connect) (struct{}, error) {
		// Defining the same UUID with the same name again would replace it.
		if dom, err := c.LookupDomainByUUIDString(x.UUID); err == nil {
			_ = dom.Free() // a local reference
			return struct{}{}, hypervisor.Errorf(hypervisor.KindExists, hypervisor.VMID(x.UUID).Ref(), "a machine with this ID is there")
		}
		if dom, err := c.LookupDomainByName(x.Name); err == nil {
			defer dom.Free()
			id, _ := dom.GetUUIDString() // local; empty says as much
			on := hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: id, Name: x.Name}
			if _, other, err := libvirtx.Parse(dom, 0); err == nil && other.Role == roleMaking {
				return struct{}{}, hypervisor.Errorf(hypervisor.KindExists, on, "the name is taken on host %s by a machine that is being made: "+
					"wait for task %s, which clears it away if its maker is dead", h.ID(), other.Task)
			}
			return struct{}{}, hypervisor.Errorf(hypervisor.KindExists, on, "the name is taken on host %s: choose another, libvirt wants unique names", h.ID())
		}
		sent = true
		return struct{}{}, libvirtx.Define(c, x)
	})
	if sent && libvirtx.Lost(err) {
		// Asked for again it could come late and replace the finished machine.
		if left, terr := f.takeBack(ctx, h, hypervisor.VMID(x.UUID), func(hypervisor.TaskState) {}); terr != nil {
			return nil, left, fmt.Errorf("%w (and taking the reservation back: %w)", err, terr)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	beat, stop := context.WithCancel(context.WithoutCancel(ctx))
	m = &Making{host: h, uuid: x.UUID, mark: mark, stop: stop, done: make(chan struct{})}
	go m.beat(beat)
	return m, nil, nil
}

func (m *Making) beat(ctx context.Context) {
	defer close(m.done)
	for n := 1; Pause(ctx, beatEvery) == nil; n++ {
		// A missed beat is no reason to stop the work.
		_ = m.Note(ctx, func(k *libvirtx.Mark) { k.Beat = strconv.Itoa(n) })
	}
}

// Note changes the mark of the reservation, for who finds it after a crash.
func (m *Making) Note(ctx context.Context, f func(*libvirtx.Mark)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.mark)
	_, err := OnHost(ctx, m.host, hypervisor.VMID(m.uuid), 2, func(_ *Host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
		return struct{}{}, libvirtx.MarkDomain(dom, m.mark)
	})
	return err
}

// end stops the beat; the caller then defines the finished machine.
func (m *Making) end() {
	m.stop()
	<-m.done
}

// takeBack sweeps up after a making of this process that failed. While a host
// goes on copying for it, what can't be stopped is waited for until ctx ends.
func (f *Fleet) takeBack(ctx context.Context, h *Host, id hypervisor.VMID, report func(hypervisor.TaskState)) (left []hypervisor.Ref, err error) {
	for {
		err = h.answered(context.WithoutCancel(ctx), func() error {
			left, err = f.sweep(context.WithoutCancel(ctx), h, id)
			return err
		})
		if libvirtx.KindOf(err) != hypervisor.KindBusy {
			return left, err
		}
		report(hypervisor.TaskState{Fraction: -1, Phase: phaseCopyGoesOn})
		if Pause(ctx, PollEvery) != nil {
			return left, err
		}
	}
}

// Made looks for a machine that a token stands for. It returns a task if one
// is there or is being made, and removes what a dead maker left.
func (f *Fleet) Made(ctx context.Context, tid hypervisor.TaskID, token, uuid string) (hypervisor.DriverTask, bool, error) {
	if token == "" {
		return nil, false, nil
	}
	id := hypervisor.VMID(uuid)
	t, err := f.findMaking(ctx, tid, id)
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
func (f *Fleet) findMaking(ctx context.Context, tid hypervisor.TaskID, id hypervisor.VMID) (hypervisor.DriverTask, error) {
	mark, err := f.readMark(ctx, id)
	if err != nil {
		return nil, err
	}
	if mark.Role == "" {
		return hypervisor.DoneTask(tid, hypervisor.TaskState{Result: id.Ref()}), nil
	}
	t, err := f.Tasks.Go(ctx, tid, func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		beat, since, phase := mark.Beat, time.Now(), "making"
		for {
			report(hypervisor.TaskState{Fraction: -1, Phase: phase})
			if err := Pause(ctx, PollEvery); err != nil {
				return hypervisor.TaskState{Err: err}
			}
			m, err := f.readMark(ctx, id)
			switch {
			case err != nil && libvirtx.KindOf(err) == hypervisor.KindNotFound:
				return hypervisor.TaskState{Err: hypervisor.Errorf(hypervisor.KindCanceled, id.Ref(), "the machine was not finished: its maker failed and took it away")}
			case err != nil && libvirtx.KindOf(err) != hypervisor.KindUnavailable:
				return hypervisor.TaskState{Err: err}
			case err != nil: // a libvirtd that restarts
				since = time.Now()
			case m.Role == "":
				return hypervisor.TaskState{Result: id.Ref()}
			case m.Beat != beat:
				beat, since = m.Beat, time.Now()
			case time.Since(since) > deadAfter:
				var left []hypervisor.Ref
				h, err := f.Locate(ctx, id)
				if err == nil {
					left, err = f.sweep(context.WithoutCancel(ctx), h, id)
				}
				if libvirtx.KindOf(err) == hypervisor.KindBusy {
					phase = phaseCopyGoesOn
					continue
				}
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
	return Adopted{DriverTask: t}, nil
}

// phaseCopyGoesOn is the phase of a task whose maker is dead while its host
// still copies an image for it.
const phaseCopyGoesOn = "waiting for a copy that nobody wants to end"

// sweep removes what a maker left that failed or is dead: images that nothing
// stands on, the overlays that it gave to the clone's source, and the
// reservation. A host that still copies one is KindBusy: the copy can't be
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
		_, mark, err := libvirtx.Parse(dom, 0)
		if err != nil {
			return struct{}{}, err
		}
		if mark.Role != roleMaking {
			return struct{}{}, hypervisor.Errorf(hypervisor.KindExists, id.Ref(), "the machine is finished")
		}
		made := Paths{}
		for p := range b.Images.ByPath {
			if libvirtx.OwnedBy(p, string(id)) && len(b.Images.Above[p]) == 0 {
				made[p] = true
			}
		}
		images, err := b.Remove(c, made)
		left = append(left, images...)
		if libvirtx.Kind(err) == hypervisor.KindBusy || libvirtx.Lost(err) {
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

// dropOverlays removes the overlays that a clone's source was given and did not
// come to use, or no longer uses.
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
