#!/usr/bin/env bash
# Runs every fuzz target of the module for the given time, one after the other,
# and goes on after a finding so that one run reports all of them. Making an
# input smaller is bounded, because it would eat the time of short runs.
#
#   scripts/fuzz.sh 60s [PACKAGE...]
set -euo pipefail

duration=${1:-60s}
shift || true
found=0
failed=()

while read -r package; do
	while read -r name; do
		case $name in Fuzz*) ;; *) continue ;; esac
		found=$((found + 1))
		echo "== $package $name"
		go test -run '^$' -fuzz "^$name\$" -fuzztime "$duration" -fuzzminimizetime 10x "$package" </dev/null ||
			failed+=("$package $name")
	done < <(go test -list '^Fuzz' "$package" </dev/null)
done < <(go list "${@:-./...}")

if [ "$found" -eq 0 ]; then
	echo "No fuzz target was found." >&2
	exit 1
fi
if [ ${#failed[@]} -gt 0 ]; then
	printf 'failed: %s\n' "${failed[@]}" >&2
	exit 1
fi
echo "$found fuzz targets ran for $duration each; none failed."
