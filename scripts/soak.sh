#!/usr/bin/env bash
# A crowd comes, goes, floods, does not read and vanishes (tests/it/soak.rs), on an optimised server
# whose limits let hours pass in minutes:
#   scripts/soak.sh [SECONDS, else 1200]
# Says what memory the server used over time and what the crowd did; fails if memory grows, if one of
# two who talk beside the crowd misses a line, or if anything is left behind.
set -euo pipefail
cd "$(dirname "$0")/.."
CHATTY_SOAK_SECONDS=${1:-1200} CHATTY_STRICT=1 cargo test --release --locked --test it soak -- --nocapture
