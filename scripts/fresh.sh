#!/usr/bin/env bash
# Runs README.md's own commands on a fresh Debian 13:
#   scripts/fresh.sh [--keep] [user|root]
# Makes a minimal system in a folder, provides the Rust toolchain and the downloaded crates of this
# machine in it, and installs only the packages that README.md names. Then it installs chatty, runs
# the server and runs every test as README.md says:
# - as a normal user, whose umask is 077, whose path contains a blank and who has no terminal, no
#   locale and no /etc/hosts. Tests whose program is missing are skipped.
# - as root, with CI set: scripts/test.sh installs the missing programs, and no test may be skipped
#   for want of one. What the user has built is used again.
# With `user` or `root` it runs one of the two. --keep keeps the folder.
#
# Needs root and debootstrap. Uses the Debian mirror that apt is configured for, else debootstrap's
# default. The folder is in $TMPDIR or /var/tmp and takes some gigabytes; everything takes a quarter of
# an hour on two cores. Mounts are made in a namespace of their own, which ends with this script.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "fresh.sh: $*" >&2
    exit 1
}

# readme START: the first line of README.md that starts so, without its comment.
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

# timed WHAT COMMAND...
timed() {
    local what=$1 start=$SECONDS
    shift
    echo "== $what"
    "$@"
    times+=("$((SECONDS - start)) s: $what")
}

# run WHO SCRIPT: in the folder of the source, with nothing of this machine's environment.
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

# Starts the server as README.md says, stops it when it listens, and expects an orderly end.
# shellcheck disable=SC2016 # for the shell inside
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

# Everything that needs mounts: scripts/fresh.sh --inside ROOT TOOLCHAIN WHO...
if [ "${1:-}" = --inside ]; then
    root=$2 toolchain=$3
    shift 3
    # As the root of a system is: "ip netns exec" relies on it.
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
    *) fail "no such option: $argument; it is scripts/fresh.sh [--keep] [user|root]" ;;
    esac
done
[ "$(id -u)" = 0 ] || fail "this needs root, for a root file system and mounts"
for program in debootstrap unshare setsid tar cargo rustc; do
    command -v "$program" >/dev/null || fail "this needs $program"
done
toolchain=$(realpath "$(rustc --print sysroot)")
if [ "$toolchain" = /usr ] || ! [ -x "$toolchain/bin/cargo" ]; then
    fail "this needs a toolchain in a folder of its own, as rustup installs it; not $toolchain"
fi
# Nothing is downloaded inside but packages.
for manifest in Cargo.toml fuzz/Cargo.toml; do
    cargo fetch --locked --quiet --manifest-path "$manifest"
done
# shellcheck disable=SC2016 # apt's variable
mirror=$(apt-get indextargets --format '$(REPO_URI)' "Created-By: Packages" "Origin: Debian" \
    "Label: Debian" 2>/dev/null | head -1) || mirror=""

root=$(mktemp -d -p "${TMPDIR:-/var/tmp}" chatty-fresh.XXXXXX)
child=""
finish() {
    # With its first process the namespaces end, and so do all other processes and the mounts.
    [ -z "$child" ] || kill "$child" 2>/dev/null || true
    if [ -n "$keep" ]; then
        echo "kept: $root"
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
    # apt asks no questions.
    echo 'APT::Get::Assume-Yes "true";' >"$root/etc/apt/apt.conf.d/90fresh"
    mkdir -p "$root/opt/rust" "$root$source" "$root$cargo_home"
    chroot "$root" useradd --uid "$user" --home-dir /home/user user
    tar -c --exclude=./target --exclude=./fuzz/target --exclude=./.git . | tar -x -C "$root$source"
    # With the crates, the settings that say where they are from.
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
