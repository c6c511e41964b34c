package imagefile

import (
	"crypto/rand"
	"encoding/binary"
)

// The facts about VHD are from Microsoft's Virtual Hard Disk Image Format
// Specification, version 1.0. All numbers are big-endian.
const (
	vhdCookie    = "conectix"
	vhdNone      = 0xffffffff // an entry of the block allocation table
	vhdFixed     = 2          // types of disks
	vhdDynamic   = 3
	vhdDiffering = 4
	vhdBlock     = 2 << 20    // bytes; what all programs write
	vhdMaxSize   = 2040 << 30 // bytes; what Hyper-V accepts
	// vhdMaxCHS is the largest disk that a geometry can describe, in sectors.
	vhdMaxCHS = 65535 * 16 * 255
)

// pageSize is how much of a block allocation table is read at once, in bytes.
const pageSize = 64 << 10

// openVHD opens a fixed or dynamic image.
func (d *Disk) openVHD(opt OpenOptions) error {
	f, be := d.file, binary.BigEndian
	at := f.size - 512
	if at < 0 {
		return f.fail(ErrTruncated, f.size, remedyCopy, "%d bytes have no room for a footer", f.size)
	}
	foot, err := f.bytes(at, 512, "footer")
	if err != nil {
		return err
	}
	if string(foot[:8]) != vhdCookie {
		var head [8]byte
		if err := f.read(head[:], 0, "header"); err != nil {
			return err
		}
		if string(head[:]) == vhdCookie {
			return f.fail(ErrTruncated, at, remedyCopy, "there is no footer at the end")
		}
		return f.fail(ErrCorrupt, at, "give the format that it has, or copy the file again", "there is no footer")
	}
	if !vhdChecked(foot, 64) {
		return f.corrupt(at+64, "the footer's checksum is wrong")
	}
	size := be.Uint64(foot[48:])
	// Virtual PC uses the geometry, and so does QEMU unless it was given
	// otherwise, and then writes "qemu".
	if app := string(foot[28:32]); app == "vpc " || app == "qemu" {
		if chs := uint64(be.Uint16(foot[56:])) * uint64(foot[58]) * uint64(foot[59]); chs < vhdMaxCHS {
			size = chs * 512
		}
	}
	if size > uint64(opt.MaxSize) {
		return f.fail(ErrTooLarge, at+48, remedyLimit, "the disk has %d bytes, and %d are allowed", size, opt.MaxSize)
	}
	d.size = int64(size)
	switch kind := be.Uint32(foot[60:]); kind {
	case vhdFixed:
		if d.size > at {
			return f.fail(ErrTruncated, at, remedyCopy, "the disk has %d bytes, and %d are there", d.size, at)
		}
		d.table = &rawTable{file: f, holes: holesOf(f.r)}
		return nil
	case vhdDynamic:
		return d.openDynamic(be.Uint64(foot[16:]))
	case vhdDiffering:
		return f.fail(ErrExternal, at+60, "merge it into its parent first, with Hyper-V's Merge-VHD or Convert-VHD", "it is a differencing disk; its parent is never followed")
	default:
		return f.fail(ErrUnsupported, at+60, remedyConvert, "disk type %d is neither fixed nor dynamic", kind)
	}
}

// vhdChecked reports whether the checksum at off of a structure is right: the
// complement of the sum of its other bytes.
func vhdChecked(p []byte, off int) bool {
	return binary.BigEndian.Uint32(p[off:]) == vhdSum(p, off)
}

func vhdSum(p []byte, off int) (sum uint32) {
	for i, b := range p {
		if i < off || i >= off+4 {
			sum += uint32(b)
		}
	}
	return ^sum
}

// vhdTable finds the blocks of a dynamic VHD.
type vhdTable struct {
	noTables
	file    *file
	size    int64 // of the disk
	block   int64
	bitmap  int64 // bytes before each block's data
	entries int64 // that the disk needs
	bat     int64 // where they are
	pages   pages
}

// openDynamic reads the header of a dynamic disk.
func (d *Disk) openDynamic(at uint64) error {
	f, be := d.file, binary.BigEndian
	if at > uint64(f.size) {
		return f.fail(ErrTruncated, f.size-496, remedyCopy, "the header at %d is beyond the file's %d bytes", at, f.size)
	}
	p, err := f.bytes(int64(at), 1024, "dynamic disk's header")
	if err != nil {
		return err
	}
	off := int64(at)
	switch {
	case string(p[:8]) != "cxsparse":
		return f.corrupt(off, "the dynamic disk's header isn't there")
	case !vhdChecked(p, 36):
		return f.corrupt(off+36, "the dynamic disk's header has a wrong checksum")
	}
	t := &vhdTable{file: f, size: d.size, block: int64(be.Uint32(p[32:]))}
	bat, entries := be.Uint64(p[16:]), int64(be.Uint32(p[28:]))
	if t.block < 4096 || t.block > 256<<20 || t.block&(t.block-1) != 0 {
		return f.corrupt(off+32, "a block has %d bytes instead of a power of two from 4 KiB to 256 MiB", t.block)
	}
	t.bitmap = roundUp(t.block/512/8, 512)
	t.entries = (t.size + t.block - 1) / t.block
	switch {
	case t.entries > entries:
		return f.corrupt(off+28, "the table has %d blocks, and a disk of %d bytes needs %d", entries, t.size, t.entries)
	case bat > uint64(f.size) || !f.has(int64(bat), t.entries*4):
		return f.fail(ErrTruncated, off+16, remedyCopy, "the table of %d blocks at %d is beyond the file's %d bytes", t.entries, bat, f.size)
	}
	t.bat = int64(bat)
	d.table = t
	return nil
}

