#!/usr/bin/env bash
# Looks for inputs that break something:
#   scripts/fuzz.sh [SECONDS for each target, else 600] [TARGET...]
# Targets: decoder, commands, events, conversation (fuzz/fuzz_targets). Needs a nightly compiler and
# cargo-fuzz (`cargo install cargo-fuzz`). What is found lies in fuzz/artifacts, and fails this script;
# its line becomes a case in tests/it/any_input.rs. What was reached is kept in fuzz/corpus.
# Bounded versions of all four run with every `cargo test`. docs/threats.md tells what was found so far.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-600}
shift || true
[ $# -gt 0 ] || set -- decoder commands events conversation
cargo +nightly fuzz --version >/dev/null || { echo "this needs a nightly compiler and cargo-fuzz" >&2; exit 1; }

for target in "$@"; do
    corpus=fuzz/corpus/$target
    mkdir -p "$corpus"
    # What people say is where to begin.
    case $target in
    commands | events)
        number=0
        while IFS= read -r line; do
            number=$((number + 1))
            printf '%s' "$line" >"$corpus/transcript-$number"
        done < <(cat tests/transcripts/*.chat | sed -n 's/^[a-z]*[<>] //p' | sort -u)
        ;;
    esac
    echo "== $target, $seconds s"
    # The conversation uses a real file, named from here.
    cargo +nightly fuzz run "$target" "$corpus" -- -max_total_time="$seconds" -max_len=8192 -timeout=10
done
