//go:build cgo

package kvm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// copied is one disk on its way.
type copied struct {
	dev      string
	from, to libvirtx.Volume
}

func fromPaths(all []copied) fleet.Paths {
	out := fleet.Paths{}
	for _, k := range all {
		out[k.from.Path] = true
	}
	return out
}

// arrived removes the source of disks that have moved, and says what is kept
// and what should have gone.
func (m *move) arrived(ctx context.Context, r *hypervisor.MigrateResult, all []copied) hypervisor.TaskState {
	kept, err := m.dropSource(ctx, all)
	if err != nil {
		return hypervisor.TaskState{Migration: r, Err: err, Leftover: append(m.left, kept...)}
	}
	r.Kept = kept
	return hypervisor.TaskState{Migration: r, Leftover: m.left}
}

// liveStorage mirrors the disks of a machine that runs and switches over when
// all are in step, so that a failure leaves all of them where they were.
func (m *move) liveStorage(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
	sure := context.WithoutCancel(ctx)
	var all []copied
	pivoted := 0
	_, err := fleet.OnHost(sure, m.src, m.id, 10, func(_ *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
		for _, k := range libvirtx.Writable(m.live) {
			if err := ctx.Err(); err != nil {
				return struct{}{}, err
			}
			n, err := m.mirror(c, dom, k)
			if n.to.Name != "" {
				all = append(all, n)
			}
			if err != nil {
				return struct{}{}, err
			}
		}
		for i, k := range all {
			err := inStep(ctx, dom, k.dev, func(cur, end uint64) {
				report(hypervisor.TaskState{Fraction: (float64(i) + float64(cur)/float64(max(end, 1))) / float64(len(all)), Phase: "mirroring " + k.dev,
					BytesDone: int64(cur), BytesTotal: int64(end)})
			})
			if err != nil {
				return struct{}{}, err
			}
		}
		for _, k := range all {
			if err := finish(dom, k.dev, true, nil); err != nil {
				return struct{}{}, err
			}
			pivoted++
		}
		return struct{}{}, nil
	})
	if err != nil {
		_, _ = fleet.OnHost(sure, m.src, m.id, len(all), func(_ *fleet.Host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			for _, k := range all[pivoted:] {
				_ = dom.BlockJobAbort(k.dev, 0) // there may be no job (any more)
			}
			return struct{}{}, nil
		})
		return hypervisor.TaskState{Err: err, Leftover: m.undo(sure, m.src, all)}
	}
	r := &hypervisor.MigrateResult{Downtime: 0}
	for _, k := range all {
		r.BytesCopied += k.to.Allocation
	}
	return m.arrived(sure, r, all)
}

