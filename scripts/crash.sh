#!/usr/bin/env bash
# Kills the server repeatedly while clients send messages, and checks after each restart that no
# delivered message is lost, duplicated, reordered or delivered to the wrong user:
#   scripts/crash.sh [CYCLES, else 1000] [SEED]
# runs the crash test of `cargo test` with more cycles. A failure prints the SEED that determined
# the times of the kills.
#   scripts/crash.sh ready
# measures the startup time of a server with 1 GiB of history after a kill.
set -euo pipefail
cd "$(dirname "$0")/.."

test=delivered_messages_survive_kill_at_any_moment
if [ "${1:-}" = ready ]; then
    test=startup::server_with_gibibyte_log_starts_quickly_after_kill
else
    export CHATTY_CRASH_CYCLES="${1:-1000}"
    if [ -n "${2:-}" ]; then
        export CHATTY_CRASH_SEED="$2"
    fi
fi
cargo test --locked --release --test it -- --nocapture --include-ignored --exact "crash::$test"
