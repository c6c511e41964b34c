package imagefile

import (
	"archive/tar"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
)

// The facts about OVA and OVF are from DMTF's DSP0243, version 1.1.
const (
	maxOVF      = 4 << 20 // bytes of a descriptor or a manifest
	maxOVAFiles = 1000
)

// Archive is an opened OVA.
type Archive struct {
	file  *file
	opt   OpenOptions
	ovf   []byte
	sums  []byte // the manifest; nil if there is none
	files []member
	disks []OVADisk
}

// member is a file in the archive.
type member struct {
	name      string
	off, size int64
}

// OVADisk is a disk that an OVF descriptor names.
type OVADisk struct {
	ID       string // in the descriptor
	File     string // in the archive; "" for an empty disk
	Capacity int64  // bytes, as the descriptor says
}

// ovfEnvelope is what is read of a descriptor.
type ovfEnvelope struct {
	References struct {
		File []struct {
			ID          string `xml:"id,attr"`
			Href        string `xml:"href,attr"`
			Compression string `xml:"compression,attr"`
			ChunkSize   string `xml:"chunkSize,attr"`
		}
	}
	DiskSection struct {
		Disk []struct {
			ID       string `xml:"diskId,attr"`
			FileRef  string `xml:"fileRef,attr"`
			Parent   string `xml:"parentRef,attr"`
			Capacity string `xml:"capacity,attr"`
			Units    string `xml:"capacityAllocationUnits,attr"`
		}
	}
}

// OpenOVA opens the archive in the first size bytes of r, and reads its
// descriptor. o.MaxSize limits each disk.
func OpenOVA(r io.ReaderAt, size int64, o *OpenOptions) (*Archive, error) {
	opt := o.orDefault()
	a := &Archive{file: &file{r: r, size: size, name: opt.Name, format: OVA}, opt: opt}
	f := a.file
	if size < 0 {
		return nil, f.fail(ErrTruncated, -1, "", "a file can't have %d bytes", size)
	}
	section := io.NewSectionReader(r, 0, size)
	tr := tar.NewReader(section)
	for {
		at, _ := section.Seek(0, io.SeekCurrent)
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			kind := ErrCorrupt
			if errors.Is(err, io.ErrUnexpectedEOF) {
				kind = ErrTruncated
			}
			e := f.fail(kind, at, remedyCopy, "the archive can't be read")
			e.Err = err
			return nil, e
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if len(a.files) == maxOVAFiles {
			return nil, f.fail(ErrTooLarge, at, "", "it has more than %d files", maxOVAFiles)
		}
		for key := range h.PAXRecords {
			if strings.HasPrefix(key, "GNU.sparse") {
				return nil, f.fail(ErrUnsupported, at, "pack it again without sparse files", "%q is stored as a sparse file", h.Name)
			}
		}
		off, _ := section.Seek(0, io.SeekCurrent)
		m := member{path.Clean(h.Name), off, h.Size}
		if !f.has(off, h.Size) {
			return nil, f.fail(ErrTruncated, off, remedyCopy, "%q has %d bytes and goes beyond the file's %d", h.Name, h.Size, size)
		}
		if a.member(m.name) != nil {
			return nil, f.corrupt(at, "%q is there twice", h.Name)
		}
		a.files = append(a.files, m)
		ext := strings.ToLower(path.Ext(m.name))
		if ext == ".ovf" && a.ovf == nil || ext == ".mf" && a.sums == nil {
			if m.size > maxOVF {
				return nil, f.fail(ErrTooLarge, off, "", "%q has %d bytes, and %d are allowed", h.Name, m.size, maxOVF)
			}
			p, err := f.bytes(m.off, m.size, ext[1:]+" file")
			if err != nil {
				return nil, err
			}
			if ext == ".ovf" {
				a.ovf = p
			} else {
				a.sums = p
			}
		}
	}
	if a.ovf == nil {
		return nil, f.corrupt(0, "there is no OVF descriptor in it")
	}
	return a, a.readDisks()
}

func (a *Archive) member(name string) *member {
	i := slices.IndexFunc(a.files, func(m member) bool { return m.name == name })
	if i < 0 {
		return nil
	}
	return &a.files[i]
}

// readDisks reads the descriptor.
func (a *Archive) readDisks() error {
	f := a.file
	var env ovfEnvelope
	if err := xml.Unmarshal(a.ovf, &env); err != nil {
		e := f.corrupt(0, "the OVF descriptor can't be read")
		e.Err = err
		return e
	}
	for _, d := range env.DiskSection.Disk {
		if len(a.disks) == maxOVAFiles {
			return f.fail(ErrTooLarge, 0, "", "the OVF descriptor names more than %d disks", maxOVAFiles)
		}
		if d.Parent != "" {
			return f.fail(ErrExternal, 0, remedyFlatten, "disk %q has a parent", d.ID)
		}
		out := OVADisk{ID: d.ID}
		var ok bool
		if out.Capacity, ok = ovfBytes(d.Capacity, d.Units); !ok {
			return f.corrupt(0, "disk %q can't have %q %q", d.ID, d.Capacity, d.Units)
		}
		if out.Capacity > a.opt.MaxSize {
			return f.fail(ErrTooLarge, 0, remedyLimit, "disk %q has %d bytes, and %d are allowed", d.ID, out.Capacity, a.opt.MaxSize)
		}
		if d.FileRef != "" {
			for _, r := range env.References.File {
				if r.ID != d.FileRef {
					continue
				}
				if r.Compression != "" && r.Compression != "identity" || r.ChunkSize != "" {
					return f.fail(ErrUnsupported, 0, "pack it again without", "file %q is compressed or in chunks", r.Href)
				}
				out.File = path.Clean(r.Href)
			}
			if m := a.member(out.File); out.File == "" || m == nil {
				return f.fail(ErrTruncated, -1, remedyCopy, "the file %q of disk %q isn't in the archive", out.File, d.ID)
			}
		}
		a.disks = append(a.disks, out)
	}
	return nil
}

