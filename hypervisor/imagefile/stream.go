package imagefile

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
)

// Chunk is a part of a disk that has data.
type Chunk struct {
	Offset int64  // in the disk, in bytes
	Data   []byte // valid until the next chunk
}

// Stream is an image that is read from its beginning to its end, once.
type Stream struct {
	file  *file // without a reader; for errors
	r     *bufio.Reader
	n     int64 // bytes of the image that were read
	size  int64 // of the disk; -1 if not known yet
	opt   OpenOptions
	head  vmdkHeader
	began bool
}

// OpenStream begins to read an image from r, which can't seek. Raw images and
// streamOptimized VMDKs can be read so. For the others it returns an error with
// [ErrSeek]: write them to a temporary file, and use [Open].
func OpenStream(r io.Reader, format Format, o *OpenOptions) (*Stream, error) {
	opt := o.orDefault()
	s := &Stream{file: &file{name: opt.Name, format: format, size: 1<<63 - 1}, size: -1, opt: opt}
	switch format {
	case Raw:
		s.r = bufio.NewReaderSize(r, 16)
		return s, nil
	case VMDK:
		s.r = bufio.NewReaderSize(r, 64<<10)
		return s, s.beginVMDK()
	case QCOW2, VHD, VHDX, OVA:
		return nil, s.file.fail(ErrSeek, -1, remedySpool, "its tables are anywhere in the file")
	}
	return nil, s.file.fail(ErrUnsupported, -1, "raw and vmdk can be streamed", "the format is %d", format)
}

// Size returns the disk's size in bytes. A raw image's is known after its last
// chunk, and -1 before.
func (s *Stream) Size() int64 { return s.size }

// Chunks walks over the parts of the disk that have data, in order. What is
// between them is zeros. Only an image whose walk ends without an error was
// there as a whole. A second walk is an error.
func (s *Stream) Chunks() iter.Seq2[Chunk, error] {
	return func(yield func(Chunk, error) bool) {
		if s.began {
			yield(Chunk{}, s.file.fail(ErrSeek, -1, remedySpool, "the stream was read already"))
			return
		}
		s.began = true
		read := s.vmdkChunks
		if s.file.format == Raw {
			read = s.rawChunks
		}
		if err := read(func(c Chunk) bool { return yield(c, nil) }); err != nil {
			yield(Chunk{}, err)
		}
	}
}

func (s *Stream) rawChunks(yield func(Chunk) bool) error {
	buf := make([]byte, chunk)
	for {
		n, err := io.ReadFull(s.r, buf)
		if end := s.n + int64(n); end > s.opt.MaxSize {
			return s.file.fail(ErrTooLarge, s.opt.MaxSize, remedyLimit, "the disk has more than the %d bytes that are allowed", s.opt.MaxSize)
		}
		for at := 0; at < n; {
			begin := at
			for at < n && !isZeros(buf[at:min(at+scanUnit, n)]) {
				at = min(at+scanUnit, n)
			}
			if at > begin && !yield(Chunk{s.n + int64(begin), buf[begin:at]}) {
				return nil
			}
			for at < n && isZeros(buf[at:min(at+scanUnit, n)]) {
				at = min(at+scanUnit, n)
			}
		}
		s.n += int64(n)
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			s.size = s.n
			return nil
		default:
			return fmt.Errorf("imagefile: read %q at byte %d: %w", s.opt.Name, s.n, err)
		}
	}
}

// read fills p with what comes next.
func (s *Stream) read(p []byte, what string) error {
	n, err := io.ReadFull(s.r, p)
	s.n += int64(n)
	return s.ended(err, what)
}

// skip drops what comes before off.
func (s *Stream) skip(off int64, what string) error {
	n, err := io.CopyN(io.Discard, s.r, max(0, off-s.n))
	s.n += n
	return s.ended(err, what)
}

func (s *Stream) ended(err error, what string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return s.file.fail(ErrTruncated, s.n, remedyCopy, "the %s ends early", what)
	}
	return fmt.Errorf("imagefile: read %s of %q at byte %d: %w", what, s.opt.Name, s.n, err)
}

