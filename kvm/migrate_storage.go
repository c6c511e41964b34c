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

func fromPaths(all []fleet.Copied) fleet.Paths {
	out := fleet.Paths{}
	for _, k := range all {
		out[k.From.Path] = true
	}
	return out
}

// arrived removes the source of disks that have moved, and reports what is
// kept and what should have been removed.
func (m *move) arrived(ctx context.Context, r *hypervisor.MigrateResult, all []fleet.Copied) error {
	m.j.Migration = r
	kept, err := m.dropSource(ctx, all)
	if err != nil {
		m.j.Left(kept...)
		return err
	}
	r.Kept = kept
	return nil
}

// liveStorage mirrors the disks of a running machine and switches over when
// all are in step, so that a failure leaves all of them where they were.
func (m *move) liveStorage(ctx context.Context) error {
	sure := context.WithoutCancel(ctx)
	var all []fleet.Copied
	pivoted := 0
	_, err := fleet.OnHost(sure, m.src, m.id, 10, func(_ *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
		for _, k := range libvirtx.Writable(m.live) {
			if err := ctx.Err(); err != nil {
				return struct{}{}, err
			}
			n, err := m.mirror(c, dom, k)
			if n.To.Name != "" {
				all = append(all, n)
			}
			if err != nil {
				return struct{}{}, err
			}
		}
		for i, k := range all {
			err := inStep(ctx, dom, k.Dev, func(cur, end uint64) {
				m.j.Report(hypervisor.TaskState{Fraction: (float64(i) + float64(cur)/float64(max(end, 1))) / float64(len(all)), Phase: "mirroring " + k.Dev,
					BytesDone: int64(cur), BytesTotal: int64(end)})
			})
			if err != nil {
				return struct{}{}, err
			}
		}
		for _, k := range all {
			if err := finish(m.src.Conn.Alive(), dom, k.Dev, true); err != nil {
				return struct{}{}, err
			}
			pivoted++
		}
		return struct{}{}, nil
	})
	if err != nil {
		_, _ = fleet.OnHost(sure, m.src, m.id, len(all), func(_ *fleet.Host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			for _, k := range all[pivoted:] {
				_ = dom.BlockJobAbort(k.Dev, 0) // there may be no job (any more)
			}
			return struct{}{}, nil
		})
		return m.undo(sure, m.src, all, err)
	}
	r := &hypervisor.MigrateResult{Downtime: 0}
	for _, k := range all {
		r.BytesCopied += k.To.Allocation
	}
	return m.arrived(sure, r, all)
}

// mirror starts the copy of one disk.
func (m *move) mirror(c *libvirt.Connect, dom *libvirt.Domain, k *libvirtxml.DomainDisk) (fleet.Copied, error) {
	from, err := libvirtx.FindImage(c, m.srcPools, libvirtx.DiskPath(k))
	if err != nil {
		return fleet.Copied{}, err
	}
	to, err := libvirtx.CreateVolume(c, m.srcPools, libvirtx.VolumeSpec{Pool: m.pool.UUID, Name: libvirtx.ImageName(string(m.id), k.Target.Dev, from.Format), Capacity: from.Capacity, Format: from.Format})
	n := fleet.Copied{Dev: k.Target.Dev, From: from, To: to}
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
	// libvirt allows a persistent domain only a job that does not survive it.
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
			return hypervisor.Errorf(hypervisor.ErrUnknown, hypervisor.DiskID(dev).Ref(), "the copy of disk %s failed: QEMU's log on the host has the reason", dev)
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

// coldStorage makes the host copy the disks of a machine that is off.
func (m *move) coldStorage(ctx context.Context) error {
	sure := context.WithoutCancel(ctx)
	all, err := m.src.CopyDisks(ctx, m.j, m.id, m.srcPools, m.pool)
	if err != nil {
		return m.undo(sure, m.src, all, err)
	}
	r := &hypervisor.MigrateResult{Downtime: -1}
	for _, k := range all {
		r.BytesCopied += k.To.Allocation
	}
	return m.arrived(sure, r, all)
}

// coldMove moves the definition of a machine that is off and, if requested,
// its disks. The source's definition is removed once the destination's
// exists.
func (m *move) coldMove(ctx context.Context) error {
	sure := context.WithoutCancel(ctx)
	start := time.Now()
	if err := m.proveShared(sure); err != nil {
		return err
	}
	all, err := m.sendDisks(ctx)
	x := m.next
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		moved := map[string]libvirtx.Volume{}
		for _, k := range all {
			moved[k.From.Path] = k.To
		}
		repoint(x, moved)
		if len(all) > 0 {
			m.mark.Images = nil
			err = libvirtx.MarkDefinition(x, m.mark)
		}
	}
	if err != nil {
		return m.undo(sure, m.dst, all, err)
	}
	if err := m.dst.Define(sure, x); err != nil {
		return m.retract(sure, all, err)
	}
	if err := m.leave(sure); errors.Is(err, errNoOutcome) {
		m.j.Left(m.id.Ref())
		return err
	} else if err != nil {
		return m.retract(sure, all, err)
	}
	r := &hypervisor.MigrateResult{Downtime: -1, Total: time.Since(start)}
	for _, k := range all {
		r.BytesCopied += k.From.Allocation
	}
	return m.arrived(sure, r, all)
}

