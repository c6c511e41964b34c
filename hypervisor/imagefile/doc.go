// Package imagefile reads and writes disk images in pure Go: raw, qcow2, VMDK,
// VHD, VHDX and OVA. It needs no other part of this module.
//
// [Open] gives what the guest sees as an [io.ReaderAt] with extents, so that
// zeros are neither read nor sent. [Write] turns such a [Source] into an image
// in one pass:
//
//	disk, err := imagefile.Open(f, size, imagefile.QCOW2, nil)
//	…
//	err = imagefile.Write(ctx, w, disk, imagefile.VHDX, nil)
//
// What an image says about itself is not trusted. Tables are checked against
// the file's length, memory follows what the file holds, and no other file is
// opened: an image with a backing file, a parent or an external data file is
// refused with [ErrExternal]. Limit the disk's size by OpenOptions.MaxSize.
//
// A guest decides what its raw disk begins with. If a program guesses the
// format of such a file, the guest can make it a qcow2 image that names a file
// of the host. So Open takes the format from the caller, and [Detect] is for
// files that no guest has written, such as a vendor's download.
package imagefile
