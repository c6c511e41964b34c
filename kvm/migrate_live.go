//go:build cgo

package kvm

import (
	"context"
	"errors"
	"strings"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

var errTimeLimit = errors.New("time limit of the migration")

// liveMove moves a running machine to another host.
func (m *move) liveMove(ctx context.Context) error {
	sure := context.WithoutCancel(ctx)
	m.j.Phase("preparing", -1)
	if err := m.proveShared(sure); err != nil {
		return err
	}
	params, flags := m.params()
	all, err := m.prepareDisks(ctx, &params)
	if err == nil {
		err = m.send(ctx, params, flags)
	}
	if errors.Is(err, errNoOutcome) {
		for _, k := range all {
			m.j.Left(k.From.Ref(), k.To.Ref())
		}
		return err
	}
	if err != nil {
		return m.undo(sure, m.dst, all, err)
	}
	return m.arrived(sure, measured(sure, m.dst, m.id), all)
}

// params returns the options in libvirt's form.
func (m *move) params() (libvirt.DomainMigrateParameters, libvirt.DomainMigrateFlags) {
	p := libvirt.DomainMigrateParameters{}
	if m.dst.Peer.Migrate != "" {
		p.URISet, p.URI = true, m.dst.Peer.Migrate
	}
	flags := libvirt.MIGRATE_LIVE | libvirt.MIGRATE_PERSIST_DEST | libvirt.MIGRATE_UNDEFINE_SOURCE | libvirt.MIGRATE_ABORT_ON_ERROR
	if len(m.shared) > 0 {
		// libvirt only trusts file systems that it knows to be shared. Here
		// it was proven that the storage is the same.
		flags |= libvirt.MIGRATE_UNSAFE
	}
	if m.pool.UUID != "" {
		flags |= libvirt.MIGRATE_NON_SHARED_DISK
	}
	if m.r.BandwidthBytes > 0 {
		p.BandwidthSet, p.Bandwidth = true, uint64(max(m.r.BandwidthBytes>>20, 1)) // MiB per second
	}
	if m.r.AutoConverge {
		flags |= libvirt.MIGRATE_AUTO_CONVERGE
	}
	if m.r.Compress {
		flags |= libvirt.MIGRATE_COMPRESSED
	}
	if m.r.Channels > 0 {
		flags |= libvirt.MIGRATE_PARALLEL
		p.ParallelConnectionsSet, p.ParallelConnections = true, m.r.Channels
	}
	if m.r.PostCopy {
		flags |= libvirt.MIGRATE_POSTCOPY
	}
	return p, flags
}

// prepareDisks makes images for a migration that copies disks, and sets its
// parameters.
func (m *move) prepareDisks(ctx context.Context, p *libvirt.DomainMigrateParameters) (all []fleet.Copied, err error) {
	if m.pool.UUID == "" {
		return nil, nil
	}
	moved := map[string]libvirtx.Volume{}
	for _, k := range libvirtx.Writable(m.live) {
		if err := ctx.Err(); err != nil {
			return all, err
		}
		path := libvirtx.DiskPath(k)
		from, err := libvirtx.Do(ctx, m.src.Conn, 2, func(c *libvirt.Connect) (libvirtx.Volume, error) { return libvirtx.FindImage(c, m.srcPools, path) })
		if err != nil {
			return all, err
		}
		v, err := libvirtx.Do(context.WithoutCancel(ctx), m.dst.Conn, 2, func(c *libvirt.Connect) (libvirtx.Volume, error) {
			return libvirtx.CreateVolume(c, m.dstPools, libvirtx.VolumeSpec{Pool: m.pool.UUID, Name: libvirtx.ImageName(string(m.id), k.Target.Dev, from.Format), Capacity: from.Capacity, Format: from.Format})
		})
		if v.Name != "" {
			all, moved[path] = append(all, fleet.Copied{Dev: k.Target.Dev, From: from, To: v}), v
		}
		if err != nil {
			return all, err
		}
		p.MigrateDisks = append(p.MigrateDisks, k.Target.Dev)
	}
	p.MigrateDisksSet = true
	doc, err := fleet.OnHost(ctx, m.src, m.id, 1, func(_ *fleet.Host, _ *libvirt.Connect, dom *libvirt.Domain) (string, error) {
		x, _, err := libvirtx.Parse(dom, libvirt.DOMAIN_XML_MIGRATABLE|libvirt.DOMAIN_XML_SECURE)
		if err != nil {
			return "", err
		}
		repoint(x, moved)
		return x.Marshal()
	})
	if err != nil {
		return all, err
	}
	p.DestXMLSet, p.DestXML = true, doc
	next, err := clone(m.next)
	if err != nil {
		return all, err
	}
	repoint(next, moved)
	if next.Metadata != nil {
		mark := m.mark
		mark.Images = nil // bases that stay behind
		if err := libvirtx.MarkDefinition(next, mark); err != nil {
			return all, err
		}
	}
	p.PersistXML, err = next.Marshal()
	p.PersistXMLSet = true
	return all, err
}

func clone(x *libvirtxml.Domain) (*libvirtxml.Domain, error) {
	doc, err := x.Marshal()
	if err != nil {
		return nil, err
	}
	out, _, err := libvirtx.ParseXML(doc)
	return out, err
}

// send runs the migration and watches it until its true end.
func (m *move) send(ctx context.Context, p libvirt.DomainMigrateParameters, flags libvirt.DomainMigrateFlags) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	sure := context.WithoutCancel(ctx)
	if m.r.MaxDowntime > 0 {
		_, err := fleet.OnHost(sure, m.src, m.id, 1, func(_ *fleet.Host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			return struct{}{}, dom.MigrateSetMaxDowntime(uint64(max(m.r.MaxDowntime.Milliseconds(), 1)), 0)
		})
		if err != nil {
			return err
		}
	}
	limited, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if m.r.Timeout > 0 {
		timer := time.AfterFunc(m.r.Timeout, func() { stop(errTimeLimit) })
		defer timer.Stop()
	}
	ended := make(chan error, 1)
	go func() {
		err := errors.New("no peer-to-peer way")
		if m.dst.Peer.URI != "" {
			_, err = fleet.OnHost(sure, m.src, m.id, 1, func(_ *fleet.Host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
				return struct{}{}, dom.MigrateToURI3(m.dst.Peer.URI, &p, flags|libvirt.MIGRATE_PEER2PEER)
			})
		}
		// The source's libvirtd can't reach the destination, but this program
		// can.
		if m.dst.Peer.URI == "" || err != nil && strings.Contains(err.Error(), "unable to connect to server") {
			if m.dst.Peer.URI != "" {
				m.report.Method = strings.Replace(m.report.Method, "peer to peer", "driven by this client", 1)
			}
			_, err = fleet.OnHost(sure, m.src, m.id, 5, func(_ *fleet.Host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
				return libvirtx.Do(sure, m.dst.Conn, 5, func(to *libvirt.Connect) (struct{}, error) {
					there, err := dom.Migrate3(to, &p, flags)
					if err != nil {
						return struct{}{}, err
					}
					return struct{}{}, there.Free()
				})
			})
		}
		ended <- err
	}()
	err := m.watch(limited, ended)
	if libvirtx.Lost(err) {
		err = m.outcome(limited, err)
	}
	return err
}

