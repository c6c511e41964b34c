# Runs as first process of a lab host's own PID, mount, UTS, IPC and network namespaces, so its
# end is the end of everything the host runs. Arguments: the host's folder, its name.
# Then it obeys lines on its standard input; end of input is the end of the host.
set -e
dir=$1
mount --make-rprivate /
hostname "$2"
mount -t proc proc /proc
mount -t sysfs sys /sys
for d in etc/libvirt var/lib/libvirt var/cache/libvirt var/log/libvirt run; do
	mkdir -p "/$d" "$dir/$d"
	mount --bind "$dir/$d" "/$d"
done
for f in hosts passwd group; do
	mount --bind "$dir/$f" /etc/$f
done
cd /
set +e
echo ready
while read -r order; do
	case $order in
	start)
		libvirtd --listen >>"$dir/libvirtd.out" 2>&1 </dev/null &
		daemon=$!
		;;
	stop) kill "$daemon" && wait "$daemon" ;;
	kill) kill -9 "$daemon" && wait "$daemon" ;;
	esac
	echo "done $order"
done
