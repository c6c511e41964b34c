package imagefile

import (
	"bytes"
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"
)

// maxDescriptor is the largest descriptor that is read, in bytes.
const maxDescriptor = 1 << 20

// maxExtents is how many files a disk may consist of: of 2 GiB each, they make
// 8 TiB.
const maxExtents = 4096

// descriptor is the text of a VMDK that says what it consists of.
type descriptor struct {
	createType string
	extents    []vmdkExtent
}

// vmdkExtent is a line of a descriptor.
type vmdkExtent struct {
	size int64 // bytes
	kind string
	name string
	base int64 // bytes; where it begins in its file
}

// parseDescriptor reads a descriptor at off of f.
func parseDescriptor(f *file, text []byte, off int64, opt OpenOptions) (*descriptor, error) {
	text, _, _ = bytes.Cut(text, []byte{0})
	var d descriptor
	parent := ""
	var sum int64
	names := make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		at := off
		off += int64(len(line)) + 1
		if line == "" || line[0] == '#' {
			continue
		}
		access, rest, _ := strings.Cut(line, " ")
		if access == "RW" || access == "RDONLY" || access == "NOACCESS" {
			x, ok := parseExtent(rest)
			if !ok {
				return nil, f.corrupt(at, "the descriptor's line %q is no extent", line)
			}
			if sum += x.size; x.size > opt.MaxSize || sum > opt.MaxSize {
				return nil, f.fail(ErrTooLarge, at, remedyLimit, "the extents have more than the %d bytes that are allowed", opt.MaxSize)
			}
			if access == "NOACCESS" {
				return nil, f.fail(ErrUnsupported, at, remedyConvert, "an extent can't be accessed")
			}
			if len(d.extents) == maxExtents {
				return nil, f.fail(ErrTooLarge, at, remedyConvert, "it has more than %d extents", maxExtents)
			}
			if x.name != "" && names[x.name] {
				return nil, f.corrupt(at, "the descriptor names %q twice", x.name)
			}
			names[x.name] = true
			d.extents = append(d.extents, x)
			continue
		}
		key, value, _ := strings.Cut(line, "=")
		value = strings.Trim(strings.TrimSpace(value), `"`)
		switch key = strings.ToLower(strings.TrimSpace(key)); {
		case key == "createtype":
			d.createType = value
		case key == "parentcid":
			parent = strings.ToLower(value)
		case key == "parentfilenamehint":
			parent = "a file"
		case strings.HasPrefix(key, "encryption."):
			return nil, f.fail(ErrEncrypted, at, "decrypt the machine in VMware first", "the descriptor names a key")
		}
	}
	if parent != "" && parent != "ffffffff" {
		return nil, f.fail(ErrExternal, off, "make the machine's snapshots one disk first, by deleting them or by a full clone", "it has a parent (a snapshot or a linked clone), which is never followed")
	}
	return &d, nil
}

// parseExtent reads what follows the access in a line such as
//
//	RW 4192256 FLAT "disk-flat.vmdk" 0
func parseExtent(s string) (x vmdkExtent, ok bool) {
	before, quoted, named := strings.Cut(s, `"`)
	words := strings.Fields(before)
	if len(words) != 2 {
		return x, false
	}
	n, err := strconv.ParseInt(words[0], 10, 64)
	if err != nil || n < 0 || n > 1<<52 {
		return x, false
	}
	x.size, x.kind = n*512, words[1]
	if !named {
		return x, x.kind == "ZERO"
	}
	name, after, closed := strings.Cut(quoted, `"`)
	x.name = name
	if words := strings.Fields(after); len(words) > 0 {
		n, err := strconv.ParseInt(words[0], 10, 64)
		if err != nil || n < 0 || n > 1<<52 {
			return x, false
		}
		x.base = n * 512
	}
	return x, closed
}

// embedded checks the descriptor inside a sparse image: it may name no other
// file.
func embedded(f *file, h vmdkHeader, text []byte) (*descriptor, error) {
	d, err := parseDescriptor(f, text, h.desc, OpenOptions{MaxSize: 1 << 62})
	if err != nil {
		return nil, err
	}
	if d.createType != "monolithicSparse" && d.createType != "streamOptimized" {
		return nil, f.fail(ErrUnsupported, h.desc, remedyConvert, "its type is %q", d.createType)
	}
	if len(d.extents) != 1 || d.extents[0].kind != "SPARSE" {
		return nil, f.corrupt(h.desc, "its descriptor names %d extents, and the file is one", len(d.extents))
	}
	return d, nil
}

