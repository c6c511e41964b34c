package vfiolab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
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
	network := l.WriteXML("<network><name>default</name><forward mode='bridge'/><bridge name='br0'/></network>")
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

// Stop pulls the plug of the nested host and removes the lab's files. It may be called again.
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

// WriteXML puts text into a new file below the lab's folder and returns its path, for virsh
// commands that take a file.
func (l *Lab) WriteXML(text string) string { return lab.WriteTemp(l.Dir, text) }

// Serial is the path, as the nested host sees it, for the serial port of a guest.
func (l *Lab) Serial(name string) string { return "/share/" + name + ".serial" }

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

// GuestXML describes a guest that has the devices at these addresses and lists its PCI devices on
// its serial port.
func (l *Lab) GuestXML(name string, addresses ...string) string {
	var devices strings.Builder
	for _, a := range addresses {
		devices.WriteString(HostdevXML(a))
	}
	return fmt.Sprintf(`<domain type='qemu'>
  <name>%s</name>
  <memory unit='MiB'>160</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><kernel>%s</kernel><initrd>%s</initrd>
    <cmdline>console=ttyS0 quiet mitigations=off nokaslr tsc=reliable no_timer_check random.trust_cpu=on cryptomgr.notests</cmdline></os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact'><model>qemu64</model></cpu>
  <devices>
    <serial type='file'><source path='%s' append='on'/></serial>
    <memballoon model='none'/>
    %s
  </devices>
</domain>
`, name, l.Kernel, l.Initrd, l.Serial(name), devices.String())
}

// HostdevXML is the device element that passes the function at address (dddd:bb:ss.f) to a guest.
func HostdevXML(address string) string {
	var n [4]uint64
	fields := strings.FieldsFunc(address, func(r rune) bool { return r == ':' || r == '.' })
	for i := range min(len(fields), len(n)) {
		n[i], _ = strconv.ParseUint(fields[i], 16, 16)
	}
	return fmt.Sprintf(`<hostdev mode='subsystem' type='pci' managed='yes'><driver name='vfio'/>`+
		`<source><address domain='%#04x' bus='%#02x' slot='%#02x' function='%#x'/></source><rom bar='off'/></hostdev>`, n[0], n[1], n[2], n[3])
}

// NodeDevice is libvirt's name of the device at address.
func NodeDevice(address string) string {
	return "pci_" + strings.NewReplacer(":", "_", ".", "_").Replace(address)
}
