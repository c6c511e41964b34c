package xenlab

import (
	"compress/gzip"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/anyvisor/anyvisor/internal/lab"
)

var (
	//go:embed dom0-init.sh
	dom0Init []byte
	//go:embed initrd-init.sh
	initrdInit []byte
	//go:embed vif-bridge.sh
	vifBridge []byte
)

// Packages are the Debian packages that the lab needs on this machine.
var Packages = []string{"qemu-system-x86", "mmdebstrap", "openssh-client", "e2fsprogs", "kmod", "libvirt-clients", "qemu-utils", "busybox-static"}

// The packages of dom0, without recommendations. No systemd: under emulation it takes most of a
// minute to start.
const dom0Packages = "xen-system-amd64,xenstore-utils,libvirt-daemon,libvirt-daemon-driver-xen,qemu-system-xen," +
	"openssh-server,iproute2,kmod,busybox-static,procps,pciutils,qemu-utils"

var (
	initrdModules = []string{"virtio_pci", "virtio_blk", "ext4", "crc32c_generic"}
	dom0Modules   = []string{
		"virtio_net", "virtio_rng", "xenfs", "xen_evtchn", "xen_gntdev", "xen_gntalloc", "xen_privcmd", "xen_blkback", "xen_netback",
		"xen_pciback", "loop", "bridge", "tun", "nvme", "vfat", "iptable_filter", "xt_physdev", "9pnet_virtio", "9p",
	}
)

// The files that turn the tree into a dom0. libvirt's libxl driver requires a CPU model, and
// under Xen on an emulated AMD CPU even the oldest one in its map needs a feature (vme) that is
// missing. This is the reason for the edit in buildImage.
const (
	inittab = `::sysinit:/lab/init
::respawn:/lab/supervise
`
	// Init restarts it when it ends, like systemd with Debian's libvirtd.service
	// (Restart=on-failure). The host's console shows how it ended.
	supervise = `#!/bin/sh
/usr/sbin/libvirtd --listen >>/var/log/libvirtd.out 2>&1
echo "DOM0 libvirtd ended with $? $(cat /proc/uptime)" >/dev/console
`
	libvirtdConf = `listen_tls = 0
listen_tcp = 1
listen_addr = "0.0.0.0"
auth_tcp = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
`
	hostsFile = "127.0.0.1 localhost\n10.99.0.1 xen1\n10.99.0.2 xen2\n"
)

// image holds the files that the hosts boot from.
type image struct {
	xen, kernel, initrd, disk, key string
}

// fetchImage builds the dom0 image, or gets it from the cache.
func fetchImage(ctx context.Context) (*image, error) {
	if err := lab.Install(ctx, Packages...); err != nil {
		return nil, err
	}
	kernel, err := lab.FetchKernel(ctx)
	if err != nil {
		return nil, err
	}
	guest, err := lab.CountingXenInitrd(ctx, kernel)
	if err != nil {
		return nil, err
	}
	key := strings.Join([]string{"3", dom0Packages, kernel.Version, guest, strings.Join(initrdModules, " "), strings.Join(dom0Modules, " "),
		string(dom0Init), string(initrdInit), string(vifBridge), inittab, supervise, libvirtdConf, hostsFile}, "\x00")
	dir, err := lab.Cached(ctx, "xen", key, func(ctx context.Context, dir string) error {
		return buildImage(ctx, dir, kernel, guest)
	})
	if err != nil {
		return nil, err
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	return &image{xen: in("xen"), kernel: kernel.ELF, initrd: in("initrd.gz"), disk: in("dom0.ext4"), key: in("id")}, nil
}

func buildImage(ctx context.Context, dir string, kernel *lab.Kernel, guest string) error {
	root := filepath.Join(dir, "root")
	if err := bootstrap(ctx, root); err != nil {
		return err
	}
	defer os.RemoveAll(root)
	if _, err := lab.Command(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "id")); err != nil {
		return err
	}
	public, err := os.ReadFile(filepath.Join(dir, "id.pub"))
	if err != nil {
		return err
	}
	cpu := filepath.Join(root, "usr/share/libvirt/cpu_map/x86_486.xml")
	model, err := os.ReadFile(cpu)
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"lab/init":                              string(dom0Init),
		"lab/supervise":                         supervise,
		"etc/xen/scripts/vif-bridge":            string(vifBridge),
		"etc/inittab":                           inittab,
		"etc/libvirt/libvirtd.conf":             libvirtdConf,
		"etc/hosts":                             hostsFile,
		"etc/fstab":                             "",
		"root/.ssh/authorized_keys":             string(public),
		"usr/share/libvirt/cpu_map/x86_486.xml": strings.Replace(string(model), "<feature name='vme'/>", "", 1),
		"etc/ssh/sshd_config":                   "UsePAM no\nUseDNS no\nHostKey /etc/ssh/ssh_host_ed25519_key\nMaxSessions 50\nMaxStartups 50\n",
		"var/lib/libvirt/images/.keep":          "",
	} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
			return err
		}
	}
	if err := errors.Join(
		os.Chmod(filepath.Join(root, "root/.ssh"), 0o700),
		os.RemoveAll(filepath.Join(root, "sbin/init")),
		// udevd only reports added and removed devices to libvirtd, which takes no rules.
		os.RemoveAll(filepath.Join(root, "usr/lib/udev/rules.d")),
		// A dependency installed it, and it fails to start here, which ends the whole daemon.
		os.RemoveAll(filepath.Join(root, "usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so")),
		os.Symlink("/bin/busybox", filepath.Join(root, "sbin/init")),
		lab.CopyFile(filepath.Join(root, "lab/vmlinux"), kernel.ELF),
		lab.CopyFile(filepath.Join(root, "lab/guest.cpio.gz"), guest),
		addModules(ctx, root, kernel),
		gunzip(filepath.Join(dir, "xen"), filepath.Join(root, "boot")),
		buildInitrd(filepath.Join(dir, "initrd.gz"), kernel),
	); err != nil {
		return err
	}
	disk := filepath.Join(dir, "dom0.ext4")
	_, err = lab.Command(ctx, "mke2fs", "-q", "-t", "ext4", "-d", root, "-F", disk, "3G")
	return err
}

