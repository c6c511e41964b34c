//go:build cgo

package libvirtx

import (
	"context"
	"fmt"
	"io"

	"libvirt.org/go/libvirt"
)

// CopyBetween streams an image's file from one host to an image on another,
// through this process. progress is called with the number of bytes sent.
func CopyBetween(ctx context.Context, from *libvirt.Connect, src Volume, to *libvirt.Connect, dst Volume, progress func(int64)) error {
	sv, err := lookup(from, src.Pool, src.Name)
	if err != nil {
		return err
	}
	defer sv.Free()
	dv, err := lookup(to, dst.Pool, dst.Name)
	if err != nil {
		return err
	}
	defer dv.Free()
	info, err := sv.GetInfoFlags(libvirt.STORAGE_VOL_GET_PHYSICAL)
	if err != nil {
		return err
	}
	size := info.Allocation // with this flag: the file's length
	in, err := from.NewStream(0)
	if err != nil {
		return err
	}
	defer in.Free()
	out, err := to.NewStream(0)
	if err != nil {
		return err
	}
	defer out.Free()
	if err := sv.Download(in, 0, size, 0); err != nil {
		return err
	}
	if err := dv.Upload(out, 0, size, 0); err != nil {
		_ = in.Abort() // no other error matters
		return err
	}
	var sent int64
	buf := make([]byte, 256<<10) // libvirt's largest stream packet
	for {
		if err = ctx.Err(); err != nil {
			break
		}
		var n int
		if n, err = in.Recv(buf); err == io.EOF {
			err = nil
		}
		if err != nil || n == 0 {
			break
		}
		for b := buf[:n]; len(b) > 0 && err == nil; {
			if n, err = out.Send(b); n > 0 {
				b = b[n:]
				sent += int64(n)
			}
		}
		if err != nil {
			break
		}
		progress(sent)
	}
	if err != nil {
		_, _ = in.Abort(), out.Abort() // the first error counts
		return err
	}
	if err := in.Finish(); err != nil {
		_ = out.Abort() // the first error counts
		return err
	}
	if err := out.Finish(); err != nil {
		return err
	}
	if uint64(sent) != size {
		return fmt.Errorf("%d of %d bytes of image %s arrived", sent, size, src.Name)
	}
	return Refresh(to, dst.Pool)
}
