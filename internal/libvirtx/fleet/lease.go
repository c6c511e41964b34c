//go:build cgo

package fleet

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// A lease serializes work on a machine's disks across processes. It is a
// reservation beside the machine (see Making): a domain without disks that
// nobody can start, named after the machine. libvirt gives a name to one
// domain only, so only one of two processes gets the lease. Work that only
// reads has a reader's lease, with a name of its own. A writer waits for
// readers, and a reader that comes later gives way to a writer.
//
// An owner whose heartbeat stops is dead. The next process that wants the
// lease takes it over, and finishes or undoes the dead owner's work.

const roleLease = "lease"

// waitEvery is the interval between looks at the lease of another process.
const waitEvery = 100 * time.Millisecond

func leaseName(id hypervisor.VMID) string { return libvirtx.HelperPrefix + "lease-" + string(id) }

// lease is one process's right to work on a machine's disks.
type lease struct {
	uuid string
	mark libvirtx.Mark
}

// UnderLease does work that holds the lease of a machine. It waits for short
// work of another process; during work that is seen to continue it returns
// ErrBusy. The context of the work ends if the lease is lost: this process
// was then delayed for so long that another one considered it dead.
func (f *Fleet) UnderLease(ctx context.Context, j *job.Job, id hypervisor.VMID, mode Lock, w Work) (hypervisor.Ref, error) {
	h, err := f.Locate(ctx, id)
	if err != nil {
		return hypervisor.Ref{}, err
	}
	own, dead, err := f.takeLease(ctx, j, h, id, mode == Reading)
	if err != nil {
		return hypervisor.Ref{}, err
	}
	ctx, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	m := keep(ctx, h, own.uuid, own.mark, func() {
		lost(hypervisor.Errorf(hypervisor.ErrBusy, id.Ref(), "another process took over the machine's disks, since this one was held up for more than %v", deadAfter))
	})
	defer func() {
		m.end()
		if err := h.endLease(context.WithoutCancel(ctx), own); err != nil { // the next process takes it over
			j.Note("the lease of the machine's disks stays for " + deadAfter.String() + ": " + err.Error())
		}
	}()
	for _, d := range dead {
		if err := f.recover(ctx, h, id, d); err != nil {
			return hypervisor.Ref{}, err
		}
	}
	made, err := w(ctx, j)
	if cause := context.Cause(ctx); err != nil && ctx.Err() != nil && hypervisor.KindOf(cause) == hypervisor.ErrBusy {
		err = errors.Join(cause, err)
	}
	return made, err
}

// takeLease returns the lease, and those of dead owners that it took over.
func (f *Fleet) takeLease(ctx context.Context, j *job.Job, h *Host, id hypervisor.VMID, reader bool) (own *lease, dead []lease, err error) {
	sure := context.WithoutCancel(ctx)
	var seen *lease // the lease in the way
	var since time.Time
	for {
		var other *lease
		if own == nil {
			own, other, err = f.ask(ctx, j, h, id, reader)
		} else {
			other, err = h.readers(ctx, id)
		}
		if err == nil && own != nil && other == nil {
			return own, dead, nil
		}
		switch {
		case err != nil || other == nil:
		case seen == nil || seen.uuid != other.uuid:
			seen, since = other, time.Now()
		case seen.mark.Beat != other.mark.Beat:
			err = hypervisor.Errorf(hypervisor.ErrBusy, id.Ref(), "another process works on the machine's disks: wait for its task %s", other.mark.Task)
		case time.Since(since) > deadAfter:
			if err = h.endLease(sure, other); err == nil {
				dead = append(dead, *other)
			}
		}
		if err == nil {
			j.Phase("waiting for another process that works on the machine's disks", -1)
			err = Pause(ctx, waitEvery+rand.N(waitEvery))
		}
		if err != nil {
			if own != nil {
				err = errors.Join(err, h.endLease(sure, own))
			}
			return nil, nil, err
		}
	}
}

