//go:build cgo

package fleet

import (
	"context"
	"strings"
	"sync"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// hostPools are the pools of one host that answers.
type hostPools struct {
	h     *Host
	pools []libvirtx.Pool
}

// allPools reads the pools of all hosts that answer.
func (f *Fleet) allPools(ctx context.Context) ([]hostPools, error) {
	out := make([]hostPools, len(f.Members))
	errs := make([]error, len(f.Members))
	var wg sync.WaitGroup
	for i, h := range f.Members {
		wg.Go(func() {
			out[i].h = h
			if _, errs[i] = h.Identify(ctx); errs[i] == nil {
				out[i].pools, errs[i] = libvirtx.Do(ctx, h.Conn, 1, libvirtx.Pools)
			}
		})
	}
	wg.Wait()
	kept := out[:0]
	for i, err := range errs {
		switch {
		case err == nil:
			kept = append(kept, out[i])
		case libvirtx.KindOf(err) != hypervisor.ErrUnavailable:
			return nil, err
		}
	}
	if len(kept) == 0 {
		return nil, errs[0]
	}
	return kept, nil
}

// Datastores implements hypervisor.StorageLister.
func (f *Fleet) Datastores(ctx context.Context) ([]hypervisor.DatastoreInfo, error) {
	all, err := f.allPools(ctx)
	if err != nil {
		return nil, err
	}
	at := map[string]int{}
	var out []hypervisor.DatastoreInfo
	for _, hp := range all {
		for _, p := range hp.pools {
			i, ok := at[p.UUID]
			if !ok {
				i = len(out)
				at[p.UUID] = i
				out = append(out, hypervisor.DatastoreInfo{ID: hypervisor.DatastoreID(p.UUID), Name: p.Name, Type: p.Type,
					CapacityBytes: p.Capacity, FreeBytes: min(p.Free, p.Capacity), Shared: p.Network})
			}
			out[i].Accessible = out[i].Accessible || p.Active
			if p.Active {
				out[i].Hosts = append(out[i].Hosts, hp.h.ID())
				out[i].Shared = out[i].Shared || len(out[i].Hosts) > 1
			}
		}
	}
	return out, nil
}

// onPool runs f on a host that has the pool.
func onPool[T any](ctx context.Context, f *Fleet, pool string, calls int, fn func(h *Host, c *libvirt.Connect, pools []libvirtx.Pool) (T, error)) (T, error) {
	var zero T
	all, err := f.allPools(ctx)
	if err != nil {
		return zero, err
	}
	for _, hp := range all {
		for _, p := range hp.pools {
			if p.UUID == pool && p.Active {
				return libvirtx.Do(ctx, hp.h.Conn, calls, func(c *libvirt.Connect) (T, error) { return fn(hp.h, c, hp.pools) })
			}
		}
	}
	return zero, hypervisor.Errorf(hypervisor.ErrNotFound, hypervisor.DatastoreID(pool).Ref(), "no host that answers has such an active datastore")
}

// Volumes implements hypervisor.StorageManager.
func (f *Fleet) Volumes(ctx context.Context, ds hypervisor.DatastoreID) ([]hypervisor.VolumeInfo, error) {
	if ds == "" {
		all, err := f.Datastores(ctx)
		if err != nil {
			return nil, err
		}
		var out []hypervisor.VolumeInfo
		for _, i := range all {
			if !i.Accessible {
				continue
			}
			vols, err := f.Volumes(ctx, i.ID)
			if err != nil {
				return nil, err
			}
			out = append(out, vols...)
		}
		return out, nil
	}
	return onPool(ctx, f, string(ds), 3, func(h *Host, c *libvirt.Connect, pools []libvirtx.Pool) ([]hypervisor.VolumeInfo, error) {
		if err := libvirtx.Refresh(c, string(ds)); err != nil {
			return nil, err
		}
		vols, err := libvirtx.Volumes(c, string(ds))
		if err != nil {
			return nil, err
		}
		var out []hypervisor.VolumeInfo
		for _, v := range vols {
			i := hypervisor.VolumeInfo{ID: v.ID(), Name: v.Name, Datastore: ds, SizeBytes: v.Capacity, UsedBytes: v.Allocation, Format: v.Format,
				Provisioning: hypervisor.ProvisioningThin}
			if v.Allocation >= v.Capacity {
				i.Provisioning = hypervisor.ProvisioningThick
			}
			if v.Backing != "" {
				i.Parent = libvirtx.ImageID(pools, h.ID(), v.Backing)
			}
			out = append(out, i)
		}
		return out, nil
	})
}

// CreateVolume implements hypervisor.StorageManager. The image is qcow2, or
// raw if its name ends with .raw or .iso.
func (f *Fleet) CreateVolume(ctx context.Context, s hypervisor.VolumeSpec) (hypervisor.DriverTask, error) {
	on := hypervisor.Ref{Kind: hypervisor.ObjectVolume, Name: s.Name}
	if err := libvirtx.CheckName("name", s.Name, on); err != nil {
		return nil, err
	}
	if !libvirtx.ShowsInFull(s.Name) {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "the name %q has characters that are not seen: leave them out", s.Name)
	}
	format := "qcow2"
	if strings.HasSuffix(s.Name, ".raw") || strings.HasSuffix(s.Name, ".iso") {
		format = "raw"
	}
	tid := hypervisor.TaskID(f.platform.Name + ":create-volume:" + libvirtx.Nonce())
	return f.Go(ctx, tid, "create-volume", on, func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		v, err := onPool(context.WithoutCancel(ctx), f, string(s.Datastore), 3, func(_ *Host, c *libvirt.Connect, pools []libvirtx.Pool) (libvirtx.Volume, error) {
			spec := libvirtx.VolumeSpec{Pool: string(s.Datastore), Name: s.Name, Capacity: s.SizeBytes, Format: format, Thick: s.Provisioning == hypervisor.ProvisioningThick}
			if s.From != "" {
				pool, name, ok := libvirtx.SplitVolumeID(s.From)
				if !ok {
					return libvirtx.Volume{}, hypervisor.Errorf(hypervisor.ErrNotFound, s.From.Ref(), "no such image")
				}
				from, err := libvirtx.FindVolume(c, pool, name)
				if err != nil {
					return libvirtx.Volume{}, err
				}
				spec.From, spec.Capacity = from.Path, max(spec.Capacity, from.Capacity)
			}
			return libvirtx.CreateVolume(c, pools, spec)
		})
		return v.Ref(), err
	})
}

