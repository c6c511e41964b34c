package imagefile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/zlib"
)

// The facts about VMDK are from VMware's Virtual Disk Format 5.0 technical note.
// All numbers are little-endian, and most count sectors of 512 bytes.
const (
	vmdkMagic = "KDMV"
	vmdkMaxGD = 64 << 20 // bytes; a disk of 64 TiB with grains of 64 KiB needs 8 MiB

	vmdkNewlines   = 1 << 0 // flags
	vmdkZeroGrains = 1 << 2
	vmdkCompressed = 1 << 16
	vmdkMarkers    = 1 << 17

	vmdkAtEnd = 1<<64 - 1 // for the directory's place, which is in the footer

	vmdkEnd       = 0 // types of markers
	vmdkTable     = 1
	vmdkDirectory = 2
	vmdkFooter    = 3
)

// vmdkHeader is the header of a sparse extent.
type vmdkHeader struct {
	flags         uint32
	capacity      int64 // bytes
	grain         int64 // bytes
	entries       int64 // of a grain table
	desc, descLen int64 // bytes
	directory     uint64
	overhead      int64 // bytes
}

// parseVMDK reads a header, or a footer, at off of f.
func parseVMDK(f *file, p []byte, off int64, opt OpenOptions) (h vmdkHeader, err error) {
	le := binary.LittleEndian
	if string(p[:4]) != vmdkMagic {
		return h, f.corrupt(off, "there is no VMDK header")
	}
	version, capacity, grain := le.Uint32(p[4:]), le.Uint64(p[12:]), le.Uint64(p[20:])
	h.flags = le.Uint32(p[8:])
	switch {
	case version < 1 || version > 3:
		return h, f.fail(ErrUnsupported, off+4, remedyConvert, "version %d of the format is none of 1 to 3", version)
	case h.flags&vmdkNewlines != 0 && string(p[73:77]) != "\n \r\n":
		return h, f.fail(ErrCorrupt, off+73, "copy the file again in binary mode", "line ends were changed on the way")
	case capacity > uint64(opt.MaxSize)/512:
		return h, f.fail(ErrTooLarge, off+12, remedyLimit, "the disk has %d sectors, and %d bytes are allowed", capacity, opt.MaxSize)
	case grain < 1 || grain > 4096 || grain&(grain-1) != 0:
		return h, f.corrupt(off+20, "a grain has %d sectors instead of a power of two up to 4096", grain)
	}
	h.capacity, h.grain, h.entries = int64(capacity)*512, int64(grain)*512, int64(le.Uint32(p[44:]))
	h.directory = le.Uint64(p[56:])
	desc, descLen, overhead := le.Uint64(p[28:]), le.Uint64(p[36:]), le.Uint64(p[64:])
	switch {
	case h.entries < 1 || h.entries > 512:
		return h, f.corrupt(off+44, "a grain table has %d entries instead of up to 512", h.entries)
	case desc > 1<<40 || descLen > maxDescriptor/512:
		return h, f.corrupt(off+28, "the descriptor has %d sectors at sector %d", descLen, desc)
	case overhead > 1<<40:
		return h, f.corrupt(off+64, "the metadata has %d sectors", overhead)
	case h.flags&vmdkCompressed != 0 && le.Uint16(p[77:]) != 1:
		return h, f.fail(ErrUnsupported, off+77, remedyConvert, "compression %d is not deflate", le.Uint16(p[77:]))
	}
	h.desc, h.descLen, h.overhead = int64(desc)*512, int64(descLen)*512, int64(overhead)*512
	return h, nil
}

// openVMDK opens a sparse image or a descriptor file.
func (d *Disk) openVMDK(opt OpenOptions) error {
	f := d.file
	var head [21]byte
	n := min(int64(len(head)), f.size)
	if err := f.read(head[:n], 0, "header"); err != nil {
		return err
	}
	switch {
	case string(head[:4]) == vmdkMagic:
		t, desc, err := openSparse(f, opt)
		if err != nil {
			return err
		}
		if desc == nil {
			return f.fail(ErrExternal, 0, "open the descriptor file, which names it", "it is an extent, a part of a disk")
		}
		d.size, d.table = t.size, t
		return nil
	case string(head[:4]) == "COWD":
		return f.fail(ErrUnsupported, 0, remedyConvert, "it is a sparse extent of an ESX host (vmfsSparse)")
	case n < 21 || string(head[:21]) != "# Disk DescriptorFile":
		return f.fail(ErrCorrupt, 0, "give the format that it has", "the file begins like no VMDK")
	case f.size > maxDescriptor:
		return f.corrupt(0, "a descriptor can't have %d bytes", f.size)
	}
	text, err := f.bytes(0, f.size, "descriptor")
	if err != nil {
		return err
	}
	return d.openDescriptor(text, opt)
}

