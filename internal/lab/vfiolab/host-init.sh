#!/bin/bash
# Brings up the nested host, as the sysinit of busybox init, then obeys command files in /share.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
for d in /run /tmp /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do
	mkdir -p $d
	mount -t tmpfs tmpfs $d
done
mkdir -p /run/lock /dev/pts /dev/shm /var/lib/libvirt/images /var/cache/libvirt/qemu
mount -t devpts devpts /dev/pts
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 none /sys/fs/cgroup
hostname vfio1
echo '127.0.0.1 localhost vfio1' >/etc/hosts
grep -q ^libvirt-qemu: /etc/passwd || echo 'libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin' >>/etc/passwd
grep -q ^libvirt-qemu: /etc/group || echo 'libvirt-qemu:x:64055:' >>/etc/group
grep -q ^kvm: /etc/group || echo 'kvm:x:64056:' >>/etc/group
rm -rf /etc/libvirt/qemu
cp /share/libvirtd.conf /share/qemu.conf /etc/libvirt/
[ -d /share/capabilities ] && cp -r /share/capabilities /var/cache/libvirt/qemu/
programs=$(cat /share/programs)
cp "$programs/bin/udevadm" "$programs/usr/bin/mdevctl" /usr/bin/
mkdir -p /etc/mdevctl.d/scripts.d/{callouts,notifiers} /usr/lib/udev/rules.d
mount -t tmpfs tmpfs /usr/lib/udev/rules.d # nothing is to be done about devices but to tell of them
bash -c 'exec -a systemd-udevd udevadm --daemon'
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2
ip link add br0 type bridge
ip link set br0 up
echo "HOST up $(cat /proc/uptime)"
