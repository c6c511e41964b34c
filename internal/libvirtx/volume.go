//go:build cgo

package libvirtx

import (
	"path"
	"slices"
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Volume is a disk image.
type Volume struct {
	Pool, Name, Path     string
	Capacity, Allocation int64
	Format               string // "qcow2", "raw", …
	Backing              string // path of the image below, empty if none
	BackingFormat        string
}

// ID returns the volume's address.
func (v Volume) ID() hypervisor.VolumeID { return VolumeID(v.Pool, v.Name) }

// Ref returns the volume's Ref.
func (v Volume) Ref() hypervisor.Ref {
	return hypervisor.Ref{Kind: hypervisor.ObjectVolume, ID: string(v.ID()), Name: v.Name}
}

// VolumeSpec describes a volume to make.
type VolumeSpec struct {
	Pool, Name string
	Capacity   int64
	Format     string
	Thick      bool
	// Backing and BackingFormat make it an overlay of another image.
	Backing, BackingFormat string
	// From is the path of an image to copy, with its whole backing chain.
	From string
}

func readVolume(v *libvirt.StorageVol, pool string) (Volume, error) {
	doc, err := v.GetXMLDesc(0)
	if err != nil {
		return Volume{}, err
	}
	var x libvirtxml.StorageVolume
	if err := x.Unmarshal(doc); err != nil {
		return Volume{}, err
	}
	out := Volume{Pool: pool, Name: x.Name}
	if x.Capacity != nil {
		out.Capacity = int64(x.Capacity.Value)
	}
	if x.Allocation != nil {
		out.Allocation = int64(x.Allocation.Value)
	}
	if x.Target != nil {
		out.Path = x.Target.Path
		if x.Target.Format != nil {
			out.Format = x.Target.Format.Type
		}
	}
	if b := x.BackingStore; b != nil && b.Path != "" {
		out.Backing = b.Path
		if !path.IsAbs(b.Path) { // qcow2 allows paths that are relative to the image
			out.Backing = path.Join(path.Dir(out.Path), b.Path)
		}
		if b.Format != nil {
			out.BackingFormat = b.Format.Type
		}
	}
	return out, nil
}

// Volumes lists a pool's images. It takes two requests, and one for each
// image.
func Volumes(c *libvirt.Connect, pool string) ([]Volume, error) {
	p, err := c.LookupStoragePoolByUUIDString(pool)
	if err != nil {
		return nil, err
	}
	defer p.Free()
	all, err := p.ListAllStorageVolumes(0)
	if err != nil {
		return nil, err
	}
	defer func() {
		for i := range all {
			_ = all[i].Free() // a local reference
		}
	}()
	out := make([]Volume, len(all))
	err = Each(len(all), func(i int) error {
		v, err := readVolume(&all[i], pool)
		if NotFound(err) {
			return nil
		}
		out[i] = v
		return err
	})
	found := out[:0]
	for _, v := range out {
		if v.Path != "" {
			found = append(found, v)
		}
	}
	return found, err
}

// lookup finds a volume. It first refreshes a pool that does not know the
// volume.
func lookup(c *libvirt.Connect, pool, name string) (*libvirt.StorageVol, error) {
	p, err := c.LookupStoragePoolByUUIDString(pool)
	if err != nil {
		return nil, err
	}
	defer p.Free()
	v, err := p.LookupStorageVolByName(name)
	if NotFound(err) {
		if err := Refresh(c, pool); err != nil {
			return nil, err
		}
		v, err = p.LookupStorageVolByName(name)
	}
	return v, err
}

// FindVolume reads a volume by pool and name.
func FindVolume(c *libvirt.Connect, pool, name string) (Volume, error) {
	v, err := lookup(c, pool, name)
	if err != nil {
		return Volume{}, err
	}
	defer v.Free()
	return readVolume(v, pool)
}

// FindImage reads a volume by its path.
func FindImage(c *libvirt.Connect, pools []Pool, image string) (Volume, error) {
	p, ok := PoolOf(pools, image)
	if !ok {
		return Volume{}, hypervisor.Errorf(hypervisor.ErrInvalidState, hypervisor.Ref{Kind: hypervisor.ObjectVolume, ID: image},
			"image %s is in no active storage pool: define a pool for its folder", image)
	}
	return FindVolume(c, p.UUID, path.Base(image))
}

// CreateVolume makes an image: blank, an overlay, or a copy. A copy that
// should be larger than its source is enlarged. With an error it returns the
// image that may exist all the same, if there is one.
func CreateVolume(c *libvirt.Connect, pools []Pool, s VolumeSpec) (Volume, error) {
	p, err := c.LookupStoragePoolByUUIDString(s.Pool)
	if err != nil {
		return Volume{}, err
	}
	defer p.Free()
	x := libvirtxml.StorageVolume{Name: s.Name,
		Capacity: &libvirtxml.StorageVolumeSize{Unit: "bytes", Value: uint64(s.Capacity)},
		Target:   &libvirtxml.StorageVolumeTarget{Format: &libvirtxml.StorageVolumeTargetFormat{Type: s.Format}}}
	var flags libvirt.StorageVolCreateFlags
	if s.Thick {
		// Allocation equal to capacity with this flag makes qemu-img fall back
		// to preallocation=falloc.
		x.Allocation = x.Capacity
		if s.Format == "qcow2" {
			flags |= libvirt.STORAGE_VOL_CREATE_PREALLOC_METADATA
		}
	} else {
		x.Allocation = &libvirtxml.StorageVolumeSize{Unit: "bytes"}
	}
	if s.Backing != "" {
		x.BackingStore = &libvirtxml.StorageVolumeBackingStore{Path: s.Backing,
			Format: &libvirtxml.StorageVolumeTargetFormat{Type: s.BackingFormat}}
	}
	doc, err := x.Marshal()
	if err != nil {
		return Volume{}, err
	}
	maybe := Volume{Pool: s.Pool, Name: s.Name, Format: s.Format}
	for _, p := range pools {
		if p.UUID == s.Pool {
			maybe.Path = path.Join(p.Path, s.Name)
		}
	}
	var v *libvirt.StorageVol
	if s.From == "" {
		v, err = p.StorageVolCreateXML(doc, flags)
	} else {
		var from Volume
		if from, err = FindImage(c, pools, s.From); err != nil {
			return Volume{}, err
		}
		var src *libvirt.StorageVol
		if src, err = lookup(c, from.Pool, from.Name); err != nil {
			return Volume{}, err
		}
		defer src.Free()
		v, err = p.StorageVolCreateXMLFrom(doc, src, flags)
	}
	if Lost(err) {
		return maybe, err
	}
	if err != nil {
		return Volume{}, err
	}
	defer v.Free()
	out, err := readVolume(v, s.Pool)
	if err == nil && s.From != "" && s.Capacity > out.Capacity {
		if err = v.Resize(uint64(s.Capacity), 0); err == nil {
			out.Capacity = s.Capacity
		}
	}
	if err != nil && v.Delete(0) == nil {
		return Volume{}, err
	}
	if err != nil {
		return maybe, err
	}
	return out, nil
}

// Resize enlarges an image that no machine runs on.
func Resize(c *libvirt.Connect, pool, name string, capacity int64) error {
	v, err := lookup(c, pool, name)
	if err != nil {
		return err
	}
	defer v.Free()
	return v.Resize(uint64(capacity), 0)
}

// DeleteVolume removes an image. It is not an error if the image does not
// exist.
func DeleteVolume(c *libvirt.Connect, pool, name string) error {
	v, err := lookup(c, pool, name)
	if NotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer v.Free()
	if err = v.Delete(0); NotFound(err) {
		return nil
	}
	return err
}

// Images is every image of a host's active pools, with the backing chains.
type Images struct {
	ByPath map[string]Volume
	Above  map[string][]string // path of a base, to the paths of the images directly on it
	// Outside are images that definitions name and that are in no pool. They
	// are not in ByPath, since libvirt can't change them.
	Outside []string
}

// LoadImages refreshes the pools and reads all images, and the backing chains
// of images in no pool, which outside names. It sends one request for each
// image: libvirt has no request for all backing chains.
func LoadImages(c *libvirt.Connect, pools []Pool, outside []string) (Images, error) {
	im := Images{ByPath: map[string]Volume{}, Above: map[string][]string{}, Outside: outside}
	if err := im.look(c); err != nil {
		return im, err
	}
	for _, p := range pools {
		if !p.Active {
			continue
		}
		if err := Refresh(c, p.UUID); err != nil {
			return im, err
		}
		vols, err := Volumes(c, p.UUID)
		if err != nil {
			return im, err
		}
		for _, v := range vols {
			if _, dup := im.ByPath[v.Path]; dup {
				continue // two pools on one folder
			}
			im.ByPath[v.Path] = v
			if v.Backing != "" {
				im.Above[v.Backing] = append(im.Above[v.Backing], v.Path)
			}
		}
	}
	return im, nil
}

// look reads the bases of images in no pool, through a pool that lasts as long
// as this. A folder that libvirt can't read shows none.
func (im *Images) look(c *libvirt.Connect) error {
	folders := map[string]bool{}
	for _, p := range im.Outside {
		folders[path.Dir(p)] = true
	}
	for dir := range folders {
		err := im.lookAt(c, dir)
		for try := 0; NotFound(err) && try < 3; try++ { // the pool was another process's, which was done with it
			err = im.lookAt(c, dir)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (im *Images) lookAt(c *libvirt.Connect, dir string) error {
	doc, err := (&libvirtxml.StoragePool{Type: "dir", Name: HelperPrefix + Nonce(), Target: &libvirtxml.StoragePoolTarget{Path: dir}}).Marshal()
	if err != nil {
		return err
	}
	p, err := c.StoragePoolCreateXML(doc, 0)
	if Lost(err) {
		return err
	}
	if err == nil {
		defer p.Free()
		err = im.lookIn(c, p)
		if derr := p.Destroy(); err == nil { // it forgets the pool; the files stay
			err = derr
		}
		return err
	}
	// A folder has one pool: another process may read it, or may have died.
	name, err := helperPool(c, dir)
	if err != nil || name == "" {
		return err
	}
	if p, err = c.LookupStoragePoolByName(name); err != nil {
		return err
	}
	defer p.Free()
	if err := p.Refresh(0); err != nil {
		return err
	}
	return im.lookIn(c, p)
}

func (im *Images) lookIn(c *libvirt.Connect, p *libvirt.StoragePool) error {
	uuid, err := p.GetUUIDString() // local
	if err != nil {
		return err
	}
	vols, err := Volumes(c, uuid)
	if err != nil {
		return err
	}
	for _, v := range vols {
		if v.Backing != "" && slices.Contains(im.Outside, v.Path) {
			im.Above[v.Backing] = append(im.Above[v.Backing], v.Path)
		}
	}
	return nil
}

// Chain returns an image and all images below it, as far as the pools know
// them.
func (im Images) Chain(image string) []string {
	var out []string
	seen := map[string]bool{}
	for image != "" && !seen[image] {
		seen[image] = true
		out = append(out, image)
		image = im.ByPath[image].Backing
	}
	return out
}

// OwnedBy reports whether an image has a machine's UUID in its name, like
// every image that the drivers make.
func OwnedBy(image, uuid string) bool { return strings.HasPrefix(path.Base(image), uuid+".") }
