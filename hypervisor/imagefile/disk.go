package imagefile

import (
	"io"
	"iter"
	"sync"
)

// Disk is an opened image. It reads what the guest sees. It is safe for
// concurrent use. The caller closes the file, after the
// Disk.
type Disk struct {
	file    *file
	size    int64
	table   table
	closers []io.Closer

	mu     sync.Mutex // guards what follows: the unit that was unpacked last
	unit   []byte
	unitAt int64
}

// table finds the parts of a disk in its image. It is safe for concurrent use.
type table interface {
	// at says what the image holds from off on, which lies in the disk.
	at(off int64) (piece, error)
	// unpack fills dst, which has the unit's length, from a packed piece.
	unpack(p piece, dst []byte) error
	// meta calls mark for each range of the file that holds tables.
	meta(mark func(f *file, off, n, unit int64))
}

// noTables is embedded by tables that have nothing to unpack and name no tables.
type noTables struct{}

func (noTables) unpack(piece, []byte) error { panic("imagefile: nothing is packed here") }

func (noTables) meta(func(f *file, off, n, unit int64)) {}

type kind uint8

const (
	zero   kind = iota // no room in the image
	plain              // as it is
	packed             // compressed as a unit
)

// piece is a part of a disk that is stored in one way.
type piece struct {
	kind kind
	n    int64 // how far it goes from the offset asked for, in bytes; more than 0
	file *file // where it is
	host int64 // position in the file: of the offset asked for if plain, of the packed bytes if packed
	room int64 // packed: at most so many packed bytes
	unit int64 // plain: the size of what is allocated at once, 0 if nothing is; packed: the unpacked length
	from int64 // packed: the offset in the disk where the unit begins
}

// Size returns the disk's size in bytes.
func (d *Disk) Size() int64 { return d.size }

// Format returns the format with which the image was opened.
func (d *Disk) Format() Format { return d.file.format }

// Close closes the files that OpenOptions.Extent opened.
func (d *Disk) Close() error {
	var first error
	for _, c := range d.closers {
		if err := c.Close(); err != nil && first == nil {
			first = err
		}
	}
	d.closers = nil
	return first
}

// ReadAt implements [io.ReaderAt] on what the guest sees.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, d.file.fail(ErrSource, -1, "", "offset %d is negative", off)
	}
	if off >= d.size {
		return 0, io.EOF
	}
	var end error
	if int64(len(p)) > d.size-off {
		p, end = p[:d.size-off], io.EOF
	}
	done := 0
	for done < len(p) {
		c, err := d.table.at(off + int64(done))
		if err != nil {
			return done, err
		}
		part := p[done:]
		if int64(len(part)) > c.n {
			part = part[:c.n]
		}
		switch c.kind {
		case zero:
			clear(part)
		case plain:
			err = c.file.read(part, c.host, "data")
		case packed:
			err = d.unpacked(part, c, off+int64(done))
		}
		if err != nil {
			return done, err
		}
		done += len(part)
	}
	return done, end
}

// unpacked copies the part of a packed piece's unit at off. It keeps the last
// unit, since a disk is mostly read in order and in smaller parts.
func (d *Disk) unpacked(part []byte, c piece, off int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.unitAt != c.from || int64(len(d.unit)) != c.unit {
		if int64(cap(d.unit)) < c.unit {
			d.unit = make([]byte, c.unit)
		}
		d.unit = d.unit[:c.unit]
		if err := d.table.unpack(c, d.unit); err != nil {
			d.unit = d.unit[:0]
			return err
		}
		d.unitAt = c.from
	}
	copy(part, d.unit[off-c.from:])
	return nil
}

// Extents walks over the disk as [Source] describes. It reads tables alone, no
// data. It refuses parts of the file that belong to two parts of the disk, so
// data extents are never longer than the file justifies.
func (d *Disk) Extents() iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		used := make(map[*file]*usedUnits)
		var packs int64
		mark := func(f *file, off, n, unit int64) *Error {
			if unit == 0 {
				return nil
			}
			u := used[f]
			if u == nil {
				u = &usedUnits{unit: unit, bits: make(map[int64]*[512]uint64)}
				used[f] = u
			}
			for at := off; at < off+n; at += u.unit {
				if !u.take(at) {
					return f.corrupt(at, "this part of the file belongs to two parts of the disk")
				}
			}
			return nil
		}
		var fault *Error
		d.table.meta(func(f *file, off, n, unit int64) {
			if err := mark(f, off, n, unit); fault == nil {
				fault = err
			}
		})
		if fault != nil {
			yield(Extent{}, fault)
			return
		}
		var now Extent
		for off := int64(0); off < d.size; {
			c, err := d.table.at(off)
			switch {
			case err != nil:
			case c.kind == plain:
				if fault := mark(c.file, c.host, c.n, c.unit); fault != nil {
					err = fault
				}
			case c.kind == packed:
				// No packer makes a unit shorter than this.
				if packs++; packs > c.file.size/8 {
					err = c.file.corrupt(c.host, "%d compressed parts can't fit into the file's %d bytes", packs, c.file.size)
				}
			}
			if err != nil {
				yield(Extent{}, err)
				return
			}
			n := min(c.n, d.size-off)
			if isZero := c.kind == zero; now.Length == 0 || now.Zero != isZero {
				if now.Length > 0 && !yield(now, nil) {
					return
				}
				now = Extent{Offset: off, Zero: isZero}
			}
			now.Length += n
			off += n
		}
		if now.Length > 0 {
			yield(now, nil)
		}
	}
}

// usedUnits is the set of units of a file that are in use. Units may begin
// anywhere, but are at least unit apart.
type usedUnits struct {
	unit int64
	bits map[int64]*[512]uint64
}

// take reports whether the unit at off was free.
func (u *usedUnits) take(off int64) bool {
	i := off / u.unit
	b := u.bits[i>>15]
	if b == nil {
		b = new([512]uint64)
		u.bits[i>>15] = b
	}
	word, bit := &b[i>>6&511], uint64(1)<<(i&63)
	was := *word&bit != 0
	*word |= bit
	return !was
}

// pages keeps the parts of tables that were read last.
type pages struct {
	mu    sync.Mutex
	page  map[int64][]byte
	order []int64
}

// maxPages is how many parts of tables are kept for a disk. A qcow2 table has
// up to 2 MiB, others 64 KiB or less.
const maxPages = 8

// get returns the n bytes at off of f, which are never changed.
func (c *pages) get(f *file, off, n int64, what string) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.page[off]; ok {
		return p, nil
	}
	p, err := f.bytes(off, n, what)
	if err != nil {
		return nil, err
	}
	if c.page == nil {
		c.page = make(map[int64][]byte, maxPages)
	}
	if len(c.order) == maxPages {
		delete(c.page, c.order[0])
		c.order = append(c.order[:0], c.order[1:]...)
	}
	c.page[off], c.order = p, append(c.order, off)
	return p, nil
}
