package imagefile

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/bits"
	"slices"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// The facts about qcow2 are from QEMU's docs/interop/qcow2.txt. All numbers are
// big-endian.
const (
	qcowMagic      = "QFI\xfb"
	qcowMaxL1      = 32 << 20 // bytes, QEMU's own limit
	qcowOffsetMask = 0x00fffffffffffe00
	qcowCompressed = 1 << 62
	qcowCopied     = 1 << 63

	qcowDirty       = 1 << 0 // incompatible features
	qcowCorrupt     = 1 << 1
	qcowDataFile    = 1 << 2
	qcowCompression = 1 << 3
	qcowExtendedL2  = 1 << 4
)

// qcow2Table finds clusters by the L1 table, which is in memory, and the L2
// tables, which are read when they are needed.
type qcow2Table struct {
	file     *file
	size     int64 // of the disk
	version  uint32
	cluster  int64
	clBits   uint
	l2Bits   uint   // of the number of entries of an L2 table
	subs     int64  // parts of a cluster that are allocated alone: 32 with extended L2 entries, else 1
	l1       []byte // what the disk's size needs of it
	l1At     int64
	l2       pages
	zstd     bool
	decoders sync.Pool
}

// openQCOW2 opens an image of version 2 or 3. Refcounts and internal snapshots
// are ignored: the disk is the active state.
func (d *Disk) openQCOW2(opt OpenOptions) error {
	f := d.file
	head, err := f.bytes(0, 72, "header")
	if err != nil {
		return err
	}
	be := binary.BigEndian
	if string(head[:4]) != qcowMagic {
		return f.fail(ErrCorrupt, 0, "give the format that it has", "the file doesn't begin with qcow2's magic number")
	}
	t := &qcow2Table{file: f, version: be.Uint32(head[4:]), clBits: uint(be.Uint32(head[20:])), subs: 1}
	if t.version != 2 && t.version != 3 {
		return f.fail(ErrUnsupported, 4, remedyConvert, "version %d is neither 2 nor 3", t.version)
	}
	if be.Uint64(head[8:]) != 0 {
		return f.fail(ErrExternal, 8, remedyFlatten, "it names a backing file, which is never followed")
	}
	if t.clBits < 9 || t.clBits > 21 {
		return f.corrupt(20, "clusters have 2^%d bytes instead of 2^9 to 2^21", t.clBits)
	}
	t.cluster, t.l2Bits = 1<<t.clBits, t.clBits-3
	size := be.Uint64(head[24:])
	switch m := be.Uint32(head[32:]); m {
	case 0:
	case 1, 2:
		return f.fail(ErrEncrypted, 32, remedyDecrypt, "the clusters are encrypted (%s)", [...]string{1: "AES", 2: "LUKS"}[m])
	default:
		return f.corrupt(32, "encryption method %d does not exist", m)
	}
	if t.version == 3 {
		if err := t.features(); err != nil {
			return err
		}
	}
	if size > uint64(opt.MaxSize) {
		return f.fail(ErrTooLarge, 24, remedyLimit, "the disk has %d bytes, and %d are allowed", size, opt.MaxSize)
	}
	d.size, t.size, d.table = int64(size), int64(size), t
	return t.readL1(int64(be.Uint32(head[36:])), be.Uint64(head[40:]))
}

// features reads what version 3 added to the header.
func (t *qcow2Table) features() error {
	f, be := t.file, binary.BigEndian
	head, err := f.bytes(72, 32, "header")
	if err != nil {
		return err
	}
	incompatible, length := be.Uint64(head), be.Uint32(head[28:])
	switch {
	case incompatible&qcowCorrupt != 0:
		return f.fail(ErrCorrupt, 72, "repair it with qemu-img check -r all", "QEMU has marked it as corrupt")
	case incompatible&qcowDataFile != 0:
		return f.fail(ErrExternal, 72, remedyFlatten, "its content is in an external data file, which is never followed")
	case incompatible&^(qcowDirty|qcowCompression|qcowExtendedL2) != 0:
		return f.fail(ErrUnsupported, 72, remedyConvert, "incompatible features %#x are not known", incompatible&^(qcowDirty|qcowCompression|qcowExtendedL2))
	case length < 104 || int64(length) > t.cluster:
		return f.corrupt(100, "the header has %d bytes", length)
	}
	if incompatible&qcowExtendedL2 != 0 {
		if t.clBits < 14 {
			return f.corrupt(20, "clusters of %d bytes are too small for extended L2 entries", t.cluster)
		}
		t.subs, t.l2Bits = 32, t.clBits-4
	}
	if length <= 104 {
		if incompatible&qcowCompression != 0 {
			return f.corrupt(100, "the header has no room for the compression that it announces")
		}
		return nil
	}
	kind, err := f.bytes(104, 1, "header")
	if err != nil {
		return err
	}
	switch {
	case kind[0] > 1:
		return f.fail(ErrUnsupported, 104, remedyConvert, "compression %d is neither zlib nor zstd", kind[0])
	case (kind[0] != 0) != (incompatible&qcowCompression != 0):
		return f.corrupt(104, "compression %d contradicts the feature bits", kind[0])
	}
	t.zstd = kind[0] == 1
	return nil
}

