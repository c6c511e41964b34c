package kvmlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/anyvisor/anyvisor/internal/lab"
)

// CommandLine is that of the guests' kernel. On a busy machine an emulated
// timer comes too late for the kernel's check of it, which ends in a panic.
const CommandLine = "console=ttyS0 quiet no_timer_check"

// Packages are the Debian packages that the lab and programs using libvirt through cgo need.
var Packages = []string{
	"libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients", "libvirt-dev", "pkg-config", "gcc", "libc6-dev",
	"qemu-system-x86", "qemu-utils", "busybox-static", "iproute2", "e2fsprogs", "kmod", "xz-utils", "openssh-client", "dropbear-bin",
	"ovmf",
}

// Config describes what to start. The zero value is one host.
type Config struct {
	Hosts int // 1 or 2; 0 means 1
}

// Lab is a running set of hosts.
type Lab struct {
	Hosts   []*Host
	Kernel  string // kernel for direct boot (ELF with PVH entry): starts in about 8 s under TCG
	BzImage string // the same kernel as a bzImage: slower, but accepted by boot loaders
	Initrd  string // counting guest, see lab.CountingInitrd
	Shared  string // folder that all hosts see under this path; pool "shared"
	Dir     string // the lab's own folder

	wire      *wire
	authority *authority
	release   func()
}

// Start installs what is missing and starts the hosts. The first run on a machine downloads
// packages and a kernel (some ten seconds on a fast line); later ones take about 1 s. ctx bounds
// the start only. The error wraps lab.ErrUnavailable where no lab can run.
func Start(ctx context.Context, cfg Config) (*Lab, error) {
	if cfg.Hosts == 0 {
		cfg.Hosts = 1
	}
	if cfg.Hosts < 1 || cfg.Hosts > 2 {
		return nil, fmt.Errorf("kvmlab: %d hosts asked for, 1 or 2 are possible", cfg.Hosts)
	}
	if err := lab.Install(ctx, Packages...); err != nil {
		return nil, err
	}
	kernel, err := lab.FetchKernel(ctx)
	if err != nil {
		return nil, err
	}
	initrd, err := lab.CountingInitrd(ctx, kernel)
	if err != nil {
		return nil, err
	}
	dir, release, err := lab.TempDir("avlab", sweepWire)
	if err != nil {
		return nil, err
	}
	l := &Lab{Kernel: kernel.ELF, BzImage: kernel.Image, Initrd: initrd, Dir: dir, Shared: filepath.Join(dir, "shared"), release: release}
	if err := l.start(ctx, cfg.Hosts); err != nil {
		return nil, errors.Join(err, l.Stop())
	}
	return l, nil
}

func (l *Lab) start(ctx context.Context, hosts int) (err error) {
	for _, d := range []string{l.Dir, l.Shared} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if l.wire, err = newWire(ctx, l.Dir); err != nil {
		return err
	}
	if l.authority, err = newAuthority(); err != nil {
		return err
	}
	for i := range hosts {
		h := newHost(l, i)
		l.Hosts = append(l.Hosts, h)
		if err := h.boot(ctx); err != nil {
			return fmt.Errorf("kvmlab: host %s: %w", h.Name, err)
		}
	}
	return nil
}

// WriteXML puts text into a new file below the lab's folder and returns its path, for virsh
// commands that take a file.
func (l *Lab) WriteXML(text string) string { return lab.WriteTemp(l.Dir, text) }

// Stop ends every process of the lab, guests included, and removes its namespaces, network and
// files. It may be called again.
func (l *Lab) Stop() error {
	var errs []error
	for _, h := range l.Hosts {
		errs = append(errs, h.halt())
	}
	l.Hosts = nil
	if l.wire != nil {
		errs = append(errs, l.wire.remove())
		l.wire = nil
	}
	errs = append(errs, os.RemoveAll(l.Dir))
	l.release()
	return errors.Join(errs...)
}
