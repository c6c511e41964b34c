#!/usr/bin/env bash
# Runs every rung that this machine allows and says which ran. On CI a rung or
# a test that is skipped is a failure.
set -uo pipefail
GO=${GO:-go}
log=$(mktemp -d)
# What tests have in the folder for temporary files: after them no more than
# before. Only names that tests use count, since other programs run too.
temporary() { ls -A "${TMPDIR:-/tmp}" | grep -E '^(av|anyvisor|govcsim|vspheresim|hvsim|xapisim|Test)' | sort; }
before=$(temporary)
# Each lane has a process group, so that the tests end when this script does.
set -m
trap 'for lane in $(jobs -p); do kill -- "-$lane"; done 2>/dev/null; wait; rm -rf "$log"' EXIT
trap 'exit 130' INT TERM

# rung NAME COMMAND…: runs it, shows its output when it ends, but for what
# began and what passed below the top, and writes how it ended to $report, the
# file of its lane. Tests run with -v, since go test is silent about skips
# without.
rung() {
	local name=$1 begin=$SECONDS out rc
	shift
	out=$log/$(printf %s "$name" | tr -c 'A-Za-z0-9' _)
	echo "=== began: $name"
	local TIMEFORMAT='%0U + %0S' # without what daemons and emulators use
	{ time "$@" >"$out" 2>&1; } 2>"$out.cpu"
	rc=$?
	local skipped
	skipped=$(grep -c -- '--- SKIP' "$out")
	local took
	took="$((SECONDS - begin)) s, $(tail -1 "$out.cpu") of CPU"
	local end="ran      $name ($took)"
	if [ "$rc" -ne 0 ]; then
		end="FAILED   $name ($took)"
	elif [ "$skipped" -gt 0 ] && [ "${CI:-}" = true ]; then
		end="FAILED   $name ($took): $skipped tests were skipped, and on CI nothing may be"
	elif [ "$skipped" -gt 0 ]; then
		end="ran      $name ($took), $skipped tests SKIPPED: $(grep -A3 -- '--- SKIP' "$out" | grep -v -- '--- SKIP' | head -1 | sed 's/^ *//')"
	fi
	echo "$end" >>"$report"
	if [[ $end = FAILED* ]]; then
		{
			echo "$end"
			failures "$out"
		} >>"$report.failures"
	fi
	{
		if command -v flock >/dev/null; then flock 9; fi
		echo "=== $name"
		grep -vE '^=== |^ +--- PASS|^PASS$' "$out"
		echo "=== $end"
	} 9>"$log/.output"
}

# failures FILE: what the failed tests of go test -v printed, and nothing of the
# others; the end of the file if no test failed.
failures() {
	if ! grep -qE -- '^ *--- FAIL' "$1"; then
		tail -40 "$1"
		return
	fi
	awk '
		/^=== (RUN|NAME|CONT|PAUSE) / { name = $3; next }
		/^(ok|FAIL|---) / { name = "" }
		/--- FAIL: / { sub(/^ */, ""); print; printf "%s", said[$3] }
		name != "" { said[name] = said[name] "    " $0 "\n" }
		/^(ok|FAIL)[ \t]/ { delete said }
	' "$1"
	grep -m1 -A30 -E '^(panic|fatal error): ' "$1"
}

# skip NAME WHY: a rung that can't run here.
skip() {
	if [ "${CI:-}" = true ]; then
		echo "FAILED   $1: $2" >>"$report"
	else
		echo "SKIPPED  $1: $2" >>"$report"
	fi
}

