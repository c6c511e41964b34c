package imagefile

import (
	"encoding/binary"
	"fmt"
)

// qcowMaxRefcounts is the largest refcount table that QEMU accepts, in bytes.
const qcowMaxRefcounts = 8 << 20

// qcow2 writes an image of version 3: header, refcounts, L1 table, L2 tables,
// data. Zero extents have no cluster. The refcounts are right, so that QEMU can
// write to the image afterwards.
func (o *output) qcow2(opt WriteOptions) error {
	c := int64(opt.ClusterSize)
	if c == 0 {
		c = 64 << 10
	}
	refuse := func(kind error, remedy, detail string, args ...any) error {
		return &Error{Format: QCOW2, Offset: -1, Kind: kind, Remedy: remedy, Detail: fmt.Sprintf(detail, args...)}
	}
	if c < 512 || c > 2<<20 || c&(c-1) != 0 {
		return refuse(ErrUnsupported, "give a power of two from 512 to 2 MiB", "clusters can't have %d bytes", c)
	}
	spans, err := o.spans(c)
	if err != nil {
		return err
	}
	entries := c / 8 // of an L2 table
	l1 := max(1, (o.sectors()+c*entries-1)/(c*entries))
	if l1*8 > qcowMaxL1 {
		return refuse(ErrTooLarge, "give a larger ClusterSize", "with clusters of %d bytes a disk can't have %d bytes", c, o.size)
	}
	var l2, last int64 = 0, -1
	for _, s := range spans {
		l2 += (s.end-1)/entries - max(s.first/entries, last+1) + 1
		last = (s.end - 1) / entries
	}
	data := countUnits(spans)
	l1Clusters := (l1*8 + c - 1) / c
	fixed := 1 + l1Clusters + l2 + data
	blocks, tables := int64(1), int64(1) // of refcounts; 16 bits each
	for {
		total := fixed + blocks + tables
		b := (total + c/2 - 1) / (c / 2)
		r := (b*8 + c - 1) / c
		if b == blocks && r == tables {
			break
		}
		blocks, tables = max(b, blocks), max(r, tables)
	}
	if tables*c > max(qcowMaxRefcounts, c) {
		return refuse(ErrTooLarge, "give a larger ClusterSize", "with clusters of %d bytes an image can't have %d clusters", c, fixed)
	}
	total := fixed + blocks + tables
	l1At := 1 + tables + blocks
	l2At := l1At + l1Clusters
	dataAt := l2At + l2

	be := binary.BigEndian
	head := make([]byte, 112) // with the end of the extensions
	copy(head, qcowMagic)
	be.PutUint32(head[4:], 3)
	for bits := uint32(9); ; bits++ {
		if 1<<bits == c {
			be.PutUint32(head[20:], bits)
			break
		}
	}
	be.PutUint64(head[24:], uint64(o.sectors()))
	be.PutUint32(head[36:], uint32(l1))
	be.PutUint64(head[40:], uint64(l1At*c))
	be.PutUint64(head[48:], uint64(c))
	be.PutUint32(head[56:], uint32(tables))
	be.PutUint32(head[96:], 4)    // refcounts of 2^4 bits
	be.PutUint32(head[100:], 104) // bytes of the header
	if err := o.write(head); err != nil {
		return err
	}
	if err := o.pad(c); err != nil {
		return err
	}

	put := newEntries(o, 8)
	for i := range blocks {
		if err := put.add(uint64((1 + tables + i) * c)); err != nil {
			return err
		}
	}
	if err := put.end((1 + tables) * c); err != nil {
		return err
	}
	put = newEntries(o, 2)
	for range total {
		if err := put.add(1); err != nil {
			return err
		}
	}
	if err := put.end(l1At * c); err != nil {
		return err
	}

	put = newEntries(o, 8)
	at, next := l2At, int64(0)
	for _, s := range spans {
		for i := max(s.first/entries, next); i <= (s.end-1)/entries; i++ {
			for ; next < i; next++ {
				if err := put.add(0); err != nil {
					return err
				}
			}
			if err := put.add(uint64(at*c) | qcowCopied); err != nil {
				return err
			}
			at++
			next = i + 1
		}
	}
	if err := put.end(l2At * c); err != nil {
		return err
	}

	put = newEntries(o, 8)
	at = dataAt
	next = 0 // the cluster of the disk whose entry comes next
	for _, s := range spans {
		if next/entries != s.first/entries {
			for ; next%entries != 0; next++ {
				if err := put.add(0); err != nil {
					return err
				}
			}
			next = s.first / entries * entries
		}
		for ; next < s.first; next++ {
			if err := put.add(0); err != nil {
				return err
			}
		}
		for ; next < s.end; next++ {
			if err := put.add(uint64(at*c) | qcowCopied); err != nil {
				return err
			}
			at++
		}
	}
	if err := put.end(dataAt * c); err != nil {
		return err
	}
	return o.spanned(spans, c)
}

// entries writes a table of numbers without keeping it.
type entries struct {
	o     *output
	width int
	buf   []byte
	put   func([]byte, uint64)
}

// newEntries returns a writer of big-endian numbers with width bytes.
func newEntries(o *output, width int) *entries {
	e := &entries{o: o, width: width, buf: make([]byte, 0, 32<<10)}
	switch width {
	case 2:
		e.put = func(p []byte, v uint64) { binary.BigEndian.PutUint16(p, uint16(v)) }
	case 4:
		e.put = func(p []byte, v uint64) { binary.BigEndian.PutUint32(p, uint32(v)) }
	default:
		e.put = binary.BigEndian.PutUint64
	}
	return e
}

func (e *entries) add(v uint64) error {
	n := len(e.buf)
	e.buf = e.buf[:n+e.width]
	e.put(e.buf[n:], v)
	if len(e.buf) < cap(e.buf) {
		return nil
	}
	return e.flush()
}

func (e *entries) flush() error {
	if err := e.o.ctx.Err(); err != nil {
		return err
	}
	err := e.o.write(e.buf)
	e.buf = e.buf[:0]
	return err
}

// end writes what is left, and zeros until the image has at bytes.
func (e *entries) end(at int64) error {
	if err := e.flush(); err != nil {
		return err
	}
	return e.o.pad(at)
}