// mirror starts the copy of one disk.
func (m *move) mirror(c *libvirt.Connect, dom *libvirt.Domain, k *libvirtxml.DomainDisk) (copied, error) {
	from, err := libvirtx.FindImage(c, m.srcPools, libvirtx.DiskPath(k))
	if err != nil {
		return copied{}, err
	}
	to, err := libvirtx.CreateVolume(c, m.srcPools, libvirtx.VolumeSpec{Pool: m.pool.UUID, Name: libvirtx.ImageName(string(m.id), k.Target.Dev, from.Format), Capacity: from.Capacity, Format: from.Format})
	n := copied{k.Target.Dev, from, to}
	if err != nil {
		return n, err
	}
	dest := libvirtxml.DomainDisk{Device: "disk"}
	libvirtx.SetDiskPath(&dest, to.Path, to.Format)
	doc, err := dest.Marshal()
	if err != nil {
		return n, err
	}
	p := &libvirt.DomainBlockCopyParameters{}
	if m.r.BandwidthBytes > 0 {
		p.BandwidthSet, p.Bandwidth = true, uint64(m.r.BandwidthBytes)
	}
	// A persistent domain is only allowed a job that does not survive it.
	return n, dom.BlockCopy(k.Target.Dev, doc, p, libvirt.DOMAIN_BLOCK_COPY_REUSE_EXT|libvirt.DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
}

// inStep waits until a mirror has caught up.
func inStep(ctx context.Context, dom *libvirt.Domain, dev string, progress func(cur, end uint64)) error {
	for {
		j, err := dom.GetBlockJobInfo(dev, 0)
		if err != nil {
			return err
		}
		if j.Type == 0 {
			return hypervisor.Errorf(hypervisor.KindUnknown, hypervisor.DiskID(dev).Ref(), "the copy of disk %s failed: QEMU's log on the host says why", dev)
		}
		progress(j.Cur, j.End)
		if j.End > 0 && j.Cur == j.End {
			return nil
		}
		if err := fleet.Pause(ctx, fleet.PollEvery/4); err != nil {
			return err
		}
	}
}

// coldStorage has the host copy the disks of a machine that is off.
func (m *move) coldStorage(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
	sure := context.WithoutCancel(ctx)
	var all []copied
	next, err := fleet.OnHost(sure, m.src, m.id, 8, func(_ *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (*libvirtxml.Domain, error) {
		x, mark, err := libvirtx.Inactive(dom)
		if err != nil {
			return nil, err
		}
		moved := map[string]libvirtx.Volume{}
		for i, k := range libvirtx.Writable(x) {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			report(hypervisor.TaskState{Fraction: float64(i) / float64(len(libvirtx.Writable(x))), Phase: "copying " + k.Target.Dev})
			from, err := libvirtx.FindImage(c, m.srcPools, libvirtx.DiskPath(k))
			if err != nil {
				return nil, err
			}
			to, err := libvirtx.CreateVolume(c, m.srcPools, libvirtx.VolumeSpec{Pool: m.pool.UUID, Name: libvirtx.ImageName(string(m.id), k.Target.Dev, from.Format),
				Capacity: from.Capacity, Format: from.Format, From: from.Path})
			if to.Name != "" {
				all = append(all, copied{k.Target.Dev, from, to})
			}
			if err != nil {
				return nil, err
			}
			moved[from.Path] = to
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		repoint(x, moved)
		mark.Images = nil // bases that stay behind
		return x, libvirtx.MarkDefinition(x, mark)
	})
	if err == nil {
		err = m.src.Define(sure, next)
	}
	if err != nil {
		return hypervisor.TaskState{Err: err, Leftover: m.undo(sure, m.src, all)}
	}
	r := &hypervisor.MigrateResult{Downtime: -1}
	for _, k := range all {
		r.BytesCopied += k.to.Allocation
	}
	return m.arrived(sure, r, all)
}

// coldMove moves the definition of a machine that is off, and its disks if
// asked for. The source's definition goes when the destination's is there.
func (m *move) coldMove(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
	sure := context.WithoutCancel(ctx)
	start := time.Now()
	if err := m.proveShared(sure); err != nil {
		return hypervisor.TaskState{Err: err, Leftover: m.left}
	}
	all, err := m.sendDisks(ctx, report)
	x := m.next
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		moved := map[string]libvirtx.Volume{}
		for _, k := range all {
			moved[k.from.Path] = k.to
		}
		repoint(x, moved)
		if len(all) > 0 {
			m.mark.Images = nil
			err = libvirtx.MarkDefinition(x, m.mark)
		}
	}
	if err != nil {
		return hypervisor.TaskState{Err: err, Leftover: m.undo(sure, m.dst, all)}
	}
	if err := m.dst.Define(sure, x); err != nil {
		return hypervisor.TaskState{Err: err, Leftover: m.retract(sure, all)}
	}
	if err := m.leave(sure); errors.Is(err, errNoOutcome) {
		return hypervisor.TaskState{Err: err, Leftover: []hypervisor.Ref{m.id.Ref()}}
	} else if err != nil {
		return hypervisor.TaskState{Err: err, Leftover: m.retract(sure, all)}
	}
	r := &hypervisor.MigrateResult{Downtime: -1, Total: time.Since(start)}
	for _, k := range all {
		r.BytesCopied += k.from.Allocation
	}
	return m.arrived(sure, r, all)
}

// sendDisks streams the images to the other host. One that stands on another
// is flattened first, into an image that lives for the time only.
func (m *move) sendDisks(ctx context.Context, report func(hypervisor.TaskState)) ([]copied, error) {
	var all []copied
	if m.pool.UUID == "" {
		return nil, nil
	}
	sure := context.WithoutCancel(ctx)
	for _, k := range libvirtx.Writable(m.next) {
		if err := ctx.Err(); err != nil {
			return all, err
		}
		n, err := libvirtx.Do(sure, m.src.Conn, 6, func(c *libvirt.Connect) (copied, error) {
			return libvirtx.Do(sure, m.dst.Conn, 6, func(to *libvirt.Connect) (copied, error) { return m.sendDisk(ctx, c, to, k, report) })
		})
		if n.to.Name != "" {
			all = append(all, n)
		}
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

func (m *move) sendDisk(ctx context.Context, c, to *libvirt.Connect, k *libvirtxml.DomainDisk, report func(hypervisor.TaskState)) (copied, error) {
	from, err := libvirtx.FindImage(c, m.srcPools, libvirtx.DiskPath(k))
	if err != nil {
		return copied{}, err
	}
	n := copied{dev: k.Target.Dev, from: from}
	send := from
	if from.Backing != "" {
		send, err = libvirtx.CreateVolume(c, m.srcPools, libvirtx.VolumeSpec{Pool: from.Pool, Name: libvirtx.ImageName(string(m.id), k.Target.Dev, from.Format),
			Capacity: from.Capacity, Format: from.Format, From: from.Path})
		if send.Name != "" {
			defer func() { m.left = append(m.left, m.src.Tidy(context.WithoutCancel(ctx), []libvirtx.Volume{send})...) }()
		}
		if err != nil {
			return n, err
		}
	}
	n.to, err = libvirtx.CreateVolume(to, m.dstPools, libvirtx.VolumeSpec{Pool: m.pool.UUID, Name: libvirtx.ImageName(string(m.id), k.Target.Dev, from.Format), Capacity: from.Capacity, Format: from.Format})
	if err != nil {
		return n, err
	}
	err = libvirtx.CopyBetween(ctx, c, send, to, n.to, func(sent int64) {
		report(hypervisor.TaskState{Fraction: min(float64(sent)/float64(max(send.Allocation, sent, 1)), 1), Phase: "sending " + k.Target.Dev, BytesDone: sent, BytesTotal: max(send.Allocation, sent)})
	})
	if err != nil {
		return n, err
	}
	got, err := libvirtx.FindVolume(to, n.to.Pool, n.to.Name)
	if err == nil && got.Capacity != from.Capacity {
		err = fmt.Errorf("the copy of disk %s has %d bytes, its source %d", k.Target.Dev, got.Capacity, from.Capacity)
	}
	return n, err
}
