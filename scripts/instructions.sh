#!/usr/bin/env bash
# Counts the instructions of fixed conversations (benches/instructions.rs) and compares them with
# the references in benches/instructions.txt:
#   scripts/instructions.sh
# fails if a count is more than 3 % higher. Unlike a time, an instruction count hardly depends on
# the machine and its load, so it detects small regressions. With other compilers than those of the
# reference the limit is 25 %.
#   scripts/instructions.sh --update
# stores the new counts as references; commit them together with their cause.
# Needs valgrind.
set -euo pipefail
cd "$(dirname "$0")/.."

kept=benches/instructions.txt
command -v valgrind >/dev/null || { echo "valgrind is not installed: apt-get install valgrind" >&2; exit 1; }

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
machine=$(uname -m)
compilers="$(rustc --version | cut -d' ' -f1,2), cc $(cc -dumpfullversion)"

# Counts the main thread only, which is the server loop. Other threads work by the clock (the search
# index and the checks of files, once a second), so their share depends on the speed of the machine.
count() {
    local runner="['valgrind', '--tool=callgrind', '--separate-threads=yes', '--callgrind-out-file=$out/$1', '--log-file=$out/$1.log']"
    cargo bench --quiet --locked --bench instructions --config "target.'cfg(unix)'.runner = $runner" -- "$1" >&2
    sed -n 's/^totals: *\([0-9]*\)$/\1/p' "$out/$1-01"
}

# Without waiting for a disk, maintenance of the log hardly finds a moment to interfere.
if [ -w /dev/shm ]; then export TMPDIR=/dev/shm; fi

too_many=0
for name in memory log slow; do
    count=$(count "$name")
    [ -n "$count" ] || { cat "$out/$name.log" >&2; exit 1; }
    echo "$machine $name $count $compilers" >>"$out/new"
    read -r _ _ before by < <(grep "^$machine $name " "$kept") || {
        echo "$name: $count instructions; no reference for $machine (--update stores one)"
        continue
    }
    most=3 # percent above the reference
    [ "$by" = "$compilers" ] || most=25
    percent=$(awk "BEGIN { printf \"%+.2f\", 100 * ($count / $before - 1) }")
    echo "$name: $count instructions, $percent % relative to the reference of $before ($by; here $compilers)"
    if [ $((count * 100)) -gt $((before * (100 + most))) ]; then
        echo "$name: more than $most % above the reference" >&2
        too_many=1
    fi
done
if [ "${1:-}" = --update ]; then
    { grep -v "^$machine " "$kept" 2>/dev/null || true; cat "$out/new"; } >"$out/kept"
    cp "$out/kept" "$kept"
    echo "stored as the new references"
elif [ $too_many = 1 ]; then
    echo "fix it, or accept it with scripts/instructions.sh --update" >&2
    exit 1
fi
