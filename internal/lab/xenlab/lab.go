package xenlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/anyvisor/anyvisor/internal/lab"
)

// Config describes what to start. The zero value is one host.
type Config struct {
	Hosts int // 1 or 2; 0 means 1
}

// Lab is a running set of Xen hosts.
type Lab struct {
	Hosts  []*Host
	Dir    string // the lab's own folder, on this machine
	Shared string // folder that both hosts see as SharedDir

	release func()
}

// Paths inside every dom0.
const (
	GuestKernel = "/lab/vmlinux"            // for PV and PVH guests
	GuestInitrd = "/lab/guest.cpio.gz"      // counting guest, see lab.CountingXenInitrd; console=hvc0
	ImageDir    = "/var/lib/libvirt/images" // folder of the pool "default"
	SharedDir   = "/shared"                 // folder of the pool "shared", the same on both hosts; Lab.Shared on this machine
	Bridge      = "xenbr0"                  // joins both hosts; no DHCP
)

// Addresses of PCI functions in every dom0 that can be passed through to PV guests.
const (
	RNG     = "0000:01:00.0" // 1af4:1044, has a function level reset
	Display = "0000:02:00.0" // 1234:1111, class 0x038000 (display controller), reset with its bus
)

// Start builds the dom0 image if it is not in the cache, and boots the hosts. ctx bounds the
// start only. The error wraps lab.ErrUnavailable where no lab can run.
func Start(ctx context.Context, cfg Config) (*Lab, error) {
	if cfg.Hosts == 0 {
		cfg.Hosts = 1
	}
	if cfg.Hosts < 1 || cfg.Hosts > 2 {
		return nil, fmt.Errorf("xenlab: %d hosts asked for, 1 or 2 are possible", cfg.Hosts)
	}
	img, err := fetchImage(ctx)
	if err != nil {
		return nil, err
	}
	dir, release, err := lab.TempDir("avxen", nil)
	if err != nil {
		return nil, err
	}
	l := &Lab{Dir: dir, Shared: filepath.Join(dir, "shared"), release: release}
	if err := l.start(ctx, cfg.Hosts, img); err != nil {
		return nil, errors.Join(err, l.Stop())
	}
	return l, nil
}

func (l *Lab) start(ctx context.Context, hosts int, img *image) error {
	if err := os.Mkdir(l.Shared, 0o755); err != nil {
		return err
	}
	for i := range hosts {
		h := &Host{Name: fmt.Sprintf("xen%d", i+1), number: i + 1, dir: l.Dir, key: img.key}
		l.Hosts = append(l.Hosts, h)
		if err := h.powerOn(img); err != nil {
			return err
		}
	}
	var g errgroup.Group
	for _, h := range l.Hosts {
		g.Go(func() error { return h.waitReady(ctx) })
	}
	return g.Wait()
}

// WriteXML puts text into a new file below the lab's folder and returns its path, for virsh
// commands that take a file.
func (l *Lab) WriteXML(text string) string { return lab.WriteTemp(l.Dir, text) }

// Stop kills every host and removes the lab's files. It may be called again.
func (l *Lab) Stop() error {
	for _, h := range l.Hosts {
		h.stop()
	}
	l.Hosts = nil
	err := os.RemoveAll(l.Dir)
	l.release()
	return err
}

// GuestXML describes a counting guest of 160 MiB without disk or network. Kind is "pv" or "pvh".
func GuestXML(kind, name, uuid string) string {
	osType, machine, clock := "linux", "xenpv", ""
	if kind == "pvh" {
		// With an emulated TSC, Xen would have to decode RDTSCP, in which this version fails
		// under QEMU.
		osType, machine, clock = "xenpvh", "xenpvh", "<clock offset='utc'><timer name='tsc' present='yes' mode='native'/></clock>"
	}
	return fmt.Sprintf(`<domain type='xen'>
  <name>%s</name><uuid>%s</uuid>
  <memory unit='MiB'>160</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='%s'>%s</type><kernel>%s</kernel><initrd>%s</initrd>
    <cmdline>console=hvc0 quiet nokaslr mitigations=off</cmdline></os>
  %s<on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
  <devices><console type='pty'><target type='xen' port='0'/></console></devices>
</domain>
`, name, uuid, machine, osType, GuestKernel, GuestInitrd, clock)
}

func (h *Host) file(name string) string { return filepath.Join(h.dir, h.Name+"."+name) }
