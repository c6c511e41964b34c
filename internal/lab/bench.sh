#!/usr/bin/env bash
# Benchmarks of the portable layer and of every driver against hand-written
# native code in the same run.
set -uo pipefail
GO=${GO:-go}
rc=0
$GO test -run '^$' -bench . -benchmem -timeout 20m ./hypervisor/... ./vsphere/... ./hyperv/... ./xen/... || rc=1
if [ "$(uname -s)" = Linux ] && [ "$(id -u)" -eq 0 ]; then
	$GO test -run '^$' -bench . -benchmem -timeout 20m ./kvm || rc=1
else
	echo "SKIPPED: the benchmarks on libvirtd need Linux and root"
fi
exit $rc
