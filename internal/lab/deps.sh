#!/usr/bin/env bash
# Installs the Debian packages that building and testing need, or names them.
set -euo pipefail

# A compiler for cgo and -race, and libvirt's headers for packages kvm and xen.
# The labs' packages (QEMU, libvirtd, …) follow: tests beside the labs need some
# of them before any lab has started.
# The engines of fleets are tested on PostgreSQL, which they start themselves.
need=(gcc libc6-dev pkg-config libvirt-dev postgresql)

command -v dpkg-query >/dev/null || {
	echo "deps: this is no Debian system: install a C compiler, pkg-config, libvirt's headers and PostgreSQL yourself"
	exit 0
}
missing=()
for p in "${need[@]}"; do
	[ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
labs() { if [ "$(id -u)" -eq 0 ]; then CGO_ENABLED=0 "${GO:-go}" run ./internal/lab/cmd/lab install; fi; }
if [ ${#missing[@]} -eq 0 ]; then
	labs
	exit 0
fi
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
labs