// readL1 reads the L1 table and checks that its L2 tables lie in the file and
// don't overlap.
func (t *qcow2Table) readL1(entries int64, at uint64) error {
	f := t.file
	span := t.cluster << t.l2Bits // of the disk, by one L2 table
	need := (t.size + span - 1) / span
	switch {
	case entries > qcowMaxL1/8:
		return f.fail(ErrTooLarge, 36, "", "the L1 table has %d entries, and QEMU allows %d", entries, qcowMaxL1/8)
	case need > entries:
		return f.corrupt(36, "the L1 table has %d entries, and a disk of %d bytes needs %d", entries, t.size, need)
	case need == 0:
		return nil
	case at%uint64(t.cluster) != 0 || at == 0 || at > 1<<62:
		return f.corrupt(40, "the L1 table is at %d, which is no cluster", at)
	}
	t.l1At = int64(at)
	var err error
	if t.l1, err = f.bytes(t.l1At, need*8, "L1 table"); err != nil {
		return err
	}
	var tables []int64
	for i := range need {
		off := int64(binary.BigEndian.Uint64(t.l1[i*8:]) & qcowOffsetMask)
		switch {
		case off == 0:
			continue
		case off%t.cluster != 0:
			return f.corrupt(t.l1At+i*8, "the L2 table at %d is at no cluster", off)
		case !f.has(off, t.cluster):
			return f.fail(ErrTruncated, t.l1At+i*8, remedyCopy, "the L2 table at %d is beyond the file's %d bytes", off, f.size)
		case off < t.l1At+need*8 && off+t.cluster > t.l1At:
			return f.corrupt(t.l1At+i*8, "the L2 table at %d overlaps the L1 table", off)
		}
		tables = append(tables, off)
	}
	slices.Sort(tables)
	for i, off := range tables {
		if i > 0 && tables[i-1] == off {
			return f.corrupt(t.l1At, "two entries of the L1 table name the L2 table at %d", off)
		}
	}
	return nil
}

func (t *qcow2Table) at(off int64) (piece, error) {
	span := t.cluster << t.l2Bits
	i := off / span
	table := int64(binary.BigEndian.Uint64(t.l1[i*8:]) & qcowOffsetMask)
	if table == 0 {
		n := (i+1)*span - off
		for i++; i < int64(len(t.l1)/8) && binary.BigEndian.Uint64(t.l1[i*8:])&qcowOffsetMask == 0; i++ {
			n += span
		}
		return piece{kind: zero, n: min(n, t.size-off)}, nil
	}
	l2, err := t.l2.get(t.file, table, t.cluster, "L2 table")
	if err != nil {
		return piece{}, err
	}
	index := off % span / t.cluster
	var p piece
	for {
		next, err := t.entry(l2, table, index, off+p.n)
		if err != nil {
			if p.n > 0 {
				return p, nil // it is reported when it is reached
			}
			return piece{}, err
		}
		if p.n == 0 {
			p = next
		} else if next.kind != p.kind || p.kind == plain && next.host != p.host+p.n {
			return p, nil
		} else {
			p.n += next.n
		}
		if p.kind == packed || off+p.n >= t.size || (off+p.n)%span == 0 {
			return p, nil
		}
		index = (off + p.n) % span / t.cluster
	}
}

