#!/usr/bin/env bash
# Plays the hostile inputs of tests/it/hostile.rs in full, one after another, on an optimised server
# and holds them to the narrow figures: while each goes on, 99 of 100 lines between two others
# arrive within 250 ms, and all within a second.
set -euo pipefail
cd "$(dirname "$0")/.."
CHATTY_STRICT=1 cargo test --release --locked --test it hostile:: -- --test-threads=1 --nocapture
