#!/usr/bin/env bash
# Counts the instructions of a fixed conversation (benches/instructions.rs) and compares them with
# the reference in benches/instructions.txt:
#   scripts/instructions.sh
# fails if the count is more than 25 % higher. Unlike a time, an instruction count hardly depends on
# the machine and its load, so it detects small regressions.
#   scripts/instructions.sh --update
# stores the new count as the reference; commit it together with its cause.
# Needs valgrind.
set -euo pipefail
cd "$(dirname "$0")/.."

kept=benches/instructions.txt
most=25 # percent above the reference
command -v valgrind >/dev/null || { echo "valgrind is not installed: apt-get install valgrind" >&2; exit 1; }

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
    echo "new reference: $count instructions ($machine, $compiler)"
    exit
fi
read -r _ before by < <(grep "^$machine " "$kept") || {
    echo "$count instructions; no reference for $machine (--update stores one)"
    exit
}
percent=$(awk "BEGIN { printf \"%+.1f\", 100 * ($count / $before - 1) }")
echo "$count instructions, $percent % relative to the reference of $before ($by; here $compiler)"
if [ $((count * 100)) -gt $((before * (100 + most))) ]; then
    echo "more than $most % above the reference: fix it, or accept it with scripts/instructions.sh --update" >&2
    exit 1
fi
