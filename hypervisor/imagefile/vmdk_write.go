package imagefile

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/klauspost/compress/zlib"
)

const (
	vmdkGrain    = 64 << 10 // bytes; what VMware's own programs write
	vmdkEntries  = 512
	vmdkOverhead = 128 // sectors before the first grain
)

// vmdk writes a streamOptimized image: header, descriptor, compressed grains
// with the table of each 32 MiB after them, directory, footer. Grains of zeros
// are left out. id distinguishes this image from others; 0 means a random one.
func (o *output) vmdk(id uint32) error {
	capacity := o.sectors() / 512
	if o.size > DefaultMaxSize { // ESXi takes 62 TiB
		return &Error{Format: VMDK, Offset: -1, Kind: ErrTooLarge, Detail: "a VMDK can't have more than 64 TiB"}
	}
	for id == 0 || id >= 0xfffffffe {
		var p [4]byte
		rand.Read(p[:])
		id = binary.LittleEndian.Uint32(p[:])
	}
	spans, err := o.spans(vmdkGrain)
	if err != nil {
		return err
	}
	if err := o.write(vmdkHead(capacity, vmdkAtEnd)); err != nil {
		return err
	}
	if err := o.write([]byte(streamDescriptor(capacity, id))); err != nil {
		return err
	}
	if err := o.pad(vmdkOverhead * 512); err != nil {
		return err
	}
	g := &grains{output: o, gd: make([]uint32, (capacity*512+vmdkGrain*vmdkEntries-1)/(vmdkGrain*vmdkEntries)), table: -1}
	g.zw, _ = zlib.NewWriterLevel(&g.z, zlib.BestSpeed)
	buf := make([]byte, chunk)
	for _, s := range spans {
		for i := s.first; i < s.end; {
			if err := o.ctx.Err(); err != nil {
				return err
			}
			p := buf[:min(chunk, (s.end-i)*vmdkGrain)]
			if err := o.fill(p, i*vmdkGrain); err != nil {
				return err
			}
			for ; len(p) > 0; p = p[vmdkGrain:] {
				if err := g.add(i, p[:vmdkGrain]); err != nil {
					return err
				}
				i++
			}
			if o.progress != nil {
				o.progress(min(i*vmdkGrain, o.size), o.size)
			}
		}
	}
	return g.end(capacity)
}

// vmdkHead returns a header, or a footer that says where the directory is.
func vmdkHead(capacity int64, directory uint64) []byte {
	p := make([]byte, 512)
	le := binary.LittleEndian
	copy(p, vmdkMagic)
	le.PutUint32(p[4:], 3)
	le.PutUint32(p[8:], vmdkNewlines|vmdkCompressed|vmdkMarkers)
	le.PutUint64(p[12:], uint64(capacity))
	le.PutUint64(p[20:], vmdkGrain/512)
	le.PutUint64(p[28:], 1)  // the descriptor's sector
	le.PutUint64(p[36:], 20) // and its length
	le.PutUint32(p[44:], vmdkEntries)
	le.PutUint64(p[56:], directory)
	le.PutUint64(p[64:], vmdkOverhead)
	copy(p[73:], "\n \r\n")
	le.PutUint16(p[77:], 1) // deflate
	return p
}

// streamDescriptor returns the text in a streamOptimized image.
func streamDescriptor(capacity int64, id uint32) string {
	const heads, sectors = 255, 63
	return fmt.Sprintf(`# Disk DescriptorFile
version=1
CID=%08x
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW %d SPARSE "disk.vmdk"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "%d"
ddb.geometry.heads = "%d"
ddb.geometry.sectors = "%d"
ddb.adapterType = "lsilogic"
`, id, capacity, max(1, capacity/(heads*sectors)), heads, sectors)
}

// grains writes grains and their tables.
type grains struct {
	*output
	z     bytes.Buffer
	zw    *zlib.Writer
	gd    []uint32 // sectors of the tables
	table int64    // whose entries are in gt; -1 before the first
	gt    [vmdkEntries]uint32
	any   bool // gt has an entry
}

