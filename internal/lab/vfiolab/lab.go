package vfiolab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/anyvisor/anyvisor/internal/lab"
	"github.com/anyvisor/anyvisor/internal/lab/qemu"
)

// Addresses of devices in the nested host that are alone in their IOMMU groups.
const (
	Display = "0000:01:00.0" // bochs-display, 1234:1111, class 0x038000 (display controller)
	NVMe    = "0000:02:00.0" // 1b36:0010, class 0x010802, can have 4 SR-IOV virtual functions
	VGA     = "0000:03:00.0" // ati-vga, 1002:5046, class 0x030000 (VGA compatible), offers Profile

	// Uncovered is a second bochs-display, which the IOMMU does not cover.
	Uncovered = "0000:41:00.0"

	// Profile is the ID of a mediated device type of the VGA card: its name is mdpy-vga, and in a guest it is 1b36:000f, class
	// 0x038000. Its driver is the kernel's sample mdpy.
	Profile = "pci-vga"

	// Shared is a SATA controller of the chipset: its group holds two more devices, so it
	// can't be passed through alone.
	Shared = "0000:00:1f.2"
)

// Lab is the running nested host.
type Lab struct {
	URI    string // qemu+tcp, for this machine
	Kernel string // kernel for guests, the same path here and in the nested host
	Initrd string // initial RAM file system of a guest that lists its PCI devices
	Dir    string // the lab's own folder; /share in the nested host

	machine  *qemu.Machine
	commands atomic.Int64
	release  func()
}

// Start boots the nested host. ctx bounds the start only. The error wraps lab.ErrUnavailable
// where no lab can run.
func Start(ctx context.Context) (*Lab, error) {
	img, err := fetchImage(ctx)
	if err != nil {
		return nil, err
	}
	dir, release, err := lab.TempDir("avvfio", nil)
	if err != nil {
		return nil, err
	}
	l := &Lab{Dir: dir, release: release, Kernel: img.kernel, Initrd: img.guest}
	if err := l.start(ctx, img); err != nil {
		l.Stop()
		return nil, fmt.Errorf("vfiolab: %w", err)
	}
	return l, nil
}

func (l *Lab) start(ctx context.Context, img *image) error {
	if err := writeConfig(img, l.Dir); err != nil {
		return err
	}
	port, err := qemu.FreePort()
	if err != nil {
		return err
	}
	l.URI = fmt.Sprintf("qemu+tcp://127.0.0.1:%d/system", port)
	if l.machine, err = qemu.Start("vfio1", l.Dir, machineArgs(img, l.Dir, port)...); err != nil {
		return err
	}
	err = l.machine.Wait(ctx, "waiting for libvirtd", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
		defer cancel()
		_, err := l.Virsh(ctx, "version") // makes libvirtd probe QEMU
		return err
	})
	if err != nil {
		return err
	}
	keepCapabilities(ctx, l)
	network := lab.WriteTemp(l.Dir, "<network><name>default</name><forward mode='bridge'/><bridge name='br0'/></network>")
	for _, args := range [][]string{
		{"pool-define-as", "default", "dir", "--target", "/var/lib/libvirt/images"}, {"pool-start", "default"}, {"pool-autostart", "default"},
		{"net-define", network}, {"net-start", "default"}, {"net-autostart", "default"},
	} {
		if _, err := l.Virsh(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// Stop kills the nested host and removes the lab's files. It may be called again.
func (l *Lab) Stop() error {
	if l.machine != nil {
		l.machine.Stop()
		l.machine = nil
	}
	err := os.RemoveAll(l.Dir)
	l.release()
	return err
}

// Virsh runs this machine's virsh on the nested host and returns its standard output without
// trailing space.
func (l *Lab) Virsh(ctx context.Context, args ...string) (string, error) {
	out, err := lab.Command(ctx, "virsh", append([]string{"-q", "-c", l.URI}, args...)...)
	return strings.TrimRight(out, " \n"), err
}

// Run runs a shell script as root in the nested host and returns its standard output. Scripts
// run one after the other.
func (l *Lab) Run(ctx context.Context, script string) (string, error) {
	base := filepath.Join(l.Dir, fmt.Sprintf("run%d", l.commands.Add(1)))
	if err := os.WriteFile(base+".new", []byte(script), 0o600); err != nil {
		return "", err
	}
	if err := os.Rename(base+".new", base+".cmd"); err != nil {
		return "", err
	}
	var rc []byte
	err := l.machine.Wait(ctx, "running "+script, func(context.Context) (err error) {
		rc, err = os.ReadFile(base + ".rc")
		return err
	})
	if err != nil {
		return "", err
	}
	out, err := os.ReadFile(base + ".out")
	if err != nil {
		return "", err
	}
	if status := string(bytes.TrimSpace(rc)); status != "0" {
		said, _ := os.ReadFile(base + ".err")
		return string(out), fmt.Errorf("%s: exit status %s: %s", script, status, bytes.TrimSpace(said))
	}
	return string(out), nil
}

// WaitDevices waits for a guest's first list of its PCI devices and returns its last one, as
// "1234:1111".
func (l *Lab) WaitDevices(ctx context.Context, name string) (ids []string, err error) {
	err = l.machine.Wait(ctx, "waiting for guest "+name, func(context.Context) error {
		text, err := os.ReadFile(filepath.Join(l.Dir, name+".serial"))
		if err != nil {
			return err
		}
		ids, err = lastList(string(text))
		return err
	})
	return ids, err
}

// lastList reads the last list that guest-init.sh wrote since the guest's start.
func lastList(text string) ([]string, error) {
	end := strings.LastIndex(text, "READY")
	begin := strings.LastIndex(text[:max(end, 0)], "LIST")
	if end < 0 || begin < 0 || strings.Contains(text[end:], "LIST") {
		return nil, fmt.Errorf("no complete list in %q", text[max(0, len(text)-300):])
	}
	var ids []string
	for line := range strings.Lines(text[begin:end]) {
		if f := strings.Fields(line); len(f) == 4 && f[0] == "PCI" {
			ids = append(ids, strings.ReplaceAll(f[2], "0x", ""))
		}
	}
	return ids, nil
}
