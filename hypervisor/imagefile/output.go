package imagefile

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// output is an image that is being written.
type output struct {
	ctx      context.Context
	w        io.Writer
	n        int64 // bytes written
	src      Source
	size     int64 // of src
	buf      []byte
	progress func(done, size int64)
}

// chunk is how much is read and written at once.
const chunk = 1 << 20

// sectors returns the size of the disk in bytes, rounded up to whole sectors.
func (o *output) sectors() int64 { return roundUp(o.size, 512) }

// roundUp returns the first multiple of unit that is not below n.
func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

func (o *output) write(p []byte) error {
	n, err := o.w.Write(p)
	o.n += int64(n)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

// pad writes zeros until the image has end bytes.
func (o *output) pad(end int64) error {
	if o.n > end {
		panic(fmt.Sprintf("imagefile: layout: at %d, which is beyond %d", o.n, end))
	}
	for o.n < end {
		if err := o.ctx.Err(); err != nil {
			return err
		}
		if err := o.write(zeros[:min(end-o.n, int64(len(zeros)))]); err != nil {
			return err
		}
	}
	return nil
}

// data writes the source's bytes from off to end, and zeros for what is beyond
// the source.
func (o *output) data(off, end int64) error {
	if o.buf == nil {
		o.buf = make([]byte, chunk)
	}
	for off < end {
		if err := o.ctx.Err(); err != nil {
			return err
		}
		p := o.buf[:min(chunk, end-off)]
		if err := o.fill(p, off); err != nil {
			return err
		}
		if err := o.write(p); err != nil {
			return err
		}
		off += int64(len(p))
		if o.progress != nil {
			o.progress(min(off, o.size), o.size)
		}
	}
	return nil
}

// fill reads the source at off, with zeros for what is beyond it.
func (o *output) fill(p []byte, off int64) error {
	have := p[:max(0, min(int64(len(p)), o.size-off))]
	clear(p[len(have):])
	return readFull(o.src, have, off)
}

// readFull fills p from off of src.
func readFull(src Source, p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	n, err := src.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return &Error{Offset: off + int64(n), Kind: ErrSource, Detail: fmt.Sprintf("it ends there and says that it has %d bytes", src.Size())}
	}
	return err
}

// span is a run of units of the disk that hold data: from first to before end.
type span struct{ first, end int64 }

// walk calls each for each extent of the source, and checks them.
func (o *output) walk(each func(Extent) error) error {
	var at int64
	for x, err := range o.src.Extents() {
		if err == nil {
			err = o.ctx.Err()
		}
		if err != nil {
			return err
		}
		if x.Offset != at || x.Length <= 0 || x.Length > o.size-at {
			return &Error{Offset: at, Kind: ErrSource, Detail: fmt.Sprintf("its next extent has %d bytes at %d", x.Length, x.Offset)}
		}
		at += x.Length
		if err := each(x); err != nil {
			return err
		}
	}
	if at != o.size {
		return &Error{Offset: at, Kind: ErrSource, Detail: fmt.Sprintf("its extents end there, and it has %d bytes", o.size)}
	}
	return nil
}

// spans returns the units of the given size that hold data.
func (o *output) spans(unit int64) ([]span, error) {
	var all []span
	err := o.walk(func(x Extent) error {
		if x.Zero {
			return nil
		}
		s := span{x.Offset / unit, (x.Offset + x.Length + unit - 1) / unit}
		if n := len(all); n > 0 && all[n-1].end >= s.first {
			all[n-1].end = s.end
		} else {
			all = append(all, s)
		}
		return nil
	})
	return all, err
}

// countUnits returns the number of units in spans.
func countUnits(spans []span) (n int64) {
	for _, s := range spans {
		n += s.end - s.first
	}
	return n
}

// spanned writes the units of spans, whole.
func (o *output) spanned(spans []span, unit int64) error {
	for _, s := range spans {
		if err := o.data(s.first*unit, s.end*unit); err != nil {
			return err
		}
	}
	return nil
}

// raw writes the disk's bytes.
func (o *output) raw(opt WriteOptions) error { return o.flat(opt, o.size) }

// holes is a file that can have some.
type holes interface {
	io.Seeker
	Truncate(size int64) error
}

// flat writes the disk's bytes and zeros up to end.
func (o *output) flat(opt WriteOptions, end int64) error {
	skip := o.pad
	if opt.Holes {
		f, ok := o.w.(holes)
		if !ok {
			return &Error{Offset: -1, Kind: ErrUnsupported, Detail: fmt.Sprintf("a %T has no Seek and Truncate", o.w), Remedy: "leave Holes unset"}
		}
		skip = func(end int64) error {
			if end == o.n {
				return nil
			}
			at, err := f.Seek(end-o.n, io.SeekCurrent)
			if err == nil {
				err = f.Truncate(at)
			}
			o.n = end
			return err
		}
	}
	err := o.walk(func(x Extent) error {
		if x.Zero {
			return skip(x.Offset + x.Length)
		}
		return o.data(x.Offset, x.Offset+x.Length)
	})
	if err != nil {
		return err
	}
	return skip(end)
}
