#!/bin/busybox sh
# First process of a guest inside the nested host. Twice emulated, every process that it starts
# costs seconds, so it uses nothing but the shell. It lists its PCI devices, and again whenever
# one has come or gone.
/bin/busybox mount -t sysfs sys /sys
shown=
while :; do
	now=
	for d in /sys/bus/pci/devices/*; do
		read -r vendor <"$d/vendor" && read -r device <"$d/device" && read -r class <"$d/class" &&
			now="$now
PCI ${d##*/} $vendor:$device class=$class"
	done 2>/dev/null
	[ "$now" = "$shown" ] || echo "LIST$now
READY"
	shown=$now
	read -r -t 1 _
done
