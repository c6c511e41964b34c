package imagefile

import (
	"bytes"
	"iter"
)

// openRaw opens an image that consists of the disk's bytes.
func (d *Disk) openRaw() error {
	d.size = d.file.size
	d.table = &rawTable{file: d.file, holes: holesOf(d.file.r)}
	return nil
}

// rawTable is the table of a raw image. A file's holes are zeros. Without
// holes, or where the system doesn't tell them, all is data.
type rawTable struct {
	noTables
	file  *file
	base  int64 // in the file, where the disk begins
	holes holeFinder
}

// holeFinder says whether a file has a hole at off, and how far that, or the
// data there, goes. It returns false for known if it can't tell.
type holeFinder func(off int64) (hole bool, until int64, known bool)

func (t *rawTable) at(off int64) (piece, error) {
	off += t.base
	if t.holes != nil {
		if hole, until, known := t.holes(off); known && until > off {
			if hole {
				return piece{kind: zero, n: until - off}, nil
			}
			return piece{kind: plain, n: until - off, file: t.file, host: off}, nil
		}
	}
	return piece{kind: plain, n: max(1, t.file.size-off), file: t.file, host: off}, nil
}

// scanUnit is how long a run of zeros must be, and how it is aligned, to be
// found in data.
const scanUnit = 64 << 10

// Scan returns src with extents that come from its content: runs of 64 KiB of
// zeros within its data are zero extents too. Each walk over them reads all
// data of src. It is for raw disks whose holes nobody knows.
func Scan(src Source) Source { return scanned{src} }

type scanned struct{ Source }

func (s scanned) Extents() iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		var now Extent
		buf := make([]byte, 1<<20)
		add := func(off, n int64, isZero bool) bool {
			if now.Length > 0 && now.Zero != isZero {
				if !yield(now, nil) {
					return false
				}
				now = Extent{}
			}
			if now.Length == 0 {
				now = Extent{Offset: off, Zero: isZero}
			}
			now.Length += n
			return true
		}
		for x, err := range s.Source.Extents() {
			if err != nil {
				yield(Extent{}, err)
				return
			}
			if x.Zero {
				if !add(x.Offset, x.Length, true) {
					return
				}
				continue
			}
			for off := x.Offset; off < x.Offset+x.Length; {
				p := buf[:min(int64(len(buf))-off%scanUnit, x.Offset+x.Length-off)]
				if err := readFull(s.Source, p, off); err != nil {
					yield(Extent{}, err)
					return
				}
				for len(p) > 0 {
					n := min(int64(len(p)), scanUnit-off%scanUnit)
					if !add(off, n, isZeros(p[:n])) {
						return
					}
					p, off = p[n:], off+n
				}
			}
		}
		if now.Length > 0 {
			yield(now, nil)
		}
	}
}

// zeros is what isZeros compares with, and what writers pad with.
var zeros [64 << 10]byte

// isZeros reports whether p has no other byte than zero.
func isZeros(p []byte) bool {
	for len(p) > len(zeros) {
		if !bytes.Equal(p[:len(zeros)], zeros[:]) {
			return false
		}
		p = p[len(zeros):]
	}
	return bytes.Equal(p, zeros[:len(p)])
}