// bootstrap installs Debian into root, from the same sources and through the same proxy as this
// machine.
func bootstrap(ctx context.Context, root string) error {
	release, err := lab.Command(ctx, "sh", "-c", `. /etc/os-release && echo "$VERSION_CODENAME"`)
	if err != nil {
		return err
	}
	args := []string{"--quiet", "--variant=minbase", "--mode=root", "--format=directory", "--include=" + dom0Packages,
		`--aptopt=Apt::Install-Recommends "false"`}
	options, err := lab.Command(ctx, "apt-config", "dump", "Acquire")
	if err != nil {
		return err
	}
	for line := range strings.Lines(options) {
		for _, use := range []string{"Acquire::http", "Acquire::Check", "Acquire::Retries"} {
			if strings.HasPrefix(line, use) && !strings.HasSuffix(strings.TrimSpace(line), `"";`) {
				args = append(args, "--aptopt="+strings.TrimSuffix(strings.TrimSpace(line), ";"))
			}
		}
	}
	args = append(args, strings.TrimSpace(release), root)
	for _, glob := range []string{"/etc/apt/sources.list", "/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources"} {
		files, _ := filepath.Glob(glob)
		args = append(args, files...)
	}
	_, err = lab.Command(ctx, "mmdebstrap", args...)
	return err
}

func addModules(ctx context.Context, root string, kernel *lab.Kernel) error {
	files, err := kernel.Modules(dom0Modules...)
	if err != nil {
		return err
	}
	base := filepath.Join("lib/modules", kernel.Version)
	for _, extra := range []string{"modules.order", "modules.builtin", "modules.builtin.modinfo"} {
		files = append(files, filepath.Join(kernel.Root, base, extra))
	}
	for _, f := range files {
		to, err := filepath.Rel(kernel.Root, f)
		if err != nil {
			return err
		}
		if err := lab.CopyFile(filepath.Join(root, "usr", to), f); err != nil {
			return err
		}
	}
	_, err = lab.Command(ctx, "depmod", "-b", root, kernel.Version)
	return err
}

func buildInitrd(to string, kernel *lab.Kernel) error {
	i := lab.Initrd{"init": {Content: initrdInit}}
	if err := i.AddBusybox(); err != nil {
		return err
	}
	if err := i.AddModules(kernel, initrdModules...); err != nil {
		return err
	}
	return i.WriteFile(to)
}

// gunzip unpacks the hypervisor, as QEMU's multiboot loader requires.
func gunzip(to, boot string) error {
	found, _ := filepath.Glob(filepath.Join(boot, "xen-*.gz"))
	if len(found) != 1 {
		return fmt.Errorf("%d hypervisors in %s", len(found), boot)
	}
	in, err := os.Open(found[0])
	if err != nil {
		return err
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	_, err = io.Copy(out, z)
	return err
}