// entry says what the cluster with the given index in an L2 table, or its part
// from off on, is.
func (t *qcow2Table) entry(l2 []byte, table, index, off int64) (piece, error) {
	f := t.file
	width := t.cluster >> t.l2Bits
	pos := table + index*width
	e := binary.BigEndian.Uint64(l2[index*width:])
	in := off % t.cluster
	left := min(t.cluster-in, t.size-off)
	if e&qcowCompressed != 0 {
		x := 62 - (t.clBits - 8)
		host := int64(e & (1<<x - 1))
		sectors := int64(e>>x) & (1<<(62-x) - 1)
		room := (sectors+1)*512 - host%512
		if !f.has(host, 1) {
			return piece{}, f.fail(ErrTruncated, pos, remedyCopy, "a compressed cluster at %d is beyond the file's %d bytes", host, f.size)
		}
		return piece{kind: packed, n: left, file: f, host: host, room: min(room, f.size-host), unit: t.cluster, from: off - in}, nil
	}
	host := int64(e & qcowOffsetMask)
	isZero := e&1 != 0
	if t.subs > 1 {
		// Of each of the 32 parts one bit says that it is allocated, and one that
		// it is zeros.
		bitmap := binary.BigEndian.Uint64(l2[index*width+8:])
		alloc, zeros := uint32(bitmap), uint32(bitmap>>32)
		if alloc&zeros != 0 || isZero {
			return piece{}, f.corrupt(pos, "an extended L2 entry contradicts itself")
		}
		sub := t.cluster / t.subs
		i := in / sub
		set := alloc >> i
		run := int64(bits.TrailingZeros32(^set))
		if isZero = set&1 == 0; isZero {
			run = int64(bits.TrailingZeros32(set))
		}
		left = min(left, min(i+run, t.subs)*sub-in)
	} else if isZero && t.version < 3 {
		return piece{}, f.corrupt(pos, "a zero cluster can't be in an image of version 2")
	}
	if isZero || host == 0 {
		if host == 0 && !isZero && t.subs > 1 {
			return piece{}, f.corrupt(pos, "a part of a cluster is allocated, and the cluster isn't")
		}
		return piece{kind: zero, n: left}, nil
	}
	if host%t.cluster != 0 {
		return piece{}, f.corrupt(pos, "a cluster begins at %d", host)
	}
	if !f.has(host+in, left) {
		return piece{}, f.fail(ErrTruncated, pos, remedyCopy, "a cluster at %d is beyond the file's %d bytes", host, f.size)
	}
	return piece{kind: plain, n: left, file: f, host: host + in, unit: t.cluster / t.subs}, nil
}

func (t *qcow2Table) meta(mark func(f *file, off, n, unit int64)) {
	unit := t.cluster / t.subs
	mark(t.file, 0, 1, unit)
	if len(t.l1) > 0 {
		mark(t.file, t.l1At, int64(len(t.l1)), unit)
	}
	for i := 0; i < len(t.l1); i += 8 {
		if off := int64(binary.BigEndian.Uint64(t.l1[i:]) & qcowOffsetMask); off != 0 {
			mark(t.file, off, t.cluster, unit)
		}
	}
}

func (t *qcow2Table) unpack(p piece, dst []byte) error {
	src, err := t.file.bytes(p.host, p.room, "compressed cluster")
	if err != nil {
		return err
	}
	if t.zstd {
		dec, _ := t.decoders.Get().(*zstd.Decoder)
		if dec == nil {
			// Of one goroutine, so that a decoder which nobody closes leaves nothing
			// behind.
			if dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20)); err != nil {
				return err
			}
		}
		if err = dec.Reset(bytes.NewReader(src)); err == nil {
			_, err = io.ReadFull(dec, dst)
		}
		dec.Reset(nil)
		t.decoders.Put(dec)
	} else {
		dec, _ := t.decoders.Get().(io.ReadCloser)
		if dec == nil {
			dec = flate.NewReader(nil)
		}
		if err = dec.(flate.Resetter).Reset(bytes.NewReader(src), nil); err == nil {
			_, err = io.ReadFull(dec, dst)
		}
		t.decoders.Put(dec)
	}
	if err != nil {
		e := t.file.corrupt(p.host, "a compressed cluster can't be unpacked")
		e.Err = err
		return e
	}
	return nil
}
