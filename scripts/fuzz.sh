#!/usr/bin/env bash
# Runs the fuzz targets:
#   scripts/fuzz.sh [SECONDS per target, else 600] [TARGET...]
# Targets: decoder, commands, events, conversation, turn_wire (fuzz/fuzz_targets). Needs a nightly
# compiler and cargo-fuzz (`cargo install cargo-fuzz`). A crashing input is written to fuzz/artifacts
# and fails this script; add it as a case to tests/it/any_input.rs. The corpus is in fuzz/corpus.
# Bounded versions of all targets run with every `cargo test`. docs/threats.md lists the findings so far.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-600}
shift || true
[ $# -gt 0 ] || set -- decoder commands events conversation turn_wire
cargo +nightly fuzz --version >/dev/null || { echo "a nightly compiler and cargo-fuzz are required" >&2; exit 1; }

for target in "$@"; do
    corpus=fuzz/corpus/$target
    mkdir -p "$corpus"
    # The seed corpus is the lines of the transcripts, or the turns of drawn conversations.
    case $target in
    commands | events)
        number=0
        while IFS= read -r line; do
            number=$((number + 1))
            printf '%s' "$line" >"$corpus/transcript-$number"
        done < <(cat tests/transcripts/*.chat | sed -n 's/^[a-z]*[<>] //p' | sort -u)
        ;;
    turn_wire)
        TURN_CORPUS=$PWD/$corpus cargo test --locked --test it -- turn_decoder_accepts_any_bytes
        ;;
    esac
    echo "== $target, $seconds s"
    # Must run in the repository's root, since the conversation reads a file by a relative path.
    cargo +nightly fuzz run "$target" "$corpus" -- -max_total_time="$seconds" -max_len=8192 -timeout=10
done
