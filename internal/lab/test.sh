#!/usr/bin/env bash
# Runs every rung that this machine allows and says which ran. On CI a rung or
# a test that is skipped is a failure.
set -uo pipefail
GO=${GO:-go}
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
declare -a report
failed=0

# rung NAME COMMAND…: runs it, shows its output but for what began and what
# passed below the top, and remembers how it ended. Tests run with -v, since
# go test is silent about skips without.
rung() {
	local name=$1 begin=$SECONDS out rc
	shift
	out=$log/$(printf %s "$name" | tr -c 'A-Za-z0-9' _)
	echo "=== $name"
	"$@" 2>&1 | tee "$out" | grep --line-buffered -vE '^=== |^ +--- PASS|^PASS$'
	rc=${PIPESTATUS[0]}
	local skipped
	skipped=$(grep -c -- '--- SKIP' "$out")
	local took="$((SECONDS - begin)) s"
	if [ "$rc" -ne 0 ]; then
		report+=("FAILED   $name ($took)")
		failed=1
	elif [ "$skipped" -gt 0 ] && [ "${CI:-}" = true ]; then
		report+=("FAILED   $name ($took): $skipped tests were skipped, and on CI nothing may be")
		failed=1
	elif [ "$skipped" -gt 0 ]; then
		report+=("ran      $name ($took), $skipped tests SKIPPED: $(grep -A3 -- '--- SKIP' "$out" | grep -v -- '--- SKIP' | head -1 | sed 's/^ *//')")
	else
		report+=("ran      $name ($took)")
	fi
}

# skip NAME WHY: a rung that can't run here.
skip() {
	if [ "${CI:-}" = true ]; then
		report+=("FAILED   $1: $2")
		failed=1
	else
		report+=("SKIPPED  $1: $2")
	fi
}

builds() {
	local t
	for t in linux/amd64 linux/arm64 windows/amd64 windows/arm64 darwin/arm64; do
		echo "build $t"
		CGO_ENABLED=0 GOOS=${t%/*} GOARCH=${t#*/} $GO build ./... || return 1
	done
	if $GO list -deps ./hypervisor ./hypervisor/fake | grep '\.' | grep -v '^github.com/anyvisor/anyvisor/'; then
		echo "packages hypervisor and fake may import the standard library alone"
		return 1
	fi
}

# Packages that need no cgo and no lab.
pure=$($GO list ./... | grep -v -e /internal/lab -e '/kvm$' -e '/internal/libxl$' -e '/internal/libvirt')
# govmomi's own simulator has data races: see the package.
racy='/vsphere/internal/vcsim$'
# Packages that are tested inside a lab, one after the other: two busy
# emulators at once are too much for a small machine.
race=-race
command -v gcc >/dev/null || race=
rung "builds without cgo" builds
# shellcheck disable=SC2046,SC2086
if [ -n "$race" ]; then
	rung "fake and simulators, with the race detector" $GO test -v -race -shuffle=on -timeout 15m $(printf '%s\n' $pure | grep -vE "$racy")
	rung "vSphere on govmomi's simulator, without it" $GO test -v -shuffle=on -timeout 15m $(printf '%s\n' $pure | grep -E "$racy")
else
	skip "race detector" "no C compiler"
	rung "fake and simulators" env CGO_ENABLED=0 $GO test -v -shuffle=on -timeout 15m $pure
fi
rung "drivers built without cgo say so" env CGO_ENABLED=0 $GO test -v ./kvm ./xen

if [ "$(uname -s)" != Linux ] || [ "$(id -u)" -ne 0 ]; then
	skip "labs" "they need Linux and root: run 'sudo make test' on Debian 12"
else
	for p in $($GO list ./internal/lab/... ./internal/libvirtx/... ./kvm ./xen/internal/libxl | sort -u); do
		rung "lab: ${p#github.com/anyvisor/anyvisor/}" $GO test -p 1 -v -timeout 40m "$p"
	done
fi

echo
echo "Rungs:"
printf '  %s\n' "${report[@]}"
exit $failed