// DeleteVolume implements hypervisor.StorageManager.
func (f *Fleet) DeleteVolume(ctx context.Context, id hypervisor.VolumeID) (hypervisor.DriverTask, error) {
	pool, name, ok := libvirtx.SplitVolumeID(id)
	if !ok {
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such image: an ID is a pool's UUID, a slash, and a name")
	}
	tid := hypervisor.TaskID(f.platform.Name + ":delete-volume:" + libvirtx.Nonce())
	return f.Go(ctx, tid, "delete-volume", id.Ref(), func(ctx context.Context, _ *job.Job) (hypervisor.Ref, error) {
		h, err := onPool(ctx, f, pool, 1, func(h *Host, _ *libvirt.Connect, _ []libvirtx.Pool) (*Host, error) { return h, nil })
		if err != nil {
			return hypervisor.Ref{}, err
		}
		b, err := f.Books(ctx, h)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		_, err = libvirtx.Do(context.WithoutCancel(ctx), h.Conn, 3, func(c *libvirt.Connect) (struct{}, error) {
			v, err := libvirtx.FindVolume(c, pool, name)
			if err != nil {
				return struct{}{}, err
			}
			if o := b.Others(v.Path, ""); len(o) > 0 {
				return struct{}{}, BusyWith(id.Ref(), o, "the image is a disk of")
			}
			if o := b.Dependants(Paths{v.Path: true}); len(o) > 0 {
				return struct{}{}, BusyWith(id.Ref(), o, "the image is the base of")
			}
			return struct{}{}, libvirtx.DeleteVolume(c, pool, name)
		})
		return hypervisor.Ref{}, err
	})
}