// openDescriptor opens the extents that a descriptor file names.
func (d *Disk) openDescriptor(text []byte, opt OpenOptions) error {
	f := d.file
	desc, err := parseDescriptor(f, text, 0, opt)
	if err != nil {
		return err
	}
	switch desc.createType {
	case "monolithicFlat", "twoGbMaxExtentFlat", "twoGbMaxExtentSparse", "vmfs", "vmfsEagerZeroedThick", "vmfsPreallocated", "vmfsThin":
	default:
		return f.fail(ErrUnsupported, 0, remedyConvert, "its type is %q", desc.createType)
	}
	if len(desc.extents) == 0 {
		return f.corrupt(0, "the descriptor names no extent")
	}
	all := &joined{}
	d.table = all
	for _, x := range desc.extents {
		t, err := d.openExtent(x, opt)
		if err != nil {
			return err
		}
		all.parts = append(all.parts, joinedPart{d.size, d.size + x.size, t})
		d.size += x.size
	}
	return nil
}

// openExtent opens one extent. It returns nil for one of zeros.
func (d *Disk) openExtent(x vmdkExtent, opt OpenOptions) (table, error) {
	f := d.file
	if x.kind == "ZERO" {
		return nil, nil
	}
	if x.kind != "FLAT" && x.kind != "VMFS" && x.kind != "SPARSE" {
		return nil, f.fail(ErrUnsupported, 0, remedyConvert, "an extent's type is %q", x.kind)
	}
	if x.name == "" || x.name == "." || x.name == ".." || strings.ContainsAny(x.name, "/\\\x00:") {
		return nil, f.fail(ErrExternal, 0, "put the extents beside the descriptor, and their plain names into it", "the extent %q is in another folder, which is never followed", x.name)
	}
	if opt.Extent == nil {
		return nil, f.fail(ErrExternal, 0, "set OpenOptions.Extent", "the data is in %q", x.name)
	}
	r, size, err := opt.Extent(x.name)
	if err != nil {
		return nil, fmt.Errorf("imagefile: open extent %q of %q: %w", x.name, f.name, err)
	}
	if c, ok := r.(io.Closer); ok {
		d.closers = append(d.closers, c)
	}
	ef := &file{r: r, size: size, name: x.name, format: VMDK}
	if x.kind == "SPARSE" {
		t, _, err := openSparse(ef, opt)
		if err != nil {
			return nil, err
		}
		if t.size < x.size {
			return nil, ef.corrupt(12, "it has %d bytes, and the descriptor says %d", t.size, x.size)
		}
		return t, nil
	}
	if !ef.has(x.base, x.size) {
		return nil, ef.fail(ErrTruncated, ef.size, remedyCopy, "it has %d bytes, and the descriptor needs %d at %d", ef.size, x.size, x.base)
	}
	return &rawTable{file: ef, base: x.base, holes: holesOf(r)}, nil
}

// joined is a disk of several tables, one after the other.
type joined struct{ parts []joinedPart }

type joinedPart struct {
	begin, end int64
	table      table // nil for zeros
}

func (j *joined) part(off int64) joinedPart {
	return j.parts[sort.Search(len(j.parts), func(i int) bool { return j.parts[i].end > off })]
}

func (j *joined) at(off int64) (piece, error) {
	x := j.part(off)
	if x.table == nil {
		return piece{kind: zero, n: x.end - off}, nil
	}
	p, err := x.table.at(off - x.begin)
	p.n = min(p.n, x.end-off)
	p.from += x.begin
	return p, err
}

func (j *joined) unpack(p piece, dst []byte) error {
	x := j.part(p.from)
	p.from -= x.begin
	return x.table.unpack(p, dst)
}

func (j *joined) meta(mark func(f *file, off, n, unit int64)) {
	for _, x := range j.parts {
		if x.table != nil {
			x.table.meta(mark)
		}
	}
}
