#!/bin/bash
# Brings up dom0, as the sysinit of busybox init. libvirtd is a respawn entry of its inittab.
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -o remount,rw /
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /run/lock /run/xen /run/xenstored /run/sshd /run/libvirt
mount -t cgroup2 none /sys/fs/cgroup
mount -t xenfs xenfs /proc/xen
number=$(sed -n 's/.*lab.host=\([0-9]*\).*/\1/p' /proc/cmdline)
hostname "xen$number"
modprobe -a virtio_net xen-evtchn xen-gntdev xen-gntalloc xen-privcmd xen-blkback xen-netback xen-pciback loop bridge tun 9pnet_virtio 9p
for tag in shared consoles; do
	mkdir -p /$tag
	mount -t 9p -o trans=virtio,version=9p2000.L,cache=none,msize=512000 $tag /$tag
done

# eth0 leads to the machine that runs the lab, eth1 to the other host.
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2
ip link add xenbr0 type bridge
ip link set eth1 master xenbr0 up
ip addr add "10.99.0.$number/24" dev xenbr0
ip link set xenbr0 up
/usr/sbin/sshd
/usr/lib/systemd/systemd-udevd --daemon
echo "DOM0 network $(cat /proc/uptime)"

bin=$(echo /usr/lib/xen-4.*/bin)
"$bin/oxenstored" --pid-file /run/xenstore.pid
for _ in $(seq 100); do
	xenstore-read -s / >/dev/null 2>&1 && break
	sleep 0.1
done
"$bin/xen-init-dom0" >/dev/null
"$bin/xenconsoled" --log=guest --log-dir=/consoles --pid-file=/run/xenconsoled.pid
/usr/libexec/xen-qemu-system-i386 -xen-domid 0 -xen-attach -name dom0 -nographic -M xenpv -daemonize \
	-monitor none -serial none -parallel none -pidfile /run/qemu-dom0.pid &
echo "DOM0 xen $(cat /proc/uptime)"
