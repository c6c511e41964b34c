#!/bin/busybox sh
# Mounts the disk and hands over to dom0's own init.
b=/bin/busybox
$b mkdir -p /proc /sys /dev /new
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
while read -r m; do $b insmod "$m"; done </lib/modules/order
until [ -b /dev/vda ]; do $b sleep 0.1; done
$b mount -t ext4 -o noatime /dev/vda /new
$b mount --move /dev /new/dev
$b umount /sys /proc
exec $b switch_root /new /sbin/init
