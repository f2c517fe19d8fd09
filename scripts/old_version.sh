#!/usr/bin/env bash
# Builds an earlier version of chatty for the tests of compatibility (tests/it/compat.rs):
#   scripts/old_version.sh
# from the git history into target/chatty-VERSION/COMMIT/chatty, if it is not there. scripts/test.sh
# calls it. Needs no crates besides those of the present version.
set -euo pipefail
cd "$(dirname "$0")/.."

# The last commit of that version: the one before the first entry of "Unreleased" in CHANGELOG.md.
# tests/it/compat.rs reads both lines.
VERSION=0.1.0
COMMIT=20e1456ed5a82632ef3c3a56820ddd898910d778

folder=target/chatty-$VERSION
binary=$folder/$COMMIT/chatty
[ -x "$binary" ] && exit

rm -rf "$folder"
mkdir -p "$folder/source" "$folder/$COMMIT"
# The history may belong to another user, as in a container. An archive that ends early is not unpacked
# to its end, which is a failure of tar or git.
git -c safe.directory='*' archive "$COMMIT" | tar -x -C "$folder/source" || {
    echo "old_version.sh: chatty $VERSION cannot be built: the git history lacks commit $COMMIT" >&2
    rm -rf "$folder"
    exit 1
}
CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 cargo build --locked --quiet --bin chatty \
    --manifest-path "$folder/source/Cargo.toml" --target-dir "$folder/build"
mv "$folder/build/debug/chatty" "$binary"
rm -rf "$folder/source" "$folder/build"
