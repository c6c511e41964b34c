package lab

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Initrd is the content of an initial RAM file system: it maps a path without a leading slash to
// an entry. Folders are made as needed.
type Initrd map[string]InitrdFile

// InitrdFile is a regular file with Content, or a symbolic link if Link is set.
type InitrdFile struct {
	Content []byte
	Link    string
}

// AddFile copies a file of this machine.
func (i Initrd) AddFile(to, from string) error {
	content, err := os.ReadFile(from)
	i[to] = InitrdFile{Content: content}
	return err
}

// AddBusybox puts a static busybox and a shell into bin/.
func (i Initrd) AddBusybox() error {
	bb, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	i["bin/sh"] = InitrdFile{Link: "busybox"}
	return i.AddFile("bin/busybox", bb)
}

// AddModules puts modules with everything that they need into lib/modules, and their load order
// into lib/modules/order.
func (i Initrd) AddModules(k *Kernel, names ...string) error {
	files, err := k.Modules(names...)
	if err != nil {
		return err
	}
	var order strings.Builder
	for _, f := range files {
		to := "lib/modules/" + filepath.Base(f)
		if err := i.AddFile(to, f); err != nil {
			return err
		}
		order.WriteString("/" + to + "\n")
	}
	i["lib/modules/order"] = InitrdFile{Content: []byte(order.String())}
	return nil
}

// AddModuleFile puts a module that is not part of the kernel after those of AddModules.
func (i Initrd) AddModuleFile(file string) error {
	to := "lib/modules/" + filepath.Base(file)
	i["lib/modules/order"] = InitrdFile{Content: append(i["lib/modules/order"].Content, "/"+to+"\n"...)}
	return i.AddFile(to, file)
}

var libraryPath = regexp.MustCompile(`/lib[^ ]*`)

// AddProgram adds a dynamically linked program of this machine, with its libraries.
func (i Initrd) AddProgram(ctx context.Context, to, from string) error {
	if err := i.AddFile(to, from); err != nil {
		return err
	}
	libs, err := Command(ctx, "ldd", from)
	if err != nil {
		return err
	}
	if strings.Contains(libs, "not found") {
		return fmt.Errorf("libraries of %s are missing: %s", from, libs)
	}
	for _, lib := range libraryPath.FindAllString(libs, -1) {
		if err := i.AddFile(lib[1:], lib); err != nil {
			return err
		}
	}
	return nil
}

// WriteFile writes the archive in the kernel's format: cpio "newc", gzipped if the name ends in
// .gz, with owner root and fixed times, so that equal content gives an equal file.
func (i Initrd) WriteFile(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	w := &cpioWriter{w: f}
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if strings.HasSuffix(name, ".gz") {
		w.w = z
	}
	dirs := map[string]bool{".": true}
	for _, p := range slices.Sorted(i.paths()) {
		for _, d := range parents(p) {
			if !dirs[d] {
				dirs[d] = true
				w.entry(d, 0o040755, nil)
			}
		}
		switch e := i[p]; {
		case e.Link != "":
			w.entry(p, 0o120777, []byte(e.Link))
		default:
			w.entry(p, 0o100755, e.Content)
		}
	}
	w.entry("TRAILER!!!", 0, nil)
	if w.err != nil {
		return w.err
	}
	if w.w == z {
		if err := z.Close(); err != nil {
			return err
		}
	}
	return f.Close()
}

func (i Initrd) paths() func(func(string) bool) {
	return func(yield func(string) bool) {
		for p := range i {
			if !yield(p) {
				return
			}
		}
	}
}

func parents(p string) (dirs []string) {
	for d := path.Dir(p); d != "."; d = path.Dir(d) {
		dirs = append(dirs, d)
	}
	slices.Reverse(dirs)
	return dirs
}

// cpioWriter writes the format of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
type cpioWriter struct {
	w     io.Writer
	inode int
	err   error
}

func (c *cpioWriter) entry(name string, mode int, content []byte) {
	if c.err != nil {
		return
	}
	c.inode++
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
	head := pad4(append([]byte(header+name), 0))
	if _, c.err = c.w.Write(head); c.err == nil {
		_, c.err = c.w.Write(pad4(slices.Clone(content)))
	}
}

func pad4(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}
