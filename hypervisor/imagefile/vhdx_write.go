package imagefile

import (
	"crypto/rand"
	"encoding/binary"
	"unicode/utf16"
)

// Where a VHDX has what, in bytes. The blocks follow the allocation table.
const (
	vhdxLogAt  = 1 << 20
	vhdxMetaAt = 2 << 20
	vhdxBATAt  = 3 << 20
	vhdxSector = 512
)

// vhdx writes an image with an empty log. Blocks of zeros are not present,
// unless it is a fixed one.
func (o *output) vhdx(opt WriteOptions) error {
	size := o.sectors()
	if size > vhdxMaxSize {
		return &Error{Format: VHDX, Offset: -1, Kind: ErrTooLarge, Detail: "a VHDX can't have more than 64 TiB"}
	}
	block := int64(2 << 20)
	if size > 4<<40 { // keep the table below 64 MiB
		block = 32 << 20
	}
	spans, err := o.spans(block)
	if err != nil {
		return err
	}
	blocks := (size + block - 1) / block
	if opt.Fixed {
		spans = []span{{0, blocks}}
	}
	chunk := int64(vhdxSector<<23) / block
	entries := blocks + (blocks-1)/chunk
	dataAt := roundUp(vhdxBATAt+entries*8, 1<<20)

	le := binary.LittleEndian
	p := make([]byte, 64<<10)
	copy(p, vhdxMagic)
	for i, c := range utf16.Encode([]rune("Anyvisor")) {
		le.PutUint16(p[8+2*i:], c)
	}
	if err := o.write(p); err != nil {
		return err
	}
	clear(p)
	copy(p, "head")
	rand.Read(p[16:48]) // of the file's and the data's last change
	le.PutUint16(p[66:], 1)
	le.PutUint32(p[68:], 1<<20)
	le.PutUint64(p[72:], vhdxLogAt)
	for i := range uint64(2) {
		le.PutUint64(p[8:], i+1)
		le.PutUint32(p[4:], vhdxSum(p[:4096]))
		if err := o.write(p); err != nil {
			return err
		}
	}
	clear(p)
	copy(p, "regi")
	le.PutUint32(p[8:], 2)
	region := func(p []byte, id [16]byte, at, length int64) {
		copy(p, id[:])
		le.PutUint64(p[16:], uint64(at))
		le.PutUint32(p[24:], uint32(length))
		le.PutUint32(p[28:], 1)
	}
	region(p[16:], vhdxBAT, vhdxBATAt, dataAt-vhdxBATAt)
	region(p[48:], vhdxMetadata, vhdxMetaAt, 1<<20)
	le.PutUint32(p[4:], vhdxSum(p))
	for range 2 {
		if err := o.write(p); err != nil {
			return err
		}
	}
	if err := o.pad(vhdxMetaAt); err != nil {
		return err
	}
	if err := o.write(vhdxMeta(size, block, opt.Fixed)); err != nil {
		return err
	}
	if err := o.pad(vhdxBATAt); err != nil {
		return err
	}

	put := newEntries(o, 8)
	put.put = le.PutUint64
	next, at := int64(0), dataAt
	add := func(v uint64) error {
		if next > 0 && next%chunk == 0 {
			if err := put.add(0); err != nil { // of a bitmap that only a child has
				return err
			}
		}
		next++
		return put.add(v)
	}
	for _, s := range spans {
		for next < s.first {
			if err := add(vhdxNotPresent); err != nil {
				return err
			}
		}
		for next < s.end {
			if err := add(uint64(at) | vhdxPresent); err != nil {
				return err
			}
			at += block
		}
	}
	if err := put.end(dataAt); err != nil {
		return err
	}
	return o.spanned(spans, block)
}

// vhdxMeta returns the metadata table and its items.
func vhdxMeta(size, block int64, fixed bool) []byte {
	const disk, required = 2, 4
	le := binary.LittleEndian
	p := make([]byte, 64<<10, 65<<10)
	copy(p, "metadata")
	n := 0
	add := func(id [16]byte, flags uint32, value []byte) {
		e := p[32+32*n:]
		copy(e, id[:])
		le.PutUint32(e[16:], uint32(len(p)))
		le.PutUint32(e[20:], uint32(len(value)))
		le.PutUint32(e[24:], flags)
		p = append(p, value...)
		n++
	}
	leave := uint32(0)
	if fixed {
		leave = vhdxLeaveAllocated
	}
	var id [16]byte
	rand.Read(id[:])
	add(vhdxFileParameters, required, le.AppendUint32(le.AppendUint32(nil, uint32(block)), leave))
	add(vhdxDiskSize, disk|required, le.AppendUint64(nil, uint64(size)))
	add(vhdxDiskID, disk|required, id[:])
	add(vhdxLogicalSector, disk|required, le.AppendUint32(nil, vhdxSector))
	add(vhdxPhysicalSector, disk|required, le.AppendUint32(nil, 4096))
	le.PutUint16(p[10:], uint16(n))
	return p
}
