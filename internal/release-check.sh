#!/usr/bin/env bash
# Checks what a release needs beside the tests: go.mod and go.sum of each module
# are tidy, replace lines are local, NOTICE is right, and what changed in the
# exported API since the last tag. It needs the module proxy and nothing else.
set -uo pipefail
GO=${GO:-go}
apidiff=golang.org/x/exp/cmd/apidiff@v0.0.0-20261113113407-e3970619a1a4
own=github.com/anyvisor/anyvisor
published=(. hypervisor/fleet hypervisor/fleet/dbosfleet)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0
fail() { echo "FAIL: $*"; failed=1; }

# last DIR: the newest tag of the module in a folder, in the form that the go
# command expects: v1.2.3, or hypervisor/fleet/v1.2.3.
last() {
	local prefix=
	[ "$1" = . ] || prefix=$1/
	git tag --list "${prefix}v[0-9]*" --sort=-v:refname --merged HEAD | head -n 1
}

# compare ARGUMENTS: apidiff of two modules, without a line for each internal
# package.
compare() { "$GO" run $apidiff -m "$@" 2> >(sed '/^Ignoring internal package /d' >&2); }

while read -r mod; do
	dir=$(dirname "$mod")
	echo "== $dir: tidy"
	"$GO" -C "$dir" mod tidy -diff || fail "run go mod tidy in $dir"

	# go install refuses a module with replace lines, so the main one has none.
	# Those of the others name this repository's own modules, in their folders.
	# Users of a module don't see its replace lines.
	while read -r old new; do
		[ "$dir" = . ] && fail "$mod replaces $old: go install …@latest refuses such a module"
		case "$old $new" in
			"$own ../"* | "$own/"*" .."*) ;;
			*) fail "$mod replaces $old with $new: publish the change, or require a version that has it" ;;
		esac
	done < <("$GO" -C "$dir" list -m -f '{{with .Replace}}{{$.Path}} {{.Path}}{{end}}' all)
done < <(git ls-files 'go.mod' '*/go.mod')

# Where a published module requires another one of this repository, users get
# the version that it names.
for dir in "${published[@]}"; do
	while read -r path version; do
		of=.
		[ "$path" = $own ] || of=${path#"$own/"}
		tag=$(last "$of")
		if [ -z "$tag" ]; then
			echo "note: $dir requires $path $version, which has no tag yet: tag it, require that version, and then tag $dir"
		elif [ "$version" != "${tag##*/}" ]; then
			fail "$dir requires $path $version, and its last tag is $tag"
		fi
	done < <(sed -nE "s|^\s*(require )?($own\S*) (v\S+).*|\2 \3|p" "$dir/go.mod")
done

echo "== licences"
"$GO" test -count=1 -run 'TestNotice$' . || fail "NOTICE"
"$GO" -C internal/interop test -count=1 -tags release ./licence || fail "NOTICE"

for dir in "${published[@]}"; do
	tag=$(last "$dir")
	module=$("$GO" -C "$dir" list -m)
	if [ -z "$tag" ]; then
		echo "== $dir: no tag yet, so there is no API to compare with"
		continue
	fi
	echo "== $dir: the API since $tag"
	mkdir -p "$tmp/$tag"
	git archive "$tag" | tar -x -C "$tmp/$tag" || { fail "$tag can't be read"; continue; }
	if ! (cd "$tmp/$tag/$dir" && "$GO" run $apidiff -m -w "$tmp/old" "$module") || ! (cd "$dir" && "$GO" run $apidiff -m -w "$tmp/new" "$module"); then
		fail "apidiff can't read $module"
		continue
	fi
	compare "$tmp/old" "$tmp/new" || fail "apidiff can't compare $module"
	case ${tag##*/} in
		v0.*) ;; # docs/compatibility.md says what may change
		*) [ -z "$(compare -incompatible "$tmp/old" "$tmp/new")" ] || fail "$module has changes that need a new major version" ;;
	esac
done
[ $failed -eq 0 ] && echo "release-check: nothing stands in the way"
exit $failed
