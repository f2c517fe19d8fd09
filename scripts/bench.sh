#!/usr/bin/env bash
# Measures chatty and, where they are installed, Redis and ngIRCd, on the same
# work in alternating rounds, and prints a table for each workload:
#   scripts/bench.sh [--quick]
# Everything runs on one core where taskset is there, so that waking the other
# one does not count. Compare the CPU time for each delivery, within one run only.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=3 seconds=1.5
if [ "${1:-}" = --quick ]; then
    rounds=1 seconds=0.5
fi

cargo build --quiet --release --bench load
load=$(cargo bench --quiet --no-run --message-format=json --bench load 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*load-[^"]*\)".*/\1/p' | tail -n 1)

pin=""
if command -v taskset >/dev/null; then
    pin="taskset -c $(($(nproc) - 1))"
fi
servers=chatty,chatty-log
peers=""
command -v redis-server >/dev/null && peers="$peers,redis"
command -v ngircd >/dev/null && peers="$peers,ngircd"
echo "$(nproc) cores, ${pin:-not pinned}; servers: $servers$peers"

measure() {
    # shellcheck disable=SC2086 # a command of words
    $pin "$load" "$@" --rounds "$rounds" --seconds "$seconds"
}
for room in "100 1 100" "100 10 10" "1000 10 10" "100 1 1" "100 10 1" "1000 10 1"; do
    read -r receivers senders window <<<"$room"
    measure fanout --receivers "$receivers" --senders "$senders" --window "$window" \
        --servers "$servers$peers"
done
for talk in "1 1" "10 1" "100 1" "100 100"; do
    read -r senders window <<<"$talk"
    measure acks --senders "$senders" --window "$window" --servers "$servers"
done
measure idle --people 10000 --servers "$servers"