// beginVMDK reads what comes before the grains.
func (s *Stream) beginVMDK() error {
	head := make([]byte, 512)
	if err := s.read(head, "header"); err != nil {
		return err
	}
	h, err := parseVMDK(s.file, head, 0, s.opt)
	if err != nil {
		return err
	}
	if h.flags&(vmdkCompressed|vmdkMarkers) != vmdkCompressed|vmdkMarkers {
		return s.file.fail(ErrSeek, 8, remedySpool, "it isn't streamOptimized")
	}
	if h.directory != vmdkAtEnd {
		return s.file.fail(ErrSeek, 56, remedySpool, "it has its tables at the beginning, as QEMU writes them, and no mark at its end")
	}
	if h.desc == 0 || h.desc+h.descLen > h.overhead {
		return s.file.corrupt(28, "the descriptor isn't before the grains")
	}
	if err := s.skip(h.desc, "header"); err != nil {
		return err
	}
	text := make([]byte, h.descLen)
	if err := s.read(text, "descriptor"); err != nil {
		return err
	}
	if _, err := embedded(s.file, h, text); err != nil {
		return err
	}
	s.head, s.size = h, h.capacity
	return s.skip(h.overhead, "descriptor")
}

// drain reads what follows the end, so that the reader comes to its own.
func (s *Stream) drain() error {
	const most = 64 << 10 // archives fill up their last block
	n, err := io.CopyN(io.Discard, s.r, most+1)
	s.n += n
	switch {
	case err == io.EOF:
		return nil
	case err == nil:
		return s.file.corrupt(s.n, "more than %d bytes follow the image's end", most)
	}
	return s.ended(err, "end")
}

func (s *Stream) vmdkChunks(yield func(Chunk) bool) error {
	var sector [512]byte
	var src []byte
	dst := make([]byte, s.head.grain)
	var dec io.ReadCloser
	next := int64(0) // the lowest offset that the next grain may have
	for {
		at := s.n
		if err := s.read(sector[:], "image"); err != nil {
			return err
		}
		value, n := binary.LittleEndian.Uint64(sector[:]), int64(binary.LittleEndian.Uint32(sector[8:]))
		if n == 0 {
			kind := binary.LittleEndian.Uint32(sector[12:])
			switch {
			case kind == vmdkEnd:
				return s.drain()
			case kind > vmdkFooter || value > vmdkMaxGD/512:
				return s.file.corrupt(at, "marker %d announces %d sectors", kind, value)
			}
			if err := s.skip(s.n+int64(value)*512, "table"); err != nil {
				return err
			}
			continue
		}
		if value >= uint64(s.size/512) || int64(value)*512%s.head.grain != 0 {
			return s.file.corrupt(at, "a grain can't be at sector %d of %d", value, s.size/512)
		}
		off := int64(value) * 512
		switch {
		case n > maxPacked(s.head.grain):
			return s.file.corrupt(at, "a grain of %d bytes can't have %d compressed ones", s.head.grain, n)
		case off < next && off == next-s.head.grain:
			return s.file.corrupt(at, "the grain of sector %d comes twice", value)
		case off < next:
			return s.file.fail(ErrSeek, at, remedySpool, "its grains are not in order")
		}
		next = off + s.head.grain
		src = append(src[:0], sector[12:min(512, 12+n)]...)
		if more := 12 + n - 512; more > 0 {
			have := len(src)
			src = append(src, make([]byte, roundUp(more, 512))...)
			if err := s.read(src[have:], "grain"); err != nil {
				return err
			}
			src = src[:n]
		}
		var err error
		least := min(s.head.grain, s.size-off)
		if dec, err = inflate(dec, src, dst, least); err != nil {
			e := s.file.corrupt(at, "a grain can't be unpacked")
			e.Err = err
			return e
		}
		if !yield(Chunk{off, dst[:least]}) {
			return nil
		}
	}
}
