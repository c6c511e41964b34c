package imagefile

import (
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"strings"
)

// The facts about VHDX are from Microsoft's [MS-VHDX]. All numbers are
// little-endian.
const (
	vhdxMagic    = "vhdxfile"
	vhdxHeader1  = 64 << 10 // places in the file
	vhdxHeader2  = 128 << 10
	vhdxRegions1 = 192 << 10
	vhdxRegions2 = 256 << 10
	vhdxMaxSize  = 64 << 40

	vhdxNotPresent = 0 // states of a block
	vhdxUndefined  = 1
	vhdxZero       = 2
	vhdxUnmapped   = 3
	vhdxPresent    = 6

	vhdxLeaveAllocated = 1 << 0 // file parameters
	vhdxHasParent      = 1 << 1
)

var (
	vhdxBAT      = guid("2DC27766-F623-4200-9D64-115E9BFD4A08")
	vhdxMetadata = guid("8B7CA206-4790-4B9A-B8FE-575F050F886E")

	vhdxFileParameters = guid("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")
	vhdxDiskSize       = guid("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
	vhdxDiskID         = guid("BECA12AB-B2E6-4523-93EF-C309E000C746")
	vhdxLogicalSector  = guid("8141BF1D-A96F-4709-BA47-F233A8FAAB5F")
	vhdxPhysicalSector = guid("CDA348C7-445D-4471-9CC9-E9885251C556")
	vhdxParentLocator  = guid("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C")

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// guid returns the bytes of a GUID, of whose five groups the first three are
// little-endian.
func guid(s string) (g [16]byte) {
	p, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(p) != 16 {
		panic("imagefile: " + s)
	}
	for i, from := range [16]int{3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15} {
		g[i] = p[from]
	}
	return g
}

// vhdxSum returns the checksum of a structure, whose own field at byte 4 counts
// as zeros.
func vhdxSum(p []byte) uint32 {
	sum := crc32.Update(0, castagnoli, p[:4])
	sum = crc32.Update(sum, castagnoli, zeros[:4])
	return crc32.Update(sum, castagnoli, p[8:])
}

// vhdxTable finds the blocks of a VHDX.
type vhdxTable struct {
	noTables
	file     *file
	size     int64 // of the disk
	block    int64
	chunk    int64      // blocks, after whose entries comes one for a bitmap of sectors
	bat      int64      // where the entries are
	batLen   int64      // bytes that the disk needs of them
	reserved [][2]int64 // where no block can be: begin and end
	pages    pages
}

// openVHDX opens a fixed or dynamic image.
func (d *Disk) openVHDX(opt OpenOptions) error {
	f, le := d.file, binary.LittleEndian
	magic, err := f.bytes(0, 8, "file identifier")
	if err != nil {
		return err
	}
	if string(magic) != vhdxMagic {
		return f.fail(ErrCorrupt, 0, "give the format that it has", "the file doesn't begin as a VHDX")
	}
	if f.size < 1<<20 {
		return f.fail(ErrTruncated, f.size, remedyCopy, "the header section of 1 MiB ends early")
	}
	// Of the two headers the valid one with the higher number counts.
	var head []byte
	for _, at := range []int64{vhdxHeader1, vhdxHeader2} {
		p, err := f.bytes(at, 4096, "header")
		if err != nil {
			return err
		}
		if string(p[:4]) == "head" && le.Uint32(p[4:]) == vhdxSum(p) && (head == nil || le.Uint64(p[8:]) > le.Uint64(head[8:])) {
			head = p
		}
	}
	switch {
	case head == nil:
		return f.corrupt(vhdxHeader1, "neither of the two headers is valid")
	case le.Uint16(head[66:]) != 1:
		return f.fail(ErrUnsupported, vhdxHeader1+66, remedyConvert, "version %d of the format isn't 1", le.Uint16(head[66:]))
	case !isZeros(head[48:64]):
		return f.fail(ErrUnsupported, vhdxHeader1+48, "attach and detach the disk once where it was used, or repair it with qemu-img check -r all", "its log holds changes: it was not closed, or is in use")
	}
	t := &vhdxTable{file: f, reserved: [][2]int64{{0, 1 << 20}}}
	logLen, logAt := int64(le.Uint32(head[68:])), le.Uint64(head[72:])
	if logAt > uint64(f.size) || !f.has(int64(logAt), logLen) {
		return f.fail(ErrTruncated, vhdxHeader1+72, remedyCopy, "the log at %d is beyond the file's %d bytes", logAt, f.size)
	}
	t.reserved = append(t.reserved, [2]int64{int64(logAt), int64(logAt) + logLen})
	bat, meta, err := t.regions()
	if err != nil {
		return err
	}
	if err := t.metadata(meta, opt); err != nil {
		return err
	}
	d.size, d.table = t.size, t
	blocks := (t.size + t.block - 1) / t.block
	if blocks > 0 {
		t.batLen = (blocks + (blocks-1)/t.chunk) * 8
	}
	if t.bat = bat[0]; t.batLen > bat[1]-bat[0] {
		return f.corrupt(t.bat, "the block allocation table has %d bytes, and a disk of %d bytes needs %d", bat[1]-bat[0], t.size, t.batLen)
	}
	return nil
}

// regions finds the block allocation table and the metadata.
func (t *vhdxTable) regions() (bat, meta [2]int64, err error) {
	f, le := t.file, binary.LittleEndian
	var p []byte
	var at int64
	for _, at = range []int64{vhdxRegions1, vhdxRegions2} {
		if p, err = f.bytes(at, 64<<10, "region table"); err != nil {
			return bat, meta, err
		}
		if string(p[:4]) == "regi" && le.Uint32(p[4:]) == vhdxSum(p) {
			break
		}
		p = nil
	}
	if p == nil {
		return bat, meta, f.corrupt(vhdxRegions1, "neither of the two region tables is valid")
	}
	n := le.Uint32(p[8:])
	if n > 2047 {
		return bat, meta, f.corrupt(at+8, "a region table can't have %d entries", n)
	}
	for i := range int(n) {
		e := p[16+i*32:]
		begin, length := le.Uint64(e[16:]), int64(le.Uint32(e[24:]))
		pos := at + 16 + int64(i)*32
		switch {
		case begin > uint64(f.size) || !f.has(int64(begin), length):
			return bat, meta, f.fail(ErrTruncated, pos, remedyCopy, "a region of %d bytes at %d is beyond the file's %d bytes", length, begin, f.size)
		case begin%(1<<20) != 0 || length%(1<<20) != 0 || length == 0:
			return bat, meta, f.corrupt(pos, "a region of %d bytes at %d isn't aligned to 1 MiB", length, begin)
		}
		r := [2]int64{int64(begin), int64(begin) + length}
		for _, x := range t.reserved {
			if r[0] < x[1] && x[0] < r[1] {
				return bat, meta, f.corrupt(pos, "the region at %d overlaps another", begin)
			}
		}
		t.reserved = append(t.reserved, r)
		switch [16]byte(e) {
		case vhdxBAT:
			bat = r
		case vhdxMetadata:
			meta = r
		default:
			if le.Uint32(e[28:])&1 != 0 {
				return bat, meta, f.fail(ErrUnsupported, pos, remedyConvert, "region %x is required and not known", e[:16])
			}
		}
	}
	if bat[1] == 0 || meta[1] == 0 {
		return bat, meta, f.corrupt(at, "there is no block allocation table or no metadata")
	}
	return bat, meta, nil
}

// metadata reads the disk's size and the size of its blocks.
func (t *vhdxTable) metadata(r [2]int64, opt OpenOptions) error {
	f, le := t.file, binary.LittleEndian
	p, err := f.bytes(r[0], 64<<10, "metadata table")
	if err != nil {
		return err
	}
	n := le.Uint16(p[10:])
	if string(p[:8]) != "metadata" || n > 2047 {
		return f.corrupt(r[0], "the metadata table isn't there, or has %d entries", n)
	}
	var sector int64
	var sized bool
	for i := range int(n) {
		e := p[32+i*32:]
		id := [16]byte(e)
		off, length, flags := int64(le.Uint32(e[16:])), le.Uint32(e[20:]), le.Uint32(e[24:])
		pos := r[0] + 32 + int64(i)*32
		want := map[[16]byte]uint32{vhdxFileParameters: 8, vhdxDiskSize: 8, vhdxLogicalSector: 4}[id]
		if want == 0 {
			known := id == vhdxDiskID || id == vhdxPhysicalSector || id == vhdxParentLocator
			if !known && flags&4 != 0 {
				return f.fail(ErrUnsupported, pos, remedyConvert, "metadata %x is required and not known", id)
			}
			continue
		}
		if length != want || off < 64<<10 || off > r[1]-r[0]-int64(length) {
			return f.corrupt(pos, "metadata of %d bytes can't be at %d", length, off)
		}
		v, err := f.bytes(r[0]+off, int64(length), "metadata")
		if err != nil {
			return err
		}
		switch at := r[0] + off; id {
		case vhdxFileParameters:
			t.block = int64(le.Uint32(v))
			if t.block < 1<<20 || t.block > 256<<20 || t.block&(t.block-1) != 0 {
				return f.corrupt(at, "a block has %d bytes instead of a power of two from 1 to 256 MiB", t.block)
			}
			if le.Uint32(v[4:])&vhdxHasParent != 0 {
				return f.fail(ErrExternal, at+4, "merge it into its parent first, with Hyper-V's Merge-VHD or Convert-VHD", "it is a differencing disk; its parent is never followed")
			}
		case vhdxDiskSize:
			size := le.Uint64(v)
			if size > uint64(opt.MaxSize) {
				return f.fail(ErrTooLarge, at, remedyLimit, "the disk has %d bytes, and %d are allowed", size, opt.MaxSize)
			}
			t.size, sized = int64(size), true
		case vhdxLogicalSector:
			if sector = int64(le.Uint32(v)); sector != 512 && sector != 4096 {
				return f.corrupt(at, "a sector has %d bytes instead of 512 or 4096", sector)
			}
		}
	}
	if t.block == 0 || !sized || sector == 0 {
		return f.corrupt(r[0], "the metadata lacks the disk's, a block's or a sector's size")
	}
	t.chunk = sector << 23 / t.block
	return nil
}

func (t *vhdxTable) at(off int64) (piece, error) {
	le := binary.LittleEndian
	i := off / t.block
	e := (i + i/t.chunk) * 8
	page := e / pageSize * pageSize
	p, err := t.pages.get(t.file, t.bat+page, min(pageSize, t.batLen-page), "block allocation table")
	if err != nil {
		return piece{}, err
	}
	in := off % t.block
	left := min(t.block-in, t.size-off)
	entry := le.Uint64(p[e-page:])
	pos := t.bat + e
	switch entry & 7 {
	case vhdxNotPresent, vhdxUndefined, vhdxZero, vhdxUnmapped:
		return piece{kind: zero, n: left}, nil
	case vhdxPresent:
	default:
		return piece{}, t.file.corrupt(pos, "state %d of a block isn't one of a disk without a parent", entry&7)
	}
	host := int64(entry >> 20 << 20)
	if host < 0 || !t.file.has(host+in, left) {
		return piece{}, t.file.fail(ErrTruncated, pos, remedyCopy, "a block at %d is beyond the file's %d bytes", host, t.file.size)
	}
	for _, r := range t.reserved {
		if host < r[1] && r[0] < host+t.block {
			return piece{}, t.file.corrupt(pos, "a block at %d overlaps the tables", host)
		}
	}
	return piece{kind: plain, n: left, file: t.file, host: host + in, unit: t.block}, nil
}
