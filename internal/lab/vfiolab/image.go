package vfiolab

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/anyvisor/anyvisor/internal/lab"
)

var (
	//go:embed host-initrd.sh
	hostInitrd []byte
	//go:embed host-init.sh
	hostInit string
	//go:embed commands.sh
	commands string
	//go:embed guest-init.sh
	guestInit []byte
)

// Packages are the Debian packages that the lab needs on this machine; the nested host uses them too.
var Packages = []string{
	"libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients", "qemu-system-x86", "qemu-utils", "busybox-static", "iproute2", "kmod", "xz-utils",
}

var hostModules = []string{
	"virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_net", "bochs", "nvme", "vfio_pci", "vfio_iommu_type1", "bridge", "tun", "mdev",
}

// Programs that the nested host runs and this machine must not: a udevd, which reports added and
// removed devices to libvirtd, and the program with which libvirt makes mediated devices.
var hostPackages = []string{"udev", "mdevctl"}

const (
	inittab = `::sysinit:/bin/bash /share/host-init.sh
::respawn:/bin/bash /share/commands.sh
::respawn:/bin/bash -c 'exec libvirtd --listen >>/share/libvirtd.out 2>&1'
`
	libvirtdConf = `host_uuid = "3f6d1c1e-6a55-4d0b-9d3e-0c5a7b8e9f10"
listen_tls = 0
listen_tcp = 1
listen_addr = "0.0.0.0"
auth_tcp = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
`
	qemuConf = `user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
stdio_handler = "file"
cgroup_controllers = [ ]
`
)

type image struct {
	kernel, host, guest string
	programs            string // folder with the files of hostPackages
}

// The parent of the kernel's sample of a display device that is divided into mediated devices is
// not a PCI device, and libvirt does not list it. Here the parent is the VGA card.
const (
	sampleParent = "mdev_register_parent(&mdpy_parent, &mdpy_dev,"
	cardParent   = "mdev_register_parent(&mdpy_parent, &pci_get_device(0x1002, 0x5046, NULL)->dev,"
)

func sampleOnCard(source string) (string, error) {
	if strings.Count(source, sampleParent) != 1 {
		return "", errors.New("mdpy.c of this kernel registers its parent in another way")
	}
	return strings.Replace(source, sampleParent, cardParent, 1), nil
}

func fetchImage(ctx context.Context) (*image, error) {
	if err := lab.Install(ctx, Packages...); err != nil {
		return nil, err
	}
	kernel, err := lab.FetchKernel(ctx)
	if err != nil {
		return nil, err
	}
	mdpy, err := kernel.BuildModule(ctx, []string{"samples/vfio-mdev/mdpy.c", "samples/vfio-mdev/mdpy-defs.h"}, cardParent, sampleOnCard)
	if err != nil {
		return nil, err
	}
	key := strings.Join(append(hostModules, "2", kernel.Version, string(hostInitrd), string(guestInit), inittab), "\x00")
	dir, err := lab.Cached(ctx, "vfio", key, func(ctx context.Context, dir string) error {
		for _, p := range hostPackages {
			if err := lab.Unpack(ctx, p, filepath.Join(dir, "programs")); err != nil {
				return err
			}
		}
		host := lab.Initrd{"init": {Content: hostInitrd}, "lab/inittab": {Content: []byte(inittab)}}
		guest := lab.Initrd{"init": {Content: guestInit}, "sys/.keep": {}}
		return errors.Join(
			host.AddBusybox(), host.AddModules(kernel, hostModules...), host.AddModuleFile(mdpy), host.WriteFile(filepath.Join(dir, "host.cpio.gz")),
			guest.AddBusybox(), guest.WriteFile(filepath.Join(dir, "guest.cpio")),
		)
	})
	if err != nil {
		return nil, err
	}
	return &image{kernel: kernel.ELF, host: filepath.Join(dir, "host.cpio.gz"), guest: filepath.Join(dir, "guest.cpio"), programs: filepath.Join(dir, "programs")}, nil
}

// machineArgs describes the nested host. caching-mode lets VFIO work below the emulated IOMMU.
// The devices are behind root ports of their own, so each has its own IOMMU group.
func machineArgs(img *image, share string, port int) []string {
	return []string{
		"-machine", "q35,kernel-irqchip=off", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,la57=off", "-smp", "2", "-m", "2560",
		"-device", "intel-iommu,intremap=on,eim=off,caching-mode=on,aw-bits=48",
		"-kernel", img.kernel, "-initrd", img.host,
		"-append", "console=ttyS0 intel_iommu=on iommu=nopt quiet no_timer_check mitigations=off net.ifnames=0 cryptomgr.notests",
		"-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap",
		"-virtfs", "local,path=" + share + ",mount_tag=share,security_model=none",
		"-netdev", fmt.Sprintf("user,id=n0,hostfwd=tcp:127.0.0.1:%d-:16509", port), "-device", "virtio-net-pci,netdev=n0,addr=3,romfile=",
		"-device", "pcie-root-port,id=rp1,chassis=1,slot=1,addr=10", "-device", "bochs-display,bus=rp1,romfile=",
		"-device", "pcie-root-port,id=rp2,chassis=2,slot=2,addr=11", "-device", "nvme-subsys,id=sub0,nqn=sub0",
		"-device", "nvme,bus=rp2,serial=lab0,subsys=sub0,max_ioqpairs=16,msix_qsize=17,sriov_max_vfs=4,sriov_vq_flexible=8,sriov_vi_flexible=8",
		"-device", "pcie-root-port,id=rp3,chassis=3,slot=3,addr=12", "-device", "ati-vga,bus=rp3,romfile=",
		"-device", "pxb-pcie,id=free,bus=pcie.0,bus_nr=64,bypass_iommu=on", "-device", "pcie-root-port,id=rp4,bus=free,chassis=4,slot=4,addr=0",
		"-device", "bochs-display,bus=rp4,romfile=",
	}
}

func writeConfig(img *image, dir string) error {
	for name, text := range map[string]string{
		"programs": img.programs, "host-init.sh": hostInit, "commands.sh": commands, "libvirtd.conf": libvirtdConf, "qemu.conf": qemuConf,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return lab.CopyFiles(filepath.Join(dir, "capabilities"), capabilitiesCache())
}

// What libvirt learned about QEMU is kept between runs, since probing takes long in the nested
// host. libvirt checks these files against the binaries and the kernel.
func capabilitiesCache() string {
	dir, err := lab.CacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "vfio-capabilities")
}

func keepCapabilities(ctx context.Context, l *Lab) {
	if _, err := l.Run(ctx, "rm -rf /share/capabilities; cp -r /var/cache/libvirt/qemu/capabilities /share/"); err != nil {
		return // they are probed again next time
	}
	lab.CopyFiles(capabilitiesCache(), filepath.Join(l.Dir, "capabilities"))
}
