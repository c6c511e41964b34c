//go:build cgo

package libxl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// site is where a new machine goes.
type site struct {
	h     *host
	f     *libvirtx.Facts
	pools []libvirtx.Pool
	pool  libvirtx.Pool // for its images
}

// CreateVM implements hypervisor.Lifecycle.
func (d *driver) CreateVM(ctx context.Context, s hypervisor.VMSpec) (hypervisor.DriverTask, error) {
	on := hypervisor.Ref{Kind: hypervisor.KindOfVM, Name: s.Name}
	if err := libvirtx.CheckName("name", s.Name, on); err != nil {
		return nil, err
	}
	uuid := libvirtx.NewUUID()
	if s.Token != "" {
		uuid = libvirtx.TokenUUID(s.Token)
	}
	id := hypervisor.VMID(uuid)
	tid := taskID("create", id)
	if t, ok, err := d.made(ctx, tid, s.Token, uuid); ok || err != nil {
		return t, err
	}
	kind, err := machineKind(on, s)
	if err != nil {
		return nil, err
	}
	at, err := d.site(ctx, on, s.Placement)
	if err != nil {
		return nil, err
	}
	if err := at.fits(on, s); err != nil {
		return nil, err
	}
	mark := libvirtx.Mark{Token: s.Token, Created: time.Now().UTC().Format(time.RFC3339Nano)}
	mark.SetLabels(s.Labels)
	x, err := newDomain(at.f, s, kind, uuid, mark)
	if err != nil {
		return nil, err
	}
	if _, mark, err = withMark(x); err != nil {
		return nil, err
	}
	plan, err := d.planDisks(ctx, at, on, s.Disks)
	if err != nil {
		return nil, err
	}
	if err := at.addNICs(ctx, x, s.NICs); err != nil {
		return nil, err
	}
	return d.runAs(ctx, tid, "create", id, longWork, func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		return d.make(ctx, at, x, mark, tid, s.Start, report, func(ctx context.Context, c *libvirt.Connect) ([]libvirtx.Volume, error) {
			return at.makeDisks(ctx, c, x, uuid, plan, report)
		})
	})
}

func withMark(x *libvirtxml.Domain) (*libvirtxml.Domain, libvirtx.Mark, error) {
	mark, err := libvirtx.ReadMark(x.Metadata.XML)
	return x, mark, err
}

// make reserves the domain, makes its images, and defines it. What fails is
// taken back; a machine that can't be started stays and is named.
func (d *driver) make(ctx context.Context, at site, x *libvirtxml.Domain, mark libvirtx.Mark, tid hypervisor.TaskID, start bool,
	report func(hypervisor.TaskState), images func(ctx context.Context, c *libvirt.Connect) ([]libvirtx.Volume, error)) hypervisor.TaskState {
	id := hypervisor.VMID(x.UUID)
	// Calls that were sent must be seen to their end before anything is undone.
	sure := context.WithoutCancel(ctx)
	m, err := at.h.begin(sure, x.UUID, x.Name, mark, tid)
	if err != nil {
		return hypervisor.TaskState{Err: err}
	}
	var vols []libvirtx.Volume
	_, err = libvirtx.Do(sure, at.h.conn, 1, func(c *libvirt.Connect) (struct{}, error) {
		var err error
		vols, err = images(ctx, c)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return struct{}{}, err
		}
		m.end()
		return struct{}{}, libvirtx.Define(c, x)
	})
	if err != nil {
		left, uerr := at.undo(sure, vols)
		if aerr := m.abort(sure); aerr != nil {
			left = append(left, id.Ref())
			uerr = errors.Join(uerr, aerr)
		}
		if uerr != nil {
			err = fmt.Errorf("%w (and cleaning up: %w)", err, uerr)
		}
		return hypervisor.TaskState{Err: err, Leftover: left}
	}
	if start {
		report(hypervisor.TaskState{Fraction: -1, Phase: "starting"})
		_, err = onHost(sure, at.h, id, 1, func(_ *host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			return struct{}{}, boot(c, dom, x)
		})
		if err != nil {
			return hypervisor.TaskState{Err: err, Leftover: []hypervisor.Ref{{Kind: hypervisor.KindOfVM, ID: x.UUID, Name: x.Name}}}
		}
	}
	return hypervisor.TaskState{Result: hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: x.UUID, Name: x.Name}}
}