// ovfBytes returns a capacity in bytes. Units are "byte * 2^30" or the like.
func ovfBytes(capacity, units string) (int64, bool) {
	n, err := strconv.ParseInt(strings.TrimSpace(capacity), 10, 64)
	if err != nil || n < 0 {
		return 0, false
	}
	shift := 0
	switch u := strings.ToLower(strings.ReplaceAll(units, " ", "")); u {
	case "", "byte", "bytes":
	case "kilobytes":
		shift = 10
	case "megabytes":
		shift = 20
	case "gigabytes":
		shift = 30
	default:
		power, ok := strings.CutPrefix(u, "byte*2^")
		if shift, err = strconv.Atoi(power); !ok || err != nil || shift < 0 || shift > 50 {
			return 0, false
		}
	}
	if n > 1<<62>>shift {
		return 0, false
	}
	return n << shift, true
}

// Descriptor returns the OVF descriptor. It is untrusted XML.
func (a *Archive) Descriptor() []byte { return slices.Clone(a.ovf) }

// Disks returns the disks in the descriptor's order.
func (a *Archive) Disks() []OVADisk { return slices.Clone(a.disks) }

// OpenDisk opens the disk with an index in Disks. Its format comes from its
// file's name, and is VMDK if the name has no other.
func (a *Archive) OpenDisk(i int) (*Disk, error) {
	if i < 0 || i >= len(a.disks) {
		return nil, a.file.fail(ErrSource, -1, "", "there is no disk %d of %d", i, len(a.disks))
	}
	d := a.disks[i]
	if d.File == "" {
		return &Disk{file: a.file, size: d.Capacity, table: &joined{parts: []joinedPart{{0, d.Capacity, nil}}}}, nil
	}
	m := a.member(d.File)
	opt := a.opt
	opt.Name, opt.Extent = d.File, nil
	if a.opt.Name != "" {
		opt.Name = a.opt.Name + ": " + d.File
	}
	format := VMDK
	switch strings.ToLower(path.Ext(d.File)) {
	case ".vhd":
		format = VHD
	case ".vhdx":
		format = VHDX
	case ".qcow2":
		format = QCOW2
	case ".img", ".raw":
		format = Raw
	case ".iso", ".gz", ".xz", ".zst":
		return nil, a.file.fail(ErrUnsupported, m.off, remedyConvert, "%q is no disk image", d.File)
	}
	return Open(io.NewSectionReader(a.file.r, m.off, m.size), m.size, format, &opt)
}

// openOVA opens an archive's only disk.
func (d *Disk) openOVA(opt OpenOptions) error {
	a, err := OpenOVA(d.file.r, d.file.size, &opt)
	if err != nil {
		return err
	}
	if len(a.disks) != 1 {
		return d.file.fail(ErrUnsupported, -1, "use OpenOVA", "it has %d disks", len(a.disks))
	}
	only, err := a.OpenDisk(0)
	if err != nil {
		return err
	}
	d.size, d.table = only.size, only.table
	return nil
}

// Verify reads all files of the archive and compares them with the manifest.
// It returns false if there is no manifest, and an error with [ErrChecksum] if a
// file is not the one that was announced.
func (a *Archive) Verify(ctx context.Context) (bool, error) {
	if a.sums == nil {
		return false, nil
	}
	checked := make(map[string]bool)
	for line := range strings.Lines(string(a.sums)) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		name, digits, ok := strings.Cut(line, "=")
		kind, name, ok2 := strings.Cut(name, "(")
		name, _, ok3 := strings.Cut(name, ")")
		want, err := hex.DecodeString(strings.TrimSpace(digits))
		var h hash.Hash
		switch strings.ToUpper(strings.TrimSpace(kind)) {
		case "SHA1": // of old archives; better than nothing
			h = sha1.New()
		case "SHA256":
			h = sha256.New()
		case "SHA512":
			h = sha512.New()
		}
		if !ok || !ok2 || !ok3 || err != nil || h == nil {
			return true, a.file.corrupt(-1, "the manifest's line %q can't be read", line)
		}
		m := a.member(path.Clean(name))
		if m == nil {
			return true, a.file.fail(ErrTruncated, -1, remedyCopy, "the manifest's file %q isn't in the archive", name)
		}
		key := fmt.Sprint(h.Size(), m.name)
		if checked[key] {
			return true, a.file.corrupt(-1, "the manifest names %q twice", name)
		}
		checked[key] = true
		if err := a.hash(ctx, h, m); err != nil {
			return true, err
		}
		if got := h.Sum(nil); string(got) != string(want) {
			return true, a.file.fail(ErrChecksum, m.off, remedyCopy, "%q has %x instead of %x", name, got, want)
		}
	}
	return true, nil
}

func (a *Archive) hash(ctx context.Context, h hash.Hash, m *member) error {
	buf := make([]byte, chunk)
	for off := int64(0); off < m.size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := buf[:min(chunk, m.size-off)]
		if err := a.file.read(p, m.off+off, fmt.Sprintf("file %q", m.name)); err != nil {
			return err
		}
		h.Write(p)
		off += int64(len(p))
	}
	return nil
}
