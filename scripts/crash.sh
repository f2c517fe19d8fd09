#!/usr/bin/env bash
# Kills the server again and again while people talk, and checks after each time
# that nothing anyone was shown is lost, doubled, reordered or in the wrong hands:
#   scripts/crash.sh [CYCLES] [SEED]
# runs the crash test that `cargo test` runs a few cycles of, 1000 times without
# CYCLES; a failure names the SEED that chose the moments.
#   scripts/crash.sh ready
# measures how soon a server with a gibibyte of history is ready after a kill.
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
