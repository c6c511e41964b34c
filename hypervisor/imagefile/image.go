package imagefile

import (
	"context"
	"fmt"
	"io"
	"iter"
)

// Format is a format of disk images.
type Format uint8

// The formats. The zero value is none of them.
const (
	Raw   Format = iota + 1 // the disk's bytes, nothing else
	QCOW2                   // QEMU's, versions 2 and 3
	VMDK                    // VMware's: read as monolithicSparse, streamOptimized or a descriptor with extents; written as streamOptimized
	VHD                     // Virtual PC's and Hyper-V's, fixed and dynamic; XenServer's too
	VHDX                    // Hyper-V's, fixed and dynamic
	OVA                     // a tar archive of an OVF descriptor and its disks
)

var formatNames = [...]string{"unknown", "raw", "qcow2", "vmdk", "vhd", "vhdx", "ova"}

// String returns the usual lower-case name, such as "qcow2".
func (f Format) String() string {
	if int(f) < len(formatNames) {
		return formatNames[f]
	}
	return formatNames[0]
}

// ParseFormat returns the format with a name as [Format.String] returns it.
// "vpc", QEMU's name for VHD, is accepted too.
func ParseFormat(name string) (Format, error) {
	if name == "vpc" {
		return VHD, nil
	}
	for i, n := range formatNames[1:] {
		if n == name {
			return Format(i + 1), nil
		}
	}
	return 0, &Error{Offset: -1, Kind: ErrUnsupported, Detail: fmt.Sprintf("%q is no format", name), Remedy: "raw, qcow2, vmdk, vhd, vhdx and ova are"}
}

// Extent is a range of a disk, in bytes of what the guest sees.
type Extent struct {
	Offset, Length int64
	// Zero means that the range reads as zeros and takes no room in the image.
	// A range without Zero may consist of zeros too.
	Zero bool
}

// Source is the content of a disk: what [Open] returns and what [Write] takes.
type Source interface {
	// ReadAt reads what the guest sees. It is safe for concurrent use.
	io.ReaderAt
	// Size returns the disk's size in bytes.
	Size() int64
	// Extents walks over the whole disk, in order and without gaps.
	// Neighbours differ in Zero. The walk ends at the first error. Each walk
	// begins at 0.
	Extents() iter.Seq2[Extent, error]
}

// DefaultMaxSize is the largest disk that is accepted if the caller gives no
// limit: 64 TiB, which is VHDX's own limit.
const DefaultMaxSize = 64 << 40

// OpenOptions are the options of [Open], [OpenStream] and [OpenOVA].
type OpenOptions struct {
	// Name of the file, for errors alone.
	Name string
	// MaxSize limits the disk's size in bytes. 0 means DefaultMaxSize.
	MaxSize int64
	// Extent opens a file that a VMDK descriptor names, and returns its length
	// in bytes. The name is a plain file name without a folder. Disk.Close
	// closes it if it is an io.Closer. Nil refuses such descriptors.
	Extent func(name string) (r io.ReaderAt, size int64, err error)
}

func (o *OpenOptions) orDefault() OpenOptions {
	var d OpenOptions
	if o != nil {
		d = *o
	}
	if d.MaxSize <= 0 {
		d.MaxSize = DefaultMaxSize
	}
	return d
}