// sparseTable finds the grains of a sparse extent.
type sparseTable struct {
	file     *file
	size     int64 // of the disk, in bytes
	head     vmdkHeader
	gd       []byte // sectors of the grain tables, 32 bits each
	gdAt     int64
	tables   pages
	decoders sync.Pool
}

// openSparse opens a sparse extent. The descriptor is nil if it has none.
func openSparse(f *file, opt OpenOptions) (*sparseTable, *descriptor, error) {
	p, err := f.bytes(0, 512, "header")
	if err != nil {
		return nil, nil, err
	}
	h, err := parseVMDK(f, p, 0, opt)
	if err != nil {
		return nil, nil, err
	}
	var desc *descriptor
	if h.desc != 0 && h.descLen > 0 {
		text, err := f.bytes(h.desc, h.descLen, "descriptor")
		if err == nil && text[0] != 0 { // QEMU leaves room for one in extents too
			desc, err = embedded(f, h, text)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	if h.directory == vmdkAtEnd {
		// Footer marker, footer, end marker.
		if !f.has(f.size-1536, 1536) {
			return nil, nil, f.fail(ErrTruncated, f.size, remedyCopy, "there is no room for the footer")
		}
		if p, err = f.bytes(f.size-1536, 1024, "footer"); err != nil {
			return nil, nil, err
		}
		if binary.LittleEndian.Uint32(p[12:]) != vmdkFooter || string(p[512:516]) != vmdkMagic {
			return nil, nil, f.fail(ErrTruncated, f.size-1536, remedyCopy, "there is no footer")
		}
		foot, err := parseVMDK(f, p[512:], f.size-1024, opt)
		if err != nil {
			return nil, nil, err
		}
		if foot.capacity != h.capacity || foot.grain != h.grain || foot.entries != h.entries || foot.flags != h.flags {
			return nil, nil, f.corrupt(f.size-1024, "the footer contradicts the header")
		}
		h.directory = foot.directory
	}
	t := &sparseTable{file: f, size: h.capacity, head: h}
	return t, desc, t.readDirectory()
}

// readDirectory reads the grain directory and checks that its tables lie in
// the file and don't overlap.
func (t *sparseTable) readDirectory() error {
	f, span := t.file, t.head.grain*t.head.entries
	n := (t.size + span - 1) / span * 4
	if n > vmdkMaxGD {
		return f.fail(ErrTooLarge, 56, remedyConvert, "a grain directory of %d bytes is too large", n)
	}
	if t.head.directory > uint64(f.size)/512 {
		return f.fail(ErrTruncated, 56, remedyCopy, "the grain directory at sector %d is beyond the file's %d bytes", t.head.directory, f.size)
	}
	if n > 0 && t.head.directory == 0 {
		return f.corrupt(56, "there is no grain directory")
	}
	t.gdAt = int64(t.head.directory) * 512
	var err error
	if t.gd, err = f.bytes(t.gdAt, n, "grain directory"); err != nil {
		return err
	}
	var all []int64
	for i := 0; i < len(t.gd); i += 4 {
		off := int64(binary.LittleEndian.Uint32(t.gd[i:])) * 512
		switch {
		case off == 0:
			continue
		case !f.has(off, t.head.entries*4):
			return f.fail(ErrTruncated, t.gdAt+int64(i), remedyCopy, "the grain table at %d is beyond the file's %d bytes", off, f.size)
		case off < t.gdAt+n && off+t.head.entries*4 > t.gdAt:
			return f.corrupt(t.gdAt+int64(i), "the grain table at %d overlaps the grain directory", off)
		}
		all = append(all, off)
	}
	slices.Sort(all)
	for i, off := range all {
		if i > 0 && off < all[i-1]+t.head.entries*4 {
			return f.corrupt(t.gdAt, "two grain tables overlap at %d", off)
		}
	}
	return nil
}

func (t *sparseTable) at(off int64) (piece, error) {
	le := binary.LittleEndian
	span := t.head.grain * t.head.entries
	i := off / span
	table := int64(le.Uint32(t.gd[i*4:])) * 512
	if table == 0 {
		return piece{kind: zero, n: min((i+1)*span, t.size) - off}, nil
	}
	gt, err := t.tables.get(t.file, table, t.head.entries*4, "grain table")
	if err != nil {
		return piece{}, err
	}
	g := off % span / t.head.grain
	in := off % t.head.grain
	left := min(t.head.grain-in, t.size-off)
	entry := func(g int64) (e uint32, none bool) {
		e = le.Uint32(gt[g*4:])
		return e, e == 0 || e == 1 && t.head.flags&vmdkZeroGrains != 0
	}
	e, none := entry(g)
	if none {
		for g++; g < t.head.entries; g++ {
			if _, none := entry(g); !none {
				break
			}
			left += t.head.grain
		}
		return piece{kind: zero, n: min(left, t.size-off)}, nil
	}
	host := int64(e) * 512
	if host < 1024 {
		return piece{}, t.file.corrupt(table+g*4, "a grain can't be at %d", host)
	}
	if t.head.flags&vmdkCompressed != 0 {
		if !t.file.has(host, 512) {
			return piece{}, t.file.fail(ErrTruncated, table+g*4, remedyCopy, "a grain at %d is beyond the file's %d bytes", host, t.file.size)
		}
		return piece{kind: packed, n: left, file: t.file, host: host, unit: t.head.grain, from: off - in}, nil
	}
	if !t.file.has(host+in, left) {
		return piece{}, t.file.fail(ErrTruncated, table+g*4, remedyCopy, "a grain at %d is beyond the file's %d bytes", host, t.file.size)
	}
	return piece{kind: plain, n: left, file: t.file, host: host + in, unit: t.head.grain}, nil
}

func (t *sparseTable) meta(func(f *file, off, n, unit int64)) {} // readDirectory has checked them

func (t *sparseTable) unpack(p piece, dst []byte) error {
	f := t.file
	head, err := f.bytes(p.host, 12, "grain")
	if err != nil {
		return err
	}
	lba, n := binary.LittleEndian.Uint64(head), int64(binary.LittleEndian.Uint32(head[8:]))
	if lba != uint64(p.from/512) {
		return f.corrupt(p.host, "the grain of sector %d says that it is sector %d's", p.from/512, lba)
	}
	if n > maxPacked(t.head.grain) {
		return f.corrupt(p.host, "a grain of %d bytes can't have %d compressed ones", t.head.grain, n)
	}
	src, err := f.bytes(p.host+12, n, "grain")
	if err != nil {
		return err
	}
	dec, _ := t.decoders.Get().(io.ReadCloser)
	dec, err = inflate(dec, src, dst, min(p.unit, t.size-p.from))
	if dec != nil {
		t.decoders.Put(dec)
	}
	if err != nil {
		e := f.corrupt(p.host, "a grain can't be unpacked")
		e.Err = err
		return e
	}
	return nil
}

// maxPacked is the most compressed bytes that a grain may have: deflate adds
// little to what it can't compress.
func maxPacked(grain int64) int64 { return grain + grain/8 + 1024 }

// inflate fills dst from a zlib stream, of which least bytes must be there. It
// returns the decoder for the next time.
func inflate(dec io.ReadCloser, src, dst []byte, least int64) (io.ReadCloser, error) {
	var err error
	if dec == nil {
		dec, err = zlib.NewReader(bytes.NewReader(src))
	} else {
		err = dec.(zlib.Resetter).Reset(bytes.NewReader(src), nil)
	}
	if err != nil {
		return nil, err
	}
	n, err := io.ReadFull(dec, dst)
	switch {
	case err == io.ErrUnexpectedEOF && int64(n) >= least:
		clear(dst[n:])
		return dec, nil
	case err != nil:
		return dec, fmt.Errorf("%w after %d bytes", err, n)
	}
	var one [1]byte
	if n, err := dec.Read(one[:]); n > 0 {
		return dec, fmt.Errorf("it has more than %d bytes", len(dst))
	} else if err != io.EOF { // the checksum at its end
		return dec, err
	}
	return dec, nil
}
