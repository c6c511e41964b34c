package imagefile

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// What is wrong with an image. Each error of this package that concerns an
// image's content is an [*Error] that wraps one of these.
var (
	ErrTruncated = errors.New("image is truncated")               // the file ends before what its tables name
	ErrCorrupt   = errors.New("image is corrupt")                 // the file contradicts itself or its format
	ErrEncrypted = errors.New("image is encrypted")               // the content needs a key
	ErrExternal  = errors.New("image needs another file")         // a backing file, a parent or a data file, which is never followed
	ErrTooLarge  = errors.New("image is larger than the limit")   // the caller's limit, or the format's
	ErrChecksum  = errors.New("checksum does not match")          // the bytes are not those that were announced
	ErrSeek      = errors.New("format can't be read in one pass") // an io.ReaderAt is needed, such as a temporary file
	ErrSource    = errors.New("source of the image is wrong")     // a source whose extents or content contradict each other
	// ErrUnsupported means a format, or a feature of one, that this package
	// doesn't read or write. It is errors.ErrUnsupported too.
	ErrUnsupported = fmt.Errorf("image feature is not supported: %w", errors.ErrUnsupported)
)

// Error describes what is wrong with an image, at which place, and the remedy.
type Error struct {
	Format Format // as given to Open or Write; 0 if it isn't about one
	Name   string // of the file, as the caller named it; may be empty
	Offset int64  // in the file, in bytes, where the fault is; -1 if it has no place
	Kind   error  // one of this package's errors
	Detail string // what was found, with numbers
	Remedy string // what the caller can do; may be empty
	Err    error  // the error below, if there is one
}

// Error returns one line with all that is known.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Name != "" {
		fmt.Fprintf(&b, "%q: ", e.Name)
	}
	if e.Format != 0 {
		fmt.Fprintf(&b, "%v ", e.Format)
	}
	fmt.Fprint(&b, e.Kind)
	if e.Offset >= 0 {
		fmt.Fprintf(&b, " at byte %d", e.Offset)
	}
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Remedy != "" {
		b.WriteString(" (" + e.Remedy + ")")
	}
	return b.String()
}

// Unwrap returns the kind, and the error below if there is one.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// Remedies that several formats name.
const (
	remedyCopy    = "copy the file again from where it came"
	remedyConvert = "convert it with the program that made it, or with qemu-img convert, to a plain image"
	remedyFlatten = "make it independent first, for example with qemu-img convert, which copies what the other file holds"
	remedyDecrypt = "decrypt it first, for example with qemu-img convert and the key"
	remedyLimit   = "raise MaxSize if such a disk is wanted"
	remedySpool   = "write it to a temporary file and use Open"
)

// file is an image file whose length is known: no read goes beyond it.
type file struct {
	r      io.ReaderAt
	size   int64
	name   string
	format Format
}

// fail makes an error about this file.
func (f *file) fail(kind error, off int64, remedy, detail string, args ...any) *Error {
	return &Error{Format: f.format, Name: f.name, Offset: off, Kind: kind, Remedy: remedy, Detail: fmt.Sprintf(detail, args...)}
}

// corrupt makes the error for a file that contradicts its format.
func (f *file) corrupt(off int64, detail string, args ...any) *Error {
	return f.fail(ErrCorrupt, off, remedyCopy, detail, args...)
}

// has reports whether the n bytes at off lie in the file. It is safe for any
// numbers.
func (f *file) has(off, n int64) bool {
	return off >= 0 && n >= 0 && off <= f.size && n <= f.size-off
}

// read fills p from off. what names the structure for the error.
func (f *file) read(p []byte, off int64, what string) error {
	if !f.has(off, int64(len(p))) {
		return f.fail(ErrTruncated, off, remedyCopy, "%s of %d bytes goes beyond the file's %d bytes", what, len(p), f.size)
	}
	n, err := f.r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return f.fail(ErrTruncated, off+int64(n), remedyCopy, "%s ends early: the file is shorter than the %d bytes that were given as its size", what, f.size)
	}
	return fmt.Errorf("imagefile: read %s of %q at byte %d: %w", what, f.name, off, err)
}

// bytes returns the n bytes at off. It allocates only what the file holds.
func (f *file) bytes(off, n int64, what string) ([]byte, error) {
	if !f.has(off, n) {
		return nil, f.fail(ErrTruncated, off, remedyCopy, "%s of %d bytes goes beyond the file's %d bytes", what, n, f.size)
	}
	p := make([]byte, n)
	return p, f.read(p, off, what)
}
