package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// BuildModule builds a module of the kernel's own source that Debian leaves out, and returns its
// file. files are its C file and the headers beside it, as paths in the source. edit changes the
// C file first; key identifies the change. The first build on a machine downloads the whole
// source (140 MB).
func (k *Kernel) BuildModule(ctx context.Context, files []string, key string, edit func(source string) (string, error)) (string, error) {
	name := strings.TrimSuffix(filepath.Base(files[0]), ".c")
	fields := strings.SplitN(k.Version, ".", 3)
	if len(fields) < 3 {
		return "", fmt.Errorf("lab: kernel version %q", k.Version)
	}
	source := "linux-source-" + fields[0] + "." + fields[1]
	dir, err := Cached(ctx, "module-"+name, strings.Join(append(files, k.Version, key, "1"), "\x00"), func(ctx context.Context, dir string) error {
		if err := Install(ctx, "linux-headers-"+k.Version, "gcc", "make", "xz-utils"); err != nil {
			return err
		}
		all, err := os.MkdirTemp(dir, "source-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(all)
		if err := Unpack(ctx, source, all); err != nil {
			return err
		}
		work := filepath.Join(all, "build")
		if err := os.Mkdir(work, 0o755); err != nil {
			return err
		}
		args := []string{"-xJf", filepath.Join(all, "usr/src", source+".tar.xz"), "--occurrence=1", "--transform=s,.*/,,"}
		for _, f := range files {
			args = append(args, source+"/"+f)
		}
		if _, err = CommandIn(ctx, work, "tar", args...); err != nil {
			return err
		}
		text, err := os.ReadFile(filepath.Join(work, name+".c"))
		if err != nil {
			return err
		}
		changed, err := edit(string(text))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(work, name+".c"), []byte(changed), 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(work, "Makefile"), []byte("obj-m := "+name+".o\n"), 0o644); err != nil {
			return err
		}
		if _, err := Command(ctx, "make", "-C", "/usr/src/linux-headers-"+k.Version, "M="+work, "modules"); err != nil {
			return err
		}
		return os.Rename(filepath.Join(work, name+".ko"), filepath.Join(dir, name+".ko"))
	})
	return filepath.Join(dir, name+".ko"), err
}
