package lab

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Kernel is a Debian kernel unpacked into the cache.
type Kernel struct {
	Version string // as in uname -r in a guest
	Image   string // vmlinuz, for boot loaders and Xen
	ELF     string // the same uncompressed, for QEMU's PVH entry: boots in half the time under TCG
	Root    string // folder that holds lib/modules/VERSION
}

// FetchKernel returns Debian's current amd64 kernel, from the cache if it is there.
func FetchKernel(ctx context.Context) (*Kernel, error) {
	if err := Install(ctx, "kmod", "xz-utils", "busybox-static"); err != nil {
		return nil, err
	}
	dir, err := Cached(ctx, "kernel", "linux-image-amd64 1", buildKernel)
	if err != nil {
		return nil, err
	}
	versions, err := os.ReadDir(filepath.Join(dir, "lib/modules"))
	if err != nil || len(versions) != 1 {
		return nil, fmt.Errorf("lab: no single kernel in %s: %w", dir, err)
	}
	v := versions[0].Name()
	return &Kernel{Version: v, Image: filepath.Join(dir, "boot/vmlinuz-"+v), ELF: filepath.Join(dir, "vmlinux"), Root: dir}, nil
}

func buildKernel(ctx context.Context, dir string) error {
	pkg, err := kernelPackage(ctx)
	if err != nil {
		return err
	}
	if err := Unpack(ctx, pkg, dir); err != nil {
		return err
	}
	images, _ := filepath.Glob(filepath.Join(dir, "boot/vmlinuz-*"))
	if len(images) != 1 {
		return fmt.Errorf("%s has %d kernels", pkg, len(images))
	}
	version := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	if _, err := Command(ctx, "depmod", "-b", dir, version); err != nil {
		return err
	}
	return unpackELF(ctx, images[0], filepath.Join(dir, "vmlinux"))
}

// kernelPackage finds the package that Debian's linux-image-amd64 stands for now.
func kernelPackage(ctx context.Context) (string, error) {
	find := func() string {
		out, _ := Command(ctx, "apt-cache", "show", "--no-all-versions", "linux-image-amd64")
		for line := range strings.Lines(out) {
			if deps, ok := strings.CutPrefix(line, "Depends: "); ok {
				return strings.Fields(deps)[0]
			}
		}
		return ""
	}
	if p := find(); p != "" {
		return p, nil
	}
	if err := aptUpdate(ctx); err != nil {
		return "", err
	}
	if p := find(); p != "" {
		return p, nil
	}
	return "", fmt.Errorf("no package linux-image-amd64 in this machine's apt sources")
}

// unpackELF extracts the kernel proper from a bzImage. Its payload is one xz stream (Debian's
// CONFIG_KERNEL_XZ) somewhere after the boot code.
func unpackELF(ctx context.Context, bzImage, out string) error {
	image, err := os.ReadFile(bzImage)
	if err != nil {
		return err
	}
	at := bytes.Index(image, []byte("\xfd7zXZ\x00"))
	if at < 0 {
		return fmt.Errorf("%s holds no xz stream", bzImage)
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := exec.CommandContext(ctx, "xz", "-dc", "--single-stream")
	cmd.Stdin, cmd.Stdout = bytes.NewReader(image[at:]), f
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("xz -dc of %s: %w", bzImage, err)
	}
	e, err := elf.Open(out)
	if err != nil {
		return fmt.Errorf("kernel in %s: %w", bzImage, err)
	}
	return e.Close()
}

// Modules returns the files of the named modules and of everything that they need, in the order
// in which they have to be loaded. Names that are built in are left out.
func (k *Kernel) Modules(names ...string) ([]string, error) {
	base := filepath.Join(k.Root, "lib/modules", k.Version)
	deps, err := os.ReadFile(filepath.Join(base, "modules.dep"))
	if err != nil {
		return nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(base, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	need := map[string][]string{} // module name -> its file, then what it needs, nearest first
	for line := range strings.Lines(string(deps)) {
		file, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		need[moduleName(file)] = append([]string{file}, strings.Fields(rest)...)
	}
	var order []string
	seen := map[string]bool{}
	for _, name := range names {
		files, ok := need[name]
		if !ok {
			if bytes.Contains(builtin, []byte("/"+name+".ko")) || bytes.Contains(builtin, []byte("/"+strings.ReplaceAll(name, "_", "-")+".ko")) {
				continue
			}
			return nil, fmt.Errorf("kernel %s has no module %s: %w", k.Version, name, fs.ErrNotExist)
		}
		for i := len(files) - 1; i >= 0; i-- {
			if f := filepath.Join(base, files[i]); !seen[f] {
				seen[f] = true
				order = append(order, f)
			}
		}
	}
	return order, nil
}

func moduleName(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}