// watch reports the progress, switches to post-copy, and passes on a request
// to stop, until the migration has ended.
func (m *move) watch(ctx context.Context, ended <-chan error) error {
	sure := context.WithoutCancel(ctx)
	done := ctx.Done()
	tick := time.NewTicker(fleet.PollEvery)
	defer tick.Stop()
	switched := !m.r.PostCopy
	for {
		select {
		case err := <-ended:
			if err != nil && ctx.Err() != nil {
				if context.Cause(ctx) == errTimeLimit {
					return hypervisor.Errorf(hypervisor.ErrTimeout, m.id.Ref(), "the migration did not come to its end within %v: the machine keeps running at the source (%w)", m.r.Timeout, err)
				}
				return errors.Join(context.Cause(ctx), err)
			}
			return err
		case <-done:
			// The job may not have begun or may have ended. The true end
			// comes through the other channel, so try again at every tick.
			done = nil
			m.abort(sure)
		case <-tick.C:
			if ctx.Err() != nil {
				m.abort(sure)
				continue
			}
			s, err := m.d.jobState(sure, m.src, m.id)
			if err != nil || s == nil {
				continue
			}
			m.j.Report(*s)
			if !switched && s.BytesTotal > 0 {
				_, err := fleet.OnHost(sure, m.src, m.id, 1, func(_ *fleet.Host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
					return struct{}{}, dom.MigrateStartPostCopy(0)
				})
				switched = err == nil
			}
		}
	}
}

func (m *move) abort(ctx context.Context) {
	// An error means that there is nothing to abort now.
	_, _ = fleet.OnHost(ctx, m.src, m.id, 1, func(_ *fleet.Host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
		return struct{}{}, dom.AbortJob()
	})
}

// dropSource removes the source's images once the machine was found at the
// destination on its new ones. KeepSource keeps them, and a base that other
// machines depend on always stays.
func (m *move) dropSource(ctx context.Context, all []fleet.Copied) (kept []hypervisor.Ref, err error) {
	if len(all) == 0 {
		return nil, nil
	}
	for _, k := range all { // until more is known
		kept = append(kept, k.From.Ref())
	}
	err = m.dst.AgainOn(ctx, m.id, 1, func(dom *libvirt.Domain) error {
		x, _, err := libvirtx.Parse(dom, 0)
		if err != nil {
			return err
		}
		for _, k := range libvirtx.Writable(x) {
			if p, ok := libvirtx.PoolOf(m.dstPools, libvirtx.DiskPath(k)); !ok || p.UUID != m.pool.UUID {
				return hypervisor.Errorf(hypervisor.ErrUnknown, m.id.Ref(), "the machine is on image %s, not on datastore %s: the source's images stay", libvirtx.DiskPath(k), m.pool.Name)
			}
		}
		return nil
	})
	if err != nil {
		return kept, err
	}
	var b *fleet.Books
	err = m.src.Again(ctx, func(bool) error {
		b, err = m.d.Books(ctx, m.src)
		return err
	})
	if err != nil {
		return kept, err
	}
	kept = nil
	drop := fleet.Paths{}
	for p := range fromPaths(all) {
		for _, in := range b.Images.Chain(p) {
			v := b.Images.ByPath[in]
			own := in == p || libvirtx.OwnedBy(in, string(m.id))
			switch {
			case m.r.KeepSource && own:
				kept = append(kept, v.Ref())
			case own && len(b.Others(in, string(m.id))) == 0:
				drop[in] = true
			}
		}
	}
	for p := range drop {
		if deps := b.Dependants(drop); len(deps) > 0 && dependsOn(b, p, drop) {
			delete(drop, p)
			kept = append(kept, b.Images.ByPath[p].Ref())
		}
	}
	left, err := b.Discard(ctx, drop)
	return append(kept, left...), err
}

// dependsOn reports whether an image outside a set is backed by p.
func dependsOn(b *fleet.Books, p string, in fleet.Paths) bool {
	for _, above := range b.Images.Above[p] {
		if !in[above] || dependsOn(b, above, in) {
			return true
		}
	}
	return false
}
