#!/bin/sh
# First process of the counting guest. Kernel command line options that it knows:
#   tickdisk=DEV   write the counter into sector 100 of /dev/DEV with every count
#   mountdisk=DEV  mount the ext4 file system on /dev/DEV at /mnt
/bin/busybox mkdir -p /proc /sys /dev /run /var/run /tmp /mnt /sbin /usr/bin
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
while read -r m; do insmod "$m"; done </lib/modules/order 2>/dev/null
echo online >/sys/devices/system/memory/auto_online_blocks 2>/dev/null
ip link set lo up
tickdisk= mountdisk=
for o in $(cat /proc/cmdline); do
	case $o in
	tickdisk=*) tickdisk=/dev/${o#*=} ;;
	mountdisk=*) mountdisk=/dev/${o#*=} ;;
	esac
done

# A press of the power button is the only input event that this machine is listening for.
for e in /sys/class/input/event*; do
	[ -e "$e" ] || continue
	[ "$(cat "$e/device/name")" = "Power Button" ] || continue
	(head -c 24 "/dev/input/${e##*/}" >/dev/null && poweroff -f) &
done

for p in /sys/class/virtio-ports/*; do
	[ -f "$p/name" ] || continue
	if [ "$(cat "$p/name")" = org.qemu.guest_agent.0 ]; then
		qemu-ga -m virtio-serial -p "/dev/${p##*/}" -d -t /run -l /tmp/agent.log && echo AGENT
	fi
done
[ -n "$mountdisk" ] && mount -t ext4 "$mountdisk" /mnt && echo "MOUNTED $mountdisk"

# Prints the PCI devices, again whenever they change.
seen=
pci() {
	set -- /sys/bus/pci/devices/*
	[ "$*" = "$seen" ] && return
	seen=$*
	for d; do
		[ -e "$d" ] && echo "PCI ${d##*/} $(cat "$d/vendor"):$(cat "$d/device") class=$(cat "$d/class")"
	done
}
pci
read -r _ _ release _ </proc/version
echo "READY $release"

list() {
	list=
	for x in "$1"/*; do
		x=${x##*/}
		case $x in loop* | lo | ram* | '*') continue ;; esac
		list=$list${list:+,}$x
	done
}
n=0
while :; do
	n=$((n + 1))
	for c in /sys/devices/system/cpu/cpu*/online; do
		[ -e "$c" ] && read -r on <"$c" && [ "$on" = 0 ] && echo 1 >"$c"
	done
	[ -n "$tickdisk" ] && printf 'TICK %08d\n' $n | dd of="$tickdisk" bs=512 seek=100 conv=notrunc,fsync 2>/dev/null
	read -r up _ </proc/uptime
	read -r _ mem _ </proc/meminfo
	set -- /sys/devices/system/cpu/cpu[0-9]*
	cpus=$#
	list /sys/block && disks=$list
	list /sys/class/net && nics=$list
	pci
	echo "TICK $n up=$up cpus=$cpus mem=$mem disks=$disks nics=$nics"
	echo $n >/run/tick
	sleep 1
done