func (t *vhdTable) at(off int64) (piece, error) {
	i := off / t.block
	page := i * 4 / pageSize * pageSize
	p, err := t.pages.get(t.file, t.bat+page, min(pageSize, t.entries*4-page), "block allocation table")
	if err != nil {
		return piece{}, err
	}
	in := off % t.block
	left := min(t.block-in, t.size-off)
	rest := p[i*4-page:]
	e := binary.BigEndian.Uint32(rest)
	if e == vhdNone {
		for rest = rest[4:]; len(rest) > 0 && binary.BigEndian.Uint32(rest) == vhdNone; rest = rest[4:] {
			left += t.block
		}
		return piece{kind: zero, n: min(left, t.size-off)}, nil
	}
	begin := int64(e) * 512
	host := begin + t.bitmap
	pos := t.bat + i*4
	if begin < 512 || begin < t.bat+t.entries*4 && host+t.block > t.bat {
		return piece{}, t.file.corrupt(pos, "a block at %d overlaps the tables", begin)
	}
	if !t.file.has(host+in, left) {
		return piece{}, t.file.fail(ErrTruncated, pos, remedyCopy, "a block at %d is beyond the file's %d bytes", begin, t.file.size)
	}
	// The bitmap before the data marks the written sectors; the others are
	// zeros in the data too.
	return piece{kind: plain, n: left, file: t.file, host: host + in, unit: t.block}, nil
}

// vhd writes a fixed image (data, footer) or a dynamic one (footer, header,
// table, blocks, footer).
func (o *output) vhd(opt WriteOptions) error {
	size := o.sectors()
	if size > vhdMaxSize {
		return &Error{Format: VHD, Offset: -1, Kind: ErrTooLarge, Detail: "a VHD can't have more than 2040 GiB", Remedy: "use VHDX"}
	}
	if opt.Fixed {
		if err := o.flat(opt, size); err != nil {
			return err
		}
		return o.write(vhdFoot(size, vhdFixed))
	}
	spans, err := o.spans(vhdBlock)
	if err != nil {
		return err
	}
	be := binary.BigEndian
	foot := vhdFoot(size, vhdDynamic)
	blocks := (size + vhdBlock - 1) / vhdBlock
	head := make([]byte, 1024)
	copy(head, "cxsparse")
	be.PutUint64(head[8:], 1<<64-1)
	be.PutUint64(head[16:], 1536)
	be.PutUint32(head[24:], 0x10000)
	be.PutUint32(head[28:], uint32(blocks))
	be.PutUint32(head[32:], vhdBlock)
	be.PutUint32(head[36:], vhdSum(head, 36))
	if err := o.write(foot); err != nil {
		return err
	}
	if err := o.write(head); err != nil {
		return err
	}
	const bitmap = vhdBlock / 512 / 8
	dataAt := roundUp(1536+blocks*4, 512)
	at := dataAt
	put := newEntries(o, 4)
	next := int64(0)
	for _, s := range append(spans, span{blocks, blocks}) {
		for ; next < s.first; next++ {
			if err := put.add(vhdNone); err != nil {
				return err
			}
		}
		for ; next < s.end; next++ {
			if err := put.add(uint64(at / 512)); err != nil {
				return err
			}
			at += bitmap + vhdBlock
		}
	}
	for range (dataAt - 1536 - blocks*4) / 4 {
		if err := put.add(vhdNone); err != nil {
			return err
		}
	}
	if err := put.end(dataAt); err != nil {
		return err
	}
	written := make([]byte, bitmap)
	for i := range written {
		written[i] = 0xff
	}
	for _, s := range spans {
		for i := s.first; i < s.end; i++ {
			if err := o.write(written); err != nil {
				return err
			}
			if err := o.data(i*vhdBlock, (i+1)*vhdBlock); err != nil {
				return err
			}
		}
	}
	return o.write(foot)
}

// vhdFoot returns the footer of a disk of the given type.
func vhdFoot(size int64, kind uint32) []byte {
	be := binary.BigEndian
	p := make([]byte, 512)
	copy(p, vhdCookie)
	be.PutUint32(p[8:], 2) // reserved, always set
	be.PutUint32(p[12:], 0x10000)
	be.PutUint64(p[16:], 1<<64-1)
	if kind == vhdDynamic {
		be.PutUint64(p[16:], 512)
	}
	// Readers go by the size instead of the geometry if Hyper-V is the creator.
	copy(p[28:], "win ")
	be.PutUint32(p[32:], 0x60003)
	copy(p[36:], "Wi2k")
	be.PutUint64(p[40:], uint64(size))
	be.PutUint64(p[48:], uint64(size))
	c, h, s := vhdGeometry(size / 512)
	be.PutUint16(p[56:], uint16(c))
	p[58], p[59] = byte(h), byte(s)
	be.PutUint32(p[60:], kind)
	rand.Read(p[68:84])
	be.PutUint32(p[64:], vhdSum(p, 64))
	return p
}

// vhdGeometry returns cylinders, heads and sectors for a disk, as the
// specification's appendix calculates them.
func vhdGeometry(sectors int64) (c, h, s int64) {
	sectors = min(sectors, vhdMaxCHS)
	if sectors >= 65535*16*63 {
		return sectors / 255 / 16, 16, 255
	}
	s = 17
	tracks := sectors / s
	h = max(4, (tracks+1023)/1024)
	if tracks >= h*1024 || h > 16 {
		s, h = 31, 16
		tracks = sectors / s
	}
	if tracks >= h*1024 {
		s, h = 63, 16
		tracks = sectors / s
	}
	return tracks / h, h, s
}
