package imagefile

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Compression is how a whole file is compressed.
type Compression uint8

// The compressions.
const (
	Uncompressed Compression = iota
	Gzip
	XZ
	Zstd
)

var compressionNames = [...]string{"none", "gz", "xz", "zst"}

// String returns the usual end of a file's name, such as "gz".
func (c Compression) String() string {
	if int(c) < len(compressionNames) {
		return compressionNames[c]
	}
	return fmt.Sprintf("compression %d", uint8(c))
}

// DetectCompression returns the compression of a file that begins with head,
// of which 6 bytes are enough. The warning at [Detect] applies here
// too: a guest may have written the file.
func DetectCompression(head []byte) Compression {
	switch s := string(head); {
	case strings.HasPrefix(s, "\x1f\x8b\x08"):
		return Gzip
	case strings.HasPrefix(s, xzMagic):
		return XZ
	case strings.HasPrefix(s, "\x28\xb5\x2f\xfd"):
		return Zstd
	}
	return Uncompressed
}

// maxWindow is the largest window of a zstd or xz file, in bytes, which is kept
// in memory: twice what xz -9 needs, and what zstd accepts without an option.
const maxWindow = 128 << 20

// Decompress returns the content of r. Reading more than limit bytes of it
// fails with [ErrTooLarge], so that a small file can't fill a disk; 0 means
// DefaultMaxSize. An xz file must be one stream. Close releases memory, and
// leaves r open.
func Decompress(r io.Reader, c Compression, limit int64) (io.ReadCloser, error) {
	if limit <= 0 {
		limit = DefaultMaxSize
	}
	d := &decompressor{in: &noted{r: r}, c: c, left: limit, limit: limit}
	var err error
	switch c {
	case Uncompressed:
		d.r = d.in
	case Gzip:
		d.r, err = gzip.NewReader(d.in)
	case XZ:
		d.r, err = xz.ReaderConfig{SingleStream: true}.NewReader(newXZGuard(d.in))
	case Zstd:
		var z *zstd.Decoder
		z, err = zstd.NewReader(d.in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err == nil {
			d.r, d.close = z, z.Close
		}
	default:
		return nil, &Error{Offset: -1, Kind: ErrUnsupported, Detail: c.String() + " is none of gz, xz and zst"}
	}
	if err != nil {
		return nil, d.fault(err)
	}
	d.begun = true
	return d, nil
}

type decompressor struct {
	in          *noted
	r           io.Reader
	c           Compression
	left, limit int64
	begun       bool // its header was read
	close       func()
}

func (d *decompressor) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if d.left == 0 {
		var one [1]byte
		n, err := io.ReadFull(d.r, one[:])
		if n > 0 {
			return 0, &Error{Offset: d.in.n, Kind: ErrTooLarge, Detail: fmt.Sprintf("the %v file has more than %d bytes of content", d.c, d.limit), Remedy: "raise the limit if such a file is wanted"}
		}
		return 0, d.fault(err)
	}
	if int64(len(p)) > d.left {
		p = p[:d.left]
	}
	n, err := d.r.Read(p)
	d.left -= int64(n)
	return n, d.fault(err)
}

// fault says what an error of a decompressor means.
func (d *decompressor) fault(err error) error {
	var e *Error
	switch {
	case err == nil, err == io.EOF && d.begun, errors.As(err, &e):
		return err
	case d.in.err != nil && d.in.err != io.EOF:
		return d.in.err
	}
	e = &Error{Offset: d.in.n, Kind: ErrCorrupt, Detail: fmt.Sprintf("the %v file can't be unpacked", d.c), Remedy: remedyCopy, Err: err}
	switch {
	case d.in.err == io.EOF && (errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)):
		e.Kind = ErrTruncated
	case d.c == XZ && strings.Contains(err.Error(), "unexpected data after stream"):
		e.Kind, e.Remedy = ErrUnsupported, "compress it again as one stream"
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		e.Kind, e.Remedy = ErrUnsupported, "compress it again without a long window"
	}
	return e
}

// Close releases the decompressor's memory.
func (d *decompressor) Close() error {
	if d.close != nil {
		d.close()
		d.close = nil
	}
	return nil
}

// noted remembers how its reader ended, which decompressors report as faults
// of the content.
type noted struct {
	r   io.Reader
	n   int64
	err error
}

func (r *noted) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.n += int64(n)
	if err != nil {
		r.err = err
	}
	return n, err
}

// Compress returns a writer whose content is compressed into w. The file is
// whole once Close has returned nil. Close leaves w open.
func Compress(w io.Writer, c Compression) (io.WriteCloser, error) {
	switch c {
	case Uncompressed:
		return keepOpen{w}, nil
	case Gzip:
		return gzip.NewWriter(w), nil
	case XZ:
		return xz.NewWriter(w)
	case Zstd:
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	}
	return nil, &Error{Offset: -1, Kind: ErrUnsupported, Detail: c.String() + " is none of gz, xz and zst"}
}

type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }

// Verify returns a reader of r that ends with [ErrChecksum] instead of io.EOF
// if the bytes that were read don't have the given sum: "sha256:" or "sha512:"
// and hexadecimal digits, or the digits alone. What was read before the end is
// not trusted until then. The readers of this package read their input to its
// end if they find no fault.
func Verify(r io.Reader, sum string) (io.Reader, error) {
	name, digits, named := strings.Cut(sum, ":")
	if !named {
		name, digits = "", sum
	}
	want, err := hex.DecodeString(strings.TrimSpace(digits))
	var h hash.Hash
	switch {
	case err != nil:
	case len(want) == sha256.Size && (name == "" || name == "sha256"):
		h = sha256.New()
	case len(want) == sha512.Size && (name == "" || name == "sha512"):
		h = sha512.New()
	}
	if h == nil {
		return nil, &Error{Offset: -1, Kind: ErrUnsupported, Detail: fmt.Sprintf("%q is no checksum", sum), Remedy: "give sha256: or sha512: and its hexadecimal digits"}
	}
	return &verifier{r: r, h: h, want: want}, nil
}

type verifier struct {
	r    io.Reader
	h    hash.Hash
	n    int64
	want []byte
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.h.Write(p[:n])
	v.n += int64(n)
	if err == io.EOF {
		if got := v.h.Sum(nil); subtle.ConstantTimeCompare(got, v.want) != 1 {
			err = &Error{Offset: -1, Kind: ErrChecksum, Detail: fmt.Sprintf("%d bytes have %x instead of %x", v.n, got, v.want), Remedy: remedyCopy}
		}
	}
	return n, err
}
