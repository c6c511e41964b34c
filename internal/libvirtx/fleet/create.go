//go:build cgo

package fleet

import (
	"context"
	"fmt"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Create makes a machine from the definition that define returns, which lacks
// only disks and adapters.
func (f *Fleet) Create(ctx context.Context, s hypervisor.VMSpec, define func(at Site, uuid string, mark libvirtx.Mark) (*libvirtxml.Domain, error)) (hypervisor.DriverTask, error) {
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, Name: s.Name}
	if err := libvirtx.CheckName("name", s.Name, on); err != nil {
		return nil, err
	}
	uuid := libvirtx.NewUUID()
	if s.Token != "" {
		uuid = libvirtx.TokenUUID(s.Token)
	}
	id := hypervisor.VMID(uuid)
	tid := f.TaskID("create", id)
	if t, ok, err := f.Made(ctx, tid, s.Token, uuid); ok || err != nil {
		return t, err
	}
	at, err := f.site(ctx, on, s.Placement)
	if err != nil {
		return nil, err
	}
	if err := f.fits(at.Facts, on, s); err != nil {
		return nil, err
	}
	mark := libvirtx.Mark{Token: s.Token, Created: time.Now().UTC().Format(time.RFC3339Nano)}
	mark.SetLabels(s.Labels)
	x, err := define(at, uuid, mark)
	if err != nil {
		return nil, err
	}
	if mark, err = libvirtx.ReadMark(x.Metadata.XML); err != nil {
		return nil, err
	}
	plan, err := at.planDisks(ctx, on, s.Disks)
	if err != nil {
		return nil, err
	}
	if err := at.addNICs(ctx, x, s.NICs); err != nil {
		return nil, err
	}
	return f.RunAs(ctx, tid, "create", id, LongWork, func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		return f.Make(ctx, j, at, x, mark, s.Start, func(ctx context.Context, c *libvirt.Connect, _ *Making) error {
			_, err := at.makeDisks(ctx, c, x, uuid, plan, j)
			return err
		})
	})
}

// Make reserves the domain, makes its images, and defines it. If it fails it
// undoes its work. A machine that can't be started stays and is named.
func (f *Fleet) Make(ctx context.Context, j *job.Job, at Site, x *libvirtxml.Domain, mark libvirtx.Mark, start bool,
	images func(ctx context.Context, c *libvirt.Connect, m *Making) error) (hypervisor.Ref, error) {
	made := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: x.UUID, Name: x.Name}
	// Calls that were sent must be waited for before anything is undone.
	sure := context.WithoutCancel(ctx)
	m, err := f.begin(sure, j, at.Host, x, mark)
	if err != nil {
		return made, err
	}
	_, err = libvirtx.Do(sure, at.Host.Conn, 1, func(c *libvirt.Connect) (struct{}, error) { return struct{}{}, images(ctx, c, m) })
	m.end()
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = at.Host.Define(sure, x)
	}
	if err != nil {
		return made, f.takeBack(ctx, j, at.Host, x.UUID, m.mark.Source, err)
	}
	if start {
		j.Phase("starting", -1)
		_, err = OnHost(sure, at.Host, hypervisor.VMID(x.UUID), 1, func(_ *Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			return struct{}{}, libvirtx.Boot(c, dom, x)
		})
		if err != nil {
			j.Left(made)
		}
	}
	return made, err
}

// fits refuses a machine that the host could never run.
func (f *Fleet) fits(facts *libvirtx.Facts, on hypervisor.Ref, s hypervisor.VMSpec) error {
	if n := max(s.CPUs, s.MaxCPUs); facts.MaxCPUs > 0 && n > facts.MaxCPUs {
		return hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "%d CPUs: host %s allows %d in a machine", n, facts.Name, facts.MaxCPUs)
	}
	if s.MemoryBytes > facts.MemoryBytes {
		return hypervisor.Errorf(hypervisor.ErrExhausted, on, "%d MiB of memory: host %s has %d MiB", s.MemoryBytes/hypervisor.MiB, facts.Name, facts.MemoryBytes/hypervisor.MiB)
	}
	return f.platform.Fits(facts, on, s)
}

// plannedDisk is a disk whose sources are known to exist.
type plannedDisk struct {
	spec  hypervisor.DiskSpec
	pool  libvirtx.Pool
	image libvirtx.Volume // Image or Volume
}