// undo removes images that a failed call made.
func (at site) undo(ctx context.Context, vols []libvirtx.Volume) (left []hypervisor.Ref, err error) {
	for _, v := range slices.Backward(vols) {
		_, e := libvirtx.Do(ctx, at.h.conn, 2, func(c *libvirt.Connect) (struct{}, error) {
			return struct{}{}, libvirtx.DeleteVolume(c, v.Pool, v.Name)
		})
		if e != nil {
			left, err = append(left, v.Ref()), e
		}
	}
	return left, err
}

// site chooses the host and pool for a new machine: the ones asked for, else
// the host with most free memory among those that have the pool, and the pool
// "default" or the one with most room.
func (d *driver) site(ctx context.Context, on hypervisor.Ref, p hypervisor.Placement) (site, error) {
	if p.Pool != "" || p.Folder != "" {
		return site{}, hypervisor.Unsupported(on, hypervisor.VMCreate, hypervisor.ReasonPlatform, "libvirt has no resource pools and folders: leave Placement.Pool and Folder empty")
	}
	hosts := d.hosts
	if p.Host != "" {
		h, err := d.host(p.Host)
		if err != nil {
			return site{}, err
		}
		hosts = []*host{h}
	} else if len(hosts) > 1 {
		var err error
		if hosts, err = d.up(ctx); err != nil {
			return site{}, err
		}
	}
	var best site
	var most uint64
	var last error = hypervisor.Errorf(hypervisor.KindNotFound, hypervisor.DatastoreID(p.Datastore).Ref(), "no such datastore on %d hosts", len(hosts))
	for _, h := range hosts {
		f, err := h.identify(ctx)
		if err != nil {
			last = err
			continue
		}
		type room struct {
			pools []libvirtx.Pool
			free  uint64
		}
		r, err := libvirtx.Do(ctx, h.conn, 3, func(c *libvirt.Connect) (room, error) {
			pools, err := libvirtx.Pools(c)
			if err != nil {
				return room{}, err
			}
			free, err := libvirtx.FreeMemory(c)
			return room{pools, free}, err
		})
		if err != nil {
			last = err
			continue
		}
		pool, ok := choosePool(r.pools, p.Datastore)
		if ok && (best.h == nil || r.free > most) {
			best, most = site{h, f, r.pools, pool}, r.free
		}
	}
	if best.h == nil {
		return site{}, last
	}
	return best, nil
}

// choosePool returns the pool asked for, or the best. A host without pools can
// still have machines without disks.
func choosePool(pools []libvirtx.Pool, want hypervisor.DatastoreID) (libvirtx.Pool, bool) {
	var best libvirtx.Pool
	for _, p := range pools {
		switch {
		case want != "" && p.UUID == string(want):
			return p, true
		case want != "" || !p.Active || !p.Files():
		case p.Name == "default":
			return p, true
		case best.UUID == "" || p.Free > best.Free:
			best = p
		}
	}
	return best, want == ""
}

// fits refuses what the host could never run.
func (at site) fits(on hypervisor.Ref, s hypervisor.VMSpec) error {
	if n := max(s.CPUs, s.MaxCPUs); at.f.MaxCPUs > 0 && n > at.f.MaxCPUs {
		return hypervisor.Errorf(hypervisor.KindInvalidArgument, on, "%d CPUs: host %s allows %d in a machine", n, at.f.Name, at.f.MaxCPUs)
	}
	if s.MemoryBytes > at.f.MemoryBytes {
		return hypervisor.Errorf(hypervisor.KindExhausted, on, "%d MiB of memory: host %s has %d MiB", s.MemoryBytes/hypervisor.MiB, at.f.Name, at.f.MemoryBytes/hypervisor.MiB)
	}
	if limit := max(s.MaxMemoryBytes, rangeMax(s.DynamicMemory)); limit > at.f.MemoryBytes {
		return hypervisor.Errorf(hypervisor.KindExhausted, on, "up to %d MiB of memory: host %s has %d MiB", limit/hypervisor.MiB, at.f.Name, at.f.MemoryBytes/hypervisor.MiB)
	}
	return nil
}

func rangeMax(r *hypervisor.MemoryRange) int64 {
	if r == nil {
		return 0
	}
	return r.MaxBytes
}

// plannedDisk is a disk whose sources are known to be there.
type plannedDisk struct {
	spec  hypervisor.DiskSpec
	pool  libvirtx.Pool
	image libvirtx.Volume // Image or Volume
}

