#!/usr/bin/env bash
# Runs the commands of README.md on a fresh Debian 13:
#   scripts/fresh.sh [--keep] [user|root]
# Creates a minimal system in a folder with the Rust toolchain and the downloaded crates of this
# machine, and installs only the packages that README.md names. Then it installs chatty, starts
# the server and runs all tests with the commands of README.md:
# - as a normal user with umask 077, a blank in the path, and without a terminal, a locale and
#   /etc/hosts. Tests whose program is missing are skipped.
# - as root with CI set: scripts/test.sh installs the missing programs, and a skipped test is a
#   failure. The build of the normal user is reused.
# With `user` or `root` it runs only one of the two. --keep does not delete the folder.
#
# Needs root and debootstrap. Uses the Debian mirror that apt is configured for, else debootstrap's
# default. The folder is in $TMPDIR or /var/tmp and needs some gigabytes. A run takes about 15 minutes
# on two cores. Mounts are in a separate namespace, which ends with this script.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "fresh.sh: $*" >&2
    exit 1
}

# readme START: prints the first line of README.md that starts with START, without its comment.
readme() {
    local line
    line=$(grep -m1 -E "^$1( |\$)" README.md | sed 's/ *#.*//') ||
        fail "README.md has no line that starts with \"$1\""
    echo "$line"
}
packages=$(readme 'apt install')
install=$(readme 'cargo install')
serve=$(readme 'cargo run')
test=$(readme 'scripts/test\.sh')

user=1000
source="/home/user/chatty source"
cargo_home=/home/user/.cargo
times=()

# timed TITLE COMMAND...: runs a command and records its duration.
timed() {
    local what=$1 start=$SECONDS
    shift
    echo "== $what"
    "$@"
    times+=("$((SECONDS - start)) s: $what")
}

# run USER SCRIPT: runs a script in the folder of the source, without this machine's environment.
run() {
    local id=0 home=/root mask=022 environment=(CI=true)
    if [ "$1" = user ]; then
        id=$user home=/home/user mask=077 environment=()
    fi
    setsid --wait chroot --userspec="$id:$id" --groups="" "$root" /usr/bin/env -i \
        "HOME=$home" "CARGO_HOME=$cargo_home" CARGO_NET_OFFLINE=true \
        "PATH=$cargo_home/bin:/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
        ${http_proxy:+"http_proxy=$http_proxy"} ${environment[@]+"${environment[@]}"} \
        bash -euc "umask $mask; cd '$source'; $2" </dev/null
}

# Starts the server as in README.md, stops it once it listens, and expects a graceful shutdown.
# shellcheck disable=SC2016 # expanded by the inner shell
serve_and_stop() {
    run "$1" 'said=$(mktemp)
        trap "cat \"\$said\"; rm \"\$said\"" EXIT
        '"$serve"' 2>"$said" & server=$!
        until grep -q "^listening on " "$said"; do
            kill -0 "$server"
            sleep 0.2
        done
        kill "$server"
        wait "$server"'
}

# The steps that need mounts: scripts/fresh.sh --inside ROOT TOOLCHAIN USER...
if [ "${1:-}" = --inside ]; then
    root=$2 toolchain=$3
    shift 3
    # "ip netns exec" needs the root to be a mount point.
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$root/dev/pts"
    ln -sf pts/ptmx "$root/dev/ptmx"
    mount --bind "$toolchain" "$root/opt/rust"
    mount -o remount,bind,ro "$root/opt/rust"
    timed "$packages" chroot "$root" env DEBIAN_FRONTEND=noninteractive \
        sh -ec "apt-get update -qq; $packages >/dev/null"
    for who in "$@"; do
        timed "$who: $install" run "$who" "$install; chatty --version"
        timed "$who: $serve" serve_and_stop "$who"
        timed "$who: $test" run "$who" "$test"
    done
    printf '%s\n' "== passed" "${times[@]}"
    exit
fi

keep=""
people=(user root)
for argument in "$@"; do
    case $argument in
    --keep) keep=yes ;;
    user | root) people=("$argument") ;;
    *) fail "unknown argument: $argument; usage: scripts/fresh.sh [--keep] [user|root]" ;;
    esac
done
[ "$(id -u)" = 0 ] || fail "must run as root, to create a root file system and mounts"
for program in debootstrap unshare setsid tar git cargo rustc; do
    command -v "$program" >/dev/null || fail "$program is not installed"
done
toolchain=$(realpath "$(rustc --print sysroot)")
if [ "$toolchain" = /usr ] || ! [ -x "$toolchain/bin/cargo" ]; then
    fail "the toolchain must be in its own folder, as rustup installs it; found $toolchain"
fi
# The fresh system downloads only packages; the crates are provided.
for manifest in Cargo.toml fuzz/Cargo.toml; do
    cargo fetch --locked --quiet --manifest-path "$manifest"
done
# shellcheck disable=SC2016 # expanded by apt
mirror=$(apt-get indextargets --format '$(REPO_URI)' "Created-By: Packages" "Origin: Debian" \
    "Label: Debian" 2>/dev/null | head -1) || mirror=""

root=$(mktemp -d -p "${TMPDIR:-/var/tmp}" chatty-fresh.XXXXXX)
child=""
finish() {
    # Killing the first process of the namespaces ends all others and removes the mounts.
    [ -z "$child" ] || kill "$child" 2>/dev/null || true
    if [ -n "$keep" ]; then
        echo "not deleted: $root"
    else
        rm -rf --one-file-system "$root"
    fi
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
chmod 755 "$root"

make_root() {
    debootstrap --variant=minbase trixie "$root" ${mirror:+"$mirror"} >"$root.log" ||
        { cat "$root.log" >&2; fail "debootstrap failed"; }
    rm "$root.log"
    # apt must not ask questions.
    echo 'APT::Get::Assume-Yes "true";' >"$root/etc/apt/apt.conf.d/90fresh"
    mkdir -p "$root/opt/rust" "$root$source" "$root$cargo_home"
    chroot "$root" useradd --uid "$user" --home-dir /home/user user
    tar -c --exclude=./target --exclude=./fuzz/target --exclude=./.git . | tar -x -C "$root$source"
    # The tests build an earlier version from the history. Cloned, since .git may be a link to elsewhere.
    git clone --quiet --bare . "$root$source/.git"
    # The crates, and the cargo settings that name their source.
    cp -a "${CARGO_HOME:-$HOME/.cargo}/registry" "$root$cargo_home"
    cp "${CARGO_HOME:-$HOME/.cargo}"/config.toml "$root$cargo_home" 2>/dev/null || true
    chown -R "$user:$user" "$root/home/user"
}
timed "debootstrap trixie" make_root
printf '%s\n' "${times[@]}"

unshare --mount --pid --fork --kill-child \
    bash scripts/fresh.sh --inside "$root" "$toolchain" "${people[@]}" &
child=$!
wait "$child"
child=""
