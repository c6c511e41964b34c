package lab

import (
	"context"
	_ "embed"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

//go:embed guest-init.sh
var guestInit []byte

// A guest needs these to see virtio, e1000 and Xen hardware, an ext4 disk and its power button.
var guestModules = []string{
	"virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "virtio_net", "virtio_balloon", "virtio_console",
	"e1000", "e1000e", "ext4", "button", "evdev", "xen_blkfront", "xen_netfront",
}

// The scripts that the guest agent calls for shutting down and for setting the hardware clock.
const (
	guestShutdown = "#!/bin/sh\n(/bin/busybox sleep 0.5\ncase \" $* \" in *\" -r \"*) /bin/busybox reboot -f ;; *) /bin/busybox poweroff -f ;; esac) &\n"
	guestHWClock  = "#!/bin/sh\nexec /bin/busybox hwclock \"$@\"\n"
	// The kernel calls these when Xen asks a guest to end.
	guestPoweroff = "#!/bin/sh\nexec /bin/busybox poweroff -f\n"
	guestReboot   = "#!/bin/sh\nexec /bin/busybox reboot -f\n"
)

// CountingInitrd returns the initial RAM file system of a guest that counts on its console. It
// prints "READY release" once and then "TICK n up=seconds cpus=n mem=kB disks=... nics=..."
// about once a second; n is in /run/tick too. It runs the QEMU guest agent if it finds its
// channel, brings hot-plugged CPUs and memory online, and powers off at the ACPI button.
func CountingInitrd(ctx context.Context, k *Kernel) (string, error) {
	if err := Install(ctx, "busybox-static"); err != nil {
		return "", err
	}
	key := strings.Join(append(guestModules, "1", k.Version, string(guestInit), guestShutdown, guestHWClock, guestPoweroff, guestReboot), "\x00")
	dir, err := Cached(ctx, "guest", key, func(ctx context.Context, dir string) error {
		agent, err := os.MkdirTemp("", "anyvisor-agent-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(agent)
		if err := Unpack(ctx, "qemu-guest-agent", agent); err != nil {
			return err
		}
		i := Initrd{
			"init":          {Content: guestInit},
			"sbin/shutdown": {Content: []byte(guestShutdown)},
			"sbin/hwclock":  {Content: []byte(guestHWClock)},
			"sbin/poweroff": {Content: []byte(guestPoweroff)},
			"sbin/reboot":   {Content: []byte(guestReboot)},
		}
		if err := i.AddBusybox(); err != nil {
			return err
		}
		if err := i.AddModules(k, guestModules...); err != nil {
			return err
		}
		if err := i.AddProgram(ctx, "usr/sbin/qemu-ga", filepath.Join(agent, "usr/sbin/qemu-ga")); err != nil {
			return err
		}
		return i.WriteFile(filepath.Join(dir, "guest.cpio.gz"))
	})
	return filepath.Join(dir, "guest.cpio.gz"), err
}

var tickLine = regexp.MustCompile(`(?m)^TICK (\d+) .*\n`)

// LastTick returns the newest count in what a counting guest printed, and how many counts there
// are in all; zeros if there is none. A line that is still being written does not count.
func LastTick(console []byte) (n, lines int) {
	all := tickLine.FindAllSubmatch(console, -1)
	if len(all) == 0 {
		return 0, 0
	}
	n, _ = strconv.Atoi(string(all[len(all)-1][1]))
	return n, len(all)
}
