#!/usr/bin/env bash
# Runs a conversation of three netcat users on a server and prints what each of them received:
#   scripts/demo.sh [path of the chatty binary]
# Needs nc. Each step waits for the lines it depends on, so the conversation is always the same.
set -euo pipefail
cd "$(dirname "$0")/.."

chatty=${1:-}
if [ -z "$chatty" ]; then
    cargo build --quiet
    chatty=target/debug/chatty
fi
command -v nc >/dev/null || { echo "this needs nc: apt-get install netcat-openbsd" >&2; exit 1; }

dir=$(mktemp -d)
cleanup() {
    # shellcheck disable=SC2046 # a list of jobs
    kill $(jobs -p) 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT

"$chatty" serve --port 0 --ephemeral 2>"$dir/server" &
server=$!
until grep -q listening "$dir/server" 2>/dev/null; do
    kill -0 $server || { cat "$dir/server" >&2; exit 1; }
    sleep 0.05
done
port=$(sed -n 's/^listening on 127\.0\.0\.1:\([0-9]*\).*/\1/p' "$dir/server")
echo "\$ chatty serve --port 0"
cat "$dir/server"

# Starts a netcat, whose input is a pipe that this script holds open.
declare -A pipe
enter() {
    mkfifo "$dir/$1.in"
    nc 127.0.0.1 "$port" <"$dir/$1.in" >"$dir/$1.out" &
    exec {fd}>"$dir/$1.in"
    pipe[$1]=$fd
    say "$1" "$1"
    saw "$1" "[USERS #lobby"
}
say() { # USER LINE
    printf '%s\n' "$2" >&"${pipe[$1]}"
}
saw() { # USER TEXT: waits until USER has received TEXT
    for _ in $(seq 200); do
        grep -qF -- "$2" "$dir/$1.out" && return
        sleep 0.05
    done
    echo "timeout: $1 has not received: $2" >&2
    exit 1
}

enter alice
enter bob
saw alice "* bob joined"
enter carol
saw bob "* carol joined"

say alice "hi all"
saw carol "alice: hi all"
say bob "/me waves"
saw carol "** bob waves"
say carol "/msg bob is the deploy done?"
saw bob "[PRIVATE MESSAGE] carol: is the deploy done?"
say bob "/reply nearly"
saw carol "[PRIVATE MESSAGE] bob: nearly"
say bob "/join ops"
saw bob "[USERS #ops 1] bob"
say alice "/join ops"
saw bob "#ops * alice joined"
say bob "/topic release at noon"
saw alice "#ops * bob set the topic: release at noon"
say alice "looks good"
saw bob "#ops alice: looks good"
say carol "/msg zed psst"
saw carol "[ERROR no-such-user]"
say carol "/who"
saw carol "[USERS #lobby 3] alice,bob,carol"
say alice "/nick al"
saw carol "* alice is now al"
say bob "/quit good night"
saw carol "* bob quit (good night)"
say carol "/quit"
saw carol "[BYE quit]"
say alice "/quit"
saw alice "[BYE quit]"

for who in alice bob carol; do
    printf '\n── received by %s: nc localhost %s ──\n' "$who" "$port"
    cat "$dir/$who.out"
done
kill $server
wait $server
