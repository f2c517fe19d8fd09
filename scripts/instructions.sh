#!/usr/bin/env bash
# Counts the instructions of a fixed conversation (benches/instructions.rs) and
# compares with the count kept in benches/instructions.txt:
#   scripts/instructions.sh
# fails if it takes a quarter more. A count hardly depends on the machine or on
# what else that does, so it shows what a timed test cannot.
#   scripts/instructions.sh --update
# keeps the new count, which is to be committed with what made it.
# Needs valgrind.
set -euo pipefail
cd "$(dirname "$0")/.."

kept=benches/instructions.txt
most=25 # percent more than kept
command -v valgrind >/dev/null || { echo "this needs valgrind: apt-get install valgrind" >&2; exit 1; }

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
runner="['valgrind', '--tool=cachegrind', '--cache-sim=no', '--cachegrind-out-file=/dev/null', '--log-file=$out/log']"
cargo bench --quiet --locked --bench instructions --config "target.'cfg(unix)'.runner = $runner"
count=$(sed -n 's/.*I *refs: *\([0-9,]*\).*/\1/p' "$out/log" | tr -d ,)
[ -n "$count" ] || { cat "$out/log" >&2; exit 1; }

machine=$(uname -m)
compiler=$(rustc --version | cut -d' ' -f1,2)
if [ "${1:-}" = --update ]; then
    { grep -v "^$machine " "$kept" 2>/dev/null || true; echo "$machine $count $compiler"; } >"$out/kept"
    cp "$out/kept" "$kept"
    echo "kept: $count instructions ($machine, $compiler)"
    exit
fi
read -r _ before by < <(grep "^$machine " "$kept") || {
    echo "$count instructions; none are kept for $machine to compare with (--update keeps them)"
    exit
}
percent=$(awk "BEGIN { printf \"%+.1f\", 100 * ($count / $before - 1) }")
echo "$count instructions, $percent % against the $before kept ($by; here $compiler)"
if [ $((count * 100)) -gt $((before * (100 + most))) ]; then
    echo "that is more than $most % more: find out why, or keep it with scripts/instructions.sh --update" >&2
    exit 1
fi