builds() {
	local t
	for t in linux/amd64 windows/amd64 darwin/arm64; do # make lint builds for more
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
# govmomi's own simulator has data races: see the package. Package imagefile
# starts no goroutines, and would compute for minutes with the detector.
racy='/vsphere/internal/vcsim$|/hypervisor/imagefile$'
# The drivers whose conformance runs on simulators.
sims='anyvisor/(vsphere|hyperv|xen)$'
race=-race
command -v gcc >/dev/null || race=

# Tests of the suite that the race detector would tell nothing more about.
whole='^(TestFaults|TestContexts|TestConformanceUnderWine|TestConformanceBuilds|TestReleases)$'

# simulators is what needs no lab.
simulators() {
	rung "builds without cgo" builds
	# shellcheck disable=SC2046,SC2086
	if [ -n "$race" ]; then
		rung "fake, with the race detector" $GO test -v -race -shuffle=on -timeout 40m $(printf '%s\n' $pure | grep -vE -e "$racy" -e "$sims")
		# The areas that need most of the time run without it.
		rung "simulators, with the race detector" env ANYVISOR_WITHOUT=fields,results,foreign,faults,contexts $GO test -v -race -shuffle=on -timeout 40m -skip "$whole" $(printf '%s\n' $pure | grep -E "$sims")
		rung "govmomi's simulator and disk images, without it" $GO test -v -shuffle=on -timeout 40m $(printf '%s\n' $pure | grep -E "$racy")
		rung "the whole suite on the simulators, without it" $GO test -v -shuffle=on -timeout 40m -run "TestConformance|$whole" ./vsphere ./hyperv ./xen
	else
		skip "race detector" "no C compiler"
		rung "fake and simulators" env CGO_ENABLED=0 $GO test -v -shuffle=on -timeout 40m $pure
	fi
	# A module of its own, for what users of this one don't need.
	rung "programs and libraries of others" $GO test -C internal/interop -v -timeout 10m ./...
	# Two more: plans on many machines, and their engine on a database, which is
	# built without cgo and too large to build for the race detector.
	# shellcheck disable=SC2086
	rung "fleets" $GO test -C hypervisor/fleet $race -v -timeout 10m ./...
	rung "fleets that are killed" env CGO_ENABLED=0 $GO test -C hypervisor/fleet/dbosfleet -v -timeout 20m ./...
	rung "drivers built without cgo say so" env CGO_ENABLED=0 $GO test -v -run 'WithoutCgo|TestParseURL|TestSession|TestCreateOptions' ./kvm ./xen
}

# labs PATTERN…: what runs in labs, one rung after the other. Of two lanes each
# has one emulator that is busy at most.
labs() {
	local p
	if [ "$(uname -s)" != Linux ] || [ "$(id -u)" -ne 0 ]; then
		skip "labs: $*" "they need Linux and root: run 'sudo make test' on Debian 12"
		return
	fi
	for p in $($GO list "$@" | sort -u); do
		rung "lab: ${p#github.com/anyvisor/anyvisor/}" $GO test -p 1 -v -timeout 75m "$p"
	done
}

# The lanes run side by side, since guests boot and wait while simulators
# compute. Each takes about as long as the other.
report=$log/.simulators
{
	simulators
	labs ./internal/lab/xenlab ./xen/internal/libxl
} &
report=$log/.labs
# shellcheck disable=SC2046
labs $($GO list ./internal/lab/... ./internal/libvirtx/... ./kvm | grep -v /xenlab) &
wait
report=$log/.simulators
left=$(comm -13 <(echo "$before") <(temporary))
if [ -n "$left" ] && [ "${CI:-}" = true ]; then
	echo "FAILED   temporary files are left: $(echo $left)" >>"$report"
elif [ -n "$left" ]; then
	echo "ran      temporary files are left, or other tests are running: $(echo $left)" >>"$report"
else
	echo "ran      no temporary files are left" >>"$report"
fi

echo
echo "Rungs:"
sed 's/^/  /' "$log/.simulators" "$log/.labs"
# Once more at the end, where a reader of a long log looks first.
cat "$log"/.*.failures 2>/dev/null | cut -c1-2000 | head -300
! grep -q '^FAILED' "$log/.simulators" "$log/.labs"