// Open opens the image of the given format in the first size bytes of r and
// checks its tables. The format must come from someone who knows it, or from
// [Detect] for a file that no guest has written. Nothing but r is opened,
// except by o.Extent. An OVA must have one disk; [OpenOVA] is for the others.
// The position of an *os.File may change, to find the holes of a raw image.
//
// The errors wrap [ErrTruncated], [ErrCorrupt], [ErrEncrypted], [ErrExternal],
// [ErrUnsupported] or [ErrTooLarge]. Tables that are read later, by ReadAt and
// Extents, are checked then.
func Open(r io.ReaderAt, size int64, format Format, o *OpenOptions) (*Disk, error) {
	opt := o.orDefault()
	f := &file{r: r, size: size, name: opt.Name, format: format}
	if size < 0 {
		return nil, f.fail(ErrTruncated, -1, "", "a file can't have %d bytes", size)
	}
	d := &Disk{file: f}
	var err error
	switch format {
	case Raw:
		err = d.openRaw()
	case QCOW2:
		err = d.openQCOW2(opt)
	case VMDK:
		err = d.openVMDK(opt)
	case VHD:
		err = d.openVHD(opt)
	case VHDX:
		err = d.openVHDX(opt)
	case OVA:
		err = d.openOVA(opt)
	default:
		return nil, f.fail(ErrUnsupported, -1, "raw, qcow2, vmdk, vhd, vhdx and ova are supported", "the format is %d", format)
	}
	if err == nil && d.size > opt.MaxSize {
		err = f.fail(ErrTooLarge, -1, remedyLimit, "the disk has %d bytes, and %d are allowed", d.size, opt.MaxSize)
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// WriteOptions are the options of [Write].
type WriteOptions struct {
	// Fixed writes a VHD or VHDX with room for each block, also for zeros. The
	// default is a dynamic one. Other formats refuse it.
	Fixed bool
	// Holes means that the io.Writer is a file (it has Seek and Truncate) without
	// content beyond its position. Zeros in a raw image or a fixed VHD are
	// skipped then, and the file becomes sparse. Other formats have no use for
	// it.
	Holes bool
	// ClusterSize is qcow2's, in bytes, a power of two from 512 to 2 MiB. 0
	// means 64 KiB. Other formats refuse it.
	ClusterSize int
	// Progress, if not nil, is called now and then with the number of bytes of
	// the disk that are done and with the disk's size.
	Progress func(done, size int64)
}

// Write writes the disk src as an image of the given format to w, in one pass
// and without seeking. All formats but raw hold whole sectors: a size that is
// no multiple of 512 bytes is rounded up with zeros. Zero extents of src take
// no room, as far as the format allows. The memory needed does not grow with
// the disk, but for some bytes for each extent, and for each 32 MiB of a VMDK.
//
// The layout comes from src.Extents, which is walked over first: src must not
// change meanwhile. A source that contradicts itself is an error with
// [ErrSource]. If Write fails, what was written is no image.
func Write(ctx context.Context, w io.Writer, src Source, format Format, o *WriteOptions) error {
	var opt WriteOptions
	if o != nil {
		opt = *o
	}
	size := src.Size()
	refuse := func(kind error, remedy, detail string, args ...any) error {
		return &Error{Format: format, Offset: -1, Kind: kind, Remedy: remedy, Detail: fmt.Sprintf(detail, args...)}
	}
	switch {
	case size < 0 || size > 1<<62:
		return refuse(ErrSource, "", "a disk can't have %d bytes", size)
	case size == 0 && format != Raw && format != QCOW2:
		return refuse(ErrUnsupported, "give the disk a size", "only raw and qcow2 have disks of 0 bytes")
	case opt.Fixed && format != VHD && format != VHDX:
		return refuse(ErrUnsupported, "leave Fixed unset", "only VHD and VHDX have a fixed form")
	case opt.ClusterSize != 0 && format != QCOW2:
		return refuse(ErrUnsupported, "leave ClusterSize unset", "only qcow2 has clusters")
	}
	out := &output{ctx: ctx, w: w, src: src, size: size, progress: opt.Progress}
	var err error
	switch format {
	case Raw:
		err = out.raw(opt)
	case QCOW2:
		err = out.qcow2(opt)
	case VMDK:
		err = out.vmdk(0)
	case VHD:
		err = out.vhd(opt)
	case VHDX:
		err = out.vhdx(opt)
	case OVA:
		return refuse(ErrUnsupported, "use WriteOVA", "an OVA describes a machine")
	default:
		return refuse(ErrUnsupported, "raw, qcow2, vmdk, vhd and vhdx can be written", "the format is %v", format)
	}
	if err == nil && opt.Progress != nil {
		opt.Progress(size, size)
	}
	return err
}
