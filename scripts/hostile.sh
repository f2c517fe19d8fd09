#!/usr/bin/env bash
# Runs the hostile-client tests of tests/it/hostile.rs one after another on an optimised server with
# strict limits: during each attack, 99 % of the messages between two other clients must arrive
# within 250 ms, and all within a second. For attacks on what all clients share it prints the longest
# waits of an honest client in another network: at most 250 ms for its chat, a second for its
# histories, searches and logins.
set -euo pipefail
cd "$(dirname "$0")/.."
CHATTY_STRICT=1 cargo test --release --locked --test it hostile:: -- --test-threads=1 --nocapture
