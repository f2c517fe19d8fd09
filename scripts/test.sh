#!/usr/bin/env bash
# Runs all checks and tests; works on a fresh Debian machine with a Rust toolchain:
#   scripts/test.sh
# As root it installs the missing packages of the list below; otherwise it lists them. If a program is
# missing, the tests that need it are skipped, each with a line that starts with "skipped:" (or
# "== skipped" for a step of this script). If CI is set, a missing program is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

# program:package for each program that the tests and this script run, except those of essential
# Debian packages. tests/it/support.rs reads this list.
NEEDED="
bash:bash mount:mount nc:netcat-openbsd nc.openbsd:netcat-openbsd
nc.traditional:netcat-traditional ncat:ncat socat:socat busybox:busybox telnet:telnet
tmux:tmux strace:strace openssl:openssl jq:jq jsonschema:python3-jsonschema man:man-db ip:iproute2
cc:gcc c++:g++ valgrind:valgrind sqlite3:sqlite3 git:git
python3:python3 webhook:webhook curl:curl sshd:openssh-server ssh:openssh-client
ssh-keygen:openssh-client perl:perl-base stty:coreutils mkfifo:coreutils unshare:util-linux
"

missing=()
has() { command -v "$1" >/dev/null; }
# Adds a package to the missing ones, unless it is already listed.
lacks() {
    case " ${missing[*]} " in
    *" $1 "*) ;;
    *) missing+=("$1") ;;
    esac
}
for entry in $NEEDED; do
    has "${entry%%:*}" || lacks "${entry##*:}"
done
# The build needs the headers of the C library, too.
[ -e /usr/include/stdio.h ] || lacks libc6-dev
if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && has apt-get; then
    export DEBIAN_FRONTEND=noninteractive
    echo "== apt-get install ${missing[*]}"
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; } ||
        echo "could not install: ${missing[*]}" >&2
elif [ ${#missing[@]} -gt 0 ]; then
    echo "tests are skipped because programs are missing: apt-get install ${missing[*]}" >&2
fi
has cargo || { echo "cargo is not installed: see README.md for a Rust toolchain" >&2; exit 1; }
has cc || { echo "the build needs a C compiler: apt-get install gcc libc6-dev" >&2; exit 1; }

# component:command:package. With rustup the command may exist without the component. On Debian each
# component is a package with the same version as the compiler.
for entry in rustfmt:fmt:rustfmt clippy:clippy:rust-clippy; do
    IFS=: read -r component command package <<<"$entry"
    cargo "$command" --version >/dev/null 2>&1 && continue
    if has rustup; then
        rustup component add "$component"
    else
        version=$(dpkg-query -W -f '${Version}' rustc 2>/dev/null) || version=""
        package=$package${version:+=$version}
        if [ "$(id -u)" = 0 ] && [ -n "$version" ]; then
            apt-get install -y -qq --no-install-recommends "$package" >/dev/null
        else
            echo "cargo $command is missing: install $package, or rustup's $component" >&2
            exit 1
        fi
    fi
done

step() {
    echo "== $*"
    "$@"
}
# skip STEP REASON: skips a step because something is missing, which is a failure if CI is set.
skip() {
    echo "== skipped: $1: $2"
    [ -z "${CI:-}" ] || exit 1
}
step scripts/style.sh --check
step cargo fmt --check
step cargo clippy --locked --all-targets -- -D warnings
step scripts/old_version.sh || skip "the tests with an earlier version" "it could not be built"
step cargo test --locked
RUSTDOCFLAGS="-D warnings" step cargo doc --locked --no-deps --quiet
# The fuzz targets are a separate crate, so that the main build does not need their dependencies.
if ! has c++; then
    skip "the fuzz targets" "c++ is not installed"
elif cargo fetch --locked --quiet --manifest-path fuzz/Cargo.toml; then
    step cargo check --locked --manifest-path fuzz/Cargo.toml --target-dir target/fuzz
else
    skip "the fuzz targets" "fuzz/Cargo.lock is out of date, or crates cannot be downloaded"
fi
# Known vulnerabilities are checked manually, since that needs a network: cargo deny check
if [ -n "${CI:-}" ] && ! has cargo-deny; then
    # A debug build takes a minute or two.
    cargo install --quiet --locked --debug --root target/tools cargo-deny || true
    PATH=$PATH:$PWD/target/tools/bin
fi
if ! has cargo-deny; then
    echo "== skipped: licenses, bans, sources: cargo-deny is not installed"
elif ! cargo fetch --locked --quiet; then
    # cargo-deny also checks the dependencies of other platforms.
    echo "== skipped: licenses, bans, sources: crates cannot be downloaded"
else
    step cargo deny --offline --locked check licenses bans sources
fi
if has valgrind; then
    step scripts/instructions.sh
else
    skip "the instruction counts" "valgrind is not installed"
fi