// ask defines a lease. If another lease is in the way, it returns that one.
// If it returns both, a reader's lease is in the way of a writer, which keeps
// its own lease while it waits, so that no other reader comes.
func (f *Fleet) ask(ctx context.Context, j *job.Job, h *Host, id hypervisor.VMID, reader bool) (own, other *lease, err error) {
	name := leaseName(id)
	if reader {
		name += "-" + libvirtx.Nonce()
	}
	l := &lease{uuid: libvirtx.NewUUID(), mark: libvirtx.Mark{Role: roleLease, Source: string(id), Task: string(j.ID)}}
	_, err = OnHost(context.WithoutCancel(ctx), h, id, 3, func(_ *Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
		like, _, err := libvirtx.Parse(dom, 0)
		if err != nil {
			return struct{}{}, err
		}
		x, err := f.reservation(like.Type, name, l.uuid, &l.mark)
		if err != nil {
			return struct{}{}, err
		}
		err = libvirtx.Define(c, x)
		if err != nil && libvirtx.Kind(err) != hypervisor.ErrExists {
			return struct{}{}, err
		}
		if err == nil {
			own = l
		}
		if own == nil || reader {
			other, err = findLease(c, leaseName(id))
		}
		return struct{}{}, err
	})
	switch {
	case libvirtx.Lost(err): // the lease may exist
		return nil, nil, errors.Join(err, h.endLease(context.WithoutCancel(ctx), l))
	case err != nil:
		if own != nil {
			err = errors.Join(err, h.endLease(context.WithoutCancel(ctx), own))
		}
		return nil, nil, err
	case own == nil: // other is nil if it vanished before it was looked up
		return nil, other, nil
	case reader && other != nil:
		return nil, other, h.endLease(context.WithoutCancel(ctx), own)
	case reader:
		return own, nil, nil
	}
	other, err = h.readers(ctx, id)
	return own, other, err
}

// findLease reads a lease by its name. It returns nil if there is none.
func findLease(c *libvirt.Connect, name string) (*lease, error) {
	dom, err := c.LookupDomainByName(name)
	if libvirtx.NotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dom.Free()
	x, mark, err := libvirtx.Parse(dom, 0)
	if libvirtx.NotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &lease{uuid: x.UUID, mark: mark}, nil
}

// readers returns the lease of a reader, if a machine has one.
func (h *Host) readers(ctx context.Context, id hypervisor.VMID) (*lease, error) {
	return libvirtx.Do(ctx, h.Conn, 3, func(c *libvirt.Connect) (*lease, error) {
		all, err := c.ListAllDomains(libvirt.CONNECT_LIST_DOMAINS_INACTIVE)
		if err != nil {
			return nil, err
		}
		var found *lease
		for i := range all {
			name, nerr := all[i].GetName() // local
			if nerr == nil && found == nil && err == nil && strings.HasPrefix(name, leaseName(id)+"-") {
				found, err = findLease(c, name)
			}
			_ = all[i].Free() // a local reference
		}
		return found, err
	})
}

// endLease removes a lease. It is not an error if the lease is gone.
func (h *Host) endLease(ctx context.Context, l *lease) error {
	err := h.Undefine(ctx, hypervisor.VMID(l.uuid), func(dom *libvirt.Domain) error { return dom.UndefineFlags(0) })
	if libvirtx.NotFound(err) {
		return nil
	}
	return err
}

// recover ends the work of a lease's dead owner: it waits for block jobs,
// undoes a clone, and removes overlays that nothing uses.
func (f *Fleet) recover(ctx context.Context, h *Host, id hypervisor.VMID, dead lease) error {
	if f.platform.EndJobs != nil {
		_, err := OnHost(ctx, h, id, 4, func(_ *Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			return struct{}{}, f.platform.EndJobs(ctx, c, dom, string(id))
		})
		if err != nil && !libvirtx.NotFound(err) {
			return err
		}
	}
	if op, clone, _, ok := f.SplitTaskID(hypervisor.TaskID(dead.mark.Task)); ok && op == "clone" {
		if _, err := f.sweep(ctx, h, clone); err != nil && hypervisor.KindOf(err) != hypervisor.ErrExists {
			return err
		}
	}
	_, err := libvirtx.Do(ctx, h.Conn, 4, func(c *libvirt.Connect) (struct{}, error) {
		return struct{}{}, f.dropOverlays(ctx, c, h, libvirtx.Mark{Source: string(id)})
	})
	return err
}