// sector returns where the next byte is written.
func (g *grains) sector() (uint32, error) {
	if g.n/512 >= 1<<32 {
		return 0, &Error{Format: VMDK, Offset: g.n, Kind: ErrTooLarge, Detail: "a sparse VMDK can't have more than 2 TiB", Remedy: "use another format"}
	}
	return uint32(g.n / 512), nil
}

// add writes a grain, unless it has zeros only.
func (g *grains) add(i int64, p []byte) error {
	if t := i / vmdkEntries; t != g.table {
		if err := g.flush(); err != nil {
			return err
		}
		g.table = t
	}
	if isZeros(p) {
		return nil
	}
	g.z.Reset()
	g.z.Write(make([]byte, 12))
	g.zw.Reset(&g.z)
	if _, err := g.zw.Write(p); err != nil {
		return err
	}
	if err := g.zw.Close(); err != nil {
		return err
	}
	b := g.z.Bytes()
	binary.LittleEndian.PutUint64(b, uint64(i*vmdkGrain/512))
	binary.LittleEndian.PutUint32(b[8:], uint32(len(b)-12))
	at, err := g.sector()
	if err != nil {
		return err
	}
	g.gt[i%vmdkEntries], g.any = at, true
	if err := g.write(b); err != nil {
		return err
	}
	return g.pad(roundUp(g.n, 512))
}

// flush writes the table of the grains before, if there are any.
func (g *grains) flush() error {
	if !g.any {
		return nil
	}
	var err error
	if g.gd[g.table], err = g.marked(vmdkTable, g.gt[:]); err != nil {
		return err
	}
	g.gt, g.any = [vmdkEntries]uint32{}, false
	return nil
}

// marked writes a marker and what it announces. It returns the latter's sector.
func (g *grains) marked(kind uint32, numbers []uint32) (uint32, error) {
	p := make([]byte, 512, 512+roundUp(int64(len(numbers))*4, 512))
	binary.LittleEndian.PutUint64(p, uint64(cap(p)/512-1))
	binary.LittleEndian.PutUint32(p[12:], kind)
	for _, v := range numbers {
		p = binary.LittleEndian.AppendUint32(p, v)
	}
	at, err := g.sector()
	if err != nil {
		return 0, err
	}
	return at + 1, g.write(p[:cap(p)])
}

// end writes the last table, the directory, the footer and the end marker.
func (g *grains) end(capacity int64) error {
	if err := g.flush(); err != nil {
		return err
	}
	gd, err := g.marked(vmdkDirectory, g.gd)
	if err != nil {
		return err
	}
	p := make([]byte, 512, 1536)
	binary.LittleEndian.PutUint64(p, 1)
	binary.LittleEndian.PutUint32(p[12:], vmdkFooter)
	p = append(p, vmdkHead(capacity, uint64(gd))...)
	return g.write(p[:1536])
}

// FlatDescriptor returns the descriptor of a monolithicFlat VMDK, whose data is
// the raw disk of size bytes, a multiple of 512, in the file with the given
// name beside it. Write writes that one as [Raw].
func FlatDescriptor(size int64, name string) ([]byte, error) {
	if size <= 0 || size%512 != 0 || name == "" || strings.ContainsAny(name, "/\\\"\r\n\x00") {
		return nil, &Error{Format: VMDK, Offset: -1, Kind: ErrUnsupported, Detail: fmt.Sprintf("a flat extent can't have %d bytes in %q", size, name), Remedy: "give whole sectors, and a plain file name"}
	}
	text := streamDescriptor(size/512, 1)
	text = strings.Replace(text, "streamOptimized", "monolithicFlat", 1)
	text = strings.Replace(text, `SPARSE "disk.vmdk"`, `FLAT "`+name+`" 0`, 1)
	return []byte(text), nil
}
