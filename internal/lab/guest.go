package lab

import (
	"context"
	_ "embed"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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

// Those of them that a Xen guest without firmware needs, and those for a passed-through device.
// Each module lengthens every boot a little.
var xenGuestModules = []string{"xen_blkfront", "xen_netfront", "xen_pcifront"}

// The scripts that the guest agent calls for shutting down and for setting the hardware clock.
const (
	guestShutdown = "#!/bin/sh\n(/bin/busybox sleep 0.5\ncase \" $* \" in *\" -r \"*) /bin/busybox reboot -f ;; *) /bin/busybox poweroff -f ;; esac) &\n"
	guestHWClock  = "#!/bin/sh\nexec /bin/busybox hwclock \"$@\"\n"
	// The kernel calls these when Xen asks a guest to shut down.
	guestPoweroff = "#!/bin/sh\nexec /bin/busybox poweroff -f\n"
	guestReboot   = "#!/bin/sh\nexec /bin/busybox reboot -f\n"
)

// CountingInitrd returns the initial RAM file system of a guest that counts on its console. It
// prints "READY release" once and then "TICK n up=seconds cpus=n mem=kB disks=... nics=..." about
// once a second; n is in /run/tick too. It runs the QEMU guest agent if it finds its channel,
// brings hot-plugged CPUs and memory online, and powers off at the ACPI button.
func CountingInitrd(ctx context.Context, k *Kernel) (string, error) {
	return countingInitrd(ctx, k, guestModules, func(ctx context.Context, i Initrd) error {
		agent, release, err := TempDir("anyvisor-agent-", nil)
		if err != nil {
			return err
		}
		defer release()
		defer os.RemoveAll(agent)
		if err := Unpack(ctx, "qemu-guest-agent", agent); err != nil {
			return err
		}
		return i.AddProgram(ctx, "usr/sbin/qemu-ga", filepath.Join(agent, "usr/sbin/qemu-ga"))
	})
}

// CountingXenInitrd is like CountingInitrd, for PV and PVH guests: it boots in less time, and has
// neither an agent nor drivers for emulated hardware.
func CountingXenInitrd(ctx context.Context, k *Kernel) (string, error) {
	return countingInitrd(ctx, k, xenGuestModules, func(context.Context, Initrd) error { return nil })
}

func countingInitrd(ctx context.Context, k *Kernel, modules []string, more func(context.Context, Initrd) error) (string, error) {
	if err := Install(ctx, "busybox-static"); err != nil {
		return "", err
	}
	key := strings.Join(append(slices.Clone(modules), "2", k.Version, string(guestInit), guestShutdown, guestHWClock, guestPoweroff, guestReboot), "\x00")
	dir, err := Cached(ctx, "guest", key, func(ctx context.Context, dir string) error {
		i := Initrd{
			"init":          {Content: guestInit},
			"sbin/shutdown": {Content: []byte(guestShutdown)},
			"sbin/hwclock":  {Content: []byte(guestHWClock)},
			"sbin/poweroff": {Content: []byte(guestPoweroff)},
			"sbin/reboot":   {Content: []byte(guestReboot)},
		}
		if err := errors.Join(i.AddBusybox(), i.AddModules(k, modules...), more(ctx, i)); err != nil {
			return err
		}
		return i.WriteFile(filepath.Join(dir, "guest.cpio.gz"))
	})
	return filepath.Join(dir, "guest.cpio.gz"), err
}

var tickLine = regexp.MustCompile(`(?m)^TICK (\d+) .*\n`)

// LastTick returns the newest count in the output of a counting guest, and the number of counts
// in all. Both are zero if there is none. A line that is still being written does not count.
func LastTick(console []byte) (n, lines int) {
	all := tickLine.FindAllSubmatch(console, -1)
	if len(all) == 0 {
		return 0, 0
	}
	n, _ = strconv.Atoi(string(all[len(all)-1][1]))
	return n, len(all)
}