// sendDisks streams the images to the other host. An image with a backing
// image is first flattened into a temporary image.
func (m *move) sendDisks(ctx context.Context) ([]fleet.Copied, error) {
	var all []fleet.Copied
	if m.pool.UUID == "" {
		return nil, nil
	}
	sure := context.WithoutCancel(ctx)
	for _, k := range libvirtx.Writable(m.next) {
		if err := ctx.Err(); err != nil {
			return all, err
		}
		n, err := libvirtx.Do(sure, m.src.Conn, 6, func(c *libvirt.Connect) (fleet.Copied, error) {
			return libvirtx.Do(sure, m.dst.Conn, 6, func(to *libvirt.Connect) (fleet.Copied, error) { return m.sendDisk(ctx, c, to, k) })
		})
		if n.To.Name != "" {
			all = append(all, n)
		}
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

func (m *move) sendDisk(ctx context.Context, c, to *libvirt.Connect, k *libvirtxml.DomainDisk) (fleet.Copied, error) {
	from, err := libvirtx.FindImage(c, m.srcPools, libvirtx.DiskPath(k))
	if err != nil {
		return fleet.Copied{}, err
	}
	n := fleet.Copied{Dev: k.Target.Dev, From: from}
	send := from
	if from.Backing != "" {
		send, err = libvirtx.CreateVolume(c, m.srcPools, libvirtx.VolumeSpec{Pool: from.Pool, Name: libvirtx.ImageName(string(m.id), k.Target.Dev, from.Format),
			Capacity: from.Capacity, Format: from.Format, From: from.Path})
		if send.Name != "" {
			defer func() { m.j.Left(m.src.Tidy(context.WithoutCancel(ctx), []libvirtx.Volume{send})...) }()
		}
		if err != nil {
			return n, err
		}
	}
	n.To, err = libvirtx.CreateVolume(to, m.dstPools, libvirtx.VolumeSpec{Pool: m.pool.UUID, Name: libvirtx.ImageName(string(m.id), k.Target.Dev, from.Format), Capacity: from.Capacity, Format: from.Format})
	if err != nil {
		return n, err
	}
	err = libvirtx.CopyBetween(ctx, c, send, to, n.To, func(sent int64) {
		m.j.Report(hypervisor.TaskState{Fraction: min(float64(sent)/float64(max(send.Allocation, sent, 1)), 1), Phase: "sending " + k.Target.Dev, BytesDone: sent, BytesTotal: max(send.Allocation, sent)})
	})
	if err != nil {
		return n, err
	}
	got, err := libvirtx.FindVolume(to, n.To.Pool, n.To.Name)
	if err == nil && got.Capacity != from.Capacity {
		err = fmt.Errorf("the copy of disk %s has %d bytes, its source %d", k.Target.Dev, got.Capacity, from.Capacity)
	}
	return n, err
}
