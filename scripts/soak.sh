#!/usr/bin/env bash
# A crowd comes, goes, renames, floods, reads slowly, vanishes, guesses passwords and leaves mail, with
# TLS and without, more of it than may come in (tests/it/soak.rs), on an optimised server in fast-forward:
#   scripts/soak.sh [SECONDS, else 1200]
# Fast-forward is thirtyfold: two seconds stand for a minute. Every time that the server keeps (for a
# name, a session, a slow reader, a guess, a silent peer) is a thirtieth of its default, and thirty
# visits begin in a second where one would. So 240 seconds stand for two hours, and 1200 for ten.
# Visits are no more than that, since the crowd has the same cores as the server.
# Says what memory the server used over time, how fast it was and what the crowd did; fails if memory
# grows, if one of two who talk beside the crowd misses a line or waits for it (99 % within 250 ms, all
# within a second), or if anything is left behind.
set -euo pipefail
cd "$(dirname "$0")/.."
CHATTY_SOAK_SECONDS=${1:-1200} CHATTY_STRICT=1 cargo test --release --locked --test it soak -- --nocapture
