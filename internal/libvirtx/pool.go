//go:build cgo

package libvirtx

import (
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Pool is a storage pool in its present state. Pools of two hosts with the
// same UUID are one datastore: the administrator declares this by giving them
// the same UUID.
type Pool struct {
	UUID, Name, Type string
	Path             string // target folder or device folder
	Capacity, Free   int64
	Active           bool
	Network          bool // the storage is remote according to its type
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

// Pools lists the storage pools, but not those that the drivers make for a
// moment. It takes one request, and one for each pool.
func Pools(c *libvirt.Connect) ([]Pool, error) {
	all, err := readPools(c)
	return slices.DeleteFunc(all, func(p Pool) bool { return strings.HasPrefix(p.Name, HelperPrefix) }), err
}

// helperPool is the name of a pool that a driver made of a folder, empty if
// there is none.
func helperPool(c *libvirt.Connect, dir string) (string, error) {
	all, err := readPools(c)
	i := slices.IndexFunc(all, func(p Pool) bool { return strings.HasPrefix(p.Name, HelperPrefix) && p.Path == dir })
	if i < 0 {
		return "", err
	}
	return all[i].Name, err
}

func readPools(c *libvirt.Connect) ([]Pool, error) {
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

// outside is the beginning of the ID of an image that is in no pool. Its host
// and path follow.
const outside = "file:"

// ImageID returns the VolumeID of an image by its path on a host.
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

// poolUUID is the one spelling of a pool's UUID that is part of an ID; libvirt
// accepts capital letters, and leaves hyphens out.
var poolUUID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// SplitVolumeID returns the pool's UUID and the volume's name. An image has one
// ID: ok is false for other spellings, and for names that do not show in full.
func SplitVolumeID(id hypervisor.VolumeID) (pool, name string, ok bool) {
	pool, name, ok = strings.Cut(string(id), "/")
	return pool, name, ok && poolUUID.MatchString(pool) && ShowsInFull(name)
}

// ShowsInFull reports whether a volume's name is a path without detours and
// without characters that are not seen.
func ShowsInFull(name string) bool {
	hidden := func(r rune) bool { return unicode.In(r, unicode.C, unicode.Zl, unicode.Zp) }
	return fs.ValidPath(name) && name != "." && !strings.ContainsFunc(name, hidden)
}

// Refresh makes a pool see files that were not made through it. A pool with a
// copy under way can't be refreshed, and knows its own files anyway.
func Refresh(c *libvirt.Connect, uuid string) error {
	p, err := c.LookupStoragePoolByUUIDString(uuid)
	if err != nil {
		return err
	}
	defer p.Free()
	err = p.Refresh(0)
	if Kind(err) == hypervisor.ErrBusy {
		return nil
	}
	return err
}
