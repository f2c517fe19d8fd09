#!/usr/bin/env bash
# Passes every test on a fresh Debian machine that has a Rust toolchain:
#   scripts/test.sh
# Installs the programs the tests talk through (netcats, tmux, strace, ip), read with (jq, man)
# or count with (valgrind) with apt-get where they are missing and that is permitted, else names
# them and goes on; a test that misses its program says so, and fails where CI is set.
set -euo pipefail
cd "$(dirname "$0")/.."

# program:package
NEEDED="nc.openbsd:netcat-openbsd nc.traditional:netcat-traditional ncat:ncat
socat:socat busybox:busybox telnet:telnet tmux:tmux pgrep:procps strace:strace
openssl:openssl cc:gcc valgrind:valgrind jq:jq man:man-db ip:iproute2"

missing=""
# A compiler without the C library's headers cannot build the tests.
[ -e /usr/include/stdio.h ] || missing=" libc6-dev"
for entry in $NEEDED; do
    command -v "${entry%%:*}" >/dev/null || missing="$missing ${entry##*:}"
done
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086 # a list of packages
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
            echo "could not install:$missing" >&2
    else
        echo "missing, their tests are skipped: apt-get install$missing" >&2
    fi
fi
for component in rustfmt clippy; do
    command -v "cargo-${component/rustfmt/fmt}" >/dev/null || rustup component add "$component"
done

step() {
    echo "== $*"
    "$@"
}
step cargo fmt --check
step cargo clippy --locked --all-targets -- -D warnings
step cargo test --locked
RUSTDOCFLAGS="-D warnings" step cargo doc --locked --no-deps --quiet
# The fuzz targets are a crate of their own, so that what they need is not needed to build.
if cargo fetch --locked --quiet --manifest-path fuzz/Cargo.toml; then
    step cargo check --locked --manifest-path fuzz/Cargo.toml --target-dir target/fuzz
else
    echo "== skipped, not all crates can be had: the fuzz targets"
fi
# Known vulnerabilities are looked up by hand, where there is a network: cargo deny check
if [ -n "${CI:-}" ] && ! command -v cargo-deny >/dev/null; then
    # Unoptimised it is there in a minute or two.
    cargo install --quiet --locked --debug --root target/tools cargo-deny || true
    PATH=$PATH:$PWD/target/tools/bin
fi
if ! command -v cargo-deny >/dev/null; then
    echo "== skipped, there is no cargo-deny: licenses, bans, sources"
elif ! cargo fetch --locked --quiet; then
    # It looks at what other systems would need, too.
    echo "== skipped, not all crates can be had: licenses, bans, sources"
else
    step cargo deny --offline --locked check licenses bans sources
fi
if command -v valgrind >/dev/null; then
    step scripts/instructions.sh
fi
