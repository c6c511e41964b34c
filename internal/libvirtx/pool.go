//go:build cgo

package libvirtx

import (
	"path"
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Pool is a storage pool as it is now. Two hosts' pools with one UUID are one
// datastore: whoever sets hosts up says so by giving them the same UUID.
type Pool struct {
	UUID, Name, Type string
	Path             string // target folder or device folder
	Capacity, Free   int64
	Active           bool
	Network          bool // the storage is remote by its type
}

// Files reports whether volumes are plain files, which overlays need.
func (p Pool) Files() bool {
	switch p.Type {
	case "dir", "fs", "netfs":
		return true
	}
	return false
}

var networkPools = map[string]bool{"netfs": true, "iscsi": true, "iscsi-direct": true, "rbd": true, "gluster": true, "sheepdog": true}

// Pools lists the storage pools: one request and one for each pool.
func Pools(c *libvirt.Connect) ([]Pool, error) {
	all, err := c.ListAllStoragePools(0)
	if err != nil {
		return nil, err
	}
	defer func() {
		for i := range all {
			_ = all[i].Free() // a local reference
		}
	}()
	out := make([]Pool, len(all))
	err = Each(len(all), func(i int) error {
		doc, err := all[i].GetXMLDesc(0)
		if NotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		var x libvirtxml.StoragePool
		if err := x.Unmarshal(doc); err != nil {
			return err
		}
		active, err := all[i].IsActive()
		if err != nil {
			return err
		}
		p := Pool{UUID: x.UUID, Name: x.Name, Type: x.Type, Active: active, Network: networkPools[x.Type]}
		if x.Target != nil {
			p.Path = strings.TrimRight(x.Target.Path, "/")
		}
		if x.Capacity != nil {
			p.Capacity = int64(x.Capacity.Value)
		}
		if x.Available != nil {
			p.Free = int64(x.Available.Value)
		}
		out[i] = p
		return nil
	})
	if err != nil {
		return nil, err
	}
	found := out[:0]
	for _, p := range out {
		if p.UUID != "" {
			found = append(found, p)
		}
	}
	return found, nil
}

// VolumeID is a volume's address: the pool's UUID and the volume's name.
func VolumeID(pool, name string) hypervisor.VolumeID { return hypervisor.VolumeID(pool + "/" + name) }

// outside begins the ID of an image that is in no pool: its host and path follow.
const outside = "file:"

// ImageID is the VolumeID of an image by its path on a host.
func ImageID(pools []Pool, host hypervisor.HostID, image string) hypervisor.VolumeID {
	for _, p := range pools {
		if p.Path != "" && path.Dir(image) == p.Path {
			return VolumeID(p.UUID, path.Base(image))
		}
	}
	return hypervisor.VolumeID(outside + string(host) + ":" + image)
}

// PoolOf returns the pool of an image by its path.
func PoolOf(pools []Pool, image string) (Pool, bool) {
	for _, p := range pools {
		if p.Path != "" && path.Dir(image) == p.Path {
			return p, true
		}
	}
	return Pool{}, false
}

// SplitVolumeID returns the pool's UUID and the volume's name.
func SplitVolumeID(id hypervisor.VolumeID) (pool, name string, ok bool) {
	pool, name, ok = strings.Cut(string(id), "/")
	return pool, name, ok && pool != "" && name != "" && !strings.HasPrefix(string(id), outside)
}

// Refresh makes a pool see files that did not come through it. A pool with a
// copy under way can't be refreshed and knows its own files anyway.
func Refresh(c *libvirt.Connect, uuid string) error {
	p, err := c.LookupStoragePoolByUUIDString(uuid)
	if err != nil {
		return err
	}
	defer p.Free()
	err = p.Refresh(0)
	if Kind(err) == hypervisor.KindBusy {
		return nil
	}
	return err
}