// planDisks looks up everything that the disks name, before anything is made.
func (at Site) planDisks(ctx context.Context, on hypervisor.Ref, disks []hypervisor.DiskSpec) ([]plannedDisk, error) {
	var out []plannedDisk
	for _, s := range disks {
		p := plannedDisk{spec: s, pool: at.Pool}
		if s.Datastore != "" {
			pool, ok := ChoosePool(at.Pools, s.Datastore)
			if !ok {
				return nil, hypervisor.Errorf(hypervisor.ErrNotFound, s.Datastore.Ref(), "host %s has no such datastore", at.Facts.Name)
			}
			p.pool = pool
		}
		if ref := s.Image + s.Volume; ref != "" {
			pool, name, ok := libvirtx.SplitVolumeID(ref)
			if !ok {
				return nil, hypervisor.Errorf(hypervisor.ErrNotFound, ref.Ref(), "no such image: an ID is a pool's UUID, a slash, and a name")
			}
			v, err := libvirtx.Do(ctx, at.Host.Conn, 3, func(c *libvirt.Connect) (libvirtx.Volume, error) { return libvirtx.FindVolume(c, pool, name) })
			if err != nil {
				return nil, err
			}
			p.image = v
		}
		if s.Volume != "" && !s.CDROM && !s.ReadOnly {
			b, err := at.Host.fleet.Books(ctx, at.Host)
			if err != nil {
				return nil, err
			}
			if o := b.Others(p.image.Path, ""); len(o) > 0 {
				return nil, BusyWith(s.Volume.Ref(), o, "the image is a disk of")
			}
			if o := b.Dependants(Paths{p.image.Path: true}); len(o) > 0 {
				return nil, BusyWith(s.Volume.Ref(), o, "the image is the base of")
			}
		}
		if s.Volume == "" && !p.pool.Files() {
			return nil, hypervisor.Unsupported(on, capability.VMCreate, hypervisor.ReasonNotImplemented,
				fmt.Sprintf("images are made in pools of files (dir, fs, netfs), pool %q is of type %q", p.pool.Name, p.pool.Type))
		}
		if s.Volume == "" && s.Image == "" && s.SizeBytes > p.pool.Capacity || s.Provisioning == hypervisor.ProvisioningThick && s.SizeBytes > p.pool.Free {
			return nil, hypervisor.Errorf(hypervisor.ErrExhausted, hypervisor.DatastoreID(p.pool.UUID).Ref(), "a disk of %d MiB: datastore %s has %d MiB, %d MiB of them free",
				s.SizeBytes/hypervisor.MiB, p.pool.Name, p.pool.Capacity/hypervisor.MiB, p.pool.Free/hypervisor.MiB)
		}
		out = append(out, p)
	}
	return out, nil
}

// makeDisks makes the images and adds the disks. It returns the images that
// it made, also when it fails.
func (at Site) makeDisks(ctx context.Context, c *libvirt.Connect, x *libvirtxml.Domain, uuid string, plan []plannedDisk, j *job.Job) ([]libvirtx.Volume, error) {
	var made []libvirtx.Volume
	for i, p := range plan {
		if err := ctx.Err(); err != nil {
			return made, err
		}
		j.Phase("making disks", float64(i)/float64(len(plan)))
		if p.spec.Volume != "" {
			if _, err := at.Host.fleet.platform.AddDisk(x, p.spec, p.image.Path, p.image.Format); err != nil {
				return made, err
			}
			continue
		}
		k, err := at.Host.fleet.platform.AddDisk(x, p.spec, "", "qcow2")
		if err != nil {
			return made, err
		}
		v, err := libvirtx.CreateVolume(c, at.Pools, libvirtx.VolumeSpec{Pool: p.pool.UUID, Name: libvirtx.ImageName(uuid, k.Target.Dev, "qcow2"),
			Capacity: max(p.spec.SizeBytes, p.image.Capacity), Format: "qcow2", Thick: p.spec.Provisioning == hypervisor.ProvisioningThick, From: p.image.Path})
		if v.Name != "" {
			made = append(made, v)
		}
		if err != nil {
			return made, err
		}
		if p.spec.SizeBytes > 0 && v.Capacity > p.spec.SizeBytes {
			return made, hypervisor.Errorf(hypervisor.ErrInvalidArgument, p.spec.Image.Ref(), "the image has %d bytes: SizeBytes %d can't make it smaller", v.Capacity, p.spec.SizeBytes)
		}
		libvirtx.SetDiskPath(k, v.Path, v.Format)
	}
	return made, nil
}
