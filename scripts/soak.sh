#!/usr/bin/env bash
# Runs the soak test (tests/it/soak.rs) on an optimised server. Many clients join, quit, rename, flood,
# read slowly, drop connections, guess passwords and leave mail, with and without TLS, and exceed the
# connection limit:
#   scripts/soak.sh [SECONDS, else 1200]
# Time is simulated 30 times faster: all timeouts of the server (names, sessions, slow readers,
# password attempts, silent peers) are 1/30 of their defaults, and 30 logins happen per second instead
# of one. So 240 seconds stand for two hours and 1200 for ten. The login rate is not higher, since
# clients and server share the same cores.
# Prints the server's memory over time, its latency and the number of client actions. Fails if memory
# grows, if one of two other clients misses a message or receives it late (99 % within 250 ms, all
# within a second), or if any resource is leaked.
set -euo pipefail
cd "$(dirname "$0")/.."
CHATTY_SOAK_SECONDS=${1:-1200} CHATTY_STRICT=1 cargo test --release --locked --test it soak -- --nocapture
