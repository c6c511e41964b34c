#!/usr/bin/env bash
# Installs the Debian packages that building and testing need, or names them.
set -euo pipefail

# A compiler for cgo and -race, and libvirt's headers for packages kvm and xen.
# The labs install their own packages (QEMU, libvirtd, Wine, …) when they start.
need=(gcc libc6-dev pkg-config libvirt-dev)

command -v dpkg-query >/dev/null || {
	echo "deps: this is no Debian system: install a C compiler, pkg-config and libvirt's headers yourself"
	exit 0
}
missing=()
for p in "${need[@]}"; do
	[ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
	echo "deps: SKIPPED, not root: install these packages, or the rungs that need them won't run: ${missing[*]}"
	exit 0
fi
echo "deps: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
opts=(-q -y --no-install-recommends -o DPkg::Lock::Timeout=300)
apt-get "${opts[@]}" install "${missing[@]}" >/dev/null 2>&1 || {
	apt-get -q update >/dev/null
	apt-get "${opts[@]}" install "${missing[@]}" >/dev/null
}
