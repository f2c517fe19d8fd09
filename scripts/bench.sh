#!/usr/bin/env bash
# Measures the performance of chatty and, if they are installed, of Redis and ngircd:
#   scripts/bench.sh [--quick]
# prints a table for each workload (docs/performance.md explains them) with the medians of three
# rounds, in about ten minutes; with --quick one short round, in about two.
#   scripts/bench.sh [--quick] --address 127.0.0.1:5555 --pid "$(pgrep -x chatty)"
# measures a chatty that already runs on this machine, in its room #bench. The messages stay in
# its log, so do not use a server with real users.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=(--rounds 3 --seconds 1.5)
people=10000
if [ "${1:-}" = --quick ]; then
    rounds=(--rounds 1 --seconds 0.5)
    people=1000
    shift
fi
cargo bench --quiet --locked --bench load --no-run

pin=()
if [ $# -gt 0 ]; then
    echo "The server was not started here, so the generator is not pinned to a core."
else
    core=$(($(nproc) - 1))
    if command -v taskset >/dev/null && taskset -c $core true 2>/dev/null; then
        pin=(taskset -c "$core")
        echo "Servers and generator share core $core of $(nproc), which is the last one."
    else
        echo "taskset is not available: nothing is pinned to a core, and figures vary more."
    fi
fi
echo "Medians of ${rounds[1]} round(s) of ${rounds[3]} s."
ulimit -n "$(ulimit -Hn)"

# Prints which of these servers are installed.
installed() {
    local list=""
    for server in "$@"; do
        case $server in
        redis) command -v redis-server >/dev/null || continue ;;
        ngircd) command -v ngircd >/dev/null || continue ;;
        esac
        list="$list,$server"
    done
    echo "${list#,}"
}
own=$(installed chatty chatty-log)
all=$(installed chatty chatty-log redis ngircd)
# ngircd is not measured here: its listen backlog is 10, and each login iterates over all users.
storm=$(installed chatty redis)

measure() { # SERVERS WORKLOAD [OPTION...], and the arguments of this script
    local servers=(--servers "$1")
    shift
    if [ ${#given[@]} -gt 0 ]; then servers=(); fi
    "${pin[@]}" cargo bench --quiet --locked --bench load -- "$@" "${servers[@]}" "${rounds[@]}" "${given[@]}"
}
given=("$@")

for room in "100 1 100" "100 10 10" "1000 10 10" "100 1 1" "100 10 1" "1000 10 1"; do
    read -r receivers senders window <<<"$room"
    measure "$all" fanout --receivers "$receivers" --senders "$senders" --window "$window"
done
measure "$own" fanout --receivers 100 --senders 10 --window 10 --tagged 50
measure "$all" paced --receivers 100 --senders 10 --rate 1000
measure "$all" pairs --pairs 1
for talk in "1 1" "10 1" "100 1" "1 100" "10 100" "100 100"; do
    read -r senders window <<<"$talk"
    measure "$own" acks --senders "$senders" --window "$window"
done
measure "$storm" storm --people 1000
measure "$storm" idle --people "$people"
