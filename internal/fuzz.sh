#!/usr/bin/env bash
# Runs each fuzz target for FUZZTIME. Arguments, if any, are the names of the
# targets to run.
set -uo pipefail
GO=${GO:-go}
out=$(mktemp)
trap 'rm -f "$out"' EXIT
failed=0
while read -r dir name; do
	if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then
		continue
	fi
	echo "$dir $name"
	"$GO" test "$dir" -run '^$' -fuzz "^$name\$" -fuzztime "${FUZZTIME:-1m}" 2>&1 | tee "$out"
	rc=${PIPESTATUS[0]}
	# Before Go 1.27 the end of the time may be reported as a failure, without
	# an input (go.dev/issue/75804).
	if [ "$rc" -ne 0 ] && grep -q '^ *context deadline exceeded$' "$out" && ! grep -qE 'Failing input|panic:|_test.go:' "$out"; then
		echo "$dir $name: the time was over, and no input failed"
	elif [ "$rc" -ne 0 ]; then
		failed=1
	fi
done < <(grep -r --include='*_test.go' '^func Fuzz' . | sed 's|/[^/]*:func \(Fuzz[A-Za-z0-9_]*\).*| \1|' | sort)
exit $failed
