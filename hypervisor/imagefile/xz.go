package imagefile

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// The facts about xz are from The .xz File Format 1.1.0, and those about LZMA2's
// chunks from its reference implementation.
const xzMagic = "\xfd7zXZ\x00"

// xzGuard hands an xz stream on, and looks at each block's header before the
// decompressor does, which would allocate whatever window a block asks for, up
// to 4 GiB.
type xzGuard struct {
	r     *bufio.Reader
	n     int64 // bytes that were handed on
	left  int   // bytes that may be handed on before the next look
	next  func() error
	check int // bytes of the checksum after each block
	block int // bytes of the block so far, modulo 4
}

func newXZGuard(r io.Reader) *xzGuard {
	g := &xzGuard{r: bufio.NewReaderSize(r, 64<<10)}
	g.next = g.header
	return g
}

func (g *xzGuard) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for g.left == 0 {
		if g.next == nil { // the index and what follows have no windows
			return g.r.Read(p)
		}
		if err := g.next(); err != nil {
			return 0, err
		}
	}
	n, err := g.r.Read(p[:min(len(p), g.left)])
	g.left -= n
	g.n += int64(n)
	return n, err
}

// peek returns the next n bytes.
func (g *xzGuard) peek(n int) ([]byte, error) {
	p, err := g.r.Peek(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return p, err
}

func (g *xzGuard) corrupt(detail string, args ...any) error {
	return &Error{Offset: g.n, Kind: ErrCorrupt, Detail: "the xz file " + fmt.Sprintf(detail, args...), Remedy: remedyCopy}
}

// header reads the stream's header.
func (g *xzGuard) header() error {
	p, err := g.peek(12)
	if err != nil {
		return err
	}
	if string(p[:6]) != xzMagic || p[6] != 0 || p[7] > 15 {
		return g.corrupt("has no header")
	}
	g.check = [16]int{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}[p[7]]
	g.left, g.next = 12, g.blockHeader
	return nil
}

// blockHeader reads a block's header, or the byte where the index begins.
func (g *xzGuard) blockHeader() error {
	p, err := g.peek(1)
	if err != nil {
		return err
	}
	if p[0] == 0 {
		g.next, g.left = nil, 1
		return nil
	}
	size := (int(p[0]) + 1) * 4
	if p, err = g.peek(size); err != nil {
		return err
	}
	flags, rest := p[1], p[2:size-4]
	number := func() uint64 {
		v, n := binary.Uvarint(rest)
		if n <= 0 {
			rest = nil
			return 1<<64 - 1
		}
		rest = rest[n:]
		return v
	}
	if flags&0x40 != 0 {
		number()
	}
	if flags&0x80 != 0 {
		number()
	}
	if flags&3 != 0 || number() != 0x21 || number() != 1 || len(rest) == 0 {
		return &Error{Offset: g.n, Kind: ErrUnsupported, Detail: "the xz file uses more than LZMA2", Remedy: "compress it again with xz and no filter"}
	}
	bits := rest[0] & 0x3f
	if bits > 40 || uint64(2|bits&1)<<(bits/2+11) > maxWindow {
		return &Error{Offset: g.n, Kind: ErrUnsupported, Detail: fmt.Sprintf("the xz file needs a window of more than %d MiB", maxWindow>>20), Remedy: "compress it again with xz -9 or less"}
	}
	g.left, g.next, g.block = size, g.chunk, 0
	return nil
}

// chunk reads the header of an LZMA2 chunk, or the byte that ends the block.
func (g *xzGuard) chunk() error {
	p, err := g.peek(1)
	if err != nil {
		return err
	}
	switch control := p[0]; {
	case control == 0:
		g.left = 1 + (4-(g.block+1)&3)&3 + g.check
		g.next = g.blockHeader
		return nil
	case control <= 2:
		if p, err = g.peek(3); err != nil {
			return err
		}
		g.left = 3 + int(binary.BigEndian.Uint16(p[1:])) + 1
	case control >= 0x80:
		if p, err = g.peek(5); err != nil {
			return err
		}
		g.left = 5 + int(binary.BigEndian.Uint16(p[3:])) + 1
		if control >= 0xc0 {
			g.left++
		}
	default:
		return g.corrupt("has a chunk of kind %d", control)
	}
	g.block = (g.block + g.left) & 3
	return nil
}