// planDisks looks everything up that the disks name, before anything is made.
func (d *driver) planDisks(ctx context.Context, at site, on hypervisor.Ref, disks []hypervisor.DiskSpec) ([]plannedDisk, error) {
	var out []plannedDisk
	for _, s := range disks {
		p := plannedDisk{spec: s, pool: at.pool}
		if s.Datastore != "" {
			pool, ok := choosePool(at.pools, s.Datastore)
			if !ok {
				return nil, hypervisor.Errorf(hypervisor.KindNotFound, s.Datastore.Ref(), "host %s has no such datastore", at.f.Name)
			}
			p.pool = pool
		}
		if ref := s.Image + s.Volume; ref != "" {
			pool, name, ok := libvirtx.SplitVolumeID(ref)
			if !ok {
				return nil, hypervisor.Errorf(hypervisor.KindNotFound, ref.Ref(), "no such image: an ID is a pool's UUID, a slash, and a name")
			}
			v, err := libvirtx.Do(ctx, at.h.conn, 3, func(c *libvirt.Connect) (libvirtx.Volume, error) { return libvirtx.FindVolume(c, pool, name) })
			if err != nil {
				return nil, err
			}
			p.image = v
		}
		if s.Volume != "" && !s.CDROM && !s.ReadOnly {
			b, err := d.books(ctx, at.h)
			if err != nil {
				return nil, err
			}
			if o := b.others(p.image.Path, ""); len(o) > 0 {
				return nil, busyWith(s.Volume.Ref(), o, "the image is a disk of")
			}
			if o := b.dependants(set{p.image.Path: true}); len(o) > 0 {
				return nil, busyWith(s.Volume.Ref(), o, "the image is the base of")
			}
		}
		if s.Volume == "" && !p.pool.Files() {
			return nil, hypervisor.Unsupported(on, hypervisor.VMCreate, hypervisor.ReasonNotImplemented,
				fmt.Sprintf("images are made in pools of files (dir, fs, netfs), pool %q is of type %q", p.pool.Name, p.pool.Type))
		}
		if s.Volume == "" && s.Image == "" && s.SizeBytes > p.pool.Capacity || s.Provisioning == hypervisor.Thick && s.SizeBytes > p.pool.Free {
			return nil, hypervisor.Errorf(hypervisor.KindExhausted, hypervisor.DatastoreID(p.pool.UUID).Ref(), "a disk of %d MiB: datastore %s has %d MiB, %d MiB of them free",
				s.SizeBytes/hypervisor.MiB, p.pool.Name, p.pool.Capacity/hypervisor.MiB, p.pool.Free/hypervisor.MiB)
		}
		out = append(out, p)
	}
	return out, nil
}

// makeDisks makes the images and adds the disks. It returns what it made, also
// when it fails.
func (at site) makeDisks(ctx context.Context, c *libvirt.Connect, x *libvirtxml.Domain, uuid string, plan []plannedDisk, report func(hypervisor.TaskState)) ([]libvirtx.Volume, error) {
	var made []libvirtx.Volume
	for i, p := range plan {
		if err := ctx.Err(); err != nil {
			return made, err
		}
		report(hypervisor.TaskState{Fraction: float64(i) / float64(len(plan)), Phase: "making disks"})
		if p.spec.Volume != "" {
			if _, err := addDisk(x, p.spec, p.image.Path, p.image.Format); err != nil {
				return made, err
			}
			continue
		}
		k, err := addDisk(x, p.spec, "", "qcow2")
		if err != nil {
			return made, err
		}
		v, err := libvirtx.CreateVolume(c, at.pools, libvirtx.VolumeSpec{Pool: p.pool.UUID, Name: libvirtx.ImageName(uuid, k.Target.Dev, "qcow2"),
			Capacity: max(p.spec.SizeBytes, p.image.Capacity), Format: "qcow2", Thick: p.spec.Provisioning == hypervisor.Thick, From: p.image.Path})
		if err != nil {
			return made, err
		}
		made = append(made, v)
		if p.spec.SizeBytes > 0 && v.Capacity > p.spec.SizeBytes {
			return made, hypervisor.Errorf(hypervisor.KindInvalidArgument, p.spec.Image.Ref(), "the image has %d bytes: SizeBytes %d can't make it smaller", v.Capacity, p.spec.SizeBytes)
		}
		libvirtx.SetDiskPath(k, v.Path, v.Format)
	}
	return made, nil
}
