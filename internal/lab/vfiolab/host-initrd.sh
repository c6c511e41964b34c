#!/bin/busybox sh
# First process of the nested host: makes its root of this machine's, read-only, under a layer in
# memory, loads the modules, and hands over to busybox init.
b=/bin/busybox
$b mkdir -p /proc /sys /dev /lower /layer /new
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
while read -r m; do $b insmod "$m"; done </lib/modules/order
$b mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 root /lower
$b mount -t tmpfs tmpfs /layer
$b mkdir /layer/up /layer/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/layer/up,workdir=/layer/work overlay /new
$b mkdir -p /new/share
$b mount -t 9p -o trans=virtio,version=9p2000.L,cache=none,msize=512000 share /new/share
for d in proc sys dev; do $b mount --move /$d /new/$d; done
$b cp /lab/inittab /new/etc/inittab
exec $b switch_root /new /bin/busybox init
